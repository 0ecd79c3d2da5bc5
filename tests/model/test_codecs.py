"""What a codec wrote names it, so it is read years and keys later, or refused with a reason."""

from __future__ import annotations

import base64
import dataclasses
import math
import traceback
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowlock.codecs import AesGcm, Chain, Codec, Zlib, encryption
from rowlock.errors import ConfigurationError, InvalidValue, UnreadableValue
from rowlock.model import values
from rowlock.model.envelope import Codecs
from rowlock.model.inputs import Arguments, Inputs
from rowlock.model.values import Shape

OLD = AesGcm("old", b"o" * 32)
NEW = AesGcm("new", b"n" * 32)
WORDS = {"card": "4111 1111", "note": "x" * 2000}


class Backwards:
    """A codec as short as one can be."""

    name = "backwards"

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    def decode(self, data: bytes) -> bytes:
        return data[::-1]


def shape(
    codec: Codec | Chain | Sequence[Codec | Chain] | None = None, annotation: Any = Any
) -> Shape:
    return Shape(annotation, "the result of step charge", "card", Codecs.of(codec))


def codec_of(text: str) -> str:
    return str(msgspec.json.decode(text)["$codec"])


def as_jsonb_prints(text: str) -> str:
    """The server orders the keys of an object by length and puts blanks between."""
    plain = msgspec.json.decode(text)
    keys = sorted(plain, key=lambda key: (len(key), key))
    members = (f'"{key}": {msgspec.json.encode(plain[key]).decode()}' for key in keys)
    return "{" + ", ".join(members) + "}"


# --- writing and reading


@pytest.mark.parametrize(
    "codec", [Backwards(), Zlib(), OLD, Chain(Zlib(), OLD)], ids=lambda codec: type(codec).__name__
)
def test_a_value_comes_back_through_its_codec(codec: Any) -> None:
    text, live = shape(codec).store_and_load(WORDS)

    assert "4111" not in text
    assert live == shape(codec).load(text) == shape(codec).load(as_jsonb_prints(text)) == WORDS


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_any_value_does(value: Any) -> None:
    both = shape(Chain(Zlib(at_least=0), OLD))
    try:
        text = both.store(value)
    except InvalidValue:
        return
    assert both.load(text) == value


def test_the_first_codec_writes_and_all_read() -> None:
    written_before = shape(OLD).store(WORDS)
    now = shape([NEW, OLD])

    assert codec_of(now.store(WORDS)) == "aesgcm:new"
    assert now.load(written_before) == WORDS


def test_a_chain_names_what_it_used_and_reads_what_its_parts_wrote() -> None:
    chain = shape(Chain(Zlib(), [NEW, OLD]))

    assert codec_of(chain.store(WORDS)) == "zlib+aesgcm:new"
    assert codec_of(chain.store("short")) == "aesgcm:new"
    earlier: list[Any] = [OLD, Zlib(), Chain(Zlib(), OLD), [Chain(Zlib(), NEW), OLD]]
    for before in earlier:
        assert chain.load(shape(before).store(WORDS)) == WORDS


def test_plain_values_stay_readable_so_a_codec_can_be_added_to_an_app_with_runs() -> None:
    assert shape(OLD).load(shape().store(WORDS)) == WORDS
    assert shape(OLD, annotation=int).load("7") == 7


def test_nothing_is_null_with_a_codec_too() -> None:
    assert shape(OLD).store(None) == "null"


def test_compression_leaves_alone_what_is_small_or_does_not_shrink() -> None:
    noise = base64.b85encode(bytes(range(256))).decode() * 2

    assert shape(Zlib()).store("x" * 900) == f'"{"x" * 900}"'
    assert shape(Zlib(at_least=0)).store("x") == '"x"'
    assert shape(Zlib(at_least=0)).store(noise[:300]) == shape().store(noise[:300])
    assert len(shape(Zlib()).store("x" * 100_000)) < 1000


def test_a_value_is_encrypted_differently_each_time() -> None:
    assert shape(OLD).store("x") != shape(OLD).store("x")


def test_codecs_work_in_many_threads_at_once() -> None:
    both = shape(Chain(Zlib(), OLD))
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda n: both.load(both.store([n] * 999)) == [n] * 999, range(400)))


# --- what looks like an envelope

LOOKALIKES: list[Any] = [
    {"$codec": "aesgcm:old", "payload": "AAAA"},
    {"$codec": "none", "payload": {"$codec": "none", "payload": 1}},
    {"$codec": "", "payload": ""},
    {"$codec": "zlib"},
    {"$codec": 5, "payload": 1},
    {"$codec": "zlib", "payload": 1, "more": 2},
    [{"$codec": "zlib", "payload": "x"}],
    {"payload": {"a": 1}},
]


@pytest.mark.parametrize("value", LOOKALIKES, ids=str)
@pytest.mark.parametrize("codec", [None, OLD, Zlib()], ids=repr)
def test_a_value_that_looks_like_an_envelope_comes_back(value: Any, codec: Any) -> None:
    text, live = shape(codec).store_and_load(value)

    assert live == shape(codec).load(text) == value
    if isinstance(value, dict):
        assert shape(codec).load(as_jsonb_prints(text)) == value
    assert shape(OLD).load(shape().store(value)) == value


class Odd(msgspec.Struct):
    data: str = msgspec.field(name="payload", default="")
    codec: str = msgspec.field(name="$codec", default="")


@dataclasses.dataclass
class AllDefaults:
    note: str = "none"


def test_classes_that_would_load_an_envelope_are_not_taken_in() -> None:
    odd = shape(annotation=Odd)
    assert odd.load(as_jsonb_prints(odd.store(Odd("AAAA", "zlib")))) == Odd("AAAA", "zlib")

    text = shape(OLD, AllDefaults).store(AllDefaults("paid"))
    with pytest.raises(UnreadableValue):
        shape(annotation=AllDefaults).load(text)


# --- what can't be read


@pytest.mark.parametrize("annotation", [Any, int, str, list[int], dict[str, str], AllDefaults])
@pytest.mark.parametrize(
    ("codec", "why"),
    [
        (None, "this process has none"),
        ([NEW, Zlib()], "this process has aesgcm:new, zlib"),
        (AesGcm("old", b"x" * 32), r"can't decode it \(InvalidTag\): the key is not the one"),
    ],
)
def test_a_value_without_its_codec_is_an_error_that_says_which(
    codec: Any, why: str, annotation: Any
) -> None:
    text = shape(OLD).store("4111 1111")

    with pytest.raises(UnreadableValue, match=why) as refused:
        shape(codec, annotation).load(text)

    error = refused.value
    assert (error.codec, error.path) == ("aesgcm:old", "card")
    assert "Give the App (or Client)" in str(error)
    assert text[30:50] not in "".join(traceback.format_exception(error))


def test_a_value_moved_under_another_key_or_changed_is_not_read() -> None:
    twin = AesGcm("twin", b"o" * 32)
    both = shape([OLD, twin])
    text = both.store("x")

    with pytest.raises(UnreadableValue, match="what is stored was changed"):
        both.load(text.replace("aesgcm:old", "aesgcm:twin"))
    payload = msgspec.json.decode(text)["payload"]
    with pytest.raises(UnreadableValue, match="what is stored was changed"):
        both.load(text.replace(payload, payload[:-8] + "AAAAAAA="))


@pytest.mark.parametrize("payload", ['"?"', '"AAA"', "5", "null", '""', '"AAAA"'])
def test_an_envelope_of_nonsense_is_unreadable(payload: str) -> None:
    for name in ("aesgcm:old", "zlib", "zlib+aesgcm:old"):
        with pytest.raises(UnreadableValue):
            shape(Chain(Zlib(), OLD)).load(f'{{"$codec": "{name}", "payload": {payload}}}')


def test_a_small_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = base64.b64encode(zlib.compress(b"0" * (values.MAX_VALUE_BYTES + 1))).decode()
    with pytest.raises(UnreadableValue):
        shape(Zlib()).load(f'{{"$codec": "zlib", "payload": "{bomb}"}}')


def test_what_is_decoded_must_still_be_as_declared_and_is_not_quoted() -> None:
    text = shape(OLD).store("4111")
    with pytest.raises(InvalidValue, match="expected `int`, got `str`"):
        shape(OLD, int).load(text)
    with pytest.raises(InvalidValue, match="invalid enum value") as refused:
        shape(OLD, Literal["a"]).load(text)
    assert "4111" not in "".join(traceback.format_exception(refused.value))


def test_bad_values_are_refused_before_they_are_encoded() -> None:
    for bad in (math.nan, "\0", "\ud800", object()):
        with pytest.raises(InvalidValue):
            shape(OLD).store([bad])


# --- codecs that are wrong


class Broken(Backwards):
    name = "broken"

    def encode(self, data: bytes) -> bytes:
        raise RuntimeError(data)


class Lossy(Backwards):
    name = "lossy"

    def decode(self, data: bytes) -> bytes:
        return data[:-1]


class Textual(Backwards):
    name = "textual"

    def encode(self, data: bytes) -> bytes:
        return data.decode()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("codec", "why"),
    [
        (Broken(), r"codec broken failed \(RuntimeError\)"),
        (Lossy(), "codec lossy does not give back what it was given"),
        (Textual(), r"codec textual failed \(it gave str, not bytes\)"),
    ],
)
def test_a_codec_that_fails_is_found_out_before_anything_is_written(codec: Any, why: str) -> None:
    with pytest.raises(InvalidValue, match=why) as refused:
        shape(codec).store("4111 1111")
    assert "4111" not in "".join(traceback.format_exception(refused.value)).replace('("4111', "")
    with pytest.raises(InvalidValue, match=why):
        Arguments("charge", {"card": "4111 1111"}).stored(Codecs(codec))


class Nameless(Backwards):
    name = ""


class Joined(Backwards):
    name = "a+b"


class Plain(Backwards):
    name = "none"


@pytest.mark.parametrize(
    ("codec", "why"),
    [
        ([], "names no codec"),
        (object(), "is no codec"),
        ("zlib", "is no codec"),
        (Nameless(), "is named ''"),
        (Joined(), "is named 'a\\+b'"),
        (Plain(), "stands for a plain value"),
        ([OLD, AesGcm("old", bytes(32))], "two codecs are named aesgcm:old"),
    ],
)
def test_what_is_no_codec_is_refused_at_once(codec: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Codecs.of(codec)


def test_an_empty_chain_and_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="a codec at each of its stages"):
        Chain(Zlib(), [])
    with pytest.raises(ConfigurationError, match="level"):
        Zlib(level=10)


# --- keys


def test_keys_come_from_one_variable_and_the_first_one_writes() -> None:
    keys = {"K": "2026-02:" + "A" * 43 + "=, 2026-01:" + base64.b64encode(b"o" * 32).decode()}

    codecs = AesGcm.from_environment("K", keys)

    assert [codec.name for codec in codecs] == ["aesgcm:2026-02", "aesgcm:2026-01"]
    text = shape(AesGcm("2026-01", b"o" * 32)).store(WORDS)
    assert shape(codecs).load(text) == WORDS


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ("", "K is not set"),
        (" , ", "K is not set"),
        ("hunter2", "entry 1 of K can't be used"),
        ("id:hunter2", "entry 1 of K can't be used"),
        ("a:" + "A" * 43 + "= b b:hunter2=", "entry 2 of K can't be used"),
        ("a:" + "A" * 22 + "==", "entry 1 of K can't be used"),
        ("a:" + "A" * 43 + "= a:" + "A" * 43 + "=", "two keys of one id"),
    ],
)
def test_keys_that_can_not_be_used_are_refused_and_not_told(held: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refused:
        AesGcm.from_environment("K", {"K": held})
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    assert "openssl rand -base64 32" in str(refused.value)


@pytest.mark.parametrize(("key_id", "key"), [("", bytes(32)), ("a+b", bytes(32)), ("a", bytes(16))])
def test_a_key_that_is_too_short_or_has_no_good_id_is_refused(key_id: str, key: bytes) -> None:
    with pytest.raises(ConfigurationError):
        AesGcm(key_id, key)


def test_a_key_is_never_printed() -> None:
    assert repr(OLD) == "<aesgcm:old>"
    assert "ooo" not in repr(vars(OLD))


def test_without_the_cryptography_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encryption, "AESGCM", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'rowlock\[crypto\]'"):
        AesGcm("a", bytes(32))


# --- arguments


def test_each_argument_goes_through_the_codec_under_its_own_name() -> None:
    async def charge(card: str, cents: int = 5) -> None: ...

    inputs = Inputs.of(charge, codecs=Codecs(OLD))
    text = inputs.bind(("4111 1111",), {})

    assert list(msgspec.json.decode(text)) == ["card", "cents"]
    assert "4111" not in text
    assert inputs.load(text) == {"card": "4111 1111", "cents": 5}
    assert inputs.load('{"card": "plain, from SQL"}') == {"card": "plain, from SQL", "cents": 5}
    with pytest.raises(UnreadableValue) as refused:
        Inputs.of(charge).load(text)
    assert refused.value.path == "card"


def test_a_call_without_the_code_is_stored_as_the_code_would_store_it() -> None:
    async def charge(card: str, lines: list[Any]) -> None: ...

    given = {"card": "4111 1111", "lines": [{"$codec": "zlib", "payload": "x"}]}
    arguments = Arguments("charge", given)

    for codec in (None, OLD, Zlib()):
        codecs = Codecs.of(codec)
        assert Inputs.of(charge, codecs=codecs).load(arguments.stored(codecs)) == given
