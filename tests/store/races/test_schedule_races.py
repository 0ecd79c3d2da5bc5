"""Ticks that meet other ticks, changes, deletions and strangers' open transactions.

A tick is taken by whoever is first, and by nobody twice. A stranger who holds a schedule holds up
that one alone: workers pass it by.
"""

from __future__ import annotations

import pytest

from store.races.sessions import Pending, Session, World

ISOLATIONS = ["read committed", "repeatable read", "serializable"]
FATES = ["commit", "rollback"]
CHANGES = {
    "update": "rowlock.update_schedule('nightly', queue => 'slow')",
    "pause": "rowlock.pause_schedule('nightly')",
    "delete": "rowlock.delete_schedule('nightly')",
}
QUEUES = "select rowlock.show_app('shop', '{default,slow}', '{fulfil}', '{default}')"
TICK = """
select rowlock.tick('shop', %s, %s, %s, array[%s::timestamptz], clock_timestamp() + '1 hour')
"""
SEEN = """
select s.name, s.revision, s.ticked_to, clock_timestamp() - interval '1 second'
  from rowlock.schedule as s where s.name = %s
"""


@pytest.fixture
def admin(world: World) -> Session:
    admin = world.anybody
    admin.run(QUEUES)
    for name in ("nightly", "other"):
        admin.run("select rowlock.create_schedule(%s, 'fulfil', '0 3 * * *')", name)
    admin.run("update rowlock.schedule set ticked_to = ticked_to - interval '1 day'")
    return admin


def seen(session: Session, name: str = "nightly") -> tuple[object, ...]:
    """What a worker has read, and computed: its tick is a second old."""
    [found] = session.run(SEEN, name)
    return found


def tick(session: Session, what: tuple[object, ...]) -> Pending[str]:
    return session.go(lambda: str(session.ask(TICK, *what)))


def at_once(session: Session, what: tuple[object, ...]) -> str:
    pending = tick(session, what)
    assert not pending.waits()
    return pending.result()


@pytest.mark.parametrize("fate", FATES)
def test_of_two_workers_one_takes_a_tick(world: World, admin: Session, fate: str) -> None:
    what = seen(admin)
    first, second = world.session("first").begin(), world.session("second")
    assert at_once(first, what) == "done"
    assert at_once(second, what) == "locked"
    first.end(fate)
    assert at_once(second, what) == ("taken" if fate == "commit" else "done")
    assert world.count("run") == 1
    assert admin.ask("select sum(fired) from rowlock.schedules") == 1


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("change", CHANGES)
def test_an_open_change_holds_up_its_schedule_alone(
    world: World, admin: Session, change: str, fate: str, isolation: str
) -> None:
    worker = world.session("worker")
    before = seen(admin)
    caller = world.session("caller").begin(isolation)
    caller.run(f"select {CHANGES[change]}")
    assert at_once(worker, before) == "locked"
    assert at_once(worker, seen(admin, "other")) == "done"
    look = worker.go(lambda: worker.run("select * from rowlock.look_at_schedules('shop', '', 9)"))
    assert not look.waits()
    caller.end(fate)
    assert at_once(worker, before) == ("taken" if fate == "commit" else "done")
    assert world.count("run") == (1 if fate == "commit" else 2)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_waits_for_a_tick_and_is_made_behind_it(
    world: World, admin: Session, change: str, fate: str
) -> None:
    worker, caller = world.session("worker").begin(), world.session("caller")
    what = seen(admin)
    assert at_once(worker, what) == "done"
    changing = caller.go(lambda: caller.run(f"select {CHANGES[change]}"))
    assert changing.waits()
    worker.end(fate)
    changing.result()
    assert at_once(world.session("next"), what) == "taken"
    assert world.count("run") == (1 if fate == "commit" else 0)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_open_trigger_holds_up_no_tick(world: World, admin: Session, isolation: str) -> None:
    caller = world.session("caller").begin(isolation)
    caller.run("select rowlock.trigger_schedule('nightly')")
    assert at_once(world.session("worker"), seen(admin)) == "done"
    caller.commit()
    assert world.count("run") == 2


def test_a_trigger_does_not_wait_for_an_open_tick(world: World, admin: Session) -> None:
    worker = world.session("worker").begin()
    assert at_once(worker, seen(admin)) == "done"
    caller = world.session("caller")
    trigger = caller.go(lambda: caller.run("select rowlock.trigger_schedule('nightly')"))
    assert not trigger.waits()
    trigger.result()
    worker.commit()


@pytest.mark.parametrize("fate", FATES)
def test_a_strangers_run_with_the_key_of_a_tick_holds_up_that_schedule_for_no_longer_than_told(
    world: World, admin: Session, fate: str
) -> None:
    what = seen(admin)
    stranger = world.session("stranger").begin()
    key = admin.ask("select rowlock.tick_key('nightly', %s::timestamptz)", what[3])
    stranger.start(key=key)
    worker = world.session("worker")
    assert tick(worker, what).result() == "locked"  # by its own lock timeout
    assert at_once(worker, seen(admin, "other")) == "done"
    stranger.end(fate)
    assert at_once(worker, what) == "done"
    assert admin.run("select count(*) from rowlock.run where key = %s", key) == [(1,)]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_ticks_are_taken_at_read_committed_only(
    world: World, admin: Session, isolation: str
) -> None:
    worker = world.session("worker").begin(isolation)
    with pytest.raises(Exception, match="must be READ COMMITTED"):
        worker.ask(TICK, *seen(admin))


def test_a_declaration_waits_for_no_stranger_and_is_made_later(
    world: World, admin: Session
) -> None:
    declared = """select rowlock.declare_schedules('shop', '', '[
        {"name": "new", "workflow": "fulfil", "cron": "0 3 * * *", "timezone": "UTC", "input": {},
         "jitter": "0 s", "overlap": "skip", "catch_up": "last"}]')"""
    worker = world.session("worker")
    for hold in (
        "select rowlock.create_schedule('new', 'fulfil', '0 4 * * *')",  # then it is there
        "select rowlock.update_schedule('new', queue => 'slow')",
    ):
        stranger = world.session("stranger").begin()
        stranger.run(hold)
        declaring = worker.go(lambda: worker.ask(declared))
        assert declaring.result() is False
        stranger.commit()
    assert worker.ask(declared) is True
    assert admin.ask("select cron from rowlock.schedules where schedule = 'new'") == "0 3 * * *"


@pytest.mark.parametrize("fate", FATES)
def test_of_two_workers_one_goes_on_with_a_backfill(
    world: World, admin: Session, fate: str
) -> None:
    number = admin.ask("select rowlock.backfill('nightly', '2026-01-01', '2026-01-03')")
    [(revision, base)] = admin.run(
        "select revision, base from rowlock.look_at_schedules('shop', '', 9)"
        " where kind = 'backfill'"
    )
    call = """select rowlock.backfill_ticks('shop', %s, %s, %s,
        array['2026-01-01 03:00Z', '2026-01-02 03:00Z']::timestamptz[], true, null)"""
    first, second = world.session("first").begin(), world.session("second")
    assert first.ask(call, number, revision, base) == "done"
    other = second.go(lambda: second.ask(call, number, revision, base))
    assert not other.waits()
    assert other.result() == "locked"
    first.end(fate)
    assert second.ask(call, number, revision, base) == ("taken" if fate == "commit" else "done")
    assert world.count("run") == 2
    assert admin.run("select started, ended_at is null from rowlock.backfills") == [(2, False)]


def test_a_backfill_over_a_tick_that_has_fired_finds_its_run(world: World, admin: Session) -> None:
    what = seen(admin)
    at_once(world.session("worker"), what)
    number = admin.ask(
        "select rowlock.backfill('nightly', clock_timestamp() - interval '1 h', clock_timestamp())"
    )
    [(revision, base)] = admin.run(
        "select revision, base from rowlock.look_at_schedules('shop', '', 9)"
        " where kind = 'backfill'"
    )
    call = "select rowlock.backfill_ticks('shop', %s, %s, %s, array[%s::timestamptz], true, null)"
    assert admin.ask(call, number, revision, base, what[3]) == "done"
    assert world.count("run") == 1
