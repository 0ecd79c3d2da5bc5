"""Pauses that begin and end while claims, tenders and strangers are at work.

A pause is read, never waited for. What a claim sets aside for a paused workflow comes back when
the pause is over, whoever was faster: nothing may stay behind.
"""

from __future__ import annotations

import psycopg
import pytest

from store.races.sessions import Session, Worker, World, for_message, sleep_on

ISOLATIONS = ["read committed", "repeatable read", "serializable"]
FATES = ["commit", "rollback"]
PAUSES = {
    "queue": "'default'",
    "workflow": "workflow => 'fulfil'",
    "app": "app => 'shop'",
}


def pause(session: Session, what: str) -> bool:
    return bool(session.ask(f"select rowlock.pause({PAUSES[what]})"))


def unpause(session: Session, what: str) -> bool:
    return bool(session.ask(f"select rowlock.unpause({PAUSES[what]})"))


def claims_at_once(worker: Worker) -> int:
    claim = worker.go(worker.claim)
    assert not claim.waits()
    return len(claim.result())


def tends_at_once(world: World) -> int:
    tend = world.anybody.go(world.anybody.tend)
    assert not tend.waits()
    return tend.result().promoted


def set_aside(world: World) -> int:
    return int(world.anybody.ask("select count(*) from rowlock.task where state = 'blocked'"))


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("what", PAUSES)
def test_a_pause_holds_from_its_commit_on_and_nobody_waits_for_it(
    world: World, what: str, fate: str, isolation: str
) -> None:
    worker = world.worker()
    world.anybody.start()
    caller = world.session("caller").begin(isolation)
    assert pause(caller, what)
    assert claims_at_once(worker) == 1
    caller.end(fate)
    world.anybody.start()
    assert claims_at_once(worker) == (0 if fate == "commit" else 1)


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("what", PAUSES)
def test_the_end_of_a_pause_holds_from_its_commit_on_and_nobody_waits_for_it(
    world: World, what: str, fate: str, isolation: str
) -> None:
    worker = world.worker()
    world.anybody.start()
    pause(world.anybody, what)
    assert claims_at_once(worker) == 0
    caller = world.session("caller").begin(isolation)
    assert unpause(caller, what)
    assert claims_at_once(worker) == 0
    tends_at_once(world)
    caller.end(fate)
    tends_at_once(world)
    assert claims_at_once(worker) == (1 if fate == "commit" else 0)
    assert world.count("pause") == (0 if fate == "commit" else 1)


@pytest.mark.parametrize("fate", FATES)
def test_what_a_claim_sets_aside_while_the_pause_ends_comes_back(world: World, fate: str) -> None:
    """The claim saw the pause, and is not committed when everybody else believes it is over."""
    worker, other = world.worker(), world.worker("other")
    world.anybody.start()
    pause(world.anybody, "workflow")
    assert worker.begin().claim() == []
    caller = world.session("caller")
    ends = caller.go(lambda: unpause(caller, "workflow"))
    assert not ends.waits()
    assert ends.result()
    assert tends_at_once(world) == 0
    assert world.count("pause") == 1, "the claim acts for it still"
    worker.end(fate)
    assert tends_at_once(world) == (1 if fate == "commit" else 0)
    assert world.count("pause") == 0
    assert (set_aside(world), claims_at_once(other)) == (0, 1)


def test_nothing_is_set_aside_for_a_pause_that_is_over(world: World) -> None:
    """As by a claim that looked just before."""
    world.anybody.start()
    pause(world.anybody, "workflow")
    unpause(world.anybody, "workflow")
    for _ in range(2):
        clear = world.anybody.ask(
            "select rowlock.set_aside('shop', 'default', '', '{\"\"}', '{fulfil}', 10)"
        )
        assert (clear, set_aside(world)) == (True, 0)
        world.anybody.tend()
        assert world.count("pause") == 0


def test_a_pause_that_begins_again_before_all_are_back_keeps_the_rest(world: World) -> None:
    worker = world.worker()
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 5)
    pause(world.anybody, "workflow")
    assert claims_at_once(worker) == 0
    unpause(world.anybody, "workflow")
    assert world.anybody.tend(limit=2).promoted == 2
    assert pause(world.anybody, "workflow")
    assert tends_at_once(world) == 0
    assert (claims_at_once(worker), set_aside(world)) == (0, 5)
    assert unpause(world.anybody, "workflow")
    assert tends_at_once(world) == 5
    assert claims_at_once(worker) == 5


def test_a_stranger_who_holds_one_that_was_set_aside_holds_up_no_other(world: World) -> None:
    worker = world.worker()
    held, *_ = world.anybody.start_many(*[{"workflow": "fulfil"}] * 3)
    pause(world.anybody, "workflow")
    assert claims_at_once(worker) == 0
    stranger = world.session("stranger").begin()
    stranger.run("select rowlock.reprioritise(%s, 1)", held)
    unpause(world.anybody, "workflow")
    assert tends_at_once(world) == 2
    assert claims_at_once(worker) == 2
    assert (tends_at_once(world), world.count("pause")) == (0, 1)
    stranger.commit()
    assert tends_at_once(world) == 1
    assert (claims_at_once(worker), world.count("pause")) == (1, 0)


def test_a_stranger_who_holds_the_head_of_a_queue_holds_up_nobody_behind_it(world: World) -> None:
    """Deeper than a claim looks at first, all of a paused workflow, and none can be set aside."""
    worker = world.worker()
    worker.heartbeat(lease_s=600)
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 700)
    world.anybody.start("invoice")
    pause(world.anybody, "workflow")
    stranger = world.session("stranger").begin()
    stranger.run("select rowlock.move(run_id, 'other') from rowlock.task order by run_id limit 700")
    assert claims_at_once(worker) == 1
    assert set_aside(world) == 0
    stranger.commit()
    assert (claims_at_once(worker), set_aside(world)) == (0, 700)


def test_two_workers_set_aside_side_by_side(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    one.heartbeat(lease_s=600)
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 3000)
    world.anybody.start("invoice")
    pause(world.anybody, "workflow")
    assert one.begin().claim() == []
    assert claims_at_once(two) == 1
    one.commit()
    assert set_aside(world) == 3000


def test_two_callers_pause_the_same_thing_one_after_the_other(world: World) -> None:
    one, two = world.session("one").begin(), world.session("two")
    assert pause(one, "queue")
    second = two.go(lambda: pause(two, "queue"))
    assert second.waits()
    other = world.anybody.go(lambda: pause(world.anybody, "app"))
    assert not other.waits()
    one.commit()
    assert second.result() is False


def test_an_old_snapshot_is_told_that_it_is_old(world: World) -> None:
    caller = world.session("caller").begin("repeatable read")
    caller.ask("select count(*) from rowlock.pause")
    pause(world.anybody, "workflow")
    with pytest.raises(psycopg.errors.SerializationFailure):
        pause(caller, "workflow")


def test_a_cancel_of_what_is_set_aside_beside_the_end_of_the_pause(world: World) -> None:
    """In either order the run cleans up, for it had begun."""
    worker = world.worker()
    [run] = world.claimed_by(worker)
    worker.journal(sleep_on(run, for_message()))
    world.anybody.send(run.run_id)
    pause(world.anybody, "workflow")
    assert claims_at_once(worker) == 0
    caller = world.session("caller").begin()
    caller.cancel(run.run_id)
    unpause(world.anybody, "workflow")
    assert tends_at_once(world) == 0
    caller.commit()
    tends_at_once(world)
    claimed = worker.claim_run(run.run_id)
    assert claimed.cancel is not None
