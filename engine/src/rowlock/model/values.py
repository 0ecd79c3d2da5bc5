"""Turn Python values into JSON text that ``jsonb`` keeps, and back into what was declared.

Every argument, result and event passes through here. A value is stored only if it is certain
to come back: what JSON or ``jsonb`` would lose or refuse is refused at once, by its path. The
caller goes on with the value as *loaded*, live as well as on replay, so both see the same.

Reads: annotations and values; model/jsonb.py (what JSON can carry), model/places.py (paths),
model/envelope.py (what a codec made of it).
"""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any, Never, NoReturn, final

from rowlock.errors import ConfigurationError, InvalidValue, UnreadableValue
from rowlock.model import envelope, jsonb, places
from rowlock.model.envelope import Codecs
from rowlock.model.secret import Secret

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The longest JSON text of one value. Larger things belong in a file or table of their own."""

MAX_DEPTH = 200
"""How deep lists and objects may be nested. Python's own limit is higher, but shifts with its
version and with the depth of the stack: what one process stores, another could fail to load."""

_NO_DECODER = (
    "Use plain types, a dataclass, a NamedTuple, a TypedDict, an Enum or a msgspec.Struct; for a "
    "union of classes, msgspec.Structs with a tag. Or declare Any and get plain JSON back."
)

NOT_HIDDEN = "it is a Secret, and there is no codec that hides it."
NO_CODEC = (
    "Give the App (or Client) one that encrypts, such as codec=AesGcm.from_environment(); see "
    "docs/values.md."
)

_QUOTED = re.compile(r"(invalid (?:enum )?value) .*")


@final
class Shape:
    """How the values of one annotation are stored and loaded; made once, used for every step.

    ``what`` names the value in errors ("the result of step charge"), ``path`` its place within
    that. Without an annotation pass ``Any``: then dicts, lists, numbers and text come back.

    Values are checked by what they become: ``"x"`` does not load as ``int`` and is refused, 3 is
    good for ``float``, and a UUID returned from ``-> str`` is delivered as text.

    ``codecs`` encode what is stored. A Secret is stored only where the annotation has one, and only
    if the codecs hide it. ``outgoing``: the value is loaded elsewhere, as it is declared there, so
    a Secret may stand anywhere.

    Raises ConfigurationError for annotations that no JSON can be turned back into.
    """

    __slots__ = (
        "_codecs",
        "_decode",
        "_looks_first",
        "_natural",
        "_outgoing",
        "_secretive",
        "_shows_floats",
        "_shows_order",
        "_takes_none",
        "_wraps",
        "_write",
        "path",
        "what",
    )

    def __init__(
        self,
        annotation: Any,
        what: str,
        path: str = "",
        codecs: Codecs | None = None,
        *,
        outgoing: bool = False,
    ) -> None:
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
        self._outgoing = outgoing
        self._secretive = any(map(jsonb.holds_secrets, kinds))
        self._shows_order = any(map(jsonb.shows_order, kinds))
        self._shows_floats = any(map(jsonb.shows_floats, kinds))
        self._natural = all(map(jsonb.is_natural, kinds))
        self._takes_none = self._loads(b"null") and self._decode(b"null") is None
        self._write = jsonb.encode_sorted if self._shows_order else jsonb.encode
        if self._secretive:
            self._write = jsonb.encode_revealed
        self._use(codecs)

    def with_codecs(self, codecs: Codecs | None) -> Shape:
        """The same with other codecs."""
        other = copy.copy(self)
        other._use(codecs)
        return other

    def _revealing(self) -> Shape:
        other = copy.copy(self)
        other._secretive = True
        other._write = jsonb.encode_revealed
        return other

    def _use(self, codecs: Codecs | None) -> None:
        self._codecs = codecs
        # Where an envelope would load as something, one must look before loading; elsewhere it is
        # enough to look when loading fails, and what is stored can't look like one either.
        ambiguous = self._shows_order or any(map(self._loads, envelope.SAMPLES))
        self._looks_first = codecs is not None or ambiguous
        self._wraps = codecs is not None or ambiguous

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
            raw = self._write(value)
        except Exception as error:
            if self._outgoing and not self._secretive:
                return self._revealing().store_and_load(value)  # there is a Secret, or it is bad
            raise self._unwritable(value, error) from self._shown(error)
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
            raise self._unfit(error) from self._shown(error)
        if not self._is_whole(raw, value, loaded):
            self._refuse_losses(value)
        if self._secretive:
            self._check_secrets(value, loaded)
        if self._wraps and (self._codecs is not None or raw.startswith(envelope.MAYBE_WRITTEN)):
            return self._sealed(raw), loaded
        return raw.decode(), loaded

    def load(self, text: str | bytes) -> Any:
        """Return the value of JSON text; raises InvalidValue if it is not as declared.

        Raises UnreadableValue if a codec is missing. Dicts have their keys in alphabetical order,
        whatever order the text has.
        """
        if self._looks_first and text[:9] in envelope.SEALED:
            text = self._opened(text)
        try:
            return self._decode(jsonb.sort_keys(text) if self._shows_order else text)
        except Exception as error:
            if not self._looks_first and text[:9] in envelope.SEALED:
                self._opened(text)
            raise self._unfit(error) from self._shown(error)

    def _is_whole(self, raw: bytes, value: Any, loaded: Any) -> bool:
        if self._natural:
            # A class's own __eq__ is no proof, but loaded has only plain data to compare with.
            return _same(loaded, value) or jsonb.is_surely_whole(raw, value)
        if self._shows_order or b"null" in raw:
            return jsonb.is_surely_whole(raw, value)
        return True

    def _loads(self, raw: bytes) -> bool:
        try:
            self._decode(raw)
        except Exception:  # whatever a custom type's own validation raises
            return False
        return True

    # --- codecs and Secrets

    def _sealed(self, raw: bytes) -> str:
        try:
            return envelope.sealed(raw, self._codecs)
        except envelope.Unwritable as error:
            raise self._refused("", str(error)) from None

    def _opened(self, text: str | bytes) -> str | bytes:
        try:
            return envelope.opened(text, self._codecs)
        except envelope.Unreadable as error:
            raise UnreadableValue(
                self.what, self.path, error.why, error.hint, error.codec
            ) from None

    def _check_secrets(self, value: Any, loaded: Any) -> None:
        """Refuse Secrets that nothing would hide, or that would come back bare."""
        given = list(places.holders(value, _is_secret))
        kept = given if self._outgoing else list(places.holders(loaded, _is_secret))
        if kept and not envelope.hides(self._codecs):
            raise self._refused(kept[0], NOT_HIDDEN, NO_CODEC)
        if len(given) > len(kept):
            path = next(path for path in given if path not in kept)
            raise self._undeclared(path)

    def _shown(self, error: Exception) -> Exception | None:
        """The error as a cause, unless it may carry what must not be seen."""
        return None if self._secretive or envelope.hides(self._codecs) else error

    # --- refusals

    def _refused(self, path: str, why: str, hint: str = "") -> InvalidValue:
        return InvalidValue(self.what, places.join(self.path, path), why, hint)

    def _unwritable(self, value: Any, error: Exception) -> InvalidValue:
        if isinstance(error, RecursionError):
            return self._too_deep()
        path, culprit = places.locate(value, self._cannot_be_written)
        if isinstance(culprit, Secret) and not self._secretive:
            return self._undeclared(path)
        if inspect.iscoroutine(culprit):
            culprit.close()  # this error says it; a "never awaited" warning would say it again
            return self._refused(path, "it is a coroutine.", "Is an `await` missing?")
        if isinstance(error, UnicodeEncodeError):
            why = "the text holds half of a surrogate pair, which is not valid Unicode."
            return self._refused(path, why, "Decode the bytes it came from with errors='replace'.")
        return self._refused(path, f"{self._reason(culprit, error)}.", "Return plain data instead.")

    def _reason(self, culprit: Any, otherwise: Exception) -> str:
        if isinstance(culprit, dict):  # its values were found to be good
            return "one of its keys can't be a key in JSON, which are text"
        try:
            self._write(culprit)
        except Exception as error:
            return str(error)
        return str(otherwise)

    def _cannot_be_written(self, value: Any) -> bool:
        try:
            self._write(value)
        except Exception:
            return True
        return False

    def _undeclared(self, path: str) -> InvalidValue:
        return self._refused(
            path,
            "it is a Secret, and not declared as one: it would come back as a bare value.",
            "Annotate it as Secret[…].",
        )

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
        path, _ = places.locate(value, lambda part: jsonb.holds_nul(self._write(part)))
        return self._refused(path, "the text holds a NUL character, which PostgreSQL can't keep.")

    def _refuse_losses(self, value: Any) -> None:
        for path, why in places.losses(value):
            raise self._refused(path, why)

    def _unfit(self, error: Exception) -> InvalidValue:
        if isinstance(error, RecursionError):
            return self._refused("", "it is nested too deeply.")
        path, why = places.split_msgspec_error(error)
        if self._shown(error) is None:
            why = _QUOTED.sub(r"\1", why)  # the one message of msgspec that quotes the value
        return self._refused(path, f"{why}.", "The value must be as its annotation declares.")


def _same(loaded: Any, given: Any) -> bool:
    try:
        return bool(loaded == given)
    except Exception:  # a foreign __eq__ may do what it likes
        return False


def _is_secret(value: Any) -> bool:
    return isinstance(value, Secret)
