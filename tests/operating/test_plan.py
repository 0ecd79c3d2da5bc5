"""What the operator decides, and what it must never do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating.world import World, app_spec, tasks
from rowlock.fleet import RateState, WorkerState
from rowlock_operator import manifests
from rowlock_operator.actions import (
    Apply,
    CreateJob,
    DeleteDeployment,
    DeleteJob,
    Promote,
    Scale,
    SetDeletionCost,
)
from rowlock_operator.observed import Migration, Pod
from rowlock_operator.spec import Pool, hash_of


def ready_world(*pools: Pool, version: str = "shop:1") -> World:
    world = World(app_spec(version, *pools))
    world.settle()
    return world


# --- from nothing to ready


def test_the_schema_comes_before_any_worker() -> None:
    world = World(app_spec())
    first = world.step()
    assert [type(action) for action in first] == [CreateJob]
    assert not world.workloads
    world.settle()
    assert world.replicas("shop:1") == 1
    assert world.promoted == "shop:1", "else the next version would be current by registering"


def test_a_ready_app_is_left_alone() -> None:
    world = ready_world()
    for _ in range(20):
        assert world.step() == ()


def test_the_databases_level_is_believed_not_the_jobs_word() -> None:
    """A database that was put back to an older backup is migrated again."""
    world = ready_world()
    world.level = 1
    world.now += 60
    actions = world.step()
    assert [type(action) for action in actions] == [DeleteJob]
    world.settle()
    assert world.level == 2


def test_a_failed_migration_is_tried_again_after_a_while() -> None:
    world = World(app_spec(), migration_fails=True)
    world.step()
    assert world.step() == ()
    world.now += 60
    assert [type(a) for a in world.step()] == [DeleteJob]
    world.migration_fails = False
    world.settle()
    assert world.replicas("shop:1") == 1


# --- a new version


def test_a_new_version_is_migrated_started_promoted_and_the_old_one_goes() -> None:
    world = ready_world()
    world.needs = 3
    world.spec = app_spec("shop:2")
    world.settle()
    kinds = [type(action) for action in world.log]
    assert kinds.index(CreateJob) < kinds.index(Apply)
    migrated = [a for a in world.log if isinstance(a, CreateJob)]
    assert len(migrated) == 2
    assert world.current == "shop:2"
    assert world.replicas("shop:2") == 1
    assert world.replicas("shop:1") is None


def test_an_old_version_stays_while_runs_are_pinned_to_it() -> None:
    world = ready_world()
    world.queues = [tasks("waiting", 3, "shop:1")]
    world.spec = app_spec("shop:2")
    world.settle()
    assert world.current == "shop:2"
    assert world.replicas("shop:1") == 1
    world.queues = []
    world.settle()
    assert world.replicas("shop:1") is None


def test_a_claim_that_was_under_way_at_the_promotion_keeps_the_old_version() -> None:
    world = ready_world()
    world.spec = app_spec("shop:2")
    while world.current != "shop:2":
        world.step()
    world.step()
    assert world.replicas("shop:1") == 1
    world.queues = [tasks("running", 1, "shop:1")]
    world.settle()
    assert world.replicas("shop:1") == 1


def test_a_version_that_does_not_start_leaves_the_old_one_serving() -> None:
    world = ready_world(Pool(min=2))
    world.starts = False
    world.spec = app_spec("shop:2", Pool(min=2))
    for _ in range(20):
        world.step()
    assert world.current == "shop:1"
    assert world.replicas("shop:1") == 2
    assert not any(isinstance(a, Promote) and a.version == "shop:2" for a in world.log)


def test_a_failing_migration_leaves_the_old_version_serving() -> None:
    world = ready_world()
    world.migration_fails = True
    world.spec = app_spec("shop:2")
    for _ in range(30):
        world.step()
    assert world.replicas("shop:1") == 1
    assert world.replicas("shop:2") is None


def test_going_back_to_the_old_version_promotes_it_again() -> None:
    world = ready_world()
    world.spec = app_spec("shop:2")
    world.settle()
    world.spec = app_spec("shop:1")
    world.settle()
    assert world.current == "shop:1"
    assert world.replicas("shop:2") is None


def test_a_change_of_environment_rolls_within_the_version() -> None:
    world = ready_world()
    before = dict(world.workloads)
    world.spec = app_spec("shop:1", Pool(template={"env": [{"name": "A", "value": "1"}]}))
    actions = world.step()
    assert [type(a) for a in actions] == [Apply]
    assert world.workloads.keys() == before.keys()


def test_a_pool_that_is_gone_from_the_spec_goes() -> None:
    world = ready_world(Pool(name="a"), Pool(name="b"))
    world.spec = app_spec("shop:1", Pool(name="a"))
    world.settle()
    assert world.replicas("shop:1", "b") is None
    assert world.replicas("shop:1", "a") == 1


def test_a_version_is_promoted_only_when_all_its_pools_are_ready() -> None:
    world = ready_world(Pool(name="a"), Pool(name="b"))
    world.stuck_pools = {"b"}
    world.spec = app_spec("shop:2", Pool(name="a"), Pool(name="b"))
    for _ in range(30):
        world.step()
    assert world.replicas("shop:2", "a") == 1
    assert world.current == "shop:1"
    assert world.replicas("shop:1", "a") == world.replicas("shop:1", "b") == 1


def test_a_renamed_pool_goes_only_when_the_new_one_serves() -> None:
    world = ready_world(Pool(name="old"))
    world.stuck_pools = {"new"}
    world.spec = app_spec("shop:1", Pool(name="new"))
    for _ in range(30):
        world.step()
    assert world.replicas("shop:1", "old") == 1
    world.stuck_pools = set()
    world.settle()
    assert world.replicas("shop:1", "old") is None


def test_with_a_fixed_version_a_failing_migration_leaves_it_scaling() -> None:
    pool = Pool(slots=10, max=5)
    world = World(app_spec("v1", pool, image="shop:1"))
    world.settle()
    world.migration_fails = True
    world.spec = app_spec("v1", pool, image="shop:2")
    world.queues = [tasks("ready", 1000)]
    for _ in range(20):
        world.step()
    assert world.replicas("v1") == 5
    assert sum(isinstance(a, Apply) for a in world.log) == 1


def test_a_corrected_image_does_not_wait_for_the_migration_of_a_wrong_one() -> None:
    world = World(app_spec("typo"))
    [create] = world.plan().actions
    assert isinstance(create, CreateJob)
    name = create.manifest["metadata"]["name"]
    world.jobs[name] = Migration(name=name)
    world.spec = app_spec("shop:1")
    assert world.plan().actions == (DeleteJob(name),)


def test_a_migration_that_never_suffices_is_not_repeated_without_end() -> None:
    """As when the operator is newer than the image, and can't read what that migrates to."""
    world = World(app_spec(), needs=0)
    for _ in range(60):
        world.step(1.0)
    assert sum(isinstance(a, CreateJob) for a in world.log) <= 2


def test_two_apps_share_no_name() -> None:
    one = replace(app_spec(), name="shop-eu").deployment("default", "v")
    other = replace(app_spec(), name="shop").deployment("eu-default", "v")
    assert one != other


def test_what_a_template_names_like_ours_is_left_out() -> None:
    template = {
        "env": [{"name": "ROWLOCK_VERSION", "value": "x"}, {"name": "A", "value": "1"}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp/"}],
    }
    spec = app_spec("shop:1", Pool(template=template))
    for manifest in (manifests.deployment(spec, spec.pools[0], 1), manifests.migration_job(spec)):
        pod = manifest["spec"]["template"]["spec"]
        names = [one["name"] for one in pod["containers"][0]["env"]]
        assert "A" in names
        assert len(names) == len(set(names))
        assert [one["name"] for one in pod["volumes"]] == ["tmp"]


def test_a_new_secret_starts_workers_anew() -> None:
    spec = app_spec()
    rotated = replace(spec, secret_version="2")
    hashes = {manifests.template_hash(one, one.pools[0]) for one in (spec, rotated)}
    assert len(hashes) == 2


# --- scaling


def test_work_brings_workers_and_its_end_takes_them_away_after_the_window() -> None:
    world = ready_world(Pool(slots=10, max=5))
    world.queues = [tasks("ready", 1000)]
    world.step()
    assert world.replicas("shop:1") == 5
    world.queues = []
    world.step()
    assert world.replicas("shop:1") == 5
    world.now += 60
    world.step()
    assert world.replicas("shop:1") == 1


def test_many_short_runs_do_not_need_many_workers() -> None:
    world = ready_world(Pool(slots=10, max=50, target_wait_s=10))
    world.queues = [tasks("ready", 1000)]
    world.rates = [RateState("shop", "default", 20.0, 0.05)]
    world.step()
    assert world.replicas("shop:1") == 1


def test_when_the_wait_proves_the_estimate_wrong_it_grows() -> None:
    world = ready_world(Pool(slots=10, max=50, target_wait_s=10))
    world.queues = [replace(tasks("ready", 1000), oldest_due_seconds=60.0)]
    world.rates = [RateState("shop", "default", 20.0, 0.05)]
    seen = []
    for _ in range(4):
        world.step()
        seen.append(world.replicas("shop:1"))
    assert seen == [2, 4, 8, 16]


def test_to_zero_only_when_idle_for_a_while_and_back_at_once() -> None:
    pool = Pool(min=0, idle_after_s=300)
    world = ready_world(pool)
    for _ in range(30):
        world.step()
    assert world.replicas("shop:1") == 1
    world.now += 300
    world.step()
    assert world.replicas("shop:1") == 0
    world.queues = [tasks("ready", 1)]
    world.step()
    assert world.replicas("shop:1") == 1


def test_what_is_paused_wants_no_workers() -> None:
    """Neither its backlog nor what arrives meanwhile; other queues go on as they are."""
    world = ready_world(Pool(slots=10, max=50, min=0, idle_after_s=300))
    world.rates = [RateState("shop", "default", 20.0, 5.0)]
    world.queues = [tasks("paused", 100_000), tasks("waiting", 5)]
    for _ in range(100):
        world.step()
    assert world.replicas("shop:1") == 0
    world.queues = [tasks("paused", 100_000), tasks("ready", 1)]
    world.step()
    assert (world.replicas("shop:1") or 0) >= 1


def test_busy_but_keeping_up_is_not_idle() -> None:
    world = ready_world(Pool(min=0, idle_after_s=10))
    world.queues = [tasks("running", 3, "shop:1")]
    for _ in range(100):
        world.step()
    assert world.replicas("shop:1") == 1


def test_a_timer_that_falls_due_soon_starts_a_worker_ahead_of_it() -> None:
    world = ready_world(Pool(min=0, idle_after_s=10))
    sleeper = replace(tasks("waiting", 1, "shop:1"), next_due_seconds=3600.0)
    world.queues = [sleeper]
    world.step(100)
    world.step(100)
    world.step(100)
    assert world.replicas("shop:1") == 0
    world.queues = [replace(sleeper, next_due_seconds=15.0)]
    world.step()
    assert world.replicas("shop:1") == 1


def test_an_unknown_database_holds_the_last_size() -> None:
    world = ready_world(Pool(slots=10, max=5))
    world.queues = [tasks("ready", 1000)]
    world.step()
    world.reachable = False
    world.now += 10_000
    assert world.step() == ()
    assert world.replicas("shop:1") == 5


def test_busy_pods_are_to_go_last() -> None:
    world = ready_world(Pool(slots=10, max=3))
    world.queues = [tasks("ready", 1000)]
    world.step()
    version_hash = hash_of("shop:1", 6)
    name = world.spec.deployment("default", "shop:1")
    world.pods = [Pod(name=f"p{n}", pool="default", version_hash=version_hash) for n in range(3)]
    world.workers = [WorkerState(1, "shop", "shop:1", "p1", None, 10, 7, False, True)]
    world.queues = [tasks("running", 7, "shop:1")]
    world.now += 61
    actions = [world.step() for _ in range(14)]
    flat = [a for some in actions for a in some]
    assert flat == [SetDeletionCost("p1", 7), Scale(name, 1)]


def test_paused_changes_nothing() -> None:
    world = ready_world()
    world.spec = app_spec("shop:2", paused=True)
    world.queues = [tasks("ready", 100_000)]
    assert world.step() == ()


def test_pools_share_out_the_queues() -> None:
    fast, slow = Pool(name="fast", queues=("a",), slots=10), Pool(name="slow", queues=("b",))
    world = ready_world(fast, slow)
    world.queues = [tasks("ready", 40, queue="a")]
    world.step()
    assert world.replicas("shop:1", "fast") == 5
    assert world.replicas("shop:1", "slow") == 1


# --- what must never happen, whatever happens

VERSIONS = ("shop:1", "shop:2", "shop:3")

happenings = st.lists(
    st.one_of(
        st.tuples(st.just("version"), st.sampled_from(VERSIONS)),
        st.tuples(st.just("reachable"), st.booleans()),
        st.tuples(st.just("starts"), st.booleans()),
        st.tuples(st.just("migration_fails"), st.booleans()),
        st.tuples(st.just("needs"), st.integers(2, 4)),
        st.tuples(st.just("paused"), st.booleans()),
        st.tuples(st.just("forget"), st.just(None)),
        st.tuples(st.just("pass"), st.sampled_from([5.0, 61.0, 400.0])),
        st.tuples(
            st.just("work"),
            st.lists(
                st.tuples(
                    st.sampled_from(("ready", "running", "waiting", "blocked")),
                    st.integers(1, 500),
                    st.sampled_from(("", *VERSIONS)),
                ),
                max_size=3,
            ),
        ),
        st.tuples(st.just("pool"), st.tuples(st.integers(0, 3), st.integers(1, 9))),
    ),
    max_size=25,
)


def happen(world: World, what: str, value: object) -> None:
    if what == "version":
        world.spec = replace(world.spec, version=value, image=value)  # type: ignore[arg-type]
    elif what == "paused":
        world.spec = replace(world.spec, paused=value)  # type: ignore[arg-type]
    elif what == "pool":
        assert isinstance(value, tuple)
        low, high = value
        pool = replace(world.spec.pools[0], min=min(low, high), max=high)
        world.spec = replace(world.spec, pools=(pool,))
    elif what == "forget":
        world.memory = {}
    elif what == "pass":
        world.now += value  # type: ignore[operator]
    elif what == "work":
        known = {"", *world.versions}
        some = [one for one in value if one[2] in known]  # type: ignore[attr-defined]
        world.queues = [tasks(state, count, version) for state, count, version in some]
    else:
        setattr(world, what, value)


@given(happenings)
def test_whatever_happens_the_rules_hold(events: list[tuple[str, object]]) -> None:
    world = World(app_spec("shop:1", Pool(slots=10, max=5)))
    for what, value in events:
        happen(world, what, value)
        before = dict(world.workloads)
        pinned = {name: world.unfinished(name) for name in world.versions}
        current, level, needs = world.current, world.level, dict(world.jobs)
        actions = world.plan().actions
        if world.spec.paused:
            assert actions == ()
        if not world.reachable:
            assert actions == ()
        for action in actions:
            match action:
                case DeleteDeployment(name):
                    gone = before[name]
                    if gone.version != world.spec.version:
                        assert not pinned.get(gone.version), "runs were pinned to it"
                        assert gone.version != current, "it takes what is new"
                        assert current == world.spec.version
                case Apply(manifest):
                    job = needs[world.spec.migration_job]
                    assert job.level is not None
                    assert level >= job.level, "workers before their schema"
                    assert manifest["spec"]["replicas"] <= world.spec.pools[0].max
                case Scale(_, replicas):
                    assert 0 <= replicas <= max(world.spec.pools[0].max, 1)
                case Promote(_, version):
                    assert version == world.spec.version
                    assert world.workloads[world.spec.deployment("default", version)].ready
                case CreateJob(manifest):
                    assert all(job.succeeded or job.failed for job in world.jobs.values())
                case _:
                    pass
        world.step()
    # However it stands, it comes to rest, and all is served.
    world.reachable = world.starts = True
    world.migration_fails = False
    world.spec = replace(world.spec, paused=False)
    world.now += 1000
    for _ in range(40):
        world.step()
    assert world.step() == ()
    assert world.current == world.spec.version
    # Who only waits, for nothing that falls due soon, needs no worker.
    for name in {one.version for one in world.queues if one.tasks and one.state == "ready"}:
        if name in world.versions:
            assert world.replicas(name) is None or world.replicas(name) != 0


@pytest.mark.parametrize("pools", [1, 20])
def test_names_fit(pools: int) -> None:
    spec = app_spec("x" * 255, *(Pool(name="p" * 18) for _ in range(pools)), name="a" * 20)
    manifest = manifests.deployment(spec, spec.pools[0], 1)
    assert len(manifest["metadata"]["name"]) <= 46
