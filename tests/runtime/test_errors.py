"""What fails: which error the code sees, live and on replay, and what is kept of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rowlock import App
from rowlock.errors import RunFailed, StepFailed
from runtime.bench import Open, Way


class SoldOut(Exception):
    """The app knows it."""

    def __init__(self, item: str, left: int) -> None:
        self.item = item
        self.left = left
        super().__init__(item, left)


class Unlisted(Exception):
    """The app does not."""


app = App("errors", errors=[SoldOut])


@app.step
async def sells(what: str) -> None:
    try:
        match what:
            case "known":
                raise SoldOut("tea", 2)
            case "unknown":
                raise Unlisted("who is this")
            case "builtin":
                empty: dict[str, str] = {}
                empty["missing"]
            case "group":
                raise ExceptionGroup("both", [SoldOut("tea", 1), ValueError("and this")])
    except KeyError as error:
        raise ValueError("because of it") from error


@app.workflow
async def sees(what: str) -> list[Any]:
    seen: list[Any] = []
    try:
        await sells(what)
    except ExceptionGroup as group:
        seen += [group.message, *(repr(error) for error in group.exceptions)]
    except Exception as error:
        seen += [type(error).__name__, str(error), sorted(vars(error))]
        seen.append(repr(error.__cause__).split("(")[0])
        if isinstance(error, StepFailed):
            seen += [error.step, error.error_type, "raise Unlisted" in error.error_traceback]
    kept = await keep(seen)
    await app.sleep(0.02)
    assert kept == seen, (kept, seen)
    return kept


@app.step
async def keep(seen: list[Any]) -> list[Any]:
    return seen


@app.workflow
async def lets_out(what: str) -> None:
    await app.sleep(0.02)
    await sells(what)


@app.workflow
async def parent(what: str) -> list[str]:
    seen = []
    try:
        await lets_out(what)
    except Exception as error:
        seen = [type(error).__name__, str(error)]
        if isinstance(error, RunFailed):
            facts = "Unlisted: who is this" in error.error_message
            seen = [type(error).__name__, error.workflow, error.status, str(facts)]
    kept = await keep(seen)
    await app.sleep(0.02)
    assert kept == seen, (kept, seen)
    return [str(one) for one in kept]


@app.workflow
async def groups() -> list[str]:
    seen: list[str] = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sells("known"))
            group.create_task(sells("builtin"))
            await app.sleep(0)
    except* SoldOut as sold:
        seen += [str(error) for error in sold.exceptions]
    except* ValueError as other:
        seen += [str(error) for error in other.exceptions]
    await app.sleep(0.02)
    return sorted(seen)


@app.workflow
async def never_looks() -> str:
    """An error in a branch that nobody awaits is told to the log, as asyncio does."""
    task = asyncio.create_task(sells("known"))
    await asyncio.wait([task])
    return "fine"


SEEN = {
    "known": ["SoldOut", "('tea', 2)", ["item", "left"], "RecordedTraceback"],
    "builtin": ["ValueError", "because of it", [], "KeyError"],
    "group": ["both", "SoldOut('tea', 1)", "ValueError('and this')"],
}


@pytest.mark.parametrize("what", SEEN)
async def test_listed_and_builtin_errors_come_back_as_themselves(bench: Open, what: str) -> None:
    async with bench(app) as work:
        assert await work.every_way(lambda: sees(what)) == SEEN[what]


async def test_other_errors_come_back_as_step_failed_with_the_facts(bench: Open) -> None:
    async with bench(app) as work:
        kind, text, _, cause, *facts = await work.every_way(lambda: sees("unknown"))
        assert (kind, cause) == ("StepFailed", "RecordedTraceback")
        assert text.startswith("step sells failed: ")
        assert text.endswith("Unlisted: who is this")
        assert facts[0] == "step sells"
        assert facts[1].endswith("Unlisted")
        assert facts[2] is True


async def test_a_failed_run_keeps_type_message_cause_and_traceback(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(lets_out("builtin"))
        error = await work.error_of(run)
        assert isinstance(error, ValueError)
        assert isinstance(error.__cause__, KeyError)
        info = await run.info()
        assert info.error is not None
        told = str(info.error)
        assert "because of it" in told
        assert "missing" in told
        assert "await sells(what)" in told  # where the workflow stood, and where the step did
        assert 'empty["missing"]' in told


async def test_a_childs_error_is_raised_in_its_parent(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(lambda: parent("known")) == ["SoldOut", "('tea', 2)"]
        assert await work.every_way(lambda: parent("builtin")) == ["ValueError", "because of it"]
        wanted = ["RunFailed", "lets_out", "failed", "True"]
        assert await work.every_way(lambda: parent("unknown")) == wanted


async def test_errors_of_a_group_are_split_by_type(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result_when(Way.LOADED, groups()) in (
            ["('tea', 2)"],
            ["('tea', 2)", "because of it"],
            ["because of it"],
        )


async def test_an_error_that_nobody_looks_at_is_logged(
    bench: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(app, noise=("exception was never retrieved",)) as work:
        assert await work.result(never_looks()) == "fine"
