"""The same for plain tests."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

import psycopg
import pytest

from rowlock.errors import MisplacedCall, RunFailed
from rowlock.testing import BlockingHarness, FaultNeverHappened, OpenHarness, Stuck
from testing import shop


def test_a_plain_test_has_all_of_it(rowlock_harness: OpenHarness) -> None:
    with rowlock_harness(shop.app) as harness:
        result = harness.run(shop.fulfil(1))
        assert_type(result, list[str])
        assert result == ["receipt-1", "parcel-1"]
        began = harness.now()
        run = harness.start(shop.fulfil(2), key="two")
        harness.run_until_idle()
        assert run.status() == "waiting"
        assert len(harness.client.runs(status="waiting")) == 1
        harness.advance(timedelta(days=31))
        assert run.status() == "succeeded"
        assert harness.now() - began >= timedelta(days=31)
        assert harness.result(run) == ["receipt-2", "parcel-2"]
        with pytest.raises(RunFailed):
            harness.run(shop.refuses(1))
        with pytest.raises(Stuck, match="within"):
            harness.run(shop.for_ever(), within=timedelta(days=3))
        with psycopg.connect(harness.database_url) as connection:
            later = harness.start(shop.fulfil(3), connection=connection)
        harness.run_until_done(within=timedelta(days=40))
        assert later.result(timeout=60) == ["receipt-3", "parcel-3"]


def test_faults_in_a_plain_test(rowlock_harness: OpenHarness) -> None:
    with rowlock_harness(shop.app) as harness:
        harness.crash_after(shop.label)
        harness.crash_before_record(shop.book_plain)
        harness.takeover(shop.charge)
        assert harness.run(shop.pays_in_a_thread(1)) == ["label-1", 1, "receipt-1"]
        harness.hang(shop.charge)
        assert harness.run(shop.loses_patience(1)) == "too slow"
        harness.crash()
        assert harness.run(shop.fulfil(2)) == ["receipt-2", "parcel-2"]


def test_crashes_everywhere_in_a_plain_test(rowlock_harness: OpenHarness) -> None:
    with rowlock_harness(shop.app) as harness:
        assert len(harness.exhaust_crashes(lambda: shop.refuses(1))) >= 3


def test_a_fault_that_never_happens_fails_a_plain_test_too(rowlock_harness: OpenHarness) -> None:
    def test() -> None:
        with rowlock_harness(shop.app) as harness:
            harness.crash_after("charge")

    with pytest.raises(FaultNeverHappened, match="Steps that were called: none"):
        test()


def test_a_blocking_harness_that_is_not_open_says_how_to_open_it() -> None:
    harness = BlockingHarness(shop.app)
    with pytest.raises(MisplacedCall, match="with BlockingHarness"):
        harness.run(shop.fulfil(1))
    with pytest.raises(MisplacedCall, match="with BlockingHarness"):
        _ = harness.client
