"""What the runtime tells whoever watches it: metrics and traces are observers.

An observer is called on the worker's event loop, between two things that matter more: it never
waits (but in ``close``), never raises, and does little. Everything here does nothing; subclass what
you need.
"""

from __future__ import annotations

from collections.abc import Sequence

from rowlock.model.failure import Failure
from rowlock.store.statements import Claimed


class Observer:
    """See the module's text. All times are durations in seconds."""

    def claimed(self, runs: Sequence[Claimed], seconds: float | None) -> None:
        """The database was asked for work and gave these runs, perhaps none.

        ``seconds``: how long that took; None: they came with the journal's commit.
        """

    def written(self, entries: int, seconds: float) -> None:
        """The journal committed so many entries at once."""

    def run_loaded(self, run: Claimed) -> None:
        """The run's code begins, perhaps as a replay, in this context; its steps inherit it."""

    def step_began(self, run: Claimed, place: str, kind: str, name: str, attempt: int) -> None:
        """An attempt at a step begins, in this context; the same context hears of its end."""

    def step_ended(
        self, run: Claimed, name: str, seconds: float, error: BaseException | None
    ) -> None:
        """The attempt that began in this context is over. Nothing is recorded yet."""

    def step_abandoned(self, run: Claimed, name: str) -> None:
        """A sync step goes on in its thread although nobody waits for it any more."""

    def run_ended(self, run: Claimed, status: str, seconds: float, failure: Failure | None) -> None:
        """A run's outcome is committed, so long after its first claim by any worker."""

    def taken_over(self, runs: int) -> None:
        """Runs of dead workers were made ready again by this one."""

    def removed(self, runs: int) -> None:
        """Ended runs were removed since retention says so."""

    def lease_lost(self, runs: int) -> None:
        """This worker lost its lease, and dropped the runs it had loaded."""

    def slots(self, used: int, total: int) -> None:
        """Twice a second: how many runs are loaded, and how many may be."""

    def context_for_child(self, run: Claimed) -> str | None:
        """The W3C trace context, as a JSON object, that a child run of ``run`` starts with.

        None: the one that ``run`` itself was started with, if any.
        """
        return None

    def close(self) -> None:
        """The process ends. The only one that may wait, for two seconds at most."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def claimed(self, runs: Sequence[Claimed], seconds: float | None) -> None:
        for one in self._observers:
            one.claimed(runs, seconds)

    def written(self, entries: int, seconds: float) -> None:
        for one in self._observers:
            one.written(entries, seconds)

    def run_loaded(self, run: Claimed) -> None:
        for one in self._observers:
            one.run_loaded(run)

    def step_began(self, run: Claimed, place: str, kind: str, name: str, attempt: int) -> None:
        for one in self._observers:
            one.step_began(run, place, kind, name, attempt)

    def step_ended(
        self, run: Claimed, name: str, seconds: float, error: BaseException | None
    ) -> None:
        for one in self._observers:
            one.step_ended(run, name, seconds, error)

    def step_abandoned(self, run: Claimed, name: str) -> None:
        for one in self._observers:
            one.step_abandoned(run, name)

    def run_ended(self, run: Claimed, status: str, seconds: float, failure: Failure | None) -> None:
        for one in self._observers:
            one.run_ended(run, status, seconds, failure)

    def taken_over(self, runs: int) -> None:
        for one in self._observers:
            one.taken_over(runs)

    def removed(self, runs: int) -> None:
        for one in self._observers:
            one.removed(runs)

    def lease_lost(self, runs: int) -> None:
        for one in self._observers:
            one.lease_lost(runs)

    def slots(self, used: int, total: int) -> None:
        for one in self._observers:
            one.slots(used, total)

    def context_for_child(self, run: Claimed) -> str | None:
        contexts = (one.context_for_child(run) for one in self._observers)
        return next((context for context in contexts if context is not None), None)

    def close(self) -> None:
        for one in self._observers:
            one.close()
