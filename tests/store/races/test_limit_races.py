"""Limits under every race: a claim is held open before its commit while another claims.

Each kind of limit in each constellation: nobody is ever over, nobody waits, nothing leaks. What is
over would show at once: the limit is a count of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from store.races.sessions import APP, Session, Worker, World, finish, release, sleep_on

LIMITS: dict[str, dict[str, Any]] = {
    "concurrency": {"concurrency": 2},
    "partition_concurrency": {"partitions": True, "partition_concurrency": 2},
    "rate": {"rate": "2/h"},
    "partition_rate": {"partitions": True, "partition_rate": "2/h"},
    "burst": {"rate": "1/h burst 2"},
    "several": {"concurrency": 3, "rate": "2/h", "partitions": True, "partition_concurrency": 2},
}
"""Each of them lets two runs of one partition go."""


def start(world: World, count: int = 1, *, partition: str | None = None, **more: Any) -> list[UUID]:
    runs = world.anybody.start_many(*[{"workflow": "fulfil"} | more] * count)
    if partition is not None:
        put(world, runs, partition)
    return runs


def put(world: World, runs: list[UUID], partition: str) -> None:
    world.anybody.run(
        "update rowlock.task set partition = %s where run_id = any(%s)", partition, runs
    )


def running(world: World, queue: str = "default") -> int:
    return int(
        world.anybody.ask(
            "select count(*) from rowlock.task where state = 'running' and queue = %s", queue
        )
    )


def at_once(worker: Worker, want: int = 10, **more: Any) -> int:
    """How many a claim gives that waits for nobody."""
    claim = worker.go(lambda: worker.claim(want, **more))
    assert not claim.waits()
    return len(claim.result())


# --- one claim is open while another comes


@pytest.mark.parametrize("fate", ["commit", "rollback"])
@pytest.mark.parametrize("kind", LIMITS)
def test_a_claim_beside_an_open_one_never_gets_over(world: World, kind: str, fate: str) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(**LIMITS[kind])
    start(world, 6, partition="a")
    assert len(one.begin().claim(1)) == 1
    assert at_once(two) == 0
    assert two.next.again_in == 0, "another is at it"
    one.end(fate)
    assert at_once(two) == (1 if fate == "commit" else 2)
    assert at_once(one) == 0


@pytest.mark.parametrize("kind", LIMITS)
def test_a_run_of_higher_priority_that_comes_in_between_takes_no_place_twice(
    world: World, kind: str
) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(**LIMITS[kind])
    start(world, 3, partition="a")
    assert len(one.begin().claim(2)) == 2
    [urgent] = start(world, partition="a", priority=0)
    assert at_once(two) == 0
    one.commit()
    assert at_once(two) == 0
    assert world.state(urgent) == "ready"


@pytest.mark.parametrize("kind", LIMITS)
def test_workers_of_two_versions_share_one_limit(world: World, kind: str) -> None:
    old, new = world.worker("old"), world.worker("new")
    for version in ("v1", "v2"):
        world.anybody.run("insert into rowlock.version (app, name) values (%s, %s)", APP, version)
    world.anybody.limit(**LIMITS[kind])
    pinned = start(world, 4, partition="a")
    world.anybody.run("update rowlock.task set version = 'v1' where run_id = any(%s)", pinned)
    start(world, 4, partition="a")
    assert len(old.begin().claim(1, version="v1")) == 1
    assert at_once(new, version="v2") == 0
    old.commit()
    assert at_once(new, version="v2") == 1
    assert (at_once(old, version="v1"), at_once(new, version="v2")) == (0, 0)
    assert running(world) == 2


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_claim_beside_an_open_takeover_counts_what_may_still_run(world: World, fate: str) -> None:
    """4g: too many at most, never too few."""
    dead, fresh = world.worker("dead"), world.worker("fresh")
    world.anybody.limit(concurrency=2)
    start(world, 4)
    assert len(dead.claim(2)) == 2
    world.expire(dead)
    reaper = world.session("reaper").begin()
    assert reaper.reap() == 2
    assert at_once(fresh) == 0
    reaper.end(fate)
    assert at_once(fresh) == (2 if fate == "commit" else 0)


def test_what_is_taken_over_is_no_first_claim(world: World) -> None:
    dead, fresh = world.worker("dead"), world.worker("fresh")
    world.anybody.limit(rate="2/h")
    start(world, 4)
    mine = {one.run_id for one in dead.claim(2)}
    assert len(mine) == 2
    world.expire(dead)
    world.anybody.reap()
    assert {one.run_id for one in fresh.claim(4)} == mine
    assert fresh.claim(4) == []
    assert fresh.next.again_in is not None
    assert 0 < fresh.next.again_in <= 3600


@pytest.mark.parametrize("how", ["finish", "release", "suspend", "leave"])
def test_whatever_ends_a_claim_makes_room_with_its_commit(world: World, how: str) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=2)
    start(world, 4)
    first, _ = one.claim(2)
    assert at_once(two) == 0
    ending = world.connect_again(one.worker_id).begin()
    ways: dict[str, Callable[[], object]] = {
        "finish": lambda: ending.journal(finish(first)),
        "release": lambda: ending.journal(release(first)),
        "suspend": lambda: ending.journal(sleep_on(first, timers=())),
        "leave": lambda: ending.leave(),
    }
    ways[how]()
    assert at_once(two) == 0
    ending.commit()
    assert at_once(two) == (2 if how == "leave" else 1)
    assert running(world) == 2


def test_a_worker_takes_no_more_than_its_own_share(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    again = world.connect_again(one.worker_id)
    world.anybody.limit(worker_concurrency=2)
    start(world, 10)
    assert len(one.begin().claim(1)) == 1
    assert at_once(again) == 0, "the same worker, whose first claim it takes for lost"
    one.commit()
    assert len(one.claim(5)) == 1
    assert len(two.claim(5)) == 2
    assert (at_once(one), at_once(two)) == (0, 0)


# --- the limit changes meanwhile


def test_a_queue_that_becomes_limited_waits_for_no_claim_and_counts_them_all(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    start(world, 10)
    assert len(one.claim(2)) == 2
    assert len(one.begin().claim(2)) == 2
    change = world.anybody.go(lambda: world.anybody.limit(concurrency=5))
    assert not change.waits()
    assert at_once(two) == 0, "the open claim did not count"
    one.commit()
    assert at_once(two) == 1
    assert at_once(two) == 0
    assert running(world) == 5


def test_an_unlimited_claim_that_has_looked_before_the_limit_takes_nothing_after_it(
    world: World,
) -> None:
    """It reads the settings again when it has the gate: whoever counts then must find nothing."""
    one, two = world.worker("one"), world.worker("two")
    start(world, 10)
    holder = world.session("holder").begin()
    holder.run("lock table rowlock.queue_gate in access exclusive mode")
    claim = one.go(lambda: one.claim(10))
    assert claim.waits(), "for the gate; it has seen that the queue is not limited"
    world.anybody.limit(concurrency=2)
    holder.commit()
    # Unless its session had to learn anew what a gate is: then it waited before it looked.
    taken = len(claim.result())
    assert taken in (0, 2)
    assert at_once(two) == 2 - taken
    assert at_once(one) == 0


def test_a_stranger_who_holds_a_run_of_before_the_limit_makes_nobody_wait(world: World) -> None:
    """It can't be marked, so it is counted by hand."""
    one, two = world.worker("one"), world.worker("two")
    runs = start(world, 10)
    claimed = one.claim(2)
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", claimed[0].run_id)
    world.anybody.limit(concurrency=4)
    assert at_once(two, 1) == 1
    assert at_once(two) == 1
    assert at_once(two) == 0
    stranger.rollback()
    assert at_once(two) == 0
    assert one.verdict(finish(claimed[0])) == "written"
    assert at_once(two) == 1
    assert len(runs) == 10
    assert running(world) == 4


@pytest.mark.parametrize("times", [1, 2])
def test_a_queue_that_is_limited_again_counts_what_ran_in_between(world: World, times: int) -> None:
    one, two = world.worker("one"), world.worker("two")
    start(world, 20)
    for _ in range(times):
        world.anybody.limit(concurrency=2)
        one.claim(2)
        world.anybody.limit(concurrency=None)
        assert len(one.claim(3)) == 3
    world.anybody.limit(concurrency=running(world) + 1)
    assert at_once(two) == 1
    assert at_once(two) == 0


def test_a_lowered_limit_stops_claims_until_fewer_run(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=4)
    start(world, 10)
    first = one.begin().claim(3)
    world.anybody.limit(concurrency=2)
    assert at_once(two) == 0
    one.commit()
    assert at_once(two) == 0
    one.write(finish(first[0]))
    assert at_once(two) == 0
    one.write(finish(first[1]))
    assert at_once(two) == 1


def test_a_raised_limit_counts_from_its_commit_on(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=1)
    start(world, 10)
    assert len(one.claim(5)) == 1
    operator = world.session("operator").begin()
    operator.limit(concurrency=3)
    assert at_once(two) == 0
    operator.commit()
    assert at_once(two) == 2


def test_a_limit_that_is_taken_away_while_a_claim_is_open(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=3)
    start(world, 10)
    assert len(one.begin().claim(2)) == 2
    world.anybody.limit(concurrency=None)
    assert at_once(two, 3) == 0, "the gate is still held alone"
    one.commit()
    assert at_once(two, 10) == 8


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_change_that_stays_open_stops_no_claim(world: World, isolation: str) -> None:
    """Promise 14: at most another change of the same queue waits."""
    worker = world.worker()
    world.anybody.limit(concurrency=2)
    start(world, 10)
    operator = world.session("operator").begin(isolation)
    operator.limit(concurrency=9)
    operator.limit("other", rate="1/h")
    first = worker.claim(10)
    assert len(first) == 2
    assert worker.write(*[finish(one) for one in first]) == ["written"] * 2
    assert len(worker.claim(10)) == 2
    world.expire(worker)
    assert world.anybody.tend().taken_over == 2
    other = world.anybody.go(lambda: world.anybody.limit(concurrency=5))
    assert other.waits()
    operator.commit()
    other.result()
    assert len(world.worker("next").claim(10)) == 5


def test_idle_workers_are_told_of_a_change(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=1)
    start(world, 3)
    worker.claim(1)
    assert worker.claim(1, listening=True) == []
    ear = world.session("ear")
    ear.run(f"listen rowlock_worker_{worker.worker_id}")
    world.anybody.limit(concurrency=2)
    assert [n.channel for n in ear.connection.notifies(timeout=20, stop_after=1)] == [
        f"rowlock_worker_{worker.worker_id}"
    ]
    ear.run("unlisten *")


# --- rates


def first_claims(world: World) -> list[float]:
    rows = world.anybody.run(
        "select extract(epoch from started_at)::float8 from rowlock.task"
        " where started_at is not null order by 1"
    )
    return [at for (at,) in rows]


def test_a_woken_run_passes_a_rate_that_is_used_up_and_all_who_wait_for_it(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(rate="2/h")
    start(world, 2)
    sleeper, _ = worker.claim(2)
    start(world, 50, priority=0)
    assert worker.verdict(release(sleeper)) == "written"
    assert [one.run_id for one in worker.claim(10)] == [sleeper.run_id]
    assert worker.claim(10) == []


def test_a_rate_is_free_again_when_its_first_use_is_a_period_old(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(rate="3/h")
    start(world, 10)
    worker.claim(2)
    move_back(world, "30 minutes")
    assert len(worker.claim(10)) == 1
    move_back(world, "29 minutes")
    assert worker.claim(10) == []
    assert worker.next.again_in is not None
    assert worker.next.again_in <= 60
    move_back(world, "1 minute")
    assert len(worker.claim(10)) == 2
    assert worker.claim(10) == []


def move_back(world: World, span: str) -> None:
    """As if that much time had passed for rates."""
    world.anybody.run(
        "update rowlock.rate_use set at = at - %s::interval, until = until - %s::interval,"
        " expires_at = expires_at - %s::interval",
        span,
        span,
        span,
    )


def test_a_smooth_rate_leaves_a_gap_between_any_two(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(rate="60/h smooth")
    start(world, 10)
    assert len(worker.claim(10)) == 1
    assert worker.claim(10) == []
    assert worker.next.again_in is not None
    assert 0 < worker.next.again_in <= 60
    move_back(world, "61 seconds")
    assert len(worker.claim(10)) == 1


def test_a_step_of_a_smooth_rate_is_never_too_short(world: World) -> None:
    """Rounded down, a window of a second would hold a fourth."""
    assert world.anybody.ask("select 3 * rowlock.rate_step(3, '1 s') >= interval '1 s'")


def test_a_burst_fills_up_at_the_rate(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(rate="60/h burst 5")
    start(world, 20)
    assert len(worker.claim(10)) == 5
    assert worker.claim(10) == []
    move_back(world, "121 seconds")
    assert len(worker.claim(10)) == 2
    move_back(world, "10 hours")
    assert len(worker.claim(10)) == 5


def test_what_a_rate_no_longer_needs_is_forgotten(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(partitions=True, partition_rate="10/s")
    for number in range(30):
        start(world, 1, partition=f"tenant {number}")
    for _ in range(30):
        worker.claim(1)
    move_back(world, "1 hour")
    for _ in range(5):
        start(world, 1, partition="one")
        worker.claim(1)
        move_back(world, "1 hour")
    assert world.count("rate_use") <= 2


def test_the_time_of_a_first_claim_never_goes_back(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(rate="5/h")
    start(world, 5)
    worker.claim(1)
    move_back(world, "-10 minutes")
    worker.claim(1)
    one, two = first_claims(world)
    assert two - one >= 590


# --- partitions


def by_partition(world: World) -> dict[str, int]:
    rows = world.anybody.run(
        "select coalesce(partition, ''), count(*) from rowlock.task where state = 'running'"
        " group by 1 order by 1"
    )
    return dict(rows)


def test_partitions_take_turns_however_deep_one_is(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(partitions=True)
    start(world, 300, partition="big", priority=0)
    for tenant in "abc":
        start(world, 2, partition=tenant)
    start(world, 2)
    assert len(worker.claim(5)) == 5
    assert by_partition(world) == {"": 1, "a": 1, "b": 1, "big": 1, "c": 1}
    for _ in range(5):
        assert len(worker.claim(1)) == 1
    assert by_partition(world) == {"": 2, "a": 2, "b": 2, "big": 2, "c": 2}
    assert len(worker.claim(50)) == 50
    assert by_partition(world)["big"] == 52


def test_a_full_partition_holds_up_no_other(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(partitions=True, partition_concurrency=2)
    start(world, 50, partition="a")
    start(world, 50, partition="b")
    start(world, 50)
    assert len(worker.claim(100)) == 6
    assert by_partition(world) == {"": 2, "a": 2, "b": 2}
    assert worker.claim(100) == []


def test_more_full_partitions_than_one_look_may_visit_hide_none(world: World) -> None:
    worker = world.worker()
    runs = start(world, 1100)
    world.anybody.run(
        "update rowlock.task as t set partition = 'p' || lpad(x.n::text, 5, '0')"
        "  from unnest(%s::uuid[]) with ordinality as x (id, n) where t.run_id = x.id",
        runs,
    )
    worker.claim(0)
    world.anybody.limit(partitions=True, partition_concurrency=1)
    while worker.claim(200):
        pass
    more = start(world, 1100)
    world.anybody.run(
        "update rowlock.task as t set partition = 'p' || lpad(x.n::text, 5, '0')"
        "  from unnest(%s::uuid[]) with ordinality as x (id, n) where t.run_id = x.id",
        more,
    )
    start(world, 1, partition="z")
    found = [len(worker.claim(10)) for _ in range(3)]
    assert sorted(found) == [0, 0, 1]


def test_runs_in_partitions_of_a_queue_that_has_none_any_more_are_claimed(world: World) -> None:
    worker = world.worker()
    start(world, 3, partition="a")
    start(world, 3)
    assert len(worker.claim(10)) == 6


# --- ageing


def test_with_ageing_a_run_that_has_waited_long_goes_first(world: World) -> None:
    worker = world.worker()
    [old] = start(world, priority=60)
    [fresh] = start(world, priority=50)
    world.anybody.run(
        "update rowlock.task set due_at = due_at - interval '11 minutes' where run_id = %s", old
    )
    world.anybody.limit(ageing="1 minute", concurrency=100)
    assert [one.run_id for one in worker.claim(1)] == [old]
    assert [one.run_id for one in worker.claim(1)] == [fresh]


# --- many queues


def test_a_claim_serves_some_of_many_queues_and_says_where_to_go_on(world: World) -> None:
    worker = world.worker()
    queues = [f"q{number:03}" for number in range(100)]
    world.anybody.run(
        "select rowlock.show_app(%s, %s, array['fulfil'], array['default'])", APP, queues
    )
    for queue in queues:
        start(world, 1, queue=queue)
    found: list[str] = []
    after = None
    for _ in range(4):
        claimed = worker.claim(100, after=after)
        found += [one.queue for one in claimed]
        after = worker.next.after
    assert sorted(found) == queues
    assert after is None


def test_queues_without_room_hide_none_behind_them(world: World) -> None:
    worker = world.worker()
    queues = [f"q{number:03}" for number in range(100)]
    world.anybody.run(
        "select rowlock.show_app(%s, %s, array['fulfil'], array['default'])", APP, queues
    )
    for queue in queues[:-1]:
        world.anybody.limit(queue, concurrency=1)
        start(world, 2, queue=queue)
    after = None
    while claimed := worker.claim(200, after=after):
        after = worker.next.after
        assert claimed
    [last] = start(world, 1, queue=queues[-1])
    assert [one.run_id for one in worker.claim(10, after=after)] == [last]


def test_a_heavier_queue_comes_first_more_often(world: World) -> None:
    world.anybody.limit("other", weight=1000)
    firsts = [
        world.anybody.ask("select (rowlock.by_weight(%s, array['default', 'other']))[1]", APP)
        for _ in range(50)
    ]
    assert firsts.count("other") > 40


# --- what can't be a limit


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("set_limit('default', concurrency => 0, app => 'shop')", "RLV02"),
        ("set_limit('default', worker_concurrency => -1, app => 'shop')", "RLV02"),
        ("set_limit('default', rate => '0/min', app => 'shop')", "RLV02"),
        ("set_limit('default', rate => '5/0s', app => 'shop')", "RLV02"),
        ("set_limit('default', rate => 'often', app => 'shop')", "RLV02"),
        ("set_limit('default', rate => '5/400d', app => 'shop')", "RLV02"),
        ("set_limit('default', partition_concurrency => 1, app => 'shop')", "RLV02"),
        ("set_limit('default', partition_rate => '1/s', app => 'shop')", "RLV02"),
        ("set_limit('default', ageing => '-1 s', app => 'shop')", "RLV02"),
        ("set_limit('default', weight => 0, app => 'shop')", "RLV02"),
        ("set_limit('default', weight => 'NaN', app => 'shop')", "RLV02"),
        ("set_limit('default', app => 'shop')", "RLV02"),
        ("set_limit('nowhere', concurrency => 1, app => 'shop')", "RLN01"),
        ("unset_limit('default', 'speed', 'shop')", "RLV02"),
        ("unset_limit('default', null, 'shop')", "RLV02"),
        ("unset_limit('nowhere', 'rate', 'shop')", "RLN01"),
        ("reset_limits('nowhere', 'shop')", "RLN01"),
        ("declare_queues('shop', '', '{\"q\": {\"concurrency\": \"many\"}}', false)", "RLV02"),
        ("declare_queues('shop', '', '{\"q\": {\"speed\": 5}}', false)", "RLV02"),
    ],
)
def test_what_is_no_limit_is_refused(world: World, call: str, code: str) -> None:
    before = world.anybody.run("select * from rowlock.queue order by name")
    with pytest.raises(psycopg.Error) as refused:
        world.anybody.run(f"select rowlock.{call}")
    assert refused.value.sqlstate == code
    assert "Nothing was changed." in str(refused.value.diag.message_hint)
    assert world.anybody.run("select * from rowlock.queue order by name") == before


# --- declarations


def declare(session: Session, queues: str, version: str = "", only_new: bool = False) -> None:
    session.run(
        "select rowlock.declare_queues(%s, %s, %s::jsonb, %s)", APP, version, queues, only_new
    )


def limits(world: World, queue: str = "default") -> tuple[Any, Any]:
    [row] = world.anybody.run(
        "select concurrency, limits_set_by is not null from rowlock.queues where queue = %s", queue
    )
    return row[0], row[1]


def test_what_is_declared_counts_when_it_is_new_and_a_live_change_until_then(world: World) -> None:
    anybody = world.anybody
    declare(anybody, '{"default": {"concurrency": 5}}')
    assert limits(world) == (5, False)
    anybody.limit(concurrency=2)
    assert limits(world) == (2, True)
    declare(anybody, '{"default": {"concurrency": 5}}')
    assert limits(world) == (2, True)
    declare(anybody, '{"default": {"concurrency": 6}}')
    assert limits(world) == (6, False)
    anybody.limit(concurrency=None)
    assert limits(world) == (None, True)
    assert anybody.ask("select rowlock.reset_limits('default', %s)", APP) is True
    assert anybody.ask("select rowlock.reset_limits('default', %s)", APP) is False
    assert limits(world) == (6, False)


def test_only_the_current_versions_declaration_counts(world: World) -> None:
    anybody = world.anybody
    for version in ("v1", "v2"):
        declare(anybody, f'{{"default": {{"concurrency": {version[1]}}}}}', version)
        anybody.run(
            "select rowlock.register_worker(%s, %s, 'host', 1, 10, null, '30 s')", APP, version
        )
    assert limits(world) == (2, False)
    anybody.run("select rowlock.promote(%s, 'v1')", APP)
    assert limits(world) == (1, False)
    declare(anybody, '{"default": {"concurrency": 7}}', "v2")
    assert limits(world) == (1, False)
    anybody.run("select rowlock.promote(%s, 'v2')", APP)
    assert limits(world) == (7, False)


def test_a_client_makes_queues_that_are_new_and_changes_none(world: World) -> None:
    declare(world.anybody, '{"default": {"concurrency": 5}}')
    declare(world.anybody, '{"default": {"concurrency": 1}, "new": {"concurrency": 3}}', "", True)
    assert (limits(world), limits(world, "new")) == ((5, False), (3, False))


def test_a_declaration_waits_for_nobody_who_has_a_change_open(world: World) -> None:
    operator, starting = world.session("operator").begin(), world.session("starting")
    operator.limit(concurrency=9)
    declaring = starting.go(lambda: declare(starting, '{"default": {"concurrency": 5}}'))
    assert not declaring.waits()
    declaring.result()
    operator.commit()
    assert limits(world) == (9, True)
    world.anybody.run("select rowlock.apply_declaration(null)")
    assert limits(world) == (5, False)


def test_workers_of_before_claim_under_the_same_limits(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=2)
    start(world, 5)
    ask = "select * from rowlock.claim(%s, %s, '', null, 10, false)"
    assert len(worker.run(ask, worker.worker_id, APP)) == 2
    assert worker.run(ask, worker.worker_id, APP) == []


def test_a_pause_of_a_workflow_holds_in_a_limited_queue(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=5, partitions=True)
    start(world, 5, partition="a")
    other = start(world, 2, partition="a", workflow="invoice")
    world.anybody.run("select rowlock.pause(workflow => 'fulfil', app => %s)", APP)
    assert {one.run_id for one in worker.claim(5)} == set(other)
