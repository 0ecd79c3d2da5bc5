"""With a codec nothing of a run's values stands in the database; without the key the run waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

import rowlock
from rowlock import App, BlockingClient, Client, Secret
from rowlock.codecs import AesGcm, Chain, Zlib
from rowlock.errors import InvalidValue, UnreadableValue
from runtime.bench import Open
from workers.until import Sql

OLD = AesGcm("old", b"o" * 32)
NEW = AesGcm("new", b"n" * 32)
WORD = "hunter2"


@dataclass
class Login:
    user: str
    password: Secret[str]


class Lockable:
    """A codec whose key can be taken away."""

    name = "lockable"
    locked = False

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    def decode(self, data: bytes) -> bytes:
        if self.locked:
            raise KeyError(data)
        return data[::-1]


def build(codec: Any) -> tuple[App, SimpleNamespace]:
    """The same app with this codec or that, and its workflows."""
    app = App("sealed", codec=codec)

    @app.step
    async def sign_in(login: Login) -> Login:
        return Login(login.user, Secret(login.password.reveal() + "!"))

    @app.step
    async def echo(what: Any) -> Any:
        return what

    @app.transaction
    async def book(tx: Any, what: str) -> str:
        return what

    @app.workflow
    async def child(what: str) -> str:
        return what

    @app.workflow
    async def flow(login: Login, note: str = WORD) -> dict[str, str]:
        signed = await sign_in(login)
        assert repr(signed.password) == "Secret(***)"
        kept = await echo({"$codec": note, "payload": [note]})
        assert kept == {"$codec": note, "payload": [note]}
        booked = await book(note)
        typed = await child(note)
        named = await rowlock.call("child", what=note)
        handle = await app.start_child(rowlock.call("child", what=note), key=None)
        await app.sleep(0.05)
        others = {booked, typed, named, await handle.result()}
        assert others == {note}
        return {"password": signed.password.reveal(), "note": note}

    @app.workflow
    def sync_flow(note: str) -> str:
        return str(rowlock.call("child", what=note).wait())

    @app.workflow
    async def sleeps(note: str = "x") -> str:
        first = await echo(note)
        await app.sleep(0.1)
        return str(first)

    @app.workflow
    async def gives() -> str:
        return "a result"

    @app.workflow
    async def parent() -> str:
        handle = await app.start_child(gives())
        await app.sleep(1.0)
        return await handle.result()

    return app, SimpleNamespace(
        child=child, flow=flow, sync_flow=sync_flow, sleeps=sleeps, parent=parent
    )


def everything(sql: Sql) -> str:
    """All rows of all tables."""
    tables = sql("select tablename from pg_tables where schemaname = 'rowlock'")
    rows = [sql(f"select row_to_json(t)::text from rowlock.{table} t") for (table,) in tables]
    return "\n".join(row for found in rows for (row,) in found)


async def test_no_value_of_a_run_stands_in_the_database_or_the_log(
    bench: Open, caplog: pytest.LogCaptureFixture
) -> None:
    app, flows = build(Chain(Zlib(), OLD))
    async with bench(app) as work:
        told = await work.every_way(lambda: flows.flow(Login("bob@example", Secret(WORD))))
        assert told == {"password": f"{WORD}!", "note": WORD}
        assert await work.result(flows.sync_flow(WORD)) == WORD
        held = everything(work.sql)
        assert WORD not in held
        assert "bob@" not in held
        assert '"login": {"$codec": "aesgcm:old", "payload": "' in held
        assert WORD not in caplog.text


async def test_a_client_without_the_code_takes_the_codec(bench: Open, database: str) -> None:
    app, _ = build([OLD])
    async with bench(app) as work:
        async with Client(database, app="sealed", codec=OLD) as client:
            run = await client.start(rowlock.call("child", what=WORD))
            assert await run.result(10) == WORD
            assert await client.run(run.id).result(10) == WORD
            many = await client.start_many([rowlock.call("child", what=WORD)] * 2)
            assert [await one.result(10) for one in many] == [WORD, WORD]
            run = await client.start(
                rowlock.call("flow", login={"user": "bob", "password": Secret("x")})
            )
            assert (await run.result(10))["password"] == "x!"
        assert WORD not in everything(work.sql)

        async with Client(database, app="sealed") as bare:
            with pytest.raises(UnreadableValue, match="aesgcm:old; this process has none"):
                await bare.run(run.id).result(10)
            plain = await bare.start(rowlock.call("child", what="from outside"))
            with pytest.raises(UnreadableValue):
                await plain.result(10)

        def blocking() -> Any:
            with BlockingClient(database, app="sealed", codec=OLD) as client:
                return client.start(rowlock.call("child", what=WORD)).result(10)

        assert await asyncio.to_thread(blocking) == WORD


async def test_a_secret_without_a_codec_is_refused_before_anything_is_written(
    bench: Open, database: str
) -> None:
    app, flows = build(None)
    async with bench(app) as work:
        with pytest.raises(InvalidValue, match="there is no codec that hides it") as refused:
            await work.start(flows.flow(Login("bob@example", Secret(WORD))))
        assert refused.value.path == "login.password"
        async with Client(database, app="sealed") as client:
            with pytest.raises(InvalidValue, match=r"at x\[0\]: it is a Secret"):
                await client.start(rowlock.call("child", x=[Secret(WORD)]))
        assert work.sql.one("select count(*) from rowlock.run") == 0
        error = await work.error(rowlock.call("flow", login={"user": "b", "password": WORD}))
        assert "the result of step sign_in can't be used at password" in str(error)
        assert f"{WORD}!" not in everything(work.sql)


@pytest.mark.parametrize("lacking", [None, NEW, AesGcm("old", b"x" * 32)], ids=repr)
async def test_a_worker_without_the_key_of_the_input_blocks_the_run_and_another_finishes_it(
    bench: Open, lacking: Any
) -> None:
    _, flows = build(OLD)
    async with bench(build(lacking)[0], noise=("codec aesgcm:old",)) as work:
        work.leftovers.add("task")
        run = await work.start(flows.sleeps())
        await work.status(run, "blocked")
        reason = (await run.info()).reason or {}
        assert (reason["kind"], reason["codec"]) == ("codec", "aesgcm:old")
        assert "the input of" in reason["message"]
        assert "`rowlock resume`" in reason["message"]
    async with bench(build([NEW, OLD])[0], noise=("codec aesgcm:old",)) as work:
        await work.client.run(run.id).resume()
        assert await work.client.run(run.id).result(10) == "x"


async def test_a_worker_without_the_key_of_a_recorded_step_blocks_the_run(bench: Open) -> None:
    async with bench(build([NEW, OLD])[0]) as work:
        work.leftovers |= {"task", "wait"}
        plain = work.sql.one("select rowlock.start('sleeps', app => 'sealed')")
        run = work.client.run(plain)
        await work.status(run, "waiting")
    async with bench(build(OLD)[0], noise=("codec aesgcm:new",)) as work:
        work.leftovers |= {"task", "wait"}
        await work.status(work.client.run(run.id), "blocked")
        reason = (await work.client.run(run.id).info()).reason or {}
        assert (reason["kind"], reason["codec"], reason["place"]) == ("codec", "aesgcm:new", "1")
    async with bench(build([OLD, NEW])[0], noise=("codec aesgcm:new",)) as work:
        await work.client.run(run.id).resume()
        assert await work.client.run(run.id).result(10) == "x"


async def test_a_childs_result_that_can_not_be_read_blocks_the_parent_and_fails_nothing(
    bench: Open,
) -> None:
    codec = Lockable()
    app, flows = build(codec)
    async with bench(app, noise=("codec lockable",)) as work:
        run = await work.start(flows.parent())
        async with asyncio.timeout(10):
            while work.sql.one("select count(*) from rowlock.outcome") == 0:
                await asyncio.sleep(0.01)
        codec.locked = True
        await work.status(run, "blocked")
        reason = (await run.info()).reason or {}
        assert (reason["kind"], reason["codec"], reason["place"]) == ("codec", "lockable", "3")

        codec.locked = False
        await run.resume()
        assert await run.result(10) == "a result"
