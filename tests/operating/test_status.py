"""What a WorkflowApp says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operating.world import World, app_spec, tasks
from rowlock_operator.observed import Database, Pod
from rowlock_operator.spec import AppSpec, Pool, hash_of
from rowlock_operator.status import changes, status_of


def status(world: World, **seen: Any) -> dict[str, Any]:
    observed = replace(world.observed(), **seen)
    planned = replace(world, memory=dict(world.memory)).plan()
    assert planned.progress is not None
    return status_of(observed, planned.progress)


def conditions(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in found["conditions"]}


def message(found: dict[str, Any], type_: str) -> str:
    return next(str(c["message"]) for c in found["conditions"] if c["type"] == type_)


def ready_world() -> World:
    world = World(app_spec())
    world.settle()
    return world


def test_from_nothing_to_ready() -> None:
    world = World(app_spec())
    phases = []
    for _ in range(6):
        phases.append(status(world)["phase"])
        world.step()
    assert list(dict.fromkeys(phases)) == ["Migrating", "Progressing", "Ready"]
    assert conditions(status(world)) == {
        "Ready": ("True", "AllPoolsReady"),
        "Progressing": ("False", "Complete"),
        "Migrated": ("True", "SchemaCurrent"),
        "DatabaseReachable": ("True", "Connected"),
    }


def test_numbers_that_a_person_looks_for() -> None:
    world = ready_world()
    world.queues = [
        replace(tasks("ready", 7), oldest_due_seconds=12.4),
        tasks("running", 2, "shop:1"),
    ]
    found = status(world)
    assert found["version"] == "shop:1"
    assert (found["openRuns"], found["oldestWaitSeconds"], found["readyWorkers"]) == (9, 12, 1)
    assert found["observedGeneration"] == 1


def test_a_missing_secret_is_named() -> None:
    world = World(app_spec())
    why = "there is no secret pg in namespace default"
    database = Database(reachable=False, reason="SecretMissing", trouble=why)
    found = status(world, database=database)
    world.reachable = False
    assert conditions(found)["DatabaseReachable"] == ("False", "SecretMissing")
    assert conditions(found)["Ready"] == ("False", "SecretMissing")
    assert message(found, "Ready") == why
    assert found["phase"] == "Pending"


def test_a_database_that_is_lost_degrades_a_running_app() -> None:
    world = ready_world()
    world.reachable = False
    found = status(world)
    assert found["phase"] == "Degraded"
    assert conditions(found)["Ready"] == ("False", "DatabaseUnreachable")
    assert conditions(found)["Migrated"] == ("Unknown", "DatabaseUnreachable")


def test_a_failed_migration_says_why_and_who_serves_on() -> None:
    world = ready_world()
    world.migration_fails = True
    world.spec = app_spec("shop:2")
    world.step()
    found = status(world)
    assert found["phase"] == "Degraded"
    assert conditions(found)["Ready"] == ("False", "MigrationFailed")
    assert "boom" in message(found, "Migrated")
    assert "other versions serve on (1 ready)" in message(found, "Ready")


def test_an_image_that_does_not_start_says_why() -> None:
    world = ready_world()
    world.starts = False
    world.spec = app_spec("shop:2")
    for _ in range(4):
        world.step()
    pod = Pod(
        name="p",
        pool="default",
        version_hash=hash_of("shop:2", 6),
        trouble="ImagePullBackOff: no such image",
    )
    world.pods = [pod]
    assert conditions(status(world))["Progressing"] == ("True", "WorkersFailing")
    assert "ImagePullBackOff" in message(status(world), "Ready")
    name = world.spec.deployment("default", "shop:2")
    world.workloads[name] = replace(world.workloads[name], stuck=True)
    assert conditions(status(world))["Progressing"] == ("False", "RolloutFailed")


def test_a_roll_within_a_version_is_not_ready_while_the_old_pod_serves() -> None:
    world = ready_world()
    name = world.spec.deployment("default", "shop:1")
    world.workloads[name] = replace(world.workloads[name], total=2, updated=1, ready=1)
    assert conditions(status(world))["Ready"] == ("False", "RolloutInProgress")


def test_what_kubernetes_refuses_is_said() -> None:
    world = ready_world()
    found = status(world, refusal="Apply Deployment x was refused: exceeded quota")
    assert conditions(found)["Ready"] == ("False", "Refused")
    assert "exceeded quota" in message(found, "Ready")


def test_an_app_of_another_name_is_hinted_at() -> None:
    world = World(app_spec(app="sohp"))
    for _ in range(4):
        world.step()
    assert "set spec.app" in message(status(world), "Ready")


def test_times_stay_while_nothing_turns_and_only_turns_are_told() -> None:
    world = ready_world()
    first = status(world)
    later = replace(world, now=world.now + 3600)
    second = status(later, status=first)
    assert [c["lastTransitionTime"] for c in second["conditions"]] == [
        c["lastTransitionTime"] for c in first["conditions"]
    ]
    assert changes(first, second) == []
    later.reachable = False
    third = status(later, status=second)
    told = {change.reason: change.is_warning for change in changes(second, third)}
    assert told == {"DatabaseUnreachable": True, "Waiting": False, "ConnectionFailed": True}


def test_a_spec_is_read_as_the_api_server_gives_it() -> None:
    spec = AppSpec.of(
        {
            "metadata": {"name": "shop", "namespace": "prod", "uid": "u", "generation": 3},
            "spec": {
                "image": "shop:1@sha256:ab",
                "database": {"secretName": "pg"},
                "pools": [{"name": "fast", "queues": ["a"], "min": 0, "max": 3}],
            },
        }
    )
    assert (spec.app, spec.version, spec.secret_key) == ("shop", "shop:1@sha256:ab", "url")
    assert spec.pools == (Pool(name="fast", queues=("a",), min=0, max=3),)
    assert not spec.paused
