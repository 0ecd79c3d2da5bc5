"""Requests to cancel: each reaches its run, and no other generation but those it goes on as.

A request is a row that nobody waits for. Whoever claims, renews a lease or goes to sleep reads it;
the sweep looks at it, ever more seldom, until its run has ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import Claimed
from store.races.sessions import (
    MAX_TAKEOVERS,
    PATIENCE_S,
    Session,
    Worker,
    World,
    child,
    finish,
    for_end,
    for_message,
    go_on,
    release,
    sleep_on,
    step,
    stop,
    timer,
)

FATES = ["commit", "rollback"]
ISOLATIONS = ["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True)
class Owned:
    """A run and its worker."""

    worker: Worker
    run: Claimed

    @property
    def run_id(self) -> UUID:
        return self.run.run_id

    def sleep(self, *, told: bool = False) -> str:
        return self.worker.verdict(sleep_on(self.run, for_message(), told=told))


@pytest.fixture
def owned(world: World) -> Owned:
    worker = world.worker("owner")
    return Owned(worker, world.claimed_by(worker)[0])


def told_by_heartbeat(worker: Worker) -> dict[str, Any]:
    owns = worker.heartbeat()
    assert owns is not None
    return dict(json.loads(owns.cancels)) if owns.cancels else {}


def sweep_as_time_goes_by(world: World) -> None:
    """All requests are looked at again."""
    world.anybody.run("update rowlock.cancel_request set look_at = clock_timestamp()")
    world.anybody.tend()


def is_to_be_cancelled(world: World, run_id: UUID) -> bool:
    """Claims the run, and says whether the claim tells of a request."""
    [claimed] = [one for one in world.worker("next").claim() if one.run_id == run_id]
    return claimed.cancel is not None


# --- before it began, while it sleeps, while it runs


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_run_that_never_began_ends_with_the_callers_commit(
    world: World, isolation: str, fate: str
) -> None:
    run_id = world.anybody.start()
    caller = world.session("caller").begin(isolation)
    caller.cancel(run_id)
    worker = world.worker()
    claim = worker.go(worker.claim)
    assert not claim.waits()
    assert claim.result() == []
    caller.end(fate)
    assert world.state(run_id) == ("cancelled" if fate == "commit" else "ready")
    sweep_as_time_goes_by(world)
    assert world.count("cancel_request") == 0


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_cancel_that_meets_an_open_claim_passes_it_and_the_sweep_finds_what_came_of_it(
    world: World, isolation: str, fate: str
) -> None:
    run_id = world.anybody.start()
    worker, caller = world.worker(), world.session("caller")
    worker.begin().claim()
    caller.begin(isolation)
    cancels = caller.go(lambda: caller.cancel(run_id))
    assert not cancels.waits()
    cancels.result()
    caller.commit()
    worker.end(fate)
    sweep_as_time_goes_by(world)
    if fate == "commit":
        assert str(run_id) in told_by_heartbeat(worker)
    else:
        assert world.state(run_id) == "cancelled"


def test_a_worker_that_claimed_while_the_cancel_was_open_is_told_by_the_sweep(world: World) -> None:
    """Neither the claim nor the caller could know of the other."""
    run_id = world.anybody.start()
    worker, caller = world.worker(), world.session("caller").begin()
    worker.begin().claim()
    caller.cancel(run_id)
    worker.commit()
    caller.commit()
    worker.run(f"listen rowlock_worker_{worker.worker_id}")
    world.anybody.tend()
    [notice] = worker.connection.notifies(timeout=PATIENCE_S, stop_after=1)
    assert notice.payload == "cancel"


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_sleeping_run_is_claimed_and_told(
    world: World, owned: Owned, isolation: str, fate: str
) -> None:
    owned.sleep()
    caller = world.session("caller").begin(isolation)
    caller.cancel(owned.run_id, reason="no longer needed")
    tend = world.anybody.go(world.anybody.tend)
    assert not tend.waits()
    caller.end(fate)
    world.anybody.tend()
    if fate == "rollback":
        assert world.state(owned.run_id) == "waiting"
        return
    run = owned.worker.claim_run(owned.run_id)
    assert run.cancel is not None
    assert json.loads(run.cancel) == {"grace_s": 30, "force": False, "reason": "no longer needed"}


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_running_run_hears_with_the_heartbeat_and_stays_awake(
    world: World, owned: Owned, isolation: str, fate: str
) -> None:
    caller = world.session("caller").begin(isolation)
    caller.cancel(owned.run_id)
    assert told_by_heartbeat(owned.worker) == {}
    caller.end(fate)
    if fate == "commit":
        assert list(told_by_heartbeat(owned.worker)) == [str(owned.run_id)]
        assert owned.sleep() == "look"
        assert owned.sleep(told=True) == "written"
    else:
        assert told_by_heartbeat(owned.worker) == {}
        assert owned.sleep() == "written"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_run_that_falls_asleep_while_the_cancel_is_open_is_found_by_the_sweep(
    world: World, owned: Owned, isolation: str
) -> None:
    """3l: the caller found it running."""
    caller = world.session("caller").begin(isolation)
    caller.cancel(owned.run_id)
    assert owned.worker.verdict(timer(owned.run, "1"), sleep_on(owned.run, timers=("1",))) == (
        "written"
    )
    caller.commit()
    assert world.state(owned.run_id) == "waiting"
    world.anybody.tend()
    assert world.state(owned.run_id) == "ready"
    assert is_to_be_cancelled(world, owned.run_id)


@pytest.mark.parametrize("fate", FATES)
def test_a_cancel_beside_an_open_sleep_waits_for_its_own_run_and_finds_it(
    world: World, owned: Owned, fate: str
) -> None:
    """On a timer alone it holds no run row: the caller sees it run, the sweep sees it asleep."""
    owned.worker.begin()
    owned.worker.journal(timer(owned.run, "1"), sleep_on(owned.run, timers=("1",)))
    caller = world.session("caller")
    cancels = caller.go(lambda: caller.cancel(owned.run_id))
    assert not cancels.waits()
    cancels.result()
    assert world.anybody.tend().woken == 0
    owned.worker.end(fate)
    if fate == "rollback":
        assert owned.sleep() == "look"
        return
    sweep_as_time_goes_by(world)
    assert is_to_be_cancelled(world, owned.run_id)


def test_a_request_outlives_takeovers_and_releases(world: World, owned: Owned) -> None:
    world.anybody.cancel(owned.run_id)
    sweep_as_time_goes_by(world)
    world.expire(owned.worker)
    world.anybody.reap()
    sweep_as_time_goes_by(world)
    fresh = world.worker("fresh")
    run = fresh.claim_run(owned.run_id)
    assert run.cancel is not None
    fresh.journal(release(run))
    sweep_as_time_goes_by(world)
    run = fresh.claim_run(owned.run_id)
    assert run.cancel is not None
    fresh.journal(finish(run, "cancelled"))
    assert world.count("cancel_request") == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_blocked_run_ends_without_its_code(world: World, owned: Owned, when: str) -> None:
    """Also when it is blocked after it was asked."""
    if when == "before":
        world.anybody.cancel(owned.run_id)
        sweep_as_time_goes_by(world)
    owned.worker.journal(release(owned.run, "nondeterminism"))
    if when == "after":
        world.anybody.cancel(owned.run_id)
    sweep_as_time_goes_by(world)
    assert world.state(owned.run_id) == "cancelled"
    sweep_as_time_goes_by(world)
    assert world.count("cancel_request") == 0


@pytest.mark.parametrize("first", ["resume", "cancel"])
def test_of_resume_and_cancel_of_a_blocked_run_the_later_counts(
    world: World, owned: Owned, first: str
) -> None:
    owned.worker.journal(release(owned.run, "nondeterminism"))
    one, two = world.session("one").begin(), world.session("two")
    calls = {"resume": Session.resume, "cancel": Session.cancel}
    calls[first](one, owned.run_id)
    second = calls["cancel" if first == "resume" else "resume"]
    pending = two.go(lambda: second(two, owned.run_id))
    assert pending.waits() == (first == "cancel")
    if first == "resume":
        pending.result()
    one.commit()
    pending.result()
    sweep_as_time_goes_by(world)
    assert world.state(owned.run_id) == "ready"
    assert is_to_be_cancelled(world, owned.run_id) == (first == "resume")


def test_a_run_that_cleans_up_and_sleeps_is_not_woken_by_its_request(
    world: World, owned: Owned
) -> None:
    """It has seen it: an undo that is tried again in an hour is not to be tried every second."""
    world.anybody.cancel(owned.run_id)
    retries = timer(owned.run, "5", kind="retry", attempt=1)
    sleeps = sleep_on(owned.run, timers=("5",), told=True)
    assert owned.worker.verdict(stop(owned.run), retries, sleeps) == "written"
    for _ in range(3):
        sweep_as_time_goes_by(world)
    assert world.state(owned.run_id) == "waiting"
    assert world.count("cancel_request") == 1


# --- the end, and other generations


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_cancel_beside_an_open_finish_comes_too_late_and_leaves_nothing(
    world: World, owned: Owned, isolation: str, fate: str
) -> None:
    caller = world.session("caller").begin(isolation)
    caller.ask("select count(*) from rowlock.task")
    owned.worker.begin().journal(finish(owned.run))
    cancels = caller.go(lambda: caller.cancel(owned.run_id))
    assert not cancels.waits()
    cancels.result()
    owned.worker.end(fate)
    caller.commit()
    sweep_as_time_goes_by(world)
    if fate == "commit":
        assert world.state(owned.run_id) == "succeeded"
        assert world.count("cancel_request") == 0
        with pytest.raises(psycopg.errors.DatabaseError, match="has ended"):
            world.anybody.cancel(owned.run_id)
    else:
        assert str(owned.run_id) in told_by_heartbeat(owned.worker)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_journal_waits_for_no_caller_who_cancels_a_second_time(
    world: World, owned: Owned, isolation: str
) -> None:
    """Its run was asked before, and clears the request away as it ends; the caller stays open."""
    world.anybody.cancel(owned.run_id)
    [other] = world.claimed_by(owned.worker)
    caller = world.session("caller").begin(isolation)
    caller.cancel(owned.run_id, force=True)
    ends = finish(owned.run, "cancelled")
    ends.cancelled = True
    flush = owned.worker.go(lambda: owned.worker.journal(ends, step(other, "1")))
    assert not flush.waits()
    assert flush.result().of(ends) == "written"
    caller.commit()
    sweep_as_time_goes_by(world)
    assert world.count("cancel_request") == 0


@pytest.mark.parametrize("order", ["settled", "unsettled"])
def test_tending_waits_for_no_caller_who_cancels_a_second_time(
    world: World, owned: Owned, order: str
) -> None:
    owned.sleep()
    never = world.anybody.start()
    for run_id in (owned.run_id, never):
        world.anybody.run(
            "insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force)"
            " values (%s, clock_timestamp(), 1, 30, false)",
            run_id,
        )
    if order == "settled":
        world.anybody.sweep_cancels(1)
    caller = world.session("caller").begin()
    caller.cancel(owned.run_id)
    tend = world.anybody.go(world.anybody.tend)
    assert not tend.waits()
    tend.result()
    caller.commit()
    sweep_as_time_goes_by(world)
    assert world.state(never) == "cancelled"
    assert world.state(owned.run_id) == "ready"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_request_follows_its_run_into_the_next_generation(
    world: World, owned: Owned, isolation: str
) -> None:
    """The run continues as new while the caller's transaction is open, in either order."""
    caller = world.session("caller").begin(isolation)
    caller.ask("select count(*) from rowlock.task")
    caller.cancel(owned.run_id)
    go = owned.worker.go(lambda: owned.worker.verdict(go_on(owned.run)))
    assert not go.waits()
    assert go.result() == "written"
    caller.commit()
    sweep_as_time_goes_by(world)
    assert world.count("cancel_request") == 1
    run = owned.worker.claim_run(owned.run_id)
    assert run.generation == 2
    assert run.cancel is not None
    assert owned.worker.verdict(go_on(run)) == "written"
    run = owned.worker.claim_run(owned.run_id)
    assert (run.generation, run.cancel is not None) == (3, True)
    owned.worker.journal(finish(run, "cancelled"))
    assert world.count("cancel_request") == 0


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_cancel_beside_an_open_continue_finds_the_next_generation(
    world: World, owned: Owned, isolation: str
) -> None:
    caller = world.session("caller").begin(isolation)
    caller.ask("select count(*) from rowlock.task")
    owned.worker.begin()
    owned.worker.journal(go_on(owned.run))
    cancels = caller.go(lambda: caller.cancel(owned.run_id))
    assert not cancels.waits()
    cancels.result()
    owned.worker.commit()
    caller.commit()
    sweep_as_time_goes_by(world)
    assert is_to_be_cancelled(world, owned.run_id)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_request_for_a_generation_that_ended_cancels_no_later_one(
    world: World, owned: Owned, isolation: str
) -> None:
    """The run fails while the cancel is open, and is retried before anybody swept."""
    caller = world.session("caller").begin(isolation)
    caller.cancel(owned.run_id)
    owned.worker.journal(finish(owned.run, "failed"))
    caller.commit()
    world.anybody.retry(owned.run_id)
    world.anybody.promote_due()
    run = owned.worker.claim_run(owned.run_id)
    assert run.cancel is None
    assert told_by_heartbeat(owned.worker) == {}
    sleeps = sleep_on(run, for_message())
    assert owned.worker.verdict(sleeps) == "written"
    sweep_as_time_goes_by(world)
    assert world.state(owned.run_id) == "waiting"
    assert world.count("cancel_request") == 0


def test_a_request_whose_run_is_given_up_as_dead_is_cleared_away(
    world: World, owned: Owned
) -> None:
    world.anybody.cancel(owned.run_id)
    for _ in range(MAX_TAKEOVERS):
        owner = world.task(owned.run_id).worker_id
        assert owner is not None
        world.expire(world.connect_again(owner))
        world.anybody.reap()
        sweep_as_time_goes_by(world)
        world.worker("next").claim()
    assert world.state(owned.run_id) == "dead"
    sweep_as_time_goes_by(world)
    assert world.count("cancel_request") == 0


def test_a_run_that_finishes_without_having_heard_leaves_no_request(
    world: World, owned: Owned
) -> None:
    """Asked between its claim's look and its finish; and looked at by the sweep meanwhile."""
    owned.worker.journal(release(owned.run))
    world.anybody.cancel(owned.run_id)
    world.anybody.sweep_cancels()
    run = owned.worker.claim_run(owned.run_id)
    ends = finish(run)
    ends.cancelled = False
    owned.worker.journal(ends)
    sweep_as_time_goes_by(world)
    assert world.count("cancel_request") == 0


# --- two callers, many runs


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_the_second_of_two_callers_waits_for_nobody_and_adds_only_force(
    world: World, owned: Owned, isolation: str, fate: str
) -> None:
    first, second = world.session("first").begin(), world.session("second").begin(isolation)
    second.ask("select count(*) from rowlock.cancel_request")
    first.cancel(owned.run_id, grace=5, reason="first")
    cancels = second.go(lambda: second.cancel(owned.run_id, force=True, reason="second"))
    assert not cancels.waits()
    cancels.result()
    first.end(fate)
    second.commit()
    [told] = told_by_heartbeat(owned.worker).values()
    assert told == (
        {"grace_s": 5, "force": True, "reason": "first"}
        if fate == "commit"
        else {"grace_s": 30, "force": True, "reason": "second"}
    )


def test_asking_again_and_again_is_one_request(world: World, owned: Owned) -> None:
    for _ in range(5):
        world.anybody.cancel(owned.run_id)
    world.anybody.cancel(owned.run_id, force=True)
    world.anybody.cancel(owned.run_id, force=True)
    assert world.count("cancel_request") == 2
    owned.worker.journal(release(owned.run))
    sweep_as_time_goes_by(world)
    assert world.state(owned.run_id) == "cancelled"
    assert world.count("cancel_request") == 0


def test_thousands_of_runs_are_cancelled_by_one_statement(world: World) -> None:
    worker, many = world.worker(), 3000
    worker.heartbeat(lease_s=600)
    world.anybody.start_many(*[{"workflow": "fulfil"}] * many)
    sleepers = worker.claim(20)
    for one in sleepers:
        worker.journal(sleep_on(one, for_message()))
    caller = world.session("caller").begin()
    caller.run("select rowlock.cancel(run_id) from rowlock.runs where workflow = 'fulfil'")
    world.anybody.start(queue="other")
    claim = worker.go(worker.claim)
    assert not claim.waits()
    assert len(claim.result()) == 1
    tend = world.anybody.go(world.anybody.tend)
    assert not tend.waits()
    caller.commit()
    assert world.count("outcome") == many - len(sleepers)
    assert len(worker.claim()) == len(sleepers)
    sweep_as_time_goes_by(world)
    assert world.count("cancel_request") == len(sleepers)


@pytest.mark.parametrize("state", ["ready", "waiting"])
def test_two_callers_who_cancel_the_same_families_in_opposite_order_pass_each_other(
    world: World, state: str
) -> None:
    """Runs and their children in one statement each; PostgreSQL breaks no deadlock for them."""
    worker = world.worker()
    parents = world.claimed_by(worker, 3)
    for one in parents:
        worker.journal(child(one, "1"))
    families = [row[0] for row in world.anybody.run("select run_id from rowlock.runs")]
    if state == "waiting":
        for run in [*parents, *worker.claim()]:
            worker.journal(sleep_on(run, for_message()))
    forth, back = world.session("forth").begin(), world.session("back").begin()
    forth.run("select rowlock.cancel(r.id) from unnest(%s) as r (id)", families)
    cancels = back.go(
        lambda: back.run("select rowlock.cancel(r.id) from unnest(%s) as r (id)", families[::-1])
    )
    assert not cancels.waits()
    cancels.result()
    forth.commit()
    back.commit()
    sweep_as_time_goes_by(world)
    if state == "ready":
        assert sorted(told_by_heartbeat(worker)) == sorted(str(one.run_id) for one in parents)
        assert world.count("task") == len(parents)
    else:
        told = [one.cancel for one in worker.claim()]
        assert len(told) == len(families)
        assert None not in told


def test_runs_that_take_long_to_clean_up_hide_no_other_request(world: World, owned: Owned) -> None:
    """The sweep looks at a few at a time: those that run on must not be all it ever sees."""
    busy = world.claimed_by(owned.worker, 5)
    owned.worker.journal(timer(owned.run, "1"))
    for one in busy:
        world.anybody.cancel(one.run_id, grace=3600)
    caller = world.session("caller").begin()
    caller.cancel(owned.run_id)
    owned.worker.journal(sleep_on(owned.run, timers=("1",)))
    caller.commit()
    for _ in range(4):
        world.anybody.sweep_cancels(2)
    assert world.state(owned.run_id) == "ready"


def test_a_sweep_waits_for_no_stranger_who_holds_a_task_and_comes_back(
    world: World, owned: Owned
) -> None:
    owned.sleep()
    world.anybody.run(
        "insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force)"
        " values (%s, clock_timestamp() - interval '1 hour', 1, 30, false)",
        owned.run_id,
    )
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", owned.run_id)
    sweep = world.anybody.go(world.anybody.sweep_cancels)
    assert not sweep.waits()
    assert sweep.result() == 0
    stranger.rollback()
    due_in = world.anybody.ask(
        "select extract(epoch from look_at - clock_timestamp()) from rowlock.cancel_request"
    )
    assert due_in <= 1
    sweep_as_time_goes_by(world)
    assert world.state(owned.run_id) == "ready"


def test_two_sweeps_at_once_pass_each_other(world: World, owned: Owned) -> None:
    owned.sleep()
    never = world.anybody.start()
    for run_id in (owned.run_id, never):
        world.anybody.run(
            "insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force)"
            " values (%s, clock_timestamp(), 1, 30, false)",
            run_id,
        )
    one, two = world.session("one").begin(), world.session("two")
    assert one.sweep_cancels() == 2
    sweep = two.go(two.sweep_cancels)
    assert not sweep.waits()
    assert sweep.result() == 0
    one.rollback()
    assert two.sweep_cancels() == 2


# --- force


def test_force_ends_a_sleeping_run_at_once(world: World, owned: Owned) -> None:
    owned.sleep()
    world.anybody.cancel(owned.run_id, force=True)
    assert world.state(owned.run_id) == "cancelled"
    assert (world.count("wait"), world.count("cancel_request")) == (0, 0)


def test_force_of_a_running_run_ends_it_where_it_falls_asleep(world: World, owned: Owned) -> None:
    """It was told, but not yet of the force."""
    caller = world.session("caller").begin()
    caller.cancel(owned.run_id, force=True)
    owned.worker.journal(timer(owned.run, "1"), sleep_on(owned.run, timers=("1",), told=True))
    caller.commit()
    world.anybody.tend()
    assert world.state(owned.run_id) == "cancelled"


# --- who waits for a run that is cancelled


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_whoever_waits_for_a_run_that_is_cancelled_before_it_began_is_woken(
    world: World, owned: Owned, isolation: str
) -> None:
    """Also by a caller whose snapshot is older than the sleep, and sees no waiter."""
    caller = world.session("caller").begin(isolation)
    never = world.anybody.start(queue="other")
    caller.ask("select count(*) from rowlock.task")
    assert owned.worker.verdict(sleep_on(owned.run, for_end(never))) == "written"
    caller.cancel(never)
    tend = world.anybody.go(world.anybody.tend)
    assert not tend.waits()
    assert world.state(owned.run_id) == "waiting"
    caller.commit()
    world.anybody.tend()
    assert world.state(owned.run_id) == "ready"
    assert world.count("wake") == 0


def test_a_watcher_beside_an_open_cancel_stays_awake(world: World, owned: Owned) -> None:
    never = world.anybody.start(queue="other")
    caller = world.session("caller").begin()
    caller.cancel(never)
    sleeps = sleep_on(owned.run, for_end(never))
    flush = owned.worker.go(lambda: owned.worker.verdict(sleeps))
    assert not flush.waits()
    assert flush.result() == "again"
    caller.commit()
    assert owned.worker.verdict(sleeps) == "look"


# --- children


def family(world: World, worker: Worker) -> tuple[Claimed, Claimed, Claimed]:
    """A run, its child and its grandchild, all running."""
    [parent] = world.claimed_by(worker)
    worker.journal(child(parent, "1"))
    [middle] = worker.claim()
    worker.journal(child(middle, "1"))
    [youngest] = worker.claim()
    return parent, middle, youngest


def test_a_cancelled_run_cancels_its_children_and_they_theirs(world: World) -> None:
    worker = world.worker()
    parent, middle, youngest = family(world, worker)
    worker.journal(child(parent, "2"))
    detached = child(parent, "3")
    assert detached.child is not None
    detached.child["detached"] = True
    worker.journal(detached)
    world.anybody.cancel(parent.run_id)
    verdicts = worker.journal(stop(parent, grace_s=7))
    assert verdicts.asks_to_tend
    told = told_by_heartbeat(worker)
    assert told[str(middle.run_id)]["grace_s"] == 7
    assert str(youngest.run_id) not in told
    world.anybody.tend()
    worker.journal(stop(middle))
    assert str(youngest.run_id) in told_by_heartbeat(worker)
    states = world.anybody.run(
        "select r.status from rowlock.runs as r where r.parent_id = %s order by r.run_id",
        parent.run_id,
    )
    assert states == [("running",), ("cancelled",), ("ready",)]


def test_a_journal_waits_for_no_caller_who_cancels_one_of_the_children(world: World) -> None:
    worker = world.worker()
    parent, middle, _ = family(world, worker)
    [other] = world.claimed_by(worker)
    caller = world.session("caller").begin()
    caller.cancel(middle.run_id, reason="by hand")
    entries: list[Entry] = [stop(parent), step(other, "1")]
    flush = worker.go(lambda: worker.journal(*entries))
    assert not flush.waits()
    assert [flush.result().of(entry) for entry in entries] == ["written", "written"]
    caller.rollback()
    assert str(middle.run_id) in told_by_heartbeat(worker)


def test_a_cancel_step_that_is_sent_again_asks_nobody_again(world: World) -> None:
    worker = world.worker()
    parent, middle, _ = family(world, worker)
    entry = stop(parent)
    worker.journal(entry)
    late = child(parent, "9")  # begun to clean up
    worker.journal(late)
    assert worker.verdict(entry, retrying=True) == "recorded"
    assert list(told_by_heartbeat(worker)) == [str(middle.run_id)]


def test_a_zombie_cancels_no_children(world: World) -> None:
    zombie, fresh = world.worker("zombie"), world.worker("fresh")
    parent, middle, _ = family(world, zombie)
    [kept] = world.claimed_by(zombie)
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", kept.run_id)
    world.expire(zombie)
    world.anybody.reap()
    stranger.rollback()
    for retrying in (False, True):
        assert zombie.verdict(stop(parent), retrying=retrying) == "lost"
        assert zombie.verdict(child(parent, "5"), retrying=retrying) == "lost"
    assert world.count("cancel_request") == 0
    assert all(one.cancel is None for one in fresh.claim())
    assert middle.run_id


def test_a_run_that_ends_without_code_passes_the_request_on(world: World) -> None:
    """Blocked, with a child that waits and one that never began."""
    worker = world.worker()
    parent, middle, youngest = family(world, worker)
    worker.journal(sleep_on(middle, for_message()), release(parent, "nondeterminism"))
    world.anybody.cancel(parent.run_id, grace=3)
    assert world.state(parent.run_id) == "cancelled"
    world.anybody.tend()
    run = worker.claim_run(middle.run_id)
    assert run.cancel is not None
    assert json.loads(run.cancel)["grace_s"] == 3
    assert youngest.run_id


@pytest.mark.parametrize("how", ["running", "asleep"])
def test_force_passes_on_to_children(world: World, how: str) -> None:
    worker = world.worker()
    parent, middle, youngest = family(world, worker)
    worker.journal(sleep_on(middle, for_end(youngest.run_id)))
    if how == "asleep":
        worker.journal(sleep_on(parent, for_end(middle.run_id)))
        world.anybody.cancel(parent.run_id, force=True)
    else:
        world.anybody.cancel(parent.run_id, force=True)
        assert told_by_heartbeat(worker)[str(parent.run_id)]["force"] is True
        ends = finish(parent, "cancelled")
        ends.cancelled = True
        assert worker.journal(ends).asks_to_tend
    assert world.state(parent.run_id) == "cancelled"
    world.anybody.tend()
    assert world.state(middle.run_id) == "cancelled"
    sweep_as_time_goes_by(world)
    assert told_by_heartbeat(worker)[str(youngest.run_id)]["force"] is True
