"""Random programs: what they are, the one workflow that interprets them, what it saw.

A program is a value: ``{"sync": bool, "bodies": [[operation, …], …]}``, one body for each
generation that it continues as. An operation is a list ``[kind, number, …]``; the number is its
own in the whole family of programs (a program with its children). `draw` makes programs by a seed.

Every life of a run (one loading of it on a worker) keeps what its code saw, in order, with the
place in the history. What steps did is kept too. tests/promises/judge.py holds both against the
database.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg

from rowlock import App, Retry
from rowlock.runtime import inside
from rowlock.workflow import Child, WorkflowCall

app = App("programs")

Program = dict[str, Any]
Op = list[Any]
At = list[Any]
"""Where a step is: run, generation, place, epoch."""
Entry = tuple[int, str, str, str]
"""What code saw: operation, what, place, value as text."""

FOLDER = "PROGRAMS_SEEN"
"""Set in worker processes: the folder where to keep what happened."""

ATTEMPTS = 4
AGAIN = Retry(attempts=ATTEMPTS, first_delay=timedelta(milliseconds=4), jitter=0.5)
LEDGER = "create table booked (run uuid, generation int, place text, epoch int)"


# --- what happened, for the judge


@dataclass(eq=False)
class Life:
    """What one loading of a run saw."""

    run: UUID
    generation: int
    epoch: int
    log: list[Entry] = field(default_factory=list)
    id: str = field(default_factory=lambda: str(uuid4()))


class Seen:
    """All that happened, in this process or, with a folder, in any that has the same folder.

    What is written there outlives a process that is killed.
    """

    def __init__(self, folder: str = "") -> None:
        self.lives: list[Life] = []
        self.done: Counter[tuple[str, int, str, int]] = Counter()
        """Executions of steps, by where they are."""
        self.knew: dict[tuple[str, int, str, int], int] = {}
        """How many entries its life had seen when a step was asked for, by where that is."""
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._mended: set[str] = set()
        self._lock = threading.Lock()
        self.folder = Path(folder) if folder else None

    def began(self, life: Life) -> None:
        self.lives.append(life)
        self._note("life", [life.id, str(life.run), life.generation, life.epoch])

    def saw(self, life: Life, entry: Entry) -> None:
        life.log.append(entry)
        self._note("saw", [life.id, *entry])

    def asked(self, at: At, life: Life) -> None:
        run, generation, place, epoch = at
        self.knew[run, generation, place, epoch] = len(life.log)
        self._note("asked", [*at, len(life.log)])

    def did(self, at: At) -> int:
        """How often this step was executed before, in any life of this generation."""
        with self._lock:
            run, generation, place, epoch = at
            self.done[run, generation, place, epoch] += 1
            self._note("did", at)
            before = self._counts[run, generation, place]
            self._counts[run, generation, place] += 1
            if self.folder is not None:
                # of one size each, so that the file's tells how many there are
                with (self.folder / f"count-{run}-{generation}-{place}").open("ab") as counts:
                    before = counts.tell()
                    counts.write(b".")
            return before

    def mend(self, family: str) -> None:
        """From now on the broken steps of a family work."""
        self._mended.add(family)
        if self.folder is not None:
            (self.folder / f"mended-{family}").touch()

    def is_mended(self, family: str) -> bool:
        return family in self._mended or (
            self.folder is not None and (self.folder / f"mended-{family}").exists()
        )

    def _note(self, what: str, value: list[Any]) -> None:
        if self.folder is not None:
            with (self.folder / f"process-{os.getpid()}").open("a") as notes:
                notes.write(json.dumps([what, *value], default=str) + "\n")

    def read(self) -> None:
        """Take in what all the processes have written."""
        assert self.folder is not None
        lives: dict[str, Life] = {}
        for path in self.folder.glob("process-*"):
            for line in path.read_text().splitlines():
                what, *value = json.loads(line)
                if what == "life":
                    id_, run, generation, epoch = value
                    lives[id_] = Life(UUID(run), generation, epoch)
                elif what == "saw":
                    lives[value[0]].log.append(tuple(value[1:]))
                elif what == "asked":
                    *at, knew = value
                    self.knew[tuple(at)] = knew
                else:
                    self.done[tuple(value)] += 1
        self.lives = list(lives.values())

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


seen = Seen(os.environ.get(FOLDER, ""))


# --- steps


@app.step
async def do(at: At, n: int, pause: float) -> int:
    seen.did(at)
    await asyncio.sleep(pause * random.random())
    return n


@app.step
def do_in_thread(at: At, n: int) -> int:
    seen.did(at)
    return n


@app.step
async def fails(at: At, n: int, pause: float) -> int:
    seen.did(at)
    await asyncio.sleep(pause * random.random())
    raise ValueError(f"no {n}")


@app.step(retry=AGAIN)
async def flaky(at: At, n: int, failures: int) -> int:
    if seen.did(at) < failures:
        raise ConnectionError(f"not yet {n}")
    return n


@app.step(retry=AGAIN)
async def hopeless(at: At, n: int) -> int:
    seen.did(at)
    raise ValueError(f"no {n}")


@app.step
async def broken(at: At, n: int, family: str) -> int:
    seen.did(at)
    if not seen.is_mended(family):
        raise ValueError(f"no {n}")
    return n


@app.step(timeout=0.01)
async def timed(at: At, n: int) -> int:
    seen.did(at)
    await asyncio.sleep(0.02 * random.random())
    return n


@app.transaction
async def book(tx: psycopg.AsyncConnection[Any], at: At, n: int, good: bool) -> int:
    await tx.execute("insert into booked values (%s, %s, %s, %s)", at)
    if not good:
        raise ValueError(f"no {n}")
    return n


@app.transaction
def book_in_thread(tx: psycopg.Connection[Any], at: At, n: int) -> int:
    tx.execute("insert into booked values (%s, %s, %s, %s)", at)
    return n


@app.step
async def undo(n: int, pause: float) -> int:
    await asyncio.sleep(pause * random.random())
    if n % 7 == 0:
        raise ValueError(f"undo {n}")
    return n


# --- the workflow


class View:
    """The present life as the interpreter uses it."""

    def __init__(self, family: str) -> None:
        thread: Any = inside.thread()
        self.family = family
        self.run = cast("Any", inside.execution() if thread is None else thread._execution)
        self.id = str(self.run.run_id)
        self.life = Life(self.run.run_id, self.run.generation, self.run.epoch)
        seen.began(self.life)

    def _branch(self) -> Any:
        return self.run.loop.branch() if inside.thread() is None else self.run._main

    def place(self, ahead: int = 0) -> str:
        """Of what this branch asked for last, or asks for next."""
        branch = self._branch()
        return f"{branch._prefix}{branch._count + ahead}" if branch is not None else "gone"

    def at(self, place: str | None = None) -> At:
        at = [self.id, self.life.generation, place or self.place(1), self.life.epoch]
        seen.asked(at, self.life)
        return at

    def saw(self, op: Op, what: str, value: Any = None, place: str = "") -> None:
        """Note something, unless the code is being thrown away: then it sees no history."""
        if not self.run.is_over and not self.run.is_undoing:
            seen.saw(self.life, (op[1], what, place, text_of(value)))

    def got(self, op: Op, value: Any) -> Any:
        self.saw(op, "got", value, self.place())
        return value

    def raised(self, op: Op, error: BaseException) -> None:
        self.saw(op, "raised", error_text(error), self.place() if not self.run.is_over else "")


def text_of(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)


def error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


async def body(view: View, ops: list[Op], child: Child[Any] | None = None) -> list[Any]:
    return [await act(view, op, child) for op in ops]


async def _body_or_error(view: View, ops: list[Op], child: Child[Any] | None) -> Any:
    try:
        return await body(view, ops, child)
    except Exception as error:
        return ["!", error_text(error)]


async def act(view: View, op: Op, child: Child[Any] | None) -> Any:
    """Do one operation; what comes of it is what `judge.fits` knows."""
    if op[0] == "undo":
        return register(view, op)
    compound = COMPOUND.get(op[0])
    if compound is not None:
        return await compound(view, op, child)
    try:
        value = await simple(view, op, child)
    except BaseException as error:
        view.raised(op, error)
        raise
    return view.got(op, value)


def register(view: View, op: Op) -> int:
    _, n, pause = op
    app.compensate(undo, n, pause)
    view.saw(op, "registered")
    return int(n)


async def simple(view: View, op: Op, child: Child[Any] | None) -> Any:
    kind, n, *rest = op
    match kind:
        case "step":
            return await do(view.at(), n, rest[0])
        case "thread":
            return await do_in_thread.in_thread(view.at(), n)
        case "fail":
            return await fails(view.at(), n, rest[0])
        case "flaky":
            return await flaky(view.at(), n, rest[0])
        case "hopeless":
            return await hopeless(view.at(), n)
        case "broken":
            return await broken(view.at(), n, view.family)
        case "timed":
            return await timed(view.at(), n)
        case "book":
            return await book(view.at(), n, True)
        case "book badly":
            return await book(view.at(), n, False)
        case "book in thread":
            return await book_in_thread.in_thread(view.at(), n)
        case "sleep":
            return await app.sleep(rest[0])
        case "now":
            return (await app.now()).isoformat()
        case "uuid":
            return str(await app.uuid())
        case "random":
            return await app.random()
        case "receive":
            return await app.receive(rest[0], timeout=rest[1])
        case "tell self":
            return await app.send(view.run.run_id, rest[0], {"by": "self", "n": n})
        case "tell child":
            assert child is not None
            return await app.send(child, rest[0], {"by": "parent", "n": n})
        case "event":
            return await app.set_event(rest[0], view.at()[1:3])
        case "watch":
            return await app.get_event(view.run.run_id, rest[0], timeout=rest[1])
        case "watch child":
            assert child is not None
            return await app.get_event(child, rest[0], timeout=rest[1])
        case "emit":
            return await app.emit("out", view.at()[1:3])
        case "child":
            return await call_of(view.family, rest[0])
        case "map":
            calls = [call_of(view.family, node) for node in rest[0]]
            if not rest[1]:
                return await app.map(calls)
            results = await app.map(calls, return_exceptions=True)
            return [["!", error_text(r)] if isinstance(r, BaseException) else r for r in results]
        case _:
            raise AssertionError(op)


async def gather(view: View, op: Op, child: Child[Any] | None) -> Any:
    value = list(await asyncio.gather(*(body(view, ops, child) for ops in op[2])))
    view.saw(op, "gathered")
    return value


async def gather_all(view: View, op: Op, child: Child[Any] | None) -> Any:
    found = await asyncio.gather(*(body(view, ops, child) for ops in op[2]), return_exceptions=True)
    view.saw(op, "gathered")
    return [["!", error_text(one)] if isinstance(one, BaseException) else one for one in found]


async def raws(view: View, op: Op, child: Child[Any] | None) -> Any:
    """Calls without a coroutine around them: each becomes a branch."""
    _, n, count, pause = op
    ats = [view.at(f"{view.place(number + 1)}.1") for number in range(count)]
    value = list(await asyncio.gather(*(do(at, n, pause) for at in ats)))
    view.saw(op, "gathered")
    return value


async def group(view: View, op: Op, child: Child[Any] | None) -> Any:
    try:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(body(view, ops, child)) for ops in op[2]]
    except BaseExceptionGroup as errors:
        view.saw(op, "group failed", [error_text(error) for error in errors.exceptions])
        raise errors.exceptions[0] from None
    view.saw(op, "grouped")
    return [task.result() for task in made]


async def race(view: View, op: Op, child: Child[Any] | None) -> Any:
    """The first wins, the others are cancelled and waited for."""
    tasks = {
        asyncio.create_task(_body_or_error(view, ops, child), name=str(number))
        for number, ops in enumerate(op[2])
    }
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    winners = [[int(task.get_name()), task.result()] for task in done]
    view.saw(op, "won", [number for number, _ in winners])
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    view.saw(op, "lost", [[task.get_name(), task.cancelled()] for task in pending])
    return winners


async def completed(view: View, op: Op, child: Child[Any] | None) -> Any:
    async def numbered(number: int, ops: list[Op]) -> Any:
        return [number, await _body_or_error(view, ops, child)]

    tasks = [asyncio.create_task(numbered(*one)) for one in enumerate(op[2])]
    found = []
    for first in asyncio.as_completed(tasks):
        found.append(await first)
        view.saw(op, "came", found[-1][0])
    return found


async def spawn(view: View, op: Op, child: Child[Any] | None) -> Any:
    task = asyncio.create_task(body(view, op[2], child))
    rest = await body(view, op[3], child)
    value = [await task, rest]
    view.saw(op, "joined")
    return value


async def leave(view: View, op: Op, child: Child[Any] | None) -> Any:
    asyncio.create_task(_body_or_error(view, op[2], child))  # noqa: RUF006 - that is the point


async def within(view: View, op: Op, child: Child[Any] | None) -> Any:
    scope = app.timeout(op[2])
    try:
        async with scope:
            return await body(view, op[3], child)
    except TimeoutError:
        view.saw(op, "late", scope.expired)
        if not scope.expired:
            raise
        return "late"


async def guard(view: View, op: Op, child: Child[Any] | None) -> Any:
    try:
        return await body(view, op[2], child)
    finally:
        view.saw(op, "cleans")
        await body(view, op[3], child)
        view.saw(op, "cleaned")


async def catch(view: View, op: Op, child: Child[Any] | None) -> Any:
    value = await _body_or_error(view, op[2], child)
    view.saw(op, "caught")
    return value


async def handle(view: View, op: Op, child: Child[Any] | None) -> Any:
    """A child by its handle: something else is done before its result is awaited."""
    _, n, node, between, keyed = op
    key = f"{view.family}-{n}" if keyed else None
    started = await app.start_child(call_of(view.family, node), key=key)
    view.saw(op, "started", started.run_id, view.place())
    inner = await body(view, between, started)
    try:
        result = await started.result()
    except BaseException as error:
        view.raised(op, error)
        raise
    return [inner, view.got(op, result)]


Compound = Callable[[View, Op, "Child[Any] | None"], Awaitable[Any]]
COMPOUND: dict[str, Compound] = {
    "gather": gather,
    "gather all": gather_all,
    "raws": raws,
    "group": group,
    "race": race,
    "completed": completed,
    "spawn": spawn,
    "leave": leave,
    "within": within,
    "guard": guard,
    "catch": catch,
    "handle": handle,
}


def body_in_thread(view: View, ops: list[Op]) -> list[Any]:
    return [act_in_thread(view, op) for op in ops]


def act_in_thread(view: View, op: Op) -> Any:
    kind, _, *rest = op
    match kind:
        case "undo":
            return register(view, op)
        case "catch":
            try:
                value: Any = body_in_thread(view, rest[0])
            except Exception as error:
                value = ["!", error_text(error)]
            view.saw(op, "caught")
            return value
        case "guard":
            try:
                return body_in_thread(view, rest[0])
            finally:
                view.saw(op, "cleans")
                body_in_thread(view, rest[1])
                view.saw(op, "cleaned")
    try:
        value = simple_in_thread(view, op)
    except BaseException as error:
        view.raised(op, error)
        raise
    return view.got(op, value)


def simple_in_thread(view: View, op: Op) -> Any:
    kind, n, *rest = op
    match kind:
        case "step":
            return do.blocking(view.at(), n, rest[0])
        case "thread":
            return do_in_thread(view.at(), n)
        case "fail":
            return fails.blocking(view.at(), n, rest[0])
        case "flaky":
            return flaky.blocking(view.at(), n, rest[0])
        case "hopeless":
            return hopeless.blocking(view.at(), n)
        case "broken":
            return broken.blocking(view.at(), n, view.family)
        case "timed":
            return timed.blocking(view.at(), n)
        case "book":
            return book.blocking(view.at(), n, True)
        case "book badly":
            return book.blocking(view.at(), n, False)
        case "book in thread":
            return book_in_thread(view.at(), n)
        case "sleep":
            return app.sleep(rest[0]).wait()
        case "now":
            return app.now().wait().isoformat()
        case "uuid":
            return str(app.uuid().wait())
        case "random":
            return app.random().wait()
        case "receive":
            return app.receive(rest[0], timeout=rest[1]).wait()
        case "tell self":
            return app.send(view.run.run_id, rest[0], {"by": "self", "n": n}).wait()
        case "event":
            return app.set_event(rest[0], view.at()[1:3]).wait()
        case "watch":
            return app.get_event(view.run.run_id, rest[0], timeout=rest[1]).wait()
        case "emit":
            return app.emit("out", view.at()[1:3]).wait()
        case "child":
            return call_of(view.family, rest[0]).wait()
        case "map":
            calls = [call_of(view.family, node) for node in rest[0]]
            if not rest[1]:
                return app.map(calls).wait()
            results = app.map(calls, return_exceptions=True).wait()
            return [["!", error_text(r)] if isinstance(r, BaseException) else r for r in results]
        case _:
            raise AssertionError(op)


@app.workflow
async def program(family: str, node: Any, turn: int = 0) -> Any:
    value = await body(View(family), node["bodies"][turn])
    if turn + 1 < len(node["bodies"]):
        program.continue_as_new(family, node, turn + 1)
    return value


@app.workflow
def program_in_thread(family: str, node: Any, turn: int = 0) -> Any:
    value = body_in_thread(View(family), node["bodies"][turn])
    if turn + 1 < len(node["bodies"]):
        program_in_thread.continue_as_new(family, node, turn + 1)
    return value


def call_of(family: str, node: Program) -> WorkflowCall[Any]:
    return (program_in_thread if node["sync"] else program)(family, node)


# --- drawing programs


class Drawing:
    """Draws one family of programs."""

    def __init__(self, seed: int | str, slow: float) -> None:
        self._rng = random.Random(f"program {seed}")
        self._slow = slow
        self._left = self._rng.choice([4, 8, 15, 25, 40])
        self._count = 0

    def node(self, depth: int = 0) -> Program:
        sync = self._rng.random() < 0.2
        turns = self._rng.choices([1, 2, 3], [8, 1, 1])[0]
        return {
            "sync": sync,
            "bodies": [self._body(depth, sync=sync, child=False) for _ in range(turns)],
        }

    def _body(self, depth: int, *, sync: bool, child: bool, most: int = 5) -> list[Op]:
        return [
            self._op(depth, sync=sync, child=child)
            for _ in range(self._rng.randint(1, max(1, most - depth)))
        ]

    def _bodies(self, depth: int, *, child: bool) -> list[list[Op]]:
        return [
            self._body(depth + 1, sync=False, child=child, most=4)
            for _ in range(self._rng.randint(1, 4))
        ]

    def _op(self, depth: int, *, sync: bool, child: bool) -> Op:
        rng = self._rng
        self._count += 1
        self._left -= 1
        n = self._count
        kinds = dict(SIMPLE)
        if depth < 4 and self._left > 0:
            kinds |= SYNC_COMPOUNDS
            if not sync:
                kinds |= ASYNC_COMPOUNDS
        if child and not sync:
            kinds |= {"tell child": 4, "watch child": 4}
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        pause = self._slow * rng.choice([0.0, 0.002, 0.02])
        short = self._slow * rng.choice([0.0, 0.003, 0.02, 0.05])
        topic = rng.choice("ab")
        deeper = depth + 1

        def inner(most: int = 4) -> list[Op]:
            return self._body(deeper, sync=sync, child=child, most=most)

        match kind:
            case "step" | "fail":
                return [kind, n, pause]
            case "undo":
                return [kind, n, rng.choice([0.0, 0.02, 0.2])]
            case "flaky":
                return [kind, n, rng.randint(1, ATTEMPTS - 1)]
            case "sleep":
                return [kind, n, short]
            case "receive":
                return [kind, n, topic, rng.choice([None, short])]
            case "tell self" | "tell child" | "event":
                return [kind, n, topic]
            case "watch":
                return [kind, n, topic, short]
            case "watch child":
                return [kind, n, topic, rng.choice([None, short])]
            case "raws":
                return [kind, n, rng.randint(1, 5), pause]
            case "gather" | "gather all" | "group" | "race" | "completed":
                return [kind, n, self._bodies(depth, child=child)]
            case "spawn":
                return [kind, n, inner(), inner(3)]
            case "leave" | "catch":
                return [kind, n, inner()]
            case "within":
                return [kind, n, short, inner()]
            case "guard":
                cleanup = inner(2)
                if rng.random() < 0.3:  # does not end by itself, if the run is cancelled
                    self._count += 1
                    cleanup.append(["receive", self._count, topic, None])
                return [kind, n, inner(), cleanup]
            case "child":
                return [kind, n, self.node(depth + 2)]
            case "handle":
                between = self._body(deeper, sync=False, child=True, most=3)
                return [kind, n, self.node(depth + 2), between, rng.random() < 0.4]
            case "map":
                nodes = [self.node(depth + 2) for _ in range(rng.randint(0, 4))]
                return [kind, n, nodes, rng.random() < 0.7]
        return [kind, n]


SIMPLE = {
    "step": 12,
    "thread": 2,
    "fail": 1,
    "flaky": 2,
    "hopeless": 0.5,
    "broken": 0.7,
    "timed": 1,
    "book": 4,
    "book badly": 0.5,
    "book in thread": 1,
    "sleep": 5,
    "now": 1,
    "uuid": 1,
    "random": 1,
    "receive": 5,
    "tell self": 3,
    "event": 3,
    "watch": 2,
    "emit": 4,
    "undo": 3,
}
SYNC_COMPOUNDS = {"catch": 6, "guard": 3, "child": 2, "map": 2}
ASYNC_COMPOUNDS = {
    "gather": 4,
    "gather all": 3,
    "raws": 2,
    "group": 3,
    "race": 4,
    "completed": 3,
    "spawn": 3,
    "leave": 2,
    "within": 4,
    "handle": 4,
}


def draw(seed: int | str, slow: float = 1.0) -> Program:
    """The program of a seed; ``slow`` stretches its pauses."""
    return Drawing(seed, slow).node()


def shown(node: Program, indent: str = "") -> str:
    """A program for people."""
    lines = [f"{indent}{'sync ' if node['sync'] else ''}program"]
    for body_ in node["bodies"]:
        lines += [f"{indent}  body", *(_shown(op, indent + "    ") for op in body_)]
    return "\n".join(lines)


def _shown(op: Op, indent: str) -> str:
    plain: list[str] = []
    below: list[str] = []
    for one in op:
        if isinstance(one, dict):
            below.append(shown(one, indent + "  "))
        elif isinstance(one, list):
            for item in one:
                if isinstance(item, dict):
                    below.append(shown(item, indent + "  "))
                elif item and isinstance(item[0], list):
                    below.append(f"{indent}  branch")
                    below += [_shown(inner, indent + "    ") for inner in item]
                else:
                    below.append(_shown(item, indent + "  "))
            if len(op) > 3 and op[0] in ("spawn", "guard", "handle"):
                below.append(f"{indent}  --")
        else:
            plain.append(str(one))
    return "\n".join([indent + " ".join(plain), *below])
