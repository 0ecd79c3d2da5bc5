"""How long a page of runs takes, by each filter, among a million finished runs.

The runs are written into the tables as they would stand there after a month: running them would
take longer. What is rare is the oldest: a walk from the newest would find it last.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from rowlock_loadtest.bench import Bench

PARENT = "01900000-0000-7000-8000-000000000001"
ROUNDS = 200

LOAD = """
create temp table made as
select n, at, (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
               || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid as id,
       n <= %(runs)s / 20 and n % (%(runs)s / 1000) = 0 as rare,
       case when n % 100 < 97 then 'succeeded' when n % 100 < 99 then 'failed' else 'cancelled' end
       as status
  from (select n, md5(n::text) as h,
               now() - interval '30 days' * (1 - n::float8 / %(runs)s) as at
          from generate_series(1, %(runs)s) as n) as x;
insert into rowlock.run (id, created_at, priority, app, workflow, queue, key, input, attributes,
                         parent_id, parent_generation, parent_place)
select id, at, 50, case when rare or n % 10 = 0 then 'bank' else 'shop' end,
       case when rare then 'rare' else 'work_' || n % 20 end, 'queue_' || n % 3, 'key-' || n,
       jsonb_build_object('order', n),
       jsonb_build_object('customer', n % (%(runs)s / 10),
                          'region', case when n % 100 = 0 then 'li' else 'eu' end),
       case when n % 10 = 1 then uuid '01900000-0000-7000-8000-000000000001' end, 1, '1'
  from made;
insert into rowlock.run_key (run_id, app, key) select id, app, key from rowlock.run;
insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app, workflow,
                             queue, version, status, output)
select id, at, at + interval '1 second', 1, 1, r.app, r.workflow,
       case when rare then 'rare' else r.queue end,
       case when rare then 'v0' else 'v' || 1 + 5 * n / (%(runs)s + 1) end,
       case when rare then 'dead' else m.status end, '"done"'
  from made as m join rowlock.run as r using (id);
insert into rowlock.run (id, created_at, priority, app, workflow, queue, input)
select rowlock.uuidv7(), clock_timestamp(), 50, 'shop', 'sleepy_' || n % 5, 'queue_1', '{}'
  from generate_series(1, %(unfinished)s) as n;
insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow)
select r.id, now() + interval '1 day', 50, 'waiting', r.app, r.queue, r.workflow
  from rowlock.run as r where r.workflow like 'sleepy%';
insert into rowlock.workflow (app, name, queue)
select app, workflow, min(queue) from rowlock.run group by app, workflow;
insert into rowlock.queue (app, name) select distinct app, queue from rowlock.outcome;
insert into rowlock.version (app, name) select distinct app, version from rowlock.outcome;
vacuum analyze rowlock.run;
vacuum analyze rowlock.outcome;
vacuum analyze rowlock.task;
vacuum analyze rowlock.run_key;
"""

DAY = "created_after => now() - interval '11 days', created_before => now() - interval '10 days'"
FILTERS: dict[str, str] = {
    "newest": "",
    "app_common": "app => 'shop'",
    "app_of_a_tenth": "app => 'bank'",
    "status_common": "status => 'succeeded'",
    "status_of_2_percent": "status => 'failed'",
    "status_of_50": "status => 'dead'",
    "status_running": "status => 'running'",
    "status_scheduled": "status => 'scheduled'",
    "workflow": "workflow => 'work_7'",
    "workflow_of_50": "workflow => 'rare'",
    "queue": "queue => 'queue_1'",
    "queue_of_50": "queue => 'rare'",
    "version": "version => 'v2'",
    "version_of_50": "version => 'v0'",
    "day": DAY,
    "parent_of_a_tenth": f"parent_id => '{PARENT}'",
    "key": "key => 'key-77777'",
    "attributes_of_10": """attributes => '{"customer": 777}'""",
    "attributes_of_1_percent": """attributes => '{"region": "li"}'""",
    "app_workflow_status": "app => 'shop', workflow => 'work_7', status => 'cancelled'",
    "app_status_version": "app => 'shop', status => 'failed', version => 'v1'",
    "app_status_day": f"app => 'shop', status => 'failed', {DAY}",
    "parent_and_status_of_none": f"parent_id => '{PARENT}', status => 'dead'",
    "page_of_1000_failed": """status => 'failed', "limit" => 1000""",
    "page_400_of_failed": "status => 'failed', before => {middle}",
}


def lists(bench: Bench, runs: int = 1_000_000, unfinished: int = 0) -> dict[str, float]:
    """Of each a median and the slowest hundredth, and what is no noise: CPU and buffers of a call.

    A page has 50 runs.
    """
    sql = bench.connection
    for statement in LOAD.split(";\n"):
        if statement.strip():
            filled = statement.replace("%(runs)s", str(runs))
            sql.execute(filled.replace("%(unfinished)s", str(unfinished)).encode())
    middle = bench.number(
        "select run_id from rowlock.outcome where status = 'failed'"
        " order by run_id offset (select count(*) / 2 from rowlock.outcome where status = 'failed')"
        " limit 1"
    )
    figures: dict[str, float] = {}
    for name, filters in FILTERS.items():
        filters = filters.replace("{middle}", f"'{middle}'")
        before = _cpu_ms(bench)
        took = _times(bench, filters)
        figures[f"{name}_cpu_ms"] = (_cpu_ms(bench) - before) / len(took)
        figures[f"{name}_p50_ms"] = statistics.median(took)
        figures[f"{name}_p99_ms"] = took[int(len(took) * 0.99) - 1]
        figures[f"{name}_buffers"] = _buffers(bench, filters)
    return figures


def _cpu_ms(bench: Bench) -> float:
    """CPU time of the connection's backend (Linux)."""
    schedule = Path(f"/proc/{bench.connection.info.backend_pid}/schedstat")
    return int(schedule.read_text().split()[0]) / 1e6


def _buffers(bench: Bench, filters: str) -> int:
    explain = "explain (analyze, buffers, format json) select * from rowlock.list_runs"
    top = bench.number(f"{explain}({filters})")[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


def _times(bench: Bench, filters: str) -> list[float]:
    """In ascending order; a slow one is asked less often."""
    asked = b"select * from rowlock.list_runs(" + filters.encode() + b")"
    took: list[float] = []
    bench.connection.execute(asked)
    begun = time.monotonic()
    while len(took) < ROUNDS and (len(took) < 5 or time.monotonic() < begun + 10):
        at = time.monotonic_ns()
        bench.connection.execute(asked).fetchall()
        took.append((time.monotonic_ns() - at) / 1e6)
    return sorted(took)
