"""Sessions that hold transactions open, to meet another session at a chosen point.

A race is played by hand: one session begins, makes a call of ours and stays open; another makes
its call; then the first commits or rolls back. A call that may have to wait is started in a
thread, and PostgreSQL itself says whether it waits for a lock: nothing here sleeps and hopes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, Unpack
from uuid import UUID

import msgspec
import psycopg
from psycopg.pq import TransactionStatus

from rowlock.starting import StartOptions, start_parameters
from rowlock.store.connection import Statement
from rowlock.store.entries import (
    Emit,
    Entry,
    Finish,
    Heir,
    Release,
    Step,
    Suspend,
    Wait,
    Watch,
    parameters,
)
from rowlock.store.statements import (
    CANCEL,
    CLAIM,
    FORK,
    HEARTBEAT,
    JOURNAL,
    LEAVE,
    RECORD_FAILED_TRANSACTION,
    RECORD_TRANSACTION,
    REGISTER_WORKER,
    RESUME,
    RETRY,
    REWIND,
    SEND,
    SET_EVENT,
    SHOW_APP,
    START,
    START_MANY,
    TEND,
    Answer,
    Claimed,
    Next,
    Owned,
    Recorded,
    Tended,
    claimed_from,
    parted,
)

R = TypeVar("R")

APP = "shop"
PATIENCE_S = 20.0
MAX_TAKEOVERS = 3


class Pending(Generic[R]):
    """A call under way in a thread."""

    def __init__(self, session: Session, future: Future[R]) -> None:
        self._session = session
        self._future = future

    def waits(self) -> bool:
        """Whether it waits for a lock; False when it has come through."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self._future.done():
                return False
            if self._session.is_blocked():
                return True
            time.sleep(0.002)
        raise TimeoutError("the call neither returns nor waits for a lock")

    def result(self) -> R:
        return self._future.result(PATIENCE_S)


class Connections:
    """Connections to one database, kept from test to test, and one to watch them with.

    A new one costs more than most races: it must log in, and plan our functions anew.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._free: list[psycopg.Connection[Any]] = []
        self._observer = self._open()

    def _open(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._url, autocommit=True)

    def take(self) -> psycopg.Connection[Any]:
        return self._free.pop() if self._free else self._open()

    def give_back(self, connection: psycopg.Connection[Any]) -> None:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.execute("rollback")
        self._free.append(connection)

    def is_blocked(self, pid: int) -> bool:
        """Whether PostgreSQL says that this backend waits for a lock of another session.

        An autovacuum that shortens a table is none: it steps back by itself.
        """
        blockers = self._observer.execute(
            "select b.pid, b.state, b.query from pg_stat_activity as a"
            " cross join lateral unnest(pg_blocking_pids(a.pid)) as x (pid)"
            "  join pg_stat_activity as b on b.pid = x.pid"
            " where a.pid = %s and a.wait_event_type = 'Lock'"
            "   and b.backend_type = 'client backend'",
            [pid],
        ).fetchall()
        for blocker in blockers:
            print(f"{pid} waits for", *blocker)  # shown when the test fails
        return bool(blockers)

    def cut(self, connection: psycopg.Connection[Any]) -> None:
        """End a connection whose statement still waits."""
        self._observer.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])

    def close(self) -> None:
        for connection in [*self._free, self._observer]:
            connection.close()


class Session:
    """One connection: in autocommit, unless a transaction is begun and held open."""

    def __init__(self, connections: Connections, name: str = "session") -> None:
        self._connections = connections
        self.connection = connections.take()
        self.pid = self.connection.info.backend_pid
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._last: Future[Any] | None = None

    def begin(self, isolation: str = "read committed") -> Self:
        self.connection.execute(f"begin isolation level {isolation}".encode())
        return self

    def commit(self) -> None:
        self.connection.execute("commit")

    def rollback(self) -> None:
        self.connection.execute("rollback")

    def end(self, how: str) -> None:
        """``commit`` or ``rollback``: for races that are played with both fates."""
        self.connection.execute(how.encode())

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Any SQL, with its rows."""
        cursor = self.connection.execute(sql.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def ask(self, sql: str, *values: Any) -> Any:
        """The first column of the first row; None without a row."""
        rows = self.run(sql, *values)
        return rows[0][0] if rows else None

    def call(self, statement: Statement[R], **given: Any) -> list[R]:
        """One of the project's own statements."""
        cursor = self.connection.execute(statement.sql.encode(), given)
        return [statement.row(*row) for row in cursor.fetchall()]

    def go(self, function: Callable[[], R]) -> Pending[R]:
        """Begin a call on this session that may have to wait."""
        future = self._threads.submit(function)
        self._last = future
        return Pending(self, future)

    def is_blocked(self) -> bool:
        """Whether this session waits for another's lock."""
        return self._connections.is_blocked(self.pid)

    # --- what anybody may ask for

    def start(
        self,
        workflow: str = "fulfil",
        *,
        input: str = "{}",  # noqa: A002
        key: str | None = None,
        **options: Unpack[StartOptions],
    ) -> UUID:
        asked = start_parameters(workflow, input, app=APP, key=key, **options)
        [run_id] = self.call(START, **asked)
        return run_id

    def limit(self, queue: str = "default", /, **limits: Any) -> bool:
        """Set limits of a queue; None: take it away."""
        changed = False
        for name in [name for name, value in limits.items() if value is None]:
            changed |= bool(
                self.ask("select rowlock.unset_limit(%s, %s, app => %s)", queue, name, APP)
            )
        given = {name: value for name, value in limits.items() if value is not None}
        if given:
            names = ", ".join(f"{name} => %s" for name in given)
            changed |= bool(
                self.ask(
                    f"select rowlock.set_limit(%s, {names}, app => %s)", queue, *given.values(), APP
                )
            )
        return changed

    def start_many(self, *runs: dict[str, Any]) -> list[UUID]:
        return self.call(START_MANY, runs=json.dumps(runs), app=APP)

    def tend(self, limit: int = 1000, max_takeovers: int = MAX_TAKEOVERS) -> Tended:
        [tended] = self.call(TEND, limit=limit, max_takeovers=max_takeovers)
        return tended

    def reap(self, limit: int = 1000, max_takeovers: int = MAX_TAKEOVERS) -> int:
        return int(self.ask("select rowlock.reap(%s, %s)", limit, max_takeovers))

    def promote_due(self, limit: int = 1000) -> int:
        return int(self.ask("select rowlock.promote_due(%s)", limit))

    def sweep_wakes(self, limit: int = 1000) -> int:
        return int(self.ask("select rowlock.sweep_wakes(%s)", limit))

    def sweep_cancels(self, limit: int = 1000) -> int:
        return int(self.ask("select rowlock.sweep_cancels(%s)", limit))

    def send(
        self, run: UUID, value: str = "hello", *, topic: str = "approval", key: str | None = None
    ) -> int:
        [message] = self.call(SEND, run=run, topic=topic, value=json.dumps(value), key=key)
        return message

    def set_event(self, run: UUID, value: str = "set", *, name: str = "progress") -> None:
        self.call(SET_EVENT, run=run, name=name, value=json.dumps(value))

    def emit(self, run: UUID, value: str = "line", *, stream: str = "log") -> int:
        return int(
            self.ask("select rowlock.emit(%s, %s, %s::jsonb)", run, stream, json.dumps(value))
        )

    def cancel(
        self, run: UUID, *, grace: float = 30.0, force: bool = False, reason: str | None = None
    ) -> None:
        self.call(CANCEL, run=run, grace=grace, force=force, reason=reason)

    def resume(self, run: UUID) -> None:
        self.call(RESUME, run=run)

    def retry(self, run: UUID) -> None:
        self.call(RETRY, run=run)

    def rewind(self, run: UUID, place: str) -> None:
        self.call(REWIND, run=run, place=place, input=None)

    def fork(self, run: UUID, place: str | None = None) -> UUID:
        [new] = self.call(
            FORK, run=run, place=place, input=None, outcomes=None, version=None, children=False
        )
        return new

    def record_transaction(self, claimed: Claimed, place: str, output: str = '"mine"') -> None:
        self.call(
            RECORD_TRANSACTION,
            run=claimed.run_id,
            generation=claimed.generation,
            epoch=claimed.epoch,
            place=place,
            position=int(place),
            name="book",
            attempts=1,
            seconds=0.1,
            output=output,
        )

    def record_failed_transaction(self, claimed: Claimed, place: str) -> list[Recorded]:
        return self.call(
            RECORD_FAILED_TRANSACTION,
            run=claimed.run_id,
            generation=claimed.generation,
            epoch=claimed.epoch,
            place=place,
            position=int(place),
            name="book",
            attempts=1,
            seconds=0.1,
            error='{"type": "Refused"}',
        )

    def close(self) -> None:
        """Let go of everything. A test that failed may leave a call that still waits: cut it."""
        if self._last is not None and not self._last.done():
            self._connections.cut(self.connection)
            self._threads.shutdown()
            self.connection.close()
            return
        self._threads.shutdown()
        self._connections.give_back(self.connection)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The journal's answer to one batch."""

    answers: list[Answer]

    def of(self, entry: Entry) -> str:
        """The verdict on an entry; what is not mentioned was written."""
        found = [answer.verdict for answer in self.answers if answer.number == entry.i]
        assert len(found) <= 1, f"two verdicts on one entry: {found}"
        return found[0] if found else "written"

    def detail(self, entry: Entry) -> Any:
        return next((a.detail for a in self.answers if a.number == entry.i), None)

    @property
    def of_worker(self) -> str | None:
        """``gone`` or ``again`` for the whole batch."""
        return next((v for v in self._of_all() if v in ("gone", "again")), None)

    @property
    def asks_to_tend(self) -> bool:
        return "tend" in self._of_all()

    @property
    def groups(self) -> list[str]:
        """Groups of which children have ended: to be summed up when this is committed."""
        return [
            name
            for answer in self.answers
            if answer.number == -1 and answer.verdict == "arrived"
            for name in answer.detail
        ]

    def _of_all(self) -> list[str]:
        return [answer.verdict for answer in self.answers if answer.number == -1]


class Worker(Session):
    """A registered worker: one connection that claims, journals and renews the lease."""

    def __init__(self, connections: Connections, name: str, worker_id: int) -> None:
        super().__init__(connections, name)
        self.worker_id = worker_id
        self.next = Next()
        """What the last claim said of the next one."""
        self.places: str | None = None
        """What the last places that were handed over said of the next."""

    def claim(
        self,
        want: int = 100,
        *,
        queues: list[str] | None = None,
        listening: bool = False,
        version: str = "",
        after: str | None = None,
        memory: str | None = None,
    ) -> list[Claimed]:
        found = self.call(
            CLAIM,
            worker=self.worker_id,
            app=APP,
            version=version,
            queues=queues,
            after=after,
            want=want,
            listening=listening,
            memory=memory,
        )
        claimed, self.next = parted(found)
        return claimed

    def claim_run(self, run: UUID) -> Claimed:
        """The run, which is ready; hands back nothing: it must be the only one."""
        [claimed] = self.claim()
        assert claimed.run_id == run
        return claimed

    def journal(
        self, *entries: Entry, retrying: bool = False, groups: list[str] | None = None
    ) -> Verdicts:
        batch = parameters(self.worker_id, list(entries), retrying=retrying, groups=groups)
        return Verdicts(self.call(JOURNAL, **batch))

    def hand_over(
        self, *entries: Entry, version: str = "", memory: str | None = None
    ) -> tuple[Verdicts, list[Claimed]]:
        """Journal, and claim for what it let go of."""
        heir = Heir(version, memory)
        batch = parameters(self.worker_id, list(entries), retrying=False, heir=heir)
        verdicts = Verdicts(self.call(JOURNAL, **batch))
        self.places = next((a.detail for a in verdicts.answers if a.verdict == "memory"), None)
        return verdicts, [
            claimed_from(answer.detail)
            for answer in verdicts.answers
            if answer.verdict == "claimed"
        ]

    def verdict(self, *entries: Entry, retrying: bool = False) -> str:
        """The verdict on the last of these."""
        return self.journal(*entries, retrying=retrying).of(entries[-1])

    def write(self, *entries: Entry) -> list[str]:
        """Journal these until each has its verdict, as a worker does with what was passed by.

        Any call that only looked at a task in passing may hold it for the moment: a claim, for
        one, locks what it saw ready before it learns that another was faster.
        """
        until = time.monotonic() + PATIENCE_S
        verdicts: dict[int, str] = {}
        left = list(enumerate(entries))
        while left:
            answer = self.journal(*[entry for _, entry in left])
            verdicts |= {number: answer.of(entry) for number, entry in left}
            left = [(number, entry) for number, entry in left if verdicts[number] == "again"]
            if time.monotonic() > until:
                raise TimeoutError(f"still passed by: {left}")
        return [verdicts[number] for number in range(len(entries))]

    def heartbeat(self, lease_s: float = 30.0) -> Owned | None:
        return next(
            iter(self.call(HEARTBEAT, worker=self.worker_id, lease=lease_s, doing=None)), None
        )

    def leave(self) -> int:
        return self.call(LEAVE, worker=self.worker_id)[0]


# --- entries of a batch, as executions make them


def step(claimed: Claimed, place: str, output: str = '"done"', *, kind: str = "step") -> Step:
    return Step(
        run=str(claimed.run_id),
        epoch=claimed.epoch,
        place=place,
        position=int(place),
        kind=kind,
        name="work",
        seconds=0.01,
        output=msgspec.Raw(output.encode()),
    )


def child(claimed: Claimed, place: str) -> Step:
    """A step that starts another run."""
    entry = step(claimed, place, kind="child")
    entry.output = None
    entry.child = {"workflow": "invoice", "input": {}}
    return entry


def _made(claimed: Claimed, place: str, kind: str, name: str, position: int | None) -> Step:
    return Step(
        run=str(claimed.run_id),
        epoch=claimed.epoch,
        place=place,
        position=int(place) if position is None else position,
        kind=kind,
        name=name,
        seconds=0.0,
    )


def _json(value: str) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def receive(
    claimed: Claimed, place: str, topic: str = "approval", *, position: int | None = None
) -> Step:
    """A step that gets the oldest message of a topic."""
    return _made(claimed, place, "receive", topic, position)


def send(
    claimed: Claimed,
    place: str,
    to: UUID,
    value: str = "hello",
    *,
    topic: str = "approval",
    key: str | None = None,
    position: int | None = None,
) -> Step:
    """A step that sends a message to a run."""
    entry = _made(claimed, place, "send", topic, position)
    entry.send = {"run": str(to), "value": _json(value), "key": key}
    return entry


def set_event(
    claimed: Claimed,
    place: str,
    value: str = "set",
    *,
    name: str = "progress",
    position: int | None = None,
) -> Step:
    """A step that sets an event of its own run."""
    entry = _made(claimed, place, "set_event", name, position)
    entry.value = _json(value)
    return entry


def emit(
    claimed: Claimed,
    place: str,
    value: str = "line",
    *,
    stream: str = "log",
    position: int | None = None,
) -> Step:
    """A step that appends to a stream of its own run."""
    entry = _made(claimed, place, "emit", stream, position)
    entry.value = _json(value)
    return entry


def emitted(claimed: Claimed, value: str = "line", *, stream: str = "log") -> Emit:
    """An entry that a step's code appends to a stream."""
    return Emit(run=str(claimed.run_id), epoch=claimed.epoch, stream=stream, value=_json(value))


def children(claimed: Claimed, place: str, count: int) -> Step:
    """A step that starts a group of runs; its output is the group's name."""
    entry = _made(claimed, place, "children", "map", None)
    entry.children = [{"workflow": "invoice", "input": {}}] * count
    return entry


def stop(claimed: Claimed, *, position: int = 1000, grace_s: float = 30.0) -> Step:
    """The step that records that the run has seen its cancel: its children are cancelled."""
    entry = _made(claimed, "cancel", "cancel", "request", position)
    entry.output = msgspec.Raw(json.dumps({"grace_s": grace_s, "reason": None}).encode())
    return entry


def timer(
    claimed: Claimed, place: str, seconds: float = 3600.0, *, kind: str = "timer", attempt: int = 0
) -> Wait:
    return Wait(
        run=str(claimed.run_id),
        epoch=claimed.epoch,
        place=place,
        kind=kind,
        seconds=seconds,
        attempt=attempt,
    )


def finish(
    claimed: Claimed, status: str = "succeeded", *, waited: bool = False, closing: bool = False
) -> Finish:
    """The end of a generation; knows what its claim said: of a group, or to be cancelled."""
    succeeded = status == "succeeded"
    return Finish(
        run=str(claimed.run_id),
        epoch=claimed.epoch,
        status=status,
        output=msgspec.Raw(b'"result"') if succeeded else None,
        error=None if succeeded else msgspec.Raw(b'{"type": "Refused", "message": "no"}'),
        waited=waited,
        cancelled=claimed.cancel is not None,
        grouped=claimed.in_group,
        closing=closing,
    )


def go_on(claimed: Claimed) -> Finish:
    """The run continues as a new generation."""
    entry = finish(claimed, "continued", waited=True)
    entry.error = None
    entry.next = msgspec.Raw(b'{"again": true}')
    return entry


def suspend(
    claimed: Claimed,
    *watched: UUID,
    timers: tuple[str, ...] = (),
    force: bool = False,
    patience_ms: int = 0,
) -> Suspend:
    """Sleep until one of the watched runs ends (places 101, 102, …), or a timer falls due."""
    watches = [Watch(str(101 + n), "run", str(run)) for n, run in enumerate(watched)]
    return Suspend(
        run=str(claimed.run_id),
        epoch=claimed.epoch,
        watches=watches,
        open=[*timers, *(watch.place for watch in watches)],
        patience_ms=patience_ms,
        force=force,
    )


def sleep_on(
    claimed: Claimed,
    *watches: Watch,
    timers: tuple[str, ...] = (),
    told: bool = False,
    force: bool = False,
) -> Suspend:
    """Sleep until something of these happens, or a timer falls due."""
    return Suspend(
        run=str(claimed.run_id),
        epoch=claimed.epoch,
        watches=list(watches),
        open=[*timers, *(watch.place for watch in watches)],
        patience_ms=0,
        told=told,
        force=force,
    )


def for_message(place: str = "201", topic: str = "approval") -> Watch:
    return Watch(place, "message", None, topic)


def for_event(run: UUID, place: str = "202", name: str = "progress") -> Watch:
    return Watch(place, "event", str(run), name)


def for_end(run: UUID, place: str = "203") -> Watch:
    return Watch(place, "run", str(run))


def for_group(group: str, count: int, place: str = "204") -> Watch:
    return Watch(place, "group", None, group, count)


def release(claimed: Claimed, reason: str | None = None) -> Release:
    text = None if reason is None else msgspec.Raw(json.dumps({"kind": reason}).encode())
    return Release(run=str(claimed.run_id), epoch=claimed.epoch, reason=text)


# --- the database they all meet in


@dataclass(frozen=True, slots=True)
class TaskRow:
    state: str
    epoch: int
    worker_id: int | None
    due_in: float
    closing: bool
    takeovers: int


class World:
    """A database with one app, the sessions on it, and what stands in its tables."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._sessions: list[Session] = []
        self.anybody = self.session("anybody")
        self.anybody.call(
            SHOW_APP,
            app=APP,
            queues=["default", "other"],
            workflows=["fulfil", "invoice"],
            workflow_queues=["default", "default"],
        )

    def session(self, name: str = "session") -> Session:
        session = Session(self._connections, name)
        self._sessions.append(session)
        return session

    def worker(self, name: str = "worker") -> Worker:
        [worker_id] = self.anybody.call(
            REGISTER_WORKER,
            app=APP,
            version="",
            host="test",
            pid=1,
            slots=1000,
            queues=None,
            lease=30.0,
        )
        return self.connect_again(worker_id, name)

    def connect_again(self, worker_id: int, name: str = "worker") -> Worker:
        """Another connection of a worker that is registered already."""
        worker = Worker(self._connections, name, worker_id)
        self._sessions.append(worker)
        return worker

    def claimed_by(self, worker: Worker, count: int = 1) -> list[Claimed]:
        """Fresh runs in a worker's hands, in the order of their ids."""
        self.anybody.start_many(*[{"workflow": "fulfil"}] * count)
        claimed = sorted(worker.claim(count), key=lambda one: one.run_id)
        assert len(claimed) == count
        return claimed

    def expire(self, worker: Worker) -> None:
        """The worker's lease is over from now on."""
        self.anybody.run(
            "update rowlock.worker set lease_until = clock_timestamp() - interval '1 second'"
            " where id = %s",
            worker.worker_id,
        )

    def make_due(self, run_id: UUID) -> None:
        """The timer of a sleeping run is over."""
        self.anybody.run(
            "update rowlock.task set due_at = clock_timestamp() - interval '1 second'"
            " where run_id = %s",
            run_id,
        )

    def task(self, run_id: UUID) -> TaskRow:
        """The task of an unfinished run."""
        [row] = self.anybody.run(
            "select state, epoch, worker_id,"
            # Before 17, PostgreSQL subtracts no infinite times.
            "       (extract(epoch from due_at) - extract(epoch from clock_timestamp()))::float8,"
            "       closing, takeovers"
            "  from rowlock.task where run_id = %s",
            run_id,
        )
        return TaskRow(*row)

    def state(self, run_id: UUID) -> str:
        """The state of an unfinished run, or how it ended."""
        return str(self.anybody.ask("select status from rowlock.runs where run_id = %s", run_id))

    def steps(self, run_id: UUID) -> list[tuple[str, Any, int]]:
        """Place, output and epoch of what a run has recorded."""
        rows = self.anybody.run(
            "select place, output, epoch from rowlock.step where run_id = %s order by place::int",
            run_id,
        )
        return [(place, output, epoch) for place, output, epoch in rows]

    def messages(self, run_id: UUID) -> list[tuple[Any, str | None]]:
        """Value of each message, in order, and the place of the present generation that got it."""
        rows = self.anybody.run(
            "select m.value, m.received_place from rowlock.message as m"
            " where m.run_id = %s order by m.id",
            run_id,
        )
        return [(value, place) for value, place in rows]

    def inbox(self, run_id: UUID) -> list[Any]:
        """Values of the messages that nobody has received."""
        return [value for value, place in self.messages(run_id) if place is None]

    def stream(self, run_id: UUID, stream: str = "log") -> list[tuple[int, Any]]:
        rows = self.anybody.run(
            'select "offset", value from rowlock.stream_entry where run_id = %s and stream = %s'
            ' order by "offset"',
            run_id,
            stream,
        )
        return [(offset, value) for offset, value in rows]

    def count(self, table: str) -> int:
        return int(self.anybody.ask(f"select count(*) from rowlock.{table}"))

    def close(self) -> None:
        for session in self._sessions:
            session.close()
