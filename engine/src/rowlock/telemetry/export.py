"""From finished spans to wherever they are wanted: provider, sampler, resource, exporters.

Spans are put into a bounded queue and sent by a thread. When the endpoint is slow or away they are
dropped, a line says so, and nobody waits; at the end of the process they get two seconds.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from rowlock.errors import ConfigurationError

log = logging.getLogger("rowlock.traces")

LAST_WORDS_S = 2.0
"""What the spans that are left get at the end of the process."""

SCHEDULE_DELAY_MS = 1000.0
"""How long a span waits for others. OpenTelemetry's 5 s is what a killed worker would lose."""

QUIET_S = 300.0
"""An exporter's troubles are told so often at most: it repeats them for every batch."""

LOUD = (
    "opentelemetry.exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",  # in older versions
)


class Ids(RandomIdGenerator):
    """Random ids; but within :meth:`next_are` the next span gets the ids that are given."""

    def __init__(self) -> None:
        self._next: ContextVar[tuple[int, int] | None] = ContextVar("rowlock_ids", default=None)

    @contextmanager
    def next_are(self, trace_id: int, span_id: int) -> Iterator[None]:
        token = self._next.set((trace_id, span_id))
        try:
            yield
        finally:
            self._next.reset(token)

    def generate_trace_id(self) -> int:
        given = self._next.get()
        return super().generate_trace_id() if given is None else given[0]

    def generate_span_id(self) -> int:
        given = self._next.get()
        return super().generate_span_id() if given is None else given[1]


class EvenSampler(Sampler):
    """The sampler that OTEL_TRACES_SAMPLER names, made even over trace ids that are run ids.

    The ratio samplers compare the lower 64 bits of the trace id. A run id is a UUIDv7: its top two
    bits there are always 10, so a ratio of 0.5 would take none, and 0.75 all. The 56 bits
    below are random (W3C trace context, level 2, asks for no more) and are moved up.
    """

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if is_uuid7(trace_id):
            trace_id = (trace_id & (1 << 56) - 1) << 8
        return self._inner.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        return self._inner.get_description()


def is_uuid7(number: int) -> bool:
    """Whether it has the version and variant of a UUIDv7 (RFC 9562, 5.7)."""
    return number >> 76 & 0xF == 7 and number >> 62 & 0b11 == 0b10


class Pipeline:
    """Makes spans and gets rid of them. See the module's text."""

    def __init__(self, app: str, version: str, exporters: Sequence[str]) -> None:
        _tell_troubles_once()
        self.ids = Ids()
        try:
            self._provider = TracerProvider(
                resource=_resource(app, version),
                id_generator=self.ids,
                shutdown_on_exit=False,  # it would wait half a minute
            )
            self._provider.sampler = EvenSampler(self._provider.sampler)
            for name in exporters:
                processor = BatchSpanProcessor(_load(name)(), schedule_delay_millis=_delay_ms())
                self._provider.add_span_processor(processor)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"traces can't be set up from the OTEL_* variables: {error}"
            ) from error
        self.sampler = self._provider.sampler
        self.tracer = self._provider.get_tracer("rowlock", importlib.metadata.version("rowlock"))
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            # Nobody has set one: what the user's code and its instrumentation say goes here, too.
            trace.set_tracer_provider(self._provider)

    def close(self) -> None:
        """Send what is left; give up after LAST_WORDS_S."""
        # In a thread that the process doesn't wait for: the exporter may hang in a request.
        shutdown = self._provider.shutdown
        closing = threading.Thread(target=shutdown, name="rowlock-spans", daemon=True)
        closing.start()
        closing.join(LAST_WORDS_S)
        if closing.is_alive():
            log.warning("the last spans were not taken within %.0f s and are lost", LAST_WORDS_S)


def _load(name: str) -> type[SpanExporter]:
    found = importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name)
    for entry in found:
        loaded: type[SpanExporter] = entry.load()
        return loaded
    package = name.replace("_", "-")
    raise ConfigurationError(
        f"traces are to go to the exporter {name!r}, and none of that name is installed. Perhaps: "
        f"pip install opentelemetry-exporter-{package}. Rowlock's own extra, rowlock[otel], brings "
        "otlp over http/protobuf, and console."
    )


def _delay_ms() -> float | None:
    return None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else SCHEDULE_DELAY_MS


def _resource(app: str, version: str) -> Resource:
    host = socket.gethostname()
    attributes: dict[str, Any] = {
        "service.name": app,
        "service.instance.id": f"{host}-{os.getpid()}",
        "host.name": host,
        "process.pid": os.getpid(),
        "rowlock.app": app,
    }
    if version:
        attributes["service.version"] = version
    # What the user says in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES counts more.
    return Resource.create(attributes | dict(OTELResourceDetector().detect().attributes))


class _Once(logging.Handler):
    """Passes on one line in QUIET_S, as ours, and drops the others."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._again_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._again_at:
            return
        self._again_at = now + QUIET_S
        log.warning(
            "spans are not delivered and may be lost; work goes on. If this lasts, it is said "
            "again in %.0f minutes: %s",
            QUIET_S / 60,
            record.getMessage(),
        )


def _tell_troubles_once() -> None:
    once = _Once()
    for name in LOUD:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers[:] = [once]
