"""Make large values smaller, by zlib."""

from __future__ import annotations

import zlib
from typing import final

from rowlock.errors import ConfigurationError
from rowlock.model.values import MAX_VALUE_BYTES

ENVELOPE_BYTES = 64


@final
class Zlib:
    """Compresses values of at least ``at_least`` bytes of JSON text, if that saves anything.

    ``level``: 1 (quick) to 9 (small). What is left alone is stored as plain JSON.
    """

    name = "zlib"
    hides = False

    def __init__(self, *, at_least: int = 1024, level: int = 6) -> None:
        if at_least < 0 or not 1 <= level <= 9:
            raise ConfigurationError(
                f"Zlib(at_least={at_least}, level={level}): at_least is a number of bytes, level "
                "one of 1 to 9"
            )
        self._at_least = at_least
        self._level = level

    def __repr__(self) -> str:
        return f"Zlib(at_least={self._at_least}, level={self._level})"

    def encode(self, data: bytes) -> bytes:
        """The data compressed; the data itself where that would not pay."""
        if len(data) < self._at_least:
            return data
        smaller = zlib.compress(data, self._level)
        # In JSON it stands as base64, four characters for three bytes.
        return smaller if len(smaller) * 4 // 3 + ENVELOPE_BYTES < len(data) else data

    def decode(self, data: bytes) -> bytes:
        """The data as it was. A small bomb can't fill the memory: no value is larger than that."""
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(data, MAX_VALUE_BYTES)
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("not one whole zlib stream of at most the size of a value")
        return plain
