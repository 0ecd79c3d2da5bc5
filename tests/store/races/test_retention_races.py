"""Retention: what leaves, what stays since something needs it, and who wins when both want a run.

Whoever removes a run holds its row FOR UPDATE and passes by what others hold; so either a redo, a
fork or a sender was first and nothing is removed, or they find no run.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import START_CHILD, Claimed
from store.races.sessions import (
    APP,
    Session,
    World,
    child,
    children,
    emit,
    finish,
    for_end,
    for_group,
    go_on,
    receive,
    send,
    set_event,
    sleep_on,
    step,
    timer,
)

FATES = ["commit", "rollback"]
TABLES = ["run", "step", "outcome", "generation", "message", "event", "stream_entry", "arrival"]
TABLES += ["run_key", "cancel_request", "wait", "adoption"]


def policy(
    world: World,
    keep: str | None = "0",
    *,
    workflow: str | None = None,
    outcome: str | None = None,
    keys: str | None = None,
    archive: bool = False,
) -> None:
    world.anybody.run(
        "select rowlock.set_retention(%s::interval, %s, %s, %s::interval, %s, app => %s)",
        keep,
        workflow,
        outcome,
        keys,
        archive,
        APP,
    )


def age(world: World, by: str = "1 day") -> None:
    """All runs that have ended did so long ago, and were made before that."""
    world.anybody.run("update rowlock.outcome set finished_at = finished_at - %s::interval", by)
    world.anybody.run(
        "select set_config('rowlock.test_offset',"
        " (%s::interval + coalesce(nullif(current_setting('rowlock.test_offset', true), ''), '0')"
        "::interval)::text, false)",
        by,
    )


@pytest.fixture(autouse=True)
def _age(world: World) -> None:
    world.anybody.run("select set_config('rowlock.test_offset', '', false)")


def retain(session: Session, at_most: int = 1000) -> int:
    """Removes batch by batch until the end of the walk has come; how many runs that were."""
    removed = 0
    done = False
    while not done:
        [(count, _, done)] = session.run("select * from rowlock.retain(%s)", at_most)
        removed += int(count)
    return removed


def pass_on(world: World, other: Session) -> None:
    """This session's clock too."""
    offset = world.anybody.ask("select current_setting('rowlock.test_offset')")
    other.run("select set_config('rowlock.test_offset', %s, false)", offset)


def ended(world: World, count: int = 1, status: str = "succeeded") -> list[UUID]:
    """Runs that have recorded a step and ended."""
    worker = world.worker("ender")
    runs = world.claimed_by(worker, count)
    for run in runs:
        worker.journal(step(run, "1"), finish(run, status))
    return [run.run_id for run in runs]


def there(world: World, *runs: UUID) -> list[bool]:
    """Which of them are there."""
    found = {row[0] for row in world.anybody.run("select id from rowlock.run")}
    return [run in found for run in runs]


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(psycopg.errors.DatabaseError) as error:
        call()
    return str(error.value.sqlstate)


# --- what leaves


def test_a_run_leaves_with_all_that_was_recorded_of_it(world: World) -> None:
    worker = world.worker()
    admin = world.anybody
    run_id = admin.start(key="order-7")
    run = worker.claim_run(run_id)
    admin.send(run_id, "one", key="one")
    admin.send(run_id, "two")
    group = children(run, "4", 2)
    worker.journal(
        step(run, "1"), receive(run, "2"), set_event(run, "3"), group, emit(run, "5"), go_on(run)
    )
    members = [one for one in worker.claim() if one.run_id != run_id]
    worker.journal(*[finish(one) for one in members])
    run = Claimed(**{**_fields(run), "generation": 2, "epoch": run.epoch + 2})
    worker.journal(step(run, "1"), finish(run, "failed"))
    admin.retry(run_id)
    run = worker.claim_run(run_id)
    worker.journal(finish(run, "succeeded"))
    for table in TABLES[:9]:
        assert world.count(table) > 0, table
    policy(world)
    age(world)
    assert retain(admin) == 3
    assert {table: world.count(table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def _fields(claimed: Claimed) -> dict[str, Any]:
    return {name: getattr(claimed, name) for name in claimed.__slots__}


def test_without_a_policy_everything_stays(world: World) -> None:
    [run] = ended(world)
    age(world, "9 years")
    assert retain(world.anybody) == 0
    assert there(world, run) == [True]


def test_the_most_specific_policy_counts(world: World) -> None:
    worker = world.worker()
    ids: dict[tuple[str, str], UUID] = {}
    for workflow in ("fulfil", "invoice"):
        for status in ("succeeded", "failed"):
            ids[workflow, status] = world.anybody.start(workflow)
            worker.journal(finish(worker.claim_run(ids[workflow, status]), status))
    age(world)
    policy(world, None)
    policy(world, "1 hour", outcome="failed")
    policy(world, "1 year", workflow="invoice")
    assert retain(world.anybody) == 1
    assert there(world, *ids.values()) == [True, False, True, True]
    policy(world, "1 hour", workflow="invoice", outcome="succeeded")
    assert retain(world.anybody) == 1
    assert there(world, *ids.values()) == [True, False, False, True]
    assert world.anybody.ask("select rowlock.drop_retention('invoice', app => %s)", APP) is True
    assert world.anybody.ask("select rowlock.drop_retention('invoice', app => %s)", APP) is False
    assert retain(world.anybody) == 1
    assert there(world, *ids.values()) == [True, False, False, False]


def test_the_age_counts_from_the_last_end(world: World) -> None:
    [old, redone] = ended(world, 2, "failed")
    policy(world, "1 hour")
    age(world)
    world.anybody.retry(redone)
    worker = world.worker()
    worker.journal(finish(worker.claim_run(redone), "failed"))
    assert retain(world.anybody) == 1
    assert there(world, old, redone) == [False, True]
    age(world)
    assert retain(world.anybody) == 1


def test_a_run_stays_for_a_minute_whatever_the_policy_says(world: World) -> None:
    [run] = ended(world)
    policy(world, "0")
    age(world, "50 seconds")
    assert retain(world.anybody) == 0
    age(world, "20 seconds")
    assert retain(world.anybody) == 1
    assert there(world, run) == [False]


def test_what_is_to_be_archived_first_is_left_alone(world: World) -> None:
    ended(world)
    policy(world, archive=True)
    age(world)
    assert retain(world.anybody) == 0


def test_only_runs_of_the_app_that_is_asked_for_leave(world: World) -> None:
    ended(world)
    policy(world)
    age(world)
    assert world.anybody.run("select * from rowlock.retain(1000, 'another')") == [(0, 0, True)]
    assert world.anybody.run("select removed from rowlock.retain(1000, 'shop')") == [(1,)]


def test_a_batch_is_no_larger_than_asked_and_the_next_goes_on_behind_it(world: World) -> None:
    runs = ended(world, 10)
    policy(world)
    age(world)
    left = []
    for _ in range(4):
        world.anybody.run("select * from rowlock.retain(3)")
        left.append(sum(there(world, *runs)))
    assert left == [7, 4, 1, 0]


def test_a_batch_ends_early_when_its_runs_have_many_rows(world: World) -> None:
    worker = world.worker()
    runs = world.claimed_by(worker, 4)
    for run in runs[:2]:
        worker.journal(*[step(run, str(n)) for n in range(1, 60)])
    worker.journal(*[finish(run) for run in runs])
    policy(world)
    age(world)
    # room for 20 rows for each run of the batch: the first one takes them all
    removed = [world.anybody.ask("select removed from rowlock.retain(2)") for _ in range(3)]
    assert removed == [1, 1, 2]


def test_what_stays_is_not_passed_again_before_the_walk_begins_anew(world: World) -> None:
    """Ten at the low end are not old enough, then comes one that leaves; a batch looks at five."""
    worker = world.worker()
    kept = world.claimed_by(worker, 10)
    worker.journal(*[finish(run, "succeeded") for run in kept])
    [late] = world.claimed_by(worker)
    worker.journal(finish(late, "succeeded"))
    policy(world, "1 year", workflow="fulfil")
    age(world, "1 year")
    world.anybody.run(
        "update rowlock.outcome set finished_at = clock_timestamp() where run_id = any (%s)",
        [run.run_id for run in kept],
    )
    answers = [world.anybody.run("select * from rowlock.retain(1)")[0] for _ in range(4)]
    assert [removed for removed, _, _ in answers] == [0, 0, 1, 0]
    assert [done for *_, done in answers] == [False, False, False, True]


# --- what stays


def test_a_child_stays_as_long_as_its_parent(world: World) -> None:
    """A redo of the parent reads it. A parent that was removed is nobody's business."""
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    started = child(parent, "1")
    leaf = UUID(worker.journal(started).detail(started))
    worker.journal(finish(worker.claim_run(leaf)))
    policy(world)
    policy(world, "1 year", outcome="failed")
    age(world)
    assert retain(world.anybody) == 0, "its parent is at work"
    worker.journal(finish(parent, "failed"))
    assert retain(world.anybody) == 0, "its parent may be retried"
    assert _why(world, leaf) == "its parent is there"
    age(world, "1 year")
    retain(world.anybody)
    assert retain(world.anybody) + world.count("run") in (0, 1)
    assert there(world, parent.run_id, leaf) == [False, False]


def _why(world: World, run: UUID) -> str | None:
    why: str | None = world.anybody.ask("select rowlock.why_kept(%s)", run)
    return why


def test_children_of_a_history_that_the_parent_has_left_are_free(world: World) -> None:
    """Or a run that continues as new for years would keep all children it ever had."""
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    started = child(parent, "1")
    leaf = UUID(worker.journal(started).detail(started))
    worker.journal(finish(worker.claim_run(leaf)))
    policy(world)
    age(world)
    worker.journal(go_on(parent))
    assert retain(world.anybody) == 1
    assert there(world, parent.run_id, leaf) == [True, False]


def keyed_child(session: Session, parent: Claimed, key: str) -> UUID:
    """As a worker starts one: over a connection of its own, before the step is recorded."""
    [run] = session.call(
        START_CHILD,
        app=APP,
        workflow="invoice",
        input="{}",
        key=key,
        queue=None,
        priority=None,
        attributes=None,
        trace_context=None,
        detached=None,
        deadline=None,
        partition=None,
        parent=parent.run_id,
        generation=parent.generation,
        place="1",
    )
    return run


@pytest.mark.parametrize("starter", ["another parent", "nobody"])
def test_a_child_that_was_found_by_its_key_stays_as_long_as_any_of_its_parents(
    world: World, starter: str
) -> None:
    worker = world.worker()
    first, second = world.claimed_by(worker, 2)
    if starter == "nobody":
        shared = world.anybody.start("invoice", key="report")
    else:
        shared = keyed_child(world.anybody, first, "report")
    assert keyed_child(world.anybody, second, "report") == shared
    assert keyed_child(world.anybody, second, "report") == shared, "a worker asks again"
    worker.journal(finish(worker.claim_run(shared)), finish(first))
    policy(world)
    age(world)
    retain(world.anybody)
    assert _why(world, shared) == "its parent is there"
    assert there(world, first.run_id, shared) == [False, True]
    worker.journal(finish(second))
    age(world)
    retain(world.anybody)
    retain(world.anybody)
    assert (world.count("run"), world.count("adoption")) == (0, 0)


def test_a_child_that_a_later_history_finds_by_its_key_stays_with_that(world: World) -> None:
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    shared = keyed_child(world.anybody, parent, "report")
    worker.journal(finish(worker.claim_run(shared)), go_on(parent))
    [again] = worker.claim()
    assert keyed_child(world.anybody, again, "report") == shared
    policy(world)
    age(world)
    assert retain(world.anybody) == 0
    worker.journal(go_on(again))
    assert retain(world.anybody) == 1
    assert there(world, parent.run_id, shared) == [True, False]


def test_a_child_that_is_being_found_by_its_key_is_not_removed(world: World) -> None:
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    [shared] = _keyed(world, "report")
    policy(world)
    age(world)
    starter = world.session("starter").begin()
    assert keyed_child(starter, parent, "report") == shared
    removal = world.anybody.go(lambda: retain(world.anybody))
    assert not removal.waits()
    assert removal.result() == 0
    starter.commit()
    assert retain(world.anybody) == 0
    assert _why(world, shared) == "its parent is there"
    worker.journal(finish(parent))
    world.anybody.run("select rowlock.delete(%s)", parent.run_id)
    assert (_why(world, shared), world.count("adoption")) == (None, 0)


@pytest.mark.parametrize("fate", FATES)
def test_a_child_whose_run_is_being_removed_is_started_anew(world: World, fate: str) -> None:
    """Else the parent would have a child that is not there."""
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    [shared] = _keyed(world, "report")
    policy(world)
    age(world)
    remover, starter = world.session("remover").begin(), world.session("starter")
    # as a removal that has its locks and has deleted nothing yet
    remover.run("select from rowlock.run where id = %s for update", shared)
    starts = starter.go(lambda: keyed_child(starter, parent, "report"))
    assert starts.waits()
    remover.run("select rowlock.delete(%s)", shared)
    remover.end(fate)
    found = starts.result()
    assert (found == shared) == (fate == "rollback")
    assert there(world, found) == [True]


def test_a_parent_stays_until_its_children_have_ended(world: World) -> None:
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    worker.journal(children(parent, "1", 2), finish(parent))
    one, two = worker.claim()
    worker.journal(finish(one))
    policy(world)
    age(world)
    assert retain(world.anybody) == 0
    assert _why(world, parent.run_id) == "a child of it has not ended"
    worker.journal(finish(two))
    age(world)
    assert retain(world.anybody) >= 1
    retain(world.anybody)
    assert (world.count("run"), world.count("arrival")) == (0, 0)


def test_a_run_stays_while_another_waits_for_it(world: World) -> None:
    worker = world.worker()
    watcher, watched = world.claimed_by(worker, 2)
    worker.journal(sleep_on(watcher, for_end(watched.run_id)))
    worker.journal(finish(watched))
    policy(world)
    age(world)
    assert world.state(watcher.run_id) == "ready"
    assert retain(world.anybody) == 0
    assert _why(world, watched.run_id) == "another run waits for it"
    worker.journal(finish(worker.claim_run(watcher.run_id), waited=True))
    assert retain(world.anybody) == 1


def test_a_run_stays_as_long_as_a_fork_of_it(world: World) -> None:
    """The fork's steps are copies: they name the children of the original, and its groups."""
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    group = children(parent, "1", 1)
    name = worker.journal(group).detail(group)
    [member] = worker.claim()
    worker.journal(finish(member), finish(parent))
    fork = world.anybody.fork(parent.run_id)
    again = world.anybody.fork(fork)
    policy(world)
    age(world)
    assert retain(world.anybody) == 0
    runs = {run.run_id: run for run in worker.claim()}
    assert worker.verdict(sleep_on(runs[again], for_group(name, 1))) == "look", "it is complete"
    worker.journal(finish(runs[fork]))
    age(world)
    assert retain(world.anybody) == 0, "the fork of the fork is at work"
    worker.journal(finish(runs[again]))
    age(world)
    for _ in range(4):
        retain(world.anybody)
    assert world.count("run") == 0


# --- both at once


REDOES: dict[str, Callable[[Session, UUID], object]] = {
    "retry": Session.retry,
    "rewind": lambda session, run: session.rewind(run, "1"),
    "fork": Session.fork,
}


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("redo", REDOES)
def test_a_redo_that_is_first_keeps_its_run_and_holds_up_no_other(
    world: World, redo: str, fate: str
) -> None:
    one, two = ended(world, 2, "failed")
    policy(world)
    age(world)
    caller = world.session("caller").begin()
    REDOES[redo](caller, one)
    removal = world.anybody.go(lambda: retain(world.anybody))
    assert not removal.waits()
    assert removal.result() == 1
    assert there(world, one, two) == [True, False]
    caller.end(fate)
    assert retain(world.anybody) == (0 if fate == "commit" else 1)
    assert there(world, one) == [fate == "commit"]


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
@pytest.mark.parametrize("redo", REDOES)
def test_a_removal_that_is_first_leaves_nothing_to_redo(
    world: World, redo: str, isolation: str, fate: str
) -> None:
    [run] = ended(world, 1, "failed")
    policy(world)
    age(world)
    remover, caller = world.session("remover"), world.session("caller").begin(isolation)
    pass_on(world, remover)
    caller.ask("select count(*) from rowlock.task")
    assert retain(remover.begin()) == 1
    redoes = caller.go(lambda: REDOES[redo](caller, run))
    assert redoes.waits()
    remover.end(fate)
    if fate == "rollback":
        redoes.result()
        caller.commit()
        assert there(world, run) == [True]
        return
    expected = "RLN03" if isolation == "read committed" else "40001"
    assert refused(redoes.result) == expected
    caller.rollback()
    assert {table: world.count(table) for table in TABLES} == dict.fromkeys(TABLES, 0)


PAUSE = """
alter function rowlock.kept_because(uuid[], boolean) rename to kept_because_at_once;
create function rowlock.kept_because(p_runs uuid[], p_children boolean)
returns table (run_id uuid, reason text) language plpgsql as $$
begin
    return query select * from rowlock.kept_because_at_once(p_runs, p_children);
    if not p_children and current_setting('application_name') = 'removes' then
        perform pg_advisory_xact_lock(7);
    end if;
end $$;
"""
RESTORE = """
drop function rowlock.kept_because(uuid[], boolean);
alter function rowlock.kept_because_at_once(uuid[], boolean) rename to kept_because;
"""


@pytest.mark.parametrize("ends_again", [False, True])
def test_a_redo_between_the_choice_and_the_lock_is_seen(world: World, ends_again: bool) -> None:
    worker = world.worker()
    [run, other] = ended(world, 2, "failed")
    policy(world)
    age(world)
    remover, pause = world.session("remover"), world.session("pause").begin()
    pass_on(world, remover)
    world.anybody.run(PAUSE)
    try:
        remover.run("set application_name = 'removes'")
        pause.run("select pg_advisory_xact_lock(7)")
        removal = remover.go(lambda: retain(remover))
        assert removal.waits(), "it has chosen both and locked none"
        world.anybody.retry(run)
        if ends_again:
            worker.journal(finish(worker.claim_run(run), "succeeded"))
        pause.rollback()
        assert removal.result() == 1
    finally:
        pause.rollback()
        remover.run("reset application_name")
        world.anybody.run(RESTORE)
    assert there(world, run, other) == [True, False]


@pytest.mark.parametrize("deliver", ["send", "set_event"])
def test_who_delivers_to_a_run_that_is_being_removed_finds_none(world: World, deliver: str) -> None:
    [run] = ended(world)
    policy(world)
    age(world)
    remover, caller = world.session("remover"), world.session("caller")
    pass_on(world, remover)
    assert retain(remover.begin()) == 1
    delivers = caller.go(lambda: getattr(caller, deliver)(run))
    assert delivers.waits()
    remover.commit()
    assert refused(delivers.result) == "RLN03"


def test_a_journal_that_sends_to_a_run_that_is_being_removed_passes_by(world: World) -> None:
    [run] = ended(world)
    policy(world)
    age(world)
    worker, remover = world.worker("sender"), world.session("remover")
    mine, other = world.claimed_by(worker, 2)
    pass_on(world, remover)
    assert retain(remover.begin()) == 1
    entries: list[Entry] = [send(mine, "1", run), step(other, "1")]
    flush = worker.go(lambda: worker.journal(*entries))
    assert not flush.waits()
    assert [flush.result().of(entry) for entry in entries] == ["again", "written"]
    remover.commit()
    assert worker.verdict(entries[0]) == "undeliverable"


def test_an_open_removal_holds_up_no_worker_and_no_other_removal(world: World) -> None:
    """Promise 14."""
    first = ended(world, 2)
    policy(world)
    age(world)
    caller = world.session("caller").begin()
    caller.run("select rowlock.delete(%s)", first[0])
    worker = world.worker()
    run, other = world.claimed_by(worker, 2)
    worker.journal(timer(other, "1"), sleep_on(other, timers=("1",)))
    journal = worker.go(lambda: worker.verdict(step(run, "1"), finish(run)))
    assert not journal.waits()
    removal = world.anybody.go(lambda: retain(world.anybody))
    assert not removal.waits()
    assert removal.result() == 1
    tend = world.anybody.go(world.anybody.tend)
    assert not tend.waits()
    assert there(world, *first) == [True, False]


def test_two_removals_at_once_share_the_work_and_wait_for_nobody(world: World) -> None:
    runs = ended(world, 40)
    policy(world)
    age(world)
    sessions = [world.session(f"remover {n}") for n in range(4)]
    for session in sessions:
        pass_on(world, session)

    def remove(session: Session) -> int:
        # Each with a walk of its own, or one of them would do all of it.
        count, lane, after = 0, None, None
        while True:
            [(found, lane, after, done)] = session.run(
                "select * from rowlock.choose_runs(5, null, false, %s::text[], %s::uuid)",
                lane,
                after,
            )
            session.run("select rowlock.remove_runs(%s::uuid[], true)", found)
            session.commit()
            session.begin()
            count += len(found)
            if done:
                return count

    for session in sessions:
        session.begin()
    with ThreadPoolExecutor(len(sessions)) as threads:
        counts = list(threads.map(remove, sessions))
    assert sum(counts) == 40, counts
    assert there(world, *runs) == [False] * 40


def test_while_somebody_is_at_a_walk_others_have_nothing_to_do(world: World) -> None:
    ended(world, 4)
    policy(world)
    age(world)
    one = world.session("one")
    pass_on(world, one)
    one.begin().run("select * from rowlock.retain(1)")
    assert world.anybody.run("select * from rowlock.retain(1)") == [(0, 0, True)]
    one.commit()
    assert retain(world.anybody) == 3


def test_a_tally_that_folds_leaves_no_arrival_of_a_parent_that_is_gone(world: World) -> None:
    """Sixty-five batches of children: the tally folds them into one row, which a removal that does
    not see it would leave behind."""
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    group = children(parent, "1", 65)
    name = worker.journal(group).detail(group)
    worker.journal(finish(parent))
    for member in worker.claim():
        worker.journal(finish(member))
    policy(world)
    age(world)
    remover = world.session("remover")
    pass_on(world, remover)
    worker.begin().journal(groups=[name])
    assert world.anybody.ask("select count(*) from rowlock.run where id = %s", parent.run_id) == 1
    retain(remover.begin())
    worker.commit()
    remover.commit()
    for _ in range(2):
        retain(world.anybody)
    assert (world.count("run"), world.count("arrival")) == (0, 0)


# --- keys


def test_a_key_leaves_with_its_run(world: World) -> None:
    [run] = _keyed(world, "order-7")
    policy(world)
    age(world)
    assert retain(world.anybody) == 1
    again = world.anybody.start(key="order-7")
    assert again != run


def _keyed(world: World, *keys: str) -> list[UUID]:
    worker = world.worker()
    runs = [world.anybody.start(key=key) for key in keys]
    worker.journal(*[finish(run) for run in worker.claim()])
    return runs


def test_a_key_stays_as_long_as_promised_and_gives_the_run_that_it_was(world: World) -> None:
    [run] = _keyed(world, "order-7")
    policy(world, "1 day", keys="3 days")
    age(world, "2 days")
    assert retain(world.anybody) == 1
    assert world.anybody.start(key="order-7") == run, "it is not started again"
    [again, other] = world.anybody.start_many(
        {"workflow": "fulfil", "key": "order-7"}, {"workflow": "fulfil", "key": "order-8"}
    )
    assert (again, world.count("run")) == (run, 1)
    assert refused(lambda: world.anybody.send(run)) == "RLN03"
    world.anybody.run("update rowlock.run_key set expires_at = expires_at - interval '1 day'")
    assert world.anybody.run("select removed, keys from rowlock.retain()") == [(0, 1)]
    fresh = world.anybody.start(key="order-7")
    assert fresh not in (run, other)


def test_a_key_whose_time_is_over_when_its_run_leaves_leaves_with_it(world: World) -> None:
    _keyed(world, "order-7")
    policy(world, "1 day", keys="3 days")
    age(world, "5 days")
    assert retain(world.anybody) == 1
    assert world.count("run_key") == 0


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("many", [False, True])
def test_a_start_with_a_key_that_is_being_removed_waits_and_then_starts(
    world: World, fate: str, many: bool
) -> None:
    [run] = _keyed(world, "order-7")
    policy(world)
    age(world)
    remover, caller = world.session("remover"), world.session("caller")
    pass_on(world, remover)
    assert retain(remover.begin()) == 1

    def start() -> UUID:
        if not many:
            return caller.start(key="order-7")
        started = caller.start_many(
            {"workflow": "fulfil", "key": "a"},
            {"workflow": "fulfil", "key": "order-7"},
            {"workflow": "fulfil", "key": "order-7"},
        )
        assert started[1] == started[2]
        return started[1]

    starts = caller.go(start)
    assert starts.waits()
    remover.end(fate)
    assert (starts.result() == run) == (fate == "rollback")
    assert world.count("task") == (0 if fate == "rollback" else 1) + (1 if many else 0)


@pytest.mark.parametrize("many", [False, True])
def test_a_key_that_goes_between_the_two_looks_of_a_start_is_tried_again(
    world: World, many: bool
) -> None:
    """The start found the key used, and then finds no run for it: never an id of nothing."""
    [run] = _keyed(world, "order-7")
    world.anybody.run(
        "create or replace function public.go_away() returns trigger language plpgsql as $$"
        " begin perform pg_advisory_xact_lock(7); return null; end $$"
    )
    world.anybody.run(
        "create trigger go_away after insert on rowlock.run_key"
        " for each statement execute function public.go_away()"
    )
    pause, caller = world.session("pause").begin(), world.session("caller")
    try:
        pause.run("select pg_advisory_xact_lock(7)")
        starts = caller.go(
            lambda: (
                caller.start_many({"workflow": "fulfil", "key": "order-7"})[0]
                if many
                else caller.start(key="order-7")
            )
        )
        assert starts.waits(), "after it has met the conflict"
        world.anybody.run("select rowlock.delete(%s)", run)
        pause.rollback()
        fresh = starts.result()
    finally:
        pause.rollback()
        world.anybody.run("drop trigger go_away on rowlock.run_key")
        world.anybody.run("drop function public.go_away()")
    assert fresh is not None
    assert fresh != run
    assert there(world, fresh) == [True]


# --- delete


def test_delete_takes_one_run_at_once_and_its_key(world: World) -> None:
    [run] = _keyed(world, "order-7")
    policy(world, None, workflow="fulfil")
    world.anybody.run("select rowlock.delete(%s)", run)
    assert {table: world.count(table) for table in TABLES} == dict.fromkeys(TABLES, 0)
    assert refused(lambda: world.anybody.run("select rowlock.delete(%s)", run)) == "RLN03"


def test_delete_works_in_bulk_over_a_query_parents_first(world: World) -> None:
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    worker.journal(children(parent, "1", 3), finish(parent))
    worker.journal(*[finish(one) for one in worker.claim()])
    others = ended(world, 3, "failed")
    world.anybody.run(
        "select rowlock.delete(run_id) from rowlock.runs where status = 'succeeded' order by run_id"
    )
    assert {row[0] for row in world.anybody.run("select id from rowlock.run")} == set(others)


def test_delete_says_why_it_refuses(world: World) -> None:
    worker = world.worker()
    parent, blocked = world.claimed_by(worker, 2)
    started = child(parent, "1")
    leaf = UUID(worker.journal(started).detail(started))
    fork = world.anybody.fork(blocked.run_id)

    def error(run: UUID) -> tuple[str, str]:
        with pytest.raises(psycopg.errors.DatabaseError) as found:
            world.anybody.run("select rowlock.delete(%s)", run)
        assert "Nothing was changed." in (found.value.diag.message_hint or "")
        return str(found.value.sqlstate), str(found.value.diag.message_primary)

    state, message = error(parent.run_id)
    assert (state, message.endswith("is running and can't be deleted: it has not ended")) == (
        "RLS01",
        True,
    )
    worker.journal(finish(parent), finish(blocked))
    state, message = error(parent.run_id)
    assert (state, "a child of it has not ended" in message) == ("RLS05", True)
    state, message = error(blocked.run_id)
    assert (state, "a fork of it is there" in message) == ("RLS05", True)
    runs = {run.run_id: run for run in worker.claim()}
    worker.journal(finish(runs[leaf]), finish(runs[fork]))
    state, message = error(leaf)
    assert (state, "its parent is there" in message) == ("RLS05", True)
    assert _why(world, parent.run_id) is None
    for run in (parent.run_id, leaf, fork, blocked.run_id):
        world.anybody.run("select rowlock.delete(%s)", run)
    assert world.count("run") == 0


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_delete_demands_to_see_what_is(world: World, isolation: str) -> None:
    """With an old snapshot it would delete a run that has been redone since."""
    [run] = ended(world, 1, "failed")
    caller = world.session("caller").begin(isolation)
    caller.ask("select count(*) from rowlock.task")
    world.anybody.retry(run)
    assert refused(lambda: caller.run("select rowlock.delete(%s)", run)) == "RLI01"
    caller.rollback()
    assert world.state(run) == "ready"


def test_delete_waits_for_an_open_redo_and_then_refuses(world: World) -> None:
    [run] = ended(world, 1, "failed")
    caller, other = world.session("caller").begin(), world.session("other")
    caller.retry(run)
    deletes = other.go(lambda: other.run("select rowlock.delete(%s)", run))
    assert deletes.waits()
    caller.commit()
    assert refused(deletes.result) == "RLS01"


# --- settings, and what would go


BAD = [
    "select rowlock.set_retention(interval '-1 day', app => 'shop')",
    "select rowlock.set_retention(interval '1 day', outcome => 'lost', app => 'shop')",
    "select rowlock.set_retention(null, keep_keys => interval '1 day', app => 'shop')",
    "select rowlock.set_retention(interval '2 days', keep_keys => interval '1 day', app => 'shop')",
    "select rowlock.set_retention(interval '2000 years', app => 'shop')",
    "select rowlock.set_retention(interval '1 day', workflow => '', app => 'shop')",
    "select * from rowlock.retain(0)",
    "select * from rowlock.retain(null)",
    "select * from rowlock.retain(10001)",
]


@pytest.mark.parametrize("bad", BAD)
def test_what_makes_no_sense_is_refused(world: World, bad: str) -> None:
    with pytest.raises(psycopg.errors.DatabaseError) as found:
        world.anybody.run(bad)
    assert found.value.sqlstate == "RLV02"
    assert "Nothing was changed." in (found.value.diag.message_hint or "")
    assert world.count("retention") == 0


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        ("app => 'shpo'", "RLN07", "there is no app shpo"),
        ("workflow => 'fulfil', app => 'shpo'", "RLN07", "there is no app shpo"),
        ("workflow => 'fullfil', app => 'shop'", "RLN05", "app shop has no workflow fullfil"),
    ],
)
def test_a_policy_for_what_nobody_knows_is_refused(
    world: World, names: str, code: str, words: str
) -> None:
    with pytest.raises(psycopg.errors.DatabaseError, match=words) as found:
        world.anybody.run(f"select rowlock.set_retention(interval '1 day', {names})")
    assert found.value.sqlstate == code
    assert "Nothing was changed." in (found.value.diag.message_hint or "")
    assert world.count("retention") == 0


def test_a_policy_may_be_for_a_workflow_that_only_runs_know(world: World) -> None:
    run = world.anybody.start("forgotten")
    policy(world, workflow="forgotten")
    world.anybody.cancel(run)
    policy(world, "2 hours", workflow="forgotten")
    assert world.anybody.ask("select keep::text from rowlock.retentions") == "02:00:00"


def test_a_policy_is_replaced_and_shown(world: World) -> None:
    policy(world, "1 day", outcome="failed")
    policy(world, "2 days", outcome="failed", keys="3 days", archive=True)
    assert world.anybody.run(
        "select app, workflow, outcome, keep::text, keep_keys::text, archive"
        " from rowlock.retentions"
    ) == [(APP, None, "failed", "2 days", "3 days", True)]


def test_an_open_change_of_a_policy_holds_up_nothing(world: World) -> None:
    """Promise 14."""
    ended(world)
    policy(world)
    age(world)
    caller = world.session("caller").begin()
    caller.run("select rowlock.set_retention(null, app => %s)", APP)
    removal = world.anybody.go(lambda: retain(world.anybody))
    assert not removal.waits()
    assert removal.result() == 1


def test_the_plan_says_what_would_go_and_what_is_held_back(world: World) -> None:
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    worker.journal(children(parent, "1", 3), finish(parent, "failed"))
    worker.journal(*[finish(one) for one in worker.claim()])
    ended(world, 5)
    policy(world, "1 hour", outcome="succeeded")
    policy(world, "1 hour", workflow="invoice", archive=True)
    age(world)
    shown = (
        "select workflow, outcome, keep::text, archive, runs, held_back, at_least,"
        " oldest < clock_timestamp() - interval '23 hours' from rowlock.retain_plan(%s)"
    )
    expected = [
        ("fulfil", "succeeded", "01:00:00", False, 5, None, False, True),
        ("invoice", "succeeded", "01:00:00", True, 0, {"its parent is there": 3}, False, None),
    ]
    assert world.anybody.run(shown, APP) == expected
    assert world.anybody.run(shown, None) == expected
    assert world.anybody.run(shown, "another") == []
    assert retain(world.anybody) == 5
    assert world.anybody.run(shown, APP) == expected[1:]


# --- the walk of the workers


def test_workers_share_a_walk_and_rest_when_it_has_come_to_its_end(world: World) -> None:
    runs = ended(world, 5)
    keep_house = (
        "select removed, keys, case when next_in > 0 then round(next_in) else next_in end"
        " from rowlock.keep_house(2)"
    )
    assert world.anybody.run(keep_house) == [(0, 0, None)]
    policy(world)
    age(world)
    answers = [world.anybody.run(keep_house)[0] for _ in range(5)]
    assert answers == [(2, 0, 0), (2, 0, 0), (1, 0, 0), (0, 0, 60), (0, 0, 60)]
    assert there(world, *runs) == [False] * 5
    assert world.anybody.ask("select rowlock.house_due()") > 50


def test_a_walk_that_passes_by_much_rests_the_longer(world: World) -> None:
    """What it takes to remove something does not count: else much to do would be done slowly."""
    ended(world, 3)
    policy(world)
    age(world)
    walk = "select extract(epoch from {})::float8 from rowlock.retention_walk"
    rests = walk.format("next_at - clock_timestamp()")
    keep_house = "select removed from rowlock.keep_house(2)"
    assert [world.anybody.ask(keep_house) for _ in range(2)] == [2, 1]
    assert world.anybody.ask(walk.format("in_vain")) == 0
    world.anybody.run("update rowlock.retention_walk set in_vain = '5 minutes'")
    assert world.anybody.ask(keep_house) == 0
    assert 15 * 60 < world.anybody.ask(rests) <= 20.1 * 60
    world.anybody.run("update rowlock.retention_walk set next_at = clock_timestamp()")
    assert world.anybody.ask(keep_house) == 0
    assert 0 < world.anybody.ask(rests) <= 60
    world.anybody.run(
        "update rowlock.retention_walk set next_at = clock_timestamp(), in_vain = '1 day'"
    )
    assert world.anybody.ask(keep_house) == 0
    assert world.anybody.ask(rests) <= 3601


def test_a_walk_that_is_left_open_keeps_nobody_waiting(world: World) -> None:
    """Not even the very first one."""
    ended(world, 5)
    policy(world)
    age(world)
    one = world.session("one")
    pass_on(world, one)
    one.begin().run("select * from rowlock.keep_house(2)")
    keeps = world.anybody.go(
        lambda: world.anybody.run("select removed, next_in from rowlock.keep_house(2)")
    )
    assert not keeps.waits()
    assert keeps.result() == [(0, 60)], "nor asking again and again"
    one.commit()
    assert world.anybody.ask("select removed from rowlock.keep_house(2)") == 2
