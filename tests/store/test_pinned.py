"""Claims behind a transaction that stays open: as cheap as without, and nothing is overlooked.

Nothing here is timed: what a claim costs is counted in buffers, and when the next full look is due
stands in the memory that a claim answers, where a test may say otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import postgres
from rowlock.embedded import Server
from rowlock.store.entries import Entry, Heir, parameters
from rowlock.store.statements import CLAIM, JOURNAL, Claimed
from store.costs import cost_of
from store.pinning import (
    LONG_AGO,
    due,
    end_many,
    from_before,
    not_due,
    of_places,
    pinned,
    told,
    told_of,
    unreached,
)
from store.races.sessions import APP, Connections, Worker, World, finish, release

DEAD = 20_000
LIVE = 500
FEW = 40
ENOUGH = 3_000
"""So many dead are out of proportion."""
OLDEST = "select oldest_claim from rowlock.queue_gate where name = 'default'"


class Stranded:
    """A worker on a queue with work, and the memory that it has been given."""

    def __init__(self, world: World, dead: int = ENOUGH, live: int = 20) -> None:
        end_many(world, dead)
        self.world = world
        self.runs = world.anybody.start_many(*[{"workflow": "fulfil"}] * live)
        self.worker: Worker = world.worker()
        self.worker.claim(1)
        assert told(self.worker.next.memory)["queues"] == {}, "that the head is dead was news"
        [one] = self.worker.claim(1, memory=self.worker.next.memory)
        assert self.worker.next.again_in is None
        assert [*told(self.worker.next.memory)["queues"]] == ["default"]
        assert self.worker.write(finish(one)) == ["written"]
        self.memory = self.worker.next.memory

    def looks(self, want: int = 100, *, fully: bool = False, version: str = "") -> list[str]:
        """Claim and end; the workflows of what was found."""
        memory = (due if fully else not_due)(self.memory)
        claimed = self.worker.claim(want, memory=memory, version=version)
        self.memory = self.worker.next.memory
        if claimed:
            assert set(self.worker.write(*(finish(one) for one in claimed))) == {"written"}
        return [one.workflow for one in claimed]


@pytest.fixture
def stranded(world: World) -> Iterator[Stranded]:
    with pinned(world):
        found = Stranded(world)
        found.looks()
        yield found


# --- what it costs


@contextmanager
def pair(server: Server, template: str) -> Iterator[tuple[World, World]]:
    """Two databases; nothing can be removed from the second."""
    with (
        postgres.new_database(server, template) as clean,
        postgres.new_database(server, template) as full,
    ):
        connections = [Connections(url) for url in (clean, full)]
        worlds = [World(each) for each in connections]
        try:
            with pinned(worlds[1]):
                yield worlds[0], worlds[1]
        finally:
            for world in worlds:
                world.close()
            for each in connections:
                each.close()


def ready(world: World) -> Worker:
    """A worker, and work for it."""
    world.anybody.start_many(*[{"workflow": "fulfil"}] * LIVE)
    worker = world.worker()
    worker.heartbeat(lease_s=3600.0)
    worker.run("set plan_cache_mode = force_generic_plan")
    return worker


@pytest.fixture(scope="module")
def two(server: Server, template: str) -> Iterator[tuple[Worker, Worker, str | None]]:
    """The same work without anything dead, and behind a good deal of it."""
    with pair(server, template) as (clean, full):
        for world in (clean, full):
            world.anybody.run("analyze")
        end_many(full, DEAD)
        one, other = ready(clean), ready(full)
        other.claim(1)
        other.claim(1, memory=other.next.memory)
        yield one, other, other.next.memory


@pytest.fixture(scope="module")
def limited(server: Server, template: str) -> Iterator[tuple[Worker, Worker, list[Claimed]]]:
    """The same with a limit, under which ten run; those of the second."""
    with pair(server, template) as (clean, full):
        for world in (clean, full):
            world.anybody.limit(concurrency=1000)
            world.anybody.run("analyze")
        end_many(full, DEAD)
        for world in (clean, full):
            world.anybody.limit(concurrency=100)
        one, other = ready(clean), ready(full)
        for worker in (one, other):
            mine = worker.claim(5)
            mine += worker.claim(5, memory=worker.next.memory)
        # The last thousand at most would be walked past still.
        full.anybody.run("select rowlock.move_oldest(%s, 'default', null)", APP)
        yield one, other, mine


def cost(worker: Worker, memory: str | None, want: int, queues: list[str] | None) -> int:
    given = {
        "worker": worker.worker_id,
        "app": APP,
        "version": "",
        "queues": queues,
        "after": None,
        "want": want,
        "listening": False,
        "memory": memory,
    }
    return cost_of(worker, CLAIM.sql, given).buffers


@pytest.mark.parametrize("queues", [None, ["default"]])
@pytest.mark.parametrize("want", [10, 100])
def test_a_claim_costs_no_more_behind_a_pinned_xmin(
    two: tuple[Worker, Worker, str | None], want: int, queues: list[str] | None
) -> None:
    clean, full, memory = two
    without = cost(clean, None, want, queues)
    bounded = cost(full, not_due(memory), want, queues)
    assert bounded <= without + 5 * want + FEW, (without, bounded)
    # What is dead is there, and a full look has to pass by it.
    assert cost(full, due(memory), want, queues) > bounded + DEAD / 50


@pytest.mark.parametrize("want", [10, 50])
def test_nor_does_one_that_counts(limited: tuple[Worker, Worker, list[Claimed]], want: int) -> None:
    clean, full, _ = limited
    without = cost(clean, None, want, None)
    memory = full.next.memory
    bounded = cost(full, not_due(memory), want, None)
    assert bounded <= without + 5 * want + FEW, (without, bounded)
    assert cost(full, due(memory), want, None) > bounded + DEAD / 50


COUNT = "select rowlock.running(%(app)s, 'default', null, 100, false, %(oldest)s)"


def test_a_count_is_cheap_only_from_its_bound_on(
    limited: tuple[Worker, Worker, list[Claimed]],
) -> None:
    _, full, _ = limited
    bound = full.ask(OLDEST)
    assert full.connection.execute(COUNT, {"app": APP, "oldest": bound}).fetchone() == (10,)
    assert cost_of(full, COUNT, {"app": APP, "oldest": bound}).buffers < FEW
    assert cost_of(full, COUNT, {"app": APP, "oldest": None}).buffers > DEAD / 50


def test_nor_do_places_that_are_handed_over(
    limited: tuple[Worker, Worker, list[Claimed]],
) -> None:
    _, full, mine = limited

    def costs(memory: str | None) -> int:
        ends: list[Entry] = [finish(one) for one in mine[:5]]
        batch = parameters(full.worker_id, ends, retrying=False, heir=Heir("", memory))
        return cost_of(full, JOURNAL.sql, batch).buffers

    fully = costs(None)
    bounded = costs(of_places(not_due(full.next.memory)))
    assert fully > bounded + DEAD / 50


TENANTS = {"partitions": True, "partition_concurrency": 1000}
KINDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "its own runs": ({"worker_concurrency": 1000}, [{}]),
    "a rate": ({"rate": "1000000/s"}, [{}]),
    "ageing": ({"ageing": "1 minute"}, [{"priority": n} for n in (10, 50, 90)]),
    "a few tenants": (TENANTS, [{"partition": f"t{n}"} for n in range(5)]),
    "many tenants": (
        TENANTS | {"concurrency": 10_000},
        [{"partition": f"t{n}", "priority": n % 3} for n in range(100)],
    ),
    "tenants alone": (TENANTS, [{"partition": f"t{n}"} for n in range(50)]),
    "rates of tenants": (
        {"partitions": True, "partition_rate": "1000000/s"},
        [{"partition": f"t{n}"} for n in range(5)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nor_does_one_of_any_other_kind(server: Server, template: str, kind: str) -> None:
    """Claims of ten, each looking, counting and taking, in places that all have had work."""
    limits, places = KINDS[kind]
    dead, workers = max(6_000, 200 * len(places)), []
    with pair(server, template) as worlds:
        for world in worlds:
            world.anybody.limit(**limits)
            world.anybody.run("analyze")
            worker = world.worker()
            worker.heartbeat(lease_s=3600.0)
            if world is worlds[1]:
                end_many(world, dead, *places, by=worker)
            world.anybody.start_many(
                *[{"workflow": "fulfil", **place} for place in places] * (1000 // len(places))
            )
            worker.run("set plan_cache_mode = force_generic_plan")
            workers.append(worker)
        clean, full = workers
        for worker in workers:
            memory = None
            for _ in range(30):
                claimed = worker.claim(10, memory=memory)
                assert len(claimed) == 10
                memory = worker.next.memory
                assert set(worker.write(*map(finish, claimed))) == {"written"}
        assert clean.next.memory is None
        counts = any("concurrency" in limit for limit in limits)
        assert (full.ask(OLDEST) is not None) == counts, "moved by who walked far"
        if counts:  # past the last thousand as well
            full.run("select rowlock.move_oldest(%s, 'default', '2000-01-01')", APP)
        without = cost(clean, None, 10, None)
        bounded = cost(full, not_due(full.next.memory), 10, None)
        assert bounded <= 2 * without + 2 * len(places) + FEW, (without, bounded)
        assert cost(full, due(full.next.memory), 10, None) > bounded + dead / 50


def test_the_bound_of_a_count_is_moved_by_who_walks_far(world: World) -> None:
    """Not with each claim: it costs a version of the gate's row, which can't be removed either."""
    world.anybody.limit(concurrency=1000)
    with pinned(world):
        end_many(world, 500)
        assert world.anybody.ask(OLDEST) is None
        end_many(world, 2_000)
        assert world.anybody.ask(OLDEST) is not None


@pytest.mark.parametrize(
    "limit", [{"concurrency": 1000}, {"worker_concurrency": 1000}, {"rate": "1000000/s"}]
)
def test_claims_of_a_limited_queue_go_on_behind_what_was_taken(
    stranded: Stranded, limit: dict[str, int]
) -> None:
    stranded.world.anybody.limit(**limit)
    for _ in range(3):
        stranded.world.anybody.start_many(*[{"workflow": "fulfil"}] * 10)
        assert len(stranded.looks(7)) == 7
        assert len(stranded.looks(7)) == 3
        assert stranded.looks(7) == []


def test_a_rate_that_lets_few_go_first_hides_none_of_the_others(world: World) -> None:
    """A run that has begun may go, whatever the rate says; those before it are found later."""
    world.anybody.limit(rate="1000/d")
    worker = world.worker()
    world.anybody.start("invoice")
    [begun] = worker.claim(1)
    assert worker.write(release(begun)) == ["written"]
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 5)
    world.anybody.run(
        "update rowlock.task set due_at = due_at - case when started_at is null"
        " then interval '2 hours' else interval '1 hour' end"
    )
    world.anybody.limit(rate="3/d")
    found = worker.claim(10, memory=from_before())
    assert sorted(one.workflow for one in found) == ["fulfil", "fulfil", "invoice"]
    world.anybody.limit(rate="6/d")
    found = worker.claim(10, memory=worker.next.memory)
    assert [one.workflow for one in found] == ["fulfil"] * 3


def test_nothing_is_remembered_where_nothing_is_in_the_way(world: World) -> None:
    world.anybody.run("vacuum rowlock.task")  # of what other tests left
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 1500)
    worker = world.worker()
    while claimed := worker.claim(100):
        assert worker.next.memory is None
        assert set(worker.write(*(finish(one) for one in claimed))) == {"written"}
    assert worker.next.memory is None


def test_what_no_vacuum_has_removed_yet_is_passed_by_too(world: World) -> None:
    """Between two vacuums: its entries are marked as dead, but all their pages are read."""
    world.anybody.run("alter table rowlock.task set (autovacuum_enabled = false)")
    end_many(world, DEAD)
    worker = ready(world)
    worker.claim(10)
    worker.claim(10, memory=worker.next.memory)
    bounded = cost(worker, not_due(worker.next.memory), 10, None)
    fully = cost(worker, due(worker.next.memory), 10, None)
    assert fully > bounded + 2 * DEAD / 200, (fully, bounded)


def test_partitions_are_no_reason_to_remember_anything(world: World) -> None:
    """Each costs a probe or two, and bounds could save none of them."""
    world.anybody.limit(partitions=True, partition_concurrency=1)
    names = [f"tenant {n}" for n in range(100)]
    world.anybody.start_many(*[{"workflow": "fulfil", "partition": name} for name in names * 2])
    worker = world.worker()
    for _ in range(2):
        claimed = worker.claim(100)
        assert len(claimed) == 100
        assert worker.next.memory is None
        assert set(worker.write(*(finish(one) for one in claimed))) == {"written"}


def test_queues_that_a_full_look_did_not_reach_are_looked_at_before_the_next(
    stranded: Stranded,
) -> None:
    queues = [f"queue {n}" for n in range(10)]
    anybody = stranded.world.anybody
    anybody.run("select rowlock.show_app(%s, %s, array['fulfil'], array['default'])", APP, queues)
    anybody.start_many(*[{"workflow": "fulfil", "queue": name} for name in queues])
    assert len(stranded.looks(3, fully=True)) == 3
    assert len(stranded.looks(100)) == 7


def test_nobody_is_left_to_a_look_that_took_long_for_other_reasons(world: World) -> None:
    noted = "select rowlock.memory_of('{}', '{}', clock_timestamp() - interval '1 hour')"
    memory = world.anybody.ask(noted)
    looked, due = (datetime.fromisoformat(memory[key]) for key in ("looked", "due"))
    assert due - looked == timedelta(seconds=1)


def test_the_memory_is_gone_with_what_was_in_the_way(world: World) -> None:
    with pinned(world):
        stranded = Stranded(world)
    world.anybody.run("vacuum rowlock.task")
    assert stranded.looks(5) == ["fulfil"] * 5
    assert stranded.memory is not None
    assert stranded.looks(5, fully=True) == ["fulfil"] * 5
    assert stranded.memory is None


# --- what is found, and when


def test_claims_go_on_behind_what_was_taken(world: World) -> None:
    with pinned(world):
        stranded = Stranded(world, live=500)
        done = 0
        while found := stranded.looks(7):
            done += len(found)
        assert done == 498


def test_what_comes_to_an_empty_queue_is_found_without_a_full_look(stranded: Stranded) -> None:
    assert stranded.looks() == []
    for _ in range(3):
        stranded.world.anybody.start()
        assert stranded.looks() == ["fulfil"]
    stranded.looks(fully=True)
    stranded.world.anybody.start()
    assert stranded.looks() == ["fulfil"]


def test_a_start_that_commits_a_moment_late_is_found_without_a_full_look(
    stranded: Stranded,
) -> None:
    """In the order of their ids and times they come before those that are taken already."""
    stranded.looks()
    late = stranded.world.session("late").begin()
    slow = late.start("invoice")
    stranded.world.anybody.start("fulfil")
    # As if all this had happened just now, however slow this machine is.
    late.run(
        "update rowlock.task set due_at = clock_timestamp() + interval '1 hour' where run_id = %s",
        slow,
    )
    stranded.world.anybody.run(
        "update rowlock.task set due_at = clock_timestamp() + interval '2 hours'"
    )
    assert stranded.looks(1) == ["fulfil"]
    late.commit()
    assert stranded.looks() == ["invoice"]


def an_hour_late(world: World) -> Callable[[], object]:
    late = world.session("late").begin()
    run = late.start("invoice")
    late.run(
        "update rowlock.task set due_at = due_at - interval '1 hour' where run_id = %s",
        run,
    )
    return late.commit


def a_priority(world: World) -> Callable[[], object]:
    return lambda: world.anybody.start("invoice", priority=3)


def a_queue(world: World) -> Callable[[], object]:
    return lambda: world.anybody.start("invoice", queue="other")


def a_partition(world: World) -> Callable[[], object]:
    def come() -> None:
        world.anybody.limit(partitions=True)
        world.anybody.start("invoice", partition="tenant")
        world.anybody.limit(partitions=None)

    return come


def a_tenant(world: World) -> Callable[[], object]:
    if world.anybody.ask("select partitions from rowlock.queue where name = 'default'"):
        return lambda: world.anybody.start("invoice", partition="tenant")
    return a_partition(world)


def a_run_handed_back(world: World) -> Callable[[], object]:
    """Its claimer died: it waits where it stood, an hour ago."""
    dead = world.worker("dead")
    run = world.anybody.start("invoice", priority=0)
    assert [one.run_id for one in dead.claim(1)] == [run]
    world.anybody.run(
        "update rowlock.task set due_at = due_at - interval '1 hour', priority = 50"
        " where run_id = %s",
        run,
    )
    world.expire(dead)

    def come() -> None:
        assert world.anybody.reap() == 1

    return come


@pytest.mark.parametrize(
    "surprise", [an_hour_late, a_priority, a_queue, a_partition, a_run_handed_back]
)
def test_what_bounds_hide_is_found_by_the_next_full_look(
    stranded: Stranded, surprise: Callable[[World], Callable[[], object]]
) -> None:
    come = surprise(stranded.world)
    stranded.looks()
    come()
    assert stranded.looks() == []
    assert stranded.worker.next.again_in is not None
    assert stranded.worker.next.again_in > 0, "the next full look"
    assert stranded.looks(fully=True) == ["invoice"]


@pytest.mark.parametrize("surprise", [an_hour_late, a_priority])
def test_what_places_that_are_handed_over_do_not_see_is_theirs_in_time(
    world: World, surprise: Callable[[World], Callable[[], object]]
) -> None:
    """Where a limit is always used up, no other claim comes."""
    with pinned(world):
        end_many(world, ENOUGH)
        world.anybody.limit(concurrency=1)
        world.anybody.start_many(*[{"workflow": "fulfil"}] * 20)
        worker, memory = world.worker(), None
        [one] = worker.claim(1)

        def next_one(memory: str | None) -> tuple[Claimed, str | None]:
            places = None if memory is None else of_places(memory)
            [claimed] = worker.hand_over(finish(one), memory=places)[1]
            return claimed, told_of(worker.places)

        one, memory = next_one(memory)
        assert told(memory)["queues"] == {}
        one, memory = next_one(memory)
        assert [*told(memory)["queues"]] == ["default"]
        come = surprise(world)
        one, memory = next_one(not_due(memory))
        come()
        one, memory = next_one(not_due(memory))
        assert one.workflow == "fulfil"
        one, memory = next_one(due(memory))
        assert one.workflow == "invoice"
        assert worker.claim(10, memory=worker.next.memory) == []


@pytest.mark.parametrize("surprise", [an_hour_late, a_priority, a_tenant, a_run_handed_back])
@pytest.mark.parametrize("limits", [{"ageing": "1 minute"}, {"partitions": True}])
def test_what_bounds_of_other_kinds_hide_is_found_by_the_next_full_look(
    world: World, limits: dict[str, Any], surprise: Callable[[World], Callable[[], object]]
) -> None:
    world.anybody.limit(**limits)
    with pinned(world):
        stranded = Stranded(world)
        come = surprise(world)
        stranded.looks()
        come()
        assert stranded.looks() == []
        assert stranded.looks(fully=True) == ["invoice"]


def test_tenants_take_turns_behind_their_bounds(world: World) -> None:
    """Of each worker's own, who does not write them down while nothing can be removed."""
    tenants = [f"t{n}" for n in range(5)]
    world.anybody.limit(partitions=True, partition_concurrency=100)
    written = "select cursor from rowlock.queue_gate where name = 'default'"
    with pinned(world):
        end_many(world, 2 * ENOUGH, *[{"partition": name} for name in tenants])
        worker = world.worker()
        worker.claim(1)
        world.anybody.start_many(
            *[{"workflow": "fulfil", "partition": name} for name in tenants] * 20
        )
        worker.claim(1, memory=worker.next.memory)
        cursor = world.anybody.ask(written)
        for _ in range(3):
            turns = []
            for _ in tenants:
                [one] = worker.claim(1, memory=not_due(worker.next.memory))
                turns.append(
                    world.anybody.ask("select partition from rowlock.run where id = %s", one.run_id)
                )
            assert sorted(turns) == tenants
        assert world.anybody.ask(written) == cursor
        worker.claim(1, memory=due(worker.next.memory))
        assert world.anybody.ask(written) != cursor


@pytest.mark.parametrize("room", [True, False])
def test_tenants_take_turns_across_full_looks(world: World, room: bool) -> None:
    """Also where those could take nothing, and where each comes long before all had their turn."""
    tenants = [{"partition": f"t{n:02}"} for n in range(12)]
    world.anybody.limit(partitions=True)
    with pinned(world):
        end_many(world, 2 * ENOUGH, *tenants)
        world.anybody.start_many(*[{"workflow": "fulfil", **each} for each in tenants] * 20)
        world.anybody.limit(concurrency=1)
        worker, memory, turns = world.worker(), unreached(), []
        for nth in range(24):
            [one] = worker.claim(1, memory=memory)
            turns.append(
                world.anybody.ask("select partition from rowlock.run where id = %s", one.run_id)
            )
            memory = not_due(worker.next.memory)
            if not room:
                assert worker.claim(1, memory=due(memory)) == []
                memory = not_due(worker.next.memory)
            assert worker.write(finish(one)) == ["written"]
            if room and nth % 5 == 0:
                memory = due(memory)
    assert sorted(turns) == sorted([each["partition"] for each in tenants] * 2)


@pytest.mark.parametrize("hindrance", ["a lower limit", "another version's runs", "a tenant"])
def test_places_that_are_not_handed_over_are_looked_for_in_a_tenth_of_the_time(
    world: World, hindrance: str
) -> None:
    """Or each journal would walk past all that is dead, for nothing."""
    with pinned(world):
        world.anybody.limit(concurrency=ENOUGH)
        end_many(world, ENOUGH)
        world.anybody.start_many(*[{"workflow": "fulfil"}] * 20)
        worker = world.worker()
        mine = worker.claim(9)
        if hindrance == "a lower limit":
            world.anybody.limit(concurrency=1)
        else:
            other = world.anybody.start()
            world.anybody.run("insert into rowlock.version (app, name) values (%s, 'v2')", APP)
            world.anybody.run(
                "update rowlock.task set version = %s, partition = %s where run_id = %s",
                "" if hindrance == "a tenant" else "v2",
                "a" if hindrance == "a tenant" else None,
                other,
            )
        memory = due(from_before())
        for one in mine[:-1]:
            places = of_places(memory)
            version = "v1" if hindrance == "another version's runs" else ""
            assert worker.hand_over(finish(one), memory=places, version=version)[1] == []
            memory = not_due(told_of(worker.places))
            assert [*told(memory)["queues"]] == ["default"]
            found = datetime.fromisoformat(told(memory)["looked"])
            assert found > datetime.now(UTC) - timedelta(minutes=5)


def test_many_heads_in_many_versions_are_no_reason_to_remember_them(world: World) -> None:
    """What a full look reads to find them is not in anybody's way."""
    world.anybody.run("vacuum rowlock.task")
    world.anybody.limit(partitions=True)
    for nth in range(9):
        version = f"v{nth}"
        world.anybody.run("insert into rowlock.version (app, name) values (%s, %s)", APP, version)
        runs = world.anybody.start_many(
            *[{"workflow": "fulfil", "partition": f"t{n}"} for n in range(250)]
        )
        world.anybody.run(
            "update rowlock.task set version = %s where run_id = any(%s)", version, runs
        )
    world.anybody.run("vacuum rowlock.task")
    worker = world.worker()
    assert len(worker.claim(1, memory=due(unreached()))) == 1
    assert worker.next.memory is None


def test_a_tenant_who_has_had_nothing_is_served_when_work_comes(world: World) -> None:
    world.anybody.limit(partitions=True, partition_concurrency=100)
    tenants = [f"t{n}" for n in range(5)]
    with pinned(world):
        end_many(world, 2 * ENOUGH, *[{"partition": name} for name in tenants])
        world.anybody.start_many(*[{"workflow": "fulfil", "partition": n} for n in tenants] * 2)
        worker = world.worker()
        worker.claim(1)
        assert len(worker.claim(100, memory=worker.next.memory)) == 9
        for memory in (not_due, due, not_due):
            assert worker.claim(1, memory=memory(worker.next.memory)) == []
            for name in tenants:
                world.anybody.start("invoice", partition=name)
            found = worker.claim(100, memory=not_due(worker.next.memory))
            assert [one.workflow for one in found] == ["invoice"] * 5


def test_ageing_is_the_order_behind_bounds_too(world: World) -> None:
    """Of several priorities, each with its own bound; also where a look took of one alone."""
    world.anybody.limit(ageing="1 minute")
    places = [{"priority": 10}, {"priority": 90}]
    runs = world.anybody.start_many(*[{"workflow": "fulfil", **place} for place in places * 9])
    for nth, run in enumerate(runs):  # as if each had come when its turn is behind the last
        world.anybody.run(
            "update rowlock.task set due_at = due_at - interval '5 hours'"
            " + make_interval(secs => %s - 60 * priority) where run_id = %s",
            nth,
            run,
        )
    worker, found, memory = world.worker(), [], unreached()
    for want in (1, 2, 1, 4, 3, 8):
        found += worker.claim(want, memory=memory)
        memory = not_due(worker.next.memory)
    assert [one.run_id for one in found] == runs


def test_too_many_tenants_to_remember_are_looked_at_as_ever(world: World) -> None:
    world.anybody.limit(partitions=True, partition_concurrency=2)
    tenants = [{"workflow": "fulfil", "partition": f"t{n}"} for n in range(300)]
    with pinned(world):
        end_many(world, ENOUGH)
        world.anybody.start_many(*tenants)
        worker, found, memory = world.worker(), 0, due(from_before())
        while claimed := worker.claim(20, memory=memory):
            found += len(claimed)
            memory = not_due(worker.next.memory)
            assert told(memory)["queues"] == {"default": "many"}
        assert found == 300


def test_a_memory_of_the_release_before_is_none(world: World) -> None:
    """Its shape was another; it comes from a worker that goes on across a migration."""
    world.anybody.start("invoice")
    bound = ["2100-01-01T00:00:00Z", "00000000-0000-0000-0000-000000000000"]
    memory = not_due(json.dumps({"looked": LONG_AGO, "behind": {"default": {"50": bound}}}))
    [one] = world.worker().claim(1, memory=memory)
    assert one.workflow == "invoice"


def test_a_full_look_that_could_take_nothing_leaves_no_bound(world: World) -> None:
    """Or what it hides might never be found: the limit is used up whenever a full look is due."""
    with pinned(world):
        stranded = Stranded(world)
        stranded.looks(1)
        world.anybody.limit(concurrency=2)  # one runs since before
        other = world.worker("other")
        world.anybody.start_many(*[{"workflow": "fulfil"}] * 3)
        [bound, _] = told(stranded.memory)["queues"]["default"][""]["50"]
        world.anybody.run(
            "update rowlock.task set due_at = %s::timestamptz - interval '1 us' where run_id = %s",
            bound,
            world.anybody.start("invoice"),
        )
        [held] = other.claim(1, queues=["default"], memory=not_due(stranded.memory))
        assert held.workflow == "fulfil"
        assert stranded.looks(1, fully=True) == []
        assert other.write(finish(held)) == ["written"]
        assert stranded.looks(1) == ["invoice"]


def test_a_full_look_comes_to_all_queues_that_are_known(world: World) -> None:
    """Wherever the walk over all queues stands: bounds hide nothing for longer than that."""
    queues = [f"queue {n}" for n in range(10, 60)]
    world.anybody.run(
        "select rowlock.show_app(%s, %s, array['fulfil'], array['default'])", APP, queues
    )
    world.anybody.start_many(*[{"workflow": "fulfil", "queue": name} for name in queues])
    world.anybody.start("invoice", queue="queue 10")
    world.anybody.run("update rowlock.task set due_at = now() - interval '1 hour'")
    memory = json.loads(from_before("queue 10"))
    memory["queues"]["queue 10"][""]["50"][0] = datetime.now(UTC).isoformat()
    worker = world.worker()
    assert worker.claim(100, memory=json.dumps(memory)) == []
    found = worker.claim(100, memory=due(json.dumps(memory)), after="queue 11")
    assert len(found) == 32 + 2
    assert [one.queue for one in found if one.workflow == "invoice"] == ["queue 10"]


def test_too_many_queues_to_remember_are_looked_at_as_ever(world: World) -> None:
    queues = [f"queue {n}" for n in range(100)]
    world.anybody.run(
        "select rowlock.show_app(%s, %s, array['fulfil'], array['default'])", APP, queues
    )
    with pinned(world):
        end_many(world, ENOUGH)
        world.anybody.start_many(*[{"workflow": "fulfil", "queue": name} for name in queues])
        worker, found, kept = world.worker(), 0, []
        while claimed := worker.claim(20, memory=worker.next.memory and due(worker.next.memory)):
            found += len(claimed)
            kept.append(worker.next.memory and len(told(worker.next.memory)["queues"]))
        assert found == 100
        assert kept == [0, 32, 52, None, 0], "not those alone that gave something"
