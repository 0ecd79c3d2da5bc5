"""What becomes of a run whose code has ended: what it did is undone, then its outcome is written.

What it registered with ``compensate`` is done in reverse order when it fails or is cancelled: steps
at places of their own, in the run's loop, as its code was. Code that does not fit its history does
not end: the run is blocked, with the reason.

Reads: what the code returned or raised.  Writes: one finish or release, through the run's Outbox.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from rowlock.errors import ContinueAsNew, InvalidValue, MisplacedCall, Nondeterminism, Suspended
from rowlock.model.commands import ExecuteStep
from rowlock.model.failure import Failure
from rowlock.model.history import Locked, Misfit
from rowlock.model.states import Outcome
from rowlock.runtime import source, stopping
from rowlock.runtime.journal import LOST, REFUSED

if TYPE_CHECKING:
    from rowlock.runtime.execution import Execution

log = logging.getLogger("rowlock.run")

UNDO = "undo."
"""Places of what compensates begin with this."""


class Ending:
    """See the module's text."""

    def __init__(self, run: Execution) -> None:
        self._run = run
        self._undos: list[ExecuteStep] = []
        self._failed: list[tuple[str, BaseException]] = []
        self._verdict: BaseException | None = None
        """With what the run ends, once everything is undone."""

    @property
    def is_undoing(self) -> bool:
        """The code has ended; what it did is being undone."""
        return self._verdict is not None

    @property
    def has_undos(self) -> bool:
        """Something is registered to be undone."""
        return bool(self._undos)

    def register(self, undo: ExecuteStep) -> None:
        self._undos.append(undo)

    def will_undo(self, error: BaseException | None) -> bool:
        """Whether code that ends so has something undone."""
        fails = error is not None and not isinstance(error, ContinueAsNew)
        return fails and self.has_undos and not self.is_undoing

    # --- how the code ended

    def returned(self, result: Any) -> None:
        """The run's function has returned; or all is undone."""
        if self._verdict is not None:
            self._leave(self._verdict)
            return
        try:
            output = self._run.workflow.result.store(result)
        except InvalidValue as refused:
            self.fail(refused)
        else:
            self._finish(Outcome.SUCCEEDED, output=output)

    def raised(self, error: BaseException) -> None:
        """It has raised; or the undoing has, which it does not."""
        if self._verdict is not None:
            self._leave(self._verdict)
        elif isinstance(error, ContinueAsNew):
            self._continue(error)
        else:
            self.fail(error)

    def _continue(self, asked: ContinueAsNew) -> None:
        name = self._run.workflow.name
        if asked.workflow != name:
            self.fail(
                MisplacedCall(
                    f"{asked.workflow}.continue_as_new was called in a run of {name}: a run can "
                    "only continue as itself. Start the other workflow as a child."
                )
            )
        else:
            self._finish(Outcome.CONTINUED, next_input=asked.input)

    def fail(self, error: BaseException) -> None:
        """Undo what is to be undone, then end with this error."""
        if isinstance(error, Suspended):
            error = MisplacedCall("the workflow raised Suspended itself; that is Rowlock's")
        elif isinstance(error, asyncio.CancelledError):
            error = self._run.stopped_with() or error
        if not self._undos:
            self._leave(error)
            return
        self._verdict = error  # first: a thread of the dropped code may look at both
        self._run.begin_undoing(self._undo())

    def drop(self, error: BaseException, *, forced: bool) -> None:
        """Its code was dropped: end so, or as its undoing would. ``forced``: undo nothing."""
        if forced:
            self._undos.clear()
        self.fail(self._verdict or error)

    async def _undo(self) -> None:
        """Runs in the run's loop, as its code did: every undo is a step."""
        while self._undos:
            undo = self._undos.pop()
            try:
                await self._run.request(undo)
            except Exception as error:
                log.error(
                    "the undo %s failed for good: %s: %s",
                    undo.name,
                    type(error).__name__,
                    error,
                    extra=self._run.where,
                )
                self._failed.append((undo.name, error))

    def _leave(self, error: BaseException) -> None:
        """End with an error, and say what could not be undone."""
        for name, why in self._failed:
            error.add_note(f"its undo {name} failed: {type(why).__name__}: {why}")
        self._finish(stopping.outcome_of(error), error=error)

    # --- the last entry

    def refuse(self, error: BaseException) -> None:
        """End as failed with this, whatever was to be undone: nothing more can be recorded."""
        self._finish(Outcome.FAILED, error=error)

    def _finish(
        self,
        status: Outcome,
        *,
        output: str | None = None,
        error: BaseException | None = None,
        next_input: str | None = None,
    ) -> None:
        run = self._run
        run.code_ended()
        failure = None if error is None else Failure.of(error)
        if failure is not None:
            run.log(
                logging.WARNING,
                "run %s of %s %s: %s: %s",
                run.run_text,
                run.workflow.name,
                "failed" if status == Outcome.FAILED else f"was {status}",
                failure.type,
                failure.message,
            )
        text = None if failure is None else failure.to_json()
        done = partial(self._on_finished, status, failure)
        run.outbox.finish(status, output, text, done, next_input=next_input)

    def _on_finished(
        self, status: Outcome, failure: Failure | None, verdict: str, detail: Any
    ) -> None:
        run = self._run
        if run.end is not None:
            return
        if verdict == LOST:
            run.lost()
        elif verdict == REFUSED:
            why = InvalidValue(f"the result of {run.workflow.name}", "", str(detail))
            self._finish(Outcome.FAILED, error=why)
        else:
            run.host.observer.run_ended(run.claimed, status, run.age(), failure)
            run.unload("finished")

    def block(self, misfit: Misfit) -> None:
        """This code must not go on with this history, or can't read it."""
        run = self._run
        run.code_ended()
        reason = _locked(run, misfit) if isinstance(misfit, Locked) else _misfit(run, misfit)
        run.log(logging.ERROR, "%s", reason["message"])
        run.outbox.release(
            msgspec.json.encode(reason), lambda _verdict, _detail: run.stop("blocked")
        )


def _locked(run: Execution, misfit: Locked) -> dict[str, Any]:
    return {
        "kind": "codec",
        "message": f"workflow {run.workflow.name} can't go on: {misfit.error}",
        "place": misfit.place,
        "codec": misfit.error.codec,
    }


def _misfit(run: Execution, misfit: Misfit) -> dict[str, Any]:
    error = Nondeterminism(
        run.workflow.name,
        misfit.place,
        misfit.expected,
        misfit.found,
        run.claimed.version or None,
        run.host.version or None,
        misfit.line or source.line_of(run.workflow.function),
        run.host.code.lines.get(misfit.expected_name),
    )
    return {
        "kind": "nondeterminism",
        "message": str(error),
        "place": error.place,
        "expected": error.expected,
        "found": error.found,
        "line": error.line,
        "expected_line": error.expected_line,
        "recorded_version": error.recorded_version,
        "running_version": error.running_version,
    }
