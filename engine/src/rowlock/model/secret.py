"""A value that is never printed: ``Secret[str]`` in an annotation, ``Secret("…")`` in code.

Whatever shows it (repr, str, format, a log, an error, a traceback with its locals) shows
``Secret(***)``. It is stored only where a codec hides it; see model/values.py.

Reads and writes: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Generic, NoReturn, TypeVar, final, get_args, get_origin

T_co = TypeVar("T_co", covariant=True)

MASK = "Secret(***)"

REVEALED = object()
"""The context of a pydantic dump that stores: in any other a Secret is written as its mask."""

HIDDEN = object()
"""The context of a pydantic dump that must not meet a Secret."""


@final
class Secret(Generic[T_co]):
    """Holds a value that must not be seen; :meth:`reveal` gives it. Equal if its values are."""

    __slots__ = ("_value",)

    def __init__(self, value: T_co) -> None:
        self._value = value

    def reveal(self) -> T_co:
        """The value itself; from here on it is yours to keep."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return bool(self._value == other._value) if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret[T_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret[T_co]:
        return Secret(deepcopy(self._value, memo))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled: the value would stand there for all to read")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """How pydantic's models hold one. A core schema is plain data, so none of it is imported.

        Source: https://docs.pydantic.dev/latest/concepts/types/#customizing-validation-with-__get_pydantic_core_schema__
        """
        (declared,) = get_args(source) or (Any,)
        return {
            "type": "function-wrap",
            "function": {"type": "no-info", "function": _validated},
            "schema": handler.generate_schema(declared),
            "serialization": {
                "type": "function-wrap",
                "function": _dumped,
                "info_arg": True,
            },
        }


def mentions_secret(annotation: Any, seen: set[int] | None = None) -> bool:
    """Whether an annotation names Secret, in its own text or in a pydantic model's fields."""
    seen = set() if seen is None else seen
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    origin = get_origin(annotation) or annotation
    if origin is Secret:
        return True
    fields = getattr(origin, "model_fields", None)
    inner = list(get_args(annotation))
    if isinstance(origin, type) and isinstance(fields, dict):
        inner += [field.annotation for field in fields.values()]
    return any(mentions_secret(part, seen) for part in inner)


def _validated(value: Any, validate: Callable[[Any], Any]) -> Secret[Any]:
    return Secret(validate(value.reveal() if isinstance(value, Secret) else value))


def _dumped(value: Any, serialize: Callable[[Any], Any], info: Any) -> Any:
    if not isinstance(value, Secret):
        return serialize(value)
    if info.context is REVEALED:
        return serialize(value.reveal())
    if info.context is HIDDEN:
        raise TypeError("a field of it is a Secret")
    return value if info.mode == "python" else MASK
