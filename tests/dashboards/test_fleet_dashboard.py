"""The dashboard is what the generator makes, and every one of its questions has an answer.

A real Prometheus scrapes a real worker and a real exporter, while runs succeed and fail and a
process is killed.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from cli.running import SHOP, eventually, query, running
from rowlock.embedded.ports import free_port
from rowlock.telemetry.families import FAMILIES
from telemetry.pages import scrape

ROOT = Path(__file__).parents[2]
GENERATOR = ROOT / "dashboards/generate.py"
COMMITTED = ROOT / "dashboards/fleet.json"
IN_THE_CHART = ROOT / "deploy/helm/rowlock/dashboards/fleet.json"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
VARIABLES = {"$app": ".*", "$queue": ".*", "$__rate_interval": "1m"}

CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: worker
    static_configs: [{{targets: ["127.0.0.1:{worker}"]}}]
  - job_name: exporter
    static_configs: [{{targets: ["127.0.0.1:{exporter}"]}}]
"""
LOAD = """
select rowlock.start('sums', '{"a": 1}', app => 'shop') from generate_series(1, 20);
select rowlock.start('fails', app => 'shop') from generate_series(1, 3);
select rowlock.start('naps', '{"seconds": 3600}', app => 'shop');
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One expression of a panel."""

    panel: str
    expression: str

    @property
    def plain(self) -> str:
        """With every variable replaced: what Grafana would send for "All"."""
        text = self.expression
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        return text


def panels() -> list[dict[str, Any]]:
    everything = json.loads(COMMITTED.read_text())["panels"]
    return [panel for panel in everything if panel["type"] != "row"]


QUESTIONS = [
    Question(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]
]


def test_it_is_committed_as_it_is_generated(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GENERATOR, tmp_path], check=True)
    made = (tmp_path / "fleet.json").read_text()
    assert made == COMMITTED.read_text(), "run `make dashboards`"
    assert made == IN_THE_CHART.read_text(), "run `make dashboards`"


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    assert len(panels()) >= 20
    for panel in panels():
        assert len(panel["description"]) > 30, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
    ids = [panel["id"] for panel in json.loads(COMMITTED.read_text())["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_variable_is_left_unknown() -> None:
    listed = json.loads(COMMITTED.read_text())["templating"]["list"]
    assert [variable["name"] for variable in listed] == ["datasource", "app", "queue"]
    for question in QUESTIONS:
        assert "$" not in question.plain, question


class Prometheus:
    """A server of its own, that scrapes every second."""

    def __init__(self, port: int) -> None:
        self._port = port

    def api(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=20) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def answers(self, expression: str) -> list[float]:
        """The numbers that an expression has now; those that are none are left out."""
        result = self.api("query", query=expression)["result"]
        values = [float(series["value"][1]) for series in result]
        return [value for value in values if not math.isnan(value)]

    def is_up(self) -> bool:
        try:
            return len(self.answers("up == 1")) == 2
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, *, worker: int, exporter: int) -> Iterator[Prometheus]:
    if PROMETHEUS is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    port = free_port()
    configuration = folder / "prometheus.yml"
    configuration.write_text(CONFIGURATION.format(worker=worker, exporter=exporter))
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        server = Prometheus(port)
        eventually(server.is_up)
        yield server
    except BaseException:
        print((folder / "prometheus.log").read_text())
        raise
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fleet")
    (made / "shop.py").write_text(SHOP)
    for name in ("worker", "exporter", "prometheus"):
        (made / name).mkdir()
    shutil.copy(made / "shop.py", made / "worker")
    return made


def lint(page: str) -> None:
    if PROMTOOL is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.timeout(400)
def test_every_panel_has_an_answer(folder: Path, database: str) -> None:
    worker, exporter = free_port(), free_port()
    args = ("worker", "shop:app", "--processes=2", f"--health-port={worker}", "--slots=10")
    with (
        running(
            folder / "worker",
            *args,
            database=database,
            ROWLOCK_LEASE_SECONDS="3",
            ROWLOCK_POLL_SECONDS="0.5",
            ROWLOCK_VERSION="v1",
        ) as command,
        running(folder / "exporter", "exporter", f"--port={exporter}", database=database),
    ):
        eventually(lambda: scrape(worker, "/readyz").code == 200)
        eventually(lambda: scrape(exporter, "/readyz").code == 200)
        with prometheus(folder / "prometheus", worker=worker, exporter=exporter) as server:
            query(database, "select rowlock.set_limit('default', concurrency => 50, app => 'shop')")
            # A run that is held by a process which is then killed: somebody takes it over.
            query(
                database,
                "select rowlock.start('holds', jsonb_build_object('folder', "
                f"'{folder}'), app => 'shop')",
            )
            eventually((folder / "began").exists)
            [(pid,)] = query(
                database,
                "select w.pid from rowlock.worker as w join rowlock.task as t"
                " on t.worker_id = w.id where t.state = 'running' and t.workflow = 'holds'",
            )
            assert pid in command.children()
            os.kill(pid, signal.SIGKILL)
            open_questions = list(QUESTIONS)
            recovered = 'sum(rowlock_runs_recovered_total{app="shop"})'

            def all_answered() -> bool:
                for statement in LOAD.strip().splitlines():
                    query(database, statement)
                open_questions[:] = [q for q in open_questions if not server.answers(q.plain)]
                return not open_questions and sum(server.answers(recovered)) >= 1

            try:
                eventually(all_answered, within_s=180)
            finally:
                (folder / "go").touch()
                if open_questions:
                    print("without an answer:", *open_questions, sep="\n  ")
            failed = 'sum(rowlock_runs_finished_total{workflow="fails",outcome="failed"})'
            assert sum(server.answers(failed)) >= 3
            for label in ("app", "queue"):
                assert server.api(f"label/{label}/values", **{"match[]": "rowlock_queue_tasks"})
        lint(scrape(worker).text)
        lint(scrape(exporter).text)


def test_every_metric_that_is_asked_for_exists() -> None:
    asked = {name for q in QUESTIONS for name in re.findall(r"rowlock_\w+", q.expression)}
    for name in asked:
        plain = re.sub(r"_(bucket|sum|count)$", "", name)
        assert plain in FAMILIES or name in FAMILIES, name
