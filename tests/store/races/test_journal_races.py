"""The journal never waits: whatever it can't lock comes with the next batch.

Losers of a place, healthy journals that meet, strangers' locks, and a commit whose answer was lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import Claimed
from store.races.sessions import (
    Worker,
    World,
    child,
    finish,
    release,
    step,
    suspend,
    timer,
)

# --- two writers for one place


@pytest.mark.parametrize(("fate", "verdict"), [("commit", "recorded"), ("rollback", "written")])
def test_the_loser_of_a_place_learns_what_stands_there(
    world: World, fate: str, verdict: str
) -> None:
    """2a, 2b: the retried insert waits for an earlier try's fate, then looks anew."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    earlier = world.session("earlier").begin()
    earlier.record_transaction(claimed, "1", '"theirs"')

    mine = step(claimed, "1", '"mine"')
    flush = worker.go(lambda: worker.journal(mine, retrying=True))
    assert flush.waits()
    earlier.end(fate)
    verdicts = flush.result()
    assert verdicts.of(mine) == verdict
    if verdict == "recorded":
        assert verdicts.detail(mine)["output"] == "theirs"


def test_a_place_that_is_taken_fails_the_batch_and_then_only_its_own_entry(world: World) -> None:
    """2a: the first try inserts plainly; each entry alone, as a retry, then tells them apart."""
    worker = world.worker()
    taken, other = world.claimed_by(worker, 2)
    world.session().record_transaction(taken, "1", '"theirs"')

    loser, healthy = step(taken, "1", '"mine"'), step(other, "1")
    with pytest.raises(psycopg.errors.UniqueViolation):
        worker.journal(loser, healthy)
    assert world.steps(other.run_id) == []
    assert worker.journal(loser, retrying=True).of(loser) == "recorded"
    assert worker.journal(healthy, retrying=True).of(healthy) == "written"


def test_of_two_entries_for_one_place_the_second_adopts_the_first(world: World) -> None:
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    first, second = step(claimed, "1", '"first"'), step(claimed, "1", '"second"')
    second.position = 2
    verdicts = worker.journal(first, second, retrying=True)
    assert (verdicts.of(first), verdicts.of(second)) == ("written", "recorded")
    assert verdicts.detail(second)["output"] == "first"


def test_of_two_timers_for_one_place_the_later_attempt_counts(world: World) -> None:
    """Both retries of a step fell into one batch, because the journal had lost its connection."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    first = timer(claimed, "1", 2.0, kind="retry", attempt=1)
    second = timer(claimed, "1", 600.0, kind="retry", attempt=2)
    verdicts = worker.journal(first, second)
    assert (verdicts.of(first), verdicts.of(second)) == ("written", "written")
    assert world.anybody.ask("select attempt from rowlock.wait") == 2


# --- healthy journals that meet


def test_two_journals_that_end_and_watch_each_others_runs_never_wait(world: World) -> None:
    """2c: on the protocol as first written these two were a deadlock."""
    one, two = world.worker("one"), world.worker("two")
    child_of_two, parent_of_one = world.claimed_by(one, 2)
    child_of_one, parent_of_two = world.claimed_by(two, 2)

    one.begin()
    ends, sleeps = finish(child_of_two), suspend(parent_of_one, child_of_one.run_id)
    verdicts = one.journal(ends, sleeps)
    assert (verdicts.of(ends), verdicts.of(sleeps)) == ("written", "written")

    def batch() -> tuple[str, str]:
        ends, sleeps = finish(child_of_one), suspend(parent_of_two, child_of_two.run_id)
        verdicts = two.journal(ends, sleeps)
        return verdicts.of(ends), verdicts.of(sleeps)

    flush = two.go(batch)
    assert not flush.waits()
    assert flush.result() == ("again", "again")
    one.commit()
    assert batch() == ("written", "look")
    assert world.state(parent_of_one.run_id) == "ready"


def test_journals_that_hammer_each_others_runs_all_come_through(world: World) -> None:
    """2c, 2e: many times and at random; PostgreSQL would log a deadlock, which fails the tests."""
    rounds = 40
    workers = [world.worker(f"worker {n}") for n in range(4)]
    held = [world.claimed_by(worker, 2 * rounds) for worker in workers]

    def work(number: int) -> None:
        worker, mine = workers[number], held[number]
        theirs = held[(number + 1) % len(held)]
        dice = random.Random(number)
        for n in range(rounds):
            entries: list[Entry] = [
                step(mine[n], "1"),
                finish(mine[n], closing=True),
                suspend(mine[rounds + n], theirs[n].run_id, theirs[rounds - 1 - n].run_id),
            ]
            dice.shuffle(entries)
            assert "lost" not in worker.write(*entries)

    with ThreadPoolExecutor(len(workers)) as threads:
        for done in [threads.submit(work, n) for n in range(len(workers))]:
            done.result()
    world.anybody.tend()
    asleep = world.anybody.ask("select count(*) from rowlock.task where state = 'waiting'")
    assert asleep == 0, "every watched run has ended: nobody may still sleep"


# --- strangers


def _release(claimed: Claimed) -> Entry:
    return release(claimed)


def _finish(claimed: Claimed) -> Entry:
    return finish(claimed)


def _suspend(claimed: Claimed) -> Entry:
    return suspend(claimed, timers=("2",))


@pytest.mark.parametrize("strength", ["update", "no key update", "key share"])
@pytest.mark.parametrize("end", [_finish, _suspend, _release])
def test_a_strangers_lock_on_one_task_holds_up_that_run_only(
    world: World, end: Callable[[Claimed], Entry], strength: str
) -> None:
    """2d, 2f, 2g: 63 of 64 runs go through; what the other has done is recorded, its end waits."""
    worker, stranger = world.worker(), world.session("stranger").begin()
    claimed = world.claimed_by(worker, 64)
    locked = claimed[32]
    stranger.run(f"select from rowlock.task where run_id = %s for {strength}", locked.run_id)

    steps = [step(one, "1") for one in claimed]
    timers = [timer(one, "2") for one in claimed]
    ends = [end(one) for one in claimed]
    flush = worker.go(lambda: worker.journal(*steps, *timers, *ends))
    assert not flush.waits()
    verdicts = flush.result()
    assert [verdicts.of(entry) for entry in steps] == ["written"] * 64
    for entries in (timers, ends):
        assert [verdicts.of(entry) for entry in entries].count("written") == 63
        assert verdicts.of(entries[32]) == "again"
    assert len(world.steps(locked.run_id)) == 1

    stranger.rollback()
    verdicts = worker.journal(timers[32], ends[32])
    assert [verdicts.of(e) for e in (timers[32], ends[32])] == ["written"] * 2


def test_a_timer_of_a_run_that_was_passed_by_is_not_forgotten(world: World) -> None:
    """A child goes to sleep while its parent's suspend holds its task: a lost timer would let it
    sleep for ever."""
    worker, parents = world.worker(), world.worker("parents")
    [sleeper], [parent] = world.claimed_by(worker), world.claimed_by(parents)
    parents.begin().journal(suspend(parent, sleeper.run_id))

    entries: list[Entry] = [timer(sleeper, "1", 600.0), suspend(sleeper, timers=("1",))]
    verdicts = worker.journal(*entries)
    assert verdicts.of(entries[1]) == "again"
    parents.commit()
    worker.journal(*[entry for entry in entries if verdicts.of(entry) == "again"])
    assert world.state(sleeper.run_id) == "waiting"
    assert 590 < world.task(sleeper.run_id).due_in <= 600


def test_a_sleep_without_its_timer_is_refused_for_now(world: World) -> None:
    """The timer was refused or lost on its way: better awake once too often than never again."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    sleeps = suspend(claimed, timers=("1",))
    worker.journal(sleeps)
    assert world.task(claimed.run_id).due_in <= 1.0


def test_a_strangers_open_start_holds_up_no_journal(world: World) -> None:
    """2h: keys are taken outside of the journal, so nothing of it can meet an open start."""
    worker, stranger = world.worker(), world.session("stranger").begin()
    [claimed] = world.claimed_by(worker)
    stranger.start(key="order-7")
    stranger.start()

    starts = child(claimed, "1")
    flush = worker.go(lambda: worker.journal(starts, finish(claimed)))
    assert not flush.waits()
    assert flush.result().of(starts) == "written"
    stranger.rollback()


def test_an_open_transaction_step_holds_up_the_end_of_its_run_only(world: World) -> None:
    """2e: the step's key and the task are taken in the opposite order; nobody waits for both."""
    worker = world.worker()
    busy, other = world.claimed_by(worker, 2)
    transaction = world.session("transaction").begin()
    transaction.record_transaction(busy, "1")

    mine, blocked_end, free_end = step(busy, "2"), finish(busy), finish(other)
    flush = worker.go(lambda: worker.journal(mine, blocked_end, free_end))
    assert not flush.waits()
    verdicts = flush.result()
    assert verdicts.of(free_end) == "written"
    assert (verdicts.of(mine), verdicts.of(blocked_end)) == ("written", "again")
    transaction.commit()
    assert worker.journal(blocked_end).of(blocked_end) == "written"


# --- a poisoned entry


def test_a_poisoned_entry_fails_its_batch_whole_and_then_alone(world: World) -> None:
    worker = world.worker()
    ill, well = world.claimed_by(worker, 2)
    poison, healthy = step(ill, "1", '"a\\u0000b"'), step(well, "1")
    with pytest.raises(psycopg.DataError):
        worker.journal(healthy, finish(well), poison)
    assert world.steps(well.run_id) == []
    assert world.state(well.run_id) == "running"
    assert worker.journal(healthy, retrying=True).of(healthy) == "written"
    with pytest.raises(psycopg.DataError):
        worker.journal(poison, retrying=True)


# --- the answer to a commit was lost


def test_a_retried_step_finds_its_own_record(world: World) -> None:
    """2i: no row written must not be read as: not mine."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    first, second = step(claimed, "1"), step(claimed, "2", kind="now")
    worker.journal(first, second)
    recorded = {place: output for place, output, _ in world.steps(claimed.run_id)}

    verdicts = worker.journal(first, second, retrying=True)
    assert (verdicts.of(first), verdicts.detail(first)["output"]) == ("recorded", "done")
    assert verdicts.of(second) == "recorded"
    assert verdicts.detail(second)["output"] == recorded["2"], "the time that was told first"


def test_a_retried_child_start_starts_no_second_child(world: World) -> None:
    """2i: and its caller learns the id of the one there is."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    starts = child(claimed, "1")
    run_id = worker.journal(starts).detail(starts)
    again = worker.journal(starts, retrying=True)
    assert (again.of(starts), again.detail(starts)["output"]) == ("recorded", run_id)
    children = world.anybody.run("select id from rowlock.run where parent_id is not null")
    assert [str(one) for (one,) in children] == [run_id]


def test_a_retried_finish_is_known_as_written(world: World) -> None:
    """2i: the steps that came with it, too; one outcome."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    last, ends = step(claimed, "1"), finish(claimed)
    worker.journal(last, ends)
    verdicts = worker.journal(last, ends, retrying=True)
    assert (verdicts.of(last), verdicts.of(ends)) == ("recorded", "written")
    assert world.count("outcome") == 1


def test_a_finish_of_a_run_that_another_finished_is_lost(world: World) -> None:
    """2i: the outcome keeps the epoch, so that nobody takes another's for his own."""
    slow, fresh = world.worker("slow"), world.worker("fresh")
    [old], [kept] = world.claimed_by(slow), world.claimed_by(slow)
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", kept.run_id)
    world.expire(slow)
    world.anybody.reap()
    stranger.rollback()
    [new] = fresh.claim()
    fresh.journal(finish(new))
    ends = finish(old)
    assert slow.journal(ends, retrying=True).of(ends) == "lost"


def test_a_retried_sleep_is_known_as_written_while_it_lasts(world: World) -> None:
    """2j, before anything woke it."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    asleep, sleeps = timer(claimed, "1"), suspend(claimed, timers=("1",))
    worker.journal(asleep, sleeps)
    epoch = world.task(claimed.run_id).epoch
    verdicts = worker.journal(asleep, sleeps, retrying=True)
    assert verdicts.of(sleeps) == "written"
    assert world.task(claimed.run_id).epoch == epoch


@pytest.mark.parametrize("claimed_again", [False, True])
def test_a_retried_sleep_disturbs_nothing_when_the_run_was_woken(
    world: World, claimed_again: bool
) -> None:
    """2j: the run is ready, or another's; the one who put it to sleep must stop."""
    worker, other = world.worker(), world.worker("other")
    [claimed] = world.claimed_by(worker)
    asleep, sleeps = timer(claimed, "1"), suspend(claimed, timers=("1",))
    worker.journal(asleep, sleeps)
    world.make_due(claimed.run_id)
    world.anybody.promote_due()
    if claimed_again:
        other.claim()
    before = world.task(claimed.run_id)
    verdicts = worker.journal(asleep, sleeps, step(claimed, "2"), retrying=True)
    assert verdicts.of(sleeps) == "lost"
    after = world.task(claimed.run_id)
    assert (after.state, after.epoch, after.worker_id) == (
        before.state,
        before.epoch,
        before.worker_id,
    )
    assert world.steps(claimed.run_id) == []


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_batch_is_sent_again_while_its_first_try_is_still_open(world: World, fate: str) -> None:
    """2i: the connection was lost, but the server is still at it; the retry waits for nobody."""
    first = world.worker()
    second: Worker = world.connect_again(first.worker_id)
    [claimed] = world.claimed_by(first)
    last, ends = step(claimed, "1"), finish(claimed)
    first.begin().journal(last, ends)

    flush = second.go(lambda: second.journal(last, ends, retrying=True))
    assert not flush.waits()
    verdicts = flush.result()
    assert (verdicts.of(last), verdicts.of(ends)) == ("again", "again")
    first.end(fate)
    verdicts = second.journal(last, ends, retrying=True)
    assert verdicts.of(ends) == "written"
    assert verdicts.of(last) == ("recorded" if fate == "commit" else "written")
    assert world.state(claimed.run_id) == "succeeded"
