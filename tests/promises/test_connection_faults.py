"""Postgres lost and found again, connections cut in mid-commit: nothing lost, nothing doubled."""

from __future__ import annotations

import time

import pytest

import postgres
from rowlock import Settings
from rowlock.store.migrate import migrate
from workers import checks, sample
from workers.process import Worker
from workers.proxy import Proxy
from workers.until import Sql, until

pytestmark = [pytest.mark.promise(1), pytest.mark.promise(2), pytest.mark.promise(3)]

BOOKED_ONCE = "select run, n, count(*) from ledger group by run, n having count(*) > 1"


@pytest.mark.parametrize("how", ["immediate shutdown", "kill -9"])
def test_postgres_dies_under_load_and_comes_back(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres.running_server() as server:
        url = server.url()
        migrate(url)
        monkeypatch.setenv("TRACE_URL", url)
        sql = Sql(url)
        sql(sample.SCHEMA)
        with sample.app.blocking_client(Settings(database_url=url)) as client:
            runs = client.start_many([sample.mixed(f"r{n}", n) for n in range(60)])
            with Worker(url, lease_s=4), Worker(url, lease_s=4):
                until(lambda: sql.one("select count(*) from ledger") >= 30)
                for _ in range(2):
                    sql.close()
                    if how == "kill -9":
                        server.kill()
                        server.start()
                    else:
                        server.restart_immediately()
                    sql = Sql(url)
                    moved = "select (select count(*) from rowlock.step) + (select 1000 * count(*)"
                    moved += " from rowlock.outcome)"
                    until(sql.at_least(min(sql.one(moved) + 20, 60_000), moved))
                for run in runs:
                    run.result(timeout=90)
        assert sql(BOOKED_ONCE) == []
        assert sql.one("select count(*) from ledger") == 180
        assert checks.broken(url) == {}
        sql.close()


def test_connections_cut_in_the_middle_of_commits_lose_and_double_nothing(
    database: str, sql: Sql
) -> None:
    with (
        Proxy(database) as proxy,
        sample.app.blocking_client(Settings(database_url=database)) as client,
    ):
        runs = client.start_many([sample.mixed(f"r{n}", n) for n in range(60)])
        proxy.cut_commits(0.03)
        with Worker(proxy.url, lease_s=4), Worker(proxy.url, lease_s=4):
            until(lambda: proxy.cuts >= 15 or sql.one("select count(*) from rowlock.outcome") == 60)
            proxy.cut_commits(0.0)
            for run in runs:
                run.result(timeout=90)
        assert proxy.cuts >= 5
    assert sql(BOOKED_ONCE) == []
    assert sql.one("select count(*) from ledger") == 180


def test_a_worker_that_is_cut_off_past_its_lease_begins_anew(database: str, sql: Sql) -> None:
    with (
        Proxy(database) as proxy,
        sample.app.blocking_client(Settings(database_url=database)) as client,
    ):
        run = client.start(sample.many_steps("r", 60, 0.05))
        with Worker(proxy.url, lease_s=2) as cut_off:
            until(lambda: sql.one("select count(*) from rowlock.step") >= 3)
            proxy.refuse(True)
            until(lambda: "no lease" in cut_off.log)
            recorded = sql.one("select count(*) from rowlock.step")
            time.sleep(0.3)  # it has stopped: nothing more may come
            assert sql.one("select count(*) from rowlock.step") == recorded
            proxy.refuse(False)
            assert run.result(timeout=60) == 60
            assert cut_off.is_alive
