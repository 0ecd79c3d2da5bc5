"""`rowlock dev` keeps its data, drains before it stops, and reloads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.conftest import registered
from cli.running import SHOP, Running, eventually, rowlock, running, start, status_of
from rowlock.embedded.processes import wait_until_gone


@contextmanager
def develop(project: Path, data: Path, **more: str) -> Iterator[tuple[Running, str]]:
    """`rowlock dev` when its worker takes work, and the URL it printed."""
    with running(project, "dev", "shop.py", f"--data-dir={data}", **more) as dev:
        eventually(lambda: "Ctrl-C ends it all" in dev.output)
        [url] = [
            line.partition("=")[2]
            for line in dev.output.splitlines()
            if "export ROWLOCK_DATABASE_URL=" in line
        ]
        eventually(lambda: registered(url))
        yield dev, url


def test_unfinished_runs_go_on_at_the_next_start(project: Path, server_folder: Path) -> None:
    data = server_folder / "data"
    with develop(project, data) as (dev, url):
        run_id = start(url, "naps", "--arg", "seconds=2")
        eventually(lambda: status_of(url, run_id) in ("waiting", "succeeded"))
        family = dev.children()
        dev.send(signal.SIGINT)
        assert dev.exit_code() == 0
        assert wait_until_gone(family, 0.0)
        assert "Traceback" not in dev.errors
    with develop(project, data) as (dev, again):
        assert again == url  # so that the line in the other terminal stays true
        eventually(lambda: status_of(url, run_id) == "succeeded")
        dev.send(signal.SIGTERM)
        assert dev.exit_code() == 0


def test_a_file_whose_name_is_not_utf_8_ends_nothing(project: Path, server_folder: Path) -> None:
    with develop(project, server_folder / "data") as (dev, _):
        Path(os.fsdecode(os.fsencode(project) + b"/caf\xe9.txt")).touch()
        eventually(lambda: "can't be read" in dev.errors)

        def is_reloaded() -> bool:
            (project / "other.py").write_text(f"# {len(dev.errors)}")
            return "reloading: other.py changed" in dev.errors

        eventually(is_reloaded)
        assert "Traceback" not in dev.errors
        dev.send(signal.SIGINT)
        assert dev.exit_code() == 0


def test_changed_code_is_loaded_and_broken_code_waited_out(
    project: Path, server_folder: Path
) -> None:
    with develop(project, server_folder / "data") as (dev, url):

        def total() -> object:
            args = ("sums", "--arg", "a=1", "--wait", "--timeout=5s", "--json")
            done = rowlock("start", *args, database=url)
            return json.loads(done.stdout)["output"]

        def change(code: str) -> None:
            before = registered(url)
            (project / "shop.py").write_text(code)
            eventually(lambda: not set(before) & set(registered(url)))

        assert total() == 3
        change(SHOP.replace("return a + b", "return (a + b) * 100"))
        eventually(lambda: total() == 300)
        change(SHOP + "\nrowlock.nothing\n")
        eventually(lambda: "waiting for a change" in dev.errors)
        assert dev.process.poll() is None
        change(SHOP.replace("return a + b", "return (a + b) * 1000"))
        eventually(lambda: total() == 3000)
        dev.send(signal.SIGINT)
        assert dev.exit_code() == 0


def test_a_database_of_the_environment_is_left_alone(
    project: Path, server_folder: Path, empty_database: str
) -> None:
    other = {"ROWLOCK_DATABASE_URL": empty_database}
    with develop(project, server_folder / "data", **other) as (dev, url):
        assert url != empty_database
        assert "ROWLOCK_DATABASE_URL is set, but" in dev.output
        dev.send(signal.SIGINT)
        assert dev.exit_code() == 0
    assert rowlock("migrate", "--check", database=empty_database).returncode == 3


def test_a_file_that_is_not_there_ends_it_before_anything_begins(
    project: Path, server_folder: Path
) -> None:
    data = server_folder / "data"
    with running(project, "dev", "shoop.py", f"--data-dir={data}") as dev:
        assert dev.exit_code() == 2
        assert "there is no file shoop.py" in dev.errors
        assert not data.exists()


def test_without_the_extra_it_says_what_to_install() -> None:
    hidden = "import sys; sys.modules['watchfiles'] = None; sys.argv = ['rowlock', 'dev', 'x.py']"
    script = f"{hidden}\nfrom rowlock.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'rowlock[dev]'" in done.stderr
