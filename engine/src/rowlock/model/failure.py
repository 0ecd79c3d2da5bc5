"""Record errors as data, and raise them again from it.

A run may go on in another process, or years later, so what was raised can't be kept as it is.
What is kept is a Failure. The live code, too, gets the error rebuilt from it: an ``except``
clause sees the same on replay as it saw the first time.

Data never decides what code runs: only types that were registered are made, by their name;
nothing is imported, evaluated or unpickled.

Reads: exceptions; the standard library looks up source lines for the traceback.
Writes: nothing.
"""

from __future__ import annotations

import builtins
import re
import traceback
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, final
from uuid import UUID

import msgspec

from rowlock import errors
from rowlock.errors import ConfigurationError, InvalidValue, StepFailed

MAX_MESSAGE_CHARS = 8 * 1024
MAX_TRACEBACK_CHARS = 16 * 1024
MAX_FACTS_BYTES = 16 * 1024
"""The arguments, or the attributes, of one exception; beyond that they are not kept."""
MAX_NAME_CHARS = 200
MAX_CAUSES = 5
MAX_MEMBERS = 10
MAX_FAILURES = 40
"""All that one error may hold in causes, members of groups, and their causes."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Straight from the base class: str() of a group would add how many members it has.
_GROUP_MESSAGE = vars(BaseExceptionGroup)["message"].__get__
_GROUP_MEMBERS = vars(BaseExceptionGroup)["exceptions"].__get__
_CAUSED_BY = "\nThe above exception was the cause of the following one:\n\n"


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it is recorded: bounded in size, and all text fit for ``jsonb``."""

    type: str
    """``ValueError`` for a builtin, ``shop.errors.SoldOut`` for others."""
    message: str = ""
    traceback: str = ""
    """As Python prints it, without its causes; of a long one, the head and the tail."""
    args: list[Any] | None = None
    """What the constructor takes, packed (see ``_pack``); None if it can't be kept exactly."""
    state: dict[str, Any] = {}
    """Other attributes, packed, ``__notes__`` among them; only those that can be kept exactly."""
    cause: Failure | None = None
    """``__cause__``, or the ``__context__`` that a traceback would show."""
    sub: list[Failure] = []
    """The first members of an ExceptionGroup."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Record ``error``. Never raises, whatever the exception's own methods do."""
        return _record(error, MAX_CAUSES, iter(range(MAX_FAILURES - 1)))

    def to_json(self) -> str:
        """Return the JSON text of this failure, which ``jsonb`` accepts."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Failure:
        """Return the failure that JSON text holds; raises InvalidValue if it holds none."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InvalidValue("a recorded failure", "", f"it does not load: {error}.") from error


class RecordedTraceback(Exception):
    """The cause of a rebuilt error, so that a printout shows where it was first raised.

    Never raised itself. ``concurrent.futures`` does the same for errors of other processes.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


@final
class ErrorRegistry:
    """The exception types that may be made from recorded data, by name.

    Knows Python's builtin exceptions and Rowlock's own; an app adds its own types.
    """

    def __init__(self, types: Iterable[type[Exception]] = ()) -> None:
        self._types: dict[str, type[Exception]] = {}
        for known in (*vars(builtins).values(), *vars(errors).values()):
            if isinstance(known, type) and issubclass(known, Exception):
                self._types[_name_of(known)] = known
        # Raised inside a coroutine or generator, these two turn into a RuntimeError.
        del self._types["StopIteration"], self._types["StopAsyncIteration"]
        self.register(*types)

    def register(self, *types: type[Exception]) -> None:
        """Let these types be raised again; raises ConfigurationError for what can't be."""
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise ConfigurationError(
                    f"{kind!r} can't be registered as an error: it must be a subclass of "
                    "Exception. Others, such as CancelledError, steer the process itself."
                )
            name = _name_of(kind)
            if self._types.setdefault(name, kind) is not kind:
                raise ConfigurationError(
                    f"two error types are called {name}: a recorded error could be either. "
                    "Define them at module level, or rename one."
                )

    def rebuild(self, failure: Failure, what: str) -> BaseException:
        """Return an exception to raise for ``failure``; ``what`` names the step it ended.

        A type that is not registered, or can't be made, becomes StepFailed. The cause is the
        recorded one; at the end of that chain stands the traceback as it was recorded.
        """
        return self._rebuilt(failure, what, "")

    def _rebuilt(self, failure: Failure, what: str, later: str) -> BaseException:
        error: BaseException | None = None
        kind = self._types.get(failure.type)
        if kind is not None and issubclass(kind, ExceptionGroup):
            error = self._group(kind, failure, what)
        elif kind is not None:
            error = _from_args(kind, failure)
            error = _from_message(kind, failure) if error is None else error
        if error is None:
            error = StepFailed(what, failure.type, failure.message, failure.traceback)
        shown = failure.traceback + (_CAUSED_BY + later if later else "")
        if failure.cause is not None:
            error.__cause__ = self._rebuilt(failure.cause, what, shown)
        elif shown:
            error.__cause__ = RecordedTraceback(shown)
        return error

    def _group(self, kind: type[Exception], failure: Failure, what: str) -> BaseException | None:
        members = [self._rebuilt(member, what, "") for member in failure.sub]
        try:
            error = kind(failure.message, members)
        except Exception:
            return None
        return _with_state(error, failure)


def _from_args(kind: type[Exception], failure: Failure) -> Exception | None:
    """Make it as its author meant it; None if that gives another message."""
    if failure.args is None:
        return None
    try:
        error = kind(*map(_unpack, failure.args))
    except Exception:
        return None
    error = _with_state(error, failure)
    return error if type(error) is kind and _message_of(error) == failure.message else None


def _from_message(kind: type[Exception], failure: Failure) -> Exception | None:
    """Make it past its constructor, for one whose arguments are not known."""
    try:
        error = kind.__new__(kind)
        error.args = (failure.message,)
        str(error := _with_state(error, failure))
    except Exception:
        return None
    return error


def _with_state(error: Exception, failure: Failure) -> Exception:
    for name, value in failure.state.items():
        if name == "__notes__" or not name.startswith("__"):
            try:
                setattr(error, name, _unpack(value))
            except Exception:  # noqa: S112 - a read-only property: its error keeps its own value
                continue
    return error


# --- recording
# A class may override all it likes, so each look at an exception may raise: hence the wide nets.


def _record(error: BaseException, depth: int, room: Iterator[int]) -> Failure:
    def inner(other: BaseException | None) -> Iterator[Failure]:
        if other is not None and depth > 0 and next(room, None) is not None:
            yield _record(other, depth - 1, room)

    args, state = _facts_of(error)
    return Failure(
        type=_name_of(type(error)),
        message=_message_of(error),
        traceback=_traceback_of(error),
        args=None if _is_group(error) else args,
        state=state,
        cause=next(inner(_cause_of(error)), None),
        sub=[failure for member in _members_of(error) for failure in inner(member)],
    )


def _name_of(kind: type[BaseException]) -> str:
    try:
        module, name = kind.__module__, kind.__qualname__
        return _clean(name if module == "builtins" else f"{module}.{name}", MAX_NAME_CHARS)
    except BaseException:
        return "unknown"


def _message_of(error: BaseException) -> str:
    try:
        text = _GROUP_MESSAGE(error) if _is_group(error) else str(error)
        return _clean(text, MAX_MESSAGE_CHARS)
    except BaseException as broken:
        return f"<its message can't be read: {_name_of(type(broken))}>"


def _traceback_of(error: BaseException) -> str:
    # Not by format_exception: it walks all causes and members, for ever if groups hold groups.
    message = _message_of(error)
    last = _name_of(type(error)) + (f": {message}" if message else "")
    try:
        # Without columns: for them the standard library parses the source, and on Python 3.11 that
        # breaks an ast.parse of the user's in another thread (a depth counter is shared).
        lines = [(f.filename, f.lineno or 0, f.name, f.line) for f in _frames_of(error)]
        frames = "".join(traceback.StackSummary.from_list(lines).format())
        head = f"Traceback (most recent call last):\n{frames}" if frames else ""
        if isinstance(cause := error.__cause__, RecordedTraceback):
            head = f"{cause.text.rstrip()}\n\nRaised again from its record:\n\n{head}"
        notes = "".join(f"{note}\n" for note in getattr(error, "__notes__", ()))
        return _clean(f"{head}{last}\n{notes}", MAX_TRACEBACK_CHARS)
    except BaseException:
        return last


def _frames_of(error: BaseException) -> Iterable[traceback.FrameSummary]:
    return traceback.extract_tb(error.__traceback__)


def _cause_of(error: BaseException) -> BaseException | None:
    """What a traceback would show before it; a recorded traceback stands in its own already."""
    try:
        cause = error.__cause__
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
    except BaseException:
        return None
    is_cause = issubclass(type(cause), BaseException) and type(cause) is not RecordedTraceback
    return cause if is_cause else None


def _members_of(error: BaseException) -> list[BaseException]:
    try:
        return list(_GROUP_MEMBERS(error)[:MAX_MEMBERS]) if _is_group(error) else []
    except BaseException:
        return []


def _is_group(error: BaseException) -> bool:
    return issubclass(type(error), BaseExceptionGroup)  # isinstance() asks error.__class__


def _facts_of(error: BaseException) -> tuple[list[Any] | None, dict[str, Any]]:
    """What ``pickle`` would call the constructor with, and the attributes it would set."""
    kept: dict[str, Any] = {}
    try:
        kind, args, *more = tuple[Any, ...](error.__reduce__())
        if kind is not type(error):
            return None, kept
        room = MAX_FACTS_BYTES
        for name, value in (more[0] or {}).items() if more else ():
            packed, size = _pack_measured(value)
            if 0 < size <= room:
                kept[_clean(name, MAX_NAME_CHARS)] = packed
                room -= size
        packed_args, size = _pack_measured(list(args))
        return packed_args if 0 < size <= MAX_FACTS_BYTES else None, kept
    except BaseException:
        return None, kept


def _clean(text: str, limit: int) -> str:
    """Text that ``jsonb`` takes, no longer than ``limit`` and a line that says what is missing."""
    if len(text) > limit:
        left_out = len(text) - limit
        half = limit // 2
        text = f"{text[:half]}\n[... {left_out} characters left out ...]\n{text[-half:]}"
    return _UNSTORABLE.sub("\ufffd", str.__str__(text))


# --- facts
# Packed, a value is plain JSON that comes back exactly: None, bool, int, float, text and lists as
# they are, others as an object with one key that names the type: {"uuid": "..."}.

_BY_TEXT: dict[str, type] = {
    "bytes": bytes,
    "date": date,
    "datetime": datetime,
    "decimal": Decimal,
    "timedelta": timedelta,
    "uuid": UUID,
}
_NAME_BY_TYPE = {kind: name for name, kind in _BY_TEXT.items()}


def _pack_measured(value: Any) -> tuple[Any, int]:
    """Return the packed value and its size in bytes; (None, 0) if it can't be kept exactly."""
    try:
        return (packed := _pack(value)), len(msgspec.json.encode(packed))
    except Exception:
        return None, 0


def _pack(value: Any) -> Any:
    kind = type(value)  # exactly: a subclass would come back as something else
    if value is None or kind in (bool, int):
        return value
    if kind is str:
        return _UNSTORABLE.sub("\ufffd", value)
    if kind is float:  # as text if jsonb would change it: 1e+20, -0.0, nan
        text = repr(value)
        return {"float": text} if "e" in text or "n" in text or text == "-0.0" else value
    if kind is list:
        return [_pack(part) for part in value]
    if kind is tuple:
        return {"tuple": [_pack(part) for part in value]}
    if kind is dict:
        return {"dict": [[_pack(key), _pack(part)] for key, part in value.items()]}
    if name := _NAME_BY_TYPE.get(kind):
        return {name: msgspec.to_builtins(value)}
    raise TypeError(f"{kind!r} can't be kept")


def _unpack(packed: Any) -> Any:
    if isinstance(packed, list):
        return [_unpack(part) for part in packed]
    if not isinstance(packed, dict):
        return packed
    ((name, inner),) = packed.items()
    if name == "float":
        return float(inner)
    if name == "tuple":
        return tuple(_unpack(inner))
    if name == "dict":
        return {_unpack(key): _unpack(part) for key, part in inner}
    return msgspec.convert(inner, _BY_TEXT[name])
