"""Hostile texts in every text argument of every function that somebody else may call.

What is a name is refused or stands there letter by letter; nothing is ever executed of it.
Functions and their arguments are found in the catalog: one that comes later fails until it has a
call (CALLS).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.sql import SQL, Composed, Identifier, Literal

from store.races.sessions import World, finish, for_message, release, sleep_on, step

HOSTILE = [
    "'; drop table rowlock.run; --",
    "x'); select pg_sleep(1e9); --",
    "$$; drop schema rowlock cascade; $$",
    "%s %I %L %1$s %%",
    "\\'; delete from rowlock.task; --",
    "{{}}{0} $1 :name ${jndi:x}",
    '", "app": "other", "x": "',
    "\n\r\t\v\x1b[31m",
    "‮" + "😀" * 50,
    "x" * 100_000,
    "",
]


@dataclass
class Things:
    """What calls need: a run in each state that matters."""

    ready: UUID
    running: UUID
    failed: UUID
    succeeded: UUID
    blocked: UUID
    worker: int


CALLS: dict[str, dict[str, Any]] = {
    # by its name: good arguments, of which each text is replaced in turn
    "start": {"workflow": "fulfil", "key": "k", "queue": "default", "app": "shop"},
    "start_many": {"runs": [{"workflow": "fulfil"}], "app": "shop"},
    "send": {"run_id": "ready", "topic": "approval", "key": "k"},
    "set_event": {"run_id": "running", "name": "progress"},
    "get_event": {"run_id": "running", "name": "progress"},
    "emit": {"run_id": "running", "stream": "log"},
    "explain": {"run_id": "running"},
    "cancel": {"run_id": "ready", "reason": "why"},
    "resume": {"run_id": "blocked"},
    "retry": {"run_id": "failed"},
    "rewind": {"run_id": "succeeded", "place": "1"},
    "fork": {"run_id": "succeeded", "place": "1", "version": "v1"},
    "pause": {"queue": "default", "reason": "why", "app": "shop"},
    "unpause": {"queue": "default", "app": "shop"},
    "set_limit": {"queue": "default", "app": "shop"}
    | {"partitions": True, "rate": "100/min", "partition_rate": "5/s smooth"},
    "unset_limit": {"queue": "default", "name": "rate", "app": "shop"},
    "reset_limits": {"queue": "default", "app": "shop"},
    "move": {"run_id": "ready", "queue": "other"},
    "reprioritise": {"run_id": "ready", "priority": 3},
    "reschedule": {"run_id": "ready", "at": "2100-01-01"},
    "create_schedule": {
        "name": "nightly",
        "workflow": "fulfil",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "tick_argument": "tick",
        "queue": "default",
        "overlap": "skip",
        "catch_up": "last",
        "app": "shop",
    },
    "update_schedule": {
        "name": "hourly",
        "workflow": "fulfil",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "tick_argument": "tick",
        "queue": "default",
        "overlap": "skip",
        "catch_up": "last",
        "app": "shop",
    },
    "unset_schedule": {"name": "hourly", "field": "end_at", "app": "shop"},
    "delete_schedule": {"name": "hourly", "app": "shop"},
    "pause_schedule": {"name": "hourly", "reason": "why", "app": "shop"},
    "resume_schedule": {"name": "hourly", "app": "shop"},
    "trigger_schedule": {"name": "hourly", "app": "shop"},
    "explain_schedule": {"name": "hourly", "app": "shop"},
    "backfill": {
        "name": "hourly",
        "since": "2026-01-01",
        "until": "2026-01-02",
        "app": "shop",
    },
    "promote": {"app": "shop", "version": "v1"},
    "retire": {"app": "shop", "version": "v0"},
    "drain_worker": {"worker_id": "worker"},
    "grant_app": {"role": "pg_monitor", "app": "shop"},
    "revoke_app": {"role": "pg_monitor", "app": "shop"},
    "set_retention": {
        "keep": "1 day",
        "app": "shop",
        "workflow": "fulfil",
        "outcome": "cancelled",
    },
    "drop_retention": {"app": "shop", "workflow": "fulfil", "outcome": "cancelled"},
    "delete": {"run_id": "succeeded"},
    "why_kept": {"run_id": "running"},
    "retain": {"app": "shop"},
    "retain_plan": {"app": "shop"},
    "listen": {"listener": "running", "lease": "1 minute"},
    "unlisten": {"listener": "running"},
    "current_version": {"app": "shop"},
    "my_apps": {},
    "list_runs": {"app": "shop", "status": "dead", "workflow": "fulfil", "queue": "default"}
    | {"version": "v1", "key": "k"},
}
GOES_WITH: dict[tuple[str, str], dict[str, Any]] = {
    # what else the call needs then; None: what it must not have
    ("pause", "workflow"): {"queue": None},
    ("unpause", "workflow"): {"queue": None},
    ("start", "dedup"): {"key": None},
    ("start", "on_duplicate"): {"key": None, "dedup": "k"},
    ("start", "debounce"): {"key": None, "quiet": "1 hour"},
    ("start", "batch"): {"key": None, "input": '{"pages": [1]}'},
}


@pytest.fixture
def things(world: World) -> Things:
    worker, admin = world.worker(), world.anybody
    admin.run("update rowlock.queue set partitions = true")
    admin.run("insert into rowlock.version (app, name) values ('shop', 'v0'), ('shop', 'v1')")
    admin.run("select rowlock.create_schedule('hourly', 'fulfil', every => interval '1 hour')")
    running, failed, succeeded, blocked = world.claimed_by(worker, 4)
    worker.write(step(failed, "1"), finish(failed, "failed"), step(succeeded, "1"))
    worker.write(finish(succeeded), release(blocked, "nondeterminism"))
    return Things(
        admin.start(),
        running.run_id,
        failed.run_id,
        succeeded.run_id,
        blocked.run_id,
        worker.worker_id,
    )


def arguments(world: World) -> dict[str, dict[str, str]]:
    """The documented functions, with the names and types of what they take."""
    found: dict[str, dict[str, str]] = {}
    for function, name, kind in world.anybody.run(
        "select p.proname, a.name, format_type(a.type, null)"
        "  from pg_proc as p"
        "  left join lateral (select x.name, x.type, x.mode"
        "         from unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]),"
        "                     coalesce(p.proargmodes,"
        "                              array_fill('i'::\"char\", array[p.pronargs])))"
        "              as x (name, type, mode)) as a on a.mode in ('i', 'b')"
        " where p.pronamespace = 'rowlock'::regnamespace"
        "   and obj_description(p.oid, 'pg_proc') is not null"
    ):
        found.setdefault(function, {})
        if name is not None:
            found[function][name] = kind
    return found


def call(function: str, given: dict[str, Any], kinds: dict[str, str], things: Things) -> Composed:
    parts = []
    for name, value in given.items():
        value = getattr(things, value, value) if isinstance(value, str) else value
        value = json.dumps(value) if isinstance(value, list | dict) else value
        parts.append(SQL("{} => {}::{}").format(Identifier(name), Literal(value), SQL(kinds[name])))
    return SQL("select * from rowlock.{}({}) as x").format(
        Identifier(function), SQL(", ").join(parts)
    )


def everything(world: World) -> dict[str, list[Any]]:
    """All rows of all tables; fails when a table is gone."""
    rows = world.anybody.run(
        "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
        " and relkind = 'r' order by 1"
    )
    return {
        name: world.anybody.run(f"select x::text from rowlock.{name} as x order by 1")
        for [name] in rows
    }


def attacks(world: World) -> Iterator[tuple[str, str, str]]:
    for function, kinds in arguments(world).items():
        for name, kind in kinds.items():
            if kind == "text":
                for text in HOSTILE:
                    yield function, name, text


def test_every_documented_function_has_a_call(world: World, things: Things) -> None:
    known = arguments(world)
    assert set(known) == set(CALLS)
    for function, given in CALLS.items():
        statement = call(function, given, known[function], things)
        world.anybody.begin()
        if function in ("unpause", "revoke_app"):
            world.anybody.run("select rowlock.pause('default')")
        world.anybody.connection.execute(statement)
        world.anybody.rollback()


def test_no_text_is_executed_wherever_it_is_given(world: World, things: Things) -> None:
    known, before, tried = arguments(world), everything(world), 0
    functions = world.anybody.run(
        "select oid, xmin from pg_proc where pronamespace = 'rowlock'::regnamespace order by 1"
    )
    unhelpful = []
    for function, name, text in attacks(world):
        given = CALLS[function] | GOES_WITH.get((function, name), {}) | {name: text}
        given = {one: value for one, value in given.items() if value is not None}
        world.anybody.begin()
        try:
            world.anybody.connection.execute(call(function, given, known[function], things))
        except psycopg.Error as error:
            state, hint = error.sqlstate or "", error.diag.message_hint
            said = error.diag.message_primary or ""
            if not (state.startswith("RL") and hint and len(said + hint) < 1000):
                unhelpful.append((function, name, text[:40], state, said[:200], hint))
        else:
            # It was taken: if it stands anywhere, then letter by letter.
            after = everything(world)
            assert set(after) == set(before)
        world.anybody.rollback()
        tried += 1
    assert unhelpful == []
    assert tried > 250
    assert everything(world) == before
    assert (
        world.anybody.run(
            "select oid, xmin from pg_proc where pronamespace = 'rowlock'::regnamespace order by 1"
        )
        == functions
    )


@pytest.mark.parametrize("text", [text for text in HOSTILE if 0 < len(text) < 150])
def test_a_hostile_name_is_kept_letter_by_letter(world: World, text: str) -> None:
    admin = world.anybody
    run_id = admin.ask(
        "select rowlock.start(%s, %s::jsonb, key => %s, app => %s)",
        text,
        json.dumps({text: text}),
        text,
        text,
    )
    assert admin.ask("select rowlock.start(%s, key => %s, app => %s)", text, text, text) == run_id
    admin.send(run_id, text, topic=text, key=text)
    admin.set_event(run_id, text, name=text)
    admin.emit(run_id, text, stream=text)
    [row] = admin.run(
        "select app, workflow, key, input from rowlock.runs where run_id = %s", run_id
    )
    assert row == (text, text, text, {text: text})
    assert admin.run("select topic, key, value from rowlock.messages") == [(text, text, text)]
    assert admin.run("select name, value from rowlock.events") == [(text, text)]
    assert admin.run("select stream, value from rowlock.streams") == [(text, text)]
    assert admin.ask("select rowlock.get_event(%s, %s)", run_id, text) == text
    admin.cancel(run_id, reason=text)
    assert admin.ask("select error ->> 'message' from rowlock.runs") == text
    assert admin.ask("select after ->> 'reason' from rowlock.audit") == text


WRONG_JSON: dict[str, list[tuple[str, str]]] = {
    "start_many": [
        ("runs", bad)
        for bad in (
            "null",
            "{}",
            "7",
            "[7]",
            "[[]]",
            '[{"workflow": 7}]',
            "[{}]",
            '[{"workflow": "fulfil", "input": []}]',
            '[{"workflow": "fulfil", "key": 7}]',
            '[{"workflow": "fulfil", "key": ""}]',
            '[{"workflow": "fulfil", "queue": 7}]',
            '[{"workflow": "fulfil", "queue": "nowhere"}]',
            '[{"workflow": "fulfil", "priority": "first"}]',
            '[{"workflow": "fulfil", "priority": 1e300}]',
            '[{"workflow": "fulfil", "delay": "soon"}]',
            '[{"workflow": "fulfil", "delay": 7}]',
            '[{"workflow": "fulfil", "delay": "-1000000 years"}]',
            '[{"workflow": "fulfil", "delay": "-5 s"}]',
            '[{"workflow": "fulfil", "delay": "1000000 years", "start_before": "2100-01-01"}]',
            '[{"workflow": "fulfil", "start_at": "infinity"}]',
            '[{"workflow": "fulfil", "deadline": "1000000 years"}]',
            '[{"workflow": "fulfil", "app": "shop"}]',
            '[{"workflow": "fulfil", "": null}]',
            '[{"workflow": "fulfil", "start_at": "soon"}]',
            '[{"workflow": "fulfil", "start_at": {}}]',
            '[{"workflow": "fulfil", "deadline": "soon"}]',
            '[{"workflow": "fulfil", "deadline": "-1 hour"}]',
            '[{"workflow": "fulfil", "detached": "perhaps"}]',
            '[{"workflow": "fulfil", "batch": "k"}]',
            '[{"workflow": "fulfil", "batch": "k", "input": 7}]',
            '[{"workflow": "fulfil", "batch": "k", "input": {"a": [1]}, "size": 1e400}]',
            '[{"workflow": "fulfil", "batch": "k", "input": {"a": [1]}, "size": "1"}]',
            '[{"workflow": "fulfil", "batch": "k", "input": {"a": [1]}, "wait": 5}]',
            '[{"workflow": "fulfil", "batch": ["k"], "input": {"a": [1]}}]',
            '[{"workflow": "fulfil", "parent_id": "nobody"}]',
            '[{"workflow": "fulfil", "parent_id": "00000000-0000-7000-8000-000000000000"}]',
            '[{"workflow": "fulfil", "attributes": [1]}]',
            '[{"workflow": "fulfil", "trace_context": "x"}]',
            '[{"workflow": "fulfil"}, {"workflow": ""}]',
        )
    ],
    "start": [
        ("input", "[]"),
        ("input", "7"),
        ("attributes", "[]"),
        ("trace_context", "7"),
        ("delay", "-5 s"),
        ("dedup", "with a key"),
        ("quiet", "1 hour"),
        ("batch", "without a list"),
        ("size", "7"),
        ("wait", "1 hour"),
        ("start_before", "2020-01-01"),
    ],
    "rewind": [("input", "[]"), ("input", '"x"')],
    "fork": [
        ("input", "[]"),
        ("outcomes", "[]"),
        ("outcomes", "7"),
        ("outcomes", '{"99": 1}'),
        ("outcomes", '{"": 1}'),
    ],
}


@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [(function, *bad) for function, cases in WRONG_JSON.items() for bad in cases],
)
def test_json_of_the_wrong_shape_is_refused_with_a_hint(
    world: World, things: Things, function: str, argument: str, value: str
) -> None:
    before = everything(world)
    given = CALLS[function] | {argument: value}
    if function == "fork":
        del given["place"]
    with pytest.raises(psycopg.Error) as caught:
        world.anybody.connection.execute(call(function, given, arguments(world)[function], things))
    assert (caught.value.sqlstate or "").startswith("RL"), caught.value
    assert caught.value.diag.message_hint
    assert everything(world) == before


def test_a_fork_past_the_end_is_refused(world: World, things: Things) -> None:
    for place in ("2", "1.1", "0", "cancel"):
        with pytest.raises(psycopg.Error, match="has recorded nothing at place") as caught:
            world.anybody.run("select rowlock.fork(%s, %s)", things.succeeded, place)
        assert caught.value.sqlstate == "RLN04"


def test_a_run_id_that_is_null_is_a_run_that_is_not_there(world: World, things: Things) -> None:
    for function, kinds in arguments(world).items():
        if kinds.get("run_id") != "uuid" or function in ("get_event", "explain", "why_kept"):
            continue
        given = CALLS[function] | {"run_id": None}
        with pytest.raises(psycopg.Error) as caught:
            world.anybody.connection.execute(call(function, given, kinds, things))
        assert caught.value.sqlstate == "RLN03", function
    assert world.anybody.ask("select rowlock.get_event(null, 'progress')") is None
    assert world.anybody.ask("select cause from rowlock.explain(null)") == "unknown"
    worker = world.connect_again(things.worker)
    [run] = [one for one in worker.claim() if one.run_id == things.ready]
    assert worker.verdict(sleep_on(run, for_message())) == "written"


@pytest.mark.parametrize("name", ["key", "dedup", "debounce", "batch", "partition"])
def test_an_empty_text_is_called_empty(world: World, name: str) -> None:
    with pytest.raises(psycopg.Error, match=f"has a {name} that is empty; leave it out"):
        world.anybody.run(
            SQL("select rowlock.start('fulfil', {} => '')").format(Identifier(name)).as_string()
        )
