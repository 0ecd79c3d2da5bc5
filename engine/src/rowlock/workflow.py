"""What the decorators make: steps, transactions, workflows, and the calls of them.

Calling a workflow describes it (a Call); calling a step in a run records it. Sync and async
functions have classes of their own, so that types stay whole: what is awaited is awaitable.

Reads: where it is called (runtime/inside.py).  Writes: nothing; the runtime carries commands out.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from types import EllipsisType
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, Self, TypeVar, Unpack, cast
from uuid import UUID

from rowlock.errors import ConfigurationError, ContinueAsNew, MisplacedCall
from rowlock.model.code import WorkflowCode
from rowlock.model.commands import (
    AwaitGroup,
    AwaitRun,
    Command,
    Emit,
    ExecuteStep,
    ExecuteTransaction,
    Sleep,
    StartChild,
    StartGroup,
    seconds_of,
)
from rowlock.model.envelope import Chain, Codec, Codecs
from rowlock.model.groups import GroupShape
from rowlock.model.history import describe
from rowlock.model.inputs import Arguments
from rowlock.model.retry import Retry
from rowlock.model.values import Shape
from rowlock.runtime import inside
from rowlock.starting import (
    Sql,
    StartOptions,
    Style,
    refuse_unknown,
    start_parameters,
    start_sql,
)
from rowlock.store.transactions import handed

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

log = logging.getLogger("rowlock.run")


class Call(Coroutine[object, object, R_co]):
    """Something that a run can do: await it in an async workflow, ``.wait()`` in a sync one.

    It is a Coroutine, so ``asyncio.create_task``, ``gather`` and ``TaskGroup`` take it; it takes
    its place in the history when it is first awaited. (Of ``object``, here and in what steps give:
    with ``Any`` mypy takes the results of ``gather`` for Any when they differ in type.)
    """

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: Coroutine[Any, Any, R_co] | None = None

    async def _perform(self) -> R_co:
        raise NotImplementedError

    def wait(self) -> R_co:
        """Do it and wait for its outcome, in a sync workflow."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, R_co]:
        return self._perform().__await__()

    def _coroutine(self) -> Coroutine[Any, Any, R_co]:
        if self._begun is None:
            self._begun = self._perform()
        return self._begun

    def send(self, value: Any, /) -> Any:
        return self._coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine().throw(*error)

    def close(self) -> None:
        if self._begun is not None:
            self._begun.close()


class CommandCall(Call[R_co]):
    """A call of one command."""

    __slots__ = ("_asked", "_command", "_made_in")

    def __init__(self, command: Command) -> None:
        super().__init__()
        self._command = command
        self._asked = False
        self._made_in = inside.execution() or inside.thread()

    def __del__(self) -> None:
        # As Python does for a coroutine: silence would report success for what never happened.
        if not self._asked and self._made_in is not None and not self._made_in.is_over:
            log.warning(
                "%s was called but never awaited (in a sync workflow: `.wait()`), so it did not "
                "happen",
                describe(self._command.kind, self._command.name),
            )

    def _coroutine(self) -> Coroutine[Any, Any, R_co]:
        self._asked = True
        return super()._coroutine()

    async def _perform(self) -> R_co:
        self._asked = True
        return cast("R_co", await perform(self._command))

    def __await__(self) -> Generator[Any, Any, R_co]:
        self._asked = True
        # The hot path of every step: the same as _perform, without its coroutines.
        execution = inside.execution()
        if execution is None:
            _refuse(self._command, blocking=False)
        return cast("R_co", (yield from execution.request(self._command)))

    def wait(self) -> R_co:
        self._asked = True
        return cast("R_co", perform_blocking(self._command))


class EmitCall(CommandCall[None]):
    """An entry of a stream: a command of its workflow, or sent from inside a step."""

    __slots__ = ("_entry",)

    def __init__(self, command: Emit) -> None:
        super().__init__(command)
        self._entry = command
        self._asked = self._asked or inside.step() is not None

    async def _perform(self) -> None:
        if inside.step() is None:
            await super()._perform()
        elif (run := inside.stage()) is not None:  # a step that is called alone shows nobody
            await asyncio.wrap_future(run.emit(self._entry.name, self._entry.value))

    def __await__(self) -> Generator[Any, Any, None]:
        return self._perform().__await__()

    def wait(self) -> None:
        if inside.step() is None:
            super().wait()
        elif (run := inside.stage()) is not None:
            if asyncio._get_running_loop() is not None:
                raise MisplacedCall(
                    "app.emit: `.wait()` would block the loop in an async step. Await the call in "
                    f"step {inside.step()}."
                )
            run.emit(self._entry.name, self._entry.value).result()


async def perform(command: Command) -> Any:
    """Carry out a command for the async run that this is called in."""
    execution = inside.execution()
    if execution is None:
        _refuse(command, blocking=False)
    return await execution.request(command)


def perform_blocking(command: Command) -> Any:
    """Carry out a command for the sync run that this is called in."""
    thread = inside.thread()
    if thread is None:
        _refuse(command, blocking=True)
    return thread.perform(command)


def _refuse(command: Command, *, blocking: bool) -> NoReturn:
    what = {
        "child": f"workflow {command.name}",
        "children": "app.map",
        "result": "a wait for another run",
    }.get(command.kind, f"app.{command.kind}")
    if (step := inside.step()) is not None:
        raise MisplacedCall(
            f"{what} was called inside step {step}. A step is one recorded thing: sleep with "
            "asyncio or time there, and start other workflows from the workflow itself."
        )
    if blocking and inside.execution() is not None:
        raise MisplacedCall(
            f"{what}: `.wait()` would block the worker in an async workflow. Await the call."
        )
    if not blocking and inside.thread() is not None:
        raise MisplacedCall(f"{what} was awaited in a sync workflow: use `.wait()` on the call.")
    hint = (
        f"To start it: `await client.start({command.name}(…))`."
        if command.kind == "child"
        else "It belongs into a function decorated with @app.workflow."
    )
    raise MisplacedCall(f"{what} was called outside a run, where nothing is recorded. {hint}")


# --- workflows


class WorkflowCall(Call[R_co]):
    """A workflow with its arguments: what to start, or to await as a child run.

    The arguments of a call without the code are encoded by whoever starts it.
    """

    __slots__ = ("_input", "app", "result", "workflow")

    def __init__(
        self,
        workflow: str,
        input: str | Arguments,  # noqa: A002
        result: Shape,
        app: str | None = None,
    ) -> None:
        super().__init__()
        self.app = app
        self.workflow = workflow
        self._input = input
        self.result = result

    def input_with(self, codecs: Codecs | None) -> str:
        """The input as it is stored; raises InvalidValue for a Secret that nothing hides."""
        return self._input if isinstance(self._input, str) else self._input.stored(codecs)

    def result_with(self, codecs: Codecs | None) -> Shape:
        """How the result is loaded."""
        return self.result if isinstance(self._input, str) else self.result.with_codecs(codecs)

    def sql(
        self,
        *,
        app: str | None = None,
        key: str | None = None,
        style: Style = "pyformat",
        codec: Codec | Chain | Sequence[Codec | Chain] | EllipsisType | None = ...,
        **options: Unpack[StartOptions],
    ) -> Sql:
        """The SQL that starts it, and its parameters, for a driver that Rowlock does not know.

        ``style``: how the driver writes parameters: ``pyformat`` (``%(name)s``), ``named``
        (``:name``), ``numeric`` (``$1``, with a list). The result is one row with the run's id.
        For a call without the code: ``app`` may be left out when the database serves one app only;
        ``codec``, the App's own, or None where it has none, must be said. Raises InvalidValue,
        ConfigurationError.
        """
        refuse_unknown("sql", options, StartOptions)
        if isinstance(self._input, str):
            if codec is not ... or app not in (None, self.app):
                raise ConfigurationError(
                    f"workflow {self.workflow} is of app {self.app}, whose code is here, with its "
                    "codecs: leave app and codec out"
                )
            text = self._input
        elif codec is ...:
            raise ConfigurationError(
                f"the code of workflow {self.workflow} is not here, so it is not known how its app "
                "encodes what it stores. Say so: sql(codec=None) if it has no codec, else its codec"
            )
        else:
            text = self._input.stored(Codecs.of(codec))
        app = app or self.app
        return start_sql(start_parameters(self.workflow, text, app=app, key=key, **options), style)

    def __repr__(self) -> str:
        return f"<call of workflow {self.workflow}>"

    def start_command(
        self,
        codecs: Codecs | None = None,
        *,
        key: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        attributes: str | None = None,
        deadline_s: float | None = None,
        detached: bool = False,
        partition: str | None = None,
    ) -> StartChild:
        if partition is not None and not 0 < len(partition) <= 200:
            raise ConfigurationError(
                f"partition is {partition[:200]!r}, but must be a text of up to 200 characters"
            )
        if priority is not None and priority not in range(101):
            raise ConfigurationError(
                f"priority is {priority!r}, but must be a whole number from 0 (first) to 100 (last)"
            )
        return StartChild(
            self.workflow,
            self.input_with(codecs),
            queue,
            key,
            priority,
            attributes,
            deadline_s,
            detached,
            partition,
        )

    async def _perform(self) -> R_co:
        codecs = inside.codecs()
        run_id = await perform(self.start_command(codecs))
        awaited = AwaitRun(self.workflow, run_id, self.result_with(codecs))
        return cast("R_co", await perform(awaited))

    def wait(self) -> R_co:
        codecs = inside.codecs()
        run_id = perform_blocking(self.start_command(codecs))
        awaited = AwaitRun(self.workflow, run_id, self.result_with(codecs))
        return cast("R_co", perform_blocking(awaited))


class Workflow(Generic[P, R]):
    """A registered workflow. Calling it describes a run: start it, or await it in a run."""

    def __init__(self, code: WorkflowCode, function: Callable[..., Any], app: str) -> None:
        self.app = app
        self.code = code
        self.name = code.name
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[R]:
        stored = self.code.inputs.bind(args, kwargs)
        return WorkflowCall(self.name, stored, self.code.result, self.app)

    def continue_as_new(self, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        """End this run's history here and begin it anew with other arguments. In a run of it.

        The run keeps its id, its key, and the messages that nobody has received; it starts with
        nothing recorded, on the newest code. For workflows that would record without end.
        """
        if inside.execution() is None and inside.thread() is None:
            raise MisplacedCall(
                f"{self.name}.continue_as_new was called "
                + (f"inside step {step}" if (step := inside.step()) else "outside a run")
                + ": it ends the history of the run that calls it, from its workflow."
            )
        raise ContinueAsNew(self.name, self.code.inputs.bind(args, kwargs))

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class AsyncWorkflow(Workflow[P, R]):
    """One that is an async function. ``.function`` is the bare function, for tests."""

    def __init__(
        self, code: WorkflowCode, function: Callable[P, Coroutine[Any, Any, R]], app: str
    ) -> None:
        super().__init__(code, function, app)
        self.function = function


class SyncWorkflow(Workflow[P, R]):
    """One that is a plain function. ``.function`` is the bare function, for tests."""

    def __init__(self, code: WorkflowCode, function: Callable[P, R], app: str) -> None:
        super().__init__(code, function, app)
        self.function = function


class Child(Generic[R]):
    """A child run that was started: await its result when it is wanted."""

    def __init__(self, workflow: str, run_id: UUID, shape: Shape) -> None:
        self.workflow = workflow
        self.run_id = run_id
        self._shape = shape

    def result(self) -> Call[R]:
        """The child's result, awaited (or ``.wait()``); raises what the child raised."""
        return CommandCall(AwaitRun(self.workflow, self.run_id, self._shape))

    def __repr__(self) -> str:
        return f"<child run {self.run_id} of {self.workflow}>"


class StartCall(Call[Child[R]]):
    """Start a child run and give its handle."""

    __slots__ = ("_call", "_command", "_result")

    def __init__(self, call: WorkflowCall[R], command: StartChild, result: Shape) -> None:
        super().__init__()
        self._call = call
        self._command = command
        self._result = result

    async def _perform(self) -> Child[R]:
        return Child(self._call.workflow, await perform(self._command), self._result)

    def wait(self) -> Child[R]:
        run_id = perform_blocking(self._command)
        return Child(self._call.workflow, run_id, self._result)


class MapCall(Call[list[R]]):
    """Start a child for each of many calls, and wait for them all."""

    __slots__ = ("_children", "_raises", "_shape")

    def __init__(self, children: list[StartChild], shape: GroupShape, *, raises: bool) -> None:
        super().__init__()
        self._children = tuple(children)
        self._shape = shape
        self._raises = raises

    async def _perform(self) -> list[R]:
        if not self._children:
            return []
        group = await perform(StartGroup(self._children))
        return self._judged(await perform(AwaitGroup(group, self._shape)))

    def wait(self) -> list[R]:
        if not self._children:
            return []
        group = perform_blocking(StartGroup(self._children))
        return self._judged(perform_blocking(AwaitGroup(group, self._shape)))

    def _judged(self, results: list[Any]) -> list[R]:
        if self._raises:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return results


class TimeoutScope:
    """``async with app.timeout(…):``: what is inside is cancelled when the time is up.

    Works as asyncio.timeout does, but its firing is recorded, so a replay ends the same way.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    @property
    def expired(self) -> bool:
        """Whether the time was up before the inside was done."""
        return self._expired

    def __enter__(self) -> NoReturn:
        raise MisplacedCall(
            "app.timeout works in async workflows only: `async with app.timeout(…)`. In a sync "
            "workflow give the steps a timeout: @app.step(timeout=…)."
        )

    def __exit__(self, *_: object) -> None:
        return None

    async def __aenter__(self) -> Self:
        command = Sleep(self._seconds, kind="timeout")
        execution = inside.execution()
        if execution is None:
            _refuse(command, blocking=False)
        self._branch = execution.loop.branch()
        self._cancelling = self._branch.cancelling()
        self._timer = execution.request(command)
        self._timer.add_done_callback(self._on_timer)
        return self

    def _on_timer(self, timer: asyncio.Future[Any]) -> None:
        if not timer.cancelled() and timer.exception() is None:
            self._expired = True
            self._branch.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        self._timer.cancel()
        if (
            self._expired
            and self._branch.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError(f"app.timeout of {self._seconds:g} s") from error


# --- steps


class _StepBase:
    """What async and sync steps have in common."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        shape: Shape,
        retry: Retry,
        timeout: Any,
        *,
        is_async: bool,
    ) -> None:
        self.name = name
        self.retry = retry
        self._function = function
        self._shape = shape
        self._timeout_s = None if timeout is None else seconds_of(timeout)
        self._is_async = is_async
        functools.update_wrapper(cast("Any", self), function)

    def _command(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExecuteStep:
        return ExecuteStep(
            self.name,
            self._shape,
            self._function,
            self._is_async,
            args,
            kwargs,
            self.retry,
            self._timeout_s,
        )

    def compensate(self, *args: Any, **kwargs: Any) -> None:
        """Register this call of the step as an undo; see :meth:`rowlock.App.compensate`."""
        run = inside.execution() or inside.thread()
        if run is None:
            where = f"inside step {inside.step()}" if inside.step() else "outside a run"
            raise MisplacedCall(
                f"app.compensate({self.name}, …) was called {where}: what it registers is done "
                "when the run that registered it fails. Call it in the workflow."
            )
        run.compensate(self._command(args, kwargs))

    def __repr__(self) -> str:
        return f"<step {self.name}>"


class AsyncStep(_StepBase, Generic[P, R]):
    """A step that is an async function: ``await step(…)``, in a sync workflow ``step.blocking``."""

    def __init__(
        self,
        name: str,
        function: Callable[P, Awaitable[R]],
        shape: Shape,
        retry: Retry,
        timeout: Any,
    ) -> None:
        super().__init__(name, function, shape, retry, timeout, is_async=True)
        self.function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R]:
        if inside.thread() is not None:
            raise MisplacedCall(
                f"step {self.name} is async and was called in a sync workflow: use "
                f"{self.name}.blocking(…)."
            )
        if inside.execution() is not None:
            return CommandCall(self._command(args, kwargs))
        return inside.awaited_alone(self.name, self.function(*args, **kwargs))

    def blocking(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step from a sync workflow; outside a run, run it in a loop of its own."""
        if inside.thread() is not None:
            return cast("R", perform_blocking(self._command(args, kwargs)))
        if inside.execution() is not None:
            raise MisplacedCall(
                f"step {self.name}: `.blocking` would block the worker in an async workflow. "
                f"Use `await {self.name}(…)`."
            )
        return asyncio.run(inside.awaited_alone(self.name, self.function(*args, **kwargs)))


class SyncStep(_StepBase, Generic[P, R]):
    """A step that is a plain function: called in a sync workflow, ``in_thread`` in an async one."""

    def __init__(
        self, name: str, function: Callable[P, R], shape: Shape, retry: Retry, timeout: Any
    ) -> None:
        super().__init__(name, function, shape, retry, timeout, is_async=False)
        self.function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if inside.execution() is not None:
            raise MisplacedCall(
                f"step {self.name} is a plain function and would block the worker in an async "
                f"workflow: use `await {self.name}.in_thread(…)`."
            )
        if inside.thread() is not None:
            return cast("R", perform_blocking(self._command(args, kwargs)))
        return self._alone(*args, **kwargs)

    def _alone(self, *args: P.args, **kwargs: P.kwargs) -> R:
        with inside.step_alone(self.name):
            return self.function(*args, **kwargs)

    async def in_thread(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step in a thread, from an async workflow (or anywhere async outside a run)."""
        if inside.execution() is not None:
            return cast("R", await perform(self._command(args, kwargs)))
        return await asyncio.to_thread(self._alone, *args, **kwargs)


class _TransactionMixin(_StepBase):
    _isolation = "read committed"

    def _hand(self, wanted: Any) -> None:
        """What its first parameter is annotated with decides what it is handed."""
        self._function = handed(self._function, wanted, is_async=self._is_async)

    def _command(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExecuteTransaction:
        return ExecuteTransaction(
            self.name,
            self._shape,
            self._function,
            self._is_async,
            args,
            kwargs,
            self.retry,
            self._timeout_s,
            self._isolation,
        )

    def _outside(self) -> NoReturn:
        where = f"inside step {inside.step()}" if inside.step() else "outside a run"
        raise MisplacedCall(
            f"transaction {self.name} was called {where}, where there is no checkpoint to commit "
            f"it with. Call {self.name}.function(connection, …) with a connection of your own."
        )


class AsyncTransaction(_TransactionMixin, Generic[P, R]):
    """A step whose writes commit together with its checkpoint; callers leave the connection out."""

    def __init__(
        self,
        name: str,
        function: Callable[Concatenate[Any, P], Awaitable[R]],
        shape: Shape,
        retry: Retry,
        timeout: Any,
        isolation: str,
        wanted: Any,
    ) -> None:
        super().__init__(name, function, shape, retry, timeout, is_async=True)
        self.function = function
        self._isolation = isolation
        self._hand(wanted)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R]:
        if inside.thread() is not None:
            raise MisplacedCall(
                f"transaction {self.name} is async and was called in a sync workflow: use "
                f"{self.name}.blocking(…)."
            )
        if inside.execution() is None:
            self._outside()
        return CommandCall(self._command(args, kwargs))

    def blocking(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the transaction from a sync workflow."""
        if inside.thread() is None:
            self._outside()
        return cast("R", perform_blocking(self._command(args, kwargs)))


class SyncTransaction(_TransactionMixin, Generic[P, R]):
    """A transaction that is a plain function; ``in_thread`` in an async workflow."""

    def __init__(
        self,
        name: str,
        function: Callable[Concatenate[Any, P], R],
        shape: Shape,
        retry: Retry,
        timeout: Any,
        isolation: str,
        wanted: Any,
    ) -> None:
        super().__init__(name, function, shape, retry, timeout, is_async=False)
        self.function = function
        self._isolation = isolation
        self._hand(wanted)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if inside.execution() is not None:
            raise MisplacedCall(
                f"transaction {self.name} is a plain function and would block the worker in an "
                f"async workflow: use `await {self.name}.in_thread(…)`."
            )
        if inside.thread() is None:
            self._outside()
        return cast("R", perform_blocking(self._command(args, kwargs)))

    async def in_thread(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the transaction in a thread, from an async workflow."""
        if inside.execution() is None:
            self._outside()
        return cast("R", await perform(self._command(args, kwargs)))
