"""Retention from outside: the plan, the archive that is written before anything is removed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock import retention
from rowlock.errors import ConfigurationError, Disconnected, Refused
from rowlock.settings import Settings
from store.races.sessions import (
    Connections,
    Worker,
    World,
    child,
    children,
    emit,
    finish,
    go_on,
    receive,
    set_event,
    step,
)


@pytest.fixture
def world(database: str) -> Iterator[World]:
    connections = Connections(database)
    world = World(connections)
    yield world
    world.close()
    connections.close()


def age(world: World, database: str) -> None:
    """What has ended did so a day ago."""
    world.anybody.run("update rowlock.outcome set finished_at = finished_at - interval '1 day'")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            f"alter database {connection.info.dbname} set rowlock.test_offset = '1 day'".encode()
        )


def policy(world: World, *, keep: str = "1 hour", archive: bool = False, **kind: str) -> None:
    world.anybody.run(
        "select rowlock.set_retention(%s::interval, %s, %s, archive => %s, app => 'shop')",
        keep,
        kind.get("workflow"),
        kind.get("outcome"),
        archive,
    )


def ended(world: World, count: int = 1, status: str = "succeeded") -> list[UUID]:
    worker = world.worker("ender")
    runs = world.claimed_by(worker, count)
    for run in runs:
        worker.journal(step(run, "1"), finish(run, status))
    return [run.run_id for run in runs]


def rich(world: World) -> tuple[Worker, UUID]:
    """A run with something of every kind, and a child."""
    worker = world.worker("rich")
    run_id = world.anybody.start(key="order-7")
    run = worker.claim_run(run_id)
    world.anybody.send(run_id, "line\none", key="m")
    coded = step(run, "1", '{"rowlock": "aes", "data": "c2VjcmV0"}')
    started = child(run, "5")
    worker.journal(coded, receive(run, "2"), set_event(run, "3"), emit(run, "4", "äö"), started)
    leaf = UUID(worker.journal(started, retrying=True).detail(started)["output"])
    worker.journal(finish(worker.claim_run(leaf)))
    worker.journal(go_on(run))
    [second] = worker.claim()
    worker.journal(step(second, "1"), finish(second, "failed"))
    return worker, run_id


def archived(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_run_is_a_line_with_all_that_was_recorded_as_it_was_stored(
    world: World, database: str, tmp_path: Path
) -> None:
    _, run_id = rich(world)
    policy(world, archive=True)
    age(world, database)
    stored = {
        table: [
            row
            for (row,) in world.anybody.run(
                f"select to_jsonb(x) from rowlock.{table} as x where {column} = %s"
                f" order by to_jsonb(x) ->> '{order}'",
                run_id,
            )
        ]
        for table, column, order in (
            ("run", "id", "id"),
            ("outcome", "run_id", "generation"),
            ("generation", "run_id", "generation"),
            ("step", "run_id", "generation"),
            ("message", "run_id", "id"),
            ("event", "run_id", "name"),
            ("stream_entry", "run_id", "offset"),
        )
    }
    assert all(stored.values())
    path = tmp_path / "runs.jsonl"
    done = retention.retain(database, archive=path)
    assert (done.runs, done.archived) == (2, 2)
    found = archived(path)
    assert len(found) == 2
    [one] = [each for each in found if each["run"]["id"] == str(run_id)]
    assert list(one) == [
        "run",
        "outcomes",
        "generations",
        "steps",
        "messages",
        "events",
        "stream_entries",
    ]
    assert [one["run"]] == stored["run"]
    assert one["outcomes"] == stored["outcome"]
    assert one["generations"] == stored["generation"]
    assert one["messages"] == stored["message"]
    assert one["events"] == stored["event"]
    assert one["stream_entries"] == stored["stream_entry"]
    positions = [(row["generation"], row["position"]) for row in one["steps"]]
    assert positions == sorted(positions)
    assert {(row["generation"], row["place"]): row for row in one["steps"]} == {
        (row["generation"], row["place"]): row for row in stored["step"]
    }
    assert world.count("run") == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_an_archive_what_is_to_be_archived_stays(
    world: World, database: str, tmp_path: Path
) -> None:
    ended(world, 3, "failed")
    ended(world, 2)
    policy(world)
    policy(world, archive=True, outcome="failed")
    age(world, database)
    [failed, succeeded] = retention.plan(database)
    assert (failed.outcome, failed.archive, failed.runs) == ("failed", True, 3)
    assert (succeeded.outcome, succeeded.archive, succeeded.runs) == ("succeeded", False, 2)
    assert retention.retain(database) == retention.Retained(2, 0, 0)
    assert world.count("run") == 3
    assert retention.retain(database, archive=tmp_path / "a") == retention.Retained(3, 0, 3)
    assert retention.plan(database) == []


def test_a_family_leaves_in_one_call_and_batch_by_batch(
    world: World, database: str, tmp_path: Path
) -> None:
    worker = world.worker()
    for _ in range(3):
        [parent] = world.claimed_by(worker)
        worker.journal(children(parent, "1", 5), finish(parent))
        worker.journal(*[finish(one) for one in worker.claim()])
    policy(world)
    age(world, database)
    batches: list[int] = []
    path = tmp_path / "runs.jsonl"
    done = retention.retain(database, archive=path, at_most=2, on_batch=batches.append)
    assert done.runs == sum(batches) == 18
    assert max(batches) == 2
    lines = archived(path)
    assert len({one["run"]["id"] for one in lines}) == len(lines) == 18


def test_another_app_is_left_alone(world: World, database: str) -> None:
    ended(world)
    policy(world)
    age(world, database)
    assert retention.plan(database, app="another") == []
    assert retention.retain(database, app="another").runs == 0
    assert retention.retain(database, app="shop").runs == 1


def test_keys_whose_time_is_over_are_removed_too(world: World, database: str) -> None:
    worker = world.worker()
    run = world.anybody.start(key="order-7")
    worker.journal(finish(worker.claim_run(run)))
    world.anybody.run(
        "select rowlock.set_retention('1 hour', keep_keys => '30 days', app => 'shop')"
    )
    age(world, database)
    assert retention.retain(database) == retention.Retained(1, 0, 0)
    assert world.anybody.start(key="order-7") == run
    world.anybody.run("update rowlock.run_key set expires_at = expires_at - interval '30 days'")
    assert retention.retain(database) == retention.Retained(0, 1, 0)


class Crash(Exception):
    pass


def test_who_dies_after_the_archive_has_it_archives_again_and_loses_nothing(
    world: World, database: str, tmp_path: Path
) -> None:
    runs = {str(run) for run in ended(world, 5)}
    policy(world)
    age(world, database)
    path = tmp_path / "runs.jsonl"

    def dies(lines: Iterator[bytes]) -> None:
        with retention.ArchiveFile(path) as file:
            file(lines)
        raise Crash

    with pytest.raises(Crash):
        retention.retain(database, archive=dies, at_most=2)
    assert world.count("run") == 5
    assert retention.retain(database, archive=path, at_most=2).runs == 5
    found = [one["run"]["id"] for one in archived(path)]
    assert (len(found), set(found)) == (7, runs)


def test_who_dies_in_the_middle_of_a_line_leaves_it_on_a_line_of_its_own(
    world: World, database: str, tmp_path: Path
) -> None:
    runs = ended(world, 2)
    policy(world)
    age(world, database)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"run":{"id":"torn')
    retention.retain(database, archive=path)
    torn, *lines = path.read_text().splitlines()
    assert torn == '{"run":{"id":"torn'
    assert [json.loads(line)["run"]["id"] for line in lines] == [str(run) for run in runs]


def test_an_error_of_the_archives_own_is_raised_as_it_is(world: World, database: str) -> None:
    """It may be a database, too."""
    ended(world, 2)
    policy(world)
    age(world, database)

    def fails(lines: Iterator[bytes]) -> None:
        next(lines)
        raise psycopg.OperationalError("the archive's disk is full")

    with pytest.raises(psycopg.OperationalError, match="disk is full"):
        retention.retain(database, archive=fails)
    assert retention.retain(database).runs == 2


def test_a_connection_that_is_lost_says_so_and_removes_nothing(world: World, database: str) -> None:
    ended(world, 2)
    policy(world)
    age(world, database)

    def cuts(lines: Iterator[bytes]) -> None:
        list(lines)
        world.anybody.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'rowlock retain' and datname = current_database()"
        )

    with pytest.raises(Disconnected):
        retention.retain(database, archive=cuts)
    assert world.count("run") == 2


def test_an_archive_that_does_not_take_all_removes_nothing(world: World, database: str) -> None:
    ended(world, 3)
    policy(world)
    age(world, database)
    with pytest.raises(ConfigurationError, match="took 1 of 3 runs"):
        retention.retain(database, archive=next)
    assert world.count("run") == 3


@pytest.mark.parametrize("where", ["missing/runs.jsonl", "."])
def test_an_archive_that_cant_be_written_is_refused_before_anything(
    world: World, database: str, tmp_path: Path, where: str
) -> None:
    ended(world)
    policy(world)
    age(world, database)
    with pytest.raises(ConfigurationError, match="can't archive into"):
        retention.retain(database, archive=tmp_path / where)
    assert world.count("run") == 1


def test_a_full_disk_removes_nothing(world: World, database: str) -> None:
    ended(world, 2)
    policy(world)
    age(world, database)
    with pytest.raises(ConfigurationError, match="No space left"):
        retention.retain(database, archive=Path("/dev/full"))
    assert world.count("run") == 2


def test_only_one_process_writes_to_an_archive(world: World, database: str, tmp_path: Path) -> None:
    ended(world)
    policy(world)
    age(world, database)
    path = tmp_path / "runs.jsonl"
    other = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(ConfigurationError, match="another process is archiving"):
        retention.retain(database, archive=path)
    os.close(other)
    assert retention.retain(database, archive=path).runs == 1


def test_while_a_batch_is_being_archived_its_runs_wait_and_no_others(
    world: World, database: str
) -> None:
    """A redo that comes meanwhile finds no run any more."""
    [first, _] = ended(world, 2, "failed")
    policy(world)
    age(world, database)
    caller = world.session("caller")
    waiting: list[Any] = []

    def archive(lines: Iterator[bytes]) -> None:
        list(lines)
        if waiting:
            return
        waiting.append(caller.go(lambda: caller.retry(first)))
        assert waiting[0].waits()
        worker = world.worker()
        [run] = world.claimed_by(worker)
        assert worker.verdict(finish(run)) == "written"

    retention.retain(database, archive=archive, at_most=1)
    with pytest.raises(psycopg.errors.DatabaseError, match="there is no run"):
        waiting[0].result()


def test_a_default_isolation_level_of_the_database_does_not_matter(
    world: World, database: str, tmp_path: Path
) -> None:
    ended(world)
    policy(world)
    age(world, database)
    with psycopg.connect(database, autocommit=True) as connection:
        name = connection.info.dbname
        level = "default_transaction_isolation = 'repeatable read'"
        connection.execute(f"alter database {name} set {level}".encode())
    pgbouncer = Settings(database_url=database, pgbouncer=True)  # nothing is said on connecting
    assert retention.retain(pgbouncer, archive=tmp_path / "a").runs == 1


def test_what_can_not_work_says_so(empty_database: str) -> None:
    with pytest.raises(Disconnected):
        retention.plan("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(Refused, match="rowlock migrate"):
        retention.retain(empty_database)
