"""An app in a folder, and a worker that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.running import SHOP, Running, eventually, query, running

StartWorker = Callable[..., Running]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the module `shop`."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def start_worker(project: Path, database: str) -> Iterator[StartWorker]:
    """Start `rowlock worker shop:app …` and return when all its processes have registered."""
    with ExitStack() as ended_with_the_test:

        def start(*options: str, processes: int = 1, **environment: str) -> Running:
            args = ("worker", "shop:app", f"--processes={processes}", *options)
            worker = ended_with_the_test.enter_context(
                running(project, *args, database=database, **environment)
            )
            eventually(lambda: len(registered(database)) == processes)
            return worker

        yield start


def registered(database: str) -> list[int]:
    """The process ids of the workers that take work."""
    found = query(database, "select pid from rowlock.workers where alive and not draining")
    return [pid for (pid,) in found]
