"""An App: the named set of workflows, steps and queues that one code base brings.

The decorators register and return typed objects; everything that can be wrong with a name, a
signature or an option is refused here, when the module is imported, not when a run is under way.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)
from uuid import UUID

from rowlock.blocking import BlockingClient
from rowlock.client import Client
from rowlock.client.arguments import wrong_one
from rowlock.errors import ConfigurationError, MisplacedCall
from rowlock.model.code import Code, WorkflowCode
from rowlock.model.commands import (
    IDENTITY,
    NUMBER,
    TIME,
    AwaitEvent,
    Emit,
    ExecuteStep,
    Note,
    Receive,
    Send,
    SetEvent,
    Sleep,
    seconds_of,
)
from rowlock.model.envelope import Chain, Codec, Codecs
from rowlock.model.failure import ErrorRegistry
from rowlock.model.groups import GroupShape
from rowlock.model.inputs import Inputs, hints_of
from rowlock.model.limits import limits_of
from rowlock.model.rates import Rate
from rowlock.model.retry import Retry
from rowlock.model.schedules import CatchUp, Declaration, Overlap
from rowlock.model.values import Shape
from rowlock.runtime import inside, source
from rowlock.runtime.tenure import WorkerOptions
from rowlock.scheduling import ScheduleOptions, When, declaration
from rowlock.settings import Settings
from rowlock.store.transactions import ISOLATION_LEVELS
from rowlock.worker import BlockingWorker, Worker
from rowlock.workflow import (
    AsyncStep,
    AsyncTransaction,
    AsyncWorkflow,
    Call,
    Child,
    CommandCall,
    EmitCall,
    MapCall,
    StartCall,
    SyncStep,
    SyncTransaction,
    SyncWorkflow,
    TimeoutScope,
    Workflow,
    WorkflowCall,
)

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # type checkers know it; nobody else needs it

P = ParamSpec("P")
R = TypeVar("R")
Duration = timedelta | float

T = TypeVar("T")
W = TypeVar("W", bound=Workflow[..., Any])

MOST_NAME_CHARS = 200
MOST_SECONDS = 100 * 365 * 86400
ONCE = Retry()


@dataclass(frozen=True, slots=True)
class Queue:
    """Where runs wait. Declared with ``app.queue``; pass it to ``@app.workflow(queue=…)``."""

    app: str
    name: str


class StepDecorator(Protocol):
    """What ``@app.step(…)`` gives."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncStep[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncStep[P, R]: ...


class TransactionDecorator(Protocol):
    """What ``@app.transaction(…)`` gives."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTransaction[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> SyncTransaction[P, R]: ...


class WorkflowDecorator(Protocol):
    """What ``@app.workflow(…)`` gives."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncWorkflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncWorkflow[P, R]: ...


class App:
    """A named set of workflows, steps and queues.

    ``name``: unique among the apps that share a database. ``errors``: exception types that are
    raised as themselves when a recorded error is replayed (Python's own always are). ``codec``:
    what encodes the values that are stored, see rowlock.codecs; of several the first one writes,
    all read.
    """

    def __init__(
        self,
        name: str,
        *,
        errors: Iterable[type[Exception]] = (),
        codec: Codec | Chain | Sequence[Codec | Chain] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.name = _checked(name, "app")
        self._settings = settings
        self._errors = ErrorRegistry(errors)
        self._codecs = Codecs.of(codec)
        self._workflows: dict[str, WorkflowCode] = {}
        self._steps: dict[str, Callable[..., Any]] = {}
        self._schedules: dict[str, Declaration] = {}
        self._queues: dict[str, Queue] = {"default": Queue(name, "default")}
        self._limits: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<App {self.name}: {len(self._workflows)} workflows>"

    @property
    def code(self) -> Code:
        """What a worker needs to run this app."""
        functions = {name: code.function for name, code in self._workflows.items()} | self._steps
        lines = {name: source.line_of(function) for name, function in functions.items()}
        return Code(
            self.name,
            dict(self._workflows),
            tuple(self._queues),
            self._errors,
            self._codecs,
            {name: line for name, line in lines.items() if line is not None},
            json.dumps({name: self._limits.get(name, {}) for name in self._queues}),
            tuple(self._schedules.values()),
        )

    @property
    def settings(self) -> Settings:
        """The settings given, else those of the environment."""
        return self._settings or Settings.from_environment()

    def client(self, settings: Settings | None = None) -> Client:
        """A client of this app: ``async with app.client() as client:``."""
        return Client(settings or self.settings, code=self.code)

    def blocking_client(self, settings: Settings | None = None) -> BlockingClient:
        """The same for code that is not async: ``with app.blocking_client() as client:``."""
        return BlockingClient(settings or self.settings, code=self.code)

    def worker(
        self,
        *,
        slots: int = 100,
        queues: Iterable[Queue | str] | None = None,
        grace: Duration = 10.0,
        settings: Settings | None = None,
    ) -> Worker:
        """A worker in this process: ``async with app.worker(slots=20):``.

        It works in the running event loop, beside whatever else does; enough for development, for
        tests, and for few runs. ``slots``: most runs loaded at a time. ``queues``: those it serves,
        all by default. ``grace``: seconds or timedelta that runs may go on when the block ends;
        the rest is handed back. Entering waits until it is registered, and raises Disconnected
        when the database can't be reached within its connect timeout, SchemaTooOld, SchemaTooNew.
        Leaving raises WorkerFailed if it had ended before, by an error.
        """
        return Worker(
            settings or self.settings,
            self.code,
            self._worker_options(slots, queues, seconds_of(grace)),
        )

    def blocking_worker(
        self,
        *,
        slots: int = 100,
        queues: Iterable[Queue | str] | None = None,
        grace: Duration = 10.0,
        settings: Settings | None = None,
    ) -> BlockingWorker:
        """The same for code that is not async, in a thread: ``with app.blocking_worker():``."""
        return BlockingWorker(
            self.worker(slots=slots, queues=queues, grace=grace, settings=settings)
        )

    def _worker_options(
        self, slots: int, queues: Iterable[Queue | str] | None, grace_s: float
    ) -> WorkerOptions:
        if slots < 1:
            raise ConfigurationError(f"slots must be at least 1, not {slots}")
        if not grace_s >= 0:
            raise ConfigurationError(f"grace must be 0 or more, not {grace_s:g} s")
        named = None if queues is None else list(queues)
        if isinstance(queues, str) or named == []:
            raise ConfigurationError(
                f"queues must name queues, such as [{', '.join(map(repr, self._queues))}], not "
                f"{queues!r}; leave it out for all"
            )
        names = None if named is None else tuple(map(self._queue_name, named))
        return WorkerOptions(slots=slots, queues=names, grace_s=grace_s)

    # --- declaring

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        worker_concurrency: int | None = None,
        rate: Rate | str | None = None,
        partitions: bool | None = None,
        partition_concurrency: int | None = None,
        partition_rate: Rate | str | None = None,
        ageing: timedelta | None = None,
        weight: float | None = None,
    ) -> Queue:
        """Declare a queue and its limits. ``default`` is always there, and may be limited too.

        ``concurrency``: how many of its runs may hold a claim at a time, over all workers;
        ``worker_concurrency``: in one worker process. ``rate``: how many may begin in any period:
        ``"100/min"``, or a Rate to spread them or to allow a burst. ``partitions``: its runs wait
        in partitions, which take turns; ``partition_concurrency``, ``partition_rate``: for each of
        them. ``ageing``: by how much longer a run must have waited to go before one whose priority
        is better by one. ``weight``: how often a worker looks here first, in proportion to its
        other queues. What is set live (rowlock.set_limit) holds until the declaration changes.
        """
        _checked(name, "queue")
        limits = limits_of(
            name,
            concurrency=concurrency,
            worker_concurrency=worker_concurrency,
            rate=rate,
            partitions=partitions,
            partition_concurrency=partition_concurrency,
            partition_rate=partition_rate,
            ageing=ageing,
            weight=weight,
        )
        if not partitions and {"partition_concurrency", "partition_rate"} & limits.keys():
            raise ConfigurationError(
                f"queue {name}: a limit for each partition needs partitions=True. Nothing was "
                "declared."
            )
        if limits.get("partitions") is False:
            del limits["partitions"]
        if limits and self._limits.get(name, limits) != limits:
            raise ConfigurationError(
                f"queue {name} is declared twice, with different limits: {self._limits[name]} and "
                f"{limits}"
            )
        if limits:
            self._limits[name] = limits
        return self._queues.setdefault(name, Queue(self.name, name))

    @overload
    def workflow(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncWorkflow[P, R]: ...
    @overload
    def workflow(self, function: Callable[P, R], /) -> SyncWorkflow[P, R]: ...
    @overload
    def workflow(
        self, *, name: str | None = None, queue: Queue | str | None = None
    ) -> WorkflowDecorator: ...

    def workflow(  # type: ignore[misc]
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        queue: Queue | str | None = None,
    ) -> Any:
        """Register a function, async or not, as a workflow.

        ``name``: how callers name it; the function's own by default. ``queue``: where its runs
        wait; ``default`` by default.
        """

        def register(function: Callable[..., Any]) -> Workflow[..., Any]:
            workflow_name = _checked(function.__name__ if name is None else name, "workflow")
            if workflow_name in self._workflows:
                raise ConfigurationError(
                    f"app {self.name} has two workflows named {workflow_name}; give one a name=…"
                )
            code = WorkflowCode(
                workflow_name,
                self._queue_name(queue),
                function,
                _is_async(function),
                Inputs.of(function, codecs=self._codecs),
                self._shape(_returns(function), f"the result of workflow {workflow_name}"),
            )
            self._workflows[workflow_name] = code
            kind = AsyncWorkflow if code.is_async else SyncWorkflow
            return kind(code, function, self.name)

        return register if function is None else register(function)

    def schedule(
        self,
        when: When,
        *,
        name: str | None = None,
        timezone: str = "UTC",
        jitter: Duration = 0.0,
        overlap: Overlap = "skip",
        catch_up: CatchUp = "last",
        window: Duration | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> Callable[[W], W]:
        """Have a workflow started by the calendar: ``@app.schedule("0 3 * * *")`` above it.

        ``when``: a cron expression (minute hour day month weekday, or six fields with seconds in
        front) or an interval. ``name``: the workflow's by default; several on one workflow need
        names. ``args``: its arguments; a parameter ``tick`` is given the time of the tick. The
        rest: see :class:`rowlock.scheduling.ScheduleOptions`. Each tick starts one run, whichever
        workers are there. What the code of the current version does not declare any more stops.
        """

        def register(workflow: W) -> W:
            if not isinstance(workflow, Workflow) or workflow.app != self.name:
                raise ConfigurationError(
                    f"@app.schedule goes above @app.workflow of the same app, not above "
                    f"{workflow!r}"
                )
            schedule_name = _checked(workflow.name if name is None else name, "schedule")
            if schedule_name in self._schedules:
                raise ConfigurationError(
                    f"app {self.name} has two schedules named {schedule_name}; give one a name=…"
                )
            options: ScheduleOptions = {
                "timezone": timezone,
                "jitter": jitter,
                "overlap": overlap,
                "catch_up": catch_up,
                "window": window,
                "start": start,
                "end": end,
                "queue": None if queue is None else self._queue_name(queue),
                "priority": priority,
            }
            if wrong := wrong_one({"when": when, "args": args, **options}):
                raise ConfigurationError(
                    f"schedule {schedule_name} can't work: {wrong[0]}: {wrong[1]} Nothing was "
                    "declared."
                )
            self._schedules[schedule_name] = declaration(
                schedule_name, when, workflow, args, None, self._codecs, options
            )
            return workflow

        return register

    @overload
    def step(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncStep[P, R]: ...
    @overload
    def step(self, function: Callable[P, R], /) -> SyncStep[P, R]: ...
    @overload
    def step(
        self, *, name: str | None = None, retry: Retry = ONCE, timeout: Duration | None = None
    ) -> StepDecorator: ...

    def step(  # type: ignore[misc]
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry = ONCE,
        timeout: Duration | None = None,
    ) -> Any:
        """Make a function a step: called in a run it is executed once and recorded.

        ``retry``: how often and when to try again. ``timeout``: seconds or timedelta for one
        attempt; an async step is cancelled then, a sync one abandoned.
        """

        def register(function: Callable[..., Any]) -> Any:
            step_name = self._step_name(function.__name__ if name is None else name, function)
            shape = self._shape(_returns(function), f"the result of step {step_name}")
            _check_policy(step_name, retry, timeout)
            kind = AsyncStep if _is_async(function) else SyncStep
            return kind(step_name, function, shape, retry, timeout)

        return register if function is None else register(function)

    @overload
    def transaction(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTransaction[P, R]: ...
    @overload
    def transaction(
        self, function: Callable[Concatenate[Any, P], R], /
    ) -> SyncTransaction[P, R]: ...
    @overload
    def transaction(
        self,
        *,
        name: str | None = None,
        retry: Retry = ONCE,
        timeout: Duration | None = None,
        isolation: str = "read committed",
    ) -> TransactionDecorator: ...

    def transaction(  # type: ignore[misc]
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry = ONCE,
        timeout: Duration | None = None,
        isolation: str = "read committed",
    ) -> Any:
        """Make a function a transaction: its writes commit together with its checkpoint.

        Its first parameter is the connection (psycopg's AsyncConnection, for a plain function
        Connection), inside a transaction that Rowlock begins and ends; callers leave it out.
        Annotated as SQLAlchemy's AsyncSession (Session), it is a session on that connection.
        ``isolation``: read committed, repeatable read or serializable; conflicts are tried again.
        """

        def register(function: Callable[..., Any]) -> Any:
            step_name = self._step_name(function.__name__ if name is None else name, function)
            first = next(iter(inspect.signature(function).parameters), None)
            if first is None:
                raise ConfigurationError(
                    f"transaction {step_name} needs a first parameter: the connection to write with"
                )
            if isolation not in ISOLATION_LEVELS:
                raise ConfigurationError(
                    f"transaction {step_name}: isolation must be one of "
                    f"{', '.join(ISOLATION_LEVELS)}, not {isolation!r}"
                )
            shape = self._shape(_returns(function), f"the result of transaction {step_name}")
            _check_policy(step_name, retry, timeout)
            kind = AsyncTransaction if _is_async(function) else SyncTransaction
            wanted = hints_of(function).get(first)
            return kind(step_name, function, shape, retry, timeout, isolation, wanted)

        return register if function is None else register(function)

    # --- in a run: awaited in async workflows, `.wait()` in sync ones

    def sleep(self, duration: Duration) -> Call[None]:
        """Go on after a while (seconds or timedelta). More than a second costs no slot."""
        return CommandCall(Sleep(_span(duration, "a sleep")))

    def timeout(self, duration: Duration) -> TimeoutScope:
        """``async with app.timeout(…):`` cancels its inside in time and raises TimeoutError."""
        return TimeoutScope(_span(duration, "a timeout"))

    def now(self) -> Call[datetime]:
        """The time (PostgreSQL's, UTC), recorded: a replay sees the same."""
        return CommandCall(Note("now", TIME))

    def uuid(self) -> Call[UUID]:
        """A random UUID, recorded: a replay sees the same."""
        return CommandCall(Note("uuid", IDENTITY))

    def random(self) -> Call[float]:
        """A random number in [0, 1), recorded: a replay sees the same."""
        return CommandCall(Note("random", NUMBER))

    @overload
    def run_step(
        self,
        name: str,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Call[R]: ...
    @overload
    def run_step(
        self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]: ...

    def run_step(
        self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Run a function that you can't decorate as a step named ``name``.

        A plain function runs in a thread. Its result is stored as the function's return
        annotation says, or as plain JSON where it has none.
        """
        _checked(name, "step")
        try:
            annotation = _returns(function)
        except (ConfigurationError, TypeError, ValueError):
            annotation = Any  # such as a builtin without a signature
        return CommandCall(
            ExecuteStep(
                name,
                self._shape(annotation, f"the result of step {name}"),
                function,
                _is_async(function),
                args,
                kwargs,
                ONCE,
            )
        )

    def start_child(
        self,
        call: WorkflowCall[R],
        *,
        key: str | None = None,
        queue: Queue | str | None = None,
        partition: str | None = None,
        priority: int | None = None,
        attributes: dict[str, Any] | None = None,
        deadline: Duration | None = None,
        detached: bool = False,
    ) -> StartCall[R]:
        """Start a child run without waiting for it; gives its handle.

        ``key``: if a run with it exists, that one is the child. ``partition``: which part of a
        queue with partitions, ``priority``: 0 first to 100 last; the parent's by default, both.
        ``attributes``: JSON to search runs by. ``deadline``: seconds or timedelta within which it
        must end. ``detached``: it is not cancelled with its parent.
        """
        text = None if attributes is None else ATTRIBUTES.store(attributes)
        queue_name = None if queue is None else self._queue_name(queue)
        return StartCall(
            call,
            call.start_command(
                self._codecs,
                key=key,
                queue=queue_name,
                priority=priority,
                attributes=text,
                deadline_s=None if deadline is None else _span(deadline, "a deadline"),
                detached=detached,
                partition=partition,
            ),
            call.result_with(self._codecs),
        )

    @overload
    def map(
        self,
        calls: Iterable[WorkflowCall[R]],
        *,
        queue: Queue | str | None = None,
        partition: str | None = None,
        priority: int | None = None,
        attributes: dict[str, Any] | None = None,
        return_exceptions: Literal[False] = False,
    ) -> Call[list[R]]: ...
    @overload
    def map(
        self,
        calls: Iterable[WorkflowCall[R]],
        *,
        queue: Queue | str | None = None,
        partition: str | None = None,
        priority: int | None = None,
        attributes: dict[str, Any] | None = None,
        return_exceptions: Literal[True],
    ) -> Call[list[R | BaseException]]: ...

    def map(
        self,
        calls: Iterable[WorkflowCall[Any]],
        *,
        queue: Queue | str | None = None,
        partition: str | None = None,
        priority: int | None = None,
        attributes: dict[str, Any] | None = None,
        return_exceptions: bool = False,
    ) -> Call[list[Any]]:
        """Start a child run for each call, wait for all of them, give their results in order.

        However many they are, the parent sleeps once and is woken once. A child that fails raises
        its error when all have ended; with ``return_exceptions`` it stands among the results.
        """
        text = None if attributes is None else ATTRIBUTES.store(attributes)
        queue_name = None if queue is None else self._queue_name(queue)
        calls = list(calls)
        for call in calls:
            if not isinstance(call, WorkflowCall):
                raise MisplacedCall(
                    f"app.map takes calls of workflows, such as (fulfil(o) for o in orders), not "
                    f"{call!r}"
                )
        children = [
            call.start_command(
                self._codecs,
                queue=queue_name,
                partition=partition,
                priority=priority,
                attributes=text,
            )
            for call in calls
        ]
        shape = GroupShape(
            tuple(call.result_with(self._codecs) for call in calls),
            tuple(call.workflow for call in calls),
            self._errors,
        )
        return MapCall(children, shape, raises=not return_exceptions)

    # --- messages, events, streams

    @overload
    def receive(
        self, topic: str, type: TypeForm[T], *, timeout: Duration | None = None
    ) -> Call[T]: ...
    @overload
    def receive(self, topic: str, *, timeout: Duration | None = None) -> Call[Any]: ...

    def receive(
        self,
        topic: str,
        type: Any = Any,  # noqa: A002
        *,
        timeout: Duration | None = None,
    ) -> Call[Any]:
        """The next message of a topic to this run, waiting for it if there is none.

        ``type``: what it is loaded as. ``timeout``: seconds or timedelta; then ReceiveTimeout is
        raised. A message that does not fit ``type`` raises InvalidValue, and is received.
        """
        _checked(topic, "topic")
        seconds = None if timeout is None else _span(timeout, "a timeout")
        return CommandCall(
            Receive(topic, self._shape(type, f"a message on topic {topic}"), seconds)
        )

    def send(
        self, to: UUID | Child[Any], topic: str, value: Any = None, *, key: str | None = None
    ) -> Call[None]:
        """Send a message to another run, exactly once.

        ``to``: its id, or the child that ``start_child`` gave. ``key``: another message with this
        key to that run is not sent again. Raises NotDelivered when the run has ended.
        """
        _checked(topic, "topic")
        text = self._outgoing(value, f"a message on topic {topic}")
        return CommandCall(Send(topic, to.run_id if isinstance(to, Child) else to, text, key))

    def set_event(self, name: str, value: Any = None) -> Call[None]:
        """Show a value to others under a name; the latest counts, and stays after the end."""
        _checked(name, "event")
        return CommandCall(SetEvent(name, self._outgoing(value, f"event {name}")))

    @overload
    def get_event(
        self,
        run: UUID | Child[Any],
        name: str,
        type: TypeForm[T],
        *,
        timeout: Duration | None = None,
    ) -> Call[T]: ...
    @overload
    def get_event(
        self, run: UUID | Child[Any], name: str, *, timeout: Duration | None = None
    ) -> Call[Any]: ...

    def get_event(
        self,
        run: UUID | Child[Any],
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        timeout: Duration | None = None,
    ) -> Call[Any]:
        """The value of another run's event, waiting until it is set for the first time.

        ``timeout``: seconds or timedelta; then ReceiveTimeout is raised. Raises EventNeverSet when
        that run ends without setting it.
        """
        _checked(name, "event")
        seconds = None if timeout is None else _span(timeout, "a timeout")
        run_id = run.run_id if isinstance(run, Child) else run
        return CommandCall(AwaitEvent(name, run_id, self._shape(type, f"event {name}"), seconds))

    def emit(self, stream: str, value: Any = None) -> Call[None]:
        """Append a value to a stream of this run, which anybody may read, live or later.

        From a workflow exactly once; from a step each time the step is executed.
        """
        _checked(stream, "stream")
        return EmitCall(Emit(stream, self._outgoing(value, f"an entry of stream {stream}")))

    # --- undoing

    def compensate(
        self,
        undo: AsyncStep[P, Any]
        | SyncStep[P, Any]
        | AsyncTransaction[P, Any]
        | SyncTransaction[P, Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Do this step if the run fails or is cancelled: the undo of what was done before.

        What is registered is done in reverse order, each as a step with its own retry policy, after
        the workflow's code has ended. One that fails for good does not hold up the others; the
        run's error says so. Register an undo *before* the step it undoes if that may take effect
        and still fail.
        """
        if not isinstance(undo, AsyncStep | SyncStep | AsyncTransaction | SyncTransaction):
            raise MisplacedCall(
                f"app.compensate takes a step and its arguments, such as app.compensate(unbook, "
                f"trip), not {undo!r}"
            )
        undo.compensate(*args, **kwargs)

    # --- in a step

    def cancelled(self) -> bool:
        """Whether nobody waits for this step any more: ask it in the loops of a plain function.

        True once its timeout has passed, its run was cancelled or lost, or the worker hands its
        runs back. What the step gives or raises from then on counts for nothing. Takes about a
        microsecond. Raises MisplacedCall outside a step.
        """
        stop = inside.stop()
        if stop is None:
            raise MisplacedCall(
                "app.cancelled was called outside a step. It says whether anybody still waits for "
                "the step it is called in: a workflow's own code hears of its cancellation as "
                "CancelledError. In a thread that a step started itself, run the function in the "
                "step's context: contextvars.copy_context().run(function)."
            )
        return stop.is_set()

    # --- checks

    def _shape(self, annotation: Any, what: str) -> Shape:
        """How values of this app are stored; all but attributes, which SQL searches."""
        return Shape(annotation, what, codecs=self._codecs)

    def _outgoing(self, value: Any, what: str) -> str:
        """A value for others, whose types are not known here."""
        return Shape(Any, what, codecs=self._codecs, outgoing=True).store(value)

    def _queue_name(self, queue: Queue | str | None) -> str:
        if queue is None:
            return "default"
        name = queue.name if isinstance(queue, Queue) else queue
        if name not in self._queues or (isinstance(queue, Queue) and queue.app != self.name):
            raise ConfigurationError(
                f"app {self.name} has no queue {name}; declare it first: "
                f'{self.name}.queue("{name}")'
            )
        return name

    def _step_name(self, name: str, function: Callable[..., Any]) -> str:
        _checked(name, "step")
        if name in self._steps:
            raise ConfigurationError(
                f"app {self.name} has two steps named {name}; give one a name=…"
            )
        self._steps[name] = function
        return name


ATTRIBUTES = Shape(dict[str, Any], "attributes")


def _checked(name: str, what: str) -> str:
    if not isinstance(name, str):
        raise ConfigurationError(f"{what} name {name!r}: it must be a str")
    if not name or len(name) > MOST_NAME_CHARS or not name.isprintable():
        raise ConfigurationError(
            f"{what} name {name[:50]!r}: use 1 to {MOST_NAME_CHARS} printable characters"
        )
    return name


def _span(duration: Duration, what: str) -> float:
    seconds = seconds_of(duration)
    if not 0 <= seconds < MOST_SECONDS:
        raise ConfigurationError(f"{what} of {duration} can't be: from 0 s to a hundred years")
    return seconds


def _check_policy(name: str, retry: Retry, timeout: Duration | None) -> None:
    if not isinstance(retry, Retry):
        raise ConfigurationError(
            f"step {name}: retry is {retry!r}, but must be a Retry, such as Retry(attempts=5)"
        )
    if timeout is not None and not seconds_of(timeout) > 0:
        raise ConfigurationError(f"step {name}: a timeout must be more than 0, not {timeout}")


def _is_async(function: Callable[..., Any]) -> bool:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__} is a generator; steps and workflows return one value"
        )
    if inspect.ismethod(function):
        raise ConfigurationError(
            f"{function.__qualname__} is a bound method: another process would not have its "
            "object. Use a function or a staticmethod and pass what it needs as arguments."
        )
    return inspect.iscoroutinefunction(function)


def _returns(function: Callable[..., Any]) -> Any:
    return hints_of(function).get("return", Any)


__all__ = ["App", "Queue"]
