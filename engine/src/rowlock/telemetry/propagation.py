"""The caller's trace context, to travel with what it starts.

OpenTelemetry is looked for, never imported: whoever has an active span has imported it.
"""

from __future__ import annotations

import sys

import msgspec


def outgoing() -> str | None:
    """The active span as a JSON object of W3C headers; None when there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    headers = {
        "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}"
        f"-{context.trace_flags:02x}"
    }
    if state := context.trace_state.to_header():
        headers["tracestate"] = state
    return msgspec.json.encode(headers).decode()
