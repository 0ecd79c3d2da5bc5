"""Turn Python values into JSON text that ``jsonb`` keeps, and back into what was declared.

Every argument, result and event passes through here. A value is stored only if it is certain
to come back: what JSON or ``jsonb`` would lose or refuse is refused at once, by its path. The
caller goes on with the value as *loaded*, live as well as on replay, so both see the same.

Reads: annotations and values; model/jsonb.py (what JSON can carry), model/places.py (paths).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Never, NoReturn, final, get_type_hints

import msgspec

from rowlock.errors import ConfigurationError, InvalidValue, MisplacedCall
from rowlock.model import jsonb, places

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The longest JSON text of one value. Larger things belong in a file or table of their own."""

MAX_DEPTH = 200
"""How deep lists and objects may be nested. Python's own limit is higher, but shifts with its
version and with the depth of the stack: what one process stores, another could fail to load."""

_NO_DECODER = (
    "Use plain types, a dataclass, a NamedTuple, a TypedDict, an Enum or a msgspec.Struct; for a "
    "union of classes, msgspec.Structs with a tag. Or declare Any and get plain JSON back."
)

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode


@final
class Shape:
    """How the values of one annotation are stored and loaded; made once, used for every step.

    ``what`` names the value in errors ("the result of step charge"), ``path`` its place within
    that. Without an annotation pass ``Any``: then dicts, lists, numbers and text come back.

    Values are checked by what they become: ``"x"`` does not load as ``int`` and is refused, 3 is
    good for ``float``, and a UUID returned from ``-> str`` is delivered as text.

    Raises ConfigurationError for annotations that no JSON can be turned back into.
    """

    __slots__ = (
        "_decode",
        "_natural",
        "_shows_floats",
        "_shows_order",
        "_takes_none",
        "path",
        "what",
    )

    def __init__(self, annotation: Any, what: str, path: str = "") -> None:
        self.what = what
        self.path = path
        if annotation is Never or annotation is NoReturn:  # a workflow that loops for ever
            annotation = Any
        try:
            kinds = jsonb.kinds_within(annotation)
            self._decode = jsonb.decoder(annotation)
        except Exception as error:
            raise ConfigurationError(
                f"{places.join(what, path)} is declared as {annotation!r}, which can't be loaded "
                f"from JSON: {error}. {_NO_DECODER}"
            ) from error
        self._shows_order = any(map(jsonb.shows_order, kinds))
        self._shows_floats = any(map(jsonb.shows_floats, kinds))
        self._natural = all(map(jsonb.is_natural, kinds))
        self._takes_none = self._loads_null()

    def store(self, value: Any) -> str:
        """Return the JSON text of ``value``; raises InvalidValue if it would not come back."""
        return self.store_and_load(value)[0]

    def store_and_load(self, value: Any) -> tuple[str, Any]:
        """Return the JSON text and the value as any later load of it gives it back.

        Raises InvalidValue with the path of what can't be stored or is not as declared.
        """
        if value is None and self._takes_none:
            return "null", None
        try:
            raw = jsonb.encode_sorted(value) if self._shows_order else jsonb.encode(value)
        except Exception as error:
            raise self._unwritable(value, error) from error
        if self._shows_floats:
            raw = jsonb.settle_floats(raw)
        if len(raw) > MAX_VALUE_BYTES:
            raise self._too_large(len(raw))
        if jsonb.is_deeper_than(MAX_DEPTH, raw):
            raise self._too_deep()
        if jsonb.holds_nul(raw):
            raise self._nul(value)
        try:
            loaded = self._decode(raw)
        except Exception as error:
            self._refuse_losses(value)
            raise self._unfit(error) from error
        if not self._is_whole(raw, value, loaded):
            self._refuse_losses(value)
        return raw.decode(), loaded

    def load(self, text: str | bytes) -> Any:
        """Return the value of JSON text; raises InvalidValue if it is not as declared.

        Dicts have their keys in alphabetical order, whatever order the text has.
        """
        try:
            return self._decode(jsonb.sort_keys(text) if self._shows_order else text)
        except Exception as error:
            raise self._unfit(error) from error

    def _is_whole(self, raw: bytes, value: Any, loaded: Any) -> bool:
        if self._natural:
            # A class's own __eq__ is no proof, but loaded has only plain data to compare with.
            return _same(loaded, value) or jsonb.is_surely_whole(raw, value)
        if self._shows_order or b"null" in raw:
            return jsonb.is_surely_whole(raw, value)
        return True

    def _loads_null(self) -> bool:
        try:
            return self._decode(b"null") is None
        except Exception:  # whatever a custom type's own validation raises
            return False

    # --- refusals

    def _refused(self, path: str, why: str, hint: str = "") -> InvalidValue:
        return InvalidValue(self.what, places.join(self.path, path), why, hint)

    def _unwritable(self, value: Any, error: Exception) -> InvalidValue:
        if isinstance(error, RecursionError):
            return self._too_deep()
        path, culprit = places.locate(value, _cannot_be_written)
        if inspect.iscoroutine(culprit):
            culprit.close()  # this error says it; a "never awaited" warning would say it again
            return self._refused(path, "it is a coroutine.", "Is an `await` missing?")
        if isinstance(error, UnicodeEncodeError):
            why = "the text holds half of a surrogate pair, which is not valid Unicode."
            return self._refused(path, why, "Decode the bytes it came from with errors='replace'.")
        return self._refused(path, f"{_reason(culprit, error)}.", "Return plain data instead.")

    def _too_large(self, size: int) -> InvalidValue:
        return self._refused(
            "",
            f"its JSON text has {size} bytes, the limit is {MAX_VALUE_BYTES}.",
            "Store the data elsewhere and pass on where it is.",
        )

    def _too_deep(self) -> InvalidValue:
        why = f"it is nested more than {MAX_DEPTH} levels deep, or contains itself."
        return self._refused("", why, "Make it flatter, such as a list with references.")

    def _nul(self, value: Any) -> InvalidValue:
        path, _ = places.locate(value, _holds_nul)
        return self._refused(path, "the text holds a NUL character, which PostgreSQL can't keep.")

    def _refuse_losses(self, value: Any) -> None:
        for path, why in places.losses(value):
            raise self._refused(path, why)

    def _unfit(self, error: Exception) -> InvalidValue:
        if isinstance(error, RecursionError):
            return self._refused("", "it is nested too deeply.")
        path, why = places.split_msgspec_error(error)
        return self._refused(path, f"{why}.", "The value must be as its annotation declares.")


@final
class Inputs:
    """The arguments of a workflow function, stored as one JSON object by parameter name.

    By name, so that SQL and other languages can write it and a person can read it.
    """

    __slots__ = ("_defaults", "_name", "_shapes", "_signature")

    def __init__(self, name: str, signature: inspect.Signature, hints: dict[str, Any]) -> None:
        self._name = name
        self._signature = signature
        self._defaults: dict[str, str] = {}
        self._shapes = {
            parameter: Shape(hints.get(parameter, Any), f"the input of {name}", parameter)
            for parameter in signature.parameters
        }
        for parameter in signature.parameters.values():
            self._adopt(parameter)

    @classmethod
    def of(cls, function: Callable[..., Any], skip_first: bool = False) -> Inputs:
        """Read a function's signature; ``skip_first`` leaves out its first parameter.

        Raises ConfigurationError for ``*args``, ``**kwargs``, positional-only parameters,
        annotations that can't be resolved or loaded, and defaults that can't be stored.
        """
        signature = inspect.signature(function)
        if skip_first:
            parameters = list(signature.parameters.values())[1:]
            signature = signature.replace(parameters=parameters)
        name = getattr(function, "__qualname__", repr(function))
        return cls(name, signature, hints_of(function))

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the JSON object for a call; raises MisplacedCall if the call is wrong.

        Defaults are stored as if they had been passed: a default that a later version changes
        must not change a run that has begun.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise MisplacedCall(
                f"{self._name}{self._signature} can't be called like this: {error}."
            ) from error
        bound.apply_defaults()
        members = [
            f"{jsonb.encode(name).decode()}:{self._shapes[name].store(value)}"
            for name, value in bound.arguments.items()
        ]
        text = "{" + ",".join(members) + "}"
        if (size := len(text.encode())) > MAX_VALUE_BYTES:
            why = f"its JSON text has {size} bytes, the limit is {MAX_VALUE_BYTES}."
            raise self._refused("", why)
        return text

    def load(self, text: str | bytes | None) -> dict[str, Any]:
        """Return the keyword arguments that JSON text holds; nothing and ``null`` mean ``{}``.

        A missing argument takes the parameter's default, for callers in SQL and for runs begun
        before the parameter existed. Raises InvalidValue for other missing or unknown names.
        """
        try:
            found = _decode_members(text) if text is not None else None
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._refused("", f"it is not a JSON object: {error}.") from error
        found = found or {}
        for name in found:
            if name not in self._shapes:
                raise self._refused(name, "there is no such parameter.")
        return {name: self._load_one(name, found.get(name)) for name in self._shapes}

    def _load_one(self, name: str, raw: msgspec.Raw | None) -> Any:
        if raw is not None:
            return self._shapes[name].load(bytes(raw))
        if name not in self._defaults:
            raise self._refused(name, "it is missing and has no default.")
        return self._shapes[name].load(self._defaults[name])  # a fresh copy for every run

    def _adopt(self, parameter: inspect.Parameter) -> None:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigurationError(
                f"parameter {str(parameter)!r} of {self._name} has no name in a JSON object: a "
                "workflow's input is stored by parameter name, so *args, **kwargs and "
                "positional-only parameters can't be used. Name each parameter, or take a list "
                "or dict."
            )
        if parameter.default is parameter.empty:
            return
        try:
            default = self._shapes[parameter.name].store(parameter.default)
            self._defaults[parameter.name] = default
        except InvalidValue as error:
            raise ConfigurationError(
                f"the default of parameter {str(parameter)!r} of {self._name} does not fit its "
                f"annotation: {error} If None is meant, add `| None` to the annotation."
            ) from error

    def _refused(self, path: str, why: str) -> InvalidValue:
        names = ", ".join(self._shapes) or "none"
        return InvalidValue(f"the input of {self._name}", path, why, f"Expected names: {names}.")


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's resolved annotations; ``"return"`` is its result's, if it has one.

    Raises ConfigurationError if an annotation names something that does not exist at run time.
    """
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(
            f"the annotations of {name} can't be resolved: {error}. They are needed at run time, "
            "to load what was stored: import their types outside `if TYPE_CHECKING:` and define "
            "them at module level."
        ) from error


def _same(loaded: Any, given: Any) -> bool:
    try:
        return bool(loaded == given)
    except Exception:  # a foreign __eq__ may do what it likes
        return False


def _cannot_be_written(value: Any) -> bool:
    try:
        jsonb.encode(value)
    except Exception:
        return True
    return False


def _holds_nul(value: Any) -> bool:
    return jsonb.holds_nul(jsonb.encode(value))


def _reason(culprit: Any, otherwise: Exception) -> str:
    if isinstance(culprit, dict):  # its values were found to be good
        return "one of its keys can't be a key in JSON, which are text"
    try:
        jsonb.encode(culprit)
    except Exception as error:
        return str(error)
    return str(otherwise)
