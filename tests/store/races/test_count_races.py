"""The bound from which a limited queue's runs are counted: none that runs is ever before it.

It is moved by hand here, as by who has counted and walked far. Where clocks go back, so that a
later claim would have an earlier time, it is the times of earlier claims that are put ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from rowlock.store.statements import Claimed
from store.pinning import pinned
from store.races.sessions import APP, Session, World, finish, release
from store.races.test_limit_races import at_once, running, start


def move(session: Session, seen: str | None = None) -> None:
    session.run("select rowlock.move_oldest(%s, 'default', %s::timestamptz)", APP, seen)


def bound(world: World) -> datetime | None:
    found: datetime | None = world.anybody.ask(
        "select oldest_claim from rowlock.queue_gate where app = %s and name = 'default'", APP
    )
    return found


def claimed_at(world: World, one: Claimed) -> datetime:
    found: datetime = world.anybody.ask(
        "select claimed_at from rowlock.task where run_id = %s", one.run_id
    )
    return found


def clocks_go_back(world: World) -> None:
    """By an hour: what was claimed until now was claimed later than what will be."""
    world.anybody.run(
        "update rowlock.task set claimed_at = claimed_at + interval '1 hour'"
        " where state = 'running'"
    )


def clocks_go_on(_world: World) -> None:
    pass


Clocks = Callable[[World], None]
CLOCKS = pytest.mark.parametrize("clocks", [clocks_go_on, clocks_go_back])


def test_a_count_begins_with_the_oldest_that_runs(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=4)
    start(world, 20)
    a, b = worker.claim(1), worker.claim(2)
    assert bound(world) is None
    move(world.anybody)
    assert bound(world) == claimed_at(world, a[0])
    assert worker.write(finish(a[0])) == ["written"]
    move(world.anybody)
    assert bound(world) == min(claimed_at(world, one) for one in b)
    assert worker.write(*map(finish, b)) == ["written"] * 2
    before = bound(world)
    move(world.anybody)
    assert before is not None
    assert (bound(world) or before) > before, "none runs: it is now"
    assert at_once(worker) == 4
    assert at_once(worker) == 0


def test_it_is_not_moved_while_the_oldest_runs(world: World) -> None:
    """Who looked may not take the gate from others for nothing."""
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=4)
    start(world, 20)
    one.claim(1)
    move(world.anybody)
    session = world.session().begin()
    move(session, str(bound(world)))
    assert at_once(two, 1) == 1
    session.commit()


@CLOCKS
def test_claims_after_it_are_counted(world: World, clocks: Clocks) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=4)
    start(world, 20)
    assert len(worker.claim(1)) == 1
    clocks(world)
    move(world.anybody)
    assert at_once(worker, 2) == 2
    assert at_once(worker) == 1
    assert at_once(worker) == 0


@CLOCKS
@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_places_that_are_being_handed_over_are_counted(
    world: World, clocks: Clocks, fate: str
) -> None:
    """Who moves the bound sees those that end, and not those that come for them."""
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=3)
    start(world, 20)
    mine = one.claim(3)
    clocks(world)
    one.begin()
    assert len(one.hand_over(*map(finish, mine))[1]) == 3
    move(world.session())
    assert bound(world) == min(claimed_at(world, it) for it in mine)
    one.end(fate)
    assert at_once(two) == 0
    move(world.anybody)
    assert at_once(two) == 0
    assert running(world) == 3


@CLOCKS
def test_places_that_are_handed_on_while_it_is_moved_are_counted(
    world: World, clocks: Clocks
) -> None:
    """Neither those that came nor those that came for them are seen, when it is moved."""
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=1)
    start(world, 20)
    [first] = one.claim(1)
    clocks(world)
    mover = world.session().begin()
    move(mover)
    [second] = one.hand_over(finish(first))[1]
    [third] = one.hand_over(finish(second))[1]
    mover.commit()
    assert (bound(world) or claimed_at(world, third)) <= claimed_at(world, third)
    assert at_once(two) == 0
    assert one.write(finish(third)) == ["written"]
    assert at_once(two) == 1


@CLOCKS
def test_runs_that_are_taken_over_are_counted_when_they_are_claimed_again(
    world: World, clocks: Clocks
) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=2)
    start(world, 20)
    taken = one.claim(2)
    clocks(world)
    move(world.anybody)
    world.expire(one)
    reaper = world.session().begin()
    assert reaper.reap() == 2
    assert at_once(two) == 0, "for others they still run"
    move(world.session())
    reaper.commit()
    assert at_once(two, 1) == 1
    move(world.anybody)
    assert at_once(two) == 1
    assert at_once(two) == 0
    assert len(taken) == running(world)


@CLOCKS
def test_runs_that_were_claimed_while_there_was_no_limit_are_counted(
    world: World, clocks: Clocks
) -> None:
    """Also those that need not be marked: they were, by an earlier claim."""
    worker = world.worker()
    world.anybody.limit(concurrency=2)
    urgent = start(world, 1, priority=0)
    start(world, 20)
    a, _ = worker.claim(2)
    assert a.run_id == urgent[0]
    clocks(world)
    assert worker.write(release(a)) == ["written"]
    move(world.anybody)
    world.anybody.limit(concurrency=None)
    assert [it.run_id for it in worker.claim(1)] == urgent
    world.anybody.limit(concurrency=2)
    assert at_once(worker) == 0
    assert at_once(worker) == 0


def test_who_saw_a_bound_that_was_forgotten_since_moves_it_to_what_runs(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=2)
    start(world, 20)
    [one] = worker.claim(1)
    move(world.anybody, "2100-01-01T00:00:00Z")
    assert bound(world) == claimed_at(world, one)


@CLOCKS
def test_a_lowered_limit_holds_beside_places_that_are_handed_over(
    world: World, clocks: Clocks
) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=3)
    start(world, 20)
    a, b, c = one.claim(3)
    clocks(world)
    one.begin()
    [d] = one.hand_over(finish(a))[1]
    world.anybody.limit(concurrency=2)
    move(world.session())
    one.commit()
    assert at_once(two) == 0
    assert one.hand_over(finish(b))[1] == []
    move(world.anybody)
    assert at_once(two) == 0
    assert len(one.hand_over(finish(c))[1]) == 1
    assert at_once(two) == 0
    assert one.write(finish(d)) == ["written"]
    assert at_once(two) == 1


@pytest.mark.parametrize("limit", [{"concurrency": 5}, {"concurrency": None}])
def test_it_is_not_moved_beside_an_open_claim_and_waits_for_none(
    world: World, limit: dict[str, int | None]
) -> None:
    one = world.worker("one")
    world.anybody.limit(**limit)
    start(world, 20)
    assert len(one.begin().claim(1)) == 1
    session = world.session()
    call = session.go(lambda: move(session))
    assert not call.waits()
    call.result()
    one.commit()
    assert bound(world) is None


PARTED = [{"concurrency": 3}, {"partition_concurrency": 3}, {"worker_concurrency": 3}]


@pytest.mark.parametrize("limit", PARTED)
@pytest.mark.parametrize("tenants", ["a", "ab", ""])
@CLOCKS
def test_runs_in_partitions_are_counted_from_it_too(
    world: World, clocks: Clocks, tenants: str, limit: dict[str, int]
) -> None:
    """It is the time of the oldest in any of them, or in none."""
    worker = world.worker()
    world.anybody.limit(partitions=True, **limit)
    urgent = start(world, 2, priority=0, partition="a")
    start(world, 10, partition="a")
    first = worker.claim(2)
    assert [one.run_id for one in first] == urgent
    clocks(world)
    move(world.anybody)
    assert bound(world) == min(claimed_at(world, one) for one in first)
    for tenant in tenants:
        start(world, 10, priority=0, partition=tenant)
    most = 4 if "b" in tenants and "partition_concurrency" in limit else 1
    assert at_once(worker) == most
    move(world.anybody)
    assert at_once(worker) == 0
    assert worker.write(finish(first[0])) == ["written"]
    move(world.anybody)
    assert at_once(worker) == 1
    assert at_once(worker) == 0


def test_it_is_moved_to_the_oldest_of_all_partitions(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(partitions=True, concurrency=10)
    claimed = []
    for options in ({"partition": "b"}, {}, {"partition": "a"}):
        start(world, 1, **options)
        claimed += worker.claim(1)
    for nth in range(3):
        move(world.anybody)
        assert bound(world) == claimed_at(world, claimed[nth])
        assert worker.write(finish(claimed[nth])) == ["written"]


@CLOCKS
def test_a_claim_that_moves_it_itself_claims_no_earlier(world: World, clocks: Clocks) -> None:
    """It holds the gate, and takes behind it only what is counted from it."""
    one, other = world.worker("one"), world.worker("other")
    world.anybody.limit(partitions=True, partition_concurrency=2)
    names = [{"workflow": "fulfil", "partition": f"t{n}"} for n in range(40)]
    with pinned(world):
        for _ in range(2):
            world.anybody.start_many(*names * 20)
            while claimed := other.claim(1000):
                assert set(other.write(*map(finish, claimed))) == {"written"}
        world.anybody.run("update rowlock.queue_gate set oldest_claim = null")
        start(world, 1, partition="t0")
        [stays] = other.claim(1)
        clocks(world)
        world.anybody.run("update rowlock.queue_gate set oldest_claim = null")
        world.anybody.start_many(*names * 3)
        assert len(one.claim(1000)) == 79
        assert bound(world) == claimed_at(world, stays)
        assert at_once(one, 1000) == 0
        assert running(world) == 80


def test_a_bound_that_who_hands_over_moves_himself_is_before_what_he_takes(world: World) -> None:
    """Those who left are gone for him, so he may move it past them, to one whose clock is ahead."""
    one, two, churn = (world.worker(name) for name in ("one", "two", "churn"))
    world.anybody.limit(concurrency=2000)
    start(world, 2)
    [ends], [stays] = one.claim(1), two.claim(1)
    with pinned(world):
        world.anybody.start_many(*[{"workflow": "fulfil"}] * 1300)
        while claimed := churn.claim(1000):
            assert set(churn.write(*map(finish, claimed))) == {"written"}
        world.anybody.limit(concurrency=2)
        start(world, 3)
        world.anybody.run(
            "update rowlock.task set claimed_at = claimed_at + interval '1 hour' where run_id = %s",
            stays.run_id,
        )
        world.anybody.run("update rowlock.queue_gate set oldest_claim = null")
        assert len(one.hand_over(finish(ends))[1]) == 1
        assert bound(world) is not None
        assert at_once(two) == 0
        assert running(world) == 2
