"""Index a folder with four worker processes, kill one half-way, and prove that nothing was lost.

    python examples/demo.py [DIR] [--data-dir …] [--workers 4] [--no-kill]

Brings its own PostgreSQL, kept with its data for the next time: the same folder again is found
done, a changed one has only its changed files indexed, an interrupted one is finished. The code
that is at work is index_files.py; this file starts it, disturbs it, and counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from index_files import File, Summary, app, index_folder, key_of, text, version_of
from rowlock import BlockingClient, BlockingRun, RowlockError, Settings
from rowlock.embedded import Server, default_data_folder
from rowlock.embedded.processes import children_of
from rowlock.store.migrate import migrate

CODE = Path(__file__).with_name("index_files.py")
LEASE_SECONDS = 5  # short, so that the dead worker's runs are soon taken over
SLOTS = 20
GRACE_SECONDS = 10
START_TIMEOUT_S = 60.0
SHOWN_FAILURES = 10
SKIPPED = ["__pycache__", "site-packages"]  # only of the default folder

PROGRESS = """
select count(r.finished_at), count(*) filter (where r.finished_at >= %s)
  from listing as l
  join rowlock.runs as r on r.app = 'index' and r.key = l.key"""

WORKERS = """
select worker_id, pid
  from rowlock.workers
 where alive and registered_at >= %s
 order by running desc"""

HELD = """
create temporary table held as
select run_id, epoch from rowlock.runs where worker_id = {} and status = 'running'"""

# A dead worker can't hand anything back: if the epoch rose, another one took the run over.
TAKEN_OVER = """
select count(*), count(*) filter (where r.epoch > h.epoch)
  from held as h
  join rowlock.runs as r using (run_id)"""

RECORDED = """
select count(*), coalesce(sum(attempts), 0),
       coalesce(extract(epoch from max(recorded_at) - min(recorded_at)), 0)
  from rowlock.steps
 where kind in ('step', 'transaction') and recorded_at >= %s"""

SEEN = """
select file ->> 'path', file ->> 'version'
  from rowlock.steps
 cross join jsonb_array_elements(output) as file
 where run_id = %s and name = 'list_page'"""

PROOF = """
select count(*)                                                        as files,
       count(*) filter (where r.status = 'succeeded' and i.rows = 1
                          and i.writes = 1)                            as indexed_once,
       count(*) filter (where r.status = 'failed' and i.rows = 0)      as failed,
       count(*) filter (where i.rows > 1 or i.writes > 1)              as indexed_twice,
       count(*) filter (where i.rows = 0
                          and r.status is distinct from 'failed')      as missing
  from listing as l
  left join rowlock.runs as r on r.app = 'index' and r.key = l.key
 cross join lateral (
       select count(*) as rows, sum(x.writes) as writes
         from indexed_file as x
        where x.path = l.path and x.version = l.version) as i"""

console = Console(highlight=False)


class Trouble(Exception):
    """The demo can't go on; the message says why."""


def say(line: str = "") -> None:
    printable = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in line)
    console.print(printable, markup=False, soft_wrap=True)


# --- the folder


def files_below(folder: str, skip: list[str]) -> list[File]:
    """The demo's own listing, to hold the result against."""
    paths: list[str] = []
    folders = [folder]
    for place in folders:
        try:
            entries = list(os.scandir(place))
        except OSError:
            if place == folder:
                raise
            paths.append(place)  # can't be listed: shall be among the failures
            continue
        for entry in entries:
            if not entry.is_symlink() and entry.is_dir():
                if entry.name not in skip:
                    folders.append(entry.path)
            elif not os.path.isdir(entry.path):
                paths.append(entry.path)
    return [File(text(path), version_of(path)) for path in paths]


def chosen_folder(asked: str | None) -> tuple[str, list[str]]:
    """The folder's full path, and the names of folders to leave out."""
    if not asked:
        return os.path.realpath(sysconfig.get_paths()["stdlib"]), SKIPPED
    folder = os.path.realpath(asked)
    if not os.path.lexists(folder):
        raise Trouble(f"there is no folder {asked}")
    if not os.path.isdir(folder):
        raise Trouble(f"{asked} is not a folder; give a folder, and its files are indexed")
    return folder, []


# --- the workers


class Workers:
    """A `rowlock worker` command with some processes; ends with this process, however that ends."""

    def __init__(self, url: str, processes: int, log_path: Path, executions: str) -> None:
        self._log_path = log_path
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ROWLOCK_")}
        environment |= {
            "ROWLOCK_DATABASE_URL": url,
            "ROWLOCK_LEASE_SECONDS": str(LEASE_SECONDS),
            "INDEX_FILES_LOG": executions,
        }
        command: list[str | Path] = [sys.executable, "-m", "rowlock", "worker", CODE]
        for option, value in (
            ("--processes", processes),
            ("--slots", SLOTS),
            ("--grace", GRACE_SECONDS),
            ("--log-format", "text"),
        ):
            command += [option, str(value)]
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop the workers before Postgres
            )
        # If we are killed with -9 the pipe breaks, and the workers are told to stop.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || kill -TERM "$1"', "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def check(self) -> None:
        """Raise Trouble, with the log's last lines, if the command has ended."""
        status = self._process.poll()
        if status is not None:
            last_lines = self._log_path.read_text(errors="replace").splitlines()[-12:]
            raise Trouble(
                f"the workers ended with status {status}. Their log, {self._log_path}, ends "
                "with:\n" + "\n".join(last_lines)
            )

    def kill(self, pid: int) -> bool:
        """SIGKILL one of the processes; False if it is none of ours."""
        if pid not in children_of(self._process.pid):
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def stop(self) -> None:
        """SIGTERM: they finish what they have begun, or hand it back."""
        try:
            self._process.terminate()
            self._process.wait(GRACE_SECONDS + 5)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        finally:
            self._guard.communicate(b"dismissed\n")


# --- one session of the demo


class Session:
    """From the first look at the folder to the proof."""

    def __init__(
        self, folder: str, skip: list[str], data_dir: Path, processes: int, *, may_kill: bool
    ) -> None:
        self.folder = folder
        self.skip = skip
        self.data_dir = data_dir
        self.log_path = data_dir / "worker.log"
        self.processes = processes
        self.may_kill = may_kill
        self.kill: int | None = None  # the process that was killed

    def run(self) -> bool:
        """Whether the proof holds."""
        files = files_below(self.folder, self.skip)
        if not files:
            raise Trouble(f"there are no files below {self.folder}: nothing to index")
        left_out = f", without {' and '.join(self.skip)}" if self.skip else ""
        say(f"{len(files):,} files below {self.folder}{left_out}")
        with ExitStack() as stack:
            server = stack.enter_context(Server(self.data_dir))
            migrate(server.url())
            say(f"PostgreSQL 18 runs, its data is in {self.data_dir}")
            self.database = stack.enter_context(psycopg.connect(server.url(), autocommit=True))
            client = stack.enter_context(app.blocking_client(Settings(database_url=server.url())))
            executions = stack.enter_context(tempfile.TemporaryDirectory(prefix="rowlock-demo-"))
            self._fill_listing(files)
            self.began_at = self._row("select clock_timestamp()")[0]
            self.done_before, _ = self._row(PROGRESS, self.began_at)
            self.workers = Workers(server.url(), self.processes, self.log_path, executions)
            stack.callback(self.workers.stop)
            self._wait_for_workers()
            say(f"{self.processes} worker processes at work on {CODE.name}")

            run = self._start(client, files)
            self._watch(run, len(files))
            self._report(run.result(timeout=10), sum(count_lines(executions).values()))
            self._leave_out_changed(run, files)
            return self._prove()

    def _row(self, statement: LiteralString, *parameters: Any) -> Any:
        return self.database.execute(statement, parameters).fetchone()

    def _fill_listing(self, files: list[File]) -> None:
        self.database.execute(
            "create temporary table listing (path text, version text, key text primary key)"
        )
        with self.database.cursor() as cursor, cursor.copy("copy listing from stdin") as copy:
            for file in files:
                copy.write_row((file.path, file.version, key_of(file)))
        self.database.execute("analyze listing")

    def _wait_for_workers(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while len(self._alive()) < self.processes:
            self.workers.check()
            if time.monotonic() > until:
                raise Trouble(
                    f"after {START_TIMEOUT_S:g} s not all workers had registered; their log is "
                    f"{self.log_path}"
                )
            time.sleep(0.05)

    def _alive(self) -> list[tuple[int, int]]:
        """Our living workers, the busiest first: id and process id."""
        return self.database.execute(WORKERS, [self.began_at]).fetchall()

    def _start(self, client: BlockingClient, files: list[File]) -> BlockingRun[Summary]:
        """Start the parent. The key says what the folder holds: the same again is the same run.

        One that ended badly is not what we want back: then the key is the next one.
        """
        state = hashlib.sha256()
        for line in sorted(f"{file.path} {file.version}\n" for file in files):
            state.update(line.encode())
        for attempt in range(1, 1000):
            run = client.start(
                index_folder(text(self.folder), self.skip),
                key=f"folder {state.hexdigest()} {attempt}",
            )
            if run.status() not in ("failed", "cancelled", "dead"):
                return run
        raise Trouble(f"indexing {self.folder} has failed too often; see {self.data_dir}")

    def _watch(self, run: BlockingRun[Summary], total: int) -> None:
        """Show how it goes until it has ended, and kill a worker half-way."""
        before = self.done_before
        kill_at = before + (total - before) // 2
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f} files/s, {task.fields[alive]} workers"),
            TimeElapsedColumn(),
        )
        began = time.monotonic()
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("indexing", total=total, completed=before, speed=0, alive=0)
            while True:
                asked = time.monotonic()
                done, _ = self._row(PROGRESS, self.began_at)
                workers = self._alive()
                speed = (done - before) / (asked - began) if asked > began else 0.0
                progress.update(bar, completed=done, alive=len(workers), speed=speed)
                if self.may_kill and self.kill is None and kill_at <= done < total:
                    self._kill_one(workers, done, total)
                if self._has_ended(run):
                    return
                self.workers.check()
                # Looking shall cost little, however many files there are.
                time.sleep(max(0.02, 10 * (time.monotonic() - asked)))

    def _has_ended(self, run: BlockingRun[Summary]) -> bool:
        info = run.info()
        if info.status == "blocked" or (info.finished and info.status != "succeeded"):
            why: Mapping[str, Any] = info.error or info.reason or {}
            raise Trouble(
                f"the parent run {info.id} is {info.status}: {why.get('message', 'no reason')}\n"
                f"The workers' log is {self.log_path}"
            )
        return info.finished

    def _kill_one(self, workers: list[tuple[int, int]], done: int, total: int) -> None:
        victim = next((worker for worker in workers if self.workers.kill(worker[1])), None)
        if victim is None:
            return
        worker_id, pid = victim
        self.kill = pid
        say(f"killed worker process {pid} with SIGKILL at {done:,} of {total:,} files")
        time.sleep(0.2)  # what it had sent to Postgres is through; its lease has not run out yet
        self.database.execute(SQL(HELD).format(worker_id))

    # --- what came of it

    def _report(self, summary: Summary, executed: int) -> None:
        _, new_files = self._row(PROGRESS, self.began_at)
        recorded, attempts, seconds = self._row(RECORDED, self.began_at)
        say()
        say(
            f"files      {summary.files:,}: {summary.files - summary.failed:,} indexed, "
            f"{summary.failed:,} failed"
        )
        if not recorded:
            say("           nothing was to be done again: this folder has been indexed as it is")
        elif self.done_before:
            say(f"           {new_files:,} of them now, the others before")
        if self.kill is not None:
            held, taken_over = self._row(TAKEN_OVER)
            say(
                f"takeovers  process {self.kill} held {held:,} runs when it was killed; "
                f"{taken_over:,} runs taken over by other workers"
            )
        elif self.may_kill:
            say("takeovers  0 runs taken over: it was done before a worker could be killed")
        say(f"steps      {executed:,} executed, {recorded:,} recorded")
        if attempts > recorded:
            say(f"           {attempts - recorded:,} attempts failed and were repeated")
        if executed > attempts:
            say(f"           {executed - attempts:,} were cut short and executed again")
        if new_files:
            seconds = max(float(seconds), 0.001)
            say(
                f"speed      {new_files:,} files and {recorded:,} steps in {seconds:.1f} s: "
                f"{new_files / seconds:,.0f} files/s, {recorded / seconds:,.0f} steps/s"
            )
        for failure in summary.failures[:SHOWN_FAILURES]:
            path = failure.path.removeprefix(text(self.folder) + "/")
            say(f"failed     {path}: {failure.error}")
        if summary.failed > SHOWN_FAILURES:
            say(f"           and {summary.failed - SHOWN_FAILURES:,} more")

    def _leave_out_changed(self, run: BlockingRun[Summary], files: list[File]) -> None:
        """Files that are not now as they were, or that the parent found in another version.

        Some are so always: a link to /proc/self is another file for each process.
        """
        seen: dict[str, str] = dict(self.database.execute(SEEN, [run.id]).fetchall())
        changed = {file.path for file in set(files) ^ set(files_below(self.folder, self.skip))}
        changed |= {f.path for f in files if seen.get(f.path, f.version) != f.version}
        if changed:
            say(f"           {len(changed):,} files changed meanwhile: not compared")
            self.database.execute("delete from listing where path = any (%s)", [list(changed)])

    def _prove(self) -> bool:
        """Hold the application's table against our own listing."""
        say(f"\nThe proof, `listing` being what the demo itself sees in the folder:\n{PROOF}\n")
        cursor = self.database.execute(PROOF)
        names = [column.name for column in cursor.description or ()]
        values = cursor.fetchone()
        assert values is not None
        for name, value in zip(names, values, strict=True):
            say(f"  {name:<13}{value:>9,}")
        listed, once, failed, twice, missing = values
        holds = listed == once + failed and not twice and not missing
        say(
            "\nEvery file is in the application's table exactly once, or failed with its reason."
            if holds
            else "\nTHE PROOF DOES NOT HOLD."
        )
        return bool(holds)


def count_lines(folder: str) -> Counter[str]:
    """How often each step was executed: a line for each, in a file for each process."""
    counts: Counter[str] = Counter()
    for log in Path(folder).iterdir():
        counts.update(log.read_text().splitlines())
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", metavar="DIR", help="default: Python's library")
    parser.add_argument("--data-dir", type=Path, help="where PostgreSQL keeps its data")
    parser.add_argument("--workers", type=int, default=4, help="processes (default 4)")
    parser.add_argument("--no-kill", action="store_true", help="don't kill a worker half-way")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        folder, skip = chosen_folder(arguments.folder)
        session = Session(
            folder,
            skip,
            arguments.data_dir or default_data_folder() / "demo",
            arguments.workers,
            may_kill=not arguments.no_kill,
        )
        return 0 if session.run() else 1
    except (Trouble, RowlockError, psycopg.Error, OSError) as error:
        say(f"demo: {error}")
        return 2 if isinstance(error, Trouble) else 1
    except KeyboardInterrupt:
        say("\nstopped; the next `make demo` goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
