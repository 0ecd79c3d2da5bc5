"""The arguments of a workflow: one JSON object by parameter name, which anyone may write.

By name, so that SQL and other languages can write it and a person can read it. Each argument goes
through the codecs on its own: the names stay readable.

Reads: signatures, annotations and values.  Writes: nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, final, get_type_hints

import msgspec

from rowlock.errors import ConfigurationError, InvalidValue, MisplacedCall
from rowlock.model import envelope, jsonb, places, values
from rowlock.model.envelope import Codecs
from rowlock.model.secret import Secret
from rowlock.model.values import Shape

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode


@final
class Inputs:
    """What a workflow function takes, and how each argument is stored."""

    __slots__ = ("_defaults", "_name", "_shapes", "_signature")

    def __init__(
        self,
        name: str,
        signature: inspect.Signature,
        hints: dict[str, Any],
        codecs: Codecs | None = None,
    ) -> None:
        self._name = name
        self._signature = signature
        self._defaults: dict[str, str] = {}
        self._shapes = {
            parameter: Shape(hints.get(parameter, Any), f"the input of {name}", parameter, codecs)
            for parameter in signature.parameters
        }
        for parameter in signature.parameters.values():
            self._adopt(parameter)

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        skip_first: bool = False,
        codecs: Codecs | None = None,
    ) -> Inputs:
        """Read a function's signature; ``skip_first`` leaves out its first parameter.

        Raises ConfigurationError for ``*args``, ``**kwargs``, positional-only parameters,
        annotations that can't be resolved or loaded, and defaults that can't be stored.
        """
        signature = inspect.signature(function)
        if skip_first:
            parameters = list(signature.parameters.values())[1:]
            signature = signature.replace(parameters=parameters)
        name = getattr(function, "__qualname__", repr(function))
        return cls(name, signature, hints_of(function), codecs)

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
        stored = {name: self._shapes[name].store(value) for name, value in bound.arguments.items()}
        return _joined(f"the input of {self._name}", stored)

    def bind_some(self, given: Mapping[str, Any], later: str | None) -> str:
        """Return the JSON object of arguments by name; one of them is given later, by others.

        Defaults are left out: each run takes those of the code that runs it. Raises MisplacedCall
        for unknown and missing names, InvalidValue for what does not fit.
        """
        for name in given:
            if name not in self._shapes:
                raise MisplacedCall(f"{self._name}{self._signature} has no parameter {name}.")
        missing = [n for n in self._shapes if n not in {*given, *self._defaults, later}]
        if missing:
            raise MisplacedCall(
                f"{self._name}{self._signature} needs a value for {', '.join(missing)}."
            )
        stored = {name: self._shapes[name].store(value) for name, value in given.items()}
        return _joined(f"the input of {self._name}", stored)

    def takes(self, name: str) -> bool:
        """Whether there is such a parameter."""
        return name in self._shapes

    def check_one(self, name: str, text: str) -> None:
        """Raises InvalidValue if a parameter can't be given this JSON."""
        self._shapes[name].load(text)

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


@final
class Arguments:
    """What is passed to a workflow whose code is not here: ``rowlock.call("fulfil", order=7)``.

    Checked and written when the call is made, encoded when it is known who starts it, and so with
    which codecs. Raises InvalidValue for what can't be stored.
    """

    __slots__ = ("_members", "_secret", "_what")

    def __init__(self, workflow: str, given: Mapping[str, Any]) -> None:
        self._what = f"the input of workflow {workflow}"
        later = Codecs.later()
        self._members = {
            name: Shape(Any, self._what, name, later, outgoing=True).store(value)
            for name, value in given.items()
        }
        held = places.holders(dict(given), lambda part: isinstance(part, Secret))
        self._secret = next(held, None)

    def __repr__(self) -> str:
        return f"<arguments {', '.join(self._members)}>"

    def stored(self, codecs: Codecs | None) -> str:
        """Return the JSON object to store; raises InvalidValue for a Secret that nothing hides."""
        if self._secret is not None and not envelope.hides(codecs):
            raise InvalidValue(self._what, self._secret, values.NOT_HIDDEN, values.NO_CODEC)
        stored = self._members
        if codecs is not None:
            stored = {name: self._sealed(name, text, codecs) for name, text in stored.items()}
        return _joined(self._what, stored)

    def _sealed(self, name: str, text: str, codecs: Codecs) -> str:
        try:
            return codecs.seal(text)
        except envelope.Unwritable as error:
            raise InvalidValue(self._what, name, str(error)) from None


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


def _joined(what: str, stored: Mapping[str, str]) -> str:
    """The JSON object of members that are JSON text; raises InvalidValue when it is too large."""
    members = [f"{jsonb.encode(name).decode()}:{text}" for name, text in stored.items()]
    text = "{" + ",".join(members) + "}"
    if (size := len(text.encode())) > values.MAX_VALUE_BYTES:
        why = f"its JSON text has {size} bytes, the limit is {values.MAX_VALUE_BYTES}."
        raise InvalidValue(what, "", why, "Store the data elsewhere and pass on where it is.")
    return text
