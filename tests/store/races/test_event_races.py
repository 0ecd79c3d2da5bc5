"""Events: whoever waits for one is woken, whatever the order and the setter's snapshot.

The setter holds the row of the run whose event it is and looks for waiters later; a waiter shares
that row while it looks and registers. A stranger locks no waiter: a note in ``wake`` does it.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest

from rowlock.store.statements import Claimed
from store.races.sessions import (
    Worker,
    World,
    finish,
    for_event,
    set_event,
    sleep_on,
    timer,
)

FATES = ["commit", "rollback"]
ISOLATIONS = ["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A run that waits for an event of another; each on a worker of its own."""

    watcher: Worker
    waiter: Claimed
    owner: Worker
    watched: Claimed

    def sleep(self, *, force: bool = False) -> str:
        watch = for_event(self.watched.run_id)
        return self.watcher.verdict(sleep_on(self.waiter, watch, force=force))

    def set(self) -> str:
        return self.owner.verdict(set_event(self.watched, "1"))


@pytest.fixture
def pair(world: World) -> Pair:
    watcher, owner = world.worker("watcher"), world.worker("owner")
    return Pair(watcher, world.claimed_by(watcher)[0], owner, world.claimed_by(owner)[0])


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_waiter_stays_awake_while_a_set_event_is_open(
    world: World, pair: Pair, isolation: str, fate: str
) -> None:
    setter = world.session("setter").begin(isolation)
    setter.set_event(pair.watched.run_id)
    sleeps = pair.watcher.go(pair.sleep)
    assert not sleeps.waits()
    assert sleeps.result() == "again"
    setter.end(fate)
    assert pair.sleep() == ("look" if fate == "commit" else "written")


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_set_event_waits_for_an_open_sleep_and_wakes_it(
    world: World, pair: Pair, isolation: str, fate: str
) -> None:
    setter = world.session("setter").begin(isolation)
    pair.watcher.begin()
    pair.sleep()
    sets = setter.go(lambda: setter.set_event(pair.watched.run_id))
    assert sets.waits()
    pair.watcher.end(fate)
    sets.result()
    setter.commit()
    world.anybody.tend()
    assert world.state(pair.waiter.run_id) == ("ready" if fate == "commit" else "running")
    assert world.count("wake") == 0


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_setter_whose_snapshot_is_older_than_the_sleep_wakes_it_all_the_same(
    world: World, pair: Pair, isolation: str, fate: str
) -> None:
    """It can't see who waits: the sweep, which comes after its commit, can."""
    setter = world.session("setter").begin(isolation)
    setter.ask("select count(*) from rowlock.task")
    assert pair.sleep() == "written"
    setter.set_event(pair.watched.run_id)
    world.anybody.tend()
    assert world.state(pair.waiter.run_id) == "waiting"
    setter.end(fate)
    world.anybody.tend()
    assert world.state(pair.waiter.run_id) == ("ready" if fate == "commit" else "waiting")
    assert world.count("wake") == 0


def test_an_event_wakes_those_who_wait_for_it_and_nobody_else(world: World, pair: Pair) -> None:
    others = world.claimed_by(pair.watcher, 2)
    pair.sleep()
    pair.watcher.journal(
        sleep_on(others[0], for_event(pair.watched.run_id, name="another")),
        sleep_on(others[1], for_event(others[0].run_id)),
    )
    for isolation in ISOLATIONS:
        setter = world.session("setter").begin(isolation)
        setter.set_event(pair.watched.run_id)
        setter.commit()
    world.anybody.tend()
    assert world.state(pair.waiter.run_id) == "ready"
    assert [world.state(one.run_id) for one in others] == ["waiting", "waiting"]


@pytest.mark.parametrize("fate", FATES)
def test_the_waiters_timers_go_on_beside_an_open_set_event(
    world: World, pair: Pair, fate: str
) -> None:
    """Promise 14: the setter holds the watched run's row, no waiter's task."""
    limit = timer(pair.waiter, "202", kind="event")
    limit.name, limit.on_run = "progress", str(pair.watched.run_id)
    pair.watcher.journal(limit, sleep_on(pair.waiter, for_event(pair.watched.run_id)))
    world.make_due(pair.waiter.run_id)
    setter = world.session("setter").begin()
    setter.set_event(pair.watched.run_id)
    assert world.anybody.tend().promoted == 1
    waiter = pair.watcher.claim_run(pair.waiter.run_id)
    setter.end(fate)
    sleeps = sleep_on(waiter, for_event(pair.watched.run_id))
    assert pair.watcher.verdict(sleeps) == ("look" if fate == "commit" else "written")


def test_a_run_whose_row_is_shared_by_a_waiter_sets_its_event_with_the_next_batch(
    world: World, pair: Pair
) -> None:
    pair.watcher.begin()
    assert pair.sleep() == "written"
    sets = pair.owner.go(pair.set)
    assert not sets.waits()
    assert sets.result() == "again"
    pair.watcher.commit()
    assert pair.set() == "written"
    assert world.state(pair.waiter.run_id) == "ready"


@pytest.mark.parametrize(("fate", "verdict"), [("commit", "look"), ("rollback", "written")])
def test_a_waiter_stays_awake_while_the_run_itself_sets_the_event(
    world: World, pair: Pair, fate: str, verdict: str
) -> None:
    pair.owner.begin()
    pair.set()
    sleeps = pair.watcher.go(pair.sleep)
    assert not sleeps.waits()
    assert sleeps.result() == "again"
    pair.owner.end(fate)
    assert pair.sleep() == verdict


def test_event_and_sleep_in_one_batch_see_each_other(world: World) -> None:
    worker = world.worker()
    waiter, watched = world.claimed_by(worker, 2)
    sleeps = sleep_on(waiter, for_event(watched.run_id))
    assert worker.verdict(set_event(watched, "1"), sleeps) == "look"


def test_of_two_values_in_one_batch_the_later_counts(world: World, pair: Pair) -> None:
    pair.owner.journal(set_event(pair.watched, "2", "late"), set_event(pair.watched, "1", "early"))
    assert world.anybody.ask("select rowlock.get_event(%s, 'progress')", pair.watched.run_id) == (
        "late"
    )


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_setter_that_waited_for_another_has_the_last_word_or_is_told_to_try_again(
    world: World, pair: Pair, isolation: str
) -> None:
    world.anybody.set_event(pair.watched.run_id, "before")
    first, second = world.session("first").begin(), world.session("second").begin(isolation)
    second.ask("select 1")
    first.set_event(pair.watched.run_id, "first")
    sets = second.go(lambda: second.set_event(pair.watched.run_id, "second"))
    assert sets.waits()
    first.commit()
    if isolation == "read committed":
        sets.result()
        second.commit()
    else:
        with pytest.raises(psycopg.errors.SerializationFailure):
            sets.result()
    last = "second" if isolation == "read committed" else "first"
    value = world.anybody.ask("select rowlock.get_event(%s, 'progress')", pair.watched.run_id)
    assert value == last


def test_who_waits_for_an_event_of_a_run_that_ends_is_woken(world: World, pair: Pair) -> None:
    """There will be none: it gets EventNeverSet."""
    pair.sleep()
    pair.owner.journal(finish(pair.watched))
    assert world.state(pair.waiter.run_id) == "ready"
    waiter = pair.watcher.claim_run(pair.waiter.run_id)
    assert pair.watcher.verdict(sleep_on(waiter, for_event(pair.watched.run_id))) == "look"


def test_a_forced_sleep_beside_an_open_set_event_is_short(world: World, pair: Pair) -> None:
    setter = world.session("setter").begin()
    setter.set_event(pair.watched.run_id)
    assert pair.sleep(force=True) == "written"
    assert world.task(pair.waiter.run_id).due_in <= 1.0


def test_two_sweeps_at_once_pass_each_other(world: World, pair: Pair) -> None:
    setter = world.session("setter").begin("repeatable read")
    setter.ask("select count(*) from rowlock.task")
    pair.sleep()
    setter.set_event(pair.watched.run_id)
    setter.commit()
    one, two = world.session("one").begin(), world.session("two")
    assert one.sweep_wakes() == 1
    sweep = two.go(two.sweep_wakes)
    assert not sweep.waits()
    assert sweep.result() == 0
    one.rollback()
    assert two.sweep_wakes() == 1
    assert world.state(pair.waiter.run_id) == "ready"
    assert world.count("wake") == 0
