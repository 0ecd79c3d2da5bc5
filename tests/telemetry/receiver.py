"""A receiver of OTLP over HTTP, as a collector has it, and the spans it got; in this process.

with Receiver() as receiver:
    Worker(database, "telemetry.traced:app", environment=receiver.environment)
"""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire

from workers.until import until


@dataclass(frozen=True)
class Linked:
    """What a span says it comes after."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A span as it arrived; ids in hexadecimal, times in nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    is_error: bool
    message: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    links: list[Linked]
    resource: dict[str, Any]
    flags: int
    state: str

    @property
    def kind(self) -> str:
        """``run``, ``step``, ``transaction``, or the name's first word of a user's span."""
        return self.name.split()[0]

    def links_as(self, why: str) -> list[Linked]:
        return [link for link in self.links if link.attributes.get("rowlock.link") == why]


class Receiver:
    """See the module's text. ``answers`` False: it takes requests and never answers them."""

    def __init__(self, *, answers: bool = True) -> None:
        self._answers = answers
        self._spans: list[Seen] = []
        self._ending = threading.Event()
        self.requests = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests += 1
                if not receiver._answers:
                    receiver._ending.wait()
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._spans += _read(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a worker send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    @property
    def spans(self) -> list[Seen]:
        return list(self._spans)

    def named(self, name: str) -> list[Seen]:
        return [span for span in self._spans if span.name == name]

    def one(self, name: str) -> Seen:
        """The only span of this name, once it is there."""
        until(lambda: self.named(name))
        [span] = self.named(name)
        return span

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def check_tree(spans: Iterable[Seen], caller: str = "") -> None:
    """One trace, one root (or one below the ``caller``), every parent there, no span twice."""
    spans = list(spans)
    assert len({span.trace_id for span in spans}) == 1
    ids = Counter(span.span_id for span in spans)
    assert not [name for name, times in ids.items() if times > 1]
    orphans = [span.name for span in spans if span.parent_id not in (*ids, caller)]
    assert not orphans
    assert len([span for span in spans if span.parent_id == caller]) == 1


def _read(body: bytes) -> list[Seen]:
    return [
        _seen(span, _values(group.resource.attributes))
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _seen(span: Wire, resource: dict[str, Any]) -> Seen:
    return Seen(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_error=span.status.code == 2,
        message=span.status.message,
        attributes=_values(span.attributes),
        events=[(event.name, _values(event.attributes)) for event in span.events],
        links=[
            Linked(link.trace_id.hex(), link.span_id.hex(), _values(link.attributes))
            for link in span.links
        ],
        resource=resource,
        flags=span.flags,
        state=span.trace_state,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in pairs
    }
