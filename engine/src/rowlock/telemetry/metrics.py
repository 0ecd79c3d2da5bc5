"""Counts what a worker process does.

Plain lists of numbers under plain dictionaries, written by the event loop alone: an observation is
one look-up, one bisection, two additions (0.5 µs where prometheus_client's own objects, which lock,
take 3). The library is needed only where a page is shown, in the parent.

Reads: what the runtime tells an Observer.  Writes: pages, for the parent.
"""

from __future__ import annotations

import importlib.metadata
from bisect import bisect_left
from collections.abc import Sequence

from rowlock.model.code import Code
from rowlock.model.failure import Failure
from rowlock.store.statements import Claimed
from rowlock.telemetry.families import FAMILIES, WORKER
from rowlock.telemetry.observer import Observer
from rowlock.telemetry.pages import Cells, Labels, Page

MOST_SERIES = 1000
"""Of one family. Names come from code, so there are few; if someone makes them up as he goes, the
others are counted together."""
OTHERS = "(others)"


class Series(dict[Labels, Cells]):
    """The series of one family by their labels, without the first, which is the app.

    A key that is not there yet is made by asking for it.
    """

    def __init__(self, name: str) -> None:
        self._width = FAMILIES[name].width
        self._names = FAMILIES[name].labels[1:]

    def __missing__(self, labels: Labels) -> Cells:
        if len(self) >= MOST_SERIES:
            labels = tuple(
                OTHERS if name in ("workflow", "step") else value
                for name, value in zip(self._names, labels, strict=True)
            )
            if labels in self:
                return self[labels]
        cells = self[labels] = [0.0] * self._width
        return cells


class Metrics(Observer):
    """See the module's text."""

    def __init__(self, code: Code, version: str) -> None:
        self._app = code.app
        self._series = {family.name: Series(family.name) for family in WORKER}
        made = self._series
        self._started = made["rowlock_runs_started_total"]
        self._finished = made["rowlock_runs_finished_total"]
        self._runs = made["rowlock_run_seconds"]
        self._run_bounds = FAMILIES["rowlock_run_seconds"].buckets
        self._steps = made["rowlock_step_seconds"]
        self._step_bounds = FAMILIES["rowlock_step_seconds"].buckets
        self._abandoned = made["rowlock_steps_abandoned_total"]
        self._waits = made["rowlock_queue_wait_seconds"]
        self._wait_bounds = FAMILIES["rowlock_queue_wait_seconds"].buckets
        self._database_bounds = FAMILIES["rowlock_claim_seconds"].buckets
        self._row_bounds = FAMILIES["rowlock_journal_batch_rows"].buckets
        # What can be foretold begins at 0: a rate can't see a series' first if it was not there.
        self._claims = made["rowlock_claim_seconds"][()]
        self._found = made["rowlock_claims_total"]["found",]
        self._empty = made["rowlock_claims_total"]["empty",]
        self._commits = made["rowlock_journal_commit_seconds"][()]
        self._rows = made["rowlock_journal_batch_rows"][()]
        self._used = made["rowlock_worker_slots"]["used",]
        self._free = made["rowlock_worker_slots"]["free",]
        self._lost = made["rowlock_leases_lost_total"][()]
        self._recovered = made["rowlock_runs_recovered_total"][()]
        self._removed = made["rowlock_runs_removed_total"][()]
        made["rowlock_build_info"][importlib.metadata.version("rowlock"), version][0] = 1.0
        for workflow in code.workflows.values():
            self._started[workflow.name, workflow.queue]
            for outcome in ("succeeded", "failed"):
                self._finished[workflow.name, workflow.queue, outcome]
        for queue in code.queues:
            self._waits[queue,]

    def page(self) -> Page:
        """All that was counted so far. Any thread may ask: a copy of a dictionary is one step."""
        return Page(
            {
                name: [((self._app, *labels), cells[:]) for labels, cells in list(series.items())]
                for name, series in self._series.items()
            }
        )

    def claimed(self, runs: Sequence[Claimed], seconds: float | None) -> None:
        if seconds is not None:
            self._claims[0] += seconds
            self._claims[bisect_left(self._database_bounds, seconds) + 1] += 1
        if not runs:
            self._empty[0] += 1
            return
        self._found[0] += 1
        for run in runs:
            if run.epoch == 1 and run.generation == 1:
                self._started[run.workflow, run.queue][0] += 1
            # Clocks of one database, but it may have been moved to another machine meanwhile.
            waited = max(0.0, run.waited)
            cells = self._waits[run.queue,]
            cells[0] += waited
            cells[bisect_left(self._wait_bounds, waited) + 1] += 1

    def written(self, entries: int, seconds: float) -> None:
        self._commits[0] += seconds
        self._commits[bisect_left(self._database_bounds, seconds) + 1] += 1
        self._rows[0] += entries
        self._rows[bisect_left(self._row_bounds, entries) + 1] += 1

    def step_ended(
        self, run: Claimed, name: str, seconds: float, error: BaseException | None
    ) -> None:
        if error is None:
            cells = self._steps[run.workflow, name, "succeeded"]
        else:
            # CancelledError and our own Suspended are no Exceptions: nobody failed.
            outcome = "failed" if isinstance(error, Exception) else "cancelled"
            cells = self._steps[run.workflow, name, outcome]
        cells[0] += seconds
        cells[bisect_left(self._step_bounds, seconds) + 1] += 1

    def step_abandoned(self, run: Claimed, name: str) -> None:
        self._abandoned[run.workflow, name][0] += 1

    def run_ended(self, run: Claimed, status: str, seconds: float, failure: Failure | None) -> None:
        outcome = str(status)
        self._finished[run.workflow, run.queue, outcome][0] += 1
        cells = self._runs[run.workflow, outcome]
        cells[0] += seconds
        cells[bisect_left(self._run_bounds, seconds) + 1] += 1

    def taken_over(self, runs: int) -> None:
        self._recovered[0] += runs

    def removed(self, runs: int) -> None:
        self._removed[0] += runs

    def lease_lost(self, runs: int) -> None:
        self._lost[0] += 1

    def slots(self, used: int, total: int) -> None:
        # Runs that only wait for the journal are loaded beyond the slots.
        self._used[0] = min(used, total)
        self._free[0] = max(0, total - used)
