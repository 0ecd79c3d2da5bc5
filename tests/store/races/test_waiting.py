"""The hammers' watcher finds a worker that waits for a caller, and nothing else."""

from __future__ import annotations

import psycopg
import pytest

from store.races.sessions import World
from store.races.waiting import is_caller, is_worker, waiting_for_callers

HOLD = "select from rowlock.run for update"


def test_a_worker_that_waits_for_a_sleeping_caller_is_seen(world: World) -> None:
    world.anybody.start()
    caller, worker = world.session("caller").begin(), world.session("worker")
    is_caller(caller)
    is_worker(worker)
    caller.run(HOLD)
    waiting = worker.go(lambda: worker.run(HOLD))
    assert waiting.waits()
    assert waiting_for_callers(world.anybody) == set(), "a caller that does not sleep is at work"
    sleeping = caller.go(lambda: caller.run("select pg_sleep(60)"))
    seen: set[str] = set()
    while not seen:
        seen = waiting_for_callers(world.anybody)
    assert seen == {HOLD}
    world.anybody.run("select pg_cancel_backend(%s)", caller.pid)
    with pytest.raises(psycopg.errors.QueryCanceled):
        sleeping.result()
    caller.rollback()
    waiting.result()
    assert waiting_for_callers(world.anybody) == set()
