"""Carries out steps: calls the function, tries again as its policy says, reports the end.

The inside of a step is outside the run: it runs in a task (or thread) of its own, where asyncio is
what it always is. A sync step that takes longer than its timeout, or that nobody waits for any
more, is abandoned: its thread can't be stopped, but its late result is thrown away.

Reads: commands.  Writes: through the execution that asked.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from rowlock.errors import InvalidValue, StepTimeout
from rowlock.model.commands import ExecuteStep, ExecuteTransaction
from rowlock.model.failure import Failure
from rowlock.runtime import inside
from rowlock.runtime.execution import Execution
from rowlock.runtime.points import Points
from rowlock.runtime.request import Request
from rowlock.runtime.step_stop import StepStop
from rowlock.runtime.step_threads import Abandoned, StepThreads
from rowlock.store.connection import Backoff, Disconnected, SessionPool
from rowlock.store.statements import RECORD_FAILED_TRANSACTION, RECORDED
from rowlock.store.transactions import (
    AlreadyRecorded,
    CommitUnknown,
    NotOwned,
    Transaction,
    Transactions,
    is_conflict,
)
from rowlock.telemetry import logs
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.step")

MOST_CONFLICTS = 20
LONG_S = 1.0
MOST_TOLD = 100


class Doing(msgspec.Struct):
    """A step that is being executed, as the heartbeat tells it."""

    run: str
    place: str
    name: str
    attempt: int
    seconds: float


class StepRunner:
    """Executes the steps of all runs of one worker process."""

    def __init__(
        self,
        threads: StepThreads,
        transactions: Transactions,
        side: SessionPool,
        connections: int,
        observer: Observer,
        points: Points | None = None,
    ) -> None:
        self._threads = threads
        self._transactions = transactions
        self._side = side
        self._observer = observer
        self._points = points
        self._active: dict[Request, tuple[Execution, float]] = {}
        self._places = asyncio.Semaphore(connections)
        """As many as there are connections: who waits for one must not hold a thread meanwhile."""
        self._left_alone: set[asyncio.Task[None]] = set()

    def execute(self, execution: Execution, request: Request) -> None:
        """Begin to carry out a step; the execution hears of its end."""
        work = (
            self._run_transaction
            if isinstance(request.command, ExecuteTransaction)
            else self._run_step
        )
        self._active[request] = (execution, time.monotonic())
        request.task = asyncio.get_running_loop().create_task(
            work(execution, request), context=request.context
        )

    def running(self) -> list[str]:
        """What is being executed now, for people: step, place, run, since when."""
        now = time.monotonic()
        return [
            f"step {request.command.name} at {request.place} of run {execution.run_id} "
            f"(for {now - since:.1f} s)"
            for request, (execution, since) in self._active.items()
        ]

    def doing(self) -> list[Doing]:
        """The steps that take long, the longest first; at most MOST_TOLD."""
        now = time.monotonic()
        long = [
            Doing(
                str(execution.run_id),
                request.place,
                request.command.name,
                request.attempt or 1,
                now - since,
            )
            for request, (execution, since) in self._active.items()
            if now - since >= LONG_S
        ]
        return sorted(long, key=lambda one: -one.seconds)[:MOST_TOLD]

    async def _run_step(self, execution: Execution, request: Request) -> None:
        command = request.command
        assert isinstance(command, ExecuteStep)
        try:
            while True:
                self._begin_attempt(execution, request)
                began = time.perf_counter()
                try:
                    if self._points is not None:
                        await self._points.calling(execution.claimed, request)
                    value = await self._call(execution, request, command)
                    output, value = command.shape.store_and_load(value)
                except BaseException as error:
                    seconds = self._end_attempt(execution, request, began, error)
                    if await self._try_again(execution, request, error):
                        continue
                    if not request.parked and not _nobody_waits(execution, request):
                        if self._points is not None:
                            await self._points.called(execution.claimed, request)
                        execution.record_failure(request, Failure.of(error), seconds)
                else:
                    seconds = self._end_attempt(execution, request, began, None)
                    if self._points is not None:
                        await self._points.called(execution.claimed, request)
                    execution.record_step(request, value, output, seconds)
                return
        finally:
            self._active.pop(request, None)

    def _begin_attempt(self, execution: Execution, request: Request) -> None:
        request.attempt += 1
        request.stop = StepStop()
        inside.enter_step(request.command.name, request.stop, execution)
        logs.enter(
            logs.Where(
                execution.run_text,
                execution.workflow.name,
                request.place,
                request.command.name,
                request.attempt,
            )
        )
        self._observer.step_began(
            execution.claimed,
            request.place,
            request.command.kind,
            request.command.name,
            request.attempt,
        )

    def _end_attempt(
        self, execution: Execution, request: Request, began: float, error: BaseException | None
    ) -> float:
        """Gives how long it took, in seconds."""
        seconds = time.perf_counter() - began
        self._observer.step_ended(execution.claimed, request.command.name, seconds, error)
        return seconds

    async def _call(self, execution: Execution, request: Request, command: ExecuteStep) -> Any:
        function = command.function
        if command.is_async:
            if command.timeout_s is None:
                return await function(*command.args, **command.kwargs)
            async with _in_time(command, request.stop):
                return await function(*command.args, **command.kwargs)
        context = contextvars.copy_context()
        call = self._threads.submit(
            partial(context.run, _without_stop, function, *command.args, **command.kwargs)
        )
        try:
            async with _in_time(command, request.stop):
                return await asyncio.wrap_future(call)
        finally:
            # One that has not begun never will; what has begun goes on, and its result is void.
            if not call.cancel() and not call.done():
                mark = self._abandon(execution, request)
                call.add_done_callback(lambda _: self._threads.ended(mark))

    def _abandon(
        self, execution: Execution, request: Request, *, has_connection: bool = False
    ) -> Abandoned:
        """What is at work in a thread for a step is at work for nobody from now on."""
        command = request.command
        given_up = _nobody_waits(execution, request)
        log.log(
            logging.INFO if given_up else logging.WARNING,
            "%s %s goes on in its thread after %s; %s",
            command.kind,
            command.name,
            "its run gave it up" if given_up else "its timeout",
            "it will be rolled back" if has_connection else "its result is void",
        )
        self._observer.step_abandoned(execution.claimed, command.name)
        return self._threads.abandon(command.name, has_connection=has_connection)

    async def _try_again(
        self, execution: Execution, request: Request, error: BaseException
    ) -> bool:
        """Whether to go on with another attempt here and now (after a short pause)."""
        if _nobody_waits(execution, request):
            return False
        command = request.command
        assert isinstance(command, ExecuteStep)
        if isinstance(error, InvalidValue):
            return False  # the same result would be refused again
        pause = command.retry.after(error, request.attempt, random.random())
        if pause is None:
            return False
        delay_s = pause.total_seconds()
        log.info(
            "attempt %d of step %s failed, again in %.2f s: %s: %s",
            request.attempt,
            command.name,
            delay_s,
            type(error).__name__,
            error,
            extra={"attempt": request.attempt},
        )
        if delay_s > execution.host.in_memory_s:
            execution.park_retry(request, delay_s, Failure.of(error))
            return False
        await asyncio.sleep(delay_s)
        return True

    # --- transactions

    async def _run_transaction(self, execution: Execution, request: Request) -> None:
        try:
            await self._transact_until_done(execution, request)
        except Exception as error:
            log.exception("Rowlock failed around transaction %s", request.command.name)
            execution.record_failure(request, Failure.of(error))
        finally:
            self._active.pop(request, None)
            if request.position is not None:  # nobody waits for it any more
                execution.unsettle(request.position)
                request.position = None

    async def _transact_until_done(self, execution: Execution, request: Request) -> None:
        command = request.command
        assert isinstance(command, ExecuteTransaction)
        conflicts = 0
        backoff = Backoff()
        while True:
            self._begin_attempt(execution, request)
            began = time.perf_counter()
            try:
                await self._transact(execution, request, command, began)
            except NotOwned as error:
                self._end_attempt(execution, request, began, error)
                if not request.future.done():  # else cancelled, and the run may have ended since
                    execution.lost()
                return
            except (AlreadyRecorded, CommitUnknown, Disconnected) as error:
                # An earlier try may stand there. Not there does not mean it never will be: the
                # next try waits for it on the step's key, and then finds it.
                self._end_attempt(execution, request, began, error)
                if not isinstance(error, AlreadyRecorded):
                    await asyncio.sleep(backoff.next_s())
                if await self._adopt(execution, request):
                    return
                request.attempt -= 1
            except BaseException as error:
                seconds = self._end_attempt(execution, request, began, error)
                if is_conflict(error) and conflicts < MOST_CONFLICTS:
                    conflicts += 1
                    request.attempt -= 1
                    await asyncio.sleep(random.uniform(0, 0.01 * conflicts))
                    continue
                if not await self._try_again(execution, request, error):
                    if not request.parked and not _nobody_waits(execution, request):
                        await self._record_failed(execution, request, Failure.of(error), seconds)
                    return
            else:
                self._end_attempt(execution, request, began, None)
                return

    async def _transact(
        self, execution: Execution, request: Request, command: ExecuteTransaction, began: float
    ) -> None:
        if self._points is not None:
            await self._points.calling(execution.claimed, request)
        if command.is_async:
            await self._transact_here(execution, request, command, began)
            return
        # What is at work in a thread can't be stopped, and two threads on one connection crash
        # libpq. So a thread is never interrupted: who gives up on it goes away and leaves it a
        # task of its own, which rolls back when the thread is done.
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        work = self._see_through(execution, request, command, began, over)
        self._keep(asyncio.create_task(work))
        await over

    async def _transact_here(
        self, execution: Execution, request: Request, command: ExecuteTransaction, began: float
    ) -> None:
        transaction = await self._transactions.asynchronous()
        try:
            await transaction.begin(command.isolation)
            async with _in_time(command, request.stop):
                value = await transaction.call(_in_context(command))
            output, value = command.shape.store_and_load(value)
            if self._points is not None:
                await self._points.committing(execution.claimed, request)
        except BaseException:
            await transaction.abandon()
            raise
        # A cancellation must not cut off a pipeline: the connection would be spoilt, its prepared
        # statements unknown. The commit goes on by itself, and nobody waits for what it gives.
        commit = self._commit(transaction, execution, request, began, output, value)
        await asyncio.shield(self._keep(asyncio.create_task(commit)))

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._left_alone.add(task)
        task.add_done_callback(self._on_left_alone)
        return task

    def _on_left_alone(self, task: asyncio.Task[None]) -> None:
        self._left_alone.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited was told; who went away does not want to know

    async def _see_through(
        self,
        execution: Execution,
        request: Request,
        command: ExecuteTransaction,
        began: float,
        over: asyncio.Future[None],
    ) -> None:
        """A transaction in a thread, to its end. ``over`` done: nobody waits for it any more."""
        try:
            async with self._places:
                if not over.done():
                    await self._transact_in_thread(execution, request, command, began, over)
        except BaseException as error:
            if not over.done():
                over.set_exception(error)
        else:
            if not over.done():
                over.set_result(None)

    async def _transact_in_thread(
        self,
        execution: Execution,
        request: Request,
        command: ExecuteTransaction,
        began: float,
        over: asyncio.Future[None],
    ) -> None:
        stop = request.stop
        transaction = await self._transactions.synchronous()
        call: asyncio.Future[Any] | None = None
        try:
            await transaction.begin(command.isolation)
            stop.limit(command.timeout_s)
            call = asyncio.ensure_future(transaction.call(_in_context(command)))
            await asyncio.wait(
                [call, over], timeout=command.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not call.done():
                mark = self._abandon(execution, request, has_connection=True)
                call.add_done_callback(lambda _: self._threads.ended(mark))
            if not over.done() and (not call.done() or stop.is_late):
                over.set_exception(_timeout_of(command))
            await asyncio.wait([call])
            value = call.result()
            if over.done():
                await transaction.abandon()
                return
            output, value = command.shape.store_and_load(value)
            if self._points is not None:
                await self._points.committing(execution.claimed, request)
        except BaseException:
            if call is None or call.done():  # else the process ends, and the thread is at work
                await transaction.abandon()
            raise
        await self._commit(transaction, execution, request, began, output, value)

    async def _commit(
        self,
        transaction: Transaction,
        execution: Execution,
        request: Request,
        began: float,
        output: str,
        value: Any,
    ) -> None:
        position = self._position(execution, request)
        try:
            await transaction.finish(
                {
                    "run": execution.run_id,
                    "generation": execution.generation,
                    "epoch": execution.epoch,
                    "place": request.place,
                    "position": position,
                    "name": request.command.name,
                    "attempts": request.attempt,
                    "seconds": time.perf_counter() - began,
                    "output": output,
                }
            )
        except (CommitUnknown, AlreadyRecorded):
            if request in self._active:
                # Nothing behind it is delivered before it is known whether it stands there.
                request.position = position
            else:  # nobody asks
                execution.unsettle(position)
            raise
        except BaseException:
            execution.unsettle(position)
            raise
        if self._points is not None:
            await self._points.committed(execution.claimed, request)
        execution.settle(position, request, value)

    async def _adopt(self, execution: Execution, request: Request) -> bool:
        """Deliver what stands at the place already; False when nothing does."""
        found = await self._ask(RECORDED, execution, request, {})
        if not found:
            return False
        position = self._position(execution, request)
        execution.adopt(position, request, found[0].output, found[0].error)
        return True

    @staticmethod
    def _position(execution: Execution, request: Request) -> int:
        """The one of an earlier try whose fate is open, or a new one."""
        position, request.position = request.position, None
        return execution.next_position() if position is None else position

    async def _record_failed(
        self, execution: Execution, request: Request, failure: Failure, seconds: float
    ) -> None:
        """Record a transaction's error: after its rollback, over another connection."""
        position = self._position(execution, request)
        try:
            found = await self._ask(
                RECORD_FAILED_TRANSACTION,
                execution,
                request,
                {
                    "epoch": execution.epoch,
                    "position": position,
                    "name": request.command.name,
                    "attempts": max(1, request.attempt),
                    "seconds": seconds,
                    "error": failure.to_json(),
                },
            )
        except BaseException:
            execution.unsettle(position)
            raise
        if not found:
            execution.unsettle(position)
            if not request.future.done():
                execution.lost()
            return
        execution.adopt(position, request, found[0].output, found[0].error)

    async def _ask(
        self, statement: Any, execution: Execution, request: Request, more: dict[str, Any]
    ) -> list[Any]:
        backoff = Backoff()
        while True:
            try:
                return await self._side.rows(
                    statement,
                    {
                        "run": execution.run_id,
                        "generation": execution.generation,
                        "place": request.place,
                        **more,
                    },
                )
            except Disconnected:
                await asyncio.sleep(backoff.next_s())


def _timeout_of(command: ExecuteStep) -> StepTimeout:
    assert command.timeout_s is not None
    return StepTimeout(command.name, command.timeout_s)


def _in_context(command: ExecuteTransaction) -> Callable[..., Any]:
    """The user's function, to be called with the connection alone."""
    if command.is_async:
        return lambda connection: command.function(connection, *command.args, **command.kwargs)
    context = contextvars.copy_context()
    return lambda connection: context.run(
        _without_stop, command.function, connection, *command.args, **command.kwargs
    )


def _without_stop(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a plain function. A future takes any error but StopIteration, and would never end."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"the step raised StopIteration({error})") from error


@asynccontextmanager
async def _in_time(command: ExecuteStep, stop: StepStop) -> AsyncIterator[None]:
    """What is inside may take as long as the step's timeout; what comes of it later is void.

    A step that was told so may have given half of its work: that is void however early it came.
    """
    stop.limit(command.timeout_s)
    try:
        async with asyncio.timeout(command.timeout_s) as limit:
            yield
    except Exception as error:
        if limit.expired() or stop.is_late:
            why = None if isinstance(error, TimeoutError) else error
            raise _timeout_of(command) from why
        raise
    if limit.expired() or stop.is_late:
        raise _timeout_of(command)


def _nobody_waits(execution: Execution, request: Request) -> bool:
    """Whether the run has given the step up: it was unloaded, or cancelled the step."""
    return execution.end is not None or request.future.done()
