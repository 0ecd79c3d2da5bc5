"""`rowlock worker-process`: one of the processes of a worker; not for people.

It loads the user's code, works until drained, and tells the parent how it is, by the protocol in
runtime/supervisor.py. When the parent is gone it drains, too. Threads that hang in the user's
code don't keep it from ending.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import click
import msgspec

from rowlock.app import App
from rowlock.cli import loading
from rowlock.cli.main import USAGE, exit_code_of
from rowlock.cli.options import log_options
from rowlock.errors import ConfigurationError, RowlockError
from rowlock.runtime.process import WorkerProcess
from rowlock.runtime.supervisor import LONGEST_LINE, STOP_MARGIN_S, USED_UP_CODE, Line
from rowlock.runtime.tenure import WorkerOptions
from rowlock.settings import Settings
from rowlock.telemetry import logs
from rowlock.telemetry.metrics import Metrics
from rowlock.telemetry.pages import Page
from rowlock.telemetry.setup import observers

log = logging.getLogger("rowlock.worker")

LAST_WORDS_S = 1.0
"""What tasks that were cancelled, and threads that were told to end, get at most."""


class Parent:
    """The socket to the parent."""

    def __init__(self, fd: int) -> None:
        # Python made it inheritable for us; the user's own subprocesses must not get it.
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._sending = threading.Lock()
        self._rest = b""
        """Of a line that the socket took only a part of."""
        self.page: Callable[[], Page] = Page
        """What this process has counted; asked in a thread of its own."""
        self.on_gone: Callable[[], None] = lambda: os._exit(1)
        """Called in a thread of its own. While the user's code loads, nothing is to be saved."""
        threading.Thread(target=self._watch, name="rowlock-parent", daemon=True).start()

    def tell(self, status: str, loaded: int) -> None:
        """Never waits: a parent that was stopped must not cost this worker its lease."""
        if not self._sending.acquire(blocking=False):
            return  # a page is on its way; the next tick says how we are
        try:
            line = self._rest + _encoded(Line(os.getpid(), status, loaded))
            with suppress(OSError):
                self._rest = line[self._socket.send(line, socket.MSG_DONTWAIT) :]
        finally:
            self._sending.release()

    def tell_broken(self, why: str) -> None:
        with suppress(OSError):
            self._send(_encoded(Line(os.getpid(), "broken", 0, why)))

    def tell_last_page(self) -> None:
        """What was counted since the parent asked last; a parent that stands still misses it."""
        telling = threading.Thread(target=self._tell_page, daemon=True)
        telling.start()
        telling.join(LAST_WORDS_S)

    def _send(self, line: bytes) -> None:
        """Waits until the parent has room for it: never to be called in the event loop."""
        with self._sending:
            self._socket.sendall(self._rest + line)
            self._rest = b""

    def _watch(self) -> None:
        with suppress(OSError):
            while heard := self._socket.recv(1024):
                if b"\n" in heard:  # there is but one thing that the parent says
                    self._tell_page()
        self.on_gone()

    def _tell_page(self) -> None:
        try:
            line = _encoded(Line(os.getpid(), "counted", page=self.page()))
            if len(line) > LONGEST_LINE:
                raise ValueError(f"{len(line)} bytes are more than the parent takes in a line")
        except Exception:  # this thread has to see the parent go
            log.exception("the metrics of this process can't be told")
            line = _encoded(Line(os.getpid(), "counted", page=Page()))
        with suppress(OSError):  # the parent went meanwhile: who watches the socket sees it, too
            self._send(line)


def _encoded(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


@click.command("worker-process", hidden=True)
@click.argument("target", metavar="MODULE:APP")
@click.option("--slots", type=int, required=True)
@click.option("--grace", "grace_s", type=float, required=True)
@click.option("--queues")
@click.option("--socket", "fd", type=int, required=True)
@log_options
def worker_process_command(
    target: str,
    slots: int,
    grace_s: float,
    queues: str | None,
    fd: int,
    log_format: str,
    log_level: str,
) -> int:
    """Run one process of a worker (started by `rowlock worker`)."""
    logs.set_up(level=log_level, style=log_format)
    parent = Parent(fd)
    try:
        settings = Settings.from_environment()
        app = loading.load(target)
        options = WorkerOptions(slots=slots, queues=_known(queues, app), grace_s=grace_s)
        metrics = Metrics(app.code, settings.version)
        observer = observers(app.code.app, settings.version, metrics)
    except ConfigurationError as error:
        parent.tell_broken(str(error))
        return USAGE
    parent.page = metrics.page
    worker = WorkerProcess(settings, app.code, options, on_status=parent.tell, observer=observer)
    runner = asyncio.Runner()
    code = 0
    try:
        done = runner.run(_work(worker, parent, grace_s))
    except RowlockError as error:
        log.error("%s", error)
        code, done = exit_code_of(error), False
    except Exception:
        log.exception("the worker process failed")
        code, done = 1, False
    if code == 0 and worker.is_used_up:
        code = USED_UP_CODE
    parent.tell_last_page()
    observer.close()
    if done and not _stuck_threads():
        runner.close()
        return code
    # At a normal exit Python would wait for every thread, and asyncio for every task.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


async def _work(worker: WorkerProcess, parent: Parent, grace_s: float) -> bool:
    """Work until drained; whether nothing of the user's code is left running in the loop."""
    clock = asyncio.get_running_loop()
    # asyncio's own executor could only be shut down by waiting for it.
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    clock.set_default_executor(executor)

    def on_gone() -> None:
        log.warning("the parent process is gone: draining")
        with suppress(RuntimeError):  # the loop is closed: it was ending anyway
            clock.call_soon_threadsafe(worker.drain)
        time.sleep(grace_s + STOP_MARGIN_S)
        os._exit(1)  # there is nobody else who could end a process that hangs

    parent.on_gone = on_gone
    await worker.run()
    executor.shutdown(wait=False, cancel_futures=True)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        _, others = await asyncio.wait(others, timeout=LAST_WORDS_S)
    for task in others:
        log.warning("abandoned: %r did not end when it was cancelled", task)
    return not others


def _stuck_threads() -> bool:
    """Whether threads hold up the exit; those that are only ending get a moment."""
    until = time.monotonic() + LAST_WORDS_S
    stuck = []
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            stuck.append(thread.name)
    if stuck:
        log.warning("abandoned threads that are still at work: %s", ", ".join(stuck))
    return bool(stuck)


def _known(queues: str | None, app: App) -> tuple[str, ...] | None:
    if queues is None:
        return None
    names = tuple(filter(None, (name.strip() for name in queues.split(","))))
    known = app.code.queues
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise ConfigurationError(
            f"app {app.name} has no queue {', '.join(missing) or 'without a name'}; it has "
            f"{', '.join(known)}"
        )
    return names
