"""Redo and fork: one next generation, whole copies, whoever else is at the run.

Each of them holds the run's row; what the old generation recorded is never changed, and a zombie of
it writes to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import psycopg
import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import Claimed
from store.races.sessions import (
    Session,
    Worker,
    World,
    emit,
    finish,
    for_message,
    go_on,
    receive,
    send,
    set_event,
    sleep_on,
    step,
    stop,
    timer,
)

FATES = ["commit", "rollback"]
ISOLATIONS = ["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has recorded a step, received two messages, recorded another step, and failed."""

    worker: Worker
    run: Claimed

    @property
    def run_id(self) -> UUID:
        return self.run.run_id


def ends(world: World, status: str = "failed") -> Ended:
    worker = world.worker("first owner")
    [run] = world.claimed_by(worker)
    for value in ("one", "two", "three"):
        world.anybody.send(run.run_id, value, key=value)
    worker.journal(step(run, "1"), receive(run, "2"), receive(run, "3"), step(run, "4"))
    worker.journal(finish(run, status))
    return Ended(worker, run)


@pytest.fixture
def ended(world: World) -> Ended:
    return ends(world)


def places(world: World, run_id: UUID, generation: int) -> list[str]:
    rows = world.anybody.run(
        "select place from rowlock.step where run_id = %s and generation = %s order by position",
        run_id,
        generation,
    )
    return [place for (place,) in rows]


# --- two at once


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("second", ["retry", "rewind"])
def test_of_two_redos_at_once_one_begins_the_next_generation(
    world: World, ended: Ended, isolation: str, fate: str, second: str
) -> None:
    one, two = world.session("one").begin(), world.session("two").begin(isolation)
    two.ask("select count(*) from rowlock.task")
    one.rewind(ended.run_id, "3")

    def redo() -> None:
        if second == "retry":
            two.retry(ended.run_id)
        else:
            two.rewind(ended.run_id, "1")

    redoes = two.go(redo)
    assert redoes.waits()
    one.end(fate)
    if fate == "rollback":
        redoes.result()
        two.commit()
        assert places(world, ended.run_id, 2) == (["1", "2", "3", "4"] if second == "retry" else [])
        return
    with pytest.raises(psycopg.errors.DatabaseError) as refused:
        redoes.result()
    assert refused.value.sqlstate == ("RLS01" if isolation == "read committed" else "40001")
    two.rollback()
    assert places(world, ended.run_id, 2) == ["1", "2"]
    assert world.state(ended.run_id) == "ready"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_redo_with_a_snapshot_of_an_earlier_end_is_told_to_try_again(
    world: World, ended: Ended, isolation: str
) -> None:
    """Meanwhile it was redone and has ended again."""
    late = world.session("late").begin(isolation)
    late.ask("select count(*) from rowlock.task")
    world.anybody.retry(ended.run_id)
    run = ended.worker.claim_run(ended.run_id)
    ended.worker.journal(finish(run, "failed"))
    if isolation == "read committed":
        late.retry(ended.run_id)
        late.commit()
        assert ended.worker.claim_run(ended.run_id).generation == 3
    else:
        with pytest.raises(psycopg.errors.SerializationFailure):
            late.retry(ended.run_id)


# --- beside sends, cancels and journals


@pytest.mark.parametrize("fate", FATES)
def test_messages_of_the_dropped_part_are_handed_back_in_their_order(
    world: World, ended: Ended, fate: str
) -> None:
    caller, sender = world.session("caller").begin(), world.session("sender")
    caller.rewind(ended.run_id, "2")
    sends = sender.go(lambda: sender.send(ended.run_id, "four"))
    assert sends.waits()
    caller.end(fate)
    if fate == "rollback":
        with pytest.raises(psycopg.errors.DatabaseError, match="has ended"):
            sends.result()
        assert world.inbox(ended.run_id) == ["three"]
        return
    sends.result()
    assert world.inbox(ended.run_id) == ["one", "two", "three", "four"]
    run = ended.worker.claim_run(ended.run_id)
    receives: list[Entry] = [receive(run, place) for place in ("2", "3", "4", "5")]
    verdicts = ended.worker.journal(*receives)
    assert [verdicts.detail(entry) for entry in receives] == ["one", "two", "three", "four"]


def test_a_redo_of_a_redo_hands_back_what_both_dropped(world: World, ended: Ended) -> None:
    worker = ended.worker
    world.anybody.rewind(ended.run_id, "3")
    run = worker.claim_run(ended.run_id)
    worker.journal(receive(run, "3"), receive(run, "4"), finish(run, "failed"))
    assert world.inbox(ended.run_id) == []
    world.anybody.rewind(ended.run_id, "4")
    run = worker.claim_run(ended.run_id)
    assert run.generation == 3
    assert world.inbox(ended.run_id) == ["three"]
    worker.journal(receive(run, "4"), finish(run, "failed"))
    world.anybody.rewind(ended.run_id, "1")
    assert world.inbox(ended.run_id) == ["one", "two", "three"]
    assert places(world, ended.run_id, 3) == ["1", "2", "3", "4"]


def test_a_key_stays_used_by_a_message_that_was_handed_back(world: World, ended: Ended) -> None:
    world.anybody.rewind(ended.run_id, "1")
    world.anybody.send(ended.run_id, "another", key="one")
    assert world.inbox(ended.run_id) == ["one", "two", "three"]


@pytest.mark.parametrize("fate", FATES)
def test_a_cancel_beside_an_open_redo_is_refused_and_afterwards_meant_for_its_generation(
    world: World, ended: Ended, fate: str
) -> None:
    caller, other = world.session("caller").begin(), world.session("other")
    caller.retry(ended.run_id)
    cancels = other.go(lambda: other.cancel(ended.run_id))
    assert not cancels.waits()
    with pytest.raises(psycopg.errors.DatabaseError, match="has ended"):
        cancels.result()
    caller.end(fate)
    if fate == "rollback":
        return
    other.cancel(ended.run_id)
    run = ended.worker.claim_run(ended.run_id)
    assert (run.generation, run.cancel is not None) == (2, True)


@pytest.mark.parametrize("redo", [Session.resume, Session.retry])
def test_a_redo_beside_an_open_finish_is_refused_and_afterwards_not(
    world: World, redo: object
) -> None:
    worker = world.worker()
    [run] = world.claimed_by(worker)
    assert callable(redo)
    worker.journal(step(run, "1"))
    worker.begin().journal(finish(run, "failed" if redo is Session.retry else "dead"))
    caller = world.session("caller")
    redoes = caller.go(lambda: redo(caller, run.run_id))
    assert not redoes.waits()
    with pytest.raises(psycopg.errors.DatabaseError, match="has not ended"):
        redoes.result()
    worker.commit()
    redo(caller, run.run_id)
    assert world.state(run.run_id) == "ready"


def test_a_zombie_of_the_old_generation_writes_to_nothing(world: World, ended: Ended) -> None:
    """Nor does it take the new generation's end for its own, nor its sleep."""
    zombie, fresh = ended.worker, world.worker("fresh")
    [other] = world.claimed_by(zombie)
    world.anybody.rewind(ended.run_id, "3")
    late: list[Entry] = [
        step(ended.run, "9"),
        receive(ended.run, "10"),
        emit(ended.run, "11"),
        set_event(ended.run, "12"),
        send(ended.run, "13", other.run_id),
        sleep_on(ended.run, for_message()),
    ]
    claimed: list[Claimed] = []
    for _ in ("the run is ready", "the run is another's"):
        for retrying in (False, True):
            verdicts = zombie.journal(*late, retrying=retrying)
            assert {verdicts.of(entry) for entry in late} == {"lost"}
        claimed += fresh.claim()
    [run] = claimed
    assert places(world, ended.run_id, 2) == ["1", "2"]
    assert world.inbox(ended.run_id) == ["two", "three"]
    assert (world.count("event"), world.count("stream_entry")) == (0, 0)
    assert zombie.verdict(finish(ended.run, "failed"), retrying=True) == "written", "long ago"
    assert fresh.verdict(receive(run, "3"), finish(run)) == "written"
    assert world.anybody.run("select generation, status from rowlock.outcome order by 1") == [
        (1, "failed"),
        (2, "succeeded"),
    ]


def test_a_journal_that_sends_to_a_run_that_is_being_redone_passes_by(
    world: World, ended: Ended
) -> None:
    worker = world.worker("sender")
    mine, other = world.claimed_by(worker, 2)
    caller = world.session("caller").begin()
    caller.rewind(ended.run_id, "1")
    entries: list[Entry] = [send(mine, "1", ended.run_id, "four"), step(other, "1")]
    flush = worker.go(lambda: worker.journal(*entries))
    assert not flush.waits()
    assert [flush.result().of(entry) for entry in entries] == ["again", "written"]
    caller.commit()
    assert worker.verdict(entries[0]) == "written"
    assert world.inbox(ended.run_id) == ["one", "two", "three", "four"]


def test_an_open_redo_holds_up_no_claim_and_no_tending(world: World, ended: Ended) -> None:
    """Promise 14."""
    caller = world.session("caller").begin()
    caller.rewind(ended.run_id, "1")
    world.anybody.start()
    worker = world.worker("another")
    claim, tend = worker.go(worker.claim), world.anybody.go(world.anybody.tend)
    assert not claim.waits()
    assert not tend.waits()
    assert len(claim.result()) == 1


@pytest.mark.parametrize("status", ["cancelled", "dead"])
def test_resume_keeps_what_was_recorded_before_the_cancel_was_seen(
    world: World, status: str
) -> None:
    worker = world.worker()
    [run] = world.claimed_by(worker)
    world.anybody.send(run.run_id, "one")
    worker.journal(step(run, "1"), stop(run, position=2), receive(run, "3"), finish(run, status))
    world.anybody.resume(run.run_id)
    assert places(world, run.run_id, 2) == ["1"]
    assert world.inbox(run.run_id) == ["one"]


# --- fork


def test_a_fork_copies_one_moment_of_a_run_that_is_redone_meanwhile(
    world: World, ended: Ended
) -> None:
    """Else it gets the steps of one generation and the messages of none: it waits for ever."""
    world.anybody.run(
        "create or replace function public.pause() returns trigger language plpgsql as $$"
        " begin"
        "   if current_setting('application_name') = 'forks' then"
        "     perform pg_advisory_xact_lock(7);"
        "   end if;"
        "   return null;"
        " end $$"
    )
    world.anybody.run(
        "create trigger pause before insert on rowlock.run"
        " for each statement execute function public.pause()"
    )
    pause, forker = world.session("pause").begin(), world.session("forker")
    try:
        pause.run("select pg_advisory_xact_lock(7)")
        forker.run("set application_name = 'forks'")
        forks = forker.go(lambda: forker.fork(ended.run_id, "3"))
        assert forks.waits()
        world.anybody.rewind(ended.run_id, "1")
        run = ended.worker.claim_run(ended.run_id)
        ended.worker.journal(receive(run, "1"), finish(run, "failed"))
        pause.rollback()
        copy = forks.result()
    finally:
        pause.rollback()
        forker.run("reset application_name")
        world.anybody.run("drop trigger pause on rowlock.run")
        world.anybody.run("drop function public.pause()")
    assert places(world, copy, 1) == ["1", "2"]
    assert world.messages(copy) == [("one", "2"), ("two", None)]


@pytest.mark.parametrize("fate", FATES)
def test_a_fork_beside_an_open_receive_has_its_message_or_not_but_never_half_of_it(
    world: World, fate: str
) -> None:
    worker = world.worker()
    [run] = world.claimed_by(worker)
    world.anybody.send(run.run_id, "one")
    worker.journal(step(run, "1"))
    worker.begin().journal(receive(run, "2"))
    caller = world.session("caller")
    forks = caller.go(lambda: caller.fork(run.run_id))
    assert not forks.waits(), "a look at the run takes no lock"
    before = forks.result()
    worker.end(fate)
    after = caller.fork(run.run_id)
    assert (places(world, before, 1), world.messages(before)) == (["1"], [])
    if fate == "commit":
        assert (places(world, after, 1), world.messages(after)) == (["1", "2"], [("one", "2")])


def test_an_open_fork_holds_up_nobody(world: World, ended: Ended) -> None:
    """Promise 14: not even the run it copies."""
    caller = world.session("caller").begin()
    caller.fork(ended.run_id)
    redo = world.anybody.go(lambda: world.anybody.rewind(ended.run_id, "1"))
    assert not redo.waits()
    send_ = world.anybody.go(lambda: world.anybody.send(ended.run_id, "four"))
    assert not send_.waits()


def test_a_fork_of_a_run_that_continued_copies_its_present_generation(world: World) -> None:
    worker = world.worker()
    [run] = world.claimed_by(worker)
    world.anybody.send(run.run_id, "one")
    worker.journal(receive(run, "1"), go_on(run))
    run = worker.claim_run(run.run_id)
    worker.journal(step(run, "1"), timer(run, "2"), sleep_on(run, timers=("2",)))
    copy = world.anybody.fork(run.run_id)
    assert places(world, copy, 1) == ["1"]
    assert world.messages(copy) == []
    claimed = worker.claim_run(copy)
    assert claimed.input == '{"again": true}'


def test_a_fork_at_a_place_that_is_not_recorded_starts_nothing(world: World, ended: Ended) -> None:
    for call in (
        lambda: world.anybody.fork(ended.run_id, "77"),
        lambda: world.anybody.run(
            "select rowlock.fork(%s, outcomes => '{\"77\": 1}')", ended.run_id
        ),
    ):
        with pytest.raises(psycopg.errors.DatabaseError) as refused:
            call()
        assert refused.value.sqlstate == "RLN04"
    assert world.count("run") == 1
