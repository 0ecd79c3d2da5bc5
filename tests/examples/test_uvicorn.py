"""A worker inside uvicorn: signals and reloads end it cleanly, and what runs goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.serving import Server
from runtime.conftest import sql
from workers.until import Sql, until

__all__ = ["sql"]

WEB = """
import asyncio, os, time
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from rowlock import App

app = App("web")
CODE = "old"
HERE = Path(__file__).parent


@app.step
async def leaves_a_mark(name: str) -> str:
    with (HERE / "marks").open("a") as marks:
        print(name, file=marks)
    return name


@app.step
async def awaits_the_gate() -> str:
    while not (HERE / "gate").exists():
        await asyncio.sleep(0.02)
    return CODE


@app.step
def awaits_in_a_thread() -> str:
    while not (HERE / "gate").exists() and not app.cancelled():
        time.sleep(0.02)
    return CODE


@app.workflow
async def goes_on(in_thread: bool) -> list[str]:
    first = await leaves_a_mark("before")
    await app.sleep(0.1)
    code = await (awaits_in_a_thread.in_thread() if in_thread else awaits_the_gate())
    return [first, code, await leaves_a_mark("after")]


@asynccontextmanager
async def lifespan(api):
    async with app.client() as client, app.worker(slots=20, grace=GRACE) as worker:
        api.state.client, api.state.worker = client, worker
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/start")
async def start(in_thread: bool = False) -> str:
    return str((await api.state.client.start(goes_on(in_thread))).id)


@api.get("/ready")
async def ready() -> dict:
    return {"ready": api.state.worker.is_ready, "pid": os.getpid(), "code": CODE}
"""

Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path, database: str) -> Serve:
    """The web app above in a server; ``grace``: seconds."""

    def begin(*options: str, grace: float = 0.2) -> Server:
        (tmp_path / "web.py").write_text(WEB.replace("GRACE", str(grace)))
        command = ["uvicorn", "web:api", "--port", "{port}", *options]
        return Server(*command, folder=tmp_path, database=database)

    return begin


def marks(folder: Path) -> list[str]:
    path = folder / "marks"
    return path.read_text().split() if path.exists() else []


def begun(server: Server, sql: Sql, **options: Any) -> str:
    """A run that waits for the gate; its id."""
    run_id = str(server.http.post("/start", params=options).json())
    waits = "select count(*) from rowlock.task where state = 'running'"
    recorded = "select count(*) from rowlock.step where kind = 'sleep'"
    until(lambda: sql.one(recorded) == 1 and sql.one(waits) == 1)
    return run_id


def nothing_is_held(sql: Sql) -> bool:
    return bool(
        sql.one("select count(*) from rowlock.worker") == 0
        and sql.one("select count(*) from rowlock.task where state = 'running'") == 0
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("in_thread", [False, True], ids=["async step", "plain step"])
def test_sigterm_ends_it_cleanly_and_what_ran_goes_on_elsewhere(
    serve: Serve, sql: Sql, tmp_path: Path, loop: str, in_thread: bool
) -> None:
    with serve("--loop", loop) as server:
        assert server.get("/ready")["ready"] is True
        run_id = begun(server, sql, in_thread=in_thread)
        # uvicorn raises the signal again when it has shut down.
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM), server.said
        assert "Application shutdown complete" in server.said
        assert "Traceback" not in server.said
    assert nothing_is_held(sql)
    assert sql("select run_id::text, status from rowlock.runs") == [(run_id, "ready")]
    (tmp_path / "gate").touch()
    with serve("--loop", loop) as server:
        server.get("/ready")
        until(lambda: sql("select status from rowlock.runs") == [("succeeded",)])
        assert server.end(signal.SIGINT) == 0, server.said
    assert sql.one("select output from rowlock.runs") == ["before", "old", "after"]
    assert marks(tmp_path) == ["before", "after"]


def test_what_runs_may_go_on_for_the_grace(serve: Serve, sql: Sql, tmp_path: Path) -> None:
    with serve(grace=60) as server:
        server.get("/ready")
        begun(server, sql)
        os.kill(server.pid, signal.SIGTERM)
        until(sql.at_least(1, "select count(*) from rowlock.worker where draining"))
        (tmp_path / "gate").touch()
        assert server.wait() in (0, -signal.SIGTERM), server.said
    assert nothing_is_held(sql)
    assert sql("select status from rowlock.runs") == [("succeeded",)]


def test_a_touched_file_reloads_it_and_the_run_goes_on_in_the_new_code(
    serve: Serve, sql: Sql, tmp_path: Path
) -> None:
    with serve("--reload", "--reload-include", "web.py") as server:
        before = server.get("/ready")
        begun(server, sql)
        web = tmp_path / "web.py"
        web.write_text(web.read_text().replace('CODE = "old"', 'CODE = "new"'))
        until(lambda: server.get("/ready")["code"] == "new")
        after = server.get("/ready")
        assert after["pid"] != before["pid"]
        assert after["ready"] is True
        assert len(sql("select 1 from rowlock.worker")) == 1, "the old one has left"
        (tmp_path / "gate").touch()
        until(lambda: sql("select status from rowlock.runs") == [("succeeded",)])
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM), server.said
        assert "Traceback" not in server.said
    assert nothing_is_held(sql)
    assert sql.one("select output from rowlock.runs") == ["before", "new", "after"]
    assert marks(tmp_path) == ["before", "after"]
    assert sql.one("select count(*) from rowlock.run") == 1
