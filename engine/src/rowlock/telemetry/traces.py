"""Whether traces are made, and by which exporters: OpenTelemetry's own variables say so.

Nothing of OpenTelemetry is imported before they do, so a worker without traces pays nothing.

Reads: OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT and
_PROTOCOL; the SDK reads the other OTEL_* variables itself.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

from rowlock.errors import ConfigurationError
from rowlock.telemetry.observer import Observer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def observer(app: str, version: str, environ: Mapping[str, str] = os.environ) -> Observer | None:
    """The observer that makes spans of what a worker does; None when traces are off.

    Make it in the process that works: exporters have threads. Raises ConfigurationError when
    traces are asked for and can't be had.
    """
    names = exporters(environ)
    if not names:
        return None
    try:
        spans = importlib.import_module("rowlock.telemetry.spans")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        asked = next(v for v in ("OTEL_TRACES_EXPORTER", *ENDPOINTS) if environ.get(v, "").strip())
        raise ConfigurationError(
            f"{asked} asks for traces, and {error.name} is not installed. Run: "
            "pip install 'rowlock[otel]', or set OTEL_TRACES_EXPORTER=none."
        ) from None
    made: Observer = spans.make(app, version, names)
    return made


def exporters(environ: Mapping[str, str]) -> list[str]:
    """The names of the exporters that are asked for, as installed packages call them."""

    def value(name: str) -> str:
        return environ.get(name, "").strip()

    if value("OTEL_SDK_DISABLED").lower() == "true":
        return []
    asked = value("OTEL_TRACES_EXPORTER")
    if not asked and not any(map(value, ENDPOINTS)):
        return []
    names = [name.strip() for name in (asked or "otlp").split(",") if name.strip()]
    if "none" in names:
        return []
    if "otlp" in names:
        protocol = next(filter(None, map(value, PROTOCOLS)), "http/protobuf")
        if protocol not in OTLP:
            raise ConfigurationError(
                f"the OTLP protocol {protocol!r} is not known; OTEL_EXPORTER_OTLP_PROTOCOL may be "
                + " or ".join(OTLP)
            )
        names[names.index("otlp")] = OTLP[protocol]
    return names
