"""Crashes a run at every point at which a crash can make a difference.

What a crash leaves behind is what the database holds, so the points are the commits: right before
and right after each of them, and after each claim. A point is known by what commits there, not by
a number: commits are shared, and who shares one with whom is a matter of time.

Reads: moments of workers, histories.  Writes: nothing; the harness kills.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rowlock.client import Run
from rowlock.errors import RunFailed
from rowlock.store.laboratory import Laboratory
from rowlock.testing.moments import Mark, When
from rowlock.testing.worker import Worker
from rowlock.workflow import WorkflowCall

if TYPE_CHECKING:
    from rowlock.testing.harness import Harness

_COMMITS = (When.WRITING, When.WRITTEN)


@dataclass(frozen=True, slots=True)
class CrashReport:
    """Where a run was crashed. In words; see exhaust_crashes."""

    points: tuple[str, ...]
    """All points that were tried."""
    not_reached: tuple[str, ...]
    """Those of them that did not come again in the second run: what races went another way."""

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, slots=True)
class _Life:
    """What is compared."""

    ended: str
    history: Counter[str]
    effects: object


class _Names:
    """Names runs by where they come from: ids differ from try to try."""

    def __init__(self, lab: Laboratory) -> None:
        self._lab = lab
        self._paths: dict[UUID, str] = {}

    async def learn(self, run_ids: Sequence[UUID]) -> None:
        unknown = [run_id for run_id in run_ids if run_id not in self._paths]
        if not unknown:
            return
        origins = await self._lab.origins(unknown)
        await self.learn([o.parent_id for o in origins if o.parent_id is not None])
        for origin in origins:
            if origin.parent_id is None:
                path = origin.workflow
            else:
                path = f"{self._paths[origin.parent_id]}/{origin.parent_place}"
            self._paths[origin.id] = path

    def __getitem__(self, run_id: UUID) -> str:
        return self._paths.get(run_id, "another run")


class _Points:
    """Sees the points of a run go by; kills the worker at the one that is ``wanted``."""

    def __init__(self, wanted: str | None = None) -> None:
        self._wanted = wanted
        self._times: Counter[str] = Counter()
        self.names: _Names
        self.armed = False
        self.reached = False
        self.seen: list[str] = []
        """One for each commit and claim."""

    async def at(self, worker: Worker, when: When, marks: Sequence[Mark]) -> bool:
        if not self.armed or when not in _COMMITS:
            return False
        await self.names.learn([mark.run_id for mark in marks])
        return self._pass([f"{when} {mark} of {self.names[mark.run_id]}" for mark in marks])

    def claimed(self, worker: Worker, marks: Sequence[Mark]) -> bool:
        return self.armed and self._pass([f"{When.CLAIMED} {mark}" for mark in marks])

    def _pass(self, labels: list[str]) -> bool:
        names = []
        for label in labels:
            self._times[label] += 1
            times = self._times[label]
            names.append(label if times == 1 else f"{label} (no. {times})")
        self.seen.append(names[0])
        if self.reached or self._wanted not in names:
            return False
        self.reached = True
        return True


async def exhaust(
    another: Callable[[], Harness],
    call: Callable[[], WorkflowCall[Any]],
    *,
    prepare: Callable[[Harness], Awaitable[object] | object] | None,
    drive: Callable[[Harness, Run[Any]], Awaitable[object]] | None,
    effects: Callable[[Harness], Awaitable[object] | object] | None,
    history: bool,
    at_once: int,
) -> CrashReport:
    """See :meth:`rowlock.testing.Harness.exhaust_crashes`."""

    async def live(points: _Points) -> _Life:
        async with another() as harness:
            points.names = _Names(harness.lab)
            harness.watchers.append(points)
            if prepare is not None:
                await _whatever(prepare(harness))
            points.armed = True
            run = await harness.start(call())
            if drive is not None:
                await drive(harness, run)
            try:
                ended = f"succeeded with {await harness.result(run)!r}"
            except RunFailed as error:
                ended = f"{error.status} with {error.error_type}: {error.error_message}"
            await harness.run_until_done()
            points.armed = False
            made = None if effects is None else await _whatever(effects(harness))
            told = await _history(harness.lab, points.names) if history else Counter[str]()
            return _Life(ended, told, made)

    async def crash(point: str) -> None:
        points = _Points(point)
        try:
            found = await live(points)
        except Exception as error:
            raise AssertionError(
                f"a crash {point}: the run did not get over it: {error}"
            ) from error
        if not points.reached:
            not_reached.append(point)
        differences = _compare(expected, found)
        if differences:
            raise AssertionError("\n".join([f"a crash {point} makes a difference:", *differences]))

    calm = _Points()
    expected = await live(calm)
    tried = list(dict.fromkeys(calm.seen))
    not_reached: list[str] = []
    await _each(crash, tried, at_once)
    return CrashReport(tuple(tried), tuple(not_reached))


async def _each(
    work: Callable[[str], Awaitable[None]], points: Sequence[str], at_once: int
) -> None:
    """Some at a time, until one fails; raises the first error in the order of the points."""
    left = iter(enumerate(points))
    failed: dict[int, AssertionError] = {}

    async def some() -> None:
        for number, point in left:
            try:
                await work(point)
            except AssertionError as error:
                failed[number] = error
            if failed:
                return

    await asyncio.gather(*(some() for _ in range(at_once)))
    if failed:
        raise failed[min(failed)]


async def _whatever(given: Awaitable[object] | object) -> object:
    return await given if inspect.isawaitable(given) else given


async def _history(lab: Laboratory, names: _Names) -> Counter[str]:
    """All that is recorded, without ids, times and the order of what ran side by side."""
    ends, steps = await lab.ends(), await lab.steps()
    await names.learn([end.run_id for end in ends])
    lines = [f"{names[end.run_id]} {end.status}" for end in ends]
    for step in steps:
        how = "" if step.succeeded else " failed"
        lines.append(f"{names[step.run_id]} {step.place}: {step.kind} {step.name}{how}".rstrip())
    return Counter(lines)


def _compare(expected: _Life, found: _Life) -> list[str]:
    differences = []
    if found.ended != expected.ended:
        differences += [f"  it {found.ended}", f"  instead of: it {expected.ended}"]
    if found.effects != expected.effects:
        differences += [f"  effects: {found.effects!r}", f"  instead of: {expected.effects!r}"]
    differences += [f"  not recorded: {line}" for line in expected.history - found.history]
    differences += [f"  recorded besides: {line}" for line in found.history - expected.history]
    return differences
