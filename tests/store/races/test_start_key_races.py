"""Keys of dedup and debounce: one run at a time, whoever meets whom, and no one else is held up."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock import Debounce, Dedup
from rowlock.starting import OnDuplicate
from store.races.sessions import APP, Session, Worker, World, finish, go_on, release, step, suspend

FATES = ["commit", "rollback"]
OLD_SNAPSHOTS = ["repeatable read", "serializable"]
POLICIES: list[OnDuplicate] = ["existing", "reject", "replace"]
SOON = Debounce("page-7", timedelta(hours=1))


def dedup(session: Session, policy: OnDuplicate = "existing", key: str = "customer-7") -> UUID:
    return session.start(dedup=Dedup(key, policy))


def debounce(session: Session, value: int = 1, how: Debounce = SOON) -> UUID:
    return session.start(input=json.dumps({"value": value}), debounce=how)


def refused(act: Callable[[], Any]) -> str | None:
    """The SQLSTATE that it is refused with; None when it comes through."""
    try:
        act()
    except psycopg.Error as error:
        return error.sqlstate
    return None


def unfinished(world: World) -> set[UUID]:
    return {run_id for [run_id] in world.anybody.run("select run_id from rowlock.task")}


def input_of(world: World, run_id: UUID) -> Any:
    return world.anybody.ask("select input ->> 'value' from rowlock.run where id = %s", run_id)


def fall_due(world: World, run_id: UUID) -> None:
    world.make_due(run_id)
    assert world.anybody.promote_due() == 1


def ended(world: World, worker: Worker, run_id: UUID, status: str = "succeeded") -> None:
    claimed = worker.claim_run(run_id)
    assert worker.journal(finish(claimed, status)).answers == []


# --- dedup


def test_a_key_is_the_runs_while_it_is_unfinished(world: World) -> None:
    worker = world.worker()
    first = dedup(world.anybody)
    assert dedup(world.anybody) == first
    claimed = worker.claim_run(first)
    assert dedup(world.anybody) == first
    worker.journal(step(claimed, "1"), go_on(claimed))
    claimed = worker.claim_run(first)
    assert dedup(world.anybody) == first
    worker.journal(finish(claimed))
    second = dedup(world.anybody)
    assert second != first
    assert (dedup(world.anybody), unfinished(world)) == (second, {second})
    assert world.count("start_key") == 1


@pytest.mark.parametrize("holding", ["blocked", "waiting"])
def test_a_run_that_is_held_up_has_its_key(world: World, holding: str) -> None:
    worker = world.worker()
    first = dedup(world.anybody)
    claimed = worker.claim_run(first)
    other = world.anybody.start()
    worker.journal(
        release(claimed, "nondeterminism") if holding == "blocked" else suspend(claimed, other)
    )
    assert world.state(first) == holding
    assert dedup(world.anybody) == first


def test_keys_are_each_workflows_own_and_apart_from_debounce(world: World) -> None:
    started = {
        world.anybody.start("fulfil", dedup="k"),
        world.anybody.start("invoice", dedup="k"),
        world.anybody.start("fulfil", debounce=Debounce("k", 60)),
        world.anybody.start("fulfil", key="k"),
    }
    assert len(started) == 4


def test_what_is_rejected_names_the_run_and_changes_nothing(world: World) -> None:
    first = dedup(world.anybody)
    with pytest.raises(psycopg.Error) as told:
        dedup(world.anybody, "reject")
    assert told.value.sqlstate == "RLS06"
    assert str(first) in (told.value.diag.message_primary or "")
    assert told.value.diag.message_detail == str(first)
    assert (world.count("run"), world.count("task")) == (1, 1)
    ended(world, world.worker(), first)
    assert dedup(world.anybody, "reject") != first


def test_who_replaces_a_run_cancels_it(world: World) -> None:
    worker = world.worker()
    never_began = dedup(world.anybody)
    running = dedup(world.anybody, "replace")
    assert (world.state(never_began), unfinished(world)) == ("cancelled", {running})
    claimed = worker.claim_run(running)
    newest = dedup(world.anybody, "replace")
    request = "select reason from rowlock.cancel_request where run_id = %s"
    assert world.anybody.ask(request, running) == f"run {newest} replaced it"
    worker.journal(finish(claimed, "cancelled"))
    assert (dedup(world.anybody), unfinished(world)) == (newest, {newest})


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_start_waits_for_an_open_one_with_its_key_and_for_no_other(
    world: World, policy: OnDuplicate, fate: str
) -> None:
    one, two = world.session("one").begin(), world.session("two")
    first = dedup(one)
    others = world.anybody.go(lambda: dedup(world.anybody, key="customer-8"))
    assert not others.waits()
    starts = two.go(lambda: refused(lambda: dedup(two, policy)))
    assert starts.waits()
    one.end(fate)
    assert starts.result() == ("RLS06" if (policy, fate) == ("reject", "commit") else None)
    others.result()
    assert world.count("task") == 2
    assert world.state(first) == "cancelled" if world.count("run") == 3 else True
    assert (world.count("run") == 3) == (policy == "replace" and fate == "commit")


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_key_of_an_ended_run_is_taken_by_one_of_two(
    world: World, policy: OnDuplicate, fate: str
) -> None:
    old = dedup(world.anybody)
    ended(world, world.worker(), old)
    one, two = world.session("one").begin(), world.session("two")
    first = dedup(one)
    starts = two.go(lambda: refused(lambda: dedup(two, policy)))
    assert starts.waits()
    one.end(fate)
    assert starts.result() == ("RLS06" if (policy, fate) == ("reject", "commit") else None)
    assert len(unfinished(world)) == 1
    kept = fate == "commit" and policy != "replace"
    assert (first in unfinished(world)) == kept


@pytest.mark.parametrize("policy", POLICIES)
def test_two_who_found_the_key_free_look_again(world: World, policy: OnDuplicate) -> None:
    """Both have seen that its run has ended, and are stopped before they take it."""
    old = dedup(world.anybody)
    ended(world, world.worker(), old)
    stranger, one, two = (world.session(name) for name in ("stranger", "one", "two"))
    stranger.begin().run("select from rowlock.start_key for update")
    first = one.go(lambda: refused(lambda: dedup(one, policy)))
    second = two.go(lambda: refused(lambda: dedup(two, policy)))
    assert first.waits()
    assert second.waits()
    stranger.rollback()
    refusals = {first.result(), second.result()}
    assert refusals == ({None, "RLS06"} if policy == "reject" else {None})
    assert len(unfinished(world)) == 1


@pytest.mark.parametrize("fate", FATES)
def test_two_who_replace_a_run_leave_one(world: World, fate: str) -> None:
    old = dedup(world.anybody)
    one, two = world.session("one").begin(), world.session("two")
    first = dedup(one, "replace")
    starts = two.go(lambda: dedup(two, "replace"))
    assert starts.waits()
    one.end(fate)
    last = starts.result()
    assert unfinished(world) == {last}
    assert world.state(old) == "cancelled"
    if fate == "commit":
        assert world.state(first) == "cancelled"


@pytest.mark.parametrize("fate", FATES)
def test_a_finish_waits_for_nobody_who_wants_its_key(world: World, fate: str) -> None:
    worker = world.worker()
    run_id = dedup(world.anybody)
    claimed = worker.claim_run(run_id)
    caller = world.session("caller").begin()
    assert dedup(caller) == run_id
    replacer = world.session("replacer").begin()
    new = dedup(replacer, "replace")
    finishes = worker.go(lambda: worker.journal(finish(claimed)))
    assert not finishes.waits()
    finishes.result()
    caller.end(fate)
    replacer.end(fate)
    assert unfinished(world) == ({new} if fate == "commit" else set())


@pytest.mark.parametrize("fate", FATES)
def test_a_run_that_is_just_ending_has_its_key_until_that_is_committed(
    world: World, fate: str
) -> None:
    worker = world.worker()
    run_id = dedup(world.anybody)
    claimed = worker.claim_run(run_id)
    worker.begin()
    worker.journal(finish(claimed))
    assert dedup(world.anybody) == run_id
    worker.end(fate)
    assert (dedup(world.anybody) == run_id) == (fate == "rollback")


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_start_waits_for_no_cancel_of_the_run_there_is(
    world: World, policy: OnDuplicate, fate: str
) -> None:
    run_id = dedup(world.anybody)
    canceller = world.session("canceller").begin()
    canceller.cancel(run_id)
    starts = world.anybody.go(lambda: refused(lambda: dedup(world.anybody, policy)))
    assert not starts.waits()
    assert starts.result() == ("RLS06" if policy == "reject" else None)
    canceller.end(fate)
    while world.anybody.sweep_cancels():
        pass
    if policy == "replace":
        assert run_id not in unfinished(world) or fate == "rollback"
        assert len(unfinished(world) - {run_id}) == 1
    else:
        assert unfinished(world) == (set() if fate == "commit" else {run_id})


@pytest.mark.parametrize("level", OLD_SNAPSHOTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_that_was_taken_after_the_callers_snapshot_is_a_serialization_failure(
    world: World, policy: OnDuplicate, level: str
) -> None:
    caller = world.session("caller").begin(level)
    caller.run("select count(*) from rowlock.run")
    dedup(world.anybody)
    assert refused(lambda: dedup(caller, policy)) == "40001"
    caller.rollback()

    [run_id] = unfinished(world)
    ended(world, world.worker(), run_id)
    caller.begin(level).run("select count(*) from rowlock.run")
    dedup(world.anybody)
    assert refused(lambda: dedup(caller, policy)) == "40001"
    assert len(unfinished(world)) == 1


@pytest.mark.parametrize("level", ["read committed", *OLD_SNAPSHOTS])
def test_a_redo_takes_its_key_before_a_start_with_whatever_snapshot_can(
    world: World, level: str
) -> None:
    run_id = dedup(world.anybody)
    ended(world, world.worker(), run_id, "failed")
    caller = world.session("caller").begin(level)
    caller.run("select count(*) from rowlock.run")
    admin = world.session("admin").begin()
    admin.retry(run_id)
    starts = caller.go(lambda: refused(lambda: dedup(caller)))
    assert starts.waits()
    admin.commit()
    assert starts.result() == (None if level == "read committed" else "40001")
    caller.rollback()
    assert unfinished(world) == {run_id}


@pytest.mark.parametrize("fate", FATES)
def test_a_redo_waits_for_an_open_start_with_its_key(world: World, fate: str) -> None:
    old = dedup(world.anybody)
    ended(world, world.worker(), old, "failed")
    caller = world.session("caller").begin()
    new = dedup(caller)
    redo = world.anybody.go(lambda: refused(lambda: world.anybody.retry(old)))
    assert redo.waits()
    caller.end(fate)
    assert redo.result() == ("RLS06" if fate == "commit" else None)
    assert unfinished(world) == {new if fate == "commit" else old}


def test_a_redo_takes_the_key_of_another_that_has_ended(world: World) -> None:
    worker = world.worker()
    old, new = dedup(world.anybody), None
    ended(world, worker, old, "failed")
    new = dedup(world.anybody)
    assert refused(lambda: world.anybody.retry(old)) == "RLS06"
    ended(world, worker, new, "failed")
    world.anybody.retry(old)
    assert dedup(world.anybody) == old
    assert refused(lambda: world.anybody.retry(new)) == "RLS06"


def test_a_fork_has_no_key(world: World) -> None:
    worker = world.worker()
    run_id = dedup(world.anybody)
    claimed = worker.claim_run(run_id)
    fork = world.anybody.fork(run_id)
    assert dedup(world.anybody) == run_id
    worker.journal(finish(claimed))
    assert dedup(world.anybody) not in (run_id, fork)


def test_many_with_the_same_keys_in_opposite_order_never_deadlock(world: World) -> None:
    one, two = world.session("one").begin(), world.session("two")
    asked = [
        {"workflow": "fulfil", "key": "c"},
        *[{"workflow": "fulfil", "dedup": key} for key in "ab"],
        *[{"workflow": "fulfil", "debounce": key, "quiet": "1 hour"} for key in "ab"],
        {"workflow": "fulfil"},
    ]
    first = one.start_many(*asked)
    starts = two.go(lambda: two.start_many(*reversed(asked)))
    assert starts.waits()
    one.commit()
    assert starts.result()[1:] == first[-2::-1]
    assert world.count("run") == 7


def test_a_key_twice_in_one_call_is_as_in_two_calls(world: World) -> None:
    one = {"workflow": "fulfil", "dedup": "k"}
    first, plain, again = world.anybody.start_many(one, {"workflow": "fulfil"}, one)
    assert first == again != plain
    replace = {**one, "on_duplicate": "replace"}
    second, third = world.anybody.start_many(replace, replace)
    assert (world.state(first), world.state(second)) == ("cancelled", "cancelled")
    assert unfinished(world) == {plain, third}
    reject = {**one, "dedup": "new", "on_duplicate": "reject"}
    assert refused(lambda: world.anybody.start_many(reject, reject)) == "RLS06"
    put_off = {"workflow": "fulfil", "debounce": "k", "quiet": "1 hour"}
    fourth, fifth = world.anybody.start_many(
        {**put_off, "input": {"value": 1}}, {**put_off, "input": {"value": 2}}
    )
    assert (fourth, input_of(world, fourth)) == (fifth, "2")


# --- debounce


def test_the_last_input_wins_until_the_run_is_due(world: World) -> None:
    first = debounce(world.anybody, 1)
    due_in = world.task(first).due_in
    later = Debounce("page-7", timedelta(hours=2))
    assert debounce(world.anybody, 2, later) == first
    assert (input_of(world, first), world.state(first)) == ("2", "scheduled")
    assert world.task(first).due_in > due_in + 3000
    fall_due(world, first)
    second = debounce(world.anybody, 3)
    assert second != first
    assert (input_of(world, first), input_of(world, second)) == ("2", "3")
    assert debounce(world.anybody, 4) == second


def test_it_is_not_put_off_for_longer_than_most(world: World) -> None:
    first = debounce(world.anybody, 1, Debounce("page-7", 60, timedelta(hours=1)))
    again = Debounce("page-7", timedelta(hours=1), timedelta(hours=2))
    world.anybody.run("update rowlock.run set created_at = created_at - interval '90 minutes'")
    assert debounce(world.anybody, 2, again) == first
    assert 0 < world.task(first).due_in <= 1800


def test_attributes_and_deadline_are_those_of_the_last_start(world: World) -> None:
    first = world.anybody.start(debounce=SOON, attributes={"page": 1}, deadline=60)
    seen = "select attributes, deadline_at - due_at from rowlock.runs"
    assert world.anybody.run(seen) == [({"page": 1}, timedelta(seconds=60))]
    assert world.anybody.start(debounce=SOON, attributes={"page": 2}, deadline=30) == first
    assert world.anybody.run(seen) == [({"page": 2}, timedelta(seconds=30))]
    assert world.anybody.start(debounce=SOON) == first
    assert world.anybody.run(seen) == [(None, None)]


@pytest.mark.parametrize("fate", FATES)
def test_an_open_one_holds_up_its_key_and_its_run_alone(world: World, fate: str) -> None:
    worker = world.worker()
    run_id, other = debounce(world.anybody, 1), debounce(world.anybody, 1, Debounce("page-8", 60))
    world.make_due(other)
    caller, two = world.session("caller").begin(), world.session("two")
    assert debounce(caller, 2) == run_id
    world.anybody.run("set lock_timeout = '20s'")
    promoted = world.anybody.go(world.anybody.promote_due)
    assert not promoted.waits()
    assert promoted.result() == 1
    assert [one.run_id for one in worker.claim()] == [other]
    starts = two.go(lambda: debounce(two, 3))
    assert starts.waits()
    caller.end(fate)
    assert starts.result() == run_id
    assert input_of(world, run_id) == "3"


@pytest.mark.parametrize("fate", FATES)
def test_a_run_that_falls_due_while_it_is_put_off_is_not_claimed_before(
    world: World, fate: str
) -> None:
    """Promotion passes it by; then it has the new input, or is due with the old one."""
    worker = world.worker()
    run_id = debounce(world.anybody, 1)
    world.make_due(run_id)
    caller = world.session("caller").begin()
    assert debounce(caller, 2) == run_id
    assert (world.anybody.promote_due(), worker.claim()) == (0, [])
    caller.end(fate)
    if fate == "commit":
        assert (world.anybody.promote_due(), world.state(run_id)) == (0, "scheduled")
        fall_due(world, run_id)
    else:
        assert world.anybody.promote_due() == 1
    [claimed] = worker.claim()
    assert claimed.input == json.dumps({"value": 2 if fate == "commit" else 1})


@pytest.mark.parametrize("fate", FATES)
def test_who_meets_its_promotion_waits_for_it_and_starts_anew(world: World, fate: str) -> None:
    run_id = debounce(world.anybody, 1)
    world.make_due(run_id)
    tender, caller = world.session("tender").begin(), world.session("caller")
    assert tender.promote_due() == 1
    starts = caller.go(lambda: debounce(caller, 2))
    assert starts.waits()
    tender.end(fate)
    assert (starts.result() == run_id) == (fate == "rollback")
    assert input_of(world, run_id) == ("1" if fate == "commit" else "2")


@pytest.mark.parametrize("level", OLD_SNAPSHOTS)
def test_a_run_that_was_promoted_after_the_callers_snapshot_is_a_serialization_failure(
    world: World, level: str
) -> None:
    run_id = debounce(world.anybody, 1)
    caller = world.session("caller").begin(level)
    caller.run("select count(*) from rowlock.run")
    fall_due(world, run_id)
    assert refused(lambda: debounce(caller, 2)) == "40001"
    assert input_of(world, run_id) == "1"


def test_a_run_that_was_redone_is_not_put_off(world: World) -> None:
    """Nor given another input: what was recorded came of the one it has."""
    run_id = debounce(world.anybody, 1)
    world.anybody.cancel(run_id)
    world.anybody.resume(run_id)
    world.anybody.run("select rowlock.reschedule(%s, now() + interval '1 hour')", run_id)
    assert world.state(run_id) == "scheduled"
    assert debounce(world.anybody, 2) != run_id
    assert input_of(world, run_id) == "1"


def test_a_run_that_was_ready_before_or_asked_to_stop_is_not_put_off(world: World) -> None:
    """A claim may have it in an older snapshot; a cancel would take the new input with it."""
    was_ready = debounce(world.anybody, 1)
    fall_due(world, was_ready)
    world.anybody.run("select rowlock.reschedule(%s, now() + interval '1 hour')", was_ready)
    stopped = debounce(world.anybody, 2)
    assert stopped != was_ready
    caller = world.session("caller").begin()
    assert debounce(caller, 3) == stopped
    world.anybody.cancel(stopped)  # which passes its task by
    caller.commit()
    assert world.state(stopped) == "scheduled"
    assert debounce(world.anybody, 4) not in (was_ready, stopped)
    assert (input_of(world, was_ready), input_of(world, stopped)) == ("1", "3")


@pytest.mark.parametrize("fate", FATES)
def test_a_removal_waits_for_nobody_who_takes_the_key_over(world: World, fate: str) -> None:
    run_id = dedup(world.anybody)
    ended(world, world.worker(), run_id)
    caller = world.session("caller").begin()
    new = dedup(caller)
    removes = world.anybody.go(lambda: world.anybody.run("select rowlock.delete(%s)", run_id))
    assert not removes.waits()
    removes.result()
    caller.end(fate)
    assert dedup(world.anybody) == new or fate == "rollback"
    assert len(unfinished(world)) == 1


@pytest.mark.parametrize("fate", FATES)
def test_a_start_waits_for_the_removal_of_the_run_with_its_key(world: World, fate: str) -> None:
    run_id = dedup(world.anybody)
    ended(world, world.worker(), run_id)
    admin, caller = world.session("admin").begin(), world.session("caller")
    admin.run("select rowlock.delete(%s)", run_id)
    assert admin.ask("select count(*) from rowlock.start_key") == 0
    starts = caller.go(lambda: dedup(caller))
    assert starts.waits()
    admin.end(fate)
    started = starts.result()
    assert unfinished(world) == {started}
    assert world.count("start_key") == 1


def test_options_that_contradict_each_other_are_refused(world: World) -> None:
    bad: list[dict[str, Any]] = [
        {"dedup": ""},
        {"dedup": "x" * 1001},
        {"dedup": 7},
        {"dedup": "k", "key": "k"},
        {"dedup": "k", "on_duplicate": "queue"},
        {"on_duplicate": "reject"},
        {"dedup": "k", "debounce": "k", "quiet": "1s"},
        {"debounce": "k"},
        {"quiet": "1s"},
        {"debounce": "k", "quiet": "0"},
        {"debounce": "k", "quiet": "soon"},
        {"debounce": "k", "quiet": "2s", "most": "1s"},
        {"debounce": "k", "quiet": "1s", "delay": "1s"},
        {"debounce": "k", "quiet": "1s", "start_before": "2090-01-01"},
        {"start_before": "tomorrow, perhaps"},
        {"start_before": "2020-01-01"},
        {"start_before": "2090-01-01", "start_at": "2091-01-01"},
        {"partition": ""},
        {"partition": "x" * 201},
        {"partition": "tenant", "queue": "default"},
    ]
    for options in bad:
        plain = {"workflow": "fulfil"}
        many = refused(lambda: world.anybody.start_many(plain, {**plain, **options}))  # noqa: B023
        assert many == "RLV01", options
        if all(isinstance(value, str) for value in options.values()) and "soon" not in str(options):
            names = ", ".join(f"{name} => %s" for name in options)
            ask = f"select rowlock.start('fulfil', app => '{APP}', {names})"
            one = refused(lambda: world.anybody.run(ask, *options.values()))  # noqa: B023
            assert one in ("RLV01", "22007"), options
    assert world.count("run") == world.count("start_key") == 0
