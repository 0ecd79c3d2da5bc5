"""What a point measures and checks, and that each check can fail."""

from __future__ import annotations

import pytest

from loadtest.making import Breaks, Stalls
from rowlock_loadtest.contention import truth
from rowlock_loadtest.contention.crew import ClientFailed
from rowlock_loadtest.contention.roles import Claimer, Starter
from rowlock_loadtest.contention.scenarios import limited
from rowlock_loadtest.contention.seat import Span
from rowlock_loadtest.contention.stage import Stage

QUEUE = "work"


def filled(stage: Stage, runs: int) -> None:
    stage.fresh([QUEUE])
    truth.fill(stage.connection, stage.app, [QUEUE], runs)


def test_all_that_was_started_is_finished_once(stage: Stage) -> None:
    filled(stage, 200)
    point, tally = stage.play(
        "p",
        [*[Claimer(stage.app, 10)] * 3, Starter(stage.app, (QUEUE,), 0.005)],
        accepted=200,
        seconds=1.0,
    )
    assert point.ok, point.checks
    assert tally.counts["finished"] >= 200
    assert len(set(tally.claims)) == len(tally.claims)
    assert point.latencies["claim"].total
    assert point.costs["WAL bytes"] > 100


def test_a_stall_delays_what_was_planned_meanwhile(stage: Stage) -> None:
    running = stage.crew.begin(stage.place.url, [Stalls()], Span(0.6))
    late = running.result().latencies["claim"]
    # Those planned within 0.2 s were answered after 0.3 s at the earliest: 20 of at most 60.
    assert late.quantile(0.7) >= 0.1


def test_an_error_of_a_client_is_no_result(stage: Stage) -> None:
    with pytest.raises(ClientFailed, match="division by zero"):
        stage.crew.begin(stage.place.url, [Breaks()], Span(0.1)).result()
    # The crew is whole.
    filled(stage, 10)
    point, _ = stage.play("p", [Claimer(stage.app, 10)], accepted=10)
    assert point.ok


def test_a_run_that_vanished_is_found(stage: Stage) -> None:
    filled(stage, 50)
    stage.connection.execute(
        "delete from rowlock.task where run_id = (select min(run_id::text)::uuid from rowlock.task)"
    )
    point, _ = stage.play("p", [Claimer(stage.app, 10)], accepted=50)
    assert [check.name for check in point.checks if not check.ok] == ["nothing is lost"]


def test_a_claim_that_was_given_twice_is_found(stage: Stage) -> None:
    filled(stage, 50)
    _, tally = stage.play("p", [Claimer(stage.app, 10)], accepted=50)
    checks = truth.checked(
        stage.connection,
        stage.app,
        accepted=50,
        claims=[*tally.claims, tally.claims[0]],
        finishes=tally.finishes,
    )
    assert [check.name for check in checks if not check.ok] == ["nothing is doubled"]


def test_an_acknowledged_finish_without_an_outcome_is_found(stage: Stage) -> None:
    filled(stage, 50)
    _, tally = stage.play("p", [Claimer(stage.app, 10)], accepted=50)
    checks = truth.checked(
        stage.connection,
        stage.app,
        accepted=50,
        claims=tally.claims,
        finishes=[(run, epoch + 1) for run, epoch in tally.finishes],
    )
    assert [check.name for check in checks if not check.ok] == ["what was acknowledged is there"]


def test_a_limit_that_nobody_keeps_is_found_exceeded(stage: Stage) -> None:
    point = limited(stage, "nobody knows of it", {}, 1)
    assert [check.name for check in point.checks if not check.ok] == ["the limit is never exceeded"]
    assert (point.most_running or 0) > 1


def test_a_rate_is_measured_over_several_of_its_periods(stage: Stage) -> None:
    point = limited(stage, "100 a second", {"rate": "100/s"}, None)
    assert point.ok, point.checks
    assert 60 <= point.per_second <= 110


def test_the_most_at_one_instant_counts_who_ends_as_the_next_begins_as_one(stage: Stage) -> None:
    filled(stage, 4)
    stage.connection.execute(
        "insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app,"
        " workflow, queue, version, status)"
        " select run_id, now() + n * interval '1 s', now() + (n + 1) * interval '1 s', 1, 1, app,"
        " workflow, queue, '', 'succeeded'"
        " from (select t.*, row_number() over () as n from rowlock.task as t) as t"
    )
    assert truth.most_at_once(stage.connection, stage.app, QUEUE) == 1
    stage.connection.execute(
        "update rowlock.outcome set finished_at = finished_at + interval '0.5 s'"
    )
    assert truth.most_at_once(stage.connection, stage.app, QUEUE) == 2
