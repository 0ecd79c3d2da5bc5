"""Starts: one run a key, whatever the fate of the other; an open one holds up nobody else."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest

from store.races.sessions import Session, World, release


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_second_start_with_a_key_waits_and_gives_the_run_there_is(
    world: World, fate: str
) -> None:
    """7a, 7b: the first one's run, or its own if the first vanished."""
    one, two = world.session("one").begin(), world.session("two").begin()
    first = one.start(key="order-7")
    starts = two.go(lambda: two.start(key="order-7"))
    assert starts.waits()
    one.end(fate)
    second = starts.result()
    two.commit()
    assert (second == first) == (fate == "commit")
    assert (world.count("run"), world.count("task"), world.count("run_key")) == (1, 1, 1)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_key_that_came_after_the_callers_snapshot_is_a_serialization_failure(
    world: World, level: str
) -> None:
    """7c: the caller must try again; a run without an id would be worse."""
    caller = world.session("caller").begin(level)
    caller.run("select count(*) from rowlock.run")
    world.anybody.start(key="order-7")
    with pytest.raises(psycopg.errors.SerializationFailure):
        caller.start(key="order-7")
    caller.rollback()
    assert caller.start(key="order-7") == world.anybody.start(key="order-7")


def test_the_same_keys_in_opposite_order_never_deadlock(world: World) -> None:
    """7d: start_many takes them sorted."""

    def runs(keys: list[str]) -> list[dict[str, str]]:
        return [{"workflow": "fulfil", "key": key} for key in keys]

    sessions = [world.session(f"caller {n}") for n in range(4)]

    def work(session: Session) -> list[list[UUID]]:
        dice = random.Random(session.pid)
        found = []
        for round_ in range(25):
            keys = [f"{round_}-{n}" for n in range(12)]
            shuffled = dice.sample(keys, len(keys))
            by_key = dict(zip(shuffled, session.start_many(*runs(shuffled)), strict=True))
            found.append([by_key[key] for key in keys])
        return found

    with ThreadPoolExecutor(len(sessions)) as threads:
        answers = list(threads.map(work, sessions))
    assert all(answer == answers[0] for answer in answers)
    assert world.count("run") == 25 * 12


def test_opposite_orders_meet_at_the_first_key(world: World) -> None:
    """7d, held open: the second waits, and then gets the runs of the first."""
    one, two = world.session("one").begin(), world.session("two")
    asked = [{"workflow": "fulfil", "key": key} for key in ("a", "b", "c")]
    first = one.start_many(*asked)
    starts = two.go(lambda: two.start_many(*reversed(asked)))
    assert starts.waits()
    one.commit()
    assert starts.result() == first[::-1]


def test_a_key_twice_in_one_call_is_one_run(world: World) -> None:
    asked = {"workflow": "fulfil", "key": "order-7"}
    first, plain, second = world.anybody.start_many(asked, {"workflow": "fulfil"}, asked)
    assert first == second != plain
    assert world.count("run") == 2


def test_an_open_start_is_claimed_by_nobody_and_after_its_commit_by_somebody(
    world: World,
) -> None:
    caller, worker = world.session("caller").begin(), world.worker()
    run_id = caller.start()
    assert worker.claim() == []
    caller.commit()
    assert [one.run_id for one in worker.claim()] == [run_id]


def test_two_processes_may_show_the_same_app_at_once(world: World) -> None:
    """The second waits for the first one's rows, then finds nothing to do."""
    show = (
        "select rowlock.show_app('shop', array['default', 'new'], array['fulfil', 'fresh'],"
        " array['default', 'new'])"
    )
    one, two = world.session("one").begin(), world.session("two")
    one.run(show)
    shows = two.go(lambda: two.run(show))
    assert shows.waits()
    one.commit()
    shows.result()
    assert world.count("queue") == world.count("queue_gate") == 3


def test_a_run_whose_workflow_nobody_knew_is_ready_when_somebody_shows_it(world: World) -> None:
    worker = world.worker()
    known, stuck = world.claimed_by(worker, 2)
    worker.journal(release(known, "unknown_workflow"), release(stuck, "unknown_workflow"))
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", stuck.run_id)
    show = "select rowlock.show_app('shop', array['default'], array['fulfil'], array['default'])"
    shows = world.anybody.go(lambda: world.anybody.run(show))
    assert not shows.waits()
    shows.result()
    assert (world.state(known.run_id), world.state(stuck.run_id)) == ("ready", "blocked")
    stranger.rollback()


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_two_who_resume_a_run_resume_it_once(world: World, fate: str) -> None:
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    worker.journal(release(claimed, "nondeterminism"))
    one, two = world.session("one").begin(), world.session("two")
    one.run("select rowlock.resume(%s)", claimed.run_id)

    def resume() -> str | None:
        try:
            two.run("select rowlock.resume(%s)", claimed.run_id)
        except psycopg.Error as error:
            return error.sqlstate
        return None

    second = two.go(resume)
    assert second.waits()
    one.end(fate)
    assert second.result() == ("RLS01" if fate == "commit" else None)
    assert world.state(claimed.run_id) == "ready"
