"""Promise 14: strangers can't freeze us.

A caller leaves a transaction open for as long as he likes: at most that one run or key waits. No
other run, no worker's journal, no takeover and no queue does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rowlock import Batch, Debounce, Dedup
from rowlock.store.entries import Entry
from store.races.sessions import Session, World, child, finish, step, suspend, timer

pytestmark = pytest.mark.promise(14)


def starts_a_run(stranger: Session, world: World) -> None:
    stranger.start()


def starts_with_a_key(stranger: Session, world: World) -> None:
    stranger.start_many(
        {"workflow": "fulfil", "key": "order-7"}, {"workflow": "invoice", "queue": "other"}
    )


def starts_at_repeatable_read(stranger: Session, world: World) -> None:
    stranger.rollback()
    stranger.begin("repeatable read").start(key="order-8")


def starts_with_a_dedup_key(stranger: Session, world: World) -> None:
    stranger.start(dedup="customer-7")


def replaces_runs(stranger: Session, world: World) -> None:
    """One that is ready, one that works, one that is asleep."""
    world.anybody.start(dedup="ready")
    for state in ("running", "waiting"):
        world.anybody.run(
            "with one as (update rowlock.run set dedup = %s where id ="
            "  (select run_id from rowlock.task where state = %s limit 1) returning id)"
            " insert into rowlock.start_key (app, workflow, kind, key, run_id)"
            " select 'shop', 'fulfil', 'dedup', %s, id from one",
            *(state, state, state),
        )
    for key in ("ready", "running", "waiting"):
        stranger.start(dedup=Dedup(key, "replace"))


def puts_a_run_off(stranger: Session, world: World) -> None:
    due = world.anybody.start(debounce=Debounce("page-7", 60))
    world.make_due(due)
    assert stranger.start(debounce=Debounce("page-7", 60)) == due


def adds_to_a_batch(stranger: Session, world: World) -> None:
    """One that is due, and one that he lets go."""
    due, full = Batch("due", 9, 60), Batch("full", 2, 60)
    run = world.anybody.start(input='{"pages": [1]}', batch=due)
    world.make_due(run)
    assert stranger.start(input='{"pages": [2]}', batch=due) == run
    world.anybody.start(input='{"pages": [1]}', batch=full)
    stranger.start(input='{"pages": [2, 3]}', batch=full)


def holds_every_run_row(stranger: Session, world: World) -> None:
    """As a sender of messages does, with all runs there are."""
    stranger.run("select from rowlock.run for no key update")


def holds_a_ready_task(stranger: Session, world: World) -> None:
    stranger.run("select from rowlock.task where state = 'ready' limit 1 for update")


def holds_a_sleeping_task(stranger: Session, world: World) -> None:
    stranger.run("select from rowlock.task where state = 'waiting' limit 1 for update")


def holds_a_running_task(stranger: Session, world: World) -> None:
    stranger.run("select from rowlock.task where state = 'running' limit 1 for update")


def changes_the_settings_of_all_queues(stranger: Session, world: World) -> None:
    stranger.run("update rowlock.queue set declared_at = declared_at")


def sends_to_every_run(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.send(run_id, 'approval') from rowlock.task order by run_id")


def sets_an_event_of_every_run(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.set_event(run_id, 'progress') from rowlock.task order by run_id")


def emits_into_every_run(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.emit(run_id, 'log') from rowlock.task order by run_id")


def cancels_every_run_at_work(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.cancel(run_id) from rowlock.task where state = 'running'")


def cancels_at_repeatable_read(stranger: Session, world: World) -> None:
    stranger.rollback()
    cancels_every_run_at_work(stranger.begin("repeatable read"), world)


def forks_every_run(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.fork(run_id) from rowlock.task")


def shows_the_app(stranger: Session, world: World) -> None:
    stranger.run(
        "select rowlock.show_app('shop', array['default', 'fresh'], array['fulfil', 'sort'],"
        " array['other', 'fresh'])"
    )


def resumes_a_run(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.resume(run_id) from rowlock.runs where status = 'blocked' limit 1")


def moves_a_ready_run(stranger: Session, world: World) -> None:
    stranger.run(
        "select rowlock.move(run_id, 'other') from rowlock.task where state = 'ready' limit 1"
    )


def reprioritises_a_run_at_work(stranger: Session, world: World) -> None:
    stranger.run(
        "select rowlock.reprioritise(run_id, 1) from rowlock.task where state = 'running' limit 1"
    )


def reschedules_a_run(stranger: Session, world: World) -> None:
    stranger.run(
        "select rowlock.reschedule(run_id, now() + interval '1 hour') from rowlock.task"
        " where state = 'ready' limit 1"
    )


def pauses_everything(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.pause(name, app => app) from rowlock.queue")
    stranger.run("select rowlock.pause(workflow => name, app => app) from rowlock.workflow")
    stranger.run("select rowlock.pause(app => 'shop')")


def drains_every_worker(stranger: Session, world: World) -> None:
    stranger.run("select rowlock.drain_worker(id) from rowlock.worker")


def promotes_and_retires(stranger: Session, world: World) -> None:
    world.anybody.run("insert into rowlock.version (app, name) values ('shop', 'a'), ('shop', 'b')")
    stranger.run("select rowlock.promote('shop', 'a')")
    stranger.run("select rowlock.retire('shop', 'b')")


def listens(stranger: Session, world: World) -> None:
    """And clears those away whose time is over."""
    world.anybody.run(
        "insert into rowlock.listener values (gen_random_uuid(), now() - interval '1 second')"
    )
    stranger.run("select rowlock.listen(gen_random_uuid(), '30 seconds')")


def stops_listening_for_everybody(stranger: Session, world: World) -> None:
    world.anybody.run("select rowlock.listen(gen_random_uuid(), '30 seconds')")
    stranger.run("select rowlock.unlisten(id) from rowlock.listener")


@pytest.mark.parametrize(
    "leaves_open",
    [
        moves_a_ready_run,
        reprioritises_a_run_at_work,
        reschedules_a_run,
        pauses_everything,
        drains_every_worker,
        promotes_and_retires,
        starts_a_run,
        starts_with_a_key,
        starts_at_repeatable_read,
        starts_with_a_dedup_key,
        replaces_runs,
        puts_a_run_off,
        adds_to_a_batch,
        holds_every_run_row,
        holds_a_ready_task,
        holds_a_sleeping_task,
        holds_a_running_task,
        changes_the_settings_of_all_queues,
        shows_the_app,
        sends_to_every_run,
        sets_an_event_of_every_run,
        emits_into_every_run,
        cancels_every_run_at_work,
        cancels_at_repeatable_read,
        forks_every_run,
        resumes_a_run,
        listens,
        stops_listening_for_everybody,
    ],
)
def test_everybody_elses_work_goes_on(
    world: World, leaves_open: Callable[[Session, World], None]
) -> None:
    busy, dead, fresh = world.worker("busy"), world.worker("dead"), world.worker("fresh")
    # One of each, and a second that the stranger may hold.
    mine = world.claimed_by(busy, 6)
    for sleeper in mine[:2]:
        busy.journal(timer(sleeper, "1"), suspend(sleeper, timers=("1",)))
        world.make_due(sleeper.run_id)
    parent, watched = mine[2], mine[3]
    world.claimed_by(dead, 2)
    world.expire(dead)
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 2)

    stranger = world.session("stranger").begin()
    leaves_open(stranger, world)
    held = leaves_open.__name__

    def passes(session: Session, call: Callable[[], object]) -> None:
        pending = session.go(call)
        assert not pending.waits(), "a stranger's transaction holds it up"
        pending.result()

    passes(world.anybody, lambda: world.anybody.start(key="another"))
    tended = world.anybody.go(world.anybody.tend)
    assert not tended.waits()
    holds_a_sleeper = held in ("holds_a_sleeping_task", "replaces_runs")
    assert tended.result().promoted >= (1 if holds_a_sleeper else 2)
    holds_one_at_work = held in ("holds_a_running_task", "reprioritises_a_run_at_work")
    assert tended.result().taken_over >= (1 if holds_one_at_work else 2)
    passes(busy, busy.heartbeat)

    entries: list[Entry] = [step(parent, "1"), child(mine[4], "1"), finish(mine[5])]
    flush = busy.go(lambda: busy.journal(*entries))
    assert not flush.waits()
    written = [flush.result().of(entry) for entry in entries].count("written")
    assert written >= (2 if holds_one_at_work else 3)
    sleeps = suspend(parent, watched.run_id)
    passes(busy, lambda: busy.journal(sleeps))

    claim = fresh.go(lambda: fresh.claim(100))
    assert not claim.waits()
    # 2 that were ready, 2 promoted, 2 taken over, 1 child, 1 started: but for the one that is held.
    assert len(claim.result()) >= 7
    passes(fresh, lambda: fresh.journal(*[finish(one) for one in claim.result()]))
    passes(dead, dead.heartbeat)
    passes(fresh, fresh.leave)
    stranger.rollback()


@pytest.mark.parametrize("call", ["promote", "retire"])
def test_a_worker_registers_beside_an_open_change_of_its_version(world: World, call: str) -> None:
    world.anybody.run(
        "insert into rowlock.version (app, name) values ('shop', 'v1'), ('shop', 'v2')"
    )
    stranger = world.session("stranger").begin()
    stranger.run(f"select rowlock.{call}('shop', 'v1')")
    registers = world.anybody.go(
        lambda: world.anybody.run(
            "select rowlock.register_worker('shop', 'v1', 'h', 1, 1, null, interval '1 hour')"
        )
    )
    assert not registers.waits()
    registers.result()


def test_a_start_waits_only_for_its_own_key(world: World) -> None:
    stranger, caller = world.session("stranger").begin(), world.session("caller")
    stranger.start(key="order-7")
    other = caller.go(lambda: caller.start_many({"workflow": "fulfil", "key": "order-8"}))
    assert not other.waits()
    same = world.anybody.go(lambda: world.anybody.start(key="order-7"))
    assert same.waits()
    stranger.rollback()
    same.result()
