"""When traces are made, when not, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from rowlock import BlockingClient
from rowlock.errors import ConfigurationError
from rowlock.telemetry import traces
from telemetry import traced
from telemetry.receiver import Receiver
from workers.process import Worker
from workers.until import Sql, until

APP = "telemetry.traced:app"
HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, []),
        (HERE, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/v1/traces"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        (HERE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
        (HERE | {"OTEL_TRACES_EXPORTER": "none"}, []),
        (HERE | {"OTEL_SDK_DISABLED": "TRUE"}, []),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x/v1/metrics"}, []),
    ],
)
def test_the_standard_variables_switch_traces(environ: Mapping[str, str], names: list[str]) -> None:
    assert traces.exporters(environ) == names


def test_an_unknown_protocol_is_refused() -> None:
    environ = HERE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}
    with pytest.raises(ConfigurationError, match=r"carrier-pigeon.*http/protobuf or grpc"):
        traces.exporters(environ)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ["zipkin", "pip install"]),
        (HERE | {"OTEL_BSP_MAX_QUEUE_SIZE": "1"}, ["OTEL_", "max_queue_size"]),
    ],
)
def test_what_cant_be_set_up_is_refused_with_a_sentence(
    environ: Mapping[str, str], words: list[str]
) -> None:
    answer = _set_up(environ, "")
    assert answer.startswith("ConfigurationError: ")
    for word in words:
        assert word in answer


def test_without_the_extra_a_worker_that_is_to_trace_says_what_to_install() -> None:
    answer = _set_up(HERE, "sys.modules['opentelemetry'] = None")
    assert answer.startswith("ConfigurationError: OTEL_EXPORTER_OTLP_ENDPOINT asks for traces")
    assert "pip install 'rowlock[otel]'" in answer


def test_a_worker_process_refuses_to_start_when_traces_cant_be_had(database: str) -> None:
    settings = {"ROWLOCK_DATABASE_URL": database, "OTEL_TRACES_EXPORTER": "zipkin"}
    done = _python(["-m", "rowlock", "worker", APP], settings)
    assert done.returncode == 2
    assert "'zipkin', and none of that name is installed" in done.stderr


def _set_up(environ: Mapping[str, str], before: str) -> str:
    """What comes of it in a process of its own: the providers of OpenTelemetry are global."""
    code = (
        f"import sys; {before}\n"
        "from rowlock.errors import ConfigurationError\n"
        "from rowlock.telemetry.setup import observers\n"
        "try: print(observers('shop', 'v1'))\n"
        "except ConfigurationError as error: print('ConfigurationError:', error)\n"
    )
    done = _python(["-c", code], environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _python(arguments: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_worker_without_traces_imports_nothing_of_opentelemetry(
    database: str, client: BlockingClient
) -> None:
    with Worker(database, APP) as worker:
        assert client.start(traced.modules()).result(timeout=60) == []
        client.start(traced.parent("o1")).result(timeout=60)
        assert "trace_id" not in worker.log


def test_switched_off_by_the_sdks_own_switch_nothing_is_imported_either(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    settings = receiver.environment | {"OTEL_SDK_DISABLED": "true"}
    with Worker(database, APP, environment=settings):
        assert client.start(traced.modules()).result(timeout=60) == []
    assert receiver.requests == 0


def test_children_go_on_with_the_callers_trace_even_where_traces_are_off(
    database: str, sql: Sql
) -> None:
    """The parent has no span then; its child still belongs to whoever started the parent."""
    context = '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
    start = """select rowlock.start('parent', '{"order": "o1"}', app => 'traced',
                                    trace_context => %s::jsonb)"""
    sql(start, context)
    with Worker(database, APP):
        until(lambda: sql.one("select count(*) from rowlock.outcome") == 3)
    found = sql("select trace_context::text from rowlock.run where parent_id is not null")
    assert found == [(context,)] * 2


def test_what_the_user_says_about_the_service_counts(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    settings = receiver.environment | {
        "OTEL_SERVICE_NAME": "fulfilment",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,host.name=elsewhere",
    }
    with Worker(database, APP, environment=settings):
        client.start(traced.short("o1")).result(timeout=60)
        span = receiver.one("run short")
    assert span.resource["service.name"] == "fulfilment"
    assert span.resource["deployment.environment.name"] == "test"
    assert span.resource["host.name"] == "elsewhere"
    assert span.resource["rowlock.app"] == "traced"


def test_a_provider_that_the_users_code_has_set_is_left_alone(
    database: str, client: BlockingClient, receiver: Receiver
) -> None:
    """His spans go where he sends them; they still belong to the step's trace."""
    with Worker(database, "telemetry.provided:app", environment=receiver.environment):
        run = client.start(traced.parcel("o1"))
        run.result(timeout=60)
        step = receiver.one("step reserve")
        inner = receiver.one("inner reserve")
    assert (inner.trace_id, inner.parent_id) == (step.trace_id, step.span_id)
    assert inner.resource["service.name"] == "of the user"
    assert step.resource["service.name"] == "traced"
