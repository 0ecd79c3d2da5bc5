"""Sleeping and waking: what ends while its watcher goes to sleep wakes it, in every order.

A watcher holds the watched task FOR KEY SHARE while it looks and registers; a finish holds it FOR
UPDATE and reads the waiters later. Who can't be locked is noted in ``wake``.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from rowlock.store.statements import Claimed
from store.races.sessions import MAX_TAKEOVERS, Worker, World, finish, release, suspend, timer


@dataclass(frozen=True, slots=True)
class Pair:
    """A run that waits for another's end, and that other; each on a worker of its own."""

    watcher: Worker
    waiter: Claimed
    owner: Worker
    watched: Claimed

    def sleep(self, *, timers: tuple[str, ...] = (), force: bool = False) -> str:
        entry = suspend(self.waiter, self.watched.run_id, timers=timers, force=force)
        return self.watcher.journal(*[timer(self.waiter, place) for place in timers], entry).of(
            entry
        )

    def end(self, *, closing: bool = False) -> str:
        entry = finish(self.watched, closing=closing)
        return self.owner.journal(entry).of(entry)


@pytest.fixture
def pair(world: World) -> Pair:
    watcher, owner = world.worker("watcher"), world.worker("owner")
    return Pair(watcher, world.claimed_by(watcher)[0], owner, world.claimed_by(owner)[0])


def is_asleep_in_vain(world: World) -> int:
    """How many runs sleep without end although what they wait for is over, and nobody knows."""
    count = world.anybody.ask(
        "select count(*) from rowlock.task as t join rowlock.wait as w using (run_id)"
        " where t.state = 'waiting' and t.due_at = 'infinity'"
        "   and not exists (select from rowlock.task as o where o.run_id = w.on_run_id)"
        "   and not exists (select from rowlock.wake as k where k.run_id = t.run_id)"
    )
    return int(count)


# --- a finish against a suspend


def test_a_finish_that_comes_while_its_watcher_goes_to_sleep_waits_its_turn_and_wakes_it(
    world: World, pair: Pair
) -> None:
    """3p': the watcher holds the watched task, so the finish passes by and comes again."""
    pair.watcher.begin()
    assert pair.sleep() == "written"
    ends = pair.owner.go(pair.end)
    assert not ends.waits()
    assert ends.result() == "again"
    pair.watcher.commit()
    assert pair.end() == "written"
    assert world.state(pair.waiter.run_id) == "ready"


@pytest.mark.parametrize(("fate", "verdict"), [("commit", "look"), ("rollback", "written")])
def test_a_watcher_that_comes_while_the_finish_is_open_stays_awake(
    world: World, pair: Pair, fate: str, verdict: str
) -> None:
    """3o, 3p'': it can't know the fate; afterwards it finds the outcome, or may sleep."""
    pair.owner.begin()
    pair.end()
    sleeps = pair.watcher.go(pair.sleep)
    assert not sleeps.waits()
    assert sleeps.result() == "again"
    pair.owner.end(fate)
    assert pair.sleep() == verdict
    assert is_asleep_in_vain(world) == 0


def test_a_watcher_whose_suspend_rolls_back_is_not_woken(world: World, pair: Pair) -> None:
    """3p, the other fate."""
    pair.watcher.begin()
    pair.sleep()
    pair.watcher.rollback()
    assert pair.end() == "written"
    assert world.state(pair.waiter.run_id) == "running"
    assert pair.sleep() == "look"


def test_a_finish_wakes_all_who_registered_at_once(world: World, pair: Pair) -> None:
    """Two watchers share the lock on the watched task."""
    second = world.worker("second")
    [other] = world.claimed_by(second)
    pair.watcher.begin()
    second.begin()
    pair.sleep()
    sleeps = suspend(other, pair.watched.run_id)
    assert second.journal(sleeps).of(sleeps) == "written"
    pair.watcher.commit()
    assert pair.end() == "again"
    second.commit()
    assert pair.end() == "written"
    assert world.state(pair.waiter.run_id) == world.state(other.run_id) == "ready"


def test_a_finish_in_the_same_batch_as_its_watchers_suspend_keeps_the_watcher_awake(
    world: World,
) -> None:
    """3i: as one statement with CTEs the two would not see each other."""
    worker = world.worker()
    waiter, watched = world.claimed_by(worker, 2)
    ends, sleeps = finish(watched), suspend(waiter, watched.run_id)
    verdicts = worker.journal(sleeps, ends)
    assert (verdicts.of(ends), verdicts.of(sleeps)) == ("written", "look")
    assert world.state(waiter.run_id) == "running"


def test_a_run_that_is_given_up_wakes_its_watchers(world: World, pair: Pair) -> None:
    """The reaper ends runs, too."""
    pair.sleep()
    for _ in range(MAX_TAKEOVERS):
        owner = world.task(pair.watched.run_id).worker_id
        assert owner is not None
        world.expire(world.connect_again(owner))
        world.anybody.reap()
        world.worker("next").claim()
    assert world.state(pair.watched.run_id) == "dead"
    assert world.state(pair.waiter.run_id) in ("ready", "running")


def test_a_woken_run_is_due_at_once(world: World, pair: Pair) -> None:
    """3h: its timer lies in an hour, and nobody may wait for that."""
    pair.sleep(timers=("1",))
    assert world.task(pair.waiter.run_id).due_in > 3000
    pair.end()
    assert world.task(pair.waiter.run_id).due_in <= 0
    assert [one.run_id for one in pair.watcher.claim()] == [pair.waiter.run_id]


def test_who_waits_for_many_is_woken_when_its_patience_ends(world: World, pair: Pair) -> None:
    entry = suspend(pair.waiter, pair.watched.run_id, patience_ms=1500)
    pair.watcher.journal(entry)
    pair.end()
    assert world.state(pair.waiter.run_id) == "scheduled"
    assert 0 < world.task(pair.waiter.run_id).due_in <= 1.5
    world.make_due(pair.waiter.run_id)
    assert world.anybody.promote_due() == 1
    assert world.state(pair.waiter.run_id) == "ready"


# --- takeovers against a suspend


def test_the_old_owner_cannot_put_a_run_to_sleep_that_is_being_taken_over(
    world: World, pair: Pair
) -> None:
    """3m"""
    world.expire(pair.watcher)
    reaper = world.session("reaper").begin()
    assert reaper.reap() == 1
    entry = suspend(pair.waiter, pair.watched.run_id)
    assert pair.watcher.journal(entry).of_worker == "again"
    reaper.commit()
    assert pair.watcher.journal(entry).of_worker == "gone"
    assert world.state(pair.waiter.run_id) == "ready"
    assert world.count("wait") == 0


def test_a_takeover_passes_by_while_the_owner_puts_its_run_to_sleep(
    world: World, pair: Pair
) -> None:
    """3n: the run sleeps on, with nobody's name on it."""
    pair.watcher.begin()
    pair.sleep()
    world.expire(pair.watcher)
    assert world.anybody.reap() == 0
    pair.watcher.commit()
    assert world.anybody.reap() == 0
    task = world.task(pair.waiter.run_id)
    assert (task.state, task.worker_id, task.epoch) == ("waiting", None, pair.waiter.epoch + 1)


# --- timers against wake-ups


def test_a_wake_up_that_meets_the_timer_is_noted_and_does_no_harm(world: World, pair: Pair) -> None:
    """3d: the timer is open, the watched run ends."""
    pair.sleep(timers=("1",))
    world.make_due(pair.waiter.run_id)
    tender = world.session("tender").begin()
    assert tender.promote_due() == 1
    ends = pair.owner.go(pair.end)
    assert not ends.waits()
    assert ends.result() == "written"
    assert world.count("wake") == 1
    tender.commit()
    world.anybody.sweep_wakes()
    assert world.state(pair.waiter.run_id) == "ready"
    assert world.count("wake") == 0


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_timer_that_meets_a_wake_up_passes_by(world: World, pair: Pair, fate: str) -> None:
    """3e, 3f: if the finish rolls back, the next look gets the timer."""
    pair.sleep(timers=("1",))
    world.make_due(pair.waiter.run_id)
    pair.owner.begin()
    pair.end()
    promote = world.session("tender")
    looks = promote.go(promote.promote_due)
    assert not looks.waits()
    assert looks.result() == 0
    pair.owner.end(fate)
    assert promote.promote_due() == (0 if fate == "commit" else 1)
    assert world.state(pair.waiter.run_id) == "ready"


def test_a_timer_that_a_stranger_holds_up_fires_as_soon_as_he_lets_go(
    world: World, pair: Pair
) -> None:
    """3g: and all others fire meanwhile."""
    second, owner = world.claimed_by(pair.watcher), pair.watcher
    pair.sleep(timers=("1",))
    owner.journal(timer(second[0], "1"), suspend(second[0], timers=("1",)))
    world.make_due(pair.waiter.run_id)
    world.make_due(second[0].run_id)
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", pair.waiter.run_id)
    assert world.anybody.promote_due() == 1
    assert world.state(second[0].run_id) == "ready"
    stranger.rollback()
    assert world.anybody.promote_due() == 1
    assert world.state(pair.waiter.run_id) == "ready"


# --- nobody is forgotten


def test_what_newer_code_waits_for_at_a_place_replaces_what_older_code_did(
    world: World, pair: Pair
) -> None:
    """Nothing was recorded there, so the code may have changed; the old wait must not stay."""
    watcher, [other] = pair.watcher, world.claimed_by(pair.owner)
    pair.sleep()  # at place 101, on the watched run
    pair.end()
    [waiter] = watcher.claim()
    watcher.journal(timer(waiter, "101"), suspend(waiter, timers=("101",)))
    assert 3000 < world.task(waiter.run_id).due_in <= 3600
    world.make_due(waiter.run_id)
    world.anybody.promote_due()
    [waiter] = watcher.claim()
    watcher.journal(suspend(waiter, other.run_id))
    pair.owner.journal(finish(other))
    assert world.state(waiter.run_id) == "ready"


def test_a_waiter_that_cannot_be_locked_is_noted_and_swept_later(world: World, pair: Pair) -> None:
    pair.sleep()
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", pair.waiter.run_id)
    ends = pair.owner.go(pair.end)
    assert not ends.waits()
    assert ends.result() == "written"
    assert world.state(pair.waiter.run_id) == "waiting"
    assert world.anybody.sweep_wakes() == 0
    assert world.count("wake") == 1, "still noted: it was not woken"
    stranger.rollback()
    assert world.anybody.tend().woken == 1
    assert world.state(pair.waiter.run_id) == "ready"
    assert world.count("wake") == 0


def test_a_waiter_that_is_watched_itself_is_woken_at_once(world: World, pair: Pair) -> None:
    """Its parent goes to sleep at that moment, and holds its task only FOR KEY SHARE."""
    pair.sleep()
    parents = world.worker("parents")
    [parent] = world.claimed_by(parents)
    sleeps = suspend(parent, pair.waiter.run_id)
    assert parents.begin().journal(sleeps).of(sleeps) == "written"
    assert pair.end() == "written"
    assert world.state(pair.waiter.run_id) == "ready"
    parents.commit()


def test_two_sweeps_at_once_wake_everybody_once_and_never_wait(world: World, pair: Pair) -> None:
    pair.sleep()
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", pair.waiter.run_id)
    pair.end()
    world.anybody.run("insert into rowlock.wake (run_id) values (gen_random_uuid())")  # has ended
    stranger.rollback()
    one, two = world.session("one").begin(), world.session("two")
    assert one.sweep_wakes() == 1
    sweep = two.go(two.sweep_wakes)
    assert not sweep.waits()
    assert sweep.result() == 0
    one.commit()
    assert world.count("wake") == 0


def test_many_notes_of_a_waiter_that_stays_locked_hide_no_other(world: World) -> None:
    """A stranger holds one parent for an hour, while its children end one by one."""
    watcher, owner = world.worker("watcher"), world.worker("owner")
    stuck, other = world.claimed_by(watcher, 2)
    children = world.claimed_by(owner, 6)
    watcher.journal(suspend(stuck, *(one.run_id for one in children[:5])))
    watcher.journal(suspend(other, children[5].run_id))
    stranger, second = world.session("stranger").begin(), world.session("second").begin()
    lock = "select from rowlock.task where run_id = %s for update"
    stranger.run(lock, stuck.run_id)
    second.run(lock, other.run_id)
    for one in children:
        owner.journal(finish(one))
    second.rollback()
    assert world.anybody.sweep_wakes(limit=2) == 1
    assert world.state(other.run_id) == "ready"
    assert world.count("wake") == 1, "one note a waiter is enough"
    stranger.rollback()
    assert world.anybody.sweep_wakes(limit=2) == 1
    assert world.state(stuck.run_id) == "ready"


def test_a_forced_sleep_beside_an_open_finish_is_short(world: World, pair: Pair) -> None:
    """Nobody starves: after 0.3 s it sleeps without the lock, but looks again within a second."""
    pair.owner.begin()
    pair.end()
    assert pair.sleep() == "again"
    assert pair.sleep(force=True) == "written"
    assert world.task(pair.waiter.run_id).due_in <= 1.0
    pair.owner.commit()
    world.make_due(pair.waiter.run_id)
    world.anybody.promote_due()
    [waiter] = pair.watcher.claim()
    entry = suspend(waiter, pair.watched.run_id)
    assert pair.watcher.journal(entry).of(entry) == "look"


def test_a_finish_that_was_passed_by_for_long_shuts_the_door_to_new_watchers(
    world: World, pair: Pair
) -> None:
    pair.watcher.begin()
    pair.sleep()
    assert pair.end(closing=True) == "again"
    late = world.worker("late")
    [other] = world.claimed_by(late)
    sleeps = suspend(other, pair.watched.run_id)
    assert late.journal(sleeps).of(sleeps) == "again"
    pair.watcher.commit()
    assert pair.end(closing=True) == "written"
    assert world.state(pair.waiter.run_id) == "ready"
    assert late.journal(sleeps).of(sleeps) == "look"


@pytest.mark.parametrize("how", ["take over", "leave", "hand back"])
def test_the_door_opens_again_when_the_run_changes_hands(
    world: World, pair: Pair, how: str
) -> None:
    """Else its watchers would be awake once a second for as long as it goes on."""
    pair.watcher.begin()
    pair.sleep()
    pair.end(closing=True)
    pair.watcher.rollback()
    assert world.task(pair.watched.run_id).closing
    match how:
        case "take over":
            world.expire(pair.owner)
            assert world.anybody.reap() == 1
        case "leave":
            assert pair.owner.leave() == 1
        case "hand back":
            pair.owner.journal(release(pair.watched))
    assert not world.task(pair.watched.run_id).closing
    assert pair.sleep() == "written"
    assert world.task(pair.waiter.run_id).due_in == float("inf")


def test_whatever_the_order_nobody_sleeps_in_vain(world: World) -> None:
    """3o at random: each pair meets at a barrier, with pauses before the commits."""
    rounds = 60
    watcher, owner = world.worker("watcher"), world.worker("owner")
    waiters, watched = world.claimed_by(watcher, rounds), world.claimed_by(owner, rounds)
    barriers = [threading.Barrier(2, timeout=20) for _ in range(rounds)]
    met: list[str] = []

    def sleep() -> None:
        dice = random.Random(1)
        for n in range(rounds):
            barriers[n].wait()
            watcher.run("select pg_sleep(%s)", dice.random() * 0.003)
            verdict = "again"
            while verdict == "again":
                entry = suspend(waiters[n], watched[n].run_id)
                watcher.begin()
                verdict = watcher.journal(entry).of(entry)
                watcher.run("select pg_sleep(%s)", dice.random() * 0.002)
                watcher.commit()
            met.append(verdict)

    def end() -> None:
        dice = random.Random(2)
        for n in range(rounds):
            barriers[n].wait()
            owner.run("select pg_sleep(%s)", dice.random() * 0.003)
            verdict = "again"
            while verdict == "again":
                entry = finish(watched[n])
                owner.begin()
                verdict = owner.journal(entry).of(entry)
                owner.run("select pg_sleep(%s)", dice.random() * 0.002)
                owner.commit()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(sleep), threads.submit(end)]:
            done.result()
    assert len(met) == rounds
    world.anybody.sweep_wakes()
    states = [world.state(one.run_id) for one in waiters]
    assert states.count("ready") == met.count("written")
    assert is_asleep_in_vain(world) == 0
