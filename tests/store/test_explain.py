"""`rowlock.explain`: each cause by itself, and which comes first when several hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from store.races.sessions import (
    APP,
    Worker,
    World,
    child,
    children,
    finish,
    for_end,
    for_event,
    for_group,
    for_message,
    release,
    sleep_on,
    step,
    stop,
    suspend,
    timer,
)


@dataclass
class Answer:
    status: str | None
    cause: str
    message: str
    hint: str
    details: dict[str, Any]


def explain(world: World, run_id: UUID | None) -> Answer:
    [row] = world.anybody.run("select * from rowlock.explain(%s)", run_id)
    answer = Answer(*row)
    assert answer.message
    assert answer.hint
    assert "%" not in answer.message + answer.hint
    return answer


def cause(world: World, run_id: UUID) -> str:
    return explain(world, run_id).cause


def register(
    world: World, *, version: str = "", queues: list[str] | None = None, slots: int = 2
) -> Worker:
    worker_id = world.anybody.ask(
        "select rowlock.register_worker(%s, %s, 'pod-1', 77, %s, %s, '30 s')",
        APP,
        version,
        slots,
        queues,
    )
    return world.connect_again(worker_id)


def pause(world: World, *, queue: str | None = None, workflow: str | None = None) -> None:
    world.anybody.ask(
        "select rowlock.pause(queue => %s, workflow => %s, app => %s,"
        " reason => 'the bank is closed')",
        queue,
        workflow,
        None if queue or workflow else APP,
    )


# --- nobody could take it


def test_an_unknown_id(world: World) -> None:
    answer = explain(world, uuid4())
    assert (answer.status, answer.cause) == (None, "unknown")
    assert "may not use" in answer.hint
    assert explain(world, None).message == "there is no run null"


def test_no_live_worker(world: World) -> None:
    run = world.anybody.start()
    assert explain(world, run).message == "no live worker serves app shop"
    worker = register(world)
    world.expire(worker)
    answer = explain(world, run)
    assert answer.cause == "no_worker"
    assert "the last lease ended at 2" in answer.message


def test_no_worker_for_the_queue(world: World) -> None:
    run = world.anybody.start()
    register(world, queues=["other", "third"])
    answer = explain(world, run)
    assert answer.cause == "no_worker_for_queue"
    assert answer.message.endswith("serves queue default; they serve other, third")
    register(world, queues=["default"])
    assert cause(world, run) == "queued"


def test_no_worker_of_the_version(world: World) -> None:
    run = world.anybody.start()
    old = register(world, version="v1")
    [claimed] = old.claim(version="v1")
    old.write(release(claimed))
    old.leave()
    register(world, version="v2")
    pinned = explain(world, run)
    assert pinned.cause == "no_worker_of_version"
    assert "pinned to version v1" in pinned.message
    assert pinned.message.endswith("they carry v2")
    fresh = world.anybody.start()
    assert cause(world, fresh) == "queued"
    world.anybody.run("select rowlock.promote(%s, 'v1')", APP)
    answer = explain(world, fresh)
    assert answer.cause == "no_worker_of_version"
    assert "version v1 is the current one" in answer.message


def test_all_workers_drain(world: World) -> None:
    run = world.anybody.start()
    worker = register(world)
    world.anybody.run("select rowlock.drain_worker(%s)", worker.worker_id)
    assert cause(world, run) == "workers_draining"
    worker.heartbeat()
    assert cause(world, run) == "workers_draining"


def test_a_workflow_that_no_code_has_shown(world: World) -> None:
    run = world.anybody.start("typo")
    assert cause(world, run) == "no_worker"
    worker = register(world)
    assert cause(world, run) == "unknown_workflow"
    [claimed] = worker.claim()
    worker.write(release(claimed, "unknown_workflow"))
    answer = explain(world, run)
    assert (answer.status, answer.cause) == ("blocked", "unknown_workflow")


def test_behind_others(world: World) -> None:
    worker = register(world, slots=2)
    busy = world.anybody.start_many(*[{"workflow": "fulfil"}] * 2)
    worker.claim(2)
    first, urgent, last = world.anybody.start_many(
        {"workflow": "fulfil"},
        {"workflow": "fulfil", "priority": 1},
        {"workflow": "fulfil", "priority": 60},
    )
    world.anybody.start_many({"workflow": "fulfil", "queue": "other", "priority": 0})
    assert [explain(world, run).details["ahead"] for run in (urgent, first, last)] == [0, 1, 2]
    answer = explain(world, last)
    assert answer.cause == "queued"
    assert "behind 2 others" in answer.message
    assert "2 of 2 slots" in answer.message
    assert "More workers" in answer.hint
    for run in busy:
        assert cause(world, run) == "running"


# --- somebody has it


def test_running(world: World) -> None:
    worker = register(world)
    run = world.anybody.start()
    [claimed] = worker.claim()
    answer = explain(world, run)
    assert (answer.status, answer.cause) == ("running", "running")
    assert "(pod-1, pid 77) has been running it since 2" in answer.message
    assert "recorded nothing yet" in answer.message
    worker.write(step(claimed, "1"))
    assert "it recorded step work at place 1 last" in explain(world, run).message
    worker.ask(
        "select run_ids from rowlock.heartbeat(%s, '30 s', %s)",
        worker.worker_id,
        f'[{{"run": "{run}", "place": "2", "name": "charge", "attempt": 3, "seconds": 90}}]',
    )
    answer = explain(world, run)
    assert "and step charge at place 2, attempt 3, since 2" in answer.message
    assert answer.details["step"]["name"] == "charge"
    worker.heartbeat()
    assert explain(world, run).details["step"]["name"] is None


def test_running_on_a_worker_that_is_lost(world: World) -> None:
    worker = register(world)
    run = world.anybody.start()
    worker.claim()
    world.expire(worker)
    answer = explain(world, run)
    assert answer.cause == "worker_lost"
    assert "start one" in answer.hint
    register(world)
    assert "takes the run over" in explain(world, run).hint
    world.anybody.run("delete from rowlock.worker where id = %s", worker.worker_id)
    assert "is gone" in explain(world, run).message


def test_a_cancel_that_its_code_has_not_met(world: World) -> None:
    worker = register(world)
    run = world.anybody.start()
    [claimed] = worker.claim()
    world.anybody.cancel(run, reason="too dear")
    answer = explain(world, run)
    assert answer.cause == "cancel_requested"
    assert "(too dear)" in answer.message
    worker.write(stop(claimed))
    answer = explain(world, run)
    assert answer.cause == "cleaning_up"
    assert answer.details["cleanup_until"] > answer.details["cancel_seen_at"]


# --- it sleeps


def test_not_due(world: World) -> None:
    [run] = world.anybody.start_many({"workflow": "fulfil", "delay": "2 hours"})
    answer = explain(world, run)
    assert (answer.status, answer.cause) == ("scheduled", "not_due")
    world.make_due(run)
    assert cause(world, run) == "no_worker"
    register(world)
    assert cause(world, run) == "queued"


DEBOUNCED = (
    "select rowlock.start('fulfil', '{}', app => 'shop', debounce => 'page-7',"
    " quiet => %s::interval)"
)


def test_put_off_by_its_debounce_key(world: World) -> None:
    run = world.anybody.ask(DEBOUNCED, "2 hours")
    answer = explain(world, run)
    assert (answer.status, answer.cause) == ("scheduled", "debounced")
    assert "the debounce key page-7" in answer.message
    assert answer.details["debounce"] == "page-7"
    before = answer.details["due_at"]
    assert world.anybody.ask(DEBOUNCED, "3 hours") == run
    assert explain(world, run).details["due_at"] > before
    world.make_due(run)
    register(world).promote_due()
    assert cause(world, run) == "queued"
    assert world.anybody.ask(DEBOUNCED, "2 hours") != run


def test_gathering_a_batch(world: World) -> None:
    ask = (
        "select rowlock.start('fulfil', '{\"pages\": [1, 2]}', app => 'shop', batch => 'pages',"
        " size => 5, wait => '2 hours')"
    )
    run = world.anybody.ask(ask)
    assert world.anybody.ask(ask) == run
    answer = explain(world, run)
    assert (answer.status, answer.cause) == ("scheduled", "batching")
    assert "the batch pages, has 4 of 5, and is due at" in answer.message
    due_at = answer.details.pop("due_at")
    assert due_at.startswith("20")
    assert answer.details == {"batch": "pages", "inputs": 4, "size": 5}
    second = world.anybody.ask(ask)
    assert (cause(world, run), cause(world, second)) == ("no_worker", "batching")
    world.make_due(second)
    register(world).promote_due()
    assert cause(world, second) == "queued"
    world.anybody.run("select rowlock.reschedule(%s, now() + interval '1 hour')", second)
    assert cause(world, second) == "not_due"


def test_too_late_to_begin_is_told_beside_the_cause(world: World) -> None:
    run = world.anybody.ask(
        "select rowlock.start('fulfil', '{}', app => 'shop', delay => '1 hour',"
        " start_before => clock_timestamp() + interval '2 hours')"
    )
    answer = explain(world, run)
    assert answer.cause == "not_due"
    assert "; if it has not begun by " in answer.message
    assert answer.details["start_before"] > answer.details["due_at"]
    world.make_due(run)
    assert "; if it has not begun by " in explain(world, run).message
    world.anybody.run("update rowlock.task set start_before = clock_timestamp()")
    assert "it fails with the next round of a worker" in explain(world, run).message
    world.anybody.run(
        "update rowlock.task set start_before = clock_timestamp() + interval '1 hour'"
    )
    worker = register(world)
    worker.promote_due()
    [claimed] = worker.claim()
    assert claimed.run_id == run
    assert "begun by" not in explain(world, run).message


def test_each_thing_it_can_wait_for(world: World) -> None:
    worker = register(world, slots=1000)
    watched, message, event, end, group, sleeper, retry = world.claimed_by(worker, 7)
    worker.write(children(group, "1", 3))
    name = world.anybody.ask(
        "select output #>> '{}' from rowlock.step where run_id = %s", group.run_id
    )
    retried = timer(retry, "1", kind="retry", attempt=2)
    retried.error = msgspec.Raw(b'{"type": "Refused", "message": "no money"}')
    worker.write(
        timer(sleeper, "1"),
        retried,
        sleep_on(message, for_message()),
        sleep_on(event, for_event(watched.run_id)),
        sleep_on(end, for_end(watched.run_id)),
        sleep_on(group, for_group(name, 3)),
        suspend(sleeper, timers=("1",)),
        suspend(retry, timers=("1",)),
    )
    answers = {
        run.run_id: explain(world, run.run_id)
        for run in (message, event, end, group, sleeper, retry)
    }
    assert [answer.cause for answer in answers.values()] == [
        "waiting_for_message",
        "waiting_for_event",
        "waiting_for_run",
        "waiting_for_children",
        "sleeping",
        "waiting_to_retry",
    ]
    assert {answer.status for answer in answers.values()} == {"waiting"}
    assert "on topic approval" in answers[message.run_id].message
    assert f"of run {watched.run_id} of fulfil, which is running" in answers[end.run_id].message
    assert f"explain('{watched.run_id}')" in answers[event.run_id].hint
    assert "3 children, of which 0 have ended" in answers[group.run_id].message
    assert "it sleeps, until 2" in answers[sleeper.run_id].message
    assert "attempt 2 of the step at place 1 failed with Refused: no money" in (
        answers[retry.run_id].message
    )
    worker.write(finish(watched))
    assert cause(world, end.run_id) == "queued"


def test_it_waits_for_several_things(world: World) -> None:
    worker = register(world)
    [run] = world.claimed_by(worker)
    worker.write(timer(run, "1"), sleep_on(run, for_message(), timers=("1",)))
    answer = explain(world, run.run_id)
    assert answer.cause == "waiting_for_message"
    assert answer.message.endswith("and for 1 other things")
    assert [wait["kind"] for wait in answer.details["waits"]] == ["timer", "message"]


def test_a_parent_that_waits_for_its_child(world: World) -> None:
    worker = register(world)
    [parent] = world.claimed_by(worker)
    worker.write(child(parent, "1"))
    kid = world.anybody.ask("select id from rowlock.run where parent_id = %s", parent.run_id)
    worker.write(sleep_on(parent, for_end(kid)))
    pause(world, workflow="invoice")
    answer = explain(world, parent.run_id)
    assert answer.cause == "waiting_for_run"
    assert answer.details["other_status"] == "ready"
    assert cause(world, kid) == "workflow_paused"


def test_a_sleeper_that_is_cancelled_wakes_first(world: World) -> None:
    worker = register(world)
    [run] = world.claimed_by(worker)
    worker.write(timer(run, "1"), suspend(run, timers=("1",)))
    world.anybody.cancel(run.run_id)
    assert cause(world, run.run_id) == "queued", "a worker must have it first"
    [again] = worker.claim()
    worker.write(
        stop(again), timer(again, "undo.1", kind="retry"), suspend(again, timers=("undo.1",))
    )
    assert cause(world, run.run_id) == "cleaning_up"


# --- somebody must do something


@pytest.mark.parametrize("kind", ["nondeterminism", "codec", "something else"])
def test_blocked(world: World, kind: str) -> None:
    worker = register(world)
    [run] = world.claimed_by(worker)
    worker.write(release(run, kind))
    answer = explain(world, run.run_id)
    assert (answer.status, answer.cause) == ("blocked", kind)
    assert "rowlock.resume" in answer.hint


def test_paused(world: World) -> None:
    register(world)
    run = world.anybody.start()
    pause(world, workflow="fulfil")
    assert cause(world, run) == "workflow_paused"
    pause(world, queue="default")
    assert cause(world, run) == "queue_paused"
    pause(world)
    answer = explain(world, run)
    assert answer.cause == "app_paused"
    assert answer.message.endswith(": the bank is closed")
    assert cause(world, world.anybody.start("invoice")) == "app_paused"


def test_set_aside_for_a_paused_workflow(world: World) -> None:
    worker = register(world)
    run = world.anybody.start()
    pause(world, workflow="fulfil")
    assert worker.claim() == []
    answer = explain(world, run)
    assert (answer.status, answer.cause) == ("blocked", "workflow_paused")
    world.anybody.run("select rowlock.unpause(workflow => 'fulfil')")
    assert cause(world, run) in ("paused", "queued")
    world.anybody.tend()
    assert cause(world, run) == "queued"


def test_what_is_paused_comes_before_who_could_take_it(world: World) -> None:
    run = world.anybody.start()
    pause(world, queue="default")
    assert cause(world, run) == "queue_paused", "though there is no worker"


# --- it is over


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        ("succeeded", "rewind"),
        ("failed", "rowlock.retry"),
        ("cancelled", "rowlock.resume"),
        ("dead", "rowlock.resume"),
    ],
)
def test_finished(world: World, status: str, hint: str) -> None:
    worker = register(world)
    [run] = world.claimed_by(worker)
    worker.write(finish(run, status))
    answer = explain(world, run.run_id)
    assert (answer.status, answer.cause) == (status, "finished")
    assert not answer.message.rstrip().endswith(":")
    assert hint in answer.hint


def test_in_bulk_over_a_query(world: World) -> None:
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 3, {"workflow": "typo"})
    found = world.anybody.run(
        "select e.cause, count(*) from rowlock.runs as r, rowlock.explain(r.run_id) as e group by 1"
    )
    assert found == [("no_worker", 4)]


def test_it_answers_at_once_however_deep_the_queue_is(world: World) -> None:
    register(world)
    world.anybody.run(
        "insert into rowlock.run (id, created_at, priority, app, workflow, queue, input)"
        " select gen_random_uuid(), now(), 50, %s, 'fulfil', 'default', '{}'"
        "   from generate_series(1, 30000)",
        APP,
    )
    world.anybody.run(
        "insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow)"
        " select id, now(), 50, 'ready', app, queue, workflow from rowlock.run"
    )
    [last] = world.anybody.start_many({"workflow": "fulfil", "priority": 90})
    answer = explain(world, last)
    assert "behind at least 10000 others" in answer.message


# --- limits


def test_each_limit_is_a_cause_and_says_who_holds_it(world: World) -> None:
    worker, queue = register(world, slots=50), "default"
    first, second = (world.anybody.start() for _ in range(2))
    world.anybody.limit(queue, concurrency=1)
    [held] = worker.claim(5)
    assert held.run_id == first
    answer = explain(world, second)
    assert answer.cause == "concurrency_reached"
    assert answer.details["held_by"] == [str(first)]
    assert answer.message == f"1 run of queue default holds a claim, and no more may: {first}"
    world.anybody.limit(queue, concurrency=None, partitions=True, partition_concurrency=1)
    assert cause(world, second) == "partition_concurrency_reached"
    world.anybody.limit(queue, partition_concurrency=None, worker_concurrency=1)
    assert cause(world, second) == "worker_concurrency_reached"
    world.anybody.limit(queue, worker_concurrency=5)
    assert cause(world, second) == "queued"


def test_of_many_who_hold_a_claim_three_are_named(world: World) -> None:
    worker = register(world, slots=50)
    runs = [world.anybody.start() for _ in range(6)]
    world.anybody.limit("default", concurrency=5)
    held = sorted(str(one.run_id) for one in worker.claim(10))
    answer = explain(world, runs[-1])
    text, _, rest = answer.message.partition(": ")
    assert text == "5 runs of queue default hold a claim, and no more may"
    ids, _, more = rest.partition(" and ")
    assert more == "2 more"
    assert len(set(ids.split(", ")) & set(held)) == 3
    world.anybody.limit("default", concurrency=3)
    assert " and " not in explain(world, runs[-1]).message.partition(": ")[2]


def test_a_rate_that_is_used_up_is_a_cause_and_says_until_when(world: World) -> None:
    worker = register(world, slots=50)
    world.anybody.limit(rate="1/h")
    first, second = (world.anybody.start() for _ in range(2))
    [held] = worker.claim(5)
    answer = explain(world, second)
    assert answer.cause == "rate_reached"
    assert "1/h, is used up until" in answer.message
    assert answer.details["free_at"] is not None
    world.anybody.limit(rate=None, partitions=True, partition_rate="1/h")
    third = world.anybody.start()
    worker.claim(1)
    answer = explain(world, third)
    assert answer.cause == "partition_rate_reached"
    worker.write(release(held))
    assert (held.run_id, cause(world, first)) == (first, "queued"), "it has begun before"
