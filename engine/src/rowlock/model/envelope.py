"""The envelope around a value that went through a codec.

    {"$codec": "aesgcm:2026-01", "payload": "<base64>"}     what a codec wrote
    {"$codec": "zlib+aesgcm:2026-01", "payload": "…"}       compressed, then encrypted
    {"$codec": "none", "payload": {…}}                      a plain object that looks like that

Each value names its codecs, so old ones stay readable after a change of key or codec; and plain
JSON stays readable by all, so a codec can be added to an app that has runs. ``$codec`` is shorter
than ``payload``: ``jsonb`` prints it first, and a look at the first bytes tells most values apart.

Reads: codecs, as they are given to the App.  Writes: nothing.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, final

import msgspec

from rowlock.errors import ConfigurationError

PLAIN = "none"
_NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,100}")
_THEN = "+"

MAYBE_WRITTEN = (b'{"$codec":', b'{"payload":')
"""How our encoder begins an object of these two keys, whose order may be that of a class."""


SEALED = frozenset({'{"$codec"', b'{"$codec"'})
"""How stored text begins that may be an envelope. A method call would take twice the time."""

SAMPLES = (
    b'{"$codec":"zlib","payload":"' + b"A" * 100 + b'"}',
    b'{"$codec":"none","payload":{"$codec":"zlib","payload":""}}',
)
"""A type that loads one of these takes envelopes for values of its own."""


class Codec(Protocol):
    """Turns the JSON text of a value into bytes, and back.

    ``name`` is stored with each value that it encoded: letters, digits and ``. _ : @ / -``. A codec
    that needs another key, or writes in another way, takes another name. It is called on the
    worker's event loop and in threads: quick, local, without state. To return ``data`` itself means
    that it is better left alone; then it is not named.

    A codec without whose key nobody can read the value says so with ``hides = True``: only then are
    values that hold a :class:`rowlock.Secret` stored.
    """

    @property
    def name(self) -> str: ...
    def encode(self, data: bytes, /) -> bytes: ...
    def decode(self, data: bytes, /) -> bytes: ...


@final
class Chain:
    """Codecs that write one after the other, such as ``Chain(Zlib(), AesGcm(…))``.

    Each may be a list: its first one writes, all read.
    """

    def __init__(self, *stages: Codec | Sequence[Codec]) -> None:
        self.stages = tuple(_listed(stage) for stage in stages)
        if not self.stages or not all(self.stages):
            raise ConfigurationError("a Chain needs a codec at each of its stages; one is empty")

    def __repr__(self) -> str:
        return f"Chain({', '.join(str(stage[0].name) for stage in self.stages)})"


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    codec: str = msgspec.field(name="$codec")
    payload: msgspec.Raw


_open_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode_text = msgspec.json.Encoder().encode


class Unreadable(Exception):
    """An envelope can't be opened; why, what to do, and the name that it bears."""

    def __init__(self, codec: str, why: str, hint: str) -> None:
        self.codec = codec
        self.why = why
        self.hint = hint
        super().__init__(f"{why} {hint}")


class Unwritable(Exception):
    """A codec failed, or does not give back what it was given."""


@final
class Codecs:
    """The codecs of one app: the stages that write, and all that can read, by name."""

    __slots__ = ("_by_name", "_writers", "hides")

    def __init__(self, given: Codec | Chain | Sequence[Codec | Chain]) -> None:
        chains = [
            one if isinstance(one, Chain) else Chain(one)
            for one in (given if isinstance(given, Sequence) else (given,))
        ]
        if not chains:
            raise ConfigurationError("codec=[] names no codec; leave it out, or give one")
        self._writers = tuple(stage[0] for stage in chains[0].stages)
        self._by_name: dict[str, Codec] = {}
        for chain in chains:
            for stage in chain.stages:
                for codec in stage:
                    self._adopt(codec)
        self.hides = any(getattr(codec, "hides", False) is True for codec in self._writers)
        """Whether nobody can read what is written without a key."""

    @classmethod
    def of(cls, given: Codec | Chain | Sequence[Codec | Chain] | None) -> Codecs | None:
        """What ``codec=`` was given, checked; None for none."""
        return None if given is None else cls(given)

    def __repr__(self) -> str:
        return f"<codecs {', '.join(self._by_name)}>"

    @classmethod
    def later(cls) -> Codecs:
        """Stands for codecs that are not known yet: encodes nothing, and trusts that they hide."""
        unknown = cls.__new__(cls)
        unknown._writers, unknown._by_name, unknown.hides = (), {}, True
        return unknown

    def seal(self, text: str) -> str:
        """Return stored text encoded; raises Unwritable if it could not be opened again."""
        raw = data = text.encode()
        used: list[str] = []
        for codec in self._writers:
            encoded = _called(codec.encode, data)
            if isinstance(encoded, str):
                raise Unwritable(f"codec {codec.name} failed ({encoded}).")
            if encoded != data:
                used.append(codec.name)
                data = encoded
        if not used:
            return text
        names = _THEN.join(used)
        try:
            whole = self.decode(names, data) == raw
        except Unreadable:
            whole = False
        if not whole:
            raise Unwritable(f"codec {names} does not give back what it was given.")
        payload = binascii.b2a_base64(data, newline=False).decode()
        return f'{{"$codec":"{names}","payload":"{payload}"}}'

    def decode(self, names: str, data: bytes) -> bytes:
        """Return the JSON text that the named codecs have encoded; raises Unreadable."""
        for name in reversed(names.split(_THEN)):
            codec = self._by_name.get(name)
            if codec is None:
                raise _unknown(name, self._by_name)
            decoded = _called(codec.decode, data)
            if isinstance(decoded, str):
                raise Unreadable(
                    name,
                    f"codec {name} can't decode it ({decoded}): the key is not the one that it was "
                    "written with, or what is stored was changed.",
                    f"Give the App (or Client) the {name} that wrote it. {_AFTERWARDS}",
                )
            data = decoded
        return data

    def _adopt(self, codec: Codec) -> None:
        name = getattr(codec, "name", None)
        if not (
            callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))
        ):
            raise ConfigurationError(
                f"{type(codec).__name__} is no codec: it needs a name, encode(bytes) and "
                "decode(bytes), see rowlock.codecs.Codec."
            )
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == PLAIN:
            raise ConfigurationError(
                f"a codec of type {type(codec).__name__} is named {name!r}: use 1 to 100 letters, "
                f"digits and . _ : @ / -, and not {PLAIN!r}, which stands for a plain value."
            )
        if self._by_name.setdefault(name, codec) is not codec:
            raise ConfigurationError(
                f"two codecs are named {name}: a stored value could be of either. Give each key an "
                "id of its own."
            )


_AFTERWARDS = "What was blocked for this goes on with `rowlock resume`."


def sealed(raw: bytes, codecs: Codecs | None) -> str:
    """Return the text to store for JSON text; raises Unwritable."""
    text = _escaped(raw)
    return text if codecs is None else codecs.seal(text)


def _escaped(raw: bytes) -> str:
    """In an envelope of no codec if it looks like an envelope."""
    if raw.startswith(MAYBE_WRITTEN) and _envelope(raw) is not None:
        return f'{{"$codec":"{PLAIN}","payload":{raw.decode()}}}'
    return raw.decode()


def hides(codecs: Codecs | None) -> bool:
    """Whether nobody can read what is stored without a key."""
    return codecs is not None and codecs.hides


def opened(text: str | bytes, codecs: Codecs | None) -> str | bytes:
    """Return the value's own JSON text; raises Unreadable. What is no envelope stays as it is."""
    envelope = _envelope(text)
    if envelope is None:
        return text
    if envelope.codec != PLAIN:
        text = _decoded(envelope, codecs)
        envelope = _envelope(text) if text[:9] in SEALED else None
    if envelope is None or envelope.codec != PLAIN:
        return text
    return bytes(envelope.payload)


def _decoded(envelope: _Envelope, codecs: Codecs | None) -> bytes:
    if codecs is None:
        raise _unknown(envelope.codec.rpartition(_THEN)[2], [])
    try:
        data = binascii.a2b_base64(_decode_text(envelope.payload), strict_mode=True)
    except (msgspec.MsgspecError, ValueError):
        data = None
    if data is None:
        raise Unreadable(
            envelope.codec,
            f"it is an envelope of codec {envelope.codec[:100]!r} without a payload in base64.",
            "Store what a codec of Rowlock has encoded, or plain JSON.",
        )
    return codecs.decode(envelope.codec, data)


def _envelope(text: str | bytes) -> _Envelope | None:
    try:
        return _open_envelope(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def _unknown(name: str, known: Iterable[str]) -> Unreadable:
    shown = name if _NAME.fullmatch(name) else repr(name[:100])
    has = f"this process has {', '.join(known)}" if known else "this process has none"
    return Unreadable(
        shown,
        f"it was encoded by codec {shown}; {has}.",
        "Give the App (or Client) that codec too: of codec=[…, …] the first writes, all read. "
        f"{_AFTERWARDS}",
    )


def _called(function: Callable[[bytes], bytes], data: bytes) -> bytes | str:
    """What a codec gives; or what went wrong, without the error itself, which may hold the data."""
    try:
        result: Any = function(data)
    except Exception as error:
        return type(error).__name__
    return result if isinstance(result, bytes) else f"it gave {type(result).__name__}, not bytes"


def _listed(stage: Codec | Sequence[Codec]) -> tuple[Codec, ...]:
    return tuple(stage) if isinstance(stage, Sequence) else (stage,)
