"""`rowlock worker` starts, drains, restarts and ends its processes."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from cli.conftest import StartWorker, registered
from cli.running import (
    Running,
    ask,
    eventually,
    query,
    rowlock,
    running,
    start,
    status_of,
)
from rowlock.embedded.ports import free_port
from rowlock.embedded.processes import command_line, is_alive, wait_until_gone

GONE_WITHIN_S = 30.0


def start_holding(database: str, folder: Path) -> str:
    """A run whose step has begun and goes on until there is a file `go`."""
    run_id = start(database, "holds", "--arg", f"folder={json.dumps(str(folder))}")
    eventually((folder / "began").exists)
    return run_id


def drains(database: str) -> Callable[[], bool]:
    return lambda: query(database, "select draining from rowlock.workers") == [(True,)]


def password_of(database: str) -> str:
    return database.partition("@")[0].rpartition(":")[2]


def test_a_running_step_may_finish_while_the_worker_drains(
    start_worker: StartWorker, database: str, project: Path
) -> None:
    worker = start_worker("--grace=60")
    run_id = start_holding(database, project)
    worker.send(signal.SIGTERM)
    eventually(drains(database))
    (project / "go").touch()
    assert worker.exit_code() == 0
    assert status_of(database, run_id) == "succeeded"
    assert query(database, "select * from rowlock.workers") == []


def test_a_run_that_outlasts_the_grace_is_handed_back(
    start_worker: StartWorker, database: str, project: Path
) -> None:
    worker = start_worker("--grace=0.2")
    run_id = start_holding(database, project)
    worker.send(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert status_of(database, run_id) == "ready"
    assert "abandoned threads" in worker.errors


def test_a_second_signal_ends_the_grace(
    start_worker: StartWorker, database: str, project: Path
) -> None:
    worker = start_worker("--grace=600")
    run_id = start_holding(database, project)
    worker.send(signal.SIGINT)
    eventually(drains(database))
    worker.send(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert status_of(database, run_id) == "ready"


def test_a_killed_process_is_replaced(start_worker: StartWorker, database: str) -> None:
    worker = start_worker()
    [killed] = worker.children()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: [pid for pid in registered(database) if pid != killed])
    assert worker.children() != [killed]
    done = rowlock("start", "sums", "--arg", "a=1", "--wait", database=database)
    assert (done.returncode, done.stdout.strip()) == (0, "3")
    assert "signal 9" in worker.errors


def test_processes_that_keep_dying_are_started_less_and_less_often(
    project: Path, database: str
) -> None:
    (project / "shop.py").write_text("import os\nos._exit(7)\n")
    with running(project, "worker", "shop:app", database=database) as worker:
        pauses = eventually(
            lambda: (
                (found := re.findall(r"exit code 7; again in (.+?) s", worker.errors))[3:]
                and [float(pause) for pause in found]
            )
        )
        assert pauses == sorted(pauses)
        assert pauses[0] <= 0.2 < 0.8 < pauses[3] <= 1.6
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0


def test_nothing_is_left_when_the_parent_is_killed(
    start_worker: StartWorker, database: str, project: Path
) -> None:
    worker = start_worker("--grace=0.2", processes=2)
    children = worker.children()
    assert len(children) == 2
    run_id = start_holding(database, project)
    worker.send(signal.SIGKILL)
    assert wait_until_gone(children, GONE_WITHIN_S)
    assert status_of(database, run_id) == "ready"


def test_a_process_that_loads_its_code_ends_with_its_parent(project: Path, database: str) -> None:
    (project / "slow.py").write_text("import pathlib, time\npathlib.Path('pid').touch()\n")
    with (project / "slow.py").open("a") as module:
        module.write("time.sleep(300)\n")
    with running(project, "worker", "slow:app", database=database) as worker:
        eventually((project / "pid").exists)
        children = worker.children()
        worker.send(signal.SIGKILL)
        assert wait_until_gone(children, GONE_WITHIN_S)


def test_a_process_that_is_frozen_is_killed_in_the_end(
    start_worker: StartWorker, database: str
) -> None:
    worker = start_worker("--grace=600")
    [frozen] = worker.children()
    os.kill(frozen, signal.SIGSTOP)
    worker.send(signal.SIGTERM)
    eventually(lambda: "draining" in worker.errors)
    worker.send(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert not is_alive(frozen)


def test_probes_are_answered(project: Path, database: str) -> None:
    port = free_port()
    options = (f"--health-port={port}", "--processes=2", "--grace=600")
    with running(project, "worker", "shop:app", *options, database=database) as worker:
        eventually(lambda: ask(port, "/livez")[0] == 200)
        eventually(lambda: ask(port, "/readyz")[0] == 200)
        facts = json.loads(ask(port, "/readyz")[1])
        assert facts["status"] == "ready"
        assert sorted(process["pid"] for process in facts["processes"]) == worker.children()
        assert ask(port, "/readyz", "HEAD") == (200, "")
        assert ask(port, "/")[0] == ask(port, "/livez", "POST")[0] == 404

        start_holding(database, project)
        worker.send(signal.SIGTERM)
        eventually(lambda: ask(port, "/readyz")[0] == 503)
        assert json.loads(ask(port, "/readyz")[1])["status"] == "draining"
        assert ask(port, "/livez")[0] == 200
        (project / "go").touch()
        assert worker.exit_code() == 0


def test_a_module_that_is_not_there_is_said_once(project: Path, database: str) -> None:
    with running(project, "worker", "shoop:app", "--processes=3", database=database) as worker:
        assert worker.exit_code() == 2
        assert worker.errors.count("there is no module shoop") == 1


def test_a_module_that_fails_shows_its_own_traceback(project: Path, database: str) -> None:
    (project / "shop.py").write_text("import rowlock\n\nrowlock.nothing\n")
    with running(project, "worker", "shop:app", database=database) as worker:
        assert worker.exit_code() == 2
        assert "shop.py" in worker.errors
        assert "line 3" in worker.errors
        assert "rowlock/cli" not in worker.errors


def test_a_queue_that_the_app_does_not_have_is_refused(project: Path, database: str) -> None:
    with running(project, "worker", "shop", "--queues=nope", database=database) as worker:
        assert worker.exit_code() == 2
        assert "app shop has no queue nope; it has default" in worker.errors


def test_a_database_without_the_schema_is_an_error(project: Path, empty_database: str) -> None:
    with running(project, "worker", "shop:app", database=empty_database) as worker:
        assert worker.exit_code() == 3
        assert "rowlock migrate" in worker.errors


def test_a_database_that_is_not_there_yet_is_waited_for(project: Path) -> None:
    nobody = f"postgresql://me:secret@127.0.0.1:{free_port()}/x"
    with running(project, "worker", "shop:app", database=nobody) as worker:
        eventually(lambda: worker.errors.count("can't reach the database") > 1)
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert "secret" not in worker.errors


def test_the_password_shows_neither_in_the_log_nor_in_ps(
    start_worker: StartWorker, database: str
) -> None:
    worker = start_worker()
    [child] = worker.children()
    assert "worker-process" in command_line(child)
    assert password_of(database) not in command_line(child)
    worker.send(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert password_of(database) not in worker.errors + worker.output


def test_a_health_port_that_is_taken_is_named(start_worker: StartWorker, project: Path) -> None:
    port = free_port()
    start_worker(f"--health-port={port}")
    url = "postgresql://127.0.0.1/x"
    with running(project, "worker", "shop:app", f"--health-port={port}", database=url) as second:
        assert isinstance(second, Running)
        assert second.exit_code() == 2
        assert f"health port {port} can't be used" in second.errors
