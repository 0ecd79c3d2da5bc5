"""The event loop a run's code lives in.

Each loaded run has a tiny loop of its own, driven from the worker's loop: it has a queue of
callbacks and nothing else. That gives three things. The run is quiet exactly when the queue is
empty, so outcomes can be delivered one at a time. Every task the code creates is a Branch with a
number, given in order of creation by its creator. And whatever knows nothing of replay (timers,
sockets, threads) is not there to be used, and is refused with a hint.

Drive it from a plain callback of the worker's loop, never from a task: since Python 3.14 a
thread may only be inside one task at a time.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import Future
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, NoReturn, Protocol, TypeVar

from rowlock.errors import MisplacedCall
from rowlock.model.commands import Command, ExecuteStep
from rowlock.model.envelope import Codecs

T = TypeVar("T")

MOST_CALLBACKS = 1_000_000
"""A run that is still not quiet after so many callbacks in a row is spinning."""

MOST_LEVELS = 200
"""A place holds a number for each level, and must fit into an index entry of PostgreSQL."""


class Branch(asyncio.Task[Any]):
    """A task of a run's code, with its place in the program.

    Its hash is its place, so that sets of branches (what ``asyncio.wait`` gives) are walked in the
    same order on every replay, in every process.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        loop: RunLoop,
        place: tuple[int, ...],
        name: str | None = None,
        context: Context | None = None,
        prefix: str = "",
    ) -> None:
        self.place = place
        self._prefix = prefix + "".join(f"{number}." for number in place)
        self._count = 0
        self._hash = hash(place) if place else id(self)
        super().__init__(coroutine, loop=loop, name=name or "run", context=context)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other

    def next_number(self) -> int:
        self._count += 1
        return self._count

    def next_place(self) -> str:
        """The place of the next thing this branch does."""
        self._count += 1
        return f"{self._prefix}{self._count}"


class NumberedFuture(asyncio.Future[Any]):
    """A future of the run's code (``shield`` makes them): its hash is its number, as above."""

    def __init__(self, loop: RunLoop, number: int) -> None:
        super().__init__(loop=loop)
        self._number = number

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


_UNSTOPPABLE: set[Branch] = set()


class Spinning(Exception):
    """The run's code never stops to wait."""

    def __init__(self) -> None:
        super().__init__(
            f"the workflow did not wait for anything in {MOST_CALLBACKS:,} turns of its loop: it "
            "probably polls with asyncio.sleep(0). Wait with app.sleep or for a step instead."
        )


class Run(Protocol):
    """The loaded run whose code lives in a loop: what its code, or its thread, may ask of it."""

    busy: int
    loop: RunLoop

    @property
    def is_over(self) -> bool:
        """Whether its code has ended, or is being thrown away."""
        ...

    @property
    def codecs(self) -> Codecs | None:
        """What encodes its values."""
        ...

    def request(self, command: Command) -> Future[Any]: ...
    def compensate(self, undo: ExecuteStep) -> None: ...
    def schedule_pump(self) -> None: ...
    def on_loop_error(self, context: dict[str, Any]) -> None: ...


class _Turn:
    """Stands for a Handle, which nobody in a workflow needs: asyncio's own code ignores it."""

    def cancel(self) -> NoReturn:
        raise MisplacedCall("a callback of a workflow's loop can't be cancelled")


_TURN = _Turn()


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


class RunLoop(asyncio.AbstractEventLoop):
    """The loop of one loaded run. See the module's text."""

    def __init__(self, execution: Run) -> None:
        self.execution: Run | None = execution
        self._ready: deque[tuple[Context | None, Callable[..., object], tuple[Any, ...]]] = deque()
        self._main: Branch | None = None
        self.branches: set[Branch] = set()
        self._left_generators = 0
        self._futures = 0

    # --- what the runtime does with it

    def begin(
        self, coroutine: Coroutine[Any, Any, Any], context: Context, prefix: str = ""
    ) -> Branch:
        """Make the branch of the run's function, or of what undoes it: its places have a prefix."""
        self._main = Branch(coroutine, loop=self, place=(), context=context, prefix=prefix)
        self._keep(self._main)
        return self._main

    def drive(self) -> None:
        """Run callbacks until the run is quiet. Raises Spinning when it never is."""
        ready = self._ready
        if not ready:
            return
        outer = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(None, self._on_left_generator)
        turns = 0
        try:
            while ready:
                context, callback, arguments = ready.popleft()
                try:
                    if context is None:
                        callback(*arguments)
                    else:
                        context.run(callback, *arguments)
                except KeyboardInterrupt:
                    raise
                except SystemExit:
                    pass  # its branch has kept it: it ends the run, not the worker
                except BaseException as error:
                    self.call_exception_handler(
                        {"message": f"error in callback {callback!r}", "exception": error}
                    )
                turns += 1
                if turns > MOST_CALLBACKS:
                    raise Spinning
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)

    @staticmethod
    def current() -> RunLoop | None:
        """The loop of the run whose code is running now, if any is."""
        loop = asyncio._get_running_loop()
        return loop if isinstance(loop, RunLoop) else None

    def branch(self) -> Branch:
        """The branch that is running now."""
        current = asyncio.current_task(self)
        branch = current if isinstance(current, Branch) else self._main
        assert branch is not None
        return branch

    def forget(self) -> None:
        """The code is thrown away: nobody will look at what its branches came to."""
        for branch in [*self.branches, *([self._main] if self._main else [])]:
            branch._log_destroy_pending = False  # type: ignore[attr-defined]
            if branch.done() and not branch.cancelled():
                branch.exception()
        # Break the circles: a worker unloads thousands, and should not wait for the collector.
        self._main = None
        self.branches.clear()
        self.execution = None

    def keep_for_ever(self) -> None:
        """Its code can't be stopped: keep it where it waits.

        The garbage collector would close it, and it would go on outside the run, where a step that
        is called is just executed.
        """
        self._ready.clear()
        _UNSTOPPABLE.update(branch for branch in self.branches if not branch.done())

    def _on_left_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """An async generator was left in the middle: its ``finally`` gets a branch of its own.

        Under 0, so that no other place depends on when Python notices. Noticed while other code
        runs (by the garbage collector, perhaps in another thread) it is dropped: the collector's
        time would decide what is recorded.
        """
        if asyncio._get_running_loop() is self and self._main is not None:
            self._left_generators += 1
            place = (0, self._left_generators)
            self._keep(Branch(_close(generator), loop=self, place=place))

    def _keep(self, branch: Branch) -> None:
        self.branches.add(branch)
        branch.add_done_callback(self.branches.discard)

    # --- what asyncio needs of it

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Turn:
        self._ready.append((context, callback, args))
        return _TURN

    def request_future(self) -> Future[Any]:
        """A future that only the code's `await` sees; lighter than :meth:`create_future`."""
        return Future(loop=self)

    def create_future(self) -> Future[Any]:
        caller = sys._getframe(1)
        if caller.f_code is _WAIT and len(waited := caller.f_locals["fs"]) > 1:
            _refuse_gathers(waited)
        self._futures += 1
        return NumberedFuture(self, self._futures)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        **_: Any,
    ) -> Branch:
        if _from_as_completed():
            coro.close()
            raise MisplacedCall(
                "asyncio.as_completed was given coroutines in a workflow: it would start them in "
                "an order that changes from process to process. Make tasks of them first: "
                "asyncio.as_completed([asyncio.create_task(c) for c in …])."
            )
        creator = self.branch()
        if len(creator.place) >= MOST_LEVELS:
            coro.close()
            raise MisplacedCall(
                f"the workflow nests tasks more than {MOST_LEVELS} deep, each at a place below its "
                "creator's. Use a loop, or hand the rest over to a child run."
            )
        branch = Branch(
            coro,
            loop=self,
            place=(*creator.place, creator.next_number()),
            name=name,
            context=context,
        )
        self._keep(branch)
        return branch

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.execution is not None:
            self.execution.on_loop_error(context)

    # --- what knows nothing of replay

    def time(self) -> float:
        self._refuse_timer()

    def call_later(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        self._refuse_timer()

    def call_at(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        self._refuse_timer()

    def _refuse_timer(self) -> NoReturn:
        raise MisplacedCall(
            "Python's timers (asyncio.sleep, asyncio.timeout, asyncio.wait_for) know nothing of "
            "replay and can't be used in a workflow. Use `await app.sleep(…)` and "
            "`async with app.timeout(…)`; inside a step they are fine."
        )

    def _refuse_work(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise MisplacedCall(
            "a workflow can't open sockets, start threads or processes, or read files through "
            "asyncio: its code is run again on every replay. Put such work into a step."
        )


_NO_WORK = (
    "run_in_executor",
    "call_soon_threadsafe",
    "getaddrinfo",
    "getnameinfo",
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "create_datagram_endpoint",
    "start_tls",
    "sendfile",
    "connect_read_pipe",
    "connect_write_pipe",
    "subprocess_shell",
    "subprocess_exec",
    "add_reader",
    "add_writer",
    "remove_reader",
    "remove_writer",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendto",
    "sock_sendfile",
    "sock_connect",
    "sock_accept",
    "add_signal_handler",
    "remove_signal_handler",
    "run_until_complete",
    "run_forever",
    "shutdown_asyncgens",
    "shutdown_default_executor",
    "close",
    "stop",
    "default_exception_handler",
    "get_exception_handler",
    "set_exception_handler",
    "set_debug",
    "set_task_factory",
    "get_task_factory",
    "connect_accepted_socket",
)
for _name in _NO_WORK:
    setattr(RunLoop, _name, RunLoop._refuse_work)


def _refuse_gathers(waited: Iterable[object]) -> None:
    """``asyncio.wait`` gives a set, and a gather's place in it is its address."""
    if any(type(future) is _GATHERING for future in waited):
        raise MisplacedCall(
            "asyncio.wait was given a gather(…) in a workflow: the order of what it gives would "
            "change from process to process. Make a task of it: asyncio.create_task(function()), "
            "with the gather inside the function."
        )


_GATHERING = getattr(asyncio.tasks, "_GatheringFuture", None)
_WAIT = asyncio.tasks._wait.__code__  # type: ignore[attr-defined]
_ENSURE_FUTURE = {
    function.__code__
    for name in ("ensure_future", "_ensure_future")
    if (function := getattr(asyncio.tasks, name, None)) is not None
}
_AS_COMPLETED = (
    {asyncio.as_completed.__code__} if hasattr(asyncio.as_completed, "__code__") else set()
)
if (_iterator := getattr(asyncio.tasks, "_AsCompletedIterator", None)) is not None:
    _AS_COMPLETED.add(_iterator.__init__.__code__)


def _from_as_completed() -> bool:
    """Whether create_task was reached through ``as_completed``, which walks a set of coroutines."""
    frame = sys._getframe(2)
    if frame.f_code not in _ENSURE_FUTURE:
        return False
    for _ in range(4):
        if frame.f_back is None:
            return False
        frame = frame.f_back
        if frame.f_code in _AS_COMPLETED:
            return True
    return False
