"""Partitions and times to begin by, from the start to whatever becomes of the run.

Keys of dedup and debounce, and who meets whom over them: races/test_start_key_races.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import RFC_4122, UUID

import psycopg
import pytest

from store.races.sessions import (
    World,
    child,
    children,
    finish,
    for_end,
    for_group,
    release,
    sleep_on,
    step,
)

IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def tenants(world: World) -> World:
    """Queue `other` has partitions, and is where workflow `invoice` waits; `default` has none."""
    world.anybody.run("update rowlock.queue set partitions = true where name = 'other'")
    world.anybody.run("update rowlock.workflow set queue = 'other' where name = 'invoice'")
    return world


def partitions(world: World, run_id: UUID) -> tuple[Any, ...]:
    """What was asked for, where it waits, and what people see."""
    [row] = world.anybody.run(
        "select r.partition, t.partition, v.partition from rowlock.run as r"
        "  join rowlock.runs as v on v.run_id = r.id"
        "  left join rowlock.task as t on t.run_id = r.id where r.id = %s",
        run_id,
    )
    return row


# --- partitions


def test_a_run_waits_in_its_part_of_the_queue(tenants: World) -> None:
    one = tenants.anybody.start(queue="other", partition="acme")
    [two] = tenants.anybody.start_many({"workflow": "invoice", "partition": "acme"})
    for run_id in (one, two):
        assert partitions(tenants, run_id) == ("acme", "acme", "acme")
    for run_id in (tenants.anybody.start(queue="other"), tenants.anybody.start()):
        assert partitions(tenants, run_id) == (None, None, None)


@pytest.mark.parametrize("queue", ["default", None])
def test_a_queue_without_partitions_takes_none(tenants: World, queue: str | None) -> None:
    with pytest.raises(psycopg.Error) as told:
        tenants.anybody.start(queue=queue, partition="acme")
    assert told.value.sqlstate == "RLV01"
    assert "queue default of app shop has no partitions" in str(told.value)
    assert "Declare the queue with partitions" in (told.value.diag.message_hint or "")
    asked = {"workflow": "fulfil", "queue": queue, "partition": "acme"}
    with pytest.raises(psycopg.Error) as told:
        tenants.anybody.start_many({"workflow": "fulfil"}, asked)
    assert told.value.sqlstate == "RLV01"
    assert "run 2 of 2" in str(told.value)
    assert tenants.count("run") == 0


def test_an_unknown_queue_is_what_is_told_of(tenants: World) -> None:
    with pytest.raises(psycopg.Error) as told:
        tenants.anybody.start(queue="nowhere", partition="acme")
    assert told.value.sqlstate == "RLN01"


def test_a_run_that_is_moved_finds_its_partition_again(tenants: World) -> None:
    run_id = tenants.anybody.start(queue="other", partition="acme")
    move = "select rowlock.move(%s, %s)"
    tenants.anybody.run(move, run_id, "default")
    assert partitions(tenants, run_id) == ("acme", None, None)
    tenants.anybody.run(move, run_id, "other")
    assert partitions(tenants, run_id) == ("acme", "acme", "acme")


def test_a_redo_and_a_fork_wait_where_the_run_did(tenants: World) -> None:
    worker = tenants.worker()
    run_id = tenants.anybody.start(queue="other", partition="acme")
    claimed = worker.claim_run(run_id)
    worker.journal(step(claimed, "1"), finish(claimed, "failed"))
    assert partitions(tenants, run_id) == ("acme", None, "acme")
    tenants.anybody.retry(run_id)
    assert partitions(tenants, run_id) == ("acme", "acme", "acme")
    assert partitions(tenants, tenants.anybody.fork(run_id)) == ("acme", "acme", "acme")
    tenants.anybody.run("update rowlock.queue set partitions = false")
    assert partitions(tenants, tenants.anybody.fork(run_id)) == ("acme", None, None)


def test_a_child_waits_in_its_parents_part_unless_it_says_otherwise(tenants: World) -> None:
    worker = tenants.worker()
    claimed = worker.claim_run(tenants.anybody.start(queue="other", partition="acme"))
    plain, named = child(claimed, "1"), child(claimed, "2")
    plain.child = {"workflow": "invoice", "input": {}}
    named.child = {"workflow": "invoice", "input": {}, "partition": "bolt"}
    elsewhere = child(claimed, "3")
    elsewhere.child = {"workflow": "fulfil", "input": {}}
    group = children(claimed, "4", 2)
    worker.journal(plain, named, elsewhere, group)
    seen = tenants.anybody.run(
        "select r.parent_place, t.partition from rowlock.run as r"
        "  join rowlock.task as t on t.run_id = r.id where r.parent_id = %s order by 1",
        claimed.run_id,
    )
    assert seen == [("1", "acme"), ("2", "bolt"), ("3", None), ("4", "acme"), ("4", "acme")]
    [keyed] = tenants.anybody.start_many(
        {"workflow": "invoice", "key": "k", "parent_id": str(claimed.run_id)}
    )
    assert partitions(tenants, keyed) == ("acme", "acme", "acme")


# --- too late to begin


def too_late(world: World, *run_ids: UUID) -> None:
    """It has become so."""
    world.anybody.run(
        "update rowlock.task set start_before = clock_timestamp() where run_id = any (%s)",
        list(run_ids),
    )


def test_a_run_that_has_not_begun_in_time_fails(world: World) -> None:
    late = world.anybody.start(start_before=IN_AN_HOUR)
    [early] = world.anybody.start_many(
        {"workflow": "fulfil", "start_before": IN_AN_HOUR.isoformat()}
    )
    assert world.anybody.tend().promoted == 0
    too_late(world, late)
    assert world.anybody.tend().promoted == 1
    assert (world.state(late), world.state(early)) == ("failed", "ready")
    [[error, seen]] = world.anybody.run(
        "select error, start_before from rowlock.runs where run_id = %s", late
    )
    assert error["type"] == "rowlock.errors.DeadlineExceeded"
    assert error["message"].startswith(
        "it is too late to begin: the run of fulfil had not begun by"
    )
    assert seen == IN_AN_HOUR


def test_workers_come_back_for_it_in_time(world: World) -> None:
    world.anybody.start(start_before=IN_AN_HOUR)
    world.anybody.start(delay=7200)
    next_due_in = world.anybody.tend().next_due_in
    assert next_due_in is not None
    assert next_due_in <= 3600


def test_a_run_that_has_begun_is_never_too_late(world: World) -> None:
    worker = world.worker()
    run_id = world.anybody.start(start_before=IN_AN_HOUR)
    claimed = worker.claim_run(run_id)
    too_late(world, run_id)
    assert world.anybody.tend().promoted == 0
    worker.journal(release(claimed))
    assert world.anybody.tend().promoted == 0
    assert world.state(run_id) == "ready"


def test_whatever_holds_it_back_it_is_too_late(world: World) -> None:
    scheduled = world.anybody.start(delay=7200, start_before=IN_AN_HOUR + timedelta(hours=2))
    paused = world.anybody.start(start_before=IN_AN_HOUR)
    world.anybody.run("select rowlock.pause(workflow => 'fulfil')")
    assert world.worker().claim() == []
    assert world.state(paused) == "blocked"
    too_late(world, scheduled, paused)
    world.anybody.tend()
    assert (world.state(scheduled), world.state(paused)) == ("failed", "failed")
    assert world.count("task") == 0


def test_a_retry_may_begin_whenever(world: World) -> None:
    worker = world.worker()
    run_id = world.anybody.start(start_before=IN_AN_HOUR)
    too_late(world, run_id)
    world.anybody.tend()
    world.anybody.retry(run_id)
    world.anybody.tend()
    assert [one.run_id for one in worker.claim()] == [run_id]


def test_who_waits_for_it_hears_of_it(world: World) -> None:
    worker = world.worker()
    for_one, for_all, grandparent = world.claimed_by(worker, 3)
    one, many, other = child(for_one, "1"), children(for_all, "1", 2), child(grandparent, "1")
    answer = worker.journal(one, many, other)
    late = UUID(answer.detail(one))
    group = answer.detail(many)
    worker.journal(
        sleep_on(for_one, for_end(late)),
        sleep_on(for_all, for_group(group, 2)),
        sleep_on(grandparent, for_end(UUID(answer.detail(other)))),
    )
    of_group = world.anybody.run("select id from rowlock.run where child_index is not null")
    too_late(world, late, *[run_id for [run_id] in of_group])
    world.anybody.tend()
    assert [world.state(one.run_id) for one in (for_one, for_all)] == ["ready", "ready"]
    assert world.state(grandparent.run_id) == "waiting"


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_it_is_claimed_or_too_late_and_nobody_waits(world: World, fate: str) -> None:
    worker, other = world.worker(), world.session("other")
    first, second = world.anybody.start(), world.anybody.start()
    too_late(world, first)
    worker.begin()
    [claimed] = worker.claim(1)
    assert claimed.run_id == first
    ends = other.go(other.tend)
    assert not ends.waits()
    assert ends.result().promoted == 0
    worker.end(fate)
    assert other.tend().promoted == (0 if fate == "commit" else 1)
    assert world.state(first) == ("running" if fate == "commit" else "failed")
    assert world.state(second) == "ready"


def test_a_sweep_is_bounded(world: World) -> None:
    late = [world.anybody.start(start_before=IN_AN_HOUR) for _ in range(5)]
    too_late(world, *late)
    assert [world.anybody.tend(limit=2).promoted for _ in range(4)] == [2, 2, 1, 0]
    assert {world.state(run_id) for run_id in late} == {"failed"}


# --- ids


def test_ids_are_in_the_order_in_which_they_were_made(world: World) -> None:
    """Within a millisecond too, in which one call starts many. Two of a microsecond are in any."""
    a_few_us = "md5(repeat('x', 5000))"
    ids = world.anybody.run(f"select rowlock.uuidv7(), {a_few_us} from generate_series(1, 1000)")
    made = [one for one, _ in ids]
    assert made == sorted(made)
    assert {one.version for one in made} == {7}
    assert {one.variant for one in made} == {RFC_4122}
    since = datetime.fromtimestamp((made[-1].int >> 80) / 1000, UTC)
    assert abs(datetime.now(UTC) - since) < timedelta(minutes=1)
