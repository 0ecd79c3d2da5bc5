"""Places that are handed over: who ends runs of a limited queue claims as many in the same commit.

Without the gate, so beside claims that hold it, beside each other, and beside changes of the limit.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import Claimed
from store.races.sessions import APP, Worker, World, finish, release, sleep_on, step
from store.races.test_limit_races import at_once, running, start

Hindrance = Callable[[World, Worker], None]
ENDS: dict[str, Callable[[Claimed], Entry]] = {
    "finish": finish,
    "release": release,
    "suspend": lambda claimed: sleep_on(claimed, timers=()),
}


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_is_followed_by_the_next_in_the_same_commit(world: World, how: str) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=2)
    runs = start(world, 6)
    first, _ = worker.claim(10)
    [urgent] = start(world, priority=0)
    worker.begin()
    end = ENDS[how](first)
    verdicts, [next_one] = worker.hand_over(end)
    assert verdicts.of(end) == "written"
    assert (next_one.run_id, next_one.epoch, next_one.limited) == (urgent, 1, True)
    assert running(world) == 2
    assert world.state(first.run_id) == "running"
    worker.commit()
    assert running(world) == 2
    assert (world.state(first.run_id), world.state(urgent)) != ("running", "ready")
    assert worker.verdict(finish(next_one)) == "written"
    assert len(runs) == 6


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_claim_beside_an_open_one_never_gets_over(world: World, fate: str) -> None:
    """Whoever counts sees those that end or those that come, never neither."""
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=3)
    start(world, 9)
    first, *_ = one.claim(2)
    one.begin()
    assert len(one.hand_over(finish(first))[1]) == 1
    assert at_once(two) == 1
    assert at_once(two) == 0
    one.end(fate)
    assert at_once(two) == 0
    assert running(world) == 3


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_it_waits_for_no_claim_that_holds_the_gate(world: World, fate: str) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=3)
    start(world, 9)
    first, second = one.claim(2)
    assert len(two.begin().claim(10)) == 1
    call = one.go(lambda: one.hand_over(finish(first)))
    assert not call.waits()
    assert len(call.result()[1]) == 1
    two.end(fate)
    assert running(world) == (3 if fate == "commit" else 2)
    assert len(one.hand_over(finish(second))[1]) == 1
    assert at_once(two) == (0 if fate == "commit" else 1)


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_two_at_once_take_different_runs(world: World, fate: str) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=4)
    start(world, 12)
    mine, theirs = one.claim(2), two.claim(2)
    one.begin()
    ours = one.hand_over(*map(finish, mine))[1]
    call = two.go(lambda: two.hand_over(*map(finish, theirs)))
    assert not call.waits()
    others = call.result()[1]
    one.end(fate)
    assert (len(ours), len(others)) == (2, 2)
    assert not {r.run_id for r in ours} & {r.run_id for r in others}
    assert running(world) == 4


def test_a_lowered_limit_is_handed_nothing_until_fewer_run(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=4)
    start(world, 20)
    a, b, c, d = worker.claim(10)
    world.anybody.limit(concurrency=2)
    assert worker.hand_over(finish(a))[1] == []
    assert worker.hand_over(finish(b))[1] == []
    assert running(world) == 2
    assert len(worker.hand_over(finish(c), finish(d))[1]) == 2
    assert running(world) == 2


@pytest.mark.parametrize("limits", [{"concurrency": 1}, {"worker_concurrency": 1}, {"rate": "1/h"}])
def test_a_limit_that_is_lowered_meanwhile_is_not_exceeded_any_further(
    world: World, limits: dict[str, object]
) -> None:
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=3)
    start(world, 20)
    a, b, c = one.claim(10)
    one.begin()
    [next_one] = one.hand_over(finish(a))[1]
    world.anybody.limit(**limits)
    one.commit()
    assert running(world) == 3
    assert at_once(two) == 0
    assert one.hand_over(finish(b), finish(c))[1] == []
    assert running(world) == 1
    assert world.state(next_one.run_id) == "running"


def test_a_raised_limit_is_no_ones_to_hand_over(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=2)
    start(world, 20)
    a, _ = worker.claim(10)
    world.anybody.limit(concurrency=5)
    assert len(worker.hand_over(finish(a))[1]) == 1
    assert running(world) == 2
    assert len(worker.claim(10)) == 3


def lost(world: World, worker: Worker) -> None:
    world.anybody.run("update rowlock.task set epoch = epoch + 1 where state = 'running'")


def locked(world: World, worker: Worker) -> None:
    world.session("stranger").begin().run(
        "select from rowlock.task where state = 'running' for update"
    )


def gone(world: World, worker: Worker) -> None:
    world.anybody.run("delete from rowlock.worker where id = %s", worker.worker_id)


def lapsed(world: World, worker: Worker) -> None:
    world.expire(worker)


def draining(world: World, worker: Worker) -> None:
    world.anybody.run("select rowlock.drain_worker(%s)", worker.worker_id)


def paused(world: World, worker: Worker) -> None:
    world.anybody.run("select rowlock.pause('default', app => %s)", APP)


def paused_workflow(world: World, worker: Worker) -> None:
    world.anybody.run("select rowlock.pause(workflow => 'fulfil', app => %s)", APP)


def rated(world: World, worker: Worker) -> None:
    world.anybody.limit(rate="100/s")


def with_partitions(world: World, worker: Worker) -> None:
    world.anybody.limit(partitions=True)


def one_in_a_partition(world: World, worker: Worker) -> None:
    start(world, partition="a")


def unlimited(world: World, worker: Worker) -> None:
    world.anybody.limit(concurrency=None)


def another_version_waits(world: World, worker: Worker) -> None:
    for name in ("v1", "v2"):
        world.anybody.run("insert into rowlock.version (app, name) values (%s, %s)", APP, name)
    [run] = start(world)
    world.anybody.run("update rowlock.task set version = 'v2' where run_id = %s", run)


@pytest.mark.parametrize(
    "hindrance",
    [
        lost,
        locked,
        gone,
        lapsed,
        draining,
        paused,
        paused_workflow,
        rated,
        with_partitions,
        one_in_a_partition,
        unlimited,
    ],
)
def test_nothing_is_handed_over(world: World, hindrance: Hindrance) -> None:
    """Without a place of one's own, to one who must not claim, or where the gate guards more."""
    worker = world.worker()
    world.anybody.limit(concurrency=1)
    start(world, 5)
    [first] = worker.claim(1)
    hindrance(world, worker)
    end = finish(first)
    verdicts, claimed = worker.hand_over(end)
    assert claimed == []
    assert verdicts.of_worker == ("gone" if hindrance is gone else None)
    verdict = {"lost": "lost", "locked": "again"}.get(hindrance.__name__, "written")
    assert hindrance is gone or verdicts.of(end) == verdict


def test_another_versions_work_gets_its_turn(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=1)
    pinned = start(world, 5)
    another_version_waits(world, worker)
    world.anybody.run("update rowlock.task set version = 'v1' where run_id = any(%s)", pinned)
    [first] = worker.claim(1, version="v1")
    assert worker.hand_over(finish(first), version="v1")[1] == []
    assert len(worker.claim(1, version="v2")) == 1


def test_work_that_is_pinned_to_no_version_yet_gets_its_turn(world: World) -> None:
    """Only the current version may take it, and this worker's is another."""
    for name in ("v1", "v2"):
        world.anybody.run("insert into rowlock.version (app, name) values (%s, %s)", APP, name)
    world.anybody.run("select rowlock.promote(%s, 'v2')", APP)
    worker = world.worker()
    world.anybody.limit(concurrency=1)
    pinned = start(world, 5)
    world.anybody.run("update rowlock.task set version = 'v1' where run_id = any(%s)", pinned)
    [urgent] = start(world, priority=0)
    [first] = worker.claim(1, version="v1")
    assert worker.hand_over(finish(first), version="v1")[1] == []
    [taken] = worker.claim(1, version="v2")
    assert taken.run_id == urgent


def test_a_run_that_comes_twice_leaves_one_place(world: World) -> None:
    """As two heartbeats may hand back what the journal has not written yet."""
    one, two = world.worker("one"), world.worker("two")
    world.anybody.limit(concurrency=3)
    start(world, 20)
    [first] = one.claim(1)
    assert len(two.begin().claim(10)) == 2
    assert len(one.hand_over(release(first), release(first))[1]) == 1
    two.commit()
    assert running(world) == 3


def test_places_of_several_queues_stay_in_their_queue(world: World) -> None:
    worker = world.worker()
    for queue, most in (("default", 2), ("other", 1)):
        world.anybody.limit(queue, concurrency=most)
        start(world, 5, queue=queue)
    mine = worker.claim(10)
    assert len(mine) == 3
    claimed = worker.hand_over(*map(finish, mine))[1]
    assert sorted(one.queue for one in claimed) == ["default", "default", "other"]
    assert (running(world), running(world, "other")) == (2, 1)


def test_runs_that_were_claimed_without_a_limit_leave_no_place(world: World) -> None:
    """They are counted by hand; the next claim that holds the gate marks them."""
    worker = world.worker()
    start(world, 8)
    a, b, *_ = worker.claim(4)
    world.anybody.limit(concurrency=3)
    assert worker.hand_over(finish(a))[1] == []
    assert at_once(worker) == 0, "it marks three"
    assert len(worker.hand_over(finish(b))[1]) == 1
    assert running(world) == 3


def test_steps_in_the_same_batch_are_written(world: World) -> None:
    worker = world.worker()
    world.anybody.limit(concurrency=2)
    start(world, 5)
    a, b = worker.claim(2)
    assert len(worker.hand_over(step(b, "1"), finish(a))[1]) == 1
    assert world.count("step") == 1
