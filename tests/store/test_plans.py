"""Hot calls stay cheap however deep the backlog, even with the worst plans PostgreSQL may choose.

The tables are analyzed while they are empty and then filled, and every plan is generic: so the
planner believes that a table of 100,000 rows holds none. The same calls on a hundredth of the
backlog say what they should cost. Costs are buffers touched, which no busy machine can change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

import postgres
from rowlock import Batch, Debounce, Dedup
from rowlock.embedded import Server
from rowlock.starting import OnDuplicate, start_parameters
from rowlock.store.connection import Statement
from rowlock.store.entries import Entry, parameters
from rowlock.store.reports import (
    ASIDE,
    CANCEL_REQUEST,
    CHILDREN,
    FAMILIES,
    LAST_STEPS,
    MESSAGES,
    TOP_WAITS,
    TOP_WORKERS,
    TOTALS,
    WAITS,
)
from rowlock.store.statements import (
    ARRIVED,
    CANCEL,
    CLAIM,
    EVENTS,
    FORK,
    HEARTBEAT,
    HISTORY,
    JOURNAL,
    MAIL,
    MISSING,
    OUTCOMES,
    RECORD_FAILED_TRANSACTION,
    RECORD_TRANSACTION,
    REWIND,
    RUN,
    SEND,
    SET_EVENT,
    START,
    START_MANY,
    STEPS,
    STREAMS,
    TEND,
    Claimed,
)
from store.costs import DEEP, SHALLOW, Cost, cost_of
from store.races.sessions import (
    APP,
    Connections,
    Worker,
    World,
    child,
    children,
    emit,
    emitted,
    finish,
    for_event,
    for_group,
    for_message,
    go_on,
    receive,
    release,
    send,
    set_event,
    sleep_on,
    step,
    stop,
    suspend,
    timer,
)

LEDGERS = (
    "run",
    "step",
    "outcome",
    "task",
    "wait",
    "wake",
    "run_key",
    "start_key",
    "generation",
    "message",
    "event",
    "stream_entry",
    "cancel_request",
    "arrival",
)
FEW = 32
"""Buffers that a deeper index may cost on top: a level more here and there."""

LOAD = """
insert into rowlock.run (id, created_at, priority, app, workflow, queue, input, parent_id, dedup)
select uuidv7(), clock_timestamp(), 50, 'shop', 'fulfil', 'default', '{"order": 7}',
       case when n % 10 = 0 then gen_random_uuid() end, case when n % 10 = 1 then n::text end
  from generate_series(1, 4 * %(n)s) as n;
insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow, start_before)
select id, clock_timestamp() + interval '1 day' * (state <> 'ready')::int, 50, state,
       'shop', 'default', 'fulfil', clock_timestamp() + interval '2 days'
  from (select id, case when nth <= 2 * %(n)s then 'ready'
                        when nth <= 3 * %(n)s then 'waiting' else 'scheduled' end as state
          from (select id, row_number() over (order by id) as nth from rowlock.run) as numbered
         where nth > %(n)s) as unfinished;
insert into rowlock.outcome
      (run_id, finished_at, generation, epoch, app, workflow, queue, version, status)
select r.id, clock_timestamp(), 1, 1, 'shop', 'fulfil', 'default', '', 'succeeded'
  from rowlock.run as r where not exists (select from rowlock.task as t where t.run_id = r.id);
insert into rowlock.step
      (run_id, recorded_at, generation, position, epoch, seconds, attempts, place, kind, name)
select id, clock_timestamp(), 1, n, 1, 0.1, 1, n::text, 'step', 'work'
  from rowlock.run cross join generate_series(1, 2) as n;
insert into rowlock.wait (run_id, opened_at, due_at, generation, place, kind)
select run_id, clock_timestamp(), due_at, 1, '3', 'timer' from rowlock.task where state = 'waiting';
insert into rowlock.message (run_id, sent_at, topic, value)
select run_id, clock_timestamp(), 'approval', 'true' from rowlock.task;
insert into rowlock.event (run_id, set_at, name, value)
select run_id, clock_timestamp(), 'progress', '1' from rowlock.task;
insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force, look_at)
select run_id, clock_timestamp(), 1, 30, false, clock_timestamp() + interval '1 hour'
  from rowlock.task where state = 'scheduled';
insert into rowlock.run_key (run_id, app, key) select id, 'shop', id::text from rowlock.run;
insert into rowlock.start_key (run_id, app, workflow, kind, key)
select id, 'shop', 'fulfil', 'dedup', dedup from rowlock.run where dedup is not null;
insert into rowlock.start_key (run_id, app, workflow, kind, key)
select t.run_id, 'shop', 'fulfil', x.kind, t.run_id::text
  from rowlock.task as t cross join (values ('debounce'), ('batch')) as x (kind)
 where t.state = 'scheduled';
"""

BUSY = """
insert into rowlock.message (run_id, sent_at, topic, value, received_generation, received_place)
select %(run)s, clock_timestamp(), 'deep', 'true', 1, n::text from generate_series(1, %(n)s) as n;
insert into rowlock.message (run_id, sent_at, topic, value)
select %(run)s, clock_timestamp(), 'deep', 'true' from generate_series(1, %(n)s) as n;
insert into rowlock.stream_entry (run_id, emitted_at, "offset", stream, value)
select %(run)s, clock_timestamp(), n - 1, 'log', 'true' from generate_series(1, %(n)s) as n;
insert into rowlock.event (run_id, set_at, name, value)
select %(run)s, clock_timestamp(), n::text, 'true' from generate_series(1, %(n)s) as n;
insert into rowlock.arrival (arrived_at, count, name)
select clock_timestamp(), 1, %(run)s || ':1:' || n from generate_series(1, %(n)s) as n;
"""


class Backlog:
    """A database with so many ready, waiting, scheduled and finished runs, and a worker."""

    def __init__(self, world: World, depth: int) -> None:
        self.world = world
        self.depth = depth
        admin = world.anybody
        admin.run("analyze")
        for table in LEDGERS:
            admin.run(f"alter table rowlock.{table} set (autovacuum_enabled = false)")
        admin.connection.execute("set synchronous_commit = off")
        uuid = "uuidv7()" if admin.connection.info.server_version >= 180000 else "rowlock.uuidv7()"
        for statement in LOAD.replace("uuidv7()", uuid).split(";\n"):
            if statement.strip():
                admin.run(statement.replace("%(n)s", str(depth)))
        self.worker: Worker = world.worker()
        self.worker.heartbeat(lease_s=3600.0)
        self.worker.run("set plan_cache_mode = force_generic_plan")
        self.mine = self.worker.claim(100)
        self.finished: list[UUID] = [
            row[0] for row in admin.run("select run_id from rowlock.outcome limit 100")
        ]
        self.asleep: list[UUID] = [
            row[0]
            for row in admin.run("select run_id from rowlock.task where state = 'waiting' limit 9")
        ]
        self.put_off = str(
            admin.ask("select run_id from rowlock.task where state = 'scheduled' limit 1")
        )
        """One that a start may still change: put off, or add to its list."""
        admin.run("delete from rowlock.cancel_request where run_id = %s", self.put_off)
        admin.run(
            'update rowlock.run set batch_size = 1000, input = \'{"order": 7, "pages": [1]}\''
            " where id = %s",
            self.put_off,
        )
        self.busy = self.mine[99]
        """A run with as many messages and entries of streams as there are runs."""
        for statement in BUSY.split(";\n"):
            if statement.strip():
                admin.run(
                    statement.replace("%(n)s", str(depth)).replace(
                        "%(run)s", f"'{self.busy.run_id}'::uuid"
                    )
                )

    def cost(self, statement: Statement[Any], given: dict[str, Any]) -> Cost:
        """What a call costs when its plans are made; nothing of it remains."""
        cost = cost_of(self.worker, statement.sql, given)
        return Cost(cost.buffers, cost.scanned & set(LEDGERS))


@pytest.fixture(scope="module")
def backlogs(server: Server, template: str) -> Iterator[tuple[Backlog, Backlog]]:
    """A shallow backlog and a deep one."""
    with (
        postgres.new_database(server, template) as shallow,
        postgres.new_database(server, template) as deep,
    ):
        connections = [Connections(url) for url in (shallow, deep)]
        worlds = [World(each) for each in connections]
        yield Backlog(worlds[0], SHALLOW), Backlog(worlds[1], DEEP)
        for world in worlds:
            world.close()
        for each in connections:
            each.close()


Call = Callable[[Backlog], tuple[Statement[Any], dict[str, Any]]]


def claim(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return CLAIM, {
        "worker": backlog.worker.worker_id,
        "app": APP,
        "version": "",
        "queues": None,
        "after": None,
        "want": 10,
        "listening": False,
        "memory": None,
    }


def claim_of_a_version_without_work(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return CLAIM, claim(backlog)[1] | {"version": "v7"}


def heartbeat(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return HEARTBEAT, {"worker": backlog.worker.worker_id, "lease": 30.0, "doing": None}


def history(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    some = backlog.mine[:10]
    return HISTORY, {
        "runs": [one.run_id for one in some],
        "generations": [one.generation for one in some],
    }


def outcomes(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return OUTCOMES, {"runs": backlog.finished[:10]}


def missing(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return MISSING, {"runs": backlog.finished[:10]}


def tend_with_nothing_to_do(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return TEND, {"limit": 1000, "max_takeovers": 3}


def _start(**options: Any) -> tuple[Statement[Any], dict[str, Any]]:
    return START, start_parameters("fulfil", "{}", app=APP, **options)


def start(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return _start(key="order-7")


def start_with_a_dedup_key(policy: OnDuplicate) -> Call:
    """Which a run has: the first of all, which has ended, or the last, which is scheduled."""

    def call(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
        key = "1" if policy == "existing" else str(4 * backlog.depth - 9)
        return _start(dedup=Dedup(key, policy))

    return call


def start_debounced(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return _start(debounce=Debounce(backlog.put_off, 60, 3600))


def start_of_a_batch(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    batch = Batch(backlog.put_off, 1000)
    return START, start_parameters("fulfil", '{"order": 7, "pages": [2]}', app=APP, batch=batch)


def start_many(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    runs = ", ".join(f'{{"workflow": "fulfil", "key": "order-{n}"}}' for n in range(10))
    return START_MANY, {"runs": f"[{runs}]", "app": APP}


def look_at_a_run(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return RUN, {"run": backlog.finished[0]}


def look_at_steps(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return STEPS, {"run": backlog.finished[0], "generation": 1}


def look_at(statement: Statement[Any], **given: Any) -> Call:
    """What a person sees of a run that sleeps."""

    def call(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
        return statement, {"run": backlog.asleep[0], **given}

    return call


def look_at_children(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return CHILDREN, {"parents": backlog.asleep, "limit": 50, "look": 10_000}


def count_children(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return FAMILIES, {"parents": backlog.asleep, "limit": 100_000}


def look_at_oldest_waits(_: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return TOP_WAITS, {"limit": 10, "app": None}


def look_at_workers(_: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return TOP_WORKERS, {"app": None}


def _transaction(backlog: Backlog) -> dict[str, Any]:
    one = backlog.mine[0]
    return {
        "run": one.run_id,
        "generation": one.generation,
        "epoch": one.epoch,
        "place": "77",
        "position": 77,
        "name": "book",
        "attempts": 1,
        "seconds": 0.1,
    }


def record_transaction(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return RECORD_TRANSACTION, _transaction(backlog) | {"output": "1"}


def record_failed_transaction(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return RECORD_FAILED_TRANSACTION, _transaction(backlog) | {"error": '{"type": "Refused"}'}


def journal(make: Callable[[Claimed], list[Entry]], *, retrying: bool = False) -> Call:
    def call(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
        entries = [entry for one in backlog.mine[:10] for entry in make(one)]
        return JOURNAL, parameters(backlog.worker.worker_id, entries, retrying=retrying)

    return call


def watch(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    """Five runs go to sleep, each on five others."""
    others = [one.run_id for one in backlog.mine[10:]]
    entries: list[Entry] = [suspend(one, *others[:5]) for one in backlog.mine[:5]]
    return JOURNAL, parameters(backlog.worker.worker_id, entries, retrying=False)


def send_a_message(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return SEND, {"run": backlog.asleep[0], "topic": "approval", "value": "1", "key": "k"}


def send_to_a_deep_inbox(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return SEND, {"run": backlog.busy.run_id, "topic": "deep", "value": "1", "key": "k"}


def set_an_event(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return SET_EVENT, {"run": backlog.busy.run_id, "name": "progress", "value": "2"}


def cancel(which: Callable[[Backlog], UUID]) -> Call:
    def call(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
        return CANCEL, {"run": which(backlog), "grace": 30.0, "force": False, "reason": None}

    return call


def a_ready_run(backlog: Backlog) -> UUID:
    run: UUID = backlog.world.anybody.ask(
        "select run_id from rowlock.task where state = 'ready' limit 1"
    )
    return run


def control(call: str, which: Callable[[Backlog], UUID] = a_ready_run) -> Call:
    """A function of control, of one run."""

    def called(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
        statement = Statement(call, f"select rowlock.{call}", lambda row: row)
        return statement, {"run": which(backlog), "worker": backlog.worker.worker_id}

    return called


def rewind(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return REWIND, {"run": backlog.finished[0], "place": "2", "input": None}


def fork(which: Callable[[Backlog], UUID], place: str | None) -> Call:
    def call(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
        given = {"run": which(backlog), "place": place, "input": None, "outcomes": None}
        return FORK, given | {"version": None, "children": False}

    return call


def mail(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return MAIL, {"runs": [backlog.busy.run_id, *backlog.asleep], "topics": ["deep"] * 10}


def events(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return EVENTS, {"runs": [backlog.busy.run_id, *backlog.asleep], "names": ["progress"] * 10}


def read_a_stream(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return STREAMS, {
        "runs": [backlog.busy.run_id],
        "streams": ["log"],
        "offsets": [500],
        "limit": 10,
    }


def arrivals(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    return ARRIVED, {"name": f"{backlog.busy.run_id}:1:7"}


def tally(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    groups = [f"{backlog.busy.run_id}:1:{n}" for n in range(1, 6)]
    return JOURNAL, parameters(backlog.worker.worker_id, [], retrying=False, groups=groups)


def busy(make: Callable[[Claimed], list[Entry]]) -> Call:
    """Entries of the run with a deep inbox and long streams."""

    def call(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
        return JOURNAL, parameters(backlog.worker.worker_id, make(backlog.busy), retrying=False)

    return call


def sends(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    entries: list[Entry] = [
        send(one, "50", backlog.mine[50 + n].run_id, key="k")
        for n, one in enumerate(backlog.mine[:10])
    ]
    return JOURNAL, parameters(backlog.worker.worker_id, entries, retrying=False)


def watch_events(backlog: Backlog) -> tuple[Statement[Any], dict[str, Any]]:
    others = [one.run_id for one in backlog.mine[10:]]
    entries: list[Entry] = [
        sleep_on(one, *(for_event(other, f"{n}", "x") for n, other in enumerate(others[:5])))
        for one in backlog.mine[:5]
    ]
    return JOURNAL, parameters(backlog.worker.worker_id, entries, retrying=False)


def grouped(one: Claimed) -> list[Entry]:
    ends = finish(one)
    ends.grouped = True
    return [ends]


def told(one: Claimed) -> list[Entry]:
    ends = finish(one, "cancelled")
    ends.cancelled = True
    return [ends]


CALLS: dict[str, Call] = {
    "send": send_a_message,
    "send to a deep inbox": send_to_a_deep_inbox,
    "set_event": set_an_event,
    "cancel before it began": cancel(a_ready_run),
    "cancel of a sleeper": cancel(lambda backlog: backlog.asleep[0]),
    "cancel of a run at work": cancel(lambda backlog: backlog.mine[0].run_id),
    "reprioritise": control("reprioritise(%(run)s, 7)"),
    "reprioritise a run at work": control(
        "reprioritise(%(run)s, 7)", lambda backlog: backlog.mine[0].run_id
    ),
    "reschedule": control("reschedule(%(run)s, now() + interval '1 hour')"),
    "move": control("move(%(run)s, 'other')"),
    "move a sleeper": control("move(%(run)s, 'other')", lambda backlog: backlog.asleep[0]),
    "drain_worker": control("drain_worker(%(worker)s)"),
    "pause": control("pause(workflow => 'fulfil')"),
    "unpause": control("unpause(workflow => 'fulfil')"),
    "fork with its children": control(
        "fork(%(run)s, children => true)", lambda backlog: backlog.mine[0].run_id
    ),
    "rewind": rewind,
    "fork": fork(lambda backlog: backlog.finished[0], None),
    "fork at a place": fork(lambda backlog: backlog.mine[0].run_id, "2"),
    "mail": mail,
    "events": events,
    "streams": read_a_stream,
    "arrived": arrivals,
    "journal: receives": journal(lambda one: [receive(one, "50"), receive(one, "51")]),
    "journal: receives of a deep inbox": busy(
        lambda one: [receive(one, str(50 + n), "deep") for n in range(5)]
    ),
    "journal: sends": sends,
    "journal: sets events": journal(lambda one: [set_event(one, "50"), set_event(one, "51")]),
    "journal: sets an event of many": busy(lambda one: [set_event(one, "50")]),
    "journal: emits": journal(lambda one: [emit(one, "50"), emitted(one)]),
    "journal: emits into a long stream": busy(lambda one: [emit(one, "50"), emitted(one)]),
    "journal: starts groups": journal(lambda one: [children(one, "50", 3)]),
    "journal: finishes of a group": journal(grouped),
    "journal: tallies": tally,
    "journal: cancels children": journal(lambda one: [stop(one)]),
    "journal: finishes of cancelled": journal(told),
    "journal: continues": journal(lambda one: [go_on(one)]),
    "journal: sleeps on messages": journal(lambda one: [sleep_on(one, for_message("50", "x"))]),
    "journal: sleeps beside a deep inbox": busy(
        lambda one: [sleep_on(one, for_message("50", "deep"), for_message("51", "x"))]
    ),
    "journal: sleeps on events": watch_events,
    "journal: sleeps on a group": busy(
        lambda one: [sleep_on(one, for_group(f"{one.run_id}:1:7", 2))]
    ),
    "claim": claim,
    "claim of a version without work": claim_of_a_version_without_work,
    "heartbeat": heartbeat,
    "history": history,
    "outcomes": outcomes,
    "missing": missing,
    "tend": tend_with_nothing_to_do,
    "start": start,
    "start with a dedup key that is free": start_with_a_dedup_key("existing"),
    "start that replaces a run": start_with_a_dedup_key("replace"),
    "start that puts a run off": start_debounced,
    "start that adds to a batch": start_of_a_batch,
    "start_many": start_many,
    "a run": look_at_a_run,
    "steps of a run": look_at_steps,
    "a run: aside": look_at(ASIDE),
    "a run: cancel": look_at(CANCEL_REQUEST),
    "a run: last steps": look_at(LAST_STEPS, generation=1, limit=200),
    "a run: waits": look_at(WAITS, generation=1, limit=200),
    "a run: messages": look_at(MESSAGES, limit=20),
    "a run: totals": look_at(TOTALS, generation=1, limit=100_000),
    "a run: children": look_at_children,
    "a run: how many children": count_children,
    "workers": look_at_workers,
    "record_transaction": record_transaction,
    "record_failed_transaction": record_failed_transaction,
    "journal: steps": journal(lambda one: [step(one, "50"), step(one, "51")]),
    "journal: steps again": journal(lambda one: [step(one, "1"), step(one, "2")], retrying=True),
    "journal: children": journal(lambda one: [child(one, "50")]),
    "journal: finishes": journal(lambda one: [step(one, "50"), finish(one, waited=True)]),
    "journal: sleeps": journal(lambda one: [timer(one, "50"), suspend(one, timers=("50",))]),
    "journal: releases": journal(lambda one: [release(one)]),
    "journal: watches": watch,
}
MOST_BUFFERS = 1500
"""For ten runs; most calls stay far below."""


@pytest.mark.parametrize("name", CALLS)
def test_a_call_costs_the_same_at_a_deep_backlog(
    backlogs: tuple[Backlog, Backlog], name: str
) -> None:
    shallow, deep = (backlog.cost(*CALLS[name](backlog)) for backlog in backlogs)
    assert deep.scanned == set()
    assert deep.buffers <= 2 * shallow.buffers + FEW, (shallow.buffers, deep.buffers)
    assert deep.buffers <= MOST_BUFFERS


def test_a_claim_of_ten_touches_few_buffers(backlogs: tuple[Backlog, Backlog]) -> None:
    _, deep = backlogs
    assert deep.cost(*claim(deep)).buffers <= 400


def test_the_oldest_waits_of_very_many_are_found_among_a_thousand(
    backlogs: tuple[Backlog, Backlog],
) -> None:
    shallow, deep = (backlog.cost(*look_at_oldest_waits(backlog)) for backlog in backlogs)
    assert deep.scanned == set()
    assert deep.buffers <= 2 * shallow.buffers + FEW, (shallow.buffers, deep.buffers)


@pytest.mark.parametrize("paused", ["'other'", "workflow => 'invoice'"])
def test_a_claim_costs_little_more_while_something_else_is_paused(
    backlogs: tuple[Backlog, Backlog], paused: str
) -> None:
    _, deep = backlogs
    plain = deep.cost(*claim(deep)).buffers
    admin = deep.world.anybody
    admin.run(f"select rowlock.pause({paused})")
    try:
        beside = deep.cost(*claim(deep))
    finally:
        admin.run(f"select rowlock.unpause({paused})")
        admin.tend()
    assert beside.scanned == set()
    # It looks at the first hundreds in the queue for runs of a paused workflow.
    assert beside.buffers <= plain + FEW + (600 if "workflow" in paused else 0), plain


def test_a_claim_before_a_deep_backlog_of_a_paused_workflow_costs_a_batch(
    backlogs: tuple[Backlog, Backlog],
) -> None:
    _, deep = backlogs
    admin = deep.world.anybody
    admin.run("select rowlock.pause(workflow => 'fulfil')")
    try:
        cost = deep.cost(*claim(deep))
    finally:
        admin.run("select rowlock.unpause(workflow => 'fulfil')")
        admin.tend()
    assert cost.scanned == set()
    assert cost.buffers <= 2000 * 40  # of 100,000; its own writes among them


def test_tending_passes_by_what_is_set_aside_while_the_pause_goes_on(
    backlogs: tuple[Backlog, Backlog],
) -> None:
    _, deep = backlogs
    admin = deep.world.anybody
    plain = deep.cost(*tend_with_nothing_to_do(deep)).buffers
    admin.run("select rowlock.pause(workflow => 'fulfil')")
    admin.run(
        "update rowlock.task set state = 'blocked', reason = '{\"kind\": \"paused\"}'"
        " where run_id in (select run_id from rowlock.task where state = 'waiting' limit 20000)"
    )
    try:
        beside = deep.cost(*tend_with_nothing_to_do(deep))
        admin.run("select rowlock.unpause(workflow => 'fulfil')")
        lifts = deep.cost(TEND, {"limit": 50, "max_takeovers": 3})
    finally:
        admin.run(
            "update rowlock.task set state = 'waiting', reason = null where state = 'blocked'"
        )
        admin.tend()
    # What was set aside left dead entries in the index of what falls due; all have 333 pages.
    assert beside.buffers <= plain + 4 * FEW
    assert lifts.scanned == set()
    assert lifts.buffers <= plain + 50 * 40, "what it did, not what there is"


DISTURB = {
    "what has fallen due": "update rowlock.task set due_at = clock_timestamp() - interval '1 hour'"
    " where run_id in (select run_id from rowlock.task where state = 'waiting' limit 50)",
    "noted waiters": "insert into rowlock.wake (run_id)"
    " select run_id from rowlock.task where state = 'waiting' limit 50",
    "noted events": "insert into rowlock.wake (on_run_id, name)"
    " select run_id, 'progress' from rowlock.task where state = 'waiting' limit 50",
    "requests to cancel": "insert into rowlock.cancel_request"
    " (run_id, requested_at, generation, grace_s, force)"
    " select run_id, clock_timestamp(), 1, 30, false from rowlock.task"
    " where state = 'waiting' limit 50",
    "requests to cancel what never began": "insert into rowlock.cancel_request"
    " (run_id, requested_at, generation, grace_s, force)"
    " select run_id, clock_timestamp(), 1, 30, false from rowlock.task"
    " where state = 'ready' limit 50",
    "runs that are too late to begin": "update rowlock.task"
    " set start_before = clock_timestamp() - interval '1 second'"
    " where run_id = any (array(select run_id from rowlock.task where state = 'ready' limit 50))",
    "a dead worker": "update rowlock.worker"
    " set lease_until = clock_timestamp() - interval '1 hour'",
}


@pytest.mark.parametrize("what", DISTURB)
def test_tending_costs_what_it_does_not_what_there_is(
    backlogs: tuple[Backlog, Backlog], what: str
) -> None:
    costs = []
    for backlog in backlogs:
        tend = Statement(f"tend {what}", TEND.sql, TEND.row)
        costs.append(_cost_after(backlog, DISTURB[what], tend))
    shallow, deep = costs
    assert deep.scanned == set()
    assert deep.buffers <= 2 * shallow.buffers + FEW, (shallow.buffers, deep.buffers)


def _cost_after(backlog: Backlog, disturbance: str, tend: Statement[Any]) -> Cost:
    admin = backlog.world.anybody
    admin.run(disturbance)
    try:
        return backlog.cost(tend, {"limit": 1000, "max_takeovers": 3})
    finally:
        admin.run("delete from rowlock.wake")
        admin.run("delete from rowlock.cancel_request where look_at < clock_timestamp()")
        admin.run("update rowlock.worker set lease_until = clock_timestamp() + interval '1 hour'")
        admin.run(
            "update rowlock.task set start_before = clock_timestamp() + interval '2 days'"
            " where start_before < clock_timestamp()"
        )
        admin.run(
            "update rowlock.task set due_at = clock_timestamp() + interval '1 day'"
            " where state = 'waiting' and due_at < clock_timestamp()"
        )


def test_where_sequential_scans_are_forbidden_nothing_is_compiled(
    backlogs: tuple[Backlog, Backlog],
) -> None:
    """Before 18 such a scan has a cost of 10 billion: JIT would take 100 ms for a table of a few
    workers, in each call of whoever tells them."""
    compiled = backlogs[0].world.anybody.run(
        "select proname from pg_proc where pronamespace = 'rowlock'::regnamespace"
        "   and ('enable_seqscan=off' = any (proconfig) or proname like 'notify%')"
        "   and not 'jit=off' = any (proconfig)"
    )
    assert compiled == []
