"""Transaction steps: the user's writes and their record, together or not at all.

The fence comes last, FOR KEY SHARE on the task, on a connection of its own that may wait.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import Claimed
from store.races.sessions import Session, Worker, World, finish, release, step, suspend, timer

LEVELS = ["read committed", "repeatable read", "serializable"]
NOT_OWNED = "RLF01"
SERIALIZATION = "40001"


@pytest.fixture
def books(world: World) -> Callable[[], int]:
    """The user's table, and what the transaction steps have counted in it."""
    world.anybody.run("create table public.book (id int primary key, entries int not null)")
    world.anybody.run("insert into public.book values (1, 0)")
    return lambda: int(world.anybody.ask("select entries from public.book where id = 1"))


def add_entry(session: Session) -> None:
    session.run("update public.book set entries = entries + 1 where id = 1")


def refusal(call: Callable[[], object]) -> str | None:
    with pytest.raises(psycopg.Error) as refused:
        call()
    return refused.value.sqlstate


# What takes a running run from its owner. Each locks the task FOR UPDATE first: a mere update of it
# would let an old snapshot pass the fence (5k).


def taken_over(world: World, worker: Worker, claimed: Claimed) -> None:
    world.expire(worker)
    assert world.anybody.reap() == 1


def left(world: World, worker: Worker, claimed: Claimed) -> None:
    assert worker.leave() == 1


def handed_back(world: World, worker: Worker, claimed: Claimed) -> None:
    entry = release(claimed)
    assert worker.journal(entry).of(entry) == "written"


def put_to_sleep(world: World, worker: Worker, claimed: Claimed) -> None:
    entry = suspend(claimed, timers=("9",))
    assert worker.journal(timer(claimed, "9"), entry).of(entry) == "written"


def finished(world: World, worker: Worker, claimed: Claimed) -> None:
    entry = finish(claimed)
    assert worker.journal(entry).of(entry) == "written"


def closed_and_taken_over(world: World, worker: Worker, claimed: Claimed) -> None:
    """An update that locks less comes in between."""
    world.anybody.run("update rowlock.task set closing = true where run_id = %s", claimed.run_id)
    taken_over(world, worker, claimed)


def taken_over_and_claimed(world: World, worker: Worker, claimed: Claimed) -> None:
    taken_over(world, worker, claimed)
    assert len(world.worker("next").claim()) == 1


LOSSES = [
    taken_over,
    left,
    handed_back,
    put_to_sleep,
    finished,
    closed_and_taken_over,
    taken_over_and_claimed,
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lose", LOSSES)
def test_who_lost_the_run_during_his_work_commits_nothing(
    world: World,
    books: Callable[[], int],
    lose: Callable[[World, Worker, Claimed], None],
    level: str,
) -> None:
    """5a, 5c, 5f, 5j, 5k: at every isolation level, whatever took the run away."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    user = world.session("user").begin(level)
    add_entry(user)
    lose(world, worker, claimed)
    state = refusal(lambda: user.record_transaction(claimed, "1"))
    assert state == NOT_OWNED or (level != "read committed" and state == SERIALIZATION)
    user.rollback()
    assert books() == 0
    assert world.steps(claimed.run_id) == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_takeover_passes_by_between_fence_and_commit(
    world: World, books: Callable[[], int], fate: str, level: str
) -> None:
    """5b: the next owner finds the step, or none of it."""
    slow, fresh = world.worker("slow"), world.worker("fresh")
    [old] = world.claimed_by(slow)
    user = world.session("user").begin(level)
    add_entry(user)
    user.record_transaction(old, "1")
    world.expire(slow)
    assert world.anybody.reap() == 0
    entry = finish(old)
    assert slow.journal(entry).of(entry) == "again"
    user.end(fate)
    assert world.anybody.reap() == 1
    [new] = fresh.claim()
    assert world.steps(new.run_id) == ([("1", "mine", 1)] if fate == "commit" else [])
    assert books() == (1 if fate == "commit" else 0)


def test_a_fence_waits_for_an_open_takeover_and_then_fails(
    world: World, books: Callable[[], int]
) -> None:
    """5a with the takeover still open; it has a connection of its own, so it may wait."""
    slow = world.worker("slow")
    [claimed] = world.claimed_by(slow)
    user, reaper = world.session("user").begin(), world.session("reaper").begin()
    add_entry(user)
    world.expire(slow)
    reaper.reap()
    fence = user.go(lambda: refusal(lambda: user.record_transaction(claimed, "1")))
    assert fence.waits()
    reaper.commit()
    assert fence.result() == NOT_OWNED
    user.rollback()
    assert books() == 0


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_second_try_waits_for_the_first_and_happens_once(
    world: World, books: Callable[[], int], fate: str
) -> None:
    """5d: the commit's answer was lost, and the server is still at it."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    first, second = world.session("first").begin(), world.session("second").begin()
    add_entry(first)
    first.record_transaction(claimed, "1", '"first"')
    assert world.steps(claimed.run_id) == [], "a look says: not there"

    def again() -> str | None:
        try:
            second.record_transaction(claimed, "1", '"second"')
        except psycopg.errors.UniqueViolation as error:
            second.rollback()
            return error.diag.constraint_name
        second.commit()
        return None

    # The user's own writes may come in the way, too; here they don't touch the same row.
    second.run("insert into public.book values (2, 1)")
    tries = second.go(again)
    assert tries.waits()
    first.end(fate)
    assert tries.result() == ("step_pkey" if fate == "commit" else None)
    [(_, output, _)] = world.steps(claimed.run_id)
    assert output == ("first" if fate == "commit" else "second")
    assert books() == (1 if fate == "commit" else 0)
    assert world.anybody.ask("select count(*) from public.book") == (1 if fate == "commit" else 2)


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_the_error_of_a_lost_transaction_waits_for_its_fate_without_the_journal(
    world: World, books: Callable[[], int], fate: str
) -> None:
    """5e: what committed after all is what counts; all other runs go on meanwhile."""
    worker = world.worker()
    claimed, other = world.claimed_by(worker, 2)
    lost, recorder = world.session("lost").begin(), world.session("recorder")
    add_entry(lost)
    lost.record_transaction(claimed, "1")
    fails = recorder.go(lambda: recorder.record_failed_transaction(claimed, "1"))
    assert fails.waits()
    entry = step(other, "1")
    flush = worker.go(lambda: worker.journal(entry))
    assert not flush.waits()
    assert flush.result().of(entry) == "written"
    lost.end(fate)
    [recorded] = fails.result()
    assert (recorded.output, recorded.error is None) == (
        ('"mine"', True) if fate == "commit" else (None, False)
    )
    assert books() == (1 if fate == "commit" else 0)


def test_the_error_of_a_transaction_is_not_recorded_by_who_lost_the_run(world: World) -> None:
    """5e: the next owner tries anew."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    taken_over(world, worker, claimed)
    assert world.anybody.record_failed_transaction(claimed, "1") == []
    assert world.steps(claimed.run_id) == []


def test_a_transaction_that_comes_after_its_error_was_recorded_fails(
    world: World, books: Callable[[], int]
) -> None:
    """5d, 5e in the other order: the commit was still on its way."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    late = world.session("late").begin()
    add_entry(late)
    [recorded] = world.anybody.record_failed_transaction(claimed, "1")
    assert recorded.error is not None
    assert refusal(lambda: late.record_transaction(claimed, "1")) == "23505"
    late.rollback()
    assert books() == 0


@pytest.mark.parametrize("level", LEVELS)
def test_what_only_touches_the_run_during_the_users_work_does_not_fail_it(
    world: World, books: Callable[[], int], level: str
) -> None:
    """5g: heartbeats, steps of other branches, watchers, a finish that wants to close."""
    worker, parents = world.worker(), world.worker("parents")
    [claimed], [parent] = world.claimed_by(worker), world.claimed_by(parents)
    user = world.session("user").begin(level)
    add_entry(user)
    worker.heartbeat()
    worker.journal(step(claimed, "5"))
    sleeps = suspend(parent, claimed.run_id)
    assert parents.journal(sleeps).of(sleeps) == "written"
    world.anybody.run("update rowlock.task set closing = true where run_id = %s", claimed.run_id)
    user.record_transaction(claimed, "1")
    user.commit()
    assert books() == 1


def test_a_long_user_function_holds_up_nothing_before_its_fence(
    world: World, books: Callable[[], int]
) -> None:
    """5h: with the fence first, everybody would wait for the user's work."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    user = world.session("user").begin()
    add_entry(user)
    entries: list[Entry] = [step(claimed, "2"), finish(claimed)]
    verdicts = worker.journal(*entries)
    assert [verdicts.of(entry) for entry in entries] == ["written", "written"]
    user.rollback()


def test_an_old_and_a_new_owner_at_one_place_do_not_deadlock(
    world: World, books: Callable[[], int]
) -> None:
    """5i: both write first and take the fence last, so one waits and the other fails."""
    slow, fresh = world.worker("slow"), world.worker("fresh")
    [old] = world.claimed_by(slow)
    zombie, owner = world.session("zombie").begin(), world.session("owner").begin()
    add_entry(zombie)
    taken_over(world, slow, old)
    [new] = fresh.claim()
    works = owner.go(lambda: add_entry(owner))
    assert works.waits()
    assert refusal(lambda: zombie.record_transaction(old, "1", '"zombie"')) == NOT_OWNED
    zombie.rollback()
    works.result()
    owner.record_transaction(new, "1", '"owner"')
    owner.commit()
    assert books() == 1
    assert world.steps(old.run_id) == [("1", "owner", new.epoch)]
