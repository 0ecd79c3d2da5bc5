"""Groups of children (``app.map``): how their results stand in one recorded value.

A JSON list in the order of the calls; each member is ``{"ok": result}`` or ``{"failed": failure}``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import msgspec

from rowlock.errors import InvalidValue
from rowlock.model.failure import ErrorRegistry, Failure
from rowlock.model.values import MAX_VALUE_BYTES, Shape


class _Member(msgspec.Struct):
    ok: msgspec.Raw = msgspec.Raw(b"null")
    failed: Failure | None = None


_decode = msgspec.json.Decoder(list[_Member]).decode


@final
class GroupShape:
    """How the results of a group's children are stored and loaded; stands where a Shape does."""

    __slots__ = ("_errors", "_shapes", "_workflows", "what")

    def __init__(
        self, shapes: tuple[Shape, ...], workflows: tuple[str, ...], errors: ErrorRegistry
    ) -> None:
        self.what = "the results of a group of children"
        self._shapes = shapes
        self._workflows = workflows
        self._errors = errors

    def __len__(self) -> int:
        return len(self._shapes)

    def store(self, members: Iterable[tuple[str | None, str | None]]) -> str:
        """The JSON text of (output, failure) of each child, in their order.

        Raises InvalidValue when it is too long for one value.
        """
        parts = [
            f'{{"ok":{output or "null"}}}' if failure is None else f'{{"failed":{failure}}}'
            for output, failure in members
        ]
        text = f"[{','.join(parts)}]"
        if (size := len(text.encode())) > MAX_VALUE_BYTES:
            why = f"their JSON text has {size} bytes, the limit is {MAX_VALUE_BYTES}."
            hint = "Let the children store their results and give back where they are."
            raise InvalidValue(self.what, "", why, hint)
        return text

    def load(self, text: str | bytes) -> list[Any]:
        """The results, and for those that failed their errors; raises InvalidValue for misfits."""
        try:
            members = _decode(text)
        except msgspec.MsgspecError as error:
            raise InvalidValue(self.what, "", f"it does not load: {error}.") from error
        if len(members) != len(self._shapes):
            why = f"there are {len(members)}, not {len(self._shapes)}."
            raise InvalidValue(self.what, "", why)
        return [
            shape.load(bytes(member.ok))
            if member.failed is None
            else self._errors.rebuild(member.failed, f"workflow {workflow}")
            for member, shape, workflow in zip(members, self._shapes, self._workflows, strict=True)
        ]
