"""Logs that say which run, workflow, place and attempt a line belongs to.

On a terminal a line of text, elsewhere a line of JSON. Whatever the user's own code logs inside a
run or step gets the same fields, because they come from the context, not from the caller. Where
traces are on, lines carry the ids of the active span, too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

import msgspec

FIELDS = ("run", "workflow", "place", "step", "attempt")
TRACE_FIELDS = ("trace_id", "span_id")

ActiveIds = Callable[[], tuple[str, str] | None]
"""The ids of the active span, in the order of TRACE_FIELDS."""


@dataclass(slots=True)
class Where:
    """What a line of log belongs to."""

    run: str
    workflow: str
    place: str | None = None
    step: str | None = None
    attempt: int | None = None


_where: ContextVar[Where | None] = ContextVar("rowlock_where", default=None)


def enter(where: Where) -> None:
    """From here on, lines logged in this context belong to this."""
    _where.set(where)


def name_traces_by(active_ids: ActiveIds) -> None:
    """From here on, lines of this process say which span they belong to."""
    _AddFields.active_ids = staticmethod(active_ids)


class _AddFields(logging.Filter):
    active_ids: ActiveIds | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        where = _where.get()
        if where is not None:
            for name in FIELDS:
                value = getattr(where, name)
                if value is not None and not hasattr(record, name):
                    setattr(record, name, value)
        if self.active_ids is not None and (ids := self.active_ids()) is not None:
            record.trace_id, record.span_id = ids
        return True


class TextFormatter(logging.Formatter):
    """``12:01:02.345 INFO    rowlock.worker  message  run=… workflow=…``"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(
            f" {name}={getattr(record, name)}"
            for name in (*FIELDS, *TRACE_FIELDS)
            if hasattr(record, name)
        )
        line = f"{at} {record.levelname:<7} {record.name}  {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields above, and the error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        for name in (*FIELDS, *TRACE_FIELDS):
            if hasattr(record, name):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def set_up(*, level: str = "INFO", style: str = "auto", stream: IO[str] | None = None) -> None:
    """Send all logs of this process to standard error. ``style``: text, json, or auto."""
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    as_text = style == "text" or (style == "auto" and out.isatty())
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    handler.addFilter(_AddFields())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    logging.getLogger("watchfiles").setLevel("WARNING")
    logging.getLogger("psycopg").setLevel("ERROR")
