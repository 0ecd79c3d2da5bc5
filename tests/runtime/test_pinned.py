"""A worker of a limited queue while a transaction elsewhere stays open: it misses nothing.

What the memory is for and what it may hide is tried in tests/store/test_pinned.py.
"""

from __future__ import annotations

import psycopg

from rowlock import App
from runtime.bench import Open, until
from workers.until import Sql

app = App("pinned")
narrow = app.queue("narrow", concurrency=5)
MANY = 2_800
DEADLINE_S = 60.0


@app.workflow(queue=narrow)
async def passes(n: int) -> int:
    return n


async def test_what_was_handed_over_says_how_to_go_on(bench: Open, sql: Sql, database: str) -> None:
    async with bench(app) as work:
        with psycopg.connect(database) as stranger:
            stranger.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            stranger.execute("select count(*) from rowlock.queue")
            await work.client.start_many([passes(n) for n in range(MANY)])
            tenure = work.process.tenure
            assert tenure is not None
            await until(lambda: tenure._claimer._memory is not None, DEADLINE_S)
            ended = sql.at_least(MANY, "select count(*) from rowlock.outcome")
            await until(ended, DEADLINE_S)
    assert sql.one("select count(*) from rowlock.outcome where status = 'succeeded'") == MANY
