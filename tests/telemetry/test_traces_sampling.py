"""Sampling: decided once for a run by what all workers know, and even over run ids."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from rowlock import BlockingClient
from rowlock.telemetry.export import EvenSampler, is_uuid7
from rowlock.telemetry.spans import span_id_of
from telemetry import traced
from telemetry.receiver import Receiver, check_tree
from workers.process import Worker
from workers.until import Sql, until

APP = "telemetry.traced:app"
RUNS = 40
MANY = 4000


def test_a_sampler_that_takes_none_sends_none(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    settings = receiver.environment | {"OTEL_TRACES_SAMPLER": "always_off"}
    with Worker(database, APP, environment=settings) as worker:
        client.start(traced.everything("o1")).result(timeout=60)
        worker.terminate()
        assert worker.wait() == 0
    assert receiver.requests == 0


@pytest.mark.parametrize("sampler", ["parentbased_traceidratio", "traceidratio"])
def test_a_ratio_takes_whole_runs_on_whichever_worker(
    database: str, client: BlockingClient, sql: Sql, receiver: Receiver, sampler: str
) -> None:
    settings = receiver.environment | {
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
    }
    runs = client.start_many([traced.everything(f"o{n}") for n in range(RUNS)])
    with (
        Worker(database, APP, environment=settings, slots=4) as first,
        Worker(database, APP, environment=settings, slots=4) as second,
    ):
        for run in runs:
            run.result(timeout=120)
        for worker in (first, second):
            worker.terminate()
        assert [first.wait(), second.wait()] == [0, 0]
    taken = {span.trace_id for span in receiver.spans}
    assert taken < {run.id.hex for run in runs}
    assert taken
    for trace_id in taken:
        spans = [span for span in receiver.spans if span.trace_id == trace_id]
        check_tree(spans)
        assert len([span for span in spans if span.kind == "run"]) == 3
        assert len([span for span in spans if span.kind in ("step", "transaction")]) == 9


def test_a_caller_that_was_not_sampled_has_no_spans_below(
    database: str, sql: Sql, receiver: Receiver
) -> None:
    context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    start = """select rowlock.start('parent', '{"order": "o1"}', app => 'traced',
                                    trace_context => %s::jsonb)"""
    [(run_id,)] = sql(start, json.dumps(context))
    with Worker(database, APP, environment=receiver.environment) as worker:
        until(lambda: sql.one("select count(*) from rowlock.outcome") == 3)
        worker.terminate()
        assert worker.wait() == 0
    assert receiver.requests == 0
    # Its children hear that from it.
    own = f"00-0af7651916cd43dd8448eb211c80319c-{span_id_of(run_id, 1):016x}-00"
    found = sql(
        "select trace_context ->> 'traceparent' from rowlock.run where parent_id is not null"
    )
    assert found == [(own,)] * 2


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_a_ratio_is_true_of_run_ids(sql: Sql, ratio: float) -> None:
    ids: list[UUID] = [
        row[0] for row in sql("select rowlock.uuidv7() from generate_series(1, 4000)")
    ]
    sampler = EvenSampler(TraceIdRatioBased(ratio))
    taken = [
        sampler.should_sample(None, run_id.int, "run").decision is Decision.RECORD_AND_SAMPLE
        for run_id in ids
    ]
    # Six standard deviations: a thousand million runs of this test for one that fails.
    assert sum(taken) / len(taken) == pytest.approx(
        ratio, abs=6 * (ratio * (1 - ratio) / 4000) ** 0.5
    )
    assert all(is_uuid7(run_id.int) for run_id in ids)


def test_the_ids_of_runs_spans_follow_from_the_run() -> None:
    run_id = UUID("01a204c6-8a9e-73c9-9a88-ca12750177d6")
    assert span_id_of(run_id, 1) == span_id_of(UUID(str(run_id)), 1)
    assert len({span_id_of(run_id, generation) for generation in range(1, 50)}) == 49
    assert 0 < span_id_of(run_id, 1) < 1 << 64
