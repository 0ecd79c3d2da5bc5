"""Workflows that are plain functions: the same verbs, with ``.wait()`` and ``.blocking``."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock import App
from rowlock.errors import MisplacedCall, StepFailed
from runtime.bench import Open, Way, until

app = App("plain", errors=())
log: list[str] = []
HOLD = threading.Event()


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    log.clear()
    HOLD.clear()


@app.step
async def double(n: int) -> int:
    log.append(f"double {n}")
    return 2 * n


@app.step
def triple(n: int) -> int:
    log.append(f"triple {n}")
    return 3 * n


@app.step
def fails(n: int) -> int:
    raise LookupError(f"no {n}")


@app.transaction
def tx_plain(tx: psycopg.Connection[Any], n: int) -> int:
    return n


@app.transaction
async def tx_async(tx: psycopg.AsyncConnection[Any], n: int) -> int:
    return n


@app.workflow
async def child(n: int) -> int:
    if n < 0:
        raise ValueError(f"{n} is negative")
    return n + 1


@app.workflow
def every_verb() -> list[str]:
    seen: list[str] = [
        str(double.blocking(2)),
        str(triple(2)),
        str(tx_plain(5)),
        str(tx_async.blocking(6)),
        str(app.now().wait()),
        str(app.uuid().wait()),
        str(app.random().wait()),
        str(child(1).wait()),
    ]
    app.sleep(0.02).wait()
    handle = app.start_child(child(2)).wait()
    seen.append(str(handle.result().wait()))
    seen.append(str(app.run_step("length", len, [1, 2]).wait()))
    seen.append(str(app.run_step("async one", a_function, 4).wait()))
    app.sleep(0.02).wait()
    return keep(seen)


async def a_function(n: int) -> int:
    return n


@app.step
def keep(seen: list[str]) -> list[str]:
    return seen


@app.workflow
def catches() -> list[str]:
    seen = []
    for what in ("step", "child"):
        try:
            fails(1) if what == "step" else child(-1).wait()
        except (LookupError, ValueError) as error:
            seen.append(f"{type(error).__name__} {error}")
        app.sleep(0.02).wait()
    return seen


@app.workflow
def raises() -> None:
    app.sleep(0.02).wait()
    raise KeyError("out of a thread")


@app.workflow
def exits() -> None:
    raise SystemExit("out of a thread")


@app.workflow
def stops() -> None:
    raise StopIteration("out of a thread")


@app.workflow
def computes() -> int:
    """Holds its thread for a while: the run is not quiet then, and is not put to sleep."""
    first = triple(1)
    time.sleep(0.1)
    return first + triple(2)


@app.workflow
def misuses(what: str) -> str:
    try:
        match what:
            case "await":
                asyncio.run(_awaits())
            case "async step":
                double(1)  # type: ignore[unused-coroutine]
            case "async transaction":
                tx_async(1)  # type: ignore[unused-coroutine]
    except MisplacedCall as error:
        return str(error)
    return "nothing was refused"


async def _awaits() -> None:
    await app.sleep(0)


@app.workflow
def holds() -> str:
    HOLD.wait(10)
    log.append("computed")
    return str(triple(1))


@app.workflow
async def beside() -> list[int]:
    return list(await asyncio.gather(*(waiter() for _ in range(5))))


@app.workflow
def waiter() -> int:
    app.sleep(0.02).wait()
    return 1


async def test_every_verb_works_and_a_replay_sees_the_same(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            log.clear()
            run = None
            async with work.living(way):
                run = await work.start(every_verb())
                seen = await run.result(30)
            assert seen[:4] == ["4", "6", "5", "6"]
            assert datetime.fromisoformat(seen[4])
            assert UUID(seen[5])
            assert 0 <= float(seen[6]) < 1
            assert seen[7:] == ["2", "3", "2", "4"]
            if way is not Way.HANDED_BACK:
                assert log == ["double 2", "triple 2"]
            recorded = [s.place for s in await run.steps()]
            assert recorded == [str(n) for n in range(1, len(recorded) + 1)]


async def test_errors_are_caught_by_type_live_and_on_replay(bench: Open) -> None:
    async with bench(app) as work:
        wanted = ["LookupError no 1", "ValueError -1 is negative"]
        assert await work.every_way(catches) == wanted


@pytest.mark.parametrize("way", [Way.LOADED, Way.UNLOADED])
async def test_what_the_function_raises_fails_the_run(bench: Open, way: Way) -> None:
    async with bench(app, way=way) as work:
        error = await work.error(raises())
        assert isinstance(error, KeyError)
        assert error.args == ("out of a thread",)
        for flow in (exits, stops):
            assert isinstance(await work.error(flow()), (StepFailed, RuntimeError))
        assert await work.result(computes()) == 9


async def test_a_run_that_computes_is_not_put_to_sleep(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(computes())
        assert await run.result(20) == 9
        assert work.sql.one("select epoch from rowlock.outcome") == 1  # never left this worker
    assert log == ["triple 1", "triple 2"]


async def test_the_async_way_is_refused_with_the_sync_one(bench: Open) -> None:
    async with bench(app) as work:
        assert "use `.wait()`" in await work.result(misuses("await"))
        assert "double.blocking(" in await work.result(misuses("async step"))
        assert "tx_async.blocking(" in await work.result(misuses("async transaction"))


async def test_a_thread_that_computes_while_its_run_is_handed_back_is_stopped_at_its_next_call(
    bench: Open,
) -> None:
    async with bench(app) as work:
        run = await work.start(holds())
        await until(lambda: len(work.loaded()) == 1)
        await asyncio.sleep(0.05)
        work.loaded()[0].release()
        HOLD.set()
        assert await run.result(20) == "3"
    assert log == ["computed", "computed", "triple 1"]


async def test_sync_runs_do_not_hold_each_other_up(bench: Open) -> None:
    async with bench(app, slots=3) as work:
        assert await work.result(beside()) == [1] * 5
