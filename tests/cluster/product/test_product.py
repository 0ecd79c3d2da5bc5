"""Rowlock as its users install it: a real cluster, the real image, the chart's own rights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from cluster.product.conftest import RELEASE, SYSTEM, Release
from cluster.product.images import SHOP
from cluster.product.shop import Shop, until
from telemetry.collector import Collector
from testbed import binaries
from testbed.cluster import AnyCluster
from testbed.command import CommandFailed
from testbed.kubectl import Kubectl

pytestmark = pytest.mark.timeout(1500)


def test_the_chart_brings_everything_and_its_own_test_passes(release: Release) -> None:
    for name in ("rowlock-operator", "rowlock-exporter"):
        release.kubectl("wait", "--for=condition=Available", f"deployment/{name}", "--timeout=300s")
    said = release.helm("test", RELEASE, "--namespace", SYSTEM, "--timeout", "10m")
    assert "Succeeded" in said
    left = release.kubectl.json("get", "workflowapps")["items"]
    assert left == []
    # It migrated the exporter's database, so there is something to see now.
    page = release.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{SYSTEM}/services/rowlock-exporter:9187/proxy/metrics"
    )
    assert "rowlock_schema_level" in page


def test_ten_lines_are_migrated_before_any_worker_starts_and_become_ready(shop: Shop) -> None:
    manifest = yaml.safe_load((SHOP / "workflowapp.yaml").read_text())
    manifest["spec"]["image"] = shop.images.shop_1
    shop.kubectl.apply(manifest)
    shop.kubectl("wait", "--for=condition=Ready", "workflowapp/shop", "--timeout=300s")

    [job] = shop.kubectl.json("get", "jobs")["items"]
    assert job["status"]["succeeded"] == 1
    assert all(
        p["metadata"]["creationTimestamp"] >= job["status"]["completionTime"] for p in shop.pods()
    )
    headings, row = shop.kubectl("get", "workflowapps").splitlines()
    assert headings.split()[:4] == ["NAME", "VERSION", "PHASE", "READY"]
    assert row.split()[:4] == ["shop", shop.images.shop_1, "Ready", "1"]

    # By SQL, and by the command line in a pod.
    shop.start(3)
    pod = shop.pods()[0]["metadata"]["name"]
    words = ("rowlock", "start", "fulfil", "--arg", "order=100", "--app", "shop", "--wait")
    assert shop.kubectl("exec", pod, "--", *words).strip() == '"parcel-100"'
    shop.wait_finished(4)
    assert shop.orders() == (4, 1)
    until(lambda: shop.status().get("openRuns") == 0)

    # What it did is on its page of metrics.
    namespace = shop.kubectl.namespace
    page = shop.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/metrics"
    )
    finished = [
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith("rowlock_runs_finished_total") and 'outcome="succeeded"' in line
    ]
    assert sum(finished) == 4


def test_a_worker_pod_killed_without_grace_loses_and_doubles_nothing(open_shop: Shop) -> None:
    shop = open_shop
    shop.apply(shop.images.shop_1, min=2)
    until(lambda: shop.status().get("readyWorkers") == 2, why=shop.story)
    shop.start(40, seconds=4.0)  # longer than the two seconds that the kubelet gives all the same
    claimed = "select w.host from rowlock.task as t join rowlock.worker as w on w.id = t.worker_id"
    busy = until(lambda: shop.sql(claimed + " limit 1"), why=shop.story)[0][0]
    shop.kubectl("delete", "pod", busy, "--grace-period=0", "--force")
    shop.wait_finished(40)
    assert shop.orders() == (40, 1)
    assert shop.sql("select count(*) from rowlock.outcome where status <> 'succeeded'") == [(0,)]
    assert shop.sql("select count(*) > 0 from rowlock.outcome where epoch > 1") == [(True,)]


def test_a_run_over_two_pods_with_a_kill_is_one_connected_trace(
    open_shop: Shop, cluster: AnyCluster, tmp_path: Path
) -> None:
    shop = open_shop
    program = binaries.ensure("otelcol")["otelcol"]
    collector = Collector(program, tmp_path, cluster.host_address)
    try:
        # A machine that is busy with a whole cluster must not lose a lease by itself.
        env = [{"name": "ROWLOCK_LEASE_SECONDS", "value": "15"}]
        env += [{"name": name, "value": text} for name, text in collector.environment.items()]
        shop.apply(shop.images.shop_1, min=2, template={"env": env})
        until(lambda: len(shop.pods()) == 2 and shop.status().get("readyWorkers") == 2)
        [run] = shop.start(1, seconds=5.0)
        until(lambda: "step charge" in collector.text, why=shop.story)
        claimed = (
            "select w.host from rowlock.task as t join rowlock.worker as w on w.id = t.worker_id"
        )
        [[busy]] = shop.sql(claimed)
        shop.kubectl("delete", "pod", busy, "--grace-period=0", "--force")
        shop.wait_finished(1)
        until(lambda: "run fulfil" in collector.text)
    finally:
        collector.stop()

    spans = [one for one in collector.spans() if one["Trace ID"] == run.replace("-", "")]
    [top] = [one for one in spans if not one["Parent ID"].strip()]
    assert top["Name"] == "run fulfil"
    assert {one["Parent ID"] for one in spans if one is not top} == {top["ID"]}
    names = [one["Name"] for one in spans]
    assert names.count("step charge") == 1, "it was recorded, so nobody executed it again"
    assert {"step pack", "transaction save"} <= set(names)
    hosts = set(re.findall(r"host\.name: Str\(([^)]+)\)", collector.text))
    assert len(hosts) == 2
    assert busy in hosts


def test_work_brings_workers_and_its_end_takes_them_away_gently(open_shop: Shop) -> None:
    shop = open_shop
    env = [{"name": "ROWLOCK_LEASE_SECONDS", "value": "60"}]
    shop.apply(shop.images.shop_1, slots=4, max=3, targetWaitSeconds=1, template={"env": env})
    shop.start(60, seconds=2.0)
    until(lambda: shop.status().get("readyWorkers") == 3, why=shop.story)
    shop.wait_finished(60)
    until(lambda: len(shop.pods()) == 1, why=shop.story)
    assert shop.orders() == (60, 1)
    # Nobody was cut off: every run was claimed once.
    assert shop.sql("select max(epoch) from rowlock.outcome") == [(1,)]


def test_a_new_image_takes_what_is_new_and_the_old_one_finishes_its_own(open_shop: Shop) -> None:
    shop, old, new = open_shop, open_shop.images.shop_1, open_shop.images.shop_2
    sleeper = shop.start_sleepy(3600)
    until(lambda: shop.sql("select count(*) from rowlock.task where state = 'waiting'") == [(1,)])
    shop.apply(new)
    shop.wait_ready(new)
    until(lambda: shop.sql("select rowlock.current_version('shop')") == [(new,)])
    assert shop.deployments() == {old: 1, new: 1}
    shop.start(5)
    shop.wait_finished(5)
    assert shop.sql("select distinct version from rowlock.outcome") == [(new,)]
    # The old sleeper wakes where it fell asleep; then nothing holds its version any more.
    shop.sql("update rowlock.wait set due_at = clock_timestamp()")
    shop.sql("update rowlock.task set due_at = clock_timestamp()")
    shop.wait_finished(6)
    assert shop.sql("select version from rowlock.outcome where run_id = %s", sleeper) == [(old,)]
    until(lambda: shop.deployments() == {new: 1}, why=shop.story)


def test_a_failing_migration_leaves_the_old_workers_serving_and_says_why(open_shop: Shop) -> None:
    shop = open_shop
    shop.apply(shop.images.refused)
    until(lambda: shop.condition("Ready")["reason"] == "MigrationFailed", why=shop.story)
    assert "poll_seconds" in shop.condition("Migrated")["message"]
    assert "poll_seconds" in shop.events()["MigrationFailed"]
    assert shop.deployments() == {shop.images.shop_1: 1}
    shop.start(3)
    shop.wait_finished(3)
    shop.apply(shop.images.shop_1)
    shop.wait_ready(shop.images.shop_1)


def test_an_image_that_cant_start_leaves_the_old_workers_serving_and_says_why(
    open_shop: Shop,
) -> None:
    shop = open_shop
    shop.apply(shop.images.broken)
    until(lambda: "nowhere" in shop.condition("Ready").get("message", ""), why=shop.story)
    assert shop.condition("Ready")["reason"] in ("WorkersFailing", "RolloutFailed")
    until(lambda: "nowhere" in shop.events().get("WorkersFailing", ""), why=shop.story)
    assert shop.sql("select rowlock.current_version('shop')") == [(shop.images.shop_1,)]
    shop.start(3)
    shop.wait_finished(3)
    # Back again: nothing of the broken one stays.
    shop.apply(shop.images.shop_1)
    shop.wait_ready(shop.images.shop_1)
    until(lambda: shop.deployments() == {shop.images.shop_1: 1}, why=shop.story)


def test_an_operator_killed_in_the_middle_goes_on_where_it_was(
    open_shop: Shop, release: Release
) -> None:
    shop, new = open_shop, open_shop.images.shop_2
    operator = ("pod", "-l", "app.kubernetes.io/component=operator")
    shop.apply(new)
    for _ in range(2):
        release.kubectl("delete", *operator, "--grace-period=0", "--force")
    shop.wait_ready(new)
    until(lambda: shop.deployments() == {new: 1}, why=shop.story)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pools": [{"name": "a", "min": 3, "max": 2}]}, "min"),
        ({"imagee": "x"}, 'unknown field "spec.imagee"'),
        ({"database": {}}, "secretName"),
        ({"image": None}, "image"),
        ({"pools": [{"name": "Not_A_Name"}]}, "name"),
    ],
    ids=["min over max", "unknown field", "no secret", "no image", "pool name"],
)
def test_bad_input_is_refused_with_a_sentence(
    shop: Shop, change: dict[str, object], sentence: str
) -> None:
    manifest = shop.manifest(shop.images.shop_1)
    manifest["spec"] = {k: v for k, v in {**manifest["spec"], **change}.items() if v is not None}
    with pytest.raises(CommandFailed) as refused:
        shop.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    assert sentence in refused.value.output
    assert shop.kubectl.json("get", "workflowapps,deployments,jobs")["items"] == []


def test_a_name_that_is_too_long_is_refused_with_a_sentence(shop: Shop) -> None:
    shop.name = "a-shop-with-a-name-that-no-pod-can-carry"
    with pytest.raises(CommandFailed, match="20 characters"):
        shop.apply(shop.images.shop_1)


def test_a_missing_secret_is_named_and_nothing_is_half_made(shop: Shop) -> None:
    secret = shop.kubectl.json("get", "secret", "shop-database")
    shop.kubectl("delete", "secret", "shop-database")
    shop.apply(shop.images.shop_1)
    until(lambda: shop.condition("DatabaseReachable")["reason"] == "SecretMissing")
    assert "shop-database" in shop.condition("Ready")["message"]
    assert shop.kubectl.json("get", "deployments,jobs")["items"] == []
    shop.kubectl.apply(
        {key: secret[key] for key in ("apiVersion", "kind", "data")}
        | {"metadata": {"name": "shop-database"}}
    )
    shop.wait_ready(shop.images.shop_1)


def test_deleting_an_app_takes_all_it_made_and_leaves_the_data(open_shop: Shop) -> None:
    shop = open_shop
    shop.start(2)
    shop.wait_finished(2)
    shop.kubectl("delete", "workflowapp", "shop")
    until(lambda: shop.kubectl.json("get", "deployments,jobs,pods")["items"] == [], why=shop.story)
    assert shop.orders() == (2, 1)


def test_upgrade_and_uninstall_leave_the_apps_and_their_data(
    open_shop: Shop, release: Release, kubectl: Kubectl
) -> None:
    shop = open_shop
    release.install("--set=dashboards.enabled=true")
    dashboards = release.kubectl.json("get", "configmaps", "-l", "grafana_dashboard=1")["items"]
    assert dashboards
    release.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    assert "workflowapps.rowlock.dev" in kubectl("get", "crds", "-o", "name")
    assert shop.pods(), "the workers go on without an operator"
    # Nothing needs the operator to be deleted.
    shop.kubectl("delete", "workflowapp", "shop", "--timeout=60s")
    release.install()
