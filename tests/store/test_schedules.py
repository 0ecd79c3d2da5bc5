"""Schedules as SQL makes them: what is refused, what a change changes, what code declares."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from cronsim import CronSim, CronSimError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from store.races.sessions import Session, World, finish

QUEUES = "select rowlock.show_app('shop', '{default,slow}', '{fulfil}', '{default}')"
NIGHTLY = "select rowlock.create_schedule('nightly', 'fulfil', '0 3 * * *')"


@pytest.fixture
def admin(world: World) -> Session:
    world.anybody.run(QUEUES)
    return world.anybody


def row(session: Session, columns: str) -> tuple[Any, ...]:
    [found] = session.run(f"select {columns} from rowlock.schedules where schedule = 'nightly'")
    return found


def tick(session: Session, age: str = "1 second", name: str = "nightly") -> str:
    """Take one tick that is so old, as a worker does; the next one is in an hour."""
    session.run(
        "update rowlock.schedule set ticked_to = least(ticked_to,"
        " clock_timestamp() - interval '1 day') where fired + skipped = 0"
    )
    return str(
        session.ask(
            "select rowlock.tick(app, name, revision, ticked_to,"
            " array[clock_timestamp() - %s::interval], clock_timestamp() + interval '1 hour')"
            " from rowlock.schedule where name = %s",
            age,
            name,
        )
    )


# --- what is refused

BAD = [
    ("cron => '* * * *'", "it has 4 fields"),
    ("cron => ''", "fields"),
    ("cron => '60 * * * *'", "its minute 60"),
    ("cron => '0 24 * * *'", "its hour 24"),
    ("cron => '0 0 0 * *'", "its day of month 0"),
    ("cron => '0 0 * 13 *'", "its month 13"),
    ("cron => '0 0 * * 8'", "its day of week 8"),
    ("cron => '*/0 * * * *'", "its minute"),
    ("cron => '1,,2 * * * *'", "its minute"),
    ("cron => '@daily'", "fields"),
    ("cron => '0 0 * FEBRUARY *'", "its month FEBRUARY"),
    ("cron => '0 3 * * *', every => interval '1 hour'", "either"),
    ("", "either"),
    ("every => interval '0'", "every is"),
    ("every => interval '-1 hour'", "every is"),
    ("every => interval '0.5 s'", "every is"),
    ("every => interval '90.5 s'", "every is"),
    ("every => interval '1 month'", "every is"),
    ("every => interval '1 hour', timezone => 'Mars/Olympus'", "timezone is Mars/Olympus"),
    ("every => interval '1 hour', timezone => null", "timezone is"),
    ("every => interval '1 hour', jitter => interval '-1 s'", "jitter is"),
    ("every => interval '1 hour', overlap => 'perhaps'", "overlap is perhaps"),
    ("every => interval '1 hour', catch_up => 'some'", "catch_up is some"),
    ("every => interval '1 hour', catch_up_window => interval '0'", "catch_up_window is"),
    ("every => interval '1 hour', start_at => '2030-01-02', end_at => '2030-01-01'", "it ends"),
    ("every => interval '1 hour', end_at => 'infinity'", "on the calendar"),
    ("every => interval '1 hour', priority => 101", "priority is 101"),
    ("every => interval '1 hour', priority => -5", "priority is -5,"),
    ("every => interval '1 hour', priority => 200", "priority is 200,"),
    ("every => interval '1 hour', priority => 70000", "priority is 70000,"),
    ("every => interval '1 hour', input => '[]'", "input is not"),
    ("every => interval '1 hour', tick_argument => ''", "tick_argument"),
]


def refused(session: Session, sql: str) -> psycopg.Error:
    before = session.run("select x::text from rowlock.schedule as x")
    with pytest.raises(psycopg.Error) as caught:
        session.run(f"select {sql}")
    assert caught.value.diag.message_hint
    assert "Nothing was changed" in caught.value.diag.message_hint
    assert session.run("select x::text from rowlock.schedule as x") == before
    assert (
        session.run("select 1 from rowlock.audit where operation like '%%schedule' offset 1") == []
    )
    return caught.value


@pytest.mark.parametrize(("definition", "what"), BAD)
def test_a_definition_that_can_not_work_is_refused(
    admin: Session, definition: str, what: str
) -> None:
    comma = ", " if definition else ""
    error = refused(admin, f"rowlock.create_schedule('new', 'fulfil'{comma}{definition})")
    assert (error.sqlstate, what in str(error)) == ("RLV02", True), error


@pytest.mark.parametrize(
    ("definition", "what"), [(d, w) for d, w in BAD if d and "null" not in d and "either" not in w]
)
def test_a_change_that_can_not_work_is_refused(admin: Session, definition: str, what: str) -> None:
    admin.run(NIGHTLY)
    error = refused(admin, f"rowlock.update_schedule('nightly', {definition})")
    assert (error.sqlstate, what in str(error)) == ("RLV02", True), error


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("create_schedule('nightly', 'fulfil', '0 3 * * *')", "RLS07"),
        ("create_schedule('', 'fulfil', '0 3 * * *')", "RLV02"),
        ("create_schedule('new', '', '0 3 * * *')", "RLV02"),
        ("create_schedule('new', 'fulfil', '0 3 * * *', queue => 'nowhere')", "RLN01"),
        ("update_schedule('other', cron => '0 3 * * *')", "RLN09"),
        ("update_schedule('nightly', queue => 'nowhere')", "RLN01"),
        ("delete_schedule('other')", "RLN09"),
        ("pause_schedule('other')", "RLN09"),
        ("resume_schedule('other')", "RLN09"),
        ("trigger_schedule('other')", "RLN09"),
        ("backfill('other', '2026-01-01', '2026-01-02')", "RLN09"),
        ("backfill('nightly', '2026-01-02', '2026-01-01')", "RLV02"),
        ("backfill('nightly', '2026-01-02', '2100-01-01')", "RLV02"),
        ("backfill('nightly', null, '2026-01-01')", "RLV02"),
        ("backfill('nightly', '-infinity', '2026-01-01')", "RLV02"),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_refused(
    admin: Session, call: str, code: str
) -> None:
    admin.run(NIGHTLY)
    assert refused(admin, f"rowlock.{call}").sqlstate == code
    assert admin.run("select 1 from rowlock.schedule_backfill") == []


FIELDS = [
    "*",
    "*/5",
    "0",
    "7",
    "1-5",
    "1-5/2",
    "L",
    "LW",
    "5L",
    "MON#1",
    "JAN",
    "fri",
    "1,3",
    "0-7",
]


def test_sql_takes_the_expressions_that_the_library_takes(admin: Session) -> None:
    """A text that SQL refuses can't be one that works; the rest a worker finds out."""
    tried: set[bool] = set()

    @settings(max_examples=400, deadline=None)
    @example(["*"] * 5)
    @example(["x"] * 5)
    @given(
        st.lists(st.sampled_from([*FIELDS, "60", "x", "5#9", "-1", "*/0"]), min_size=4, max_size=7)
    )
    def agree(fields: list[str]) -> None:
        text = " ".join(fields)
        is_taken = admin.ask("select rowlock.bad_cron(%s) is null", text)
        try:
            CronSim(text, datetime(2026, 1, 1))
            works = True
        except CronSimError:
            works = False
        assert is_taken or not works, text
        tried.add(works)

    agree()
    assert tried == {True, False}


# --- what a change changes


def test_another_timing_counts_from_the_change_on_and_another_queue_does_not(
    admin: Session,
) -> None:
    admin.run(NIGHTLY)
    admin.run("update rowlock.schedule set ticked_to = '2026-01-01'")
    assert admin.ask("select rowlock.update_schedule('nightly', queue => 'slow', priority => 3)")
    assert row(admin, "queue, priority, cron") == ("slow", 3, "0 3 * * *")
    assert admin.ask("select ticked_to = '2026-01-01' from rowlock.schedule")
    assert admin.ask("select rowlock.update_schedule('nightly', every => interval '1 hour')")
    assert admin.ask("select ticked_to > now() - interval '1 minute' from rowlock.schedule")
    assert row(admin, "cron, extract(epoch from every)::int") == (None, 3600)
    assert not admin.ask("select rowlock.update_schedule('nightly', every => interval '1 hour')")


def test_a_change_after_the_ticks_were_computed_is_not_ticked_by_the_old_rule(
    admin: Session,
) -> None:
    admin.run(NIGHTLY)
    [seen] = admin.run("select revision, ticked_to from rowlock.schedule")
    admin.run("select rowlock.update_schedule('nightly', queue => 'slow')")
    verdict = "select rowlock.tick('shop', 'nightly', %s, %s, array[clock_timestamp()], now())"
    assert admin.ask(verdict, *seen) == "taken"
    assert admin.run("select 1 from rowlock.run") == []


def test_a_tick_is_taken_once_and_never_before_its_time(admin: Session) -> None:
    admin.run(NIGHTLY)
    before = admin.run("select revision, ticked_to from rowlock.schedule")[0]
    assert tick(admin, "-1 hour") == "done"  # as of a worker whose clock is wrong
    assert admin.run("select 1 from rowlock.run") == []
    assert admin.ask("select next_tick > now() from rowlock.schedules")
    assert tick(admin) == "done"
    again = "select rowlock.tick('shop', 'nightly', %s, %s, array[clock_timestamp()], now())"
    assert admin.ask(again, *before) == "taken"
    assert row(admin, "fired, skipped, unfinished") == (1, 0, 1)
    [(key, attributes)] = admin.run("select key, attributes from rowlock.run")
    assert key.startswith("schedule:nightly:20")
    assert attributes == {"schedule": "nightly"}


def test_runs_are_given_the_tick_where_the_schedule_says(admin: Session) -> None:
    admin.run(NIGHTLY)
    admin.run(
        "select rowlock.update_schedule('nightly', input => '{\"a\": 1}', tick_argument => 'at')"
    )
    assert tick(admin) == "done"
    given, last = admin.run("select r.input, s.last_tick from rowlock.run r, rowlock.schedules s")[
        0
    ]
    assert given == {"a": 1, "at": last.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


@pytest.mark.parametrize(
    ("overlap", "fired", "skipped", "requests"),
    [("skip", 1, 1, 0), ("queue", 1, 0, 0), ("allow", 2, 0, 0), ("cancel_running", 2, 0, 1)],
)
def test_a_tick_meets_an_unfinished_run_by_the_rule(
    world: World, admin: Session, overlap: str, fired: int, skipped: int, requests: int
) -> None:
    worker = world.worker()
    admin.run(NIGHTLY)
    admin.run(f"select rowlock.update_schedule('nightly', overlap => '{overlap}')")
    assert tick(admin, "20 seconds") == "done"
    assert len(worker.claim()) == 1
    assert tick(admin, "10 seconds") == "done"
    assert row(admin, "fired, skipped") == (fired, skipped)
    assert world.count("cancel_request") == requests
    # One that waits is due until the run has ended, but is not looked at for nothing.
    looked = admin.run("select kind from rowlock.look_at_schedules('shop', '', 10)")
    assert looked == [("look",)]
    if overlap == "queue":
        admin.run("delete from rowlock.task")
        looked = admin.run("select kind from rowlock.look_at_schedules('shop', '', 10)")
        assert looked == [("look",), ("due",)]


def test_a_triggered_run_counts_for_the_next_tick(admin: Session) -> None:
    admin.run(NIGHTLY)
    admin.run("select rowlock.pause_schedule('nightly')")
    assert admin.ask("select rowlock.trigger_schedule('nightly')") is not None
    admin.run("select rowlock.resume_schedule('nightly')")
    assert tick(admin) == "done"
    assert row(admin, "fired, skipped, unfinished") == (0, 1, 1)


def test_what_is_paused_is_never_due_and_the_meantime_is_not_made_up_for(admin: Session) -> None:
    admin.run(NIGHTLY)
    admin.run("update rowlock.schedule set ticked_to = '2026-01-01'")
    assert admin.ask("select rowlock.pause_schedule('nightly', 'flood')")
    assert row(admin, "status, next_tick, reason") == ("paused", None, "flood")
    assert admin.run("select kind from rowlock.look_at_schedules('shop', '', 10)") == [("look",)]
    assert tick(admin) == "taken"
    assert admin.ask("select rowlock.resume_schedule('nightly')")
    assert row(admin, "status, reason") == ("active", None)
    assert admin.ask("select ticked_to > now() - interval '1 minute' from rowlock.schedule")


def test_what_can_not_be_computed_is_set_aside_and_says_why(admin: Session) -> None:
    admin.run(NIGHTLY)
    admin.run("select rowlock.set_schedule_aside('shop', 'nightly', 1, 'no such day')")
    assert row(admin, "status, error, next_tick") == ("refused", "no such day", None)
    admin.run("select rowlock.update_schedule('nightly', cron => '0 4 * * *')")
    assert row(admin, "status, error") == ("active", None)


# --- what code declares


def declare(session: Session, *names: str, version: str = "", **more: Any) -> bool | None:
    declared = [
        {
            "name": name,
            "workflow": "fulfil",
            "cron": "0 3 * * *",
            "timezone": "UTC",
            "input": {},
            "jitter": "0 seconds",
            "overlap": "skip",
            "catch_up": "last",
            **more,
        }
        for name in names
    ]
    answer = session.ask(
        "select rowlock.declare_schedules('shop', %s, %s::jsonb)", version, json.dumps(declared)
    )
    return answer if answer is None else bool(answer)


def test_a_declaration_counts_at_first_sight_and_when_it_changes(admin: Session) -> None:
    assert declare(admin, "nightly")
    admin.run("select rowlock.update_schedule('nightly', cron => '0 5 * * *')")
    assert row(admin, "cron, declared, set_at is not null") == ("0 5 * * *", True, True)
    assert declare(admin, "nightly")
    assert row(admin, "cron, set_at is not null") == ("0 5 * * *", True)
    assert declare(admin, "nightly", priority=7)
    assert row(admin, "cron, priority, set_at") == ("0 3 * * *", 7, None)


def test_what_is_not_declared_any_more_stops_and_goes_on_when_it_comes_back(
    admin: Session,
) -> None:
    admin.run("select rowlock.create_schedule('other', 'fulfil', '0 3 * * *')")
    declare(admin, "nightly")
    admin.run("update rowlock.schedule set ticked_to = '2026-01-01' where name = 'nightly'")
    assert declare(admin)
    assert row(admin, "status, next_tick, removed_at is not null") == ("removed", None, True)
    assert admin.run("select status from rowlock.schedules where schedule = 'other'") == [
        ("active",)
    ]
    assert declare(admin, "nightly")
    assert row(admin, "status, removed_at") == ("active", None)
    assert admin.ask("select ticked_to = '2026-01-01' from rowlock.schedule where name = 'nightly'")


def test_code_that_is_not_current_declares_nothing(world: World, admin: Session) -> None:
    admin.run("insert into rowlock.version (app, name) values ('shop', 'v1'), ('shop', 'v2')")
    admin.run("select rowlock.promote('shop', 'v1')")
    assert declare(admin, "nightly", version="v1")
    assert declare(admin, version="v2") is None
    assert row(admin, "status") == ("active",)
    admin.run("select rowlock.promote('shop', 'v2')")
    assert declare(admin, version="v1") is None
    assert declare(admin, version="v2")
    assert row(admin, "status") == ("removed",)


def test_what_code_declares_is_not_deleted_but_what_it_dropped_is(admin: Session) -> None:
    declare(admin, "nightly")
    assert refused(admin, "rowlock.delete_schedule('nightly')").sqlstate == "RLS07"
    declare(admin)
    admin.run("select rowlock.delete_schedule('nightly')")
    assert admin.run("select 1 from rowlock.schedule") == []


def test_a_pause_outlives_another_declaration(admin: Session) -> None:
    declare(admin, "nightly")
    admin.run("select rowlock.pause_schedule('nightly')")
    declare(admin, "nightly", priority=7)
    assert row(admin, "status, priority") == ("paused", 7)


# --- a field that is taken away

OPTIONAL = {
    "tick_argument": "'tick'",
    "queue": "'slow'",
    "priority": "7",
    "jitter": "interval '5 min'",
    "catch_up_window": "interval '1 day'",
    "start_at": "'2020-01-01'",
    "end_at": "'2090-01-01'",
}


@pytest.mark.parametrize("field", OPTIONAL)
def test_a_field_that_is_taken_away_is_as_if_it_had_never_been_given(
    admin: Session, field: str
) -> None:
    admin.run(NIGHTLY)
    before = row(admin, ", ".join(OPTIONAL))
    unset = f"select rowlock.unset_schedule('nightly', '{field}')"
    assert admin.ask(unset) is False
    for name, value in OPTIONAL.items():
        admin.run(f"select rowlock.update_schedule('nightly', {name} => {value})")
    given = row(admin, ", ".join(OPTIONAL))
    assert not any(old == new for old, new in zip(before, given, strict=True))
    revision = admin.ask("select revision from rowlock.schedule")
    assert admin.ask(unset) is True
    assert admin.ask("select revision from rowlock.schedule") == revision + 1
    after = dict(zip(OPTIONAL, row(admin, ", ".join(OPTIONAL)), strict=True))
    wanted = dict(zip(OPTIONAL, given, strict=True))
    wanted[field] = dict(zip(OPTIONAL, before, strict=True))[field]
    assert after == wanted
    assert admin.ask(unset) is False


@pytest.mark.parametrize("field", ["'workflow'", "'cron'", "'colour'", "''", "null"])
def test_what_a_schedule_must_have_is_not_taken_away(admin: Session, field: str) -> None:
    admin.run(NIGHTLY)
    error = refused(admin, f"rowlock.unset_schedule('nightly', {field})")
    assert (error.sqlstate, "no field" in str(error)) == ("RLV02", True)


def test_without_its_end_an_ended_schedule_ticks_again(admin: Session) -> None:
    admin.run(NIGHTLY)
    admin.run("select rowlock.update_schedule('nightly', end_at => clock_timestamp())")
    admin.run("update rowlock.schedule set due_at = 'infinity'")
    assert row(admin, "status") == ("ended",)
    assert admin.ask("select rowlock.unset_schedule('nightly', 'end_at')")
    assert row(admin, "status, end_at") == ("active", None)


def test_a_field_taken_from_a_declared_schedule_is_shown_as_changed(admin: Session) -> None:
    assert declare(admin, "nightly", queue="slow")
    admin.run("select rowlock.unset_schedule('nightly', 'queue')")
    assert row(admin, "queue, set_at is not null") == (None, True)
    assert declare(admin, "nightly", queue="slow")
    assert row(admin, "queue") == (None,)
    assert declare(admin, "nightly", queue="slow", priority=5)
    assert row(admin, "queue, set_at") == ("slow", None)


# --- why it does not tick


def why(session: Session, name: str = "nightly") -> tuple[str | None, str, str, dict[str, Any]]:
    [[status, cause, message, hint, details]] = session.run(
        "select * from rowlock.explain_schedule(%s)", name
    )
    assert message
    assert hint
    assert "%" not in message + hint
    return status, cause, message, details


def test_each_reason_not_to_tick(world: World, admin: Session) -> None:
    assert why(admin)[:2] == (None, "unknown")
    declare(admin, "nightly")
    assert why(admin)[:2] == ("active", "no_worker")
    worker = world.worker()
    assert why(admin)[:2] == ("active", "computing")
    assert tick(admin) == "done"
    status, cause, message, details = why(admin)
    assert (status, cause) == ("active", "not_due")
    assert "it ticks next at 2" in message
    assert details["unfinished"] == [details["last_run_id"]]
    admin.run("update rowlock.schedule set next_tick = clock_timestamp()")
    assert why(admin)[1] == "due"
    admin.run("update rowlock.schedule set next_tick = clock_timestamp() + interval '1 hour'")
    admin.run("select rowlock.pause_schedule('nightly', 'the bank is closed')")
    assert why(admin)[:2] == ("paused", "paused")
    assert why(admin)[2].endswith(": the bank is closed")
    admin.run("select rowlock.resume_schedule('nightly')")
    declare(admin)
    assert why(admin)[:2] == ("removed", "removed")
    declare(admin, "nightly")
    assert why(admin)[1] == "computing"
    revision = admin.ask("select revision from rowlock.schedule")
    admin.run("select rowlock.set_schedule_aside('shop', 'nightly', %s, 'no zone Moon')", revision)
    assert why(admin)[:3] == ("refused", "refused", "no ticks can be computed: no zone Moon")
    admin.run("select rowlock.update_schedule('nightly', end_at => clock_timestamp())")
    admin.run("update rowlock.schedule set due_at = 'infinity'")
    assert why(admin)[:2] == ("ended", "ended")
    world.expire(worker)
    admin.run("update rowlock.schedule set due_at = clock_timestamp()")
    assert "the last lease ended at 2" in why(admin)[2]


def test_a_tick_that_waits_for_a_run_names_it(world: World, admin: Session) -> None:
    admin.run(
        "select rowlock.create_schedule('nightly', 'fulfil', '0 3 * * *', overlap => 'queue')"
    )
    worker = world.worker()
    assert tick(admin) == "done"
    first = admin.ask("select last_run_id from rowlock.schedule")
    assert tick(admin, "0 seconds") == "done"  # held back
    status, cause, message, details = why(admin)
    assert (status, cause) == ("active", "waiting_for_run")
    assert f"run {first} is" in message
    assert details["unfinished"] == [str(first)]
    [claimed] = worker.claim()
    worker.write(finish(claimed))
    assert why(admin)[1] == "due"
    assert tick(admin, "0 seconds") == "done"
    assert why(admin)[1] == "not_due"


def test_a_skipped_tick_and_a_workflow_of_no_code_are_told(world: World, admin: Session) -> None:
    admin.run(NIGHTLY)
    world.worker()
    assert [tick(admin), tick(admin, "0 seconds")] == ["done", "done"]
    assert "started nothing, because a run was unfinished" in why(admin)[2]
    admin.run("select rowlock.create_schedule('typo', 'fullfil', '0 3 * * *')")
    assert tick(admin, name="typo") == "done"
    assert why(admin, "typo")[1] == "unknown_workflow"
