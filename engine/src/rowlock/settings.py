"""What can be set, where it comes from, and what is refused.

Every setting is one field here and one environment variable ``ROWLOCK_<FIELD>``; only the
database's URL is required. Times are in seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rowlock.errors import ConfigurationError

VERSION_PATTERN = re.compile(r"[A-Za-z0-9._:/@+-]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. Frozen: change them with :meth:`with_`."""

    database_url: str = field(default="", repr=False)
    """Where everything is kept: a libpq URL or conninfo. TLS and other options pass through."""

    version: str = ""
    """Identity of the workflow code this worker carries. Empty: it fits every run of its app."""

    lease_seconds: float = 30.0
    """How long a silent worker keeps its runs. Others take over within this plus a poll."""

    poll_seconds: float = 2.5
    """How often an idle worker looks for work and due timers when nobody tells it (± jitter)."""

    max_takeovers: int = 10
    """A run taken over so often in a row without a new step is given up as ``dead``."""

    max_batch: int = 256
    """Most entries the journal writes in one transaction."""

    transaction_connections: int = 10
    """Most connections of one process for ``@app.transaction`` steps, opened as needed."""

    abandoned_steps: int = 10
    """So many sync steps that nobody waits for any more, still at work in their threads, and a
    process drains and is replaced by a fresh one. 0: never."""

    pgbouncer: bool = False
    """The URL leads to PgBouncer in transaction mode: no prepared statements, polling only."""

    connect_timeout_seconds: float = 10.0
    """How long one attempt to connect may take."""

    def __post_init__(self) -> None:
        # A secret made of a file ends with a newline.
        object.__setattr__(self, "database_url", self.database_url.strip())
        for name in ("lease_seconds", "poll_seconds", "connect_timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be more than 0, not {getattr(self, name)}")
        for name in ("max_takeovers", "max_batch", "transaction_connections"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.abandoned_steps < 0:
            raise ConfigurationError(
                f"abandoned_steps must be at least 0 (never), not {self.abandoned_steps}"
            )
        if self.lease_seconds < 1:
            raise ConfigurationError(
                f"lease_seconds is {self.lease_seconds}; below 1 s a short pause of a process "
                "would look like its death"
            )
        if self.version and not VERSION_PATTERN.fullmatch(self.version):
            raise ConfigurationError(
                f"version {self.version!r} may hold letters, digits and . _ : / @ + - only, 255 at "
                "the most: an image reference or a commit is a good one"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``ROWLOCK_…`` variables; what is not set keeps its default.

        Raises ConfigurationError that names the variable when a value can't be used.
        """
        source = os.environ if environ is None else environ
        known: dict[str, Any] = {}
        for spec in fields(cls):
            variable = f"ROWLOCK_{spec.name.upper()}"
            text = source.get(variable)
            if text is None or text == "":
                continue
            try:
                known[spec.name] = _READERS[str(spec.type)](text)
            except ValueError:
                raise ConfigurationError(
                    f"{variable} must be a {_NAMES[str(spec.type)]}, not {text!r}"
                ) from None
        return cls(**known)

    def with_(self, **changes: Any) -> Settings:
        """The same settings with some changed."""
        return replace(self, **changes)

    def require_database_url(self) -> str:
        """The database's URL, or an error that says where to set it."""
        if not self.database_url:
            raise ConfigurationError(
                "no database is set. Set ROWLOCK_DATABASE_URL, for example "
                "postgresql://user@host:5432/name, or use `rowlock dev`, which brings its own."
            )
        return self.database_url


YES = ("1", "true", "yes", "on")


def _read_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in YES:
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


_READERS: dict[str, Any] = {"str": str, "float": float, "int": int, "bool": _read_bool}
_NAMES = {"str": "text", "float": "number", "int": "whole number", "bool": "yes or no"}
