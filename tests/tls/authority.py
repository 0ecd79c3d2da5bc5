"""An authority of the test's own that signs certificates, made anew for every session."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs for whoever asks; ``certificate`` is what others trust it by."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o755)
        self._folder = folder
        self._own = self._names(name)
        self.certificate = self._own.certificate
        _openssl(
            *("req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            # Newer versions of OpenSSL take no authority that does not say what its key is for.
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"),
            *("-keyout", self._own.key, "-out", self.certificate),
        )

    def signs(self, name: str) -> Certificate:
        """A certificate for a server or client of this name."""
        made = self._names(name)
        request, extension = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extension.write_text(f"subjectAltName=DNS:{name}\n")
        _openssl(
            *("req", "-nodes", "-subj", f"/CN={name}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", made.key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-days", "2", "-extfile", extension),
            *("-CA", self.certificate, "-CAkey", self._own.key, "-CAcreateserial"),
            *("-out", made.certificate),
        )
        return made

    def _names(self, name: str) -> Certificate:
        return Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
