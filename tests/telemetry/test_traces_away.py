"""A collector that is slow or away holds up nothing: no run, no drain, no exit."""

from __future__ import annotations

import socket

from rowlock import BlockingClient
from telemetry import traced
from telemetry.receiver import Receiver
from workers.process import Worker
from workers.until import Sql, until

APP = "telemetry.traced:app"
STEPS = 600


def test_an_endpoint_that_never_answers_holds_up_nothing(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    with Receiver(answers=False) as silent:
        settings = silent.environment | {
            # Small, so that it is full for most of the test.
            "OTEL_BSP_MAX_QUEUE_SIZE": "64",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
        }
        runs = client.start_many([traced.many(STEPS // 10) for _ in range(10)])
        with Worker(database, APP, environment=settings) as worker:
            for run in runs:
                run.result(timeout=120)
            assert silent.requests == 1  # and that one is still waiting
            worker.terminate()
            # The request may take an hour; the process does not wait for it.
            assert worker.wait() == 0
            assert "the last spans were not taken within 2 s" in worker.log
            assert worker.log.count("spans are not delivered") == 1
    assert sql.one("select count(*) from rowlock.worker") == 0


def test_an_endpoint_that_is_not_there_holds_up_nothing(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }
    with Worker(database, APP, environment=settings) as worker:
        assert client.start(traced.many(50)).result(timeout=60) == 50
        until(lambda: "spans are not delivered" in worker.log)
        assert client.start(traced.many(50)).result(timeout=60) == 50
        worker.terminate()
        assert worker.wait() == 0
        lines = worker.log.splitlines()
    # One line for all of it, and nothing of the exporter's own.
    assert len([line for line in lines if "spans are not delivered" in line]) == 1
    assert not [line for line in lines if "opentelemetry" in line or "urllib3" in line]
