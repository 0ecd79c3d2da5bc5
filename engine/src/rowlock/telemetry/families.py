"""Every metric there is: its name, its kind, its labels and what it means.

One table, because three places need it: whoever counts, whoever merges and shows, and
docs/metrics.md, which a test holds equal. Base units: seconds, rows, runs. Ids of runs are never
labels.

Buckets grow by 2 to 2.5 where people look closely and faster towards the ends; each histogram is
cut where its question lies: a commit takes milliseconds, a run may take a day.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Buckets = tuple[float, ...]

DATABASE_S: Buckets = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
DATABASE_S += (1.0, 2.5, 10.0)
STEP_S: Buckets = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STEP_S += (10.0, 30.0, 60.0, 300.0)
WAIT_S: Buckets = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WAIT_S += (300.0, 1800.0)
RUN_S: Buckets = (*WAIT_S, 7200.0, 86400.0)
ROWS: Buckets = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``buckets``: upper bounds of a histogram, without the infinite one."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    buckets: Buckets = ()
    merged_by: str = "sum"
    """What several processes' values become: their sum, or the largest of them."""

    @property
    def width(self) -> int:
        """How many numbers a series has: a histogram's sum and its buckets, else one."""
        return len(self.buckets) + 2 if self.kind == HISTOGRAM else 1


WORKER = (
    Family(
        "rowlock_runs_started_total",
        COUNTER,
        ("app", "workflow", "queue"),
        "Runs that a worker of this pod claimed for the first time in their life.",
    ),
    Family(
        "rowlock_runs_finished_total",
        COUNTER,
        ("app", "workflow", "queue", "outcome"),
        "Runs whose outcome was committed here. Runs given up as dead are not among them.",
    ),
    Family(
        "rowlock_run_seconds",
        HISTOGRAM,
        ("app", "workflow", "outcome"),
        "From a run's first claim by any worker to its outcome, sleeps and waits included.",
        RUN_S,
    ),
    Family(
        "rowlock_step_seconds",
        HISTOGRAM,
        ("app", "workflow", "step", "outcome"),
        "How long one attempt at a step took. Replays execute no steps and count none.",
        STEP_S,
    ),
    Family(
        "rowlock_steps_abandoned_total",
        COUNTER,
        ("app", "workflow", "step"),
        "Attempts at sync steps that went on in their threads after nobody waited for them.",
    ),
    Family(
        "rowlock_queue_wait_seconds",
        HISTOGRAM,
        ("app", "queue"),
        "From when a run was due to its claim, for each claim: first ones and after each wait.",
        WAIT_S,
    ),
    Family(
        "rowlock_claim_seconds",
        HISTOGRAM,
        ("app",),
        "How long the database took to answer a request for work.",
        DATABASE_S,
    ),
    Family(
        "rowlock_claims_total",
        COUNTER,
        ("app", "result"),
        "Requests for work, by whether there was some (found) or not (empty).",
    ),
    Family(
        "rowlock_journal_commit_seconds",
        HISTOGRAM,
        ("app",),
        "How long one commit of the journal took, with all it wrote.",
        DATABASE_S,
    ),
    Family(
        "rowlock_journal_batch_rows",
        HISTOGRAM,
        ("app",),
        "How many entries shared a commit of the journal.",
        ROWS,
    ),
    Family(
        "rowlock_worker_slots",
        GAUGE,
        ("app", "state"),
        "Slots of this pod's processes: used by a loaded run, or free.",
    ),
    Family(
        "rowlock_leases_lost_total",
        COUNTER,
        ("app",),
        "How often a process of this pod lost its lease and dropped its runs.",
    ),
    Family(
        "rowlock_runs_recovered_total",
        COUNTER,
        ("app",),
        "Runs of dead workers that this pod took over or gave up as dead.",
    ),
    Family(
        "rowlock_runs_removed_total",
        COUNTER,
        ("app",),
        "Ended runs, of whichever app, that this pod removed since retention says so.",
    ),
    Family(
        "rowlock_build_info",
        GAUGE,
        ("app", "version", "app_version"),
        "Always 1: the version of Rowlock, and ROWLOCK_VERSION of the workflow code.",
        merged_by="max",
    ),
)

FLEET = (
    Family(
        "rowlock_database_up",
        GAUGE,
        (),
        "Whether the database answered: 1, or 0, and then nothing else is known.",
    ),
    Family(
        "rowlock_database_read_seconds",
        GAUGE,
        (),
        "How long the last count of the database took.",
    ),
    Family(
        "rowlock_schema_level",
        GAUGE,
        (),
        "Level of the database's schema; `rowlock migrate` raises it.",
    ),
    Family(
        "rowlock_queue_tasks",
        GAUGE,
        ("app", "queue", "state"),
        "Unfinished runs: ready, paused, running, waiting, scheduled or blocked.",
    ),
    Family(
        "rowlock_queue_oldest_ready_seconds",
        GAUGE,
        ("app", "queue"),
        "For how long the first run that could go on has been due; 0 when none is.",
    ),
    Family(
        "rowlock_queue_limit",
        GAUGE,
        ("app", "queue", "kind"),
        "What limits a queue, where something does: concurrency, worker_concurrency, "
        "rate_per_second, partition_concurrency, partition_rate_per_second.",
    ),
    Family(
        "rowlock_runs_open",
        GAUGE,
        ("app", "version"),
        "Unfinished runs by the code version they are pinned to; empty: not pinned.",
    ),
    Family(
        "rowlock_workers",
        GAUGE,
        ("app", "version", "state"),
        "Worker processes: alive, draining, or dead and not yet cleared.",
    ),
    Family(
        "rowlock_fleet_slots",
        GAUGE,
        ("app", "version", "state"),
        "Slots of all living worker processes as the database knows them: used or free.",
    ),
)

FAMILIES = {family.name: family for family in (*WORKER, *FLEET)}
