"""Every error Rowlock raises on purpose.

Each message says what happened, why, and what to do; each error carries its facts as
attributes, so that code never has to parse a message.
"""

from __future__ import annotations

from uuid import UUID


class RowlockError(Exception):
    """The root of all errors of Rowlock."""


# --- before anything is written


class ConfigurationError(RowlockError):
    """A setting, a decorator's argument or a function's signature can't be used as it is."""


class InvalidValue(RowlockError, ValueError):
    """A value can't be stored, or what is stored does not fit the type it is declared with.

    ``path`` names the place inside the value, such as ``order.lines[3].price``.
    """

    def __init__(self, what: str, path: str, why: str, hint: str = "") -> None:
        self.what = what
        self.path = path
        self.why = why
        where = f" at {path}" if path else ""
        super().__init__(f"{what} can't be used{where}: {why}" + (f" {hint}" if hint else ""))


class UnreadableValue(InvalidValue):
    """A stored value went through a codec that this process does not have, or has no key for.

    A run that meets one is blocked, not failed: with the codec it can go on.
    """

    def __init__(self, what: str, path: str, why: str, hint: str = "", codec: str = "") -> None:
        self.codec = codec
        super().__init__(what, path, why, hint)


class Refused(RowlockError):
    """The database refused a request before it wrote anything; ``sqlstate`` is stable."""

    def __init__(self, message: str, sqlstate: str | None = None, hint: str | None = None) -> None:
        self.sqlstate = sqlstate
        self.hint = hint
        super().__init__(f"{message.removesuffix('.')}. {hint}" if hint else message)


class UnknownRun(RowlockError, LookupError):
    """There is no run with this id."""

    def __init__(self, run_id: UUID) -> None:
        self.run_id = run_id
        super().__init__(
            f"there is no run {run_id}: the id is wrong or belongs to another database, retention "
            "has removed the run, or it is of an app that this role may not use."
        )


class MisplacedCall(RowlockError):
    """A verb was used where it can't work: outside a run, inside a step, or the wrong way."""


# --- how runs and steps end


class StepFailed(RowlockError):
    """A step ended in an error whose type this process does not know how to raise again.

    The recorded facts are kept: ``error_type``, ``error_message`` and ``error_traceback``. List
    the exception type in ``App(errors=[…])`` to have it raised as itself.
    """

    def __init__(
        self, step: str, error_type: str, error_message: str, error_traceback: str = ""
    ) -> None:
        self.step = step
        self.error_type = error_type
        self.error_message = error_message
        self.error_traceback = error_traceback
        super().__init__(f"{step} failed: {error_type}: {error_message}")


class StepTimeout(RowlockError, TimeoutError):
    """A step took longer than its ``timeout``."""

    def __init__(self, step: str, seconds: float) -> None:
        self.step = step
        self.seconds = seconds
        super().__init__(
            f"step {step} took longer than its timeout of {seconds:g} s and was abandoned. Raise "
            "the step's timeout if this work may take so long."
        )

    def __reduce__(self) -> tuple[type[StepTimeout], tuple[str, float]]:
        return (StepTimeout, (self.step, self.seconds))


class ReceiveTimeout(RowlockError, TimeoutError):
    """No message came in time, or the event was not set in time."""

    def __init__(self, what: str, seconds: float) -> None:
        self.what = what
        self.seconds = seconds
        super().__init__(
            f"{what} did not come within {seconds:g} s. Catch ReceiveTimeout to go on without it."
        )

    def __reduce__(self) -> tuple[type[ReceiveTimeout], tuple[str, float]]:
        return (ReceiveTimeout, (self.what, self.seconds))


class EventNeverSet(RowlockError, LookupError):
    """The run whose event was waited for has ended without setting it."""

    def __init__(self, run_id: UUID, name: str) -> None:
        self.run_id = run_id
        self.name = name
        super().__init__(
            f"run {run_id} has ended (or never was) and has not set event {name}: waiting for it "
            "would never end."
        )

    def __reduce__(self) -> tuple[type[EventNeverSet], tuple[UUID, str]]:
        return (EventNeverSet, (self.run_id, self.name))


class NotDelivered(RowlockError):
    """A message was sent to a run that has ended, or that does not exist."""

    def __init__(self, run_id: UUID, topic: str) -> None:
        self.run_id = run_id
        self.topic = topic
        super().__init__(
            f"the message on topic {topic} was not delivered: run {run_id} has ended, or there is "
            "none. Catch NotDelivered where that may happen."
        )

    def __reduce__(self) -> tuple[type[NotDelivered], tuple[UUID, str]]:
        return (NotDelivered, (self.run_id, self.topic))


class DeadlineExceeded(RowlockError, TimeoutError):
    """The run had not ended by its deadline."""

    def __init__(self, workflow: str) -> None:
        self.workflow = workflow
        super().__init__(
            f"the run of {workflow} had not ended by its deadline. `rowlock retry` lets it go on "
            "without one."
        )

    def __reduce__(self) -> tuple[type[DeadlineExceeded], tuple[str]]:
        return (DeadlineExceeded, (self.workflow,))


class Cancelled(RowlockError):
    """The run was cancelled."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        super().__init__(reason or "it was cancelled")


class RunFailed(RowlockError):
    """The run whose result was asked for did not succeed; ``status`` says how it ended."""

    def __init__(
        self,
        run_id: UUID,
        workflow: str,
        status: str,
        error_type: str = "",
        error_message: str = "",
        error_traceback: str = "",
    ) -> None:
        self.run_id = run_id
        self.workflow = workflow
        self.status = status
        self.error_type = error_type
        self.error_message = error_message
        self.error_traceback = error_traceback
        why = f": {error_type}: {error_message}" if error_type else ""
        super().__init__(f"run {run_id} of {workflow} ended as {status}{why}")


class ResultTimeout(RowlockError, TimeoutError):
    """The run was still unfinished when the caller's patience ended; the run goes on."""

    def __init__(self, run_id: UUID, seconds: float) -> None:
        self.run_id = run_id
        self.seconds = seconds
        super().__init__(
            f"run {run_id} did not finish within {seconds:g} s. It goes on; ask again later."
        )


class Nondeterminism(RowlockError):
    """The code of a workflow does not fit the history that the run has recorded.

    The run is ``blocked``: it executes nothing until someone resumes it on code that fits.
    """

    def __init__(
        self,
        workflow: str,
        place: str,
        expected: str,
        found: str,
        recorded_version: str | None = None,
        running_version: str | None = None,
        line: str | None = None,
        expected_line: str | None = None,
    ) -> None:
        self.workflow = workflow
        self.place = place
        self.expected = expected
        self.found = found
        self.recorded_version = recorded_version
        self.running_version = running_version
        self.line = line
        """Where the present code makes the call, as ``file:line``; None if that is not known."""
        self.expected_line = expected_line
        """Where the present code defines what was expected, if it still does."""
        versions = ""
        if recorded_version or running_version:
            versions = (
                f" (recorded by version {recorded_version or 'unnamed'}, running version "
                f"{running_version or 'unnamed'})"
            )
        super().__init__(
            f"workflow {workflow} does not fit its history at place {place}: expected {expected}"
            f"{_at(expected_line)}, found {found}{_at(line)}{versions}. The run is blocked and "
            "nothing was executed. Bring back code that makes the same calls in the same order and "
            "`rowlock resume` the run, or give changed workflows a new ROWLOCK_VERSION so that "
            "old runs stay on old code."
        )


def _at(line: str | None) -> str:
    return f" ({line})" if line else ""


class Disconnected(RowlockError):
    """The connection to PostgreSQL was lost, or could not be opened.

    Nothing is known of a statement that was under way: it may have committed. A start with a key
    can simply be repeated.
    """


# --- the worker's own life


class LeaseLost(RowlockError):
    """Another worker owns this run now; this attempt must stop writing."""

    def __init__(self, run_id: UUID, epoch: int) -> None:
        self.run_id = run_id
        self.epoch = epoch
        super().__init__(
            f"lost the lease on run {run_id} (epoch {epoch}). Nothing is lost: the new owner "
            "goes on from the last recorded step. If this repeats, a step blocks the event "
            "loop or the process was starved: make it a sync step, or raise lease_seconds."
        )


class WorkerFailed(RowlockError):
    """The worker of an ``async with app.worker():`` ended before its block did, by an error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            f"the worker in this process failed: {type(error).__name__}: {error}. Nothing is lost: "
            "other workers go on with its runs."
        )


class SchemaTooOld(RowlockError):
    """The database has not been migrated to what this code needs."""

    def __init__(self, found: int, needed: int) -> None:
        self.found = found
        self.needed = needed
        have = f"is at level {found}" if found else "has no Rowlock schema yet"
        super().__init__(
            f"the database {have}, this code needs level {needed}. Run `rowlock migrate`."
        )


class SchemaTooNew(RowlockError):
    """The database demands newer code than this."""

    def __init__(self, level: int, minimum: int) -> None:
        self.level = level
        self.minimum = minimum
        super().__init__(
            f"the database may only be used by code of level {minimum} or newer, this code is of "
            f"level {level}. Install a newer rowlock; nothing was changed."
        )


class ContinueAsNew(BaseException):
    """Raised by ``workflow.continue_as_new(…)``: the run ends here, and begins anew."""

    def __init__(self, workflow: str, input: str) -> None:  # noqa: A002
        self.workflow = workflow
        self.input = input
        super().__init__(f"workflow {workflow} continues as new")


class Suspended(BaseException):
    """Thrown into a run that is being unloaded while it waits.

    It passes through ``finally`` blocks on its way out. Whatever the code then returns or
    raises is discarded: the run goes on later, on any worker, from what is recorded.
    """
