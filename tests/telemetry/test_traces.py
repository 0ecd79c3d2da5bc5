"""What a run looks like as a trace: one connected tree, however many workers had it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from rowlock import BlockingClient, BlockingRun
from rowlock.errors import RunFailed
from telemetry import traced
from telemetry.receiver import Receiver, Seen, check_tree
from workers.process import Worker
from workers.until import Sql, until

APP = "telemetry.traced:app"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def trace_of(receiver: Receiver, run: BlockingRun[Any]) -> list[Seen]:
    """The spans of a run that is a root, once its own has come."""
    trace_id = run.id.hex

    def found() -> list[Seen]:
        return [span for span in receiver.spans if span.trace_id == trace_id]

    until(lambda: any(span.kind == "run" and not span.parent_id for span in found()))
    return found()


def test_a_run_is_one_tree_of_all_that_was_executed(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    with Worker(database, APP, environment=receiver.environment, version="v1") as worker:
        run = client.start(traced.everything("o1"))
        run.result(timeout=60)
        worker.terminate()
        assert worker.wait() == 0
    spans = trace_of(receiver, run)
    check_tree(spans)
    by_id = {span.span_id: span for span in spans}
    below = sorted((s.name, by_id[s.parent_id].name) for s in spans if s.parent_id)
    assert below == [
        ("inner book", "transaction book_sync"),
        ("inner reserve", "step reserve"),
        ("inner reserve", "step reserve"),
        ("inner reserve", "step reserve"),
        ("inner weigh", "step weigh"),
        ("run parcel", "run everything"),
        ("run parcel", "run everything"),
        ("step flaky", "run everything"),
        ("step flaky", "run everything"),
        ("step flaky", "run everything"),
        ("step reserve", "run everything"),
        ("step reserve", "run parcel"),
        ("step reserve", "run parcel"),
        ("step weigh", "run everything"),
        ("transaction book", "run everything"),
        ("transaction book_sync", "run everything"),
    ]
    [top] = [span for span in spans if not span.parent_id]
    assert top.attributes["rowlock.run_id"] == str(run.id)
    assert top.attributes["rowlock.app"] == "traced"
    assert top.attributes["rowlock.outcome"] == "succeeded"
    assert top.attributes["rowlock.version"] == "v1"
    assert top.resource["service.name"] == "traced"
    assert top.resource["service.version"] == "v1"
    assert top.resource["process.pid"] == worker.pid
    info = run.info()
    assert info.started_at is not None
    assert info.finished_at is not None
    assert top.start_ns == pytest.approx(info.started_at.timestamp() * 1e9, abs=1e5)
    assert all(top.start_ns <= span.start_ns <= span.end_ns <= top.end_ns for span in spans)


def test_each_attempt_is_a_span_and_leads_to_the_one_before(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    with Worker(database, APP, environment=receiver.environment):
        failed = client.start(traced.failing("o1"))
        with pytest.raises(RunFailed):
            failed.result(timeout=60)
        spans = trace_of(receiver, failed)
    attempts = sorted(
        (span for span in spans if span.kind == "step"),
        key=lambda span: int(span.attributes["rowlock.attempt"]),
    )
    assert [span.attributes["rowlock.attempt"] for span in attempts] == [1, 2, 3]
    for before, after in pairwise(attempts):
        [link] = after.links_as("retry")
        assert link.span_id == before.span_id
    for span in attempts:
        assert span.is_error
        assert span.message == "ValueError: no luck with o1"
        [(event, about)] = span.events
        assert event == "exception"
        assert about["exception.type"] == "ValueError"
    [top] = [span for span in spans if span.kind == "run"]
    assert top.is_error
    assert top.message == "ValueError: no luck with o1"
    assert top.attributes["rowlock.outcome"] == "failed"


def test_a_killed_workers_run_goes_on_in_the_same_tree(
    database: str, client: BlockingClient, sql: Sql, receiver: Receiver
) -> None:
    run = client.start(traced.killed("o1"))
    with Worker(database, APP, environment=receiver.environment) as doomed:
        receiver.one("step reserve")  # it is out before the kill
        # The inner one ended before its parent, so it is out, too.
        sql("insert into gate values ('o1')")
        assert doomed.wait() == -9
    with Worker(database, APP, environment=receiver.environment) as survivor:
        assert run.result(timeout=60) == "o1"
        spans = trace_of(receiver, run)
        survivor.terminate()
        survivor.wait()
    check_tree(spans)
    by_pid = {pid: [s for s in spans if s.resource["process.pid"] == pid] for pid in _pids(spans)}
    assert set(by_pid) == {doomed.pid, survivor.pid}
    # What the first worker recorded is replayed by the second, and is no span there.
    assert [s.name for s in by_pid[doomed.pid] if s.kind == "step"][:1] == ["step reserve"]
    repeated = [s for s in by_pid[survivor.pid] if s.attributes.get("rowlock.place") == "1"]
    assert [s for s in repeated if s.attributes["rowlock.workflow"] == "killed"] == []
    [top] = [span for span in spans if not span.parent_id]
    [link] = [link for span in spans for link in span.links_as("takeover")]
    assert (link.trace_id, link.span_id) == (top.trace_id, top.span_id)
    [taken] = [span for span in spans if span.links_as("takeover")]
    assert taken.resource["process.pid"] == survivor.pid
    assert taken.name == "step deadly"
    assert taken.attributes["rowlock.takeovers"] == 1
    assert top.resource["process.pid"] == survivor.pid
    assert top.start_ns <= min(span.start_ns for span in spans)


def _pids(spans: list[Seen]) -> set[int]:
    return {int(span.resource["process.pid"]) for span in spans}


def test_a_run_that_slept_is_one_tree_from_its_first_start(
    database: str, client: BlockingClient, sql: Sql, receiver: Receiver
) -> None:
    run = client.start(traced.sleeper("o1"))
    with Worker(database, APP, environment=receiver.environment) as first:
        until(lambda: sql.one("select count(*) from rowlock.task where state = 'waiting'"))
        first.terminate()
        assert first.wait() == 0
    with Worker(database, APP, environment=receiver.environment):
        assert run.result(timeout=60) == "o1"
        spans = trace_of(receiver, run)
    check_tree(spans)
    assert len(_pids(spans)) == 2
    [top] = [span for span in spans if not span.parent_id]
    [step] = [span for span in spans if span.name == "step reserve"]
    assert top.start_ns <= step.start_ns
    assert top.end_ns - top.start_ns >= 1_200_000_000
    assert [span for span in spans if span.links_as("takeover")] == []


def test_the_callers_trace_goes_on_in_the_run_and_its_children(
    database: str, client: BlockingClient, sql: Sql, receiver: Receiver
) -> None:
    context = json.dumps({"traceparent": CALLER, "tracestate": "vendor=1"})
    sql(
        """select rowlock.start('everything', '{"order": "o1"}', app => 'traced',
                                trace_context => %s::jsonb)""",
        context,
    )
    with Worker(database, APP, environment=receiver.environment):
        top = receiver.one("run everything")
    check_tree(receiver.spans, caller="b7ad6b7169203331")
    assert top.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert top.parent_id == "b7ad6b7169203331"
    assert {span.state for span in receiver.spans} == {"vendor=1"}


@pytest.mark.parametrize(
    "context",
    [
        {"traceparent": "nonsense"},
        {"traceparent": 5, "tracestate": ["x"]},
        {"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"},
        {"traceparent": CALLER.replace("00-", "ff-", 1)},
        {"tracestate": "vendor=1"},
        {},
    ],
)
def test_a_trace_context_that_makes_no_sense_is_passed_over(
    database: str, sql: Sql, receiver: Receiver, context: dict[str, Any]
) -> None:
    [(run_id,)] = sql(
        """select rowlock.start('short', '{"order": "o1"}', app => 'traced',
                                trace_context => %s::jsonb)""",
        json.dumps(context),
    )
    with Worker(database, APP, environment=receiver.environment):
        top = receiver.one("run short")
    assert (top.trace_id, top.parent_id) == (run_id.hex, "")


def test_an_error_that_cant_be_shown_costs_its_description_and_nothing_else(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    with Worker(database, APP, environment=receiver.environment):
        run = client.start(traced.speechless())
        with pytest.raises(RunFailed):
            run.result(timeout=60)
        spans = trace_of(receiver, run)
    check_tree(spans)
    assert {span.name for span in spans} == {"run speechless", "step unspeakable"}


def test_a_given_up_run_fails_nobody(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    """Its spans have no root: no worker is left that could say it ended."""
    run = client.start(traced.killed("o1"))
    run_settings = receiver.environment | {"ROWLOCK_MAX_TAKEOVERS": "1"}
    with Worker(database, APP, lease_s=1.0, environment=run_settings) as doomed:
        receiver.one("step reserve")
        doomed.kill()
    with Worker(database, APP, lease_s=1.0, environment=run_settings) as worker:
        with pytest.raises(RunFailed):
            run.result(timeout=60)
        worker.terminate()
        assert worker.wait() == 0
    assert receiver.named("run killed") == []


def test_logs_carry_the_ids_of_the_active_span(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    settings = receiver.environment | {"WORKER_LOG_STYLE": "json"}
    with Worker(database, APP, environment=settings) as worker:
        run = client.start(traced.parcel("o1"))
        run.result(timeout=60)
        threaded = client.start(traced.in_thread("o2"))
        threaded.result(timeout=60)
        failed = client.start(traced.failing("o3"))
        with pytest.raises(RunFailed):
            failed.result(timeout=60)
        spans = {run.id: trace_of(receiver, run), threaded.id: trace_of(receiver, threaded)}
        tops = {id_: next(s for s in found if not s.parent_id) for id_, found in spans.items()}
        fall = trace_of(receiver, failed)
        lines = [json.loads(line) for line in worker.log.splitlines()]

    def line(text: str) -> dict[str, Any]:
        [found] = [line for line in lines if line["message"].startswith(text)]
        return dict(found)

    [inner] = [span for span in spans[run.id] if span.name == "inner reserve"]
    inside = line("reserving o1")
    assert (inside["trace_id"], inside["span_id"]) == (inner.trace_id, inner.span_id)
    assert inside["step"] == "reserve"
    of_run = line("threaded")
    top = tops[threaded.id]
    assert (of_run["trace_id"], of_run["span_id"]) == (top.trace_id, top.span_id)
    told = line("attempt 1 of step flaky")
    [first] = [span for span in fall if span.attributes.get("rowlock.attempt") == 1]
    assert (told["trace_id"], told["span_id"]) == (first.trace_id, first.span_id)
    end = line(f"run {failed.id} of failing failed")
    assert end["trace_id"] == failed.id.hex
    assert "trace_id" not in line("worker 1 serves")
