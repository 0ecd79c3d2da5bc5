"""What is measured. Each scenario gives the figures of one run, by name."""

from __future__ import annotations

import statistics
import time

from rowlock import BlockingClient, Settings
from rowlock_loadtest import workflows
from rowlock_loadtest.bench import Bench, Reading, cpu_s, memory_mb
from rowlock_loadtest.lists import lists

Figures = dict[str, float]

FALL_ASLEEP_S, FALL_ASLEEP_PER_SECOND = 15.0, 1500.0
"""The first sleeper falls due when all are surely asleep."""

FINISHED = "select count(*) from rowlock.outcome"


def _client(bench: Bench) -> BlockingClient:
    return workflows.app.blocking_client(Settings(database_url=bench.url))


def _costs(before: Reading, after: Reading, units: int) -> Figures:
    seconds = after.at - before.at
    return {
        "per_second": units / seconds,
        "commits_each": (after.transactions - before.transactions) / units,
        "wal_bytes_each": (after.wal_bytes - before.wal_bytes) / units,
        "postgres_cpu_us_each": (after.cpu_s - before.cpu_s) / units * 1e6,
    }


def steps(bench: Bench, runs: int = 1000) -> Figures:
    """Runs of ten steps, 64 at a time in one process."""
    with _client(bench) as client:
        client.start_many([workflows.steps(10)] * runs)
    bench.connection.execute("analyze")
    with bench.workers(slots=64):
        before = bench.read()
        bench.until(FINISHED, runs)
        return _costs(before, bench.read(), runs * 10)


def sequential(bench: Bench, count: int = 1000) -> Figures:
    """One run of many steps: what a step costs when nobody shares its commit."""
    with _client(bench) as client, bench.workers():
        client.start(workflows.steps(10)).result(timeout=60)
        before = bench.read()
        client.start(workflows.steps(count)).result(timeout=300)
        figures = _costs(before, bench.read(), count)
    return figures | {"ms_each": 1000 / figures["per_second"]}


def drain(bench: Bench, runs: int = 10_000, processes: int = 1) -> Figures:
    """Waiting runs that do nothing; each outcome is committed before it counts."""
    begun = bench.read()
    with _client(bench) as client:
        client.start_many([workflows.noop()] * runs)
    bench.connection.execute("analyze")
    with bench.workers(processes, slots=64):
        before = bench.read()
        bench.until(FINISHED, runs)
        after = bench.read()
    figures = _costs(before, after, runs)
    return figures | {"wal_bytes_each_from_start": (after.wal_bytes - begun.wal_bytes) / runs}


def latency(bench: Bench, runs: int = 100) -> Figures:
    """An idle system, a run every 50 ms: from the call of start to the function's first line."""
    waits = []
    with _client(bench) as client, bench.workers():
        client.start(workflows.noop()).result(timeout=60)
        time.sleep(1)
        for _ in range(runs):
            began = time.monotonic_ns()
            run = client.start(workflows.entered())
            time.sleep(0.05)
            waits.append((run.result(timeout=60) - began) / 1e6)
    waits.sort()
    return {"p50_ms": statistics.median(waits), "p99_ms": waits[int(len(waits) * 0.99) - 1]}


def replay(bench: Bench, count: int = 10_000) -> Figures:
    """A long history, loaded and replayed by a worker that has never seen it."""
    with _client(bench) as client:
        run = client.start(workflows.steps_then_sleep(count, 3))
        with bench.workers():
            bench.until("select count(*) from rowlock.task where state = 'waiting'", 1)
        bench.until("select -count(*) from rowlock.task where due_at > now()", 0)
        with bench.workers():
            run.result(timeout=120)
            registered_to_outcome = bench.number(
                "select extract(epoch from (select max(finished_at) from rowlock.outcome)"
                " - (select max(registered_at) from rowlock.worker))"
            )
    return {"steps": count, "from_worker_start_to_outcome_s": float(registered_to_outcome)}


def sleepers(bench: Bench, runs: int = 10_000, due_per_second: float = 1000.0) -> Figures:
    """Many sleeping runs: what they cost a worker, and how late they wake when so many fall due."""
    with _client(bench) as client, bench.workers(slots=200) as worker:
        for warm in client.start_many([workflows.noop()] * 1000):
            warm.result(timeout=60)
        before_mb = memory_mb(worker.pid)
        began = time.monotonic()
        first = time.time() + FALL_ASLEEP_S + runs / FALL_ASLEEP_PER_SECOND
        for start in range(0, runs, 1000):
            some = range(start, min(start + 1000, runs))
            client.start_many([workflows.sleeper(first + n / due_per_second) for n in some])
        asleep = bench.until("select count(*) from rowlock.wait", runs, every_s=0.1)
        bench.connection.execute("create temp table due as select run_id, due_at from rowlock.wait")
        grown_mb = memory_mb(worker.pid) - before_mb
        bench.until(FINISHED, runs + 1000, every_s=0.1)
        most_mb = memory_mb(worker.pid) - before_mb
    [row] = bench.connection.execute(
        "select percentile_cont(0.99) within group (order by extract(epoch from late)),"
        " max(extract(epoch from late)), extract(epoch from max(at) - min(at))"
        " from (select o.finished_at as at, o.finished_at - d.due_at as late"
        " from rowlock.outcome as o join due as d using (run_id)) as woken"
    ).fetchall()
    p99, latest, span = map(float, row)
    return {
        "fell_asleep_per_second": runs / (asleep - began),
        "memory_grown_mb": grown_mb,
        "memory_grown_after_mb": most_mb,
        "woken_per_second": runs / max(span, 0.001),
        "late_p99_s": p99,
        "late_most_s": latest,
    }


def idle(bench: Bench, seconds: float = 20.0) -> Figures:
    """A worker process with nothing to do."""
    with bench.workers() as worker:
        time.sleep(5.0)  # past its first looks around
        before_s, before, began = cpu_s(worker.pid), bench.read(), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        after = bench.read()
        return {
            "cpu_percent": 100 * (cpu_s(worker.pid) - before_s) / passed,
            "writing_commits_per_second": (after.transactions - before.transactions) / passed,
            "wal_bytes_per_second": (after.wal_bytes - before.wal_bytes) / passed,
        }


def fan_out(bench: Bench, children: int = 10_000) -> Figures:
    """A parent of many children: how long all of it takes, and how often the parent was claimed."""
    with _client(bench) as client, bench.workers(processes=2, slots=100):
        client.start(workflows.fan_out(10)).result(timeout=60)
        before = bench.read()
        run = client.start(workflows.fan_out(children))
        assert run.result(timeout=600) == sum(n * n for n in range(children))
        figures = _costs(before, bench.read(), children)
        # Each claim, and each time asleep, adds one to the epoch.
        epoch = run.info().epoch
    return figures | {"parent_claims": (epoch + 1) // 2}


def messages(bench: Bench, runs: int = 50, each: int = 100) -> Figures:
    """Messages from outside to runs that wait for them: sent all at once, then received."""
    with _client(bench) as client, bench.workers(slots=64):
        started = client.start_many([workflows.hears(each)] * runs)
        bench.until("select count(*) from rowlock.task where state = 'waiting'", runs)
        before = bench.read()
        for run in started:
            bench.connection.execute(
                "select count(rowlock.send(%s, 'item', to_jsonb(n))) from generate_series(1, %s) n",
                [run.id, each],
            )
        for run in started:
            run.result(timeout=300)
        return _costs(before, bench.read(), runs * each)


SCENARIOS = {
    "steps": steps,
    "sequential": sequential,
    "drain": drain,
    "latency": latency,
    "replay": replay,
    "sleepers": sleepers,
    "idle": idle,
    "fan_out": fan_out,
    "messages": messages,
    "lists": lists,
}
