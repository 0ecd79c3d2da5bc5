"""Each change through a function of control leaves a row: who, when, what, before and after."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from store.races.sessions import Session, World, finish, for_message, release, sleep_on, step

UNAUDITED = {
    # the rows these write are their record
    *("start", "start_many", "send", "set_event", "emit", "show_app", "declare_queues"),
    # these change nothing that anybody would ask after
    *(
        "listen",
        "unlisten",
        "explain",
        "explain_schedule",
        "id_since",
        "id_until",
        "with_attributes",
    ),
    # what a policy says that was audited when it was set; and looking
    *("retain", "choose_runs", "archived_rows", "remove_chosen", "expire_keys"),
    *("retain_plan", "why_kept"),
}


def in_state(world: World, state: str) -> UUID:
    worker = world.worker()
    [run] = world.claimed_by(worker)
    match state:
        case "waiting":
            worker.journal(sleep_on(run, for_message()))
        case "blocked":
            worker.journal(release(run, "nondeterminism"))
        case "running":
            pass
        case _:
            worker.write(step(run, "1"), finish(run, state))
    return run.run_id


def audited(world: World) -> list[tuple[Any, ...]]:
    return world.anybody.run(
        "select operation, app, run_id, object, before, after from rowlock.audit order by audit_id"
    )


RUN_CHANGES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "reprioritise": (
        "ready",
        "rowlock.reprioritise(%s, 7)",
        {"priority": 50},
        {"priority": 7},
    ),
    "move": ("ready", "rowlock.move(%s, 'other')", {"queue": "default"}, {"queue": "other"}),
    "retry": (
        "failed",
        "rowlock.retry(%s)",
        {"status": "failed", "generation": 1},
        {"status": "ready", "generation": 2},
    ),
    "resume": (
        "dead",
        "rowlock.resume(%s)",
        {"status": "dead", "generation": 1},
        {"status": "ready", "generation": 2},
    ),
    "resume a blocked one": (
        "blocked",
        "rowlock.resume(%s)",
        {"status": "blocked", "reason": "nondeterminism"},
        {"status": "ready"},
    ),
    "rewind": (
        "succeeded",
        "rowlock.rewind(%s, '1', '{\"order\": 8}')",
        {"status": "succeeded", "generation": 1},
        {"status": "ready", "generation": 2, "place": "1", "input": "another"},
    ),
    "cancel": (
        "ready",
        "rowlock.cancel(%s, reason => 'wrong')",
        {"status": "ready"},
        {"status": "cancelled", "requested": True, "grace_s": 30, "reason": "wrong"},
    ),
    "cancel one at work": (
        "running",
        "rowlock.cancel(%s, interval '5 s', force => true)",
        {"status": "running"},
        {"requested": True, "grace_s": 5, "force": True},
    ),
}


@pytest.mark.parametrize("change", RUN_CHANGES)
def test_a_change_of_a_run_says_what_it_was_and_what_it_is(world: World, change: str) -> None:
    state, call, before, after = RUN_CHANGES[change]
    run_id = world.anybody.start() if state == "ready" else in_state(world, state)
    world.anybody.run(f"select {call}", run_id)
    operation = change.split()[0]
    [(found, app, run, thing, was, became)] = audited(world)
    if operation == "cancel":
        became["grace_s"] = round(became["grace_s"])
    assert (found, app, run, thing, was, became) == (operation, "shop", run_id, None, before, after)


def test_a_reschedule_says_both_times(world: World) -> None:
    run_id = world.anybody.start()
    world.anybody.run("select rowlock.reschedule(%s, '2100-01-01')", run_id)
    [(_, _, _, _, before, after)] = audited(world)
    assert (before["status"], after["status"]) == ("ready", "scheduled")
    assert after["due_at"].startswith("2100-01-01")
    assert before["due_at"] < after["due_at"]


def test_a_fork_says_what_it_made_of_what(world: World) -> None:
    run_id = in_state(world, "succeeded")
    fork = world.anybody.ask(
        "select rowlock.fork(%s, input => '{}', outcomes => '{\"1\": 7}', children => true)", run_id
    )
    assert audited(world) == [
        (
            "fork",
            "shop",
            run_id,
            None,
            {"status": "succeeded"},
            {"fork": str(fork), "input": "another", "outcomes": ["1"], "children": True},
        )
    ]


def test_changes_of_other_things_name_them(world: World) -> None:
    admin, worker = world.anybody, world.worker()
    admin.run("insert into rowlock.version (app, name) values ('shop', 'v1'), ('shop', 'v2')")
    for call in (
        "pause('default', reason => 'flood')",
        "unpause('default')",
        "pause(workflow => 'fulfil')",
        "unpause(workflow => 'fulfil')",
        "pause(app => 'shop')",
        "promote('shop', 'v1')",
        "retire('shop', 'v2')",
        f"drain_worker({worker.worker_id})",
        "set_limit('default', concurrency => 5)",
        "unset_limit('default', 'concurrency')",
        "reset_limits('default')",
        "grant_app(current_user::text, 'shop')",
        "revoke_app(current_user::text, 'shop')",
    ):
        admin.run(f"select rowlock.{call}")
    user = admin.ask("select current_user::text")
    found = audited(world)
    assert [(operation, thing) for operation, _, _, thing, _, _ in found] == [
        ("pause", "queue default"),
        ("unpause", "queue default"),
        ("pause", "workflow fulfil"),
        ("unpause", "workflow fulfil"),
        ("pause", "app"),
        ("promote", "version v1"),
        ("retire", "version v2"),
        ("drain_worker", f"worker {worker.worker_id}"),
        ("set_limit", "queue default"),
        ("unset_limit", "queue default"),
        ("reset_limits", "queue default"),
        ("grant_app", f"role {user}"),
        ("revoke_app", f"role {user}"),
    ]
    assert {app for _, app, *_ in found} == {"shop"}
    assert found[0][4:] == ({"paused": False}, {"paused": True, "reason": "flood"})
    assert found[1][4]["reason"] == "flood"
    assert found[5][4:] == ({"current": "v2"}, {"current": "v1"})
    assert found[8][4:] == ({}, {"concurrency": 5})
    assert found[9][4:] == ({"concurrency": 5}, {})


def test_changes_of_schedules_say_what_it_was_and_what_it_is(world: World) -> None:
    admin = world.anybody
    admin.run("select rowlock.show_app('shop', '{default}', '{fulfil}', '{default}')")
    for call in (
        "create_schedule('nightly', 'fulfil', '0 3 * * *', app => 'shop')",
        "update_schedule('nightly', cron => '0 4 * * *', input => '{\"a\": 1}')",
        "update_schedule('nightly', cron => '0 4 * * *')",
        "unset_schedule('nightly', 'queue')",
        "update_schedule('nightly', queue => 'default')",
        "unset_schedule('nightly', 'queue')",
        "pause_schedule('nightly', 'flood')",
        "pause_schedule('nightly')",
        "resume_schedule('nightly')",
        "resume_schedule('nightly')",
        "trigger_schedule('nightly')",
        "backfill('nightly', '2026-01-01', '2026-01-02')",
        "delete_schedule('nightly')",
    ):
        admin.run(f"select rowlock.{call}")
    created, updated, queued, unset, paused, resumed, triggered, backfilled, deleted = audited(
        world
    )
    assert {row[1] for row in audited(world)} == {"shop"}
    assert {row[3] for row in audited(world)} == {"schedule nightly"}
    assert (created[0], created[4], created[5]["cron"]) == ("create_schedule", {}, "0 3 * * *")
    assert (updated[0], updated[4]["cron"]) == ("update_schedule", "0 3 * * *")
    assert (updated[5]["cron"], updated[5]["input"]) == ("0 4 * * *", "another")
    assert (unset[0], unset[4], "queue" in unset[5]) == ("unset_schedule", queued[5], False)
    assert paused[0::5] == ("pause_schedule", {"paused": True, "reason": "flood"})
    assert (resumed[0], resumed[4]["reason"], resumed[5]) == (
        *("resume_schedule", "flood"),
        {"paused": False},
    )
    assert (triggered[0], triggered[2]) == (
        "trigger_schedule",
        admin.ask("select id from rowlock.run"),
    )
    assert (backfilled[0], backfilled[5]["since"][:10]) == ("backfill", "2026-01-01")
    assert (deleted[0], deleted[4]["cron"], deleted[5]) == ("delete_schedule", "0 4 * * *", {})


def test_retention_says_what_it_was_and_what_it_is(world: World) -> None:
    run_id = in_state(world, "failed")
    admin = world.anybody
    admin.run("select rowlock.set_retention('1 day', outcome => 'failed', app => 'shop')")
    admin.run("select rowlock.set_retention('2 days', outcome => 'failed', app => 'shop')")
    admin.run("select rowlock.drop_retention(outcome => 'failed', app => 'shop')")
    admin.run("select rowlock.delete(%s)", run_id)
    one, two, three, four = audited(world)
    assert (one[0], one[1], one[3], one[4]) == ("set_retention", "shop", "failed", {})
    assert (one[5]["keep"], two[4]["keep"], two[5]["keep"]) == ("1 day", "1 day", "2 days")
    assert (three[0], three[4]["keep"]) == ("drop_retention", "2 days")
    assert (four[0], four[1], four[2]) == ("delete", "shop", run_id)


def test_every_function_that_changes_something_is_audited_or_says_why_not(world: World) -> None:
    """One that comes later is met here: it notes its changes, or is one of UNAUDITED."""
    changing = {
        name
        for [name] in world.anybody.run(
            "select function from rowlock.rights() where not reads and roles <> '{worker}'"
        )
    }
    audited_above = {change.split()[0] for change in RUN_CHANGES} | {
        *("reschedule", "fork", "pause", "unpause", "promote", "retire", "drain_worker"),
        *("grant_app", "revoke_app"),
        *("set_retention", "drop_retention", "delete"),
        *("set_limit", "unset_limit", "reset_limits"),
        *("create_schedule", "update_schedule", "unset_schedule", "delete_schedule"),
        "pause_schedule",
        *("resume_schedule", "trigger_schedule", "backfill"),
    }
    assert changing == audited_above | UNAUDITED


def test_who_and_when_and_with_what(world: World) -> None:
    admin = world.anybody
    run_id = admin.start()
    caller = world.session("caller")
    caller.run("set application_name = 'the night shift'")
    try:
        caller.run("select rowlock.reprioritise(%s, 1)", run_id)
        [row] = admin.run(
            "select actor, application_name, at between now() - interval '1 minute' and now()"
            "  from rowlock.audit"
        )
    finally:
        caller.run("reset application_name")
    assert row == (admin.ask("select current_user::text"), "the night shift", True)


def test_the_actor_is_the_role_that_was_set(world: World) -> None:
    admin = world.anybody
    run_id = admin.start()
    admin.run("create role night_watch in role pg_read_all_data")
    try:
        admin.run("grant usage on schema rowlock to night_watch")
        admin.run("grant execute on function rowlock.reprioritise(uuid, integer) to night_watch")
        admin.run("select rowlock.grant_app('night_watch', 'shop')")
        admin.run("set role night_watch")
        admin.run("select rowlock.reprioritise(%s, 1)", run_id)
        admin.run("reset role")
        [[actor]] = admin.run("select actor from rowlock.audit where operation = 'reprioritise'")
        assert actor == "night_watch"
    finally:
        admin.run("reset role")
        admin.run("drop owned by night_watch; drop role night_watch")


def test_what_changed_nothing_leaves_nothing(world: World) -> None:
    admin = world.anybody
    run_id = admin.start()
    for call in (
        "reprioritise(%(run)s, 50)",
        "move(%(run)s, 'default')",
        "unpause('default')",
        "revoke_app(current_user::text, 'shop')",
        "unset_limit('default', 'rate')",
        "reset_limits('default')",
    ):
        admin.connection.execute(f"select rowlock.{call}".encode(), {"run": run_id})
    for call in ("retry(%(run)s)", "move(%(run)s, 'nowhere')", "promote('shop', 'v9')"):
        with pytest.raises(psycopg.Error):
            admin.connection.execute(f"select rowlock.{call}".encode(), {"run": run_id})
    caller = world.session("caller").begin()
    caller.cancel(run_id)
    caller.rollback()
    assert audited(world) == []


def test_asking_twice_to_cancel_is_one_change(world: World) -> None:
    run_id = in_state(world, "running")
    for _ in range(3):
        world.anybody.cancel(run_id)
    assert len(audited(world)) == 1
    world.anybody.cancel(run_id, force=True)
    assert len(audited(world)) == 2


def test_what_follows_and_what_workers_do_leaves_nothing(world: World) -> None:
    """A child that is cancelled with its parent, takeovers, runs that end."""
    admin, worker = world.anybody, world.worker()
    [run] = world.claimed_by(worker)
    admin.run(
        "select rowlock.start_many(jsonb_build_array(jsonb_build_object('workflow', 'invoice',"
        " 'parent_id', %s::uuid, 'parent_generation', 1, 'parent_place', '1')), 'shop')",
        run.run_id,
    )
    admin.cancel(run.run_id, force=True)
    world.expire(worker)
    admin.run("update rowlock.cancel_request set look_at = clock_timestamp()")
    for _ in range(3):
        admin.tend()
        admin.run("update rowlock.cancel_request set look_at = clock_timestamp()")
    assert world.count("outcome") == 2
    assert [row[0] for row in audited(world)] == ["cancel"]


def _many(session: Session) -> list[tuple[Any, ...]]:
    return session.run(
        "select rowlock.cancel(run_id, reason => 'all of them') from rowlock.runs order by run_id"
    )


def test_each_run_of_a_statement_has_its_row(world: World) -> None:
    runs = world.anybody.start_many(*[{"workflow": "fulfil"}] * 20)
    _many(world.anybody)
    assert [row[2] for row in audited(world)] == sorted(runs)
