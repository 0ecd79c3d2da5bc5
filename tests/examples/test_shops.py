"""The examples with FastAPI and with Django, served as their READMEs say."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from examples.serving import ROOT, Process, Server
from runtime.conftest import sql
from workers.until import Sql

__all__ = ["sql"]

EXAMPLES = ROOT / "examples"


@pytest.fixture
def fastapi_shop(database: str, sql: Sql) -> Iterator[Server]:
    command = ["uvicorn", "fastapi_shop.main:api", "--port", "{port}"]
    with Server(*command, folder=EXAMPLES, database=database) as server:
        server.get("/ready")
        sql("insert into shop_stock values ('tea', 2)")
        yield server
        assert server.end(signal.SIGINT) == 0, server.said
        assert "Traceback" not in server.said
    assert sql.one("select count(*) from rowlock.worker") == 0


@pytest.fixture
def django_shop(database: str, sql: Sql) -> Iterator[Server]:
    here: dict[str, Any] = {"folder": EXAMPLES / "django_shop", "database": database}
    with Process("manage.py", "migrate", **here) as migrating:
        assert migrating.wait() == 0, migrating.said
    sql("insert into orders_stock values ('tea', 2)")
    with (
        Process("rowlock", "worker", "orders.worker:app", **here) as worker,
        Server("manage.py", "runserver", "--noreload", "{port}", **here) as server,
    ):
        server.wait_until_it_answers()
        yield server
        assert worker.end() == 0, worker.said
        assert "Traceback" not in server.said + worker.said


@pytest.fixture(params=["fastapi_shop", "django_shop"])
def shop(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def posted(shop: Server, path: str, **body: Any) -> httpx.Response:
    return shop.http.post(path, json=body)


def an_order(shop: Server, number: int) -> str:
    """An order that is charged and waits for its parcel; its run's id."""
    answer = posted(shop, "/orders", item="tea", cents=250)
    assert answer.status_code == 201, answer.text
    assert answer.json()["order"] == number
    shop.get(f"/orders/{number}", {"item": "tea", "order": "charged", "run": "waiting"})
    return str(answer.json()["run"])


def test_an_order_is_fulfilled(shop: Server, sql: Sql) -> None:
    run_id = an_order(shop, 1)
    for _ in range(2):  # carriers tell twice
        sent = posted(shop, "/webhooks/parcel", id="d1", order_id=1, parcel="P-1")
        assert sent.status_code == 202
    shop.get("/orders/1", {"item": "tea", "order": "shipped as P-1", "run": "succeeded"})
    assert sql("select run_id::text, output from rowlock.runs") == [(run_id, "P-1")]
    late = posted(shop, "/webhooks/parcel", id="d2", order_id=1, parcel="P-2")
    assert late.status_code == 409
    assert "has ended" in late.text
    assert posted(shop, "/webhooks/parcel", id="d3", order_id=7, parcel="P").status_code == 404
    assert shop.http.get("/orders/7").status_code == 404


def test_an_order_that_is_rolled_back_has_no_run(shop: Server, sql: Sql) -> None:
    an_order(shop, 1)
    answer = posted(shop, "/orders", item="coffee", cents=1)
    assert answer.status_code == 409
    assert "coffee is sold out" in answer.text
    assert posted(shop, "/orders", item="tea", cents=1).status_code == 201
    assert posted(shop, "/orders", item="tea", cents=1).status_code == 409
    assert sql("select key from rowlock.run order by id") == [("order-1",), ("order-3",)]


def test_what_the_django_shop_lost_is_in_stock_again(django_shop: Server, sql: Sql) -> None:
    an_order(django_shop, 1)
    posted(django_shop, "/webhooks/parcel", id="d1", order_id=1, parcel="lost")
    django_shop.get("/orders/1", {"item": "tea", "order": "lost", "run": "succeeded"})
    assert sql("select pieces from orders_stock") == [(2,)]


def test_djangos_migrations_make_what_the_models_say(database: str) -> None:
    command = ["manage.py", "makemigrations", "--check"]
    with Process(*command, folder=EXAMPLES / "django_shop", database=database) as checking:
        assert checking.wait() == 0, checking.said


@pytest.mark.parametrize("example", ["fastapi_shop", "django_shop"])
def test_the_readme_is_short_and_names_what_there_is(example: str) -> None:
    text = (EXAMPLES / example / "README.md").read_text()
    assert len(text.splitlines()) <= 40
    for name in re.findall(r"^\| `([^`]+)`", text, re.MULTILINE):
        assert (EXAMPLES / example / name).exists(), name
