"""The caller's trace context, to travel with what it starts: out of a client, into a run.

OpenTelemetry is looked for, never imported: whoever has an active span has imported it. What
comes in was perhaps written by hand in SQL: what makes no sense is passed over, never an error.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

HEADERS = ("traceparent", "tracestate")


def outgoing() -> str | None:
    """The active span as a JSON object of W3C headers; None when there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    return to_json(context) if context.is_valid else None


def to_json(context: Any) -> str:
    """A SpanContext of OpenTelemetry as a JSON object of W3C headers (w3.org/TR/trace-context)."""
    headers = {
        "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}"
        f"-{context.trace_flags:02x}"
    }
    if state := context.trace_state.to_header():
        headers["tracestate"] = state
    return msgspec.json.encode(headers).decode()


def incoming(stored: str | None) -> dict[str, str]:
    """The W3C headers of what a run was started with; others and nonsense are left out."""
    if stored is None:
        return {}
    try:
        found = msgspec.json.decode(stored)
    except (msgspec.DecodeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    lowered = {str(name).lower(): value for name, value in found.items()}
    return {name: lowered[name] for name in HEADERS if isinstance(lowered.get(name), str)}
