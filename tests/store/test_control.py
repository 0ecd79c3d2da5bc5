"""Changing where, when and in which order runs go on; pauses, versions, draining, forks.

Where two sessions meet over it: races/test_pause_races.py, races/test_control_races.py.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock.store.statements import CLAIM, REGISTER_WORKER, parted
from store.races.sessions import (
    APP,
    Session,
    Worker,
    World,
    child,
    children,
    finish,
    for_end,
    for_group,
    for_message,
    release,
    sleep_on,
    step,
)

GONE = "00000000-0000-7000-8000-000000000000"


def refused(session: Session, sql: str, *values: Any) -> psycopg.Error:
    """How a call is refused: with a message, a hint, and nothing changed."""
    before = everything(session)
    with pytest.raises(psycopg.Error) as caught:
        session.run(sql, *values)
    assert caught.value.diag.message_hint, caught.value
    assert everything(session) == before
    return caught.value


def everything(session: Session) -> list[Any]:
    tables = session.run(
        "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
        " and relkind = 'r'"
    )
    return [session.run(f"select x::text from rowlock.{name} as x order by 1") for [name] in tables]


def versioned(world: World, version: str) -> Worker:
    [worker_id] = world.anybody.call(
        REGISTER_WORKER,
        app=APP,
        version=version,
        host="test",
        pid=1,
        slots=10,
        queues=None,
        lease=60.0,
    )
    return world.connect_again(worker_id)


def claimed_ids(worker: Worker, version: str = "", want: int = 100) -> list[UUID]:
    found = worker.call(
        CLAIM,
        worker=worker.worker_id,
        app=APP,
        version=version,
        queues=None,
        after=None,
        want=want,
        listening=False,
        memory=None,
    )
    claimed, _ = parted(found)
    return sorted(one.run_id for one in claimed)


def row(world: World, run_id: UUID, columns: str) -> tuple[Any, ...]:
    [found] = world.anybody.run(f"select {columns} from rowlock.runs where run_id = %s", run_id)
    return found


# --- priority, time, queue


def test_another_priority_counts_from_the_next_claim_on(world: World) -> None:
    first, second = world.anybody.start(), world.anybody.start()
    assert world.anybody.ask("select rowlock.reprioritise(%s, 10)", second) is True
    assert world.anybody.ask("select rowlock.reprioritise(%s, 10)", second) is False
    assert row(world, second, "priority") == (10,)
    worker = world.worker()
    assert claimed_ids(worker, want=1) == [second]
    # Also of one that runs: it will be claimed again.
    assert world.anybody.ask("select rowlock.reprioritise(%s, 90)", second) is True
    assert world.task(second).epoch == 1
    assert claimed_ids(worker) == [first]


@pytest.mark.parametrize("priority", [-1, 101, None])
def test_a_priority_that_is_none_is_refused(world: World, priority: int | None) -> None:
    run_id = world.anybody.start()
    error = refused(world.anybody, "select rowlock.reprioritise(%s, %s)", run_id, priority)
    assert error.sqlstate == "RLV02"


def test_a_run_is_put_off_and_brought_forward(world: World) -> None:
    run_id, worker = world.anybody.start(), world.worker()
    world.anybody.run("select rowlock.reschedule(%s, now() + interval '1 hour')", run_id)
    assert world.state(run_id) == "scheduled"
    assert 3500 < world.task(run_id).due_in < 3600
    world.anybody.tend()
    assert claimed_ids(worker) == []
    world.anybody.run("select rowlock.reschedule(%s, now() - interval '1 year')", run_id)
    assert world.state(run_id) == "ready"
    assert world.task(run_id).due_in > -60
    assert claimed_ids(worker) == [run_id]


@pytest.mark.parametrize("at", [None, "infinity", "-infinity"])
def test_a_time_that_is_on_no_calendar_is_refused(world: World, at: str | None) -> None:
    run_id = world.anybody.start()
    error = refused(world.anybody, "select rowlock.reschedule(%s, %s::timestamptz)", run_id, at)
    assert error.sqlstate == "RLV02"


def test_a_run_is_not_put_off_past_its_deadline(world: World) -> None:
    run_id = world.anybody.ask(
        "select rowlock.start('fulfil', deadline => interval '1 hour', app => 'shop')"
    )
    error = refused(
        world.anybody, "select rowlock.reschedule(%s, now() + interval '2 hours')", run_id
    )
    assert error.sqlstate == "RLS01"
    world.anybody.run("select rowlock.reschedule(%s, now() + interval '30 minutes')", run_id)


def test_a_run_moves_to_another_queue_and_ends_there(world: World) -> None:
    run_id, worker = world.anybody.start(), world.worker()
    assert world.anybody.ask("select rowlock.move(%s, 'other')", run_id) is True
    assert world.anybody.ask("select rowlock.move(%s, 'other')", run_id) is False
    assert row(world, run_id, "queue") == ("other",)
    assert worker.claim(queues=["default"]) == []
    [run] = worker.claim(queues=["other"])
    assert run.queue == "other"
    worker.journal(finish(run, "failed"))
    assert row(world, run_id, "queue") == ("other",)
    # What goes on with it stays there.
    world.anybody.retry(run_id)
    assert row(world, run_id, "queue") == ("other",)
    assert row(world, world.anybody.fork(run_id), "queue") == ("other",)


def test_a_sleeping_run_moves_and_wakes_up_there(world: World) -> None:
    worker = world.worker()
    [run] = world.claimed_by(worker)
    worker.journal(sleep_on(run, for_message()))
    world.anybody.run("select rowlock.move(%s, 'other')", run.run_id)
    world.anybody.send(run.run_id)
    assert worker.claim(queues=["default"]) == []
    assert [one.run_id for one in worker.claim(queues=["other"])] == [run.run_id]


STATES = ["running", "waiting", "blocked"]
CHANGES = {
    "reprioritise": ("select rowlock.reprioritise(%s, 7)", set[str]()),
    "reschedule": ("select rowlock.reschedule(%s, now())", set(STATES)),
    "move": ("select rowlock.move(%s, 'other')", {"running"}),
}


def in_state(world: World, state: str) -> UUID:
    worker = world.worker()
    [run] = world.claimed_by(worker)
    if state == "waiting":
        worker.journal(sleep_on(run, for_message()))
    elif state == "blocked":
        worker.journal(release(run, "nondeterminism"))
    elif state != "running":
        worker.journal(finish(run, state))
    return run.run_id


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", STATES)
def test_what_makes_no_sense_in_a_state_is_refused(world: World, change: str, state: str) -> None:
    run_id, (sql, nonsense) = in_state(world, state), CHANGES[change]
    before = world.task(run_id)
    if state in nonsense:
        error = refused(world.anybody, sql, run_id)
        assert error.sqlstate == "RLS01"
        assert f"is {state} and can't be" in str(error)
    else:
        assert world.anybody.ask(sql, run_id) is True
    after = world.task(run_id)
    assert (after.state, after.epoch, after.worker_id) == (
        before.state,
        before.epoch,
        before.worker_id,
    )


@pytest.mark.parametrize("change", CHANGES)
def test_an_ended_run_and_one_that_never_was_are_told_apart(world: World, change: str) -> None:
    sql = CHANGES[change][0]
    ended = in_state(world, "succeeded")
    error = refused(world.anybody, sql, ended)
    assert (error.sqlstate, "has ended (succeeded)" in str(error)) == ("RLS02", True)
    for unknown in (GONE, None):
        assert refused(world.anybody, sql, unknown).sqlstate == "RLN03"


def test_a_queue_that_the_app_does_not_have_is_refused(world: World) -> None:
    run_id = world.anybody.start()
    for queue in ("nowhere", None, "x" * 300):
        assert refused(world.anybody, "select rowlock.move(%s, %s)", run_id, queue).sqlstate == (
            "RLN01"
        )


def test_each_works_in_bulk_over_a_query(world: World) -> None:
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 50)
    for call in ("reprioritise(run_id, 3)", "reschedule(run_id, now())", "move(run_id, 'other')"):
        changed = world.anybody.run(
            f"select rowlock.{call} from rowlock.runs where workflow = 'fulfil' order by run_id"
        )
        assert changed == [(True,)] * 50
    assert len(world.worker().claim(queues=["other"])) == 50
    assert world.count("audit_entry") == 150


# --- pauses (their races: races/test_pause_races.py)


def test_a_paused_queue_is_not_claimed_from_and_others_are(world: World) -> None:
    here, there = world.anybody.start(), world.anybody.start(queue="other")
    worker = world.worker()
    assert world.anybody.ask("select rowlock.pause('default', reason => 'flood')") is True
    assert world.anybody.ask("select rowlock.pause('default')") is False
    assert claimed_ids(worker) == [there]
    assert worker.claim(queues=["default"]) == []
    assert world.state(here) == "ready"
    [shown] = world.anybody.run("select app, queue, workflow, reason from rowlock.pauses")
    assert shown == ("shop", "default", None, "flood")
    assert world.anybody.ask("select rowlock.unpause('default')") is True
    assert world.anybody.ask("select rowlock.unpause('default')") is False
    assert claimed_ids(worker) == [here]
    assert world.count("pause") == 0


def test_a_paused_app_is_not_claimed_from_at_all(world: World) -> None:
    world.anybody.start()
    world.anybody.start(queue="other")
    worker = world.worker()
    world.anybody.run("select rowlock.pause(app => 'shop')")
    world.anybody.run("select rowlock.pause('default')")
    assert claimed_ids(worker) == []
    # Each pause is ended by itself.
    world.anybody.run("select rowlock.unpause(app => 'shop')")
    assert len(claimed_ids(worker)) == 1
    world.anybody.run("select rowlock.unpause('default')")
    assert len(claimed_ids(worker)) == 1


def test_an_app_that_is_paused_leaves_another_alone(world: World) -> None:
    world.anybody.run("select rowlock.show_app('bank', '{default}', '{fulfil}', '{default}')")
    world.anybody.run("select rowlock.pause(app => 'bank')")
    world.anybody.run("select rowlock.pause('default', app => 'bank')")
    world.anybody.run("select rowlock.pause(workflow => 'fulfil', app => 'bank')")
    world.anybody.start()
    assert len(world.worker().claim()) == 1


def test_runs_of_a_paused_workflow_are_set_aside_and_come_back_as_they_were(world: World) -> None:
    worker, admin = world.worker(), world.anybody
    paused = [admin.start("invoice") for _ in range(5)]
    other = admin.start("fulfil")
    due = admin.run("select run_id, due_at from rowlock.task order by 1")
    admin.run("select rowlock.pause(workflow => 'invoice', reason => 'broken')")
    assert claimed_ids(worker) == [other]
    assert {world.state(run) for run in paused} == {"blocked"}
    assert row(world, paused[0], "reason") == ({"kind": "paused", "workflow": "invoice"},)
    admin.tend()
    assert claimed_ids(worker) == []
    admin.run("select rowlock.unpause(workflow => 'invoice')")
    assert admin.run("select * from rowlock.pauses") == []
    admin.tend()
    assert claimed_ids(worker) == sorted(paused)
    assert admin.run("select run_id, due_at from rowlock.task order by 1") == due
    assert world.count("pause") == 0


def test_a_run_of_a_paused_workflow_goes_on_until_it_next_waits(world: World) -> None:
    worker, admin = world.worker(), world.anybody
    [run] = world.claimed_by(worker)
    admin.run("select rowlock.pause(workflow => 'fulfil')")
    assert worker.write(step(run, "1"), sleep_on(run, for_message())) == ["written"] * 2
    admin.send(run.run_id)
    assert claimed_ids(worker) == []
    assert world.state(run.run_id) == "blocked"
    admin.run("select rowlock.unpause(workflow => 'fulfil')")
    admin.tend()
    assert claimed_ids(worker) == [run.run_id]


def test_what_is_set_aside_is_not_resumed_but_may_be_cancelled(world: World) -> None:
    """One that began cleans up when the pause is over; one that did not, or by force, ends now."""
    worker, admin = world.worker(), world.anybody
    began, forced = world.claimed_by(worker, 2)
    never = admin.start()
    worker.journal(release(began), release(forced))
    admin.run("select rowlock.pause(workflow => 'fulfil')")
    assert claimed_ids(worker) == []
    assert {world.state(one) for one in (began.run_id, forced.run_id, never)} == {"blocked"}
    error = refused(admin, "select rowlock.resume(%s)", began.run_id)
    assert (error.sqlstate, "paused with its workflow" in str(error)) == ("RLS01", True)
    error = refused(admin, "select rowlock.reschedule(%s, now())", began.run_id)
    assert "unpause" in str(error.diag.message_hint)
    admin.cancel(began.run_id)
    admin.cancel(forced.run_id, force=True)
    admin.cancel(never)
    admin.run("update rowlock.cancel_request set look_at = clock_timestamp()")
    admin.tend()
    assert world.state(forced.run_id) == world.state(never) == "cancelled"
    assert world.state(began.run_id) == "blocked"
    admin.run("select rowlock.unpause(workflow => 'fulfil')")
    admin.tend()
    [run] = worker.claim()
    assert (run.run_id, run.cancel is not None) == (began.run_id, True)


def test_a_backlog_of_a_paused_workflow_costs_each_claim_a_batch_and_then_nothing(
    world: World,
) -> None:
    worker, admin = world.worker(), world.anybody
    worker.heartbeat(lease_s=600)
    admin.start_many(*[{"workflow": "invoice"}] * 4500)
    behind = [admin.start("fulfil") for _ in range(3)]
    admin.run("select rowlock.pause(workflow => 'invoice')")
    worker.run(f"listen rowlock_worker_{worker.worker_id}")
    claims = 0
    while not (got := claimed_ids(worker)):
        claims += 1
        # It asks to be asked again, for it knows of more.
        assert list(worker.connection.notifies(timeout=0, stop_after=1))
        assert world.anybody.ask("select count(*) from rowlock.task where state = 'blocked'") == (
            2000 * claims
        )
    assert (claims, got) == (2, sorted(behind))
    admin.run("select rowlock.unpause(workflow => 'invoice')")
    assert [admin.tend(limit=2000).promoted for _ in range(3)] == [2000, 2000, 500]
    assert len(claimed_ids(worker, want=5000)) == 4500
    assert world.count("pause") == 0


def test_a_paused_workflow_before_a_workflow_that_is_not_costs_no_more_than_is_wanted(
    world: World,
) -> None:
    """The head holds enough of others: nothing is set aside for it."""
    worker, admin = world.worker(), world.anybody
    others = []
    for _ in range(20):
        admin.start("invoice")
        others.append(admin.start("fulfil"))
    admin.run("select rowlock.pause(workflow => 'invoice')")
    assert claimed_ids(worker, want=5) == sorted(others[:5])
    assert admin.ask("select count(*) from rowlock.task where state = 'blocked'") == 0


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("pause()", "RLV02"),
        ("unpause()", "RLV02"),
        ("pause('default', 'fulfil')", "RLV02"),
        ("pause('nowhere')", "RLN01"),
        ("unpause('nowhere')", "RLN01"),
        ("pause(workflow => 'nothing')", "RLN05"),
        ("unpause(workflow => 'nothing')", "RLN05"),
        ("pause(app => 'nobody')", "RLN07"),
        ("pause('default', app => 'nobody')", "RLN01"),
        ("pause('default', reason => repeat('x', 1001))", "RLV02"),
    ],
)
def test_a_pause_of_nothing_is_refused(world: World, call: str, code: str) -> None:
    assert refused(world.anybody, f"select rowlock.{call}").sqlstate == code


# --- workers, versions, what people look at


def test_a_draining_worker_takes_no_new_runs_and_keeps_its_own(world: World) -> None:
    worker, other, admin = world.worker(), world.worker(), world.anybody
    [mine] = world.claimed_by(worker)
    waiting = admin.start()
    assert admin.ask("select rowlock.drain_worker(%s)", worker.worker_id) is True
    assert admin.ask("select rowlock.drain_worker(%s)", worker.worker_id) is False
    assert claimed_ids(worker) == []
    assert admin.ask("select draining from rowlock.workers where worker_id = %s", worker.worker_id)
    assert worker.verdict(step(mine, "1")) == "written"
    # Its own heartbeat makes it a fact of its row, so that nobody notifies it any more.
    worker.heartbeat()
    assert admin.ask("select draining from rowlock.worker where id = %s", worker.worker_id)
    assert admin.ask("select rowlock.drain_worker(%s)", worker.worker_id) is False
    assert claimed_ids(other) == [waiting]
    worker.leave()
    assert world.count("drain_request") == 0


def test_a_worker_that_died_leaves_no_request_behind(world: World) -> None:
    worker = world.worker()
    world.anybody.run("select rowlock.drain_worker(%s)", worker.worker_id)
    world.expire(worker)
    world.anybody.tend()
    assert (world.count("worker"), world.count("drain_request")) == (0, 0)


def test_a_worker_that_is_not_there_can_not_be_drained(world: World) -> None:
    for worker in (-1, None):
        assert refused(world.anybody, "select rowlock.drain_worker(%s)", worker).sqlstate == (
            "RLN06"
        )


def test_a_version_is_retired_when_nothing_needs_it_and_never_comes_back(world: World) -> None:
    admin = world.anybody
    old, new = versioned(world, "v1"), versioned(world, "v2")
    admin.run("select rowlock.promote('shop', 'v1')")
    run_id = admin.start()
    assert claimed_ids(old, "v1") == [run_id]
    assert refused(admin, "select rowlock.retire('shop', 'v1')").sqlstate == "RLS04"
    admin.run("select rowlock.promote('shop', 'v2')")
    error = refused(admin, "select rowlock.retire('shop', 'v1')")
    assert (error.sqlstate, "1 unfinished runs" in str(error)) == ("RLS04", True)
    admin.cancel(run_id, force=True)
    old.leave()
    admin.tend()
    admin.run("update rowlock.cancel_request set look_at = clock_timestamp()")
    admin.tend()
    assert world.state(run_id) == "cancelled"
    assert admin.ask("select rowlock.retire('shop', 'v1')") is True
    assert admin.ask("select rowlock.retire('shop', 'v1')") is False
    assert refused(admin, "select rowlock.promote('shop', 'v1')").sqlstate == "RLS04"
    versioned(world, "v1")  # it registers again, and stays what it is
    assert admin.ask("select rowlock.current_version('shop')") == "v2"
    shown = admin.run(
        "select version, current, unfinished, workers, retired_at is not null"
        "  from rowlock.versions order by version"
    )
    assert shown == [("v1", False, 0, 1, True), ("v2", True, 0, 1, False)]
    assert new.worker_id


def test_a_version_that_is_not_there_is_refused(world: World) -> None:
    for call in ("retire", "promote"):
        for version in ("v9", None):
            error = refused(world.anybody, f"select rowlock.{call}('shop', %s)", version)
            assert error.sqlstate == "RLN02"


def test_the_view_of_queues_counts_by_state_and_tells_of_pauses(world: World) -> None:
    for state in ("running", "waiting", "blocked", "failed"):
        in_state(world, state)
    admin = world.anybody
    admin.start()
    admin.start_many({"workflow": "fulfil", "delay": "1 hour"})
    admin.run("select rowlock.pause('other', reason => 'tidying')")
    shown = admin.run(
        "select queue, ready, scheduled, running, waiting, blocked,"
        "       oldest_ready_at <= clock_timestamp(), paused_at is not null, reason"
        "  from rowlock.queues order by queue"
    )
    assert shown == [
        ("default", 1, 1, 1, 1, 1, True, False, None),
        ("other", 0, 0, 0, 0, 0, None, True, "tidying"),
    ]
    admin.run("select rowlock.pause(app => 'shop')")
    assert admin.run("select distinct paused_at is not null from rowlock.queues") == [(True,)]


def test_what_a_pause_holds_back_is_no_work_for_a_fleet(world: World) -> None:
    """Neither for those who start workers by what is ready, nor for those who mend runs."""
    admin, worker = world.anybody, world.worker()
    in_state(world, "blocked")
    invoices = [admin.start("invoice") for _ in range(2)]
    admin.run("select rowlock.pause(workflow => 'invoice')")
    assert claimed_ids(worker) == []
    admin.start()
    admin.start(queue="other")
    count = (
        "select queue, state, tasks, oldest_due_seconds is not null"
        "  from rowlock.fleet_tasks('shop')"
    )
    blocked, aside = ("default", "blocked", 1, False), ("default", "paused", 2, False)
    there = ("other", "ready", 1, True)
    assert admin.run(count) == [blocked, aside, ("default", "ready", 1, True), there]
    admin.run("select rowlock.pause('default')")
    assert admin.run(count) == [blocked, ("default", "paused", 3, False), there]
    admin.run("select rowlock.unpause('default')")
    admin.run("select rowlock.unpause(workflow => 'invoice')")
    admin.tend()
    assert admin.run(count) == [blocked, ("default", "ready", 3, True), there]
    assert len(invoices) == 2


# --- forks


def test_a_fork_onto_a_version_is_taken_by_that_version_alone(world: World) -> None:
    admin = world.anybody
    v1, v2 = versioned(world, "v1"), versioned(world, "v2")
    admin.run("select rowlock.promote('shop', 'v1')")
    run_id = admin.start()
    assert claimed_ids(v1, "v1") == [run_id]
    fork = admin.ask("select rowlock.fork(%s, version => 'v2')", run_id)
    assert row(world, fork, "version") == ("v2",)
    assert claimed_ids(v1, "v1") == []
    assert claimed_ids(v2, "v2") == [fork]


def test_a_fork_onto_a_version_that_is_not_there_or_retired_is_refused(world: World) -> None:
    admin, run_id = world.anybody, world.anybody.start()
    versioned(world, "v1")
    versioned(world, "v2")
    admin.run("select rowlock.retire('shop', 'v1')")
    assert refused(admin, "select rowlock.fork(%s, version => 'v9')", run_id).sqlstate == "RLN02"
    assert refused(admin, "select rowlock.fork(%s, version => 'v1')", run_id).sqlstate == "RLS04"


def family(world: World) -> tuple[Worker, UUID, UUID, UUID, UUID]:
    """A run that waits for a child that waits; another child that ended; a detached one."""
    worker = world.worker()
    [parent] = world.claimed_by(worker)
    detached = child(parent, "3")
    assert detached.child is not None
    detached.child["detached"] = True
    worker.write(child(parent, "1"), child(parent, "2"), detached)
    found = dict(
        world.anybody.run("select parent_place, id from rowlock.run where parent_id is not null")
    )
    claimed = {one.run_id: one for one in worker.claim()}
    worker.write(
        step(claimed[found["1"]], "1", '"half"'),
        sleep_on(claimed[found["1"]], for_message()),
        finish(claimed[found["2"]]),
        release(claimed[found["3"]]),
        sleep_on(parent, for_end(found["1"])),
    )
    return worker, parent.run_id, found["1"], found["2"], found["3"]


def children_named(world: World, run_id: UUID) -> dict[str, str]:
    return {place: output for place, output, _ in world.steps(run_id) if place in ("1", "2", "3")}


def test_a_fork_shares_the_children_of_its_kept_steps(world: World) -> None:
    _, parent, *_ = family(world)
    fork = world.anybody.fork(parent)
    assert children_named(world, fork) == children_named(world, parent)
    assert world.anybody.ask("select count(*) from rowlock.run where parent_id = %s", fork) == 0


def test_a_fork_with_its_children_has_those_that_have_not_ended_for_itself(world: World) -> None:
    worker, parent, waits, ended, detached = family(world)
    fork = world.anybody.ask("select rowlock.fork(%s, children => true)", parent)
    named = children_named(world, fork)
    assert named["2"] == str(ended)
    assert named["3"] == str(detached)
    [[copy, forked_from, place, generation]] = world.anybody.run(
        "select id, forked_from, parent_place, parent_generation from rowlock.run"
        " where parent_id = %s",
        fork,
    )
    assert (str(copy), forked_from, place, generation) == (named["1"], waits, "1", 1)
    assert world.steps(copy) == [("1", "half", 0)]
    assert world.state(copy) == "ready"
    # From here on they are two families: what ends the one leaves the other alone.
    world.anybody.cancel(fork)
    world.anybody.tend()
    assert (world.state(copy), world.state(waits)) == ("cancelled", "waiting")
    assert worker.verdict(sleep_on(worker.claim_run(detached), for_message())) == "written"


def test_a_fork_with_its_children_forks_theirs_and_pins_all_to_its_version(world: World) -> None:
    worker, parent, waits, *_ = family(world)
    world.anybody.send(waits)
    [run] = [one for one in worker.claim() if one.run_id == waits]
    worker.journal(child(run, "2"))
    [grandchild] = world.anybody.run("select id from rowlock.run where parent_id = %s", waits)
    versioned(world, "v7")
    fork = world.anybody.ask("select rowlock.fork(%s, version => 'v7', children => true)", parent)
    rows = world.anybody.run(
        "select c.forked_from, c.version, g.forked_from, g.version, g.status"
        "  from rowlock.runs as c left join rowlock.runs as g on g.parent_id = c.run_id"
        " where c.parent_id = %s",
        fork,
    )
    assert rows == [(waits, "v7", grandchild[0], "v7", "ready")]


def test_children_that_the_fork_does_not_keep_are_not_forked(world: World) -> None:
    _, parent, *_ = family(world)
    fork = world.anybody.ask("select rowlock.fork(%s, '1', children => true)", parent)
    assert world.steps(fork) == []
    assert world.anybody.ask("select count(*) from rowlock.run where parent_id = %s", fork) == 0


def test_a_fork_with_its_children_has_a_group_of_its_own(world: World) -> None:
    """Those that have ended are copied as they ended, and count; the last one wakes the copy."""
    worker, admin = world.worker(), world.anybody
    [parent] = world.claimed_by(worker)
    worker.journal(children(parent, "1", 3))
    name = f"{parent.run_id}:1:1"
    members = sorted(worker.claim(), key=lambda one: one.created_at)
    ended = worker.journal(step(members[0], "1"), finish(members[0]), finish(members[1], "failed"))
    worker.journal(groups=ended.groups)
    worker.journal(sleep_on(parent, for_group(name, 3)), sleep_on(members[2], for_message()))

    fork = admin.ask("select rowlock.fork(%s, children => true)", parent.run_id)
    copy = f"{fork}:1:1"
    assert world.steps(fork) == [("1", copy, 0)]
    copies = admin.run(
        "select c.forked_from, c.status, r.child_index, c.output, c.error"
        "  from rowlock.runs as c join rowlock.run as r on r.id = c.run_id"
        " where c.parent_id = %s order by r.child_index",
        fork,
    )
    originals = admin.run(
        "select c.run_id, case c.status when 'waiting' then 'ready' else c.status end,"
        "       r.child_index, c.output, c.error"
        "  from rowlock.runs as c join rowlock.run as r on r.id = c.run_id"
        " where c.parent_id = %s order by r.child_index",
        parent.run_id,
    )
    assert copies == originals
    assert admin.ask("select sum(count) from rowlock.arrival where name = %s", copy) == 2
    [copied] = admin.run(
        "select run_id from rowlock.runs where forked_from = %s", members[0].run_id
    )
    assert world.steps(copied[0]) == [("1", "done", 0)]

    claimed = {one.run_id: one for one in worker.claim()}
    worker.journal(sleep_on(claimed.pop(fork), for_group(copy, 3)))
    [last] = claimed.values()
    assert last.in_group
    worker.journal(groups=worker.journal(finish(last)).groups)
    assert world.state(fork) == "ready"
    assert world.state(parent.run_id) == "waiting"


def test_a_fork_has_the_group_of_its_own_history_and_not_an_earlier_ones(world: World) -> None:
    """The run was rewound to where it started a group, of which nobody had ended."""
    worker, admin = world.worker(), world.anybody
    [parent] = world.claimed_by(worker)
    worker.write(children(parent, "1", 3), step(parent, "2"), finish(parent))
    admin.rewind(parent.run_id, "1")
    [again] = [one for one in worker.claim() if one.run_id == parent.run_id]
    worker.journal(children(again, "1", 2))
    fork = admin.ask("select rowlock.fork(%s, children => true)", parent.run_id)
    assert world.steps(fork) == [("1", f"{fork}:1:1", 0)]
    copies = admin.run(
        "select r.child_index, f.parent_generation from rowlock.run as r"
        "  join rowlock.run as f on f.id = r.forked_from where r.parent_id = %s order by 1",
        fork,
    )
    assert copies == [(1, 2), (2, 2)]


def test_a_group_that_has_ended_is_shared(world: World) -> None:
    worker, admin = world.worker(), world.anybody
    [parent] = world.claimed_by(worker)
    worker.journal(children(parent, "1", 2))
    worker.journal(*[finish(one) for one in worker.claim()])
    fork = admin.ask("select rowlock.fork(%s, children => true)", parent.run_id)
    assert world.steps(fork) == [("1", f"{parent.run_id}:1:1", 0)]
    assert admin.ask("select count(*) from rowlock.run where parent_id = %s", fork) == 0
