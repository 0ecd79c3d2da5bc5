"""`rowlock doctor`, as people and scripts run it; what it finds is tested in tests/doctor."""

from __future__ import annotations

import json
import re

import psycopg

from cli.running import query, rowlock
from rowlock.embedded.ports import free_port


def test_every_check_is_a_line_and_its_remedy_another(database: str) -> None:
    done = rowlock("doctor", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✓ server        PostgreSQL ")
    [number] = [n for n, line in enumerate(lines) if line.startswith("! idle timeout  ")]
    assert lines[number + 1].startswith("                → alter database … set ")
    assert re.fullmatch(r"23 ok, 1 warn", lines[-1])


def test_a_failure_is_told_by_the_exit_code(database: str) -> None:
    query(database, "select rowlock.start('fulfil', app => 'shop')")
    query(
        database,
        "update rowlock.task set due_at = now() - interval '1 hour', queue = E'q\\x1b[2J'"
        " returning 1",
    )
    done = rowlock("doctor", database=database)
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("✗")]
    assert "1 run in queue q\\x1b[2J of app shop" in line
    assert "\x1b" not in done.stdout

    written = rowlock("doctor", "--json", database=database)
    assert written.returncode == 1
    facts = json.loads(written.stdout)
    assert all(one.keys() == {"check", "state", "found", "remedy", "facts"} for one in facts)
    [bad] = [one for one in facts if one["state"] == "fail"]
    assert (bad["check"], bad["facts"]["unserved"][0]["queue"]) == ("unserved", "q\x1b[2J")
    assert {one["state"] for one in facts} == {"ok", "warn", "fail"}


def test_what_is_long_can_be_said(database: str) -> None:
    with psycopg.connect(database) as stranger:
        stranger.execute("set transaction isolation level repeatable read")
        stranger.execute("select 1")
        assert "! transactions" not in rowlock("doctor", database=database).stdout
        short = rowlock("doctor", "--long=0s", database=database)
        assert "! transactions" in short.stdout
        assert short.returncode == 0


def test_no_database_is_a_finding_too() -> None:
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/x"
    done = rowlock("doctor", "--json", database=url)
    assert done.returncode == 1
    [found] = json.loads(done.stdout)
    assert (found["check"], found["state"]) == ("server", "fail")
    assert "secret" not in done.stdout + done.stderr
    assert rowlock("doctor").returncode == 2
