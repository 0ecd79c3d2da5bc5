"""Code that does not fit the history blocks the run; nothing is executed until it fits again."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rowlock import App
from runtime.bench import Bench, Open

log: list[str] = []
now: dict[str, str] = {}
"""What the code is at the moment: tests change it while a run sleeps."""


def build(result: type = int) -> tuple[App, Any]:
    app = App("changing")

    async def note(what: int) -> Any:
        log.append(f"note {what}")
        return what

    note.__annotations__ |= {"return": result, "what": "int"}
    step = app.step(note)

    @app.step
    async def other(what: int) -> int:
        log.append(f"other {what}")
        return what

    @app.step
    def plain(what: int) -> int:
        return what

    @app.workflow
    async def child() -> int:
        return 1

    async def original() -> None:
        await step(1)
        await asyncio.gather(step(2), step(3))
        await app.sleep(0.1)

    async def other_name() -> None:
        await other(1)
        await asyncio.gather(step(2), step(3))
        await app.sleep(0.1)

    async def other_kind() -> None:
        await app.uuid()
        await asyncio.gather(step(2), step(3))
        await app.sleep(0.1)

    async def child_instead() -> None:
        await child()
        await asyncio.gather(step(2), step(3))
        await app.sleep(0.1)

    async def fewer() -> None:
        await step(1)
        await asyncio.create_task(step(2))
        await app.sleep(0.1)

    async def returns_early() -> None:
        await step(1)

    async def raises_early() -> None:
        await step(1)
        raise ValueError("a new bug")

    async def one_more_before() -> None:
        await other(0)
        await original()

    async def one_more_between() -> None:
        await step(1)
        await step(11)
        await asyncio.gather(step(2), step(3))
        await app.sleep(0.1)

    async def no_branches() -> None:
        await step(1)
        await step(2)
        await step(3)
        await app.sleep(0.1)

    async def waits_for_another() -> None:
        await step(1)
        await asyncio.Event().wait()

    async def fails_in_a_misfit() -> None:
        try:
            await other(1)
        except BaseException:
            log.append("caught")
        await step(5)

    codes: dict[str, Any] = {
        code.__name__: code
        for code in (
            *(original, other_name, other_kind, child_instead, fewer, returns_early),
            *(raises_early, one_more_before, one_more_between, no_branches),
            *(waits_for_another, fails_in_a_misfit),
        )
    }

    @app.workflow
    async def flow() -> str:
        await codes[now["code"]]()
        await step(4)
        await app.sleep(0.02)
        return now["code"]

    return app, flow


MISFITS = {
    "other_name": ("1", "step note", "step other"),
    "other_kind": ("1", "step note", "uuid"),
    "child_instead": ("1", "step note", "child child"),
    "fewer": ("3.1", "step note", "a wait for sleep at 3"),
    "returns_early": ("2.1", "step note", "a wait for step note at 2"),
    "raises_early": ("2.1", "step note", "the end of the workflow"),
    "one_more_before": ("1", "step note", "step other"),
    "one_more_between": ("2.1", "step note", "a wait for step note at 2"),
    "no_branches": ("2.1", "step note", "a wait for step note at 2"),
    "waits_for_another": ("2.1", "step note", "no such call"),
    "fails_in_a_misfit": ("1", "step note", "step other"),
}


@pytest.fixture(autouse=True)
def original_code() -> None:
    log.clear()
    now["code"] = "original"


async def asleep(work: Bench, flow: Any) -> Any:
    """A run of the original code that sleeps, its three notes recorded."""
    run = await work.start(flow())
    async with asyncio.timeout(10):
        while len(await run.steps()) < 3 or await run.status() != "waiting":
            await asyncio.sleep(0.005)
    return run


@pytest.mark.parametrize("code", MISFITS)
async def test_the_run_is_blocked_with_place_expected_and_found_by(bench: Open, code: str) -> None:
    app, flow = build()
    noise = ("does not fit its history",)
    async with bench(app, noise=noise) as work:
        run = await asleep(work, flow)
        executed = [line for line in log if line != "caught"]
        now["code"] = code
        await work.status(run, "blocked")
        reason = (await run.info()).reason
        assert reason is not None
        found = tuple(reason[name] for name in ("place", "expected", "found"))
        assert found == MISFITS[code]
        assert reason["kind"] == "nondeterminism"
        # The call that does not fit, else the workflow; and where the step is that was expected.
        for line in (reason["line"], reason["expected_line"]):
            assert Path(line.rpartition(":")[0]).name == Path(__file__).name
        assert [line for line in log if line != "caught"] == executed  # nothing new was begun
        assert work.sql.one("select count(*) from rowlock.run") == 1
        now["code"] = "original"
        await run.resume()
        assert await run.result(20) == "original"
        assert sorted(log)[-4:] == ["note 1", "note 2", "note 3", "note 4"]


async def test_a_recorded_value_that_does_not_load_as_the_new_type_blocks(bench: Open) -> None:
    app, flow = build(int)
    changed, _ = build(dict)
    open_bench = partial(bench, noise=("does not fit its history",))
    async with open_bench(app) as work:
        run = await asleep(work, flow)
        work.process.drain()  # before it wakes
        work.leftovers |= {"task", "wait"}
    async with open_bench(changed) as work:
        run = work.client.run(run.id)
        await work.status(run, "blocked")
        reason = (await run.info()).reason
        assert reason is not None
        assert reason["place"] == "1"
        assert reason["expected"] == "the result of step note as recorded"
        assert "expected `object`" in reason["found"].lower()
        work.leftovers |= {"task", "wait"}
    async with open_bench(app) as work:
        run = work.client.run(run.id)
        await run.resume()
        assert await run.result(20) == "original"


async def test_calls_after_what_is_recorded_may_change(bench: Open) -> None:
    app, flow = build()
    async with bench(app) as work:
        run = await asleep(work, flow)
        now["code"] = "original"
        assert await run.result(20) == "original"
