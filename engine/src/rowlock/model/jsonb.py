"""What JSON text can carry, and what PostgreSQL's ``jsonb`` makes of it.

``jsonb`` gives back an equal document, but not the same text, and a replay must not be able to
tell (tests/store proves this part on a real server):

* it orders the keys of an object by length: a replay would loop over a dict in another order
  than the live run did. So wherever a dict can show it, keys are loaded in alphabetical order;
* it prints ``1e20`` as ``100000000000000000000``, which would load as an int. So such a float
  is written as ``100000000000000000000.0``, which it leaves alone;
* ``-0.0`` becomes ``0.0``, so it is written as that;
* it refuses ``\\u0000``; and JSON itself has neither NaN nor infinity.

Source: https://www.postgresql.org/docs/current/datatype-json.html

Reads: annotations and values.  Writes: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import PurePath
from typing import Any, get_args, get_origin

import msgspec
from msgspec import inspect as kinds

from rowlock.model import places
from rowlock.model.secret import HIDDEN, REVEALED, Secret, mentions_secret

_STARS = b'"**********"'
_LOST = (
    "pydantic writes its SecretStr as stars, so the value would be lost; declare it as "
    "rowlock.Secret[str]"
)

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Two quick searches that may be wrong inside text, and the exact one that steps over text.
_maybe_exponent = re.compile(rb"e[1-9]").search
_maybe_negative_zero = re.compile(rb"-0\.0").search
_TEXT_OR_FLOAT = re.compile(rb'"(?:[^"\\]+|\\.)*"|-?[0-9.]+e[0-9]+|-0\.0(?![0-9e])')

_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_NATURAL = (
    kinds.AnyType,
    kinds.NoneType,
    kinds.BoolType,
    kinds.IntType,
    kinds.FloatType,
    kinds.StrType,
    kinds.ListType,
    kinds.DictType,
    kinds.TypedDictType,
    kinds.UnionType,
)
_SHOWS_FLOATS = (kinds.AnyType, kinds.FloatType, kinds.CustomType)
_SHOWS_ORDER = (kinds.AnyType, kinds.DictType, kinds.TypedDictType, kinds.CustomType)
_PLAIN_METHODS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)

load_plain = msgspec.json.Decoder().decode
"""JSON text as dicts, lists, text, numbers, booleans and None."""


def holds_nul(raw: bytes) -> bool:
    """Whether JSON text holds an escaped NUL; a backslash before ``u0000`` may be text itself."""
    return b"\\" in raw and _NUL.search(raw) is not None


def is_deeper_than(limit: int, raw: bytes) -> bool:
    """Whether lists and objects are nested more than ``limit`` levels deep.

    Without recursion, and quick: text is cut out, the innermost pairs of brackets are taken
    away ``limit`` times, and then something is left, or not.
    """
    if len(raw) <= 2 * limit or raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    unescaped = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(_TO_SQUARE, _ALL_BUT_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def settle_floats(raw: bytes) -> bytes:
    """Return JSON text in which ``jsonb`` will leave every float a float."""
    if _maybe_exponent(raw) or _maybe_negative_zero(raw):
        return _TEXT_OR_FLOAT.sub(_settled, raw)
    return raw


def _settled(found: re.Match[bytes]) -> bytes:
    text = found[0]
    if text.startswith(b'"'):
        return text
    return b"0.0" if text == b"-0.0" else f"{Decimal(text.decode()):f}.0".encode()


def sort_keys(text: str | bytes) -> bytes:
    """Return JSON text with the keys of all objects in alphabetical order."""
    return _encode_sorted(load_plain(text))


def encode_sorted(value: Any) -> bytes:
    """Return the JSON text of a value with the keys of all objects in alphabetical order."""
    try:
        return _encode_sorted(value)
    except TypeError:  # a key that is no str, a set of this and that; or hopeless
        return sort_keys(encode(value))


def is_surely_whole(raw: bytes, value: Any) -> bool:
    """Whether text holds all that the value holds: no NaN became null, no keys fell together.

    Quick, and on the safe side: False only says that it is worth a closer look.
    """
    try:
        return bool(load_plain(raw) == msgspec.to_builtins(value, enc_hook=_write_custom))
    except Exception:
        return False


# --- annotations


def kinds_within(annotation: Any) -> list[kinds.Type]:
    """Return all that an annotation is made of; raises TypeError for what JSON can't become."""
    found: dict[int, kinds.Type] = {}
    open_ends: list[Any] = [kinds.type_info(annotation)]
    while open_ends:
        kind = open_ends.pop()
        if isinstance(kind, kinds.Type):
            if id(kind) in found:  # a class that contains itself
                continue
            _check_known(kind)
            found[id(kind)] = kind
        open_ends.extend(_inner(kind))
    return list(found.values())


def is_natural(kind: kinds.Type) -> bool:
    """Whether loading gives what JSON itself has: then equality proves that nothing was lost."""
    if isinstance(kind, kinds.DictType):
        return isinstance(kind.key_type, kinds.AnyType | kinds.StrType)
    return isinstance(kind, _NATURAL)


def shows_order(kind: kinds.Type) -> bool:
    """Whether the order of an object's keys can be seen in the loaded value."""
    return isinstance(kind, _SHOWS_ORDER)


def shows_floats(kind: kinds.Type) -> bool:
    """Whether it can be seen in the loaded value how a float was written."""
    return isinstance(kind, _SHOWS_FLOATS)


def holds_secrets(kind: kinds.Type) -> bool:
    """Whether what is loaded may hold a Secret."""
    return isinstance(kind, kinds.CustomType) and mentions_secret(kind.cls)


def _inner(kind: Any) -> Iterator[Any]:
    if isinstance(kind, kinds.Type | kinds.Field):
        for name in kind.__struct_fields__:
            value = getattr(kind, name)
            yield from value if isinstance(value, tuple) else (value,)


def _check_known(kind: kinds.Type) -> None:
    if isinstance(kind, kinds.RawType):
        raise TypeError("`msgspec.Raw` is the exact text, which jsonb does not keep")
    if not isinstance(kind, kinds.CustomType) or kind.cls is object or _is_pydantic(kind.cls):
        return
    if not issubclass(kind.cls, PurePath | Secret):
        raise TypeError(f"nothing says how a `{kind.cls.__qualname__}` is made from JSON")


# --- what msgspec leaves to us


def _is_pydantic(kind: type) -> bool:
    return hasattr(kind, "model_dump") and hasattr(kind, "model_validate_json")


def _masks_itself(value: Any) -> bool:
    return hasattr(value, "get_secret_value")


def _write_custom(value: Any, context: object = HIDDEN) -> Any:
    """Paths, subclasses of plain types, pydantic's models; known by their methods, not imported."""
    if isinstance(value, PurePath):
        return str(value)
    for plain, method in _PLAIN_METHODS:
        if isinstance(value, plain):
            return method(value)
    kind = type(value)
    if _is_pydantic(kind):
        plain = value.model_dump(mode="json", by_alias=True, round_trip=True, context=context)
        if _STARS in encode(plain) and next(places.holders(value, _masks_itself), None) is not None:
            raise TypeError(_LOST)
        return plain
    if _masks_itself(value):
        raise TypeError(_LOST)
    raise TypeError(f"objects of type `{kind.__module__}.{kind.__qualname__}` have no form in JSON")


def _write_revealed(value: Any) -> Any:
    """The same with Secrets, for text that only a codec will see."""
    if not isinstance(value, Secret):
        return _write_custom(value, REVEALED)
    try:
        return msgspec.Raw(_encode_revealed(value.reveal()))
    except Exception as error:
        why = type(error).__name__
    # Not inside the except clause: what encodes a text may carry all of it in its error.
    raise TypeError(f"the value of the Secret has no form in JSON ({why})")


def _load_custom(kind: type, plain: Any) -> Any:
    if kind is object:
        return plain
    if get_origin(kind) is Secret or kind is Secret:
        return _load_secret(kind, plain)
    if issubclass(kind, PurePath):
        if not isinstance(plain, str):
            raise ValueError(f"Expected `{kind.__name__}` as text, got `{type(plain).__name__}`")
        return kind(plain)
    if not _is_pydantic(kind):
        raise TypeError(f"nothing says how a `{kind.__qualname__}` is made from JSON")
    try:
        return kind.model_validate_json(encode(plain))  # type: ignore[attr-defined]
    except ValueError as error:
        if not hasattr(error, "errors"):
            raise
        why = _pydantic_reasons(error)
    raise ValueError(why)


def _load_secret(kind: Any, plain: Any) -> Secret[Any]:
    declared = get_args(kind)[0] if get_args(kind) else Any
    try:
        return Secret(msgspec.convert(plain, declared, dec_hook=_load_custom, str_keys=True))
    except Exception:  # noqa: S110 - an error of the value inside could tell it
        pass
    raise ValueError(f"the value of the Secret is not as `{kind}` declares")


def _pydantic_reasons(error: Any) -> str:
    """What pydantic found wrong, in one line and without the value, which it would quote."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    reasons = [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found[:5]]
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{'; '.join(reasons)}{more}"


encode = msgspec.json.Encoder(enc_hook=_write_custom).encode
_encode_revealed = msgspec.json.Encoder(enc_hook=_write_revealed).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=_write_custom, order="sorted").encode


def encode_revealed(value: Any) -> bytes:
    """Return the JSON text of a value with its Secrets, keys in alphabetical order."""
    return sort_keys(_encode_revealed(value))


def decoder(annotation: Any) -> Callable[[str | bytes], Any]:
    """Return the function that loads JSON text as ``annotation``."""
    return msgspec.json.Decoder(annotation, dec_hook=_load_custom).decode
