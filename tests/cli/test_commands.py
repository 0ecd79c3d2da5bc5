"""`rowlock start`, `list`, `show`, `resume` and `migrate`, as scripts use them."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner

import rowlock as library
from cli.conftest import StartWorker
from cli.running import eventually, query, rowlock, rowlock_json, start, status_of
from rowlock.cli.main import rowlock as commands
from rowlock.embedded import Server
from rowlock.embedded.ports import free_port
from rowlock.store.migrate import LEVEL

NOBODY = "01980000-0000-7000-8000-000000000000"


def sums(a: int, b: int = 2) -> int:
    return a + b


@pytest.fixture
def shop(database: str) -> str:
    """A database that knows the app `shop`, with nobody who works."""
    app = library.App("shop")
    app.workflow(sums)
    with app.blocking_client(library.Settings(database_url=database)):
        return database


# --- starting


def test_a_run_is_started_and_its_result_waited_for(
    start_worker: StartWorker, database: str
) -> None:
    start_worker()
    done = rowlock("start", "sums", "--arg", "a=20", "--arg", "b=22", "--wait", database=database)
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert "run " in done.stderr

    facts = rowlock_json("start", "sums", "--arg", "a=1", "--wait", database=database)
    assert (facts["status"], facts["output"], facts["input"]) == ("succeeded", 3, {"a": 1})

    failed = rowlock("start", "fails", "--wait", database=database)
    assert failed.returncode == 1
    assert "ended as failed: ValueError: the oven is \\x1b[31mcold" in failed.stderr
    assert "Traceback" not in failed.stderr

    failed = rowlock("start", "fails", "--wait", "--json", database=database)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["type"] == "ValueError"


def test_waiting_ends_with_its_timeout_and_the_run_goes_on(shop: str) -> None:
    wait = ("--arg", "a=1", "--wait", "--timeout", "100ms")
    done = rowlock("start", "sums", *wait, database=shop)
    assert done.returncode == 124
    assert "did not finish within 0.1 s" in done.stderr
    assert "`rowlock explain " in done.stderr
    done = rowlock("start", "sums", *wait, "--json", database=shop)
    assert done.returncode == 124
    assert json.loads(done.stdout)["status"] == "ready"


def test_a_start_has_a_partition_and_a_time_to_begin_by(shop: str) -> None:
    query(shop, "update rowlock.queue set partitions = true returning name")
    run_id = start(shop, "sums", "--partition", "acme", "--start-before", "2090-01-02T03:04Z")
    facts = rowlock_json("show", run_id, database=shop)
    assert (facts["partition"], facts["start_before"][:16]) == ("acme", "2090-01-02T03:04")
    shown = rowlock("show", run_id, database=shop).stdout
    assert re.search(r"partition +acme", shown)
    refused = rowlock("start", "sums", "--start-before", "2020-01-01T00:00Z", database=shop)
    assert refused.returncode != 0
    assert "start_before that comes before it may begin" in refused.stderr


def test_a_start_is_for_a_time_or_after_a_while(shop: str) -> None:
    run_id = start(shop, "sums", "--start-at", "2090-01-02T03:04Z")
    facts = rowlock_json("show", run_id, database=shop)
    assert (facts["status"], facts["due_at"][:16]) == ("scheduled", "2090-01-02T03:04")
    both = rowlock("start", "sums", "--start-at=1h", "--delay=1h", database=shop)
    assert (both.returncode, "not both" in both.stderr) == (2, True)


def test_a_key_while_a_run_is_unfinished_or_not_due(shop: str) -> None:
    first = start(shop, "sums", "--dedup", "k")
    assert start(shop, "sums", "--dedup", "k") == first
    reject = rowlock("start", "sums", "--dedup", "k", "--on-duplicate", "reject", database=shop)
    assert reject.returncode != 0
    assert f"run {first} of sums has the dedup key k" in reject.stderr
    second = start(shop, "sums", "--dedup", "k", "--on-duplicate", "replace")
    assert (status_of(shop, first), status_of(shop, second)) == ("cancelled", "ready")

    put_off = ("--debounce", "k", "--quiet", "1h", "--most", "1d")
    third = start(shop, "sums", "--arg", "a=1", *put_off)
    assert start(shop, "sums", "--arg", "a=2", *put_off) == third
    facts = rowlock_json("show", third, database=shop)
    assert (facts["status"], facts["input"], facts["debounce"]) == ("scheduled", {"a": 2}, "k")
    for alone in (["--on-duplicate", "reject"], ["--quiet", "1h"], ["--debounce", "k"]):
        assert rowlock("start", "sums", *alone, database=shop).returncode == 2


def test_a_batch_by_its_key(shop: str) -> None:
    more = ("--batch", "k", "--size", "3", "--batch-wait", "1h")
    first = start(shop, "sums", "--arg", "a=[1]", *more)
    assert start(shop, "sums", "--arg", "a=[2]", "--batch", "k", "--batch-wait", "2h") == first
    facts = rowlock_json("show", first, database=shop)
    assert (facts["status"], facts["input"], facts["batch"]) == ("scheduled", {"a": [1, 2]}, "k")
    assert "gathers the batch k, has 2 of 3" in rowlock("explain", first, database=shop).stdout
    assert start(shop, "sums", "--arg", "a=[3]", *more) == first
    assert status_of(shop, first) == "ready"
    for alone in (["--size", "7"], ["--batch-wait", "1h"], [*more, "--size", "0"]):
        assert rowlock("start", "sums", *alone, database=shop).returncode == 2


def test_the_input_comes_from_the_line_a_file_or_stdin(shop: str, tmp_path: Path) -> None:
    (tmp_path / "july.json").write_text('{"month": 7}')
    july = f"@{tmp_path / 'july.json'}"
    ids = [
        start(shop, "report", "--input", '{"month": 7}'),
        start(shop, "report", "--input", july),
        start(shop, "report", "--input", july, "--arg", "month=8", "--arg", 'workflow="x"'),
        rowlock("start", "report", "--input", "-", database=shop, stdin='{"month": 9}').stdout,
    ]
    inputs = [rowlock_json("show", one.strip(), database=shop)["input"] for one in ids]
    assert inputs == [{"month": 7}, {"month": 7}, {"month": 8, "workflow": "x"}, {"month": 9}]


def test_what_a_start_asks_for_is_kept(shop: str) -> None:
    options = ("--key=k", "--priority=7", "--delay=1h", "--attributes", '{"customer": 42}')
    run_id = start(shop, "report", *options, "--queue=default", "--app=shop")
    run = rowlock_json("show", run_id, database=shop)
    assert (run["key"], run["priority"], run["status"]) == ("k", 7, "scheduled")
    assert run["attributes"] == {"customer": 42}
    delay = datetime.fromisoformat(run["due_at"]) - datetime.fromisoformat(run["created_at"])
    assert delay.total_seconds() == pytest.approx(3600, abs=1)
    assert rowlock_json("start", "report", "--key=k", database=shop) == {"id": run_id}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--arg", "name=Anna"], "--arg 'name=\"text\"'"),
        (["--arg", "name"], "is not NAME=JSON"),
        (["--input", "[1]"], "must be a JSON object"),
        (["--input", "{"], "not JSON"),
        (["--input", "@/no/such/file"], "No such file"),
        (["--delay", "soon"], "is not a duration"),
        (["--attributes", "7"], "must be a JSON object"),
        (["--timeout", "1s"], "--timeout goes with --wait"),
        (["--priority", "101"], "0<=x<=100"),
    ],
)
def test_a_wrong_option_is_a_usage_error(args: list[str], said: str) -> None:
    done = rowlock("start", "report", *args, database="postgresql://127.0.0.1:1/x")
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("wrong", ["nan", "inf", "1e400", "9" * 400])
@pytest.mark.parametrize(
    "args",
    [
        ("limit", "q", "--ageing"),
        ("schedule", "create", "s", "w", "--app", "shop", "--every"),
        ("schedule", "create", "s", "w", "--app", "shop", "--jitter"),
        ("schedule", "create", "s", "w", "--app", "shop", "--window"),
        ("start", "w", "--delay"),
        ("loadtest", "--seconds"),
    ],
)
def test_what_is_no_length_of_time_is_a_usage_error(args: tuple[str, ...], wrong: str) -> None:
    done = CliRunner().invoke(commands, [*args, wrong])
    assert done.exit_code == 2, done.output


def test_a_refused_start_says_what_to_do(database: str) -> None:
    done = rowlock("start", "report", database=database)
    assert done.returncode == 1
    assert "which app is meant is not clear: none that this role may use" in done.stderr
    assert "Traceback" not in done.stderr


# --- looking


def test_runs_are_listed_newest_first_by_what_they_are(shop: str) -> None:
    old = start(shop, "sums", "--key=old", "--attributes", '{"customer": 1, "vip": true}')
    new = start(shop, "report", "--delay=1h")

    def listed(*filters: str) -> list[str]:
        return [run["id"] for run in rowlock_json("list", *filters, database=shop)]

    assert listed() == [new, old]
    assert listed("--limit=1") == [new]
    assert listed("--before", new) == [old]
    assert listed("--status=scheduled") == listed("--workflow=report") == [new]
    assert listed("--key=old") == listed("--attributes", '{"customer": 1}') == [old]
    assert listed("--since=1h", "--queue=default", "--app=shop") == [new, old]
    [(second,)] = query(shop, f"select created_at::text from rowlock.runs where run_id = '{new}'")
    assert listed("--created-after", second) == [new]
    assert listed("--created-before", second) == [old]
    assert listed("--created-before=1h") == []
    both = rowlock("list", "--since=1h", "--created-after=1d", database=shop)
    assert (both.returncode, "not both" in both.stderr) == (2, True)
    assert "--created-before" in rowlock("cancel", database=shop).stderr
    assert listed("--parent", old) == []
    table = rowlock("list", database=shop).stdout.splitlines()
    assert table[0].split() == ["run", "workflow", "status", "queue", "key", "age", "took"]
    assert table[2].split()[:4] == [new, "report", "scheduled", "default"]
    assert table[3].split()[:5] == [old, "sums", "ready", "default", "old"]


def test_a_failed_run_shows_its_error_and_its_steps(
    start_worker: StartWorker, database: str
) -> None:
    start_worker()
    run_id = start(database, "fails")
    eventually(lambda: status_of(database, run_id) == "failed")
    shown = rowlock("show", run_id, database=database).stdout
    assert "Traceback" in shown
    assert "shop.py" in shown
    assert "\x1b" not in shown
    assert ["1", "1", "step", "break_down", "1"] in [
        line.split()[:5] for line in shown.splitlines()
    ]

    run = rowlock_json("show", run_id, database=database)
    assert run["created_at"].endswith("Z")
    [step] = run["steps"]
    assert (step["position"], step["place"], step["name"]) == (1, "1", "break_down")
    assert (step["status"], step["output"], step["error"]["type"]) == ("failed", None, "ValueError")


def test_a_blocked_run_says_why_and_can_be_resumed(
    start_worker: StartWorker, database: str
) -> None:
    worker = start_worker()
    run_id = start(database, "unheard_of")
    eventually(lambda: status_of(database, run_id) == "blocked")
    assert "no workflow named unheard_of" in rowlock("show", run_id, database=database).stdout
    worker.send(signal.SIGTERM)
    assert worker.exit_code() == 0

    strange = str(uuid4())
    done = rowlock("resume", strange, run_id, database=database)
    assert done.returncode == 1
    assert f"there is no run {strange}" in done.stderr
    assert done.stdout == f"resumed {run_id}\n"
    assert status_of(database, run_id) == "ready"
    again = rowlock("resume", run_id, database=database)
    assert again.returncode == 1
    assert "is ready and can't be resumed: it has not ended" in again.stderr


def test_an_unknown_run_is_an_error_without_a_traceback(shop: str) -> None:
    strange = str(uuid4())
    done = rowlock("show", strange, database=shop)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rowlock: there is no run {strange}")


# --- the database


def test_migrate_brings_the_schema_and_says_how_far_it_is(empty_database: str) -> None:
    before = rowlock("migrate", "--check", "--json", database=empty_database)
    assert before.returncode == 3
    assert json.loads(before.stdout) == {"fits": False, "level": 0, "needed": LEVEL}
    plan = rowlock_json("migrate", "--plan", database=empty_database)
    assert plan["pending"][0] == "0001_core"
    assert query(empty_database, "select to_regnamespace('rowlock')") == [(None,)]

    assert "applied 0001_core" in rowlock("migrate", database=empty_database).stdout
    assert rowlock("migrate", "--check", database=empty_database).returncode == 0
    again = rowlock_json("migrate", database=empty_database)
    assert again == {"level": LEVEL, "needed": LEVEL, "applied": []}


def test_code_that_is_too_old_for_the_database_is_told_so(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            "insert into rowlock.migration (number, minimum_level, name, checksum)"
            " values (9999, 9999, 'future', '')"
        )
    for option in ("--check", "--plan", "--json"):
        done = rowlock("migrate", option, database=database)
        assert done.returncode == 4
        assert "9999 or newer" in done.stderr


def test_a_database_without_the_schema_asks_for_migrate(empty_database: str) -> None:
    done = rowlock("list", database=empty_database)
    assert done.returncode == 3
    assert "Run `rowlock migrate`" in done.stderr


@pytest.mark.parametrize("command", [["list"], ["migrate"], ["migrate", "--check"]])
def test_an_unreachable_database_is_an_error_without_its_password(command: list[str]) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/x"
    done = rowlock(*command, database=url)
    assert (done.returncode, done.stdout) == (5, "")
    assert "refused" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_url_in_the_wrong_place_is_not_repeated_with_its_password() -> None:
    done = rowlock("list", "postgresql://me:secret@host/x")
    assert done.returncode == 2
    assert "postgresql://me:***@host/x" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["start", "add", "--key", "\udcff"],
        ["start", "add", "--input", '{"a": "\udcff"}'],
        ["start", "add", "--arg", 'a="\udcff"'],
        ["list", "--attributes", '{"a": "\udcff"}'],
        ["list", "--app", "\udcff"],
        ["send", NOBODY, "topic", '"\udcff"'],
        ["list", "--database-url", "postgresql://me:\udcff@host/x"],
    ],
)
def test_bytes_that_are_no_text_are_refused(command: list[str], database: str) -> None:
    done = rowlock(*command, database=database)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_an_event_of_no_run_is_not_called_one_that_never_came(database: str) -> None:
    done = rowlock("event", "get", NOBODY, "weight", database=database)
    assert done.returncode == 1
    assert f"there is no run {NOBODY}" in done.stderr


def test_no_database_is_a_configuration_error(server: Server) -> None:
    done = rowlock("list")
    assert done.returncode == 2
    assert "Set ROWLOCK_DATABASE_URL" in done.stderr
    given = rowlock("migrate", "--plan", "--database-url", server.url("template1"))
    assert given.returncode == 0


def test_migrate_makes_the_roles_and_says_so(database: str) -> None:
    first = rowlock_json("migrate", "--roles", database=database)
    assert set(first["roles"]) <= {
        f"rowlock_{name}" for name in ("client", "worker", "reader", "admin")
    }
    again = rowlock("migrate", "--roles", database=database)
    assert "the roles are there, with their rights" in again.stdout
    assert rowlock("migrate", "--roles", "--plan", database=database).returncode == 2
    assert query(database, "select to_regrole('rowlock_worker') is not null") == [(True,)]
