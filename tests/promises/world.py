"""The world in which programs run: workers in this process or in others, and what happens to them.

Runs are handed back, leases expire while their worker works on, connections are cut, workers are
drained or killed; runs are cancelled, told things, copied, done again. All by a seed, as far as a
race can be.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg

from promises import programs
from promises.judge import Judge
from promises.programs import Program, app, call_of, seen
from rowlock import Client, Run, Settings
from rowlock.errors import Refused
from rowlock.runtime import execution
from rowlock.runtime.process import WorkerProcess
from rowlock.runtime.tenure import WorkerOptions
from workers import checks
from workers.process import Worker
from workers.until import Sql

WORKERS = 2
DEADLINE_S = 150.0
SLOW_S = 30.0
GRACES_S = (0.0, 0.01, 0.1, 0.4)
IN_MEMORY_S = (0.002, 0.02, 1.0)
"""Of a worker for good: a timer that was begun in memory must be waited for there."""

AT_WORK = """
select count(*) from pg_stat_activity
 where datname = current_database() and application_name like 'rowlock %' and state <> 'idle'"""
"""Statements under way. Asked before what is undone: the start of a child with a key goes on for a
moment when its run has given it up and ended (a `within` that is late)."""

UNDONE = """
select (select count(*) from rowlock.task where state <> 'blocked')
     + (select count(*) from rowlock.cancel_request) + (select count(*) from rowlock.wake)"""


class World:
    """Starts programs, disturbs them, waits for their end."""

    def __init__(self, database: str, client: Client, seed: int | str) -> None:
        self.database = database
        self.client = client
        self.sql = Sql(database)
        self.rng = random.Random(f"world {seed}")
        self.judge = Judge(self.sql, seen)
        self.happened: Counter[str] = Counter()
        self._families: dict[str, Program] = {}
        self._roots: list[Run[Any]] = []
        self._sent = 0

    # --- workers, which are another world's matter

    def hire(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.sql.close()

    def loaded(self) -> list[execution.Execution]:
        """Runs that are loaded in this process."""
        return []

    # --- what happens

    def strikes(self) -> dict[Callable[[], Awaitable[None]], float]:
        """What may happen, and how often."""
        return {self._cut: 2, self._cancel: 3, self._tell: 3, self._fork: 1}

    async def disturb(self, *, often_s: float) -> None:
        strikes = self.strikes()
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / often_s))
            strike = self.rng.choices(list(strikes), list(strikes.values()))[0]
            self.happened[strike.__name__] += 1
            await strike()

    async def _cut(self) -> None:
        self.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'rowlock %%' and application_name <> 'rowlock client'"
            " and datname = current_database() and pid <> pg_backend_pid()"
            " order by random() limit 1"
        )

    def _some_run(self, condition: str) -> tuple[Run[Any], str] | None:
        found = self.sql(
            "select id, input ->> 'family' from rowlock.run r"
            f" where {condition} order by random() limit 1"
        )
        return (self.client.run(found[0][0]), found[0][1]) if found else None

    async def _cancel(self) -> None:
        unfinished = "exists (select from rowlock.task t where t.run_id = r.id)"
        if (some := self._some_run(unfinished)) is None:
            return
        run, family = some
        force = self.rng.random() < 0.2
        self.judge.cancelled.add(family)
        if force:
            self.judge.forced.add(family)
        with suppress(Refused):
            await run.cancel(grace=self.rng.choice(GRACES_S), force=force)

    async def _tell(self) -> None:
        if (some := self._some_run("true")) is not None:
            await self._send(some[0], self.rng.choice("ab"))

    async def _send(self, run: Run[Any], topic: str) -> None:
        self._sent += 1
        with suppress(Refused):
            await run.send(topic, {"by": "world", "n": self._sent})

    async def _fork(self) -> None:
        """Of a run at work: at any of its places, or all of it."""
        found = self._some_run(
            "forked_from is null and exists (select from rowlock.task t where t.run_id = r.id)"
        )
        if found is not None:
            await self._fork_of(found[0])

    async def _fork_of(self, run: Run[Any]) -> None:
        place = self._some_place(run)
        with suppress(Refused):
            await run.fork(place if self.rng.random() < 0.8 else None)

    def _some_place(self, run: Run[Any]) -> str | None:
        found = self.sql(
            "select place from rowlock.step where run_id = %s and kind <> 'cancel'"
            " and not starts_with(place, 'undo.') and generation ="
            " (select max(generation) from rowlock.step where run_id = %s)"
            " order by random() limit 1",
            run.id,
            run.id,
        )
        if not found:
            return None
        # the place itself, or the branch it is in
        numbers = str(found[0][0]).split(".")
        return ".".join(numbers[: self.rng.randint(1, len(numbers))])

    async def feed(self) -> None:
        """Whoever waits for a message gets one, some time."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.005, 0.04))
            for run, topic in self.sql(
                "select w.run_id, w.name from rowlock.wait w join rowlock.task t using (run_id)"
                " where w.kind = 'message' and t.state = 'waiting'"
                " and not exists (select from rowlock.message m where m.run_id = w.run_id"
                "                  and m.topic = w.name and m.received_place is null)"
            ):
                if self.rng.random() < 0.5:
                    await self._send(self.client.run(run), topic)

    # --- from outside

    async def start(self, family: str, node: Program) -> None:
        self._families[family] = node
        self._roots.append(await self.client.start(call_of(family, node)))

    async def quiet(self) -> None:
        """Wait until every run has ended."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_S):
                while self.sql.one(AT_WORK) or self.sql.one(UNDONE):
                    await asyncio.sleep(0.02)
            took_s = time.monotonic() - began
            if took_s > SLOW_S:
                print(f"programs: it took {took_s:.0f} s until all was done")
        except TimeoutError:
            stuck = self.sql("select run_id::text, to_jsonb(t) from rowlock.task t")
            for run, task in stuck:
                waits = self.sql("select to_jsonb(w) from rowlock.wait w where run_id = %s", run)
                here = [e for e in self.loaded() if str(e.run_id) == run]
                self.judge.found.append((run, f"never ended: {task}, waits {waits}, {here}"))

    async def redo(self) -> None:
        """Let some runs do something again."""
        for family in self._families:
            seen.mend(family)
        for run_id, status in self.sql(
            "select run_id, status from rowlock.runs where status is not null order by run_id"
        ):
            run = self.client.run(run_id)
            if self.rng.random() < 0.5:
                continue
            with suppress(Refused):
                what = self.rng.choice(["go on", "rewind", "rewind", "fork"])
                if what == "go on" and status == "failed":
                    await run.retry()
                elif what == "go on" and status == "cancelled":
                    await run.resume()
                elif what == "fork":
                    await self._fork_of(run)
                elif (place := self._some_place(run)) is not None:
                    await run.rewind(place)
                self.happened[what] += 1

    def findings(self) -> dict[str, list[str]]:
        """What is wrong, by family (its program first)."""
        by_family: dict[str, list[str]] = {}
        for run, what in self.judge.all():
            family = str(
                self.sql.one("select input ->> 'family' from rowlock.run where id = %s", run)
            )
            program = programs.shown(self._families[family])
            by_family.setdefault(family, [program]).append(f"run {run}: {what}")
        if broken := checks.broken(self.database):
            by_family["checks"] = [f"{name}: {rows}" for name, rows in broken.items()]
        return by_family


class OneProcess(World):
    """Workers in this process: runs are handed back, workers declared dead while they work on."""

    def __init__(self, database: str, client: Client, seed: int | str) -> None:
        super().__init__(database, client, seed)
        self._workers: list[tuple[WorkerProcess, asyncio.Task[None]]] = []

    def hire(self) -> None:
        settings = Settings(
            database_url=self.database, poll_seconds=0.3, lease_seconds=2.0, max_takeovers=10_000
        )
        options = WorkerOptions(slots=30, grace_s=0.2, in_memory_s=self.rng.choice(IN_MEMORY_S))
        process = WorkerProcess(settings, app.code, options)
        self._workers.append((process, asyncio.create_task(process.run(signals=False))))

    async def close(self) -> None:
        for process, _ in self._workers:
            process.drain()
            process.drain()
        async with asyncio.timeout(60):
            await asyncio.gather(*(task for _, task in self._workers))
        await super().close()

    def loaded(self) -> list[execution.Execution]:
        return [
            one
            for process, _ in self._workers
            if process.tenure is not None
            for one in process.tenure._executions.values()
        ]

    def strikes(self) -> dict[Callable[[], Awaitable[None]], float]:
        return super().strikes() | {
            self._hand_back: 14,
            self._hand_back_all: 1,
            self._expire: 1,
            self._drain: 1,
        }

    async def _hand_back(self) -> None:
        if loaded := self.loaded():
            self.rng.choice(loaded).release()

    async def _hand_back_all(self) -> None:
        for one in self.loaded():
            one.release()

    async def _expire(self) -> None:
        """The database believes that a worker is dead; it works on until it hears of it."""
        with suppress(psycopg.errors.LockNotAvailable):
            self.sql(
                "update rowlock.worker set lease_until = clock_timestamp() - interval '1 s'"
                " where id = (select id from rowlock.worker order by random() limit 1"
                " for update nowait)"
            )

    async def _drain(self) -> None:
        process, task = self._workers.pop(0)
        process.drain()
        self.hire()
        # waited for, not awaited: this may be cancelled, and the worker must not be
        await asyncio.wait([task], timeout=60)


class Processes(World):
    """Workers are processes with different hash seeds, killed without a word."""

    def __init__(self, database: str, client: Client, folder: Path, seed: int | str) -> None:
        super().__init__(database, client, seed)
        seen.folder = folder
        self._workers: list[Worker] = []

    def hire(self) -> None:
        environment = {
            programs.FOLDER: str(seen.folder),
            "WORKER_IN_MEMORY_S": str(self.rng.choice(IN_MEMORY_S)),
            "PYTHONHASHSEED": str(self.rng.randint(1, 10_000)),
            "ROWLOCK_MAX_TAKEOVERS": "10000",
        }
        self._workers.append(
            Worker(self.database, "promises.programs:app", slots=30, environment=environment)
        )

    async def close(self) -> None:
        for worker in self._workers:
            worker.__exit__(None)
        seen.folder = None
        await super().close()

    def strikes(self) -> dict[Callable[[], Awaitable[None]], float]:
        return super().strikes() | {self._kill: 6}

    async def _kill(self) -> None:
        self._workers.pop(self.rng.randrange(len(self._workers))).__exit__(None)
        self.hire()

    def findings(self) -> dict[str, list[str]]:
        seen.read()
        return super().findings()


async def live_through(
    database: str,
    families: dict[str, Program],
    seed: int | str,
    *,
    folder: Path | None = None,
) -> tuple[dict[str, list[str]], Counter[str]]:
    """Run these programs through whatever happens; what was wrong in the end.

    ``folder``: in worker processes, which keep there what they saw; without it in this one.
    """
    many = folder is not None
    seen.clear()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(app.client(Settings(database_url=database)))
        world: World
        if folder is not None:
            world = Processes(database, client, folder, seed)
        else:
            world = OneProcess(database, client, seed)
        stack.push_async_callback(world.close)
        world.sql(programs.LEDGER)
        for _ in range(WORKERS):
            world.hire()
        feeding = asyncio.create_task(world.feed())
        stack.push_async_callback(_stopped, feeding)
        for family, node in families.items():
            await world.start(family, node)
        for again in (True, True, False):
            disturbing = asyncio.create_task(world.disturb(often_s=0.2 if many else 0.02))
            quiet = asyncio.create_task(world.quiet())
            # The calm after a while, so that each program comes to its end.
            await asyncio.wait([quiet], timeout=world.rng.uniform(0.5, 4.0) * (4 if many else 1))
            await _stopped(disturbing)
            await quiet
            await world.quiet()  # what was done last may have left something to do
            if again:
                await world.redo()
        return world.findings(), world.happened


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
