"""On OpenTelemetry's own collector: a run over two workers with a kill is one connected tree."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rowlock import BlockingClient
from telemetry import traced
from telemetry.collector import Collector
from testbed import binaries
from workers.process import Worker
from workers.until import Sql, until

APP = "telemetry.traced:app"


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    if not binaries.PROGRAMS["otelcol"].path.exists():
        pytest.skip("not built yet: PYTHONPATH=tests python -m testbed binaries otelcol")
    program = binaries.ensure("otelcol")["otelcol"]
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        running = Collector(program, Path(folder))
        try:
            yield running
        finally:
            running.stop()


def test_a_run_over_two_workers_with_a_kill_is_one_tree_in_the_collector(
    database: str, client: BlockingClient, sql: Sql, collector: Collector
) -> None:
    run = client.start(traced.killed("o1"))
    with Worker(database, APP, environment=collector.environment, version="v1") as doomed:
        until(lambda: "step reserve" in collector.text)
        sql("insert into gate values ('o1')")
        assert doomed.wait() == -9
    with Worker(database, APP, environment=collector.environment, version="v1") as survivor:
        assert run.result(timeout=60) == "o1"
        survivor.terminate()
        assert survivor.wait() == 0
    until(lambda: "run killed" in collector.text)

    spans = collector.spans()
    assert {span["Trace ID"] for span in spans} == {run.id.hex}
    ids = [span["ID"] for span in spans]
    assert len(set(ids)) == len(ids)
    names = {span["ID"]: span["Name"] for span in spans}
    [top] = [span for span in spans if not span["Parent ID"].strip()]
    assert top["Name"] == "run killed"
    assert {span["Parent ID"] for span in spans if span is not top} <= set(ids)
    below = sorted((s["Name"], names[s["Parent ID"]]) for s in spans if s is not top)
    # What the killed worker had not sent yet, a tenth of a second's worth, may be lost with it.
    assert [pair for pair in below if pair[0] != "step gated"] == [
        ("inner reserve", "step reserve"),
        ("inner reserve", "step reserve"),
        ("inner reserve", "step reserve"),
        ("run parcel", "run killed"),
        ("step deadly", "run killed"),
        ("step reserve", "run killed"),
        ("step reserve", "run killed"),
        ("step reserve", "run parcel"),
    ]
    pids = set(re.findall(r"process\.pid: Int\((\d+)\)", collector.text))
    assert pids == {str(doomed.pid), str(survivor.pid)}
    assert "rowlock.link: Str(takeover)" in collector.text
