"""Codecs for what is stored: ``App("shop", codec=AesGcm.from_environment())``.

Here live the codecs that come with Rowlock, and what one of your own must be (Codec). How values
are wrapped is model/envelope.py's; docs/values.md tells what goes through them and what does not.
"""

from rowlock.codecs.compression import Zlib
from rowlock.codecs.encryption import AesGcm
from rowlock.model.envelope import Chain, Codec

__all__ = ["AesGcm", "Chain", "Codec", "Zlib"]
