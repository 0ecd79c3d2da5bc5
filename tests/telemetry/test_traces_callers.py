"""The caller's side: a start inside a span of OpenTelemetry carries that span's context."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from rowlock import BlockingClient, Client
from rowlock.telemetry import propagation
from telemetry import traced
from telemetry.receiver import Receiver, check_tree
from workers.process import Worker
from workers.until import Sql

APP = "telemetry.traced:app"


@pytest.fixture
def span() -> Iterator[SpanContext]:
    """A real span of the SDK is active, below one of another vendor that came with its state."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("web")
    state = TraceState([("vendor", "a1"), ("other", "b2")])
    remote = SpanContext(0xA1 << 120, 0xB7, True, TraceFlags(TraceFlags.SAMPLED), state)
    above = trace.set_span_in_context(NonRecordingSpan(remote))
    with tracer.start_as_current_span("POST /orders", context=above) as started:
        yield started.get_span_context()


def stored(sql: Sql) -> list[tuple[str, str]]:
    """What stands in the database, a row a run."""
    return [
        (str(parent), str(state))
        for parent, state in sql(
            "select trace_context ->> 'traceparent', trace_context ->> 'tracestate'"
            "  from rowlock.run order by id"
        )
    ]


def expected(span: SpanContext) -> tuple[str, str]:
    flags = f"{int(span.trace_flags):02x}"
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{flags}", "vendor=a1,other=b2"


def test_a_blocking_client_takes_the_active_span_along(
    client: BlockingClient, sql: Sql, database: str, span: SpanContext
) -> None:
    client.start(traced.short("o1"))
    client.start_many([traced.short("o2"), traced.short("o3")])
    with psycopg.connect(database) as connection:
        client.start(traced.short("o4"), connection=connection)
    assert stored(sql) == [expected(span)] * 4


async def test_an_async_client_takes_the_active_span_along(
    database: str, sql: Sql, span: SpanContext
) -> None:
    # Not a fixture's: an async test runs in a context of its own, without the fixture's span.
    with trace.use_span(NonRecordingSpan(span)):
        async with Client(database, app="traced") as client:
            await client.start(traced.short("o1"))
            await client.start_many([traced.short("o2")])
            async with await psycopg.AsyncConnection.connect(database) as connection:
                await client.start(traced.short("o3"), connection=connection)
                await client.start_many([traced.short("o4")], connection=connection)
    assert stored(sql) == [expected(span)] * 4


def test_without_an_active_span_nothing_is_stored(client: BlockingClient, sql: Sql) -> None:
    client.start(traced.short("o1"))
    client.start_many([traced.short("o2")])
    assert sql("select distinct trace_context from rowlock.run") == [(None,)]


def test_from_a_callers_span_to_the_last_child_it_is_one_tree(
    database: str, client: BlockingClient, receiver: Receiver, span: SpanContext
) -> None:
    run = client.start(traced.everything("o1"))
    with Worker(database, APP, environment=receiver.environment):
        run.result(timeout=60)
        top = receiver.one("run everything")
    caller = f"{span.span_id:016x}"
    assert (top.trace_id, top.parent_id) == (f"{span.trace_id:032x}", caller)
    check_tree(receiver.spans, caller)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "5", '"00-a-b-01"', '{"traceparent": null}', "{", "[" * 100_000],
)
def test_nonsense_gives_no_headers(text: str) -> None:
    assert propagation.incoming(text) == {}


def test_headers_are_found_whatever_their_case() -> None:
    found = propagation.incoming('{"TraceParent": "x", "baggage": "y", "tracestate": "z"}')
    assert found == {"traceparent": "x", "tracestate": "z"}
