"""Rates and limits as code declares them: read alike by Python and the database, or refused."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rowlock import App, BlockingClient, Rate, Settings
from rowlock.errors import ConfigurationError

GOOD = ["100/min", "5/s", "1000/1h", "10/30s", "1/d", "1/366d"]
BAD = ["", "5", "0/s", "5/0s", "-1/s", "5/week", "1/367d", "5 / s", "5/s ", "5/s quickly", "5/1.5s"]


@pytest.mark.parametrize("text", GOOD)
def test_the_database_reads_a_rate_as_python_does(database: str, text: str) -> None:
    with psycopg.connect(database) as connection:
        for rate in (Rate(text), Rate(text, smooth=True), Rate(text, burst=20)):
            found = connection.execute("select * from rowlock.rate_of(%s)", [str(rate)]).fetchall()
            [(_, _, smooth, burst)] = found
            assert (smooth, burst) == (rate.smooth, rate.burst)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write a number"):
        Rate(text)
    with pytest.raises(ConfigurationError, match="write a number"):
        App("shop").queue("payments", rate=text)


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": 2.5},
        {"worker_concurrency": -1},
        {"partition_concurrency": 1},
        {"partition_rate": "1/s"},
        {"partitions": True, "partition_concurrency": 0},
        {"ageing": timedelta(0)},
        {"ageing": 60},
        {"weight": 0},
        {"weight": "heavy"},
        {"weight": float("nan")},
        {"partitions": "yes"},
    ],
)
def test_what_can_be_no_limit_is_refused_when_the_module_is_imported(
    limits: dict[str, Any],
) -> None:
    with pytest.raises(ConfigurationError, match="queue payments"):
        App("shop").queue("payments", **limits)


def test_an_ageing_that_can_not_be_is_told_in_seconds() -> None:
    with pytest.raises(ConfigurationError, match=r"ageing is -60 s, but"):
        App("shop").queue("payments", ageing=timedelta(minutes=-1))


@pytest.mark.parametrize(("smooth", "burst"), [(True, 5), (False, 0), (False, True)])
def test_a_rate_is_smooth_or_bursts(smooth: bool, burst: int) -> None:
    with pytest.raises(ConfigurationError, match="burst"):
        Rate("5/s", smooth=smooth, burst=burst)


def test_what_can_be_no_name_is_refused_when_the_module_is_imported() -> None:
    app: Any = App("shop")
    for name in ("", 5, None):
        with pytest.raises(ConfigurationError, match=f"queue name {name!r}: "):
            app.queue(name)

    def ships() -> None:
        pass

    for kind in ("workflow", "step"):
        with pytest.raises(ConfigurationError, match=f"{kind} name '': "):
            getattr(app, kind)(name="")(ships)


def test_a_queue_is_declared_once_with_limits() -> None:
    app = App("shop")
    payments = app.queue("payments", concurrency=5)
    assert app.queue("payments") == payments
    assert app.queue("payments", concurrency=5) == payments
    with pytest.raises(ConfigurationError, match="declared twice"):
        app.queue("payments", concurrency=6)


def test_what_code_declares_is_what_the_database_has(database: str) -> None:
    app = App("shop")
    app.queue(
        "payments",
        concurrency=20,
        worker_concurrency=5,
        rate=Rate("100/min", burst=20),
        partitions=True,
        partition_concurrency=2,
        partition_rate="5/s smooth",
        ageing=timedelta(minutes=1),
        weight=2,
    )
    with app.blocking_client(Settings(database_url=database)) as client:
        [row] = [one for one in client.queues() if one.queue == "payments"]
        assert (row.concurrency, row.worker_concurrency, row.rate) == (20, 5, "100/min burst 20")
        assert (row.partitions, row.partition_concurrency) == (True, 2)
        assert (row.partition_rate, row.ageing) == ("5/s smooth", timedelta(minutes=1))
        assert (row.weight, row.limits_set_at) == (2.0, None)
        assert row.declared == json.loads(app.code.declared)["payments"]
        changes(client)


def changes(client: BlockingClient) -> None:
    assert client.set_limit("payments", concurrency=5, rate=Rate("5/s", smooth=True))
    assert not client.set_limit("payments", concurrency=5)
    assert client.unset_limit("payments", "rate")
    [row] = [one for one in client.queues() if one.queue == "payments"]
    assert (row.concurrency, row.rate) == (5, None)
    assert row.limits_set_by is not None
    assert client.reset_limits("payments")
    with pytest.raises(ConfigurationError):
        client.set_limit("payments", concurrency=0)
