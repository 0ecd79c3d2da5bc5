"""The view `waits` and `oldest_waits` show what is waited for now, and nothing that is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

import postgres
from rowlock.embedded import Server
from store.races.sessions import (
    Connections,
    World,
    children,
    finish,
    for_end,
    for_event,
    for_group,
    for_message,
    go_on,
    sleep_on,
    step,
    timer,
)


@pytest.fixture
def world(server: Server, template: str) -> Iterator[World]:
    with postgres.new_database(server, template) as url:
        connections = Connections(url)
        world = World(connections)
        yield world
        world.close()
        connections.close()


def waits(world: World, run_id: UUID) -> list[tuple[Any, ...]]:
    return world.anybody.run(
        "select place, kind, name, on_run_id, due_at is not null, attempts, children, arrived"
        "  from rowlock.waits where run_id = %s order by place",
        run_id,
    )


def test_every_kind_of_wait_is_shown_with_what_it_is_for(world: World) -> None:
    worker = world.worker()
    one, other = world.claimed_by(worker, 2)
    group = f"{one.run_id}:1:1"
    asleep = sleep_on(
        one,
        for_message("201"),
        for_event(other.run_id),
        for_end(other.run_id),
        for_group(group, 3),
        timers=("8", "9"),
    )
    worker.journal(
        children(one, "1", 3),
        timer(one, "8"),
        timer(one, "9", kind="retry", attempt=2),
        asleep,
    )
    [first, *_] = [run for run in worker.claim() if run.in_group]
    worker.journal(finish(first), groups=[])
    assert waits(world, one.run_id) == [
        ("201", "message", "approval", None, False, None, None, None),
        ("202", "event", "progress", other.run_id, False, None, None, None),
        ("203", "run", None, other.run_id, False, None, None, None),
        ("204", "group", group, None, False, None, 3, 1),
        ("8", "timer", None, None, True, None, None, None),
        ("9", "retry", None, None, True, 2, None, None),
    ]
    assert waits(world, other.run_id) == []


def test_what_has_been_recorded_is_waited_for_no_more(world: World) -> None:
    worker = world.worker()
    [one] = world.claimed_by(worker)
    worker.journal(timer(one, "1"), timer(one, "2"))
    worker.journal(step(one, "1"))
    assert world.anybody.ask("select count(*) from rowlock.wait") == 2  # swept when it sleeps
    assert [place for place, *_ in waits(world, one.run_id)] == ["2"]
    worker.journal(go_on(one))
    assert waits(world, one.run_id) == []


def test_the_oldest_waits_come_first_and_those_of_runs_at_work_not_at_all(world: World) -> None:
    def oldest(limit: int = 10, app: str | None = None, look: int = 1000) -> list[UUID]:
        found = world.anybody.run(
            "select run_id from rowlock.oldest_waits(%s, %s, %s)", limit, app, look
        )
        return [run_id for (run_id,) in found]

    worker = world.worker()
    first, second, third, busy = world.claimed_by(worker, 4)
    worker.journal(timer(busy, "1"))
    for one in (second, third, first):
        worker.journal(sleep_on(one, for_message()))
    assert oldest() == [second.run_id, third.run_id, first.run_id]
    assert oldest(1) == [second.run_id]
    assert oldest(app="shop") == oldest()
    assert oldest(app="bank") == []
    # Of the two oldest runs the one that has waited longer.
    assert oldest(look=2) == [second.run_id, first.run_id]
    [found] = world.anybody.run("select * from rowlock.oldest_waits(1)")
    assert found[1:8] == ("shop", "fulfil", "default", "201", "message", "approval", None)
