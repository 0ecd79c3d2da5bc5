"""The programs in other languages do what they say, on a real worker and a real database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Self
from urllib.parse import urlencode, urlsplit

import pytest

from languages.building import EXAMPLES, LANGUAGES, Language, built
from workers.process import Worker
from workers.until import Sql, until

# On a fresh machine they are built first, which also fetches what they depend on.
pytestmark = pytest.mark.timeout(900)

PATIENCE_S = 60.0
NEVER_S = 100_000.0
OFTEN_S = 0.1

SAID = """\
order-1: rolled back
  what is left of it: 0 orders, 0 runs
order-2: placed
  it costs 59.70
order-2: succeeded, parcel-2-2412, approved by Grace
refused with RLS02: run <id> has ended (succeeded) and can't be sent anything
  Nothing was changed. rowlock.resume, retry, rewind or fork let an ended run go on.
order-3: placed
order-4: placed
order-5: placed
a page of failed runs:
  order-5: teapot is sold out
  order-4: teapot is sold out
a page of failed runs:
  order-3: teapot is sold out
order-6: placed
order-6: cancelled, Ada wants tea
"""

RECORDED = """
select r.key, r.status, r.input -> 'order' ->> 'deliver_on', r.attributes,
       (select array_agg(m.value ->> 'by') from rowlock.messages as m where m.run_id = r.run_id)
  from rowlock.runs as r
 where r.app = 'shop' and r.workflow = 'fulfil'
 order by r.run_id"""

# The connections whose last statement says that they listen.
LISTENERS = """
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid()
   and query ilike '%rowlock.listen(%'"""


@pytest.fixture(params=LANGUAGES, ids=str)
def language(request: pytest.FixtureRequest) -> Language:
    """Each of them, if its tools are on this machine; its program is built."""
    return ready(request.param)


@pytest.fixture
def sql(database: str) -> Iterator[Sql]:
    """The test's own connection."""
    look = Sql(database)
    yield look
    look.close()


def ready(language: Language) -> Language:
    if language.missing_tools:
        pytest.skip(f"{' and '.join(language.missing_tools)} not on this machine")
    built(language)
    return language


class Program:
    """One of the programs, from its start to its end."""

    def __init__(self, language: Language, database: str, look_every_s: float) -> None:
        url = urlsplit(database)
        user = urlencode({"user": url.username, "password": url.password})
        self._process = subprocess.Popen(
            language.start(),
            cwd=built(language),
            env={
                **os.environ,
                "ROWLOCK_DATABASE_URL": database,
                "JDBC_DATABASE_URL": f"jdbc:postgresql://{url.hostname}:{url.port}{url.path}?{user}",
                "LOOK_EVERY_SECONDS": str(look_every_s),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self) -> tuple[str, str]:
        """Its output and its errors, when it has ended well; `<id>` stands for ids."""
        output, errors = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0, output + errors
        return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", output), errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            output, errors = self._process.communicate()
            if kind is not None:
                sys.stderr.write(f"--- what the program said\n{output}{errors}\n")


def worker(database: str) -> Worker:
    """Of shop.py."""
    return Worker(database, "shop:app", environment={"PYTHONPATH": str(EXAMPLES)})


def leases_of(count: int, sql: Sql, but: frozenset[datetime] = frozenset()) -> frozenset[datetime]:
    """Until when so many listen, once each of them has said so anew; else nothing."""
    leases = frozenset(end for (end,) in sql("select until from rowlock.listener"))
    return leases if len(leases) == count and not leases & but else frozenset()


def test_it_is_told_and_looks_when_it_has_begun_to_listen(
    language: Language, database: str, sql: Sql
) -> None:
    """It would look again in a day: whatever it learns it was told."""
    with ExitStack() as stack:
        sql("begin")
        sql("lock table rowlock.listener in exclusive mode")
        look = Sql(database)
        stack.callback(look.close)
        program = stack.enter_context(Program(language, database, look_every_s=NEVER_S))
        until(lambda: look(f"select pid {LISTENERS} and wait_event_type = 'Lock'"))
        until(lambda: look("select 1 from rowlock.runs where key = 'order-2'"))
        stack.enter_context(worker(database))
        until(lambda: look("select 1 from rowlock.events where name = 'quote'"))
        sql("commit")  # of this event nobody told
        output, errors = program.said()
    assert output == SAID
    assert errors == ""
    assert sql("select number from shop_order order by number") == [(n,) for n in range(2, 7)]
    assert sql(RECORDED) == [
        ("order-2", "succeeded", "2026-12-24", {"customer": "Ada"}, ["Grace"]),
        *((f"order-{n}", "failed", "2026-12-24", {"customer": "Ada"}, None) for n in (3, 4, 5)),
        ("order-6", "cancelled", "2026-12-24", {"customer": "Ada"}, None),
    ]
    assert sql("select * from rowlock.listener") == []


def test_it_looks_where_it_may_not_listen(language: Language, database: str, sql: Sql) -> None:
    sql("drop function rowlock.listen(uuid, interval)")
    with worker(database), Program(language, database, look_every_s=OFTEN_S) as program:
        output, errors = program.said()
    assert output == SAID
    assert "looking only, not listening" in errors


def test_who_waits_long_goes_on_listening(database: str, sql: Sql) -> None:
    """All of them at once: when their connections are cut, and for longer than a lease."""
    with ExitStack() as stack:
        programs = [
            stack.enter_context(Program(ready(language), database, look_every_s=NEVER_S))
            for language in LANGUAGES
        ]
        leases = until(lambda: leases_of(len(programs), sql))
        cut = sql(f"select pg_terminate_backend(pid) {LISTENERS}")
        assert len(cut) == len(programs)
        again = until(lambda: leases_of(len(programs), sql, but=leases))
        until(lambda: leases_of(len(programs), sql, but=again))
        stack.enter_context(worker(database))
        for program in programs:
            output, errors = program.said()
            assert "succeeded" in output
            assert "cancelled, Ada wants tea" in output
            assert "connection" in errors
    assert sql("select * from rowlock.listener") == []
