"""Runs and workers: what nobody serves, who is dead, what needs a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from doctor.conftest import look
from rowlock.doctor import Finding, State
from rowlock.doctor.fleet import serves, workers
from rowlock.store.examination import Demand, WorkerLease
from workers.until import Sql

Doctor = Callable[..., Finding]


@pytest.fixture
def doctor(database: str) -> Doctor:
    def looked(check: str, **options: Any) -> Finding:
        return look(database, check, **options)

    return looked


def worker(sql: Sql, app: str = "shop", *, version: str = "", queues: str | None = None) -> int:
    return int(
        sql.one(
            "select rowlock.register_worker(%s, %s, 'host-1', 77, 9, %s::text[], '1 hour')",
            app,
            version,
            queues,
        )
    )


def start(sql: Sql, *, queue: str = "default", ago: str = "0 s") -> str:
    sql("select rowlock.show_app('shop', '{default,slow}', '{fulfil}', '{default}')")
    run_id = sql.one("select rowlock.start('fulfil', app => 'shop', queue => %s)::text", queue)
    sql(
        "update rowlock.task set due_at = now() - %s::interval where run_id = %s",
        ago,
        run_id,
    )
    return str(run_id)


# --- who serves what


def test_runs_that_no_live_worker_would_claim_fail_by_queue(doctor: Doctor, sql: Sql) -> None:
    assert doctor("unserved").found == "no run is due"
    start(sql, ago="10 min")
    found = doctor("unserved")
    assert found.state is State.FAIL
    assert "1 run in queue default of app shop, the first for 10 min" in found.found
    one = worker(sql, queues="{slow}")
    assert doctor("unserved").state is State.FAIL
    worker(sql, "bank")
    assert doctor("unserved").state is State.FAIL
    sql("update rowlock.worker set queues = '{slow,default}' where id = %s", one)
    assert doctor("unserved").found == "1 run are due, all of them for live workers"
    sql("select rowlock.drain_worker(%s)", one)
    assert doctor("unserved").state is State.FAIL
    sql("select rowlock.pause(queue => 'default', app => 'shop')")  # then none is needed
    assert doctor("unserved").state is State.OK


def test_runs_that_have_just_come_are_no_failure_yet(doctor: Doctor, sql: Sql) -> None:
    start(sql)
    assert doctor("unserved").state is State.WARN


def test_a_sleeper_that_nobody_wakes_is_due_too(doctor: Doctor, sql: Sql) -> None:
    run_id = start(sql, ago="1 hour")
    sql("update rowlock.task set state = 'scheduled' where run_id = %s", run_id)
    assert doctor("unserved").state is State.FAIL
    sql("update rowlock.task set due_at = now() + interval '1 hour' where run_id = %s", run_id)
    assert doctor("unserved").state is State.OK


def test_runs_need_workers_of_their_version(doctor: Doctor, sql: Sql) -> None:
    run_id = start(sql, ago="1 hour")
    worker(sql, version="v1")
    assert doctor("unserved").state is State.OK
    worker(sql, version="v2")
    sql("select rowlock.promote('shop', 'v2')")
    sql("update rowlock.task set version = 'v3' where run_id = %s", run_id)
    found = doctor("unserved")
    assert found.state is State.FAIL
    assert "pinned to version v3" in found.found
    assert found.facts["unserved"][0]["version"] == "v3"


DEMAND = Demand("shop", "default", "", None, 1, 60.0)
LEASE = WorkerLease(1, "shop", "", "h", 1, None, False, 20.0, 0)


@pytest.mark.parametrize(
    ("carries", "pinned", "current", "served"),
    [
        ("", "", None, True),
        ("", "v1", "v2", True),
        ("v1", "", "v1", True),
        ("v1", "", "v2", False),
        ("v1", "v1", "v2", True),
        ("v2", "v1", "v2", False),
    ],
)
def test_versions_fit_as_the_claim_says(
    carries: str, pinned: str, current: str | None, served: bool, sql: Sql
) -> None:
    lease = WorkerLease(1, "shop", carries, "h", 1, None, False, 20.0, 0)
    assert serves(lease, Demand("shop", "default", pinned, current, 1, 60.0)) is served
    # And as the claim itself decides.
    run_id = start(sql)
    me = worker(sql, version=carries)
    known = "insert into rowlock.version (app, name) values ('shop', %s) on conflict do nothing"
    for version in filter(None, {pinned, current}):
        sql(known, version)
    if current:
        sql("select rowlock.promote('shop', %s)", current)
    sql("update rowlock.task set version = %s where run_id = %s", pinned, run_id)
    claimed = sql("select run_id from rowlock.claim(%s, 'shop', %s, null, 10, false)", me, carries)
    assert bool(claimed) is served


# --- workers


def test_a_worker_whose_lease_is_over_is_told_and_fails_if_nobody_takes_over(
    doctor: Doctor, sql: Sql
) -> None:
    one = worker(sql)
    assert doctor("workers").found == "1 alive"
    start(sql)
    sql("select * from rowlock.claim(%s, 'shop', '', null, 1, false)", one)
    dead = "update rowlock.worker set lease_until = now() - %s::interval where id = %s"
    sql(dead, "5 s", one)
    found = doctor("workers")
    assert found.state is State.WARN
    assert f"{one} (host-1, pid 77) of app shop for " in found.found
    assert found.found.endswith("with 1 run")
    sql(dead, "10 min", one)
    found = doctor("workers")
    assert found.state is State.FAIL
    assert "nobody is alive to take their runs over" in found.found
    worker(sql, "bank")
    assert "nobody has taken their runs over" in doctor("workers").found
    sql("select * from rowlock.tend(100, 10)")
    assert doctor("workers").state is State.OK


def test_a_dead_worker_without_runs_costs_nobody_anything() -> None:
    gone = WorkerLease(1, "shop", "", "h", 1, None, False, -9999.0, 0)
    assert workers([gone], 30.0).state is State.WARN


# --- what needs a person


def test_what_is_paused_is_told_with_who_did_it(doctor: Doctor, sql: Sql) -> None:
    assert doctor("pauses").state is State.OK
    start(sql)
    sql("select rowlock.pause(workflow => 'fulfil', app => 'shop', reason => 'a bad day')")
    found = doctor("pauses")
    assert found.state is State.WARN
    assert found.found.startswith("workflow fulfil of app shop for ")
    assert found.found.endswith("by postgres (a bad day)")
    sql("select rowlock.unpause(workflow => 'fulfil', app => 'shop')")
    assert doctor("pauses").state is State.OK


def test_blocked_runs_are_counted_by_workflow_and_reason(doctor: Doctor, sql: Sql) -> None:
    assert doctor("blocked").state is State.OK
    run_ids = [start(sql) for _ in range(4)]
    block = (
        "update rowlock.task set state = 'blocked',"
        " reason = jsonb_build_object('kind', %s::text) where run_id = %s"
    )
    kinds = ("nondeterminism", "nondeterminism", "codec", "paused")
    for kind, run_id in zip(kinds, run_ids, strict=True):
        sql(block, kind, run_id)
    found = doctor("blocked")
    assert found.state is State.WARN
    assert found.found == (
        "3 runs: 2 of fulfil (app shop): nondeterminism; 1 of fulfil (app shop): codec"
    )
    assert found.remedy is not None
    assert "Bring back code" in found.remedy
    assert "codec or key" in found.remedy
    for run_id in run_ids[:3]:
        sql("select rowlock.resume(%s)", run_id)
    assert doctor("blocked").state is State.OK


def test_a_cancel_that_is_not_heeded_is_told(doctor: Doctor, sql: Sql) -> None:
    one = worker(sql)
    run_id = start(sql)
    sql("select * from rowlock.claim(%s, 'shop', '', null, 1, false)", one)
    sql("select rowlock.cancel(%s, interval '0 s')", run_id)
    assert doctor("cancels").state is State.OK
    found = doctor("cancels", long_s=0.0)
    assert found.state is State.WARN
    assert f"{run_id} (running) for " in found.found
    sql("select rowlock.cancel(%s, interval '1 hour', true)", run_id)
    sql("select rowlock.leave(%s)", one)
    sql("select * from rowlock.tend(100, 10)")
    assert doctor("cancels", long_s=0.0).state is State.OK


def test_runs_that_their_policy_does_not_keep_and_that_stay_are_told(
    doctor: Doctor, sql: Sql
) -> None:
    start(sql)
    sql("select rowlock.set_retention(interval '1 hour', app => 'shop')")
    sql("select rowlock.cancel(run_id) from rowlock.runs")
    assert doctor("retention").state is State.OK
    old = "clock_timestamp() - interval '10 hours'"
    new_id = f"rowlock.id_at({old})"
    sql(f"update rowlock.outcome set finished_at = {old}, run_id = {new_id}")
    sql(f"update rowlock.run set created_at = {old}, id = {new_id}")
    found = doctor("retention")
    assert found.state is State.WARN
    assert found.found.endswith("1 run of fulfil (app shop) that have cancelled")
    sql("select rowlock.set_retention(interval '1 hour', app => 'shop', archive => true)")
    assert "rowlock retain --archive" in (doctor("retention").remedy or "")
    sql("select rowlock.set_retention(interval '30 days', app => 'shop')")
    assert doctor("retention").state is State.OK
