"""The processes that the load's connections live in.

A few processes with many threads each: psycopg lets go of the interpreter while PostgreSQL works,
so a few are enough to keep it busy. They are started once, take one load after the other through a
pipe, and end when that is closed, so that none outlives the suite, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import psycopg

from rowlock.errors import RowlockError
from rowlock.store.connection import describe
from rowlock_loadtest.contention.losses import Lost, is_loss
from rowlock_loadtest.contention.roles import Role
from rowlock_loadtest.contention.seat import Seat, Span, Tally

SETTLE_S = 0.02
"""From when all are ready to the begin that all keep to."""


class ClientFailed(RowlockError):
    """A client met an error that is no part of the load."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(
            f"a client of the load met an error that is no part of it: {said}. The load that was"
            " under way tells nothing. If PostgreSQL's log does not say what to change, it is an"
            " error of Rowlock's: please report it."
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What one process is asked to do."""

    url: str
    roles: tuple[Role, ...]
    span: Span


class Crew:
    """So many processes; a load's roles are dealt to them."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._members: list[tuple[SpawnProcess, Connection]] = []
        with _deaf_to_interrupts():
            for _ in range(processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._members.append((process, ours))

    @property
    def size(self) -> int:
        return len(self._members)

    def begin(self, url: str, roles: Sequence[Role], span: Span) -> Running:
        """Give the roles out, wait until all are connected, and let them begin at one moment."""
        busy = []
        for number, (_, pipe) in enumerate(self._members):
            share = tuple(roles[number :: len(self._members)])
            if share:
                pipe.send(Load(url, share, span))
                busy.append(pipe)
        for pipe in busy:
            said = _heard(pipe)
            if said != "ready":
                raise Lost(said)
        at = time.monotonic() + SETTLE_S + span.warm_s
        for pipe in busy:
            pipe.send(at)
        return Running(busy, at)

    def close(self) -> None:
        for process, pipe in self._members:
            pipe.close()
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A terminal's Ctrl-C goes to children too, and would end one that is still importing.

    What is blocked here stays blocked in them; we get it when this is left.
    """
    resource_tracker.ensure_running()  # which multiprocessing starts first, and then unblocks
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True)
class Running:
    """A load that has begun at ``at``, on the clock that all processes of a machine share."""

    pipes: list[Connection]
    at: float

    def result(self) -> Tally:
        """Wait for its end. Raises Lost or ClientFailed with what clients said last."""
        whole = Tally()
        for pipe in self.pipes:
            whole.add(_heard(pipe))
        if whole.losses:
            raise Lost("; ".join(sorted(set(whole.losses))[:5]))
        if whole.errors:
            raise ClientFailed("; ".join(sorted(set(whole.errors))[:5]))
        return whole


def _heard(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise ClientFailed("a client process has ended by itself") from None


def serve(pipe: Connection) -> None:
    """A process of the crew: one load after the other until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over
    threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()
    while True:
        try:
            load = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            seats = [Seat(load.url, load.span) for _ in load.roles]
        except psycopg.Error as error:
            with suppress(OSError):  # who asked is gone: the next recv tells
                pipe.send(f"can't connect: {describe(error)}")
            continue
        try:
            pipe.send("ready")
            begin = pipe.recv()
        except (EOFError, OSError):
            return
        used = time.process_time()
        threads = []
        for seat, role in zip(seats, load.roles, strict=True):
            seat.begin = begin
            threads.append(threading.Thread(target=_play, args=(role, seat)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        whole = Tally()
        for seat in seats:
            seat.close()
            whole.add(seat.tally)
        whole.cpu_s = time.process_time() - used
        try:
            pipe.send(whole)
        except OSError:
            return


def _end_with_the_parent(parent: int) -> None:
    """Its pipe tells only who reads it: a parent that is killed ends a load as well."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _play(role: Role, seat: Seat) -> None:
    ahead = seat.begin - seat.span.warm_s - time.monotonic()
    if ahead > 0:
        time.sleep(ahead)
    try:
        role.run(seat)
    except Exception as error:
        if isinstance(error, psycopg.Error) and is_loss(error):
            seat.tally.losses.append(describe(error))
        else:
            seat.tally.errors.append(f"{type(role).__name__}: {error!r}")
