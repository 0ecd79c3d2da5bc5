"""Who may do what: every function and view of the schema, as every role.

What comes later is met here without its author's doing: it is found in the catalog, and fails until
its rights are decided (functions/zz_rights.sql) and its reach into other apps is tried (REACHES).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege, ObjectNotInPrerequisiteState
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Json

from rowlock import retention
from rowlock.errors import ConfigurationError, Refused, SchemaTooOld
from rowlock.store.migrate import LEVEL, check, migrate
from rowlock.store.roles import ROLES, make_roles
from rowlock.store.statements import FLEET
from store.estate import CLASSES, LOGINS, OWNER, PASSWORD, Estate, estate

NOT_OURS = {"RLN03", "RLP01", "RLN06", "RLF01", "RLN07"}
"""What a role is told that reaches for another app: it is not there, or not for it."""


@pytest.fixture(scope="module")
def home() -> Iterator[Estate]:
    with estate() as made:
        yield made


def functions(home: Estate) -> dict[str, tuple[str, bool]]:
    """Signature of each function of the schema: its name, and whether it is documented."""
    return {
        signature: (name, documented)
        for signature, name, documented in home.rows(
            "select p.oid::regprocedure::text, p.proname,"
            "       obj_description(p.oid, 'pg_proc') is not null"
            "  from pg_proc as p where p.pronamespace = 'rowlock'::regnamespace"
        )
    }


def rights(home: Estate) -> dict[str, set[str]]:
    return {
        name: set(roles)
        for name, roles in home.rows("select function, roles from rowlock.rights()")
    }


def readable(home: Estate) -> dict[str, set[str]]:
    return {
        name: set(roles)
        for name, roles in home.rows("select relation, roles from rowlock.readable()")
    }


def relations(home: Estate) -> list[str]:
    return [
        name
        for [name] in home.rows(
            "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
            " and relkind in ('r', 'v') order by 1"
        )
    ]


# --- every decision is made, and made once


def test_every_documented_function_and_every_view_has_its_rights_decided(home: Estate) -> None:
    known = {name for name, _ in functions(home).values()}
    public = {name for name, documented in functions(home).values() if documented}
    decided = rights(home)
    assert public - set(decided) == set(), "say in functions/zz_rights.sql who may call it"
    assert set(decided) - known == set(), "it does not exist any more"
    views = {
        name
        for [name] in home.rows(
            "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
            " and relkind = 'v'"
        )
    }
    assert views - set(readable(home)) == set(), "say in functions/zz_rights.sql who may read it"
    assert set(readable(home)) - set(relations(home)) == set()
    assert all(roles <= set(CLASSES) and roles for roles in decided.values())


def test_every_table_has_row_level_security_and_every_view_asks_its_reader(home: Estate) -> None:
    open_tables = home.rows(
        "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
        " and relkind = 'r' and not relrowsecurity order by 1"
    )
    assert open_tables == [("migration",), ("repeatable",)]
    # Without a policy nobody sees a row; whoever may read a table has one.
    without = home.rows(
        "select r.relation from rowlock.readable() as r"
        "  join pg_class as c on c.relname = r.relation and c.relkind = 'r' and c.relrowsecurity"
        "   and c.relnamespace = 'rowlock'::regnamespace"
        " where not exists (select from pg_policy as p where p.polrelid = c.oid)"
    )
    assert without == []
    owners_views = home.rows(
        "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
        " and relkind = 'v' and not coalesce('security_invoker=true' = any (reloptions), false)"
    )
    assert owners_views == []


def test_no_function_can_be_led_astray_by_a_search_path(home: Estate) -> None:
    """Bodies that were parsed when they were made need no path; all others name pg_temp, last."""
    loose = home.rows(
        "select p.oid::regprocedure::text from pg_proc as p"
        " where p.pronamespace = 'rowlock'::regnamespace and p.prosqlbody is null"
        "   and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)"
    )
    assert loose == []


def test_only_what_roles_may_call_runs_as_the_owner(home: Estate) -> None:
    definers = {
        name
        for [name] in home.rows(
            "select distinct p.proname from pg_proc as p"
            " where p.pronamespace = 'rowlock'::regnamespace and p.prosecdef"
        )
    }
    expected = home.rows("select function from rowlock.rights() where not reads")
    assert definers == {name for [name] in expected}


# --- every function and every view, as every role


@pytest.mark.parametrize("role", LOGINS)
def test_a_role_can_call_what_it_may_and_nothing_else(home: Estate, role: str) -> None:
    """With nulls for arguments: what is refused for other reasons was not for its rights."""
    decided, wrong = rights(home), []
    with home.as_(role) as connection:
        for signature, (name, _) in functions(home).items():
            types = home.rows(
                "select format_type(t.t, null)"
                "  from unnest((select proargtypes::oid[] from pg_proc"
                "                where oid = %s::regprocedure)) with ordinality as t (t, n)"
                " order by t.n",
                signature,
            )
            nulls = ", ".join(f"null::{kind}" for [kind] in types)
            refused = None
            connection.execute("begin")
            try:
                connection.execute(f"select * from rowlock.{name}({nulls}) as x".encode())
            except psycopg.Error as error:
                refused = error.sqlstate
            connection.execute("rollback")
            may = LOGINS[role] in decided.get(name, set())
            if may == (refused == InsufficientPrivilege.sqlstate):
                wrong.append((signature, refused))
    assert wrong == []


@pytest.mark.parametrize("role", LOGINS)
def test_a_role_reads_what_it_may_of_its_apps_alone(home: Estate, role: str) -> None:
    decided, wrong, seen = readable(home), [], set()
    bank = {str(run) for run in home.runs["bank"].values()} | {"bank"}
    workers = {home.workers["bank"], home.workers["bank"] + 1}
    with home.as_(role) as connection:
        for name in relations(home):
            query = SQL("select to_jsonb(x) from rowlock.{} as x").format(Identifier(name))
            try:
                found = [row for [row] in connection.execute(query)]
            except InsufficientPrivilege:
                found = None
            if (found is not None) != (LOGINS[role] in decided.get(name, set())):
                wrong.append(name)
            for row in found or []:
                seen.add(name)
                text = str(row)
                leaks = any(one in text for one in bank) or row.get("worker_id") in workers
                if leaks and role != "the_admin":
                    wrong.append(f"{name}: {text}")
    assert wrong == []
    if LOGINS[role] is not None:
        # Had they shown nothing at all, they would have shown nothing of others either.
        shown = {name for name, roles in decided.items() if LOGINS[role] in roles}
        empty = {"members"} if role == "shop_reader" else set()
        assert shown - seen - empty == set()


@pytest.mark.parametrize("role", [role for role in LOGINS if role != "the_admin"])
def test_nobody_can_write_to_a_table_himself(home: Estate, role: str) -> None:
    with home.as_(role) as connection:
        for name in relations(home):
            for verb in ("insert into {} default values", "delete from {}", "table {} for update"):
                with pytest.raises((InsufficientPrivilege, ObjectNotInPrerequisiteState)):
                    connection.execute(SQL(verb).format(Identifier("rowlock", name)))


# --- no function reaches into another app

EVERY_ID = "'00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'"
REACHES: dict[str, tuple[str, str]] = {
    # by its name: what is tried with something of the bank's, and as whom
    "start": ("shop_client", "select rowlock.start('fulfil', app => 'bank')"),
    "start_many": (
        "shop_client",
        "select rowlock.start_many('[{\"workflow\": \"fulfil\"}]', 'bank')",
    ),
    "send": ("shop_client", "select rowlock.send(%(waiting)s, 'approval')"),
    "set_event": ("shop_client", "select rowlock.set_event(%(running)s, 'progress', '2')"),
    "emit": ("shop_client", "select rowlock.emit(%(running)s, 'log')"),
    "cancel": ("shop_client", "select rowlock.cancel(%(ready)s)"),
    "show_app": ("shop_client", "select rowlock.show_app('bank', '{new}', '{new}', '{new}')"),
    "declare_queues": (
        "shop_client",
        "select rowlock.declare_queues('bank', '', '{\"new\": {\"concurrency\": 1}}', false)",
    ),
    "register_worker": (
        "shop_worker",
        "select rowlock.register_worker('bank', 'v2', 'x', 1, 1, null, interval '1 hour')",
    ),
    "heartbeat": (
        "shop_worker",
        "select rowlock.heartbeat(%(worker)s, interval '1 second', null)",
    ),
    "drain": ("shop_worker", "select rowlock.drain(%(worker)s)"),
    "leave": ("shop_worker", "select rowlock.leave(%(worker)s)"),
    "tend": ("shop_worker", "select * from rowlock.tend(1000, 0)"),
    "claim": (
        "shop_worker",
        "select * from rowlock.claim(%(worker)s, 'bank', 'v1', null, 100, true)",
    ),
    "claim_next": (
        "shop_worker",
        "select * from rowlock.claim_next(%(worker)s, 'bank', 'v1', null, null, 100, true)",
    ),
    "history": (
        "shop_worker",
        "select * from rowlock.history(array[%(running)s, %(waiting)s], '{1,1}')",
    ),
    "journal": (
        "shop_worker",
        """select * from rowlock.journal(
               %(worker)s,
               '[{"i": 0, "run": "%(running)t", "epoch": 1, "position": 9, "seconds": 1,
                  "place": "9", "name": "x"}]',
               1, false, false, '[]', '[]', '[]', '[]', '[]', '{}', false)
            where verdict <> 'gone'""",
    ),
    "journal_and_claim": (
        "shop_worker",
        """select * from rowlock.journal_and_claim(
               %(worker)s,
               '[{"i": 0, "run": "%(running)t", "epoch": 1, "position": 9, "seconds": 1,
                  "place": "9", "name": "x"}]',
               1, false, false, '[]', '[]', '[]', '[]', '[]', '{}', false, 'bank', 'v1')
            where verdict <> 'gone'""",
    ),
    "record_transaction": (
        "shop_worker",
        "select rowlock.record_transaction(%(running)s, 1, 1, '9', 9, 'x', 1, 0.1, '1')",
    ),
    "record_failed_transaction": (
        "shop_worker",
        """select * from rowlock.record_failed_transaction(
               %(running)s, 1, 1, '9', 9, 'x', 1, 0.1, '{}')""",
    ),
    "create_schedule": (
        "shop_client",
        "select rowlock.create_schedule('new', 'sort', '* * * * *', app => 'bank')",
    ),
    "update_schedule": (
        "shop_client",
        "select rowlock.update_schedule('nightly', cron => '* * * * *', app => 'bank')",
    ),
    "unset_schedule": (
        "shop_client",
        "select rowlock.unset_schedule('nightly', 'end_at', 'bank')",
    ),
    "delete_schedule": ("shop_client", "select rowlock.delete_schedule('nightly', 'bank')"),
    "trigger_schedule": ("shop_client", "select rowlock.trigger_schedule('nightly', 'bank')"),
    "look_at_schedules": (
        "shop_worker",
        "select * from rowlock.look_at_schedules('bank', 'v1', 100) where kind = 'due'",
    ),
    "schedules_to_place": (
        "shop_worker",
        # a zone's: there is none in either app
        "select 1 where not exists (select from rowlock.schedules_to_place('bank', '', 100))",
    ),
    "tick": (
        "shop_worker",
        "select rowlock.tick('bank', 'nightly', 1, now(), array[now()], now())",
    ),
    "backfill_ticks": (
        "shop_worker",
        "select rowlock.backfill_ticks('bank', 1, 1, now(), array[now()], true, null)",
    ),
    "set_schedule_aside": (
        "shop_worker",
        "select rowlock.set_schedule_aside('bank', 'nightly', 1, 'no')",
    ),
    "declare_schedules": ("shop_worker", "select rowlock.declare_schedules('bank', 'v1', '[]')"),
    "explain": (
        "shop_client",
        "select * from rowlock.explain(%(running)s) where cause <> 'unknown'",
    ),
    "explain_schedule": (
        "shop_client",
        "select * from rowlock.explain_schedule('nightly', 'bank')",
    ),
    "why_kept": (
        "shop_reader",
        "select 1 where rowlock.why_kept(%(running)s) is not null",
    ),
    "retain_plan": ("shop_reader", "select * from rowlock.retain_plan('bank')"),
    "get_event": (
        "shop_client",
        "select 1 where rowlock.get_event(%(running)s, 'progress') is not null",
    ),
    "current_version": ("shop_client", "select 1 where rowlock.current_version('bank') <> ''"),
    "my_apps": ("shop_client", "select 1 where rowlock.my_apps() <> '{shop}'"),
    "list_runs": (
        "shop_client",
        """select run_id from rowlock.list_runs('bank')
           union all select run_id from rowlock.list_runs(key => 'ready') where app = 'bank'
           union all select run_id from rowlock.list_runs(attributes => '{"of": "bank"}')""",
    ),
    "with_attributes": (
        "shop_client",
        f'select * from rowlock.with_attributes(\'{{"of": "bank"}}\', {EVERY_ID}, 10)',
    ),
    "with_key": ("shop_client", "select * from rowlock.with_key('{bank}', 'ready')"),
    "with_parent": (
        "shop_client",
        f"select * from rowlock.with_parent(%(running)s, {EVERY_ID}, 10)",
    ),
    "newest_unfinished": (
        "shop_client",
        f"""select * from rowlock.newest_unfinished(
                '{{bank}}', null, null, null, null, {EVERY_ID}, 10)""",
    ),
    "newest_ended": (
        "shop_client",
        f"select * from rowlock.newest_ended('{{bank}}', null, null, null, {EVERY_ID}, 10)",
    ),
    "newest_of_version": (
        "shop_client",
        f"select * from rowlock.newest_of_version('{{bank}}', 'v1', null, {EVERY_ID}, 10)",
    ),
    "fleet_tasks": ("shop_reader", "select * from rowlock.fleet_tasks('bank')"),
    "fleet_workers": ("shop_reader", "select * from rowlock.fleet_workers('bank')"),
    "fleet_versions": ("shop_reader", "select * from rowlock.fleet_versions('bank')"),
    "fleet_limits": ("shop_reader", "select * from rowlock.fleet_limits('bank')"),
    "fleet_rates": ("shop_reader", "select * from rowlock.fleet_rates('bank')"),
    "oldest_waits": ("shop_reader", "select * from rowlock.oldest_waits(10, 'bank')"),
}

OF_NO_APP = {
    # who listens says so for himself; what is told is that there is news of an id, not what
    *("listen", "unlisten", "tell"),
    # any worker removes for all what their apps' policies say
    *("house_due", "keep_house"),
    # of the caller's apps alone, whatever they declare
    "apply_declaration",
    # a time as an id, texts, an error
    *("id_at", "id_since", "id_until", "in_words", "refuse_unknown_names", "shown", "is_paused"),
    "rate_text",
}


def test_what_is_not_for_admins_alone_is_tried_on_another_app(home: Estate) -> None:
    tried = {name for name, roles in rights(home).items() if roles != {"admin"}} - OF_NO_APP
    assert tried == set(REACHES)


@pytest.mark.parametrize("function", REACHES)
def test_one_apps_role_cannot_touch_anothers_runs(home: Estate, function: str) -> None:
    """It is told that there is no such run, or that it may not, or sees nothing."""
    role, sql = REACHES[function]
    things: dict[str, Any] = home.runs["bank"] | {"worker": home.workers["bank"]}
    # An id within JSON can't be a parameter.
    sql = sql.replace("%(running)t", str(things["running"]))
    before = home.all_rows()
    refused, rows = None, []
    with home.as_(role) as connection:
        try:
            rows = connection.execute(sql.encode(), things).fetchall()
        except psycopg.Error as error:
            refused = error
    if refused is not None:
        assert refused.sqlstate in NOT_OURS, refused
        assert refused.diag.message_hint
    if function not in ("tend", "heartbeat", "drain", "leave"):
        assert rows == []
    after = home.all_rows()
    if function == "tend":
        # It looks at everybody's requests, as any worker does.
        del before["cancel_request"], after["cancel_request"]
    assert after == before


@pytest.mark.parametrize("function", REACHES)
def test_the_same_reaches_succeed_in_the_own_app(home: Estate, function: str) -> None:
    """Else the test above would pass for want of a right, a run or a good argument."""
    role, sql = REACHES[function]
    things: dict[str, Any] = home.runs["shop"] | {"worker": home.workers["shop"]}
    sql = sql.replace("%(running)t", str(things["running"])).replace("bank", "shop")
    with home.as_(role) as connection:
        connection.execute("begin")
        rows = connection.execute(sql.encode(), things).fetchall()
        connection.execute("rollback")
    # These answer only what is not as it should be, or what is old.
    if function not in ("journal", "journal_and_claim", "my_apps", "retain_plan"):
        assert rows


def test_a_start_cannot_hang_a_run_below_anothers(home: Estate) -> None:
    with home.as_("shop_client") as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(
            "select rowlock.start_many(jsonb_build_array(jsonb_build_object("
            "'workflow', 'fulfil', 'parent_id', %s::uuid)))",
            [home.runs["bank"]["ready"]],
        )
    assert caught.value.sqlstate == "RLV01"


def test_a_client_may_use_every_option_of_a_start_in_its_app(home: Estate) -> None:
    """Also those that cancel a run, or change what it was asked."""
    with home.as_("shop_client") as connection:
        connection.execute("begin")
        replace = "select rowlock.start('fulfil', dedup => 'k', on_duplicate => 'replace')"
        old, new = (connection.execute(replace).fetchone() for _ in range(2))
        put_off = "select rowlock.start('fulfil', debounce => 'k', quiet => '1 hour')"
        one, two = (connection.execute(put_off).fetchone() for _ in range(2))
        add = "select rowlock.start('fulfil', '{\"pages\": [1]}', batch => 'k', size => 2)"
        three, four, five = (connection.execute(add).fetchone() for _ in range(3))
        assert old is not None
        state = connection.execute("select status from rowlock.runs where run_id = %s", old)
        assert state.fetchone() == ("cancelled",)
        connection.execute("rollback")
    assert old != new
    assert one == two
    assert three == four != five


def test_a_worker_cannot_send_to_another_apps_run(home: Estate) -> None:
    """Its journal says of such a run what it says of one that never was."""
    before = home.rows("select count(*) from rowlock.message")
    with home.as_("shop_worker") as connection:
        connection.execute("begin")
        found = connection.execute(
            "select verdict from rowlock.journal(%s, %s::json, 1, true, true, '[]', '[]', '[]',"
            " '[]', '[]', '{}', false)",
            [
                home.workers["shop"],
                Json(
                    [
                        {
                            "i": 0,
                            "run": str(home.runs["shop"]["running"]),
                            "epoch": 1,
                            "position": 9,
                            "seconds": 0.1,
                            "place": "9",
                            "kind": "send",
                            "name": "approval",
                            "send": {"run": str(home.runs["bank"]["waiting"]), "value": 1},
                        }
                    ]
                ),
            ],
        ).fetchall()
        connection.execute("rollback")
    assert found == [("undeliverable",)]
    assert home.rows("select count(*) from rowlock.message") == before


def test_a_tender_gives_up_no_other_apps_runs(home: Estate) -> None:
    """Taking over is anybody's; how often, before a run is dead, is its own app's to say."""
    [[run]] = home.rows("select rowlock.start('fulfil', app => 'bank')")
    home.rows(
        "update rowlock.task set state = 'running', worker_id = 999999, epoch = 1"
        " where run_id = %s returning 1",
        run,
    )
    with home.as_("shop_worker") as connection:
        assert connection.execute("select taken_over from rowlock.tend(1000, 0)").fetchone() == (1,)
    assert home.rows("select state, epoch from rowlock.task where run_id = %s", run) == [
        ("ready", 2)
    ]
    home.rows("with x as (delete from rowlock.task where run_id = %s returning 1) table x", run)


@pytest.mark.parametrize("role", ["shop_reader", "the_admin"])
def test_exporter_and_operator_get_their_picture_of_the_fleet(home: Estate, role: str) -> None:
    with home.as_(role) as connection:
        found = connection.execute(FLEET.sql.encode(), {"app": None}).fetchone()
    assert found is not None
    fleet = FLEET.row(*found)
    apps = {row["app"] for row in json.loads(fleet.tasks)}
    assert apps == ({"shop"} if role == "shop_reader" else {"shop", "bank"})
    assert fleet.schema_level == LEVEL
    assert check(home.url_of(role)) == LEVEL


# --- who it is that calls


def test_a_role_of_one_app_need_not_name_it_and_hears_of_no_other(home: Estate) -> None:
    with home.as_("shop_client") as connection:
        connection.execute("begin")
        [run] = connection.execute("select rowlock.start('fulfil')").fetchone() or [None]
        assert connection.execute(
            "select app from rowlock.runs where run_id = %s", [run]
        ).fetchone() == ("shop",)
        connection.execute("rollback")
    with home.as_("the_admin") as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("select rowlock.start('fulfil')")
    assert caught.value.sqlstate == "RLA01"
    assert "bank, shop" in str(caught.value)


def test_set_role_counts_and_can_only_take_away(home: Estate) -> None:
    home.look.execute("grant shop_client to the_admin")
    bank = home.runs["bank"]["ready"]
    try:
        with home.as_("the_admin") as connection:
            connection.execute("begin")
            connection.execute("select rowlock.cancel(%s)", [bank])
            connection.execute("rollback")
            connection.execute("set role shop_client")
            with pytest.raises(psycopg.Error, match="there is no run"):
                connection.execute("select rowlock.cancel(%s)", [bank])
    finally:
        home.look.execute("revoke shop_client from the_admin")


def test_a_function_of_the_users_lends_its_owners_apps_to_nobody(home: Estate) -> None:
    """The wrapper may call ours; the app is asked of whoever is at the keyboard."""
    home.look.execute(
        "create function public.help_yourself() returns uuid language sql security definer"
        " return rowlock.start('fulfil', app => 'bank');"
        " alter function public.help_yourself() owner to the_admin;"
        " grant execute on function public.help_yourself() to shop_client"
    )
    with home.as_("shop_client") as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("select public.help_yourself()")
    assert caught.value.sqlstate == "RLP01"


def test_apps_are_granted_to_groups_and_taken_back(home: Estate) -> None:
    home.look.execute(
        "create role team nologin; grant rowlock_client to team; grant team to nobody"
    )
    start = "select rowlock.start('fulfil', app => 'bank')"
    with home.as_("nobody") as member, home.as_("the_admin") as admin:
        with pytest.raises(psycopg.Error, match="role nobody may not use app bank"):
            member.execute(start)
        assert admin.execute("select rowlock.grant_app('team', 'bank')").fetchone() == (True,)
        assert admin.execute("select rowlock.grant_app('team', 'bank')").fetchone() == (False,)
        member.execute("begin")
        member.execute(start)
        assert member.execute("select distinct app from rowlock.runs").fetchall() == [("bank",)]
        member.execute("rollback")
        assert admin.execute("select rowlock.revoke_app('team', 'bank')").fetchone() == (True,)
        assert admin.execute("select rowlock.revoke_app('team', 'bank')").fetchone() == (False,)
        with pytest.raises(psycopg.Error, match="role nobody may not use app bank"):
            member.execute(start)
        # null: every app there is and will be
        admin.execute("select rowlock.grant_app('team', null)")
        member.execute("begin")
        member.execute(start)
        member.execute("select rowlock.start('fulfil', app => 'to come')")
        member.execute("rollback")
        admin.execute("select rowlock.revoke_app('team', null)")
    home.look.execute("drop role team")


def test_nobody_but_an_admin_grants_an_app(home: Estate) -> None:
    for role in ("shop_client", "shop_worker", "shop_reader", "nobody"):
        with home.as_(role) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute("select rowlock.grant_app(%s, 'bank')", [role])


def test_a_caller_cannot_slip_a_type_of_his_into_a_function_of_the_owner(home: Estate) -> None:
    """A temporary schema comes first in every path that does not name it: for types, too."""
    with home.as_("shop_client") as connection:
        connection.execute("create temporary table heard (who text)")
        connection.execute(
            "create function pg_temp.hear(v pg_catalog.jsonb) returns boolean language plpgsql"
            " as $$ begin"
            "   insert into pg_temp.heard values (current_user); return true; end $$"
        )
        for kind in ("text", "jsonb", "uuid", "timestamptz"):
            check = "pg_temp.hear(pg_catalog.to_jsonb(value))"
            connection.execute(
                f"create domain pg_temp.{kind} as pg_catalog.{kind} check ({check})".encode()
            )
        connection.execute("begin")
        connection.execute("select rowlock.start('fulfil', '{}'::pg_catalog.jsonb, key => 'x')")
        connection.execute('select rowlock.start_many(\'[{"workflow": "sort", "key": "y"}]\')')
        connection.execute("select rowlock.send(%s, 'approval', '1')", [home.runs["shop"]["ready"]])
        connection.execute("select rowlock.cancel(%s)", [home.runs["shop"]["ready"]])
        connection.execute("rollback")
        # The trap itself works: were it entered, this test would fail.
        assert connection.execute("select count(*) from heard").fetchone() == (0,)
        connection.execute("select '1'::pg_temp.text")
        assert connection.execute("select who from heard").fetchall() == [("shop_client",)]


# --- making them


def test_roles_are_made_once_and_given_their_rights_again_and_again(home: Estate) -> None:
    owner = home.url_of(OWNER)
    assert make_roles(owner) == ()
    home.look.execute("revoke all on all functions in schema rowlock from rowlock_client")
    assert make_roles(owner) == ()
    with home.as_("shop_client") as connection:
        connection.execute("select rowlock.current_version('shop')")
    # A change of the functions gives them too, to what is new.
    home.look.execute("revoke all on all functions in schema rowlock from rowlock_client")
    home.look.execute("update rowlock.repeatable set checksum = 'older'")
    migrate(owner)
    with home.as_("shop_client") as connection:
        connection.execute("select rowlock.current_version('shop')")
        with pytest.raises(InsufficientPrivilege):
            connection.execute("select rowlock.retire('shop', 'v1')")


def test_eight_at_once_make_them_and_none_fails(home: Estate) -> None:
    home.look.execute("drop owned by rowlock_reader; drop role rowlock_reader")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(make_roles, [home.url_of(OWNER)] * 8))
    assert sorted(made) == [()] * 7 + [("rowlock_reader",)]
    home.look.execute("grant rowlock_reader to shop_reader")


def test_what_a_superuser_migrates_belongs_to_the_owner_all_the_same(home: Estate) -> None:
    """Else a function of his would run as him, and the owner be a stranger to it."""
    home.look.execute(
        "drop function rowlock.cancel; drop view rowlock.audit;"
        " update rowlock.repeatable set checksum = 'older'"
    )
    migrate(home.url)
    owners = home.rows(
        "select distinct pg_get_userbyid(proowner) from pg_proc"
        " where pronamespace = 'rowlock'::regnamespace"
        " union select distinct pg_get_userbyid(relowner) from pg_class"
        " where relnamespace = 'rowlock'::regnamespace"
    )
    assert owners == [(OWNER,)]
    with home.as_("shop_client") as connection, pytest.raises(psycopg.Error, match="no run"):
        connection.execute("select rowlock.cancel(%s)", [home.runs["bank"]["ready"]])


def test_a_second_database_of_the_server_finds_the_roles(home: Estate) -> None:
    home.look.execute(SQL("create database second owner {}").format(Identifier(OWNER)))
    try:
        url = make_conninfo(home.url, dbname="second", user=OWNER, password=PASSWORD)
        with pytest.raises(SchemaTooOld):
            make_roles(url)
        migrate(url)
        home.look.execute(SQL("alter role {} nocreaterole").format(Identifier(OWNER)))
        assert make_roles(url) == ()
        theirs = make_conninfo(url, user="shop_client", password=PASSWORD)
        # The right is there; the app is granted by database.
        with psycopg.connect(theirs) as connection, pytest.raises(psycopg.Error) as caught:
            connection.execute("select rowlock.start('fulfil', app => 'shop')")
        assert caught.value.sqlstate == "RLP01"
        with pytest.raises(ConfigurationError, match="must own schema rowlock"):
            make_roles(theirs)
    finally:
        home.look.execute(SQL("alter role {} createrole").format(Identifier(OWNER)))
        home.look.execute("drop database second with (force)")


def test_making_roles_wants_the_right_to_do_so_and_says_so(home: Estate) -> None:
    home.look.execute("drop owned by rowlock_reader; drop role rowlock_reader")
    try:
        home.look.execute(SQL("alter role {} nocreaterole").format(Identifier(OWNER)))
        with pytest.raises(ConfigurationError, match=r"createrole.*rowlock_reader"):
            make_roles(home.url_of(OWNER))
    finally:
        home.look.execute(SQL("alter role {} createrole").format(Identifier(OWNER)))
    assert make_roles(home.url_of(OWNER)) == ("rowlock_reader",)
    home.look.execute("grant rowlock_reader to shop_reader")
    assert len(ROLES) == len(CLASSES)


def test_who_administers_archives_and_workers_keep_house(tmp_path: Path) -> None:
    """All of it over functions of the owner: nobody else has a right on a table."""
    archive = tmp_path / "runs.jsonl"
    with estate() as home:
        for app in ("shop", "bank"):
            home.rows("select rowlock.set_retention('1 hour', 'fulfil', app => %s)", app)
        home.look.execute("update rowlock.outcome set finished_at = finished_at - interval '1 day'")
        home.look.execute("alter database estate set rowlock.test_offset = '1 day'")
        for role in ("the_admin", "shop_reader"):
            planned = retention.plan(home.url_of(role), app="shop")
            assert sum(one.runs for one in planned) == 4
        assert {one.app for one in retention.plan(home.url_of("shop_reader"))} == {"shop"}
        done = retention.retain(home.url_of("the_admin"), app="shop", archive=archive, at_most=1)
        assert done.archived == len(archive.read_text().splitlines()) == 4
        with home.as_("shop_worker") as connection:
            kept = connection.execute("select removed from rowlock.keep_house(10)").fetchall()
        assert kept == [(1,)], "as any worker does for all, lane by lane"
        for role in ("shop_client", "shop_worker"):
            with pytest.raises(Refused, match="permission denied"):
                retention.plan(home.url_of(role))


def test_an_installation_without_roles_is_its_owners_alone(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as look:
        public = look.execute(
            "select p.proname from pg_proc as p, aclexplode(p.proacl) as a"
            " where p.pronamespace = 'rowlock'::regnamespace and a.grantee = 0"
        ).fetchall()
        assert public == []
        run: UUID | None = (
            look.execute("select rowlock.start('fulfil', app => 'shop')").fetchone() or [None]
        )[0]
        assert run is not None
