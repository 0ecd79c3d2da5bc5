"""What is counted, what pages become when they are added up, and how they are shown."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rowlock import App
from rowlock.errors import Suspended
from rowlock.store.statements import Claimed
from rowlock.telemetry.exposition import shown
from rowlock.telemetry.families import FAMILIES, FLEET, HISTOGRAM, WORKER
from rowlock.telemetry.metrics import MOST_SERIES, OTHERS, Metrics
from rowlock.telemetry.pages import Page, merged, of_the_dead
from telemetry.pages import Scrape

app = App("shop")


@app.workflow
async def fulfil() -> None:
    pass


@app.workflow
async def invoice() -> None:
    pass


RUN = Claimed(
    run_id=UUID(int=7),
    epoch=1,
    generation=1,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    workflow="fulfil",
    queue="default",
    version="",
    key=None,
    takeovers=0,
    input="{}",
    attributes=None,
    trace_context=None,
    waited=0.2,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    age=0.0,
    deadline_in=None,
    in_group=False,
    cancel=None,
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(app.code, "v1")


def read(page: Page) -> Scrape:
    content_type, body = shown(page)
    return Scrape(200, content_type, body.decode())


def test_a_run_starts_once_however_often_it_is_claimed(metrics: Metrics) -> None:
    metrics.claimed([RUN, replace(RUN, epoch=2), replace(RUN, generation=2)], 0.004)
    metrics.claimed([], 0.001)
    page = read(metrics.page())
    assert page.value("rowlock_runs_started_total", workflow="fulfil", queue="default") == 1
    assert page.value("rowlock_queue_wait_seconds_count", app="shop", queue="default") == 3
    assert page.value("rowlock_queue_wait_seconds_sum") == pytest.approx(0.6)
    assert page.value("rowlock_claims_total", result="found") == 1
    assert page.value("rowlock_claims_total", result="empty") == 1
    assert page.value("rowlock_claim_seconds_count") == 2


def test_attempts_at_steps_succeed_fail_or_are_cancelled(metrics: Metrics) -> None:
    errors = [None, None, ValueError(), asyncio.CancelledError(), Suspended()]
    for error in errors:
        metrics.step_ended(RUN, "charge", 0.3, error)
    page = read(metrics.page())
    found = {
        outcome: page.value("rowlock_step_seconds_count", step="charge", outcome=outcome)
        for outcome in ("succeeded", "failed", "cancelled")
    }
    assert found == {"succeeded": 2, "failed": 1, "cancelled": 2}


def test_buckets_hold_their_upper_bound_and_all_below_them(metrics: Metrics) -> None:
    for seconds in (0.5, 0.50001, 1.0, 1000.0):
        metrics.step_ended(RUN, "charge", seconds, None)
    page = read(metrics.page())
    found = {
        bound: page.value("rowlock_step_seconds_bucket", le=bound)
        for bound in ("0.25", "0.5", "1.0", "300.0", "+Inf")
    }
    assert found == {"0.25": 0, "0.5": 1, "1.0": 3, "300.0": 3, "+Inf": 4}


def test_runs_finish_with_an_outcome(metrics: Metrics) -> None:
    metrics.run_ended(RUN, "succeeded", 2.0, None)
    metrics.run_ended(RUN, "failed", 3.0, None)
    page = read(metrics.page())
    assert page.value("rowlock_runs_finished_total", workflow="fulfil", outcome="failed") == 1
    assert page.value("rowlock_run_seconds_sum", workflow="fulfil") == 5


def test_the_rest_is_counted_too(metrics: Metrics) -> None:
    metrics.written(12, 0.003)
    metrics.taken_over(5)
    metrics.removed(1000)
    metrics.lease_lost(7)
    metrics.slots(13, 10)
    metrics.step_abandoned(RUN, "convert")
    page = read(metrics.page())
    assert page.value("rowlock_journal_batch_rows_sum") == 12
    assert page.value("rowlock_journal_commit_seconds_count") == 1
    assert page.value("rowlock_runs_recovered_total") == 5
    assert page.value("rowlock_runs_removed_total") == 1000
    assert page.value("rowlock_leases_lost_total") == 1
    assert page.value("rowlock_steps_abandoned_total", workflow="fulfil", step="convert") == 1
    assert page.value("rowlock_worker_slots", state="used") == 10
    assert page.value("rowlock_worker_slots", state="free") == 0
    assert page.value("rowlock_build_info", app_version="v1") == 1


def test_what_can_be_foretold_begins_at_zero(metrics: Metrics) -> None:
    """An alert on increases misses the first failure of a series that was not there before."""
    page = read(metrics.page())
    for workflow in ("fulfil", "invoice"):
        assert page.value("rowlock_runs_finished_total", workflow=workflow, outcome="failed") == 0
    assert page.value("rowlock_leases_lost_total") == 0
    assert page.value("rowlock_queue_wait_seconds_count", queue="default") == 0


def test_names_without_end_are_counted_together(metrics: Metrics) -> None:
    for number in range(MOST_SERIES + 500):
        metrics.step_ended(RUN, f"step {number}", 0.1, None)
    [series] = [s for name, s in metrics.page().families.items() if name == "rowlock_step_seconds"]
    assert len(series) == MOST_SERIES + 1
    page = read(metrics.page())
    assert page.value("rowlock_step_seconds_count", step=OTHERS, workflow=OTHERS) == 500
    assert page.value("rowlock_step_seconds_count") == MOST_SERIES + 500


def test_no_run_id_is_a_label(metrics: Metrics) -> None:
    metrics.claimed([RUN], 0.1)
    metrics.step_ended(RUN, "charge", 0.1, None)
    metrics.run_ended(RUN, "succeeded", 0.1, None)
    assert str(RUN.run_id) not in read(metrics.page()).text
    assert not any("run" in family.labels for family in FAMILIES.values())


def test_pages_add_up(metrics: Metrics) -> None:
    other = Metrics(app.code, "v1")
    for each in (metrics, other):
        each.step_ended(RUN, "charge", 0.3, None)
        each.slots(1, 10)
    other.step_ended(RUN, "ship", 0.3, None)
    page = read(merged([metrics.page(), other.page()]))
    assert page.value("rowlock_step_seconds_count", step="charge") == 2
    assert page.value("rowlock_step_seconds_bucket", step="charge", le="0.5") == 2
    assert page.value("rowlock_step_seconds_count", step="ship") == 1
    assert page.value("rowlock_worker_slots", state="free") == 18
    assert page.value("rowlock_build_info") == 1


def test_the_dead_leave_their_counts_and_not_their_gauges(metrics: Metrics) -> None:
    metrics.written(12, 0.003)
    metrics.slots(1, 10)
    page = read(of_the_dead(metrics.page()))
    assert page.value("rowlock_journal_commit_seconds_count") == 1
    assert page.value("rowlock_worker_slots") is None
    assert page.value("rowlock_build_info") is None


def test_what_another_version_of_the_code_counts_is_left_out() -> None:
    """The package was upgraded under a running parent."""
    strange = Page(
        {
            "rowlock_of_tomorrow_total": [(("shop",), [1.0])],
            "rowlock_leases_lost_total": [(("shop", "more"), [1.0])],
            "rowlock_claim_seconds": [(("shop",), [0.1, 1.0])],
        }
    )
    assert read(merged([strange])).text == ""


def test_a_page_is_not_changed_by_what_is_counted_later(metrics: Metrics) -> None:
    before = metrics.page()
    metrics.written(12, 0.003)
    assert read(before).value("rowlock_journal_batch_rows_sum") == 0


def test_labels_are_escaped(metrics: Metrics) -> None:
    metrics.step_ended(RUN, 'a "quoted\\"\nname', 0.1, None)
    assert read(metrics.page()).value("rowlock_step_seconds_count", step='a "quoted\\"\nname') == 1


def test_openmetrics_is_spoken_to_who_asks_for_it(metrics: Metrics) -> None:
    content_type, body = shown(metrics.page(), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_every_metric_is_shown_once_with_its_help(metrics: Metrics) -> None:
    text = read(metrics.page()).text
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert text.count(f"# HELP {family.name} ") <= 1
        assert family.documentation


def test_names_follow_the_rules_of_prometheus() -> None:
    for family in (*WORKER, *FLEET):
        assert family.name.startswith("rowlock_")
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert bool(family.buckets) == (family.kind == HISTOGRAM)
        assert list(family.buckets) == sorted(set(family.buckets))
        assert "milliseconds" not in family.name


def test_the_document_names_every_metric_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    for family in FAMILIES.values():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        assert f"| `{family.name}` | {family.kind} | {labels} | {family.help}" in text
