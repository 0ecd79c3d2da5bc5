"""Writes the Grafana dashboard "Rowlock fleet" as JSON, for people to import and for the chart.

    python dashboards/generate.py [FOLDER]

Without a folder: dashboards/fleet.json, and its copy in deploy/helm/rowlock/dashboards. Change the
panels here, never in the JSON; a test holds all three equal, and asks a real Prometheus for every
expression. What the metrics mean: docs/metrics.md.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

ROOT = Path(__file__).parents[1]
TARGETS = (ROOT / "dashboards", ROOT / "deploy/helm/rowlock/dashboards")
NAME = "fleet.json"

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
APP = 'app=~"$app"'
QUEUE = 'app=~"$app",queue=~"$queue"'
RATE = "$__rate_interval"

Query = tuple[str, str]
"""An expression and its legend."""


def query(number: int, expression: str, legend: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(SOURCE)
        .expr(expression)
        .legend_format(legend)
        .ref_id(chr(ord("A") + number))
    )


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
) -> timeseries.Panel:
    """A panel of series over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .line_width(1)
        .fill_opacity(20 if stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.TABLE)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for number, (expression, legend) in enumerate(queries):
        panel.with_target(query(number, expression, legend))
    return panel


def number(
    title: str, description: str, unit: str, expression: str, *steps: tuple[float, str]
) -> stat.Panel:
    """A panel of one number; ``steps``: from which value on it has which colour."""
    thresholds = [Threshold(value=None, color=steps[0][1] if steps else "text")]
    thresholds += [Threshold(value=value, color=color) for value, color in steps[1:]]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(4)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .graph_mode(common_models.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
        .with_target(query(0, expression, ""))
    )


def rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[{RATE}]))"


def quantiles(metric: str, labels: str, by: str = "") -> tuple[Query, Query]:
    """Median and 99th percentile of a histogram."""
    grouped = f"le, {by}" if by else "le"
    name = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",") if label)

    def one(quantile: str, word: str) -> Query:
        inner = rate(f"{metric}_bucket", labels, grouped)
        return f"histogram_quantile({quantile}, {inner})", f"{word} {name}".strip()

    return one("0.5", "p50"), one("0.99", "p99")


def latest(metric: str, labels: str, by: str) -> str:
    """A gauge of the exporter: the same from each, should there be two of them for a moment."""
    return f"max by ({by}) ({metric}{{{labels}}})"


def total(metric: str, labels: str, keys: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} ({latest(metric, labels, keys)})"


GREEN, YELLOW, RED = "green", "orange", "red"
TASKS = ("rowlock_queue_tasks", "app, queue, state")
OLDEST = "rowlock_queue_oldest_ready_seconds"
LIMITS = ("rowlock_queue_limit", "app, queue, kind")
WORKERS = ("rowlock_workers", "app, version, state")


def tasks(state: str, by: str = "") -> str:
    return total(TASKS[0], f'{QUEUE},state="{state}"', TASKS[1], by)


def now() -> list[stat.Panel]:
    failed = rate("rowlock_runs_finished_total", f'{QUEUE},outcome="failed"', "app")
    every = rate("rowlock_runs_finished_total", QUEUE, "app")
    return [
        number(
            "Database",
            "1 while the exporter can read the database. At 0 nothing else here about queues and "
            "workers is known; workers wait and go on by themselves.",
            "none",
            "min(rowlock_database_up)",
            (0, RED),
            (1, GREEN),
        ),
        number(
            "Living workers",
            "Worker processes that hold a lease and take work.",
            "none",
            total(WORKERS[0], f'{APP},state="alive"', WORKERS[1]),
            (0, RED),
            (1, GREEN),
        ),
        number(
            "Ready runs",
            "Runs that could go on now and wait for a worker.",
            "none",
            tasks("ready"),
        ),
        number(
            "Oldest wait",
            "For how long the first run that could go on has been due. When it grows there are no "
            "workers, no free slots, or no worker that serves this queue or version.",
            "s",
            f"max({latest(OLDEST, QUEUE, 'app, queue')})",
            (0, GREEN),
            (60, YELLOW),
            (600, RED),
        ),
        number(
            "Blocked runs",
            "Runs that need a person: their history does not fit the code, or nobody knows the "
            "workflow. `rowlock list --status blocked` says why.",
            "none",
            tasks("blocked"),
            (0, GREEN),
            (1, RED),
        ),
        number(
            "Failed share",
            "Of the runs that finish, how many fail.",
            "percentunit",
            f"sum({failed}) / clamp_min(sum({every}), 1e-9)",
            (0, GREEN),
            (0.01, YELLOW),
            (0.1, RED),
        ),
    ]


def runs() -> list[timeseries.Panel]:
    return [
        lines(
            "Runs started and finished",
            "First claims, and committed outcomes, a second. Where more start than finish, open "
            "runs pile up.",
            "ops",
            (rate("rowlock_runs_started_total", QUEUE, "app"), "started {{app}}"),
            (rate("rowlock_runs_finished_total", QUEUE, "app, outcome"), "{{outcome}} {{app}}"),
        ),
        lines(
            "Failed runs",
            "Runs that ended as failed, a second, by workflow. `rowlock list --status failed`.",
            "ops",
            (
                rate("rowlock_runs_finished_total", f'{QUEUE},outcome="failed"', "workflow"),
                "{{workflow}}",
            ),
        ),
        lines(
            "Duration of runs",
            "From a run's first claim by any worker to its outcome, sleeps and waits included.",
            "s",
            *quantiles("rowlock_run_seconds", APP, "workflow"),
        ),
    ]


def steps() -> list[timeseries.Panel]:
    return [
        lines(
            "Attempts at steps",
            "Executed attempts a second, by how they ended. Replays execute none.",
            "ops",
            (rate("rowlock_step_seconds_count", APP, "outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            "Failed attempts",
            "Attempts that raised, a second; the ten steps with the most. A step that is tried "
            "again and succeeds shows here and not among the failed runs.",
            "ops",
            (
                "topk(10, "
                + rate("rowlock_step_seconds_count", f'{APP},outcome="failed"', "workflow, step")
                + ")",
                "{{workflow}} {{step}}",
            ),
        ),
        lines(
            "Duration of steps",
            "How long an attempt takes; the ten slowest.",
            "s",
            *(
                (f"topk(10, {expression})", legend)
                for expression, legend in quantiles("rowlock_step_seconds", APP, "step")
            ),
        ),
    ]


def queues() -> list[timeseries.Panel]:
    concurrency = total(LIMITS[0], f'{QUEUE},kind="concurrency"', LIMITS[1], "queue")
    return [
        lines(
            "Backlog",
            "Ready runs by queue: they could go on now and wait for a worker.",
            "none",
            (tasks("ready", "queue"), "{{queue}}"),
            stacked=True,
        ),
        lines(
            "Unfinished runs by state",
            "All unfinished runs. Waiting and scheduled ones cost a row and nothing else.",
            "none",
            (total(TASKS[0], QUEUE, TASKS[1], "state"), "{{state}}"),
        ),
        lines(
            "Oldest wait",
            "For how long the first run of a queue that could go on has been due.",
            "s",
            (
                f"max by (queue) ({latest(OLDEST, QUEUE, 'app, queue')})",
                "{{queue}}",
            ),
        ),
        lines(
            "Wait until claimed",
            "From when a run was due to its claim, as workers saw it.",
            "s",
            *quantiles("rowlock_queue_wait_seconds", QUEUE, "queue"),
            width=12,
        ),
        lines(
            "Running against the limit",
            "Of queues with a limit of concurrency: the runs that hold a claim, and how many may.",
            "none",
            (f"{tasks('running', 'queue')} and on (queue) {concurrency}", "running {{queue}}"),
            (concurrency, "limit {{queue}}"),
            width=12,
        ),
    ]


def workers() -> list[timeseries.Panel]:
    return [
        lines(
            "Workers",
            "Worker processes as the database knows them: alive, draining, or dead and not yet "
            "cleared by another.",
            "none",
            (total(WORKERS[0], APP, WORKERS[1], "state"), "{{state}}"),
            width=6,
        ),
        lines(
            "Slots",
            "Loaded runs against the room for more, as workers report it. No free slots and a "
            "backlog: more workers are needed.",
            "none",
            (f"sum by (state) (rowlock_worker_slots{{{APP}}})", "{{state}}"),
            stacked=True,
            width=6,
        ),
        lines(
            "Takeovers and lost leases",
            "Runs taken over from dead workers, and leases that processes lost, a minute. Both are "
            "harmless once and a fault when they go on: crashes, or blocked event loops.",
            "none",
            (f"60 * sum(rate(rowlock_runs_recovered_total{{{APP}}}[{RATE}]))", "runs taken over"),
            (f"60 * sum(rate(rowlock_leases_lost_total{{{APP}}}[{RATE}]))", "leases lost"),
            width=6,
        ),
        lines(
            "Open runs by version",
            "Unfinished runs by the code version they are pinned to. A version with runs and "
            "without workers needs some.",
            "none",
            (
                total("rowlock_runs_open", APP, "app, version", "version"),
                "{{version}}",
            ),
            stacked=True,
            width=6,
        ),
    ]


def database() -> list[timeseries.Panel]:
    entries = f"sum(rate(rowlock_journal_batch_rows_sum{{{APP}}}[{RATE}]))"
    commits = f"sum(rate(rowlock_journal_batch_rows_count{{{APP}}}[{RATE}]))"
    return [
        lines(
            "Journal commit",
            "How long a commit of the journal takes. Every step waits for one.",
            "s",
            *quantiles("rowlock_journal_commit_seconds", APP),
            width=6,
        ),
        lines(
            "Journal entries",
            "Entries written a second, and how many of them shared a commit on average: busy "
            "workers share more.",
            "none",
            (entries, "entries a second"),
            (f"{entries} / clamp_min({commits}, 1e-9)", "entries a commit"),
            width=6,
        ),
        lines(
            "Claims",
            "Requests for work a second: with and without result.",
            "ops",
            (rate("rowlock_claims_total", APP, "result"), "{{result}}"),
            width=6,
        ),
        lines(
            "Claim and count",
            "How long a request for work takes, and the exporter's count of all unfinished runs.",
            "s",
            *quantiles("rowlock_claim_seconds", APP),
            ("max(rowlock_database_read_seconds)", "count"),
            width=6,
        ),
    ]


def variables() -> list[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    def chosen(name: str, label: str, values: str) -> dashboard.QueryVariable:
        return (
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query(values)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )

    known = '{__name__=~"rowlock_queue_tasks|rowlock_worker_slots"}'
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        chosen("app", "App", f"label_values({known}, app)"),
        chosen("queue", "Queue", f"label_values(rowlock_queue_tasks{{{APP}}}, queue)"),
    ]


def fleet() -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard("Rowlock fleet")
        .uid("rowlock-fleet")
        .description("Runs, steps, queues, workers and the database of Rowlock apps.")
        .tags(["rowlock"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables(list(variables()))
    )
    rows: list[tuple[str, list[stat.Panel] | list[timeseries.Panel]]] = [
        ("Now", now()),
        ("Runs", runs()),
        ("Steps", steps()),
        ("Queues", queues()),
        ("Workers", workers()),
        ("Database", database()),
    ]
    ids = itertools.count(1)
    for title, panels in rows:
        made.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            made.with_panel(panel.id(next(ids)))
    return made


def main() -> None:
    text = json.dumps(fleet().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
    for folder in [Path(sys.argv[1])] if len(sys.argv) > 1 else TARGETS:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_text(text)


if __name__ == "__main__":
    main()
