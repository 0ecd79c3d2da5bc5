"""Everything at once, by a seed: workers killed, frozen past their lease and cut off, Postgres shot
and restarted, strangers' transactions left open; in the end every history is held against a model.

Short by default, so that it never rots; `make chaos` runs it for longer
(ROWLOCK_CHAOS_SECONDS, ROWLOCK_CHAOS_SEED).
"""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import ExitStack, suppress

import psycopg
import pytest

import postgres
from rowlock import Settings
from rowlock.embedded import Server
from rowlock.store.migrate import migrate
from workers import checks, sample
from workers.process import Worker
from workers.proxy import Proxy
from workers.until import Sql, until

SECONDS = float(os.environ.get("ROWLOCK_CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("ROWLOCK_CHAOS_SEED", "0")) or random.SystemRandom().randint(1, 10**6)
LEASE_S = 2.0
WORKERS = 3


class Chaos:
    """What goes wrong, one thing after the other."""

    def __init__(self, server: Server, url: str, proxy: Proxy, stack: ExitStack) -> None:
        self.random = random.Random(SEED)
        self.server = server
        self.url = url
        self.proxy = proxy
        self.stack = stack
        self.workers: list[Worker] = []
        self.happened: dict[str, int] = {}

    def hire(self) -> None:
        """Every other worker reaches the database through the proxy."""
        url = self.proxy.url if len(self.workers) % 2 else self.url
        worker = Worker(url, slots=12, lease_s=LEASE_S)
        self.workers.append(self.stack.enter_context(worker))

    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_alive]

    def kill(self) -> None:
        self.random.choice(self.living()).kill()
        self.hire()

    def freeze(self) -> None:
        worker = self.random.choice(self.living())
        worker.freeze()
        time.sleep(LEASE_S * self.random.uniform(0.5, 2.0))
        worker.thaw()

    def drain(self) -> None:
        worker = self.random.choice(self.living())
        worker.terminate()
        self.hire()

    def cut(self) -> None:
        self.proxy.cut_commits(0.05)
        time.sleep(self.random.uniform(0.2, 1.0))
        self.proxy.cut_commits(0.0)

    def cut_off(self) -> None:
        self.proxy.refuse(True)
        time.sleep(self.random.uniform(0.1, LEASE_S * 1.5))
        self.proxy.refuse(False)

    def stranger(self) -> None:
        """A transaction left open over a key, over rows of a run, over a task."""

        def hold() -> None:
            with suppress(psycopg.Error), psycopg.connect(self.url) as stranger:
                key = f"key-{self.random.randint(1, 5)}"
                stranger.execute("set lock_timeout = '500 ms'")
                stranger.execute(
                    "select rowlock.start('echo', '{\"value\": 1}', %s, app => 'sample')", [key]
                )
                for table, column in (("run", "id"), ("task", "run_id")):
                    stranger.execute(
                        f"select from rowlock.{table} where {column} = (select run_id"
                        " from rowlock.task order by random() limit 1) for no key update"
                    )
                time.sleep(self.random.uniform(0.2, 1.5))
                if self.random.random() < 0.5:
                    stranger.rollback()

        threading.Thread(target=hold, daemon=True).start()
        time.sleep(0.1)

    def restart_postgres(self) -> None:
        if self.random.random() < 0.5:
            self.server.restart_immediately()
        else:
            self.server.kill()
            self.server.start()

    def strike(self) -> None:
        what = self.random.choices(
            [
                self.kill,
                self.freeze,
                self.drain,
                self.cut,
                self.cut_off,
                self.stranger,
                self.restart_postgres,
            ],
            [5, 3, 1, 4, 2, 6, 1],
        )[0]
        self.happened[what.__name__] = self.happened.get(what.__name__, 0) + 1
        what()
        time.sleep(self.random.uniform(0.1, 0.8))


@pytest.mark.timeout(SECONDS * 3 + 240)
def test_every_history_is_whole_whatever_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"chaos: seed {SEED}, {SECONDS:g} s")
    with postgres.running_server() as server, ExitStack() as stack:
        url = server.url()
        migrate(url)
        monkeypatch.setenv("TRACE_URL", url)
        setup = Sql(url)
        setup(sample.SCHEMA)
        setup.close()
        proxy = stack.enter_context(Proxy(url, SEED))
        chaos = Chaos(server, url, proxy, stack)
        with sample.app.blocking_client(Settings(database_url=url)) as client:
            calls = [
                sample.sync_mixed(f"r{n}") if n % 5 == 0 else sample.mixed(f"r{n}", n)
                for n in range(int(40 + SECONDS * 6))
            ]
            client.start_many(calls)
            for _ in range(WORKERS):
                chaos.hire()
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                chaos.strike()
            print(f"chaos: {chaos.happened}, {proxy.cuts} connections cut")
            proxy.refuse(False)
            for worker in chaos.living():
                worker.thaw()
            look = Sql(url)
            until(
                lambda: look.one("select count(*) from rowlock.task") == 0,
                deadline_s=SECONDS * 2 + 120,
            )
        assert look("select distinct status from rowlock.outcome where status <> 'succeeded'") == []
        assert checks.broken(url) == {}
        assert look("select run, n from ledger group by 1, 2 having count(*) > 1") == []
        booked = sum(2 if n % 5 == 0 else 3 for n in range(len(calls)))
        assert look.one("select count(*) from ledger") == booked
        assert look.one("select count(*) from rowlock.wait") == 0
        look.close()
