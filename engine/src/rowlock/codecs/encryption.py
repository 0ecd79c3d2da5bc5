"""Encrypt values with AES-256-GCM. Needs `pip install 'rowlock[crypto]'`.

A random nonce of 96 bits for each value, as NIST SP 800-38D, 8.2.2 has it: no more than 2^32 values
with one key. The codec's name is authenticated with each value, so none can be passed off as
written with another key.

Reads: one environment variable.  Writes: nothing.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Mapping
from typing import final

from rowlock.errors import ConfigurationError

try:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ModuleNotFoundError:  # it is an extra, and Zlib does without
    AESGCM = None  # type: ignore[assignment,misc]

VARIABLE = "ROWLOCK_CODEC_KEYS"
KEY_BYTES = 32
NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORM = (
    "It holds ID:KEY, several of them separated by commas or spaces, such as 2026-01:… . A key is "
    f"{KEY_BYTES} bytes in base64: `openssl rand -base64 {KEY_BYTES}`."
)


@final
class AesGcm:
    """Encrypts with one key. ``key_id`` is stored with each value and tells which key it was."""

    hides = True

    def __init__(self, key_id: str, key: bytes) -> None:
        if AESGCM is None:
            raise ConfigurationError(
                "AesGcm needs the cryptography package: pip install 'rowlock[crypto]'"
            )
        if not _KEY_ID.fullmatch(key_id):
            raise ConfigurationError(
                "the id of a key is 1 to 64 letters, digits and . _ -, such as 2026-01"
            )
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            raise ConfigurationError(
                f"key {key_id} must be {KEY_BYTES} random bytes, such as os.urandom({KEY_BYTES})"
            )
        self.name = f"aesgcm:{key_id}"
        self._cipher = AESGCM(key)

    @classmethod
    def from_environment(
        cls, variable: str = VARIABLE, environ: Mapping[str, str] | None = None
    ) -> list[AesGcm]:
        """The keys in an environment variable, as ``ID:BASE64,ID:BASE64``: the first one writes.

        Raises ConfigurationError that names the variable, and never what it holds.
        """
        text = (os.environ if environ is None else environ).get(variable, "")
        entries = re.split(r"[\s,]+", text.strip(" \t\r\n,"))
        if entries == [""]:
            raise ConfigurationError(f"{variable} is not set, so there is no key. {_FORM}")
        codecs = [
            cls(*_read(entry, f"entry {number} of {variable}"))
            for number, entry in enumerate(entries, 1)
        ]
        if len({codec.name for codec in codecs}) < len(codecs):
            raise ConfigurationError(f"{variable} holds two keys of one id. {_FORM}")
        return codecs

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def encode(self, data: bytes) -> bytes:
        """Nonce, ciphertext and tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, self.name.encode())

    def decode(self, data: bytes) -> bytes:
        """The plain data; raises cryptography's InvalidTag for another key, name or data."""
        return self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], self.name.encode())


def _read(entry: str, where: str) -> tuple[str, bytes]:
    key_id, _, text = entry.partition(":")
    try:
        key = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        key = b""
    if not _KEY_ID.fullmatch(key_id) or len(key) != KEY_BYTES:
        raise ConfigurationError(f"{where} can't be used. {_FORM}")
    return key_id, key
