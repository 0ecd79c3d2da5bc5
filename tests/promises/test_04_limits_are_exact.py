"""Promise 4: at no instant do more runs hold a claim than a limit says, in no window more begin."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from rowlock import BlockingClient
from store.limit_spy import FULLEST_WINDOW, SPY
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(4)

WORKERS = 3
TENANTS = 4
LIMIT = "select rowlock.set_limit('default', app => 'sample', {})"


@pytest.fixture
def spied(sql: Sql) -> Sql:
    sql.connection.execute(SPY.encode())
    return sql


def in_partitions(sql: Sql) -> None:
    for table, key in (("run", "id"), ("task", "run_id")):
        sql(
            f"update rowlock.{table} as x set partition = 't' || y.n % {TENANTS} from ("
            " select id, row_number() over (order by id) as n from rowlock.run) as y"
            f" where x.{key} = y.id"
        )


def kill_now_and_then(database: str, busy: Callable[[], bool]) -> int:
    """Workers until nothing is left to do; one after the other is killed and replaced."""
    kills = 0
    chance = random.Random(4)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(database, lease_s=1.0)) for _ in range(WORKERS)]
        pause = threading.Event()
        while busy():
            pause.wait(chance.uniform(0.5, 1.5))
            if kills < 4:
                chance.choice(workers).kill()
                kills += 1
                workers = [one for one in workers if one.is_alive]
                workers.append(stack.enter_context(Worker(database, lease_s=1.0)))
    return kills


def watched(database: str, over: threading.Event) -> int:
    """The highest count ever seen from outside; the spy sees each claim from within."""
    look, highest = Sql(database), 0
    while not over.wait(0.005):
        highest = max(
            highest, look.one("select count(*) from rowlock.task where state = 'running'")
        )
    look.close()
    return highest


def test_no_more_runs_hold_a_claim_than_the_limits_say(
    database: str, client: BlockingClient, spied: Sql
) -> None:
    spied(LIMIT.format("concurrency => 5, partitions => true, partition_concurrency => 2"))
    runs = client.start_many([sample.many_steps(f"r{n}", 2, 0.02) for n in range(150)])
    in_partitions(spied)
    over = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watched, database, over)
        kills = kill_now_and_then(database, lambda: spied.one("select count(*) from rowlock.task"))
        over.set()
        highest = watching.result(60)
    assert [run.result(timeout=60) for run in runs] == [2] * 150
    assert spied("select * from over_limit") == []
    assert 1 <= highest <= 5
    assert kills >= 1


def test_no_window_holds_more_first_claims_than_the_rate(
    database: str, client: BlockingClient, spied: Sql
) -> None:
    spied(LIMIT.format("rate => '30/s', partitions => true, partition_rate => '12/s'"))
    runs = client.start_many([sample.many_steps(f"r{n}", 1, 0.01) for n in range(150)])
    in_partitions(spied)
    kill_now_and_then(database, lambda: spied.one("select count(*) from rowlock.task"))
    assert [run.result(timeout=60) for run in runs] == [1] * 150
    fullest = spied.one(FULLEST_WINDOW, "1 second", False, "default")
    of_a_tenant = spied.one(FULLEST_WINDOW, "1 second", True, "default")
    assert 1 <= fullest <= 30
    assert 1 <= of_a_tenant <= 12


def test_a_limit_of_one_is_one_at_a_time_and_wastes_no_time(
    database: str, client: BlockingClient, spied: Sql
) -> None:
    """Whoever finishes looks at once: with a poll of ten minutes nobody else would."""
    spied(LIMIT.format("concurrency => 1"))
    runs = client.start_many([sample.many_steps(f"r{n}", 1, 0.0) for n in range(30)])
    with Worker(database, poll_s=600.0):
        assert [run.result(timeout=60) for run in runs] == [1] * 30
    assert spied("select * from over_limit") == []


def test_a_rate_is_used_as_soon_as_it_is_free(
    database: str, client: BlockingClient, spied: Sql
) -> None:
    spied(LIMIT.format("rate => '10/s'"))
    runs = client.start_many([sample.many_steps(f"r{n}", 1, 0.0) for n in range(30)])
    with Worker(database, poll_s=600.0):
        assert [run.result(timeout=60) for run in runs] == [1] * 30
    assert until(lambda: spied.one(FULLEST_WINDOW, "1 second", False, "default")) <= 10
