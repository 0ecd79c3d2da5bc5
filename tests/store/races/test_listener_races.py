"""Those who wait outside say that they listen: in any language, from any transaction."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

import postgres
from rowlock.embedded import Server
from rowlock.store.migrate import migrate
from store.races.sessions import Session, World, finish

HEARD_WITHIN_S = 10.0
LISTEN = "select rowlock.listen(listener => %s, lease => %s)"
UNLISTEN = "select rowlock.unlisten(listener => %s)"


@pytest.fixture
def caller(world: World) -> Session:
    return world.session("caller")


@pytest.fixture
def ear(world: World) -> Iterator[Session]:
    ear = world.session("ear")
    ear.run("listen rowlock_news")
    yield ear
    ear.run("unlisten rowlock_news")


def heard_before(ear: Session, caller: Session) -> list[str]:
    """What was notified until now: a last word of our own comes after everything else."""
    last = str(uuid4())
    caller.run("select pg_notify('rowlock_news', %s)", last)
    heard: list[str] = []
    for notice in ear.connection.notifies(timeout=HEARD_WITHIN_S):
        if notice.payload == last:
            return heard
        heard.append(notice.payload)
    raise TimeoutError("not even the last word was heard")


def listeners(caller: Session) -> list[UUID]:
    return [row[0] for row in caller.run("select id from rowlock.listener order by until")]


def over(caller: Session, *ids: UUID) -> None:
    """Their time is over from now on; some are not known yet."""
    caller.run(
        "insert into rowlock.listener select id, clock_timestamp() - interval '1 second'"
        "  from unnest(%s::uuid[]) as id on conflict (id) do update set until = excluded.until",
        list(ids),
    )


def test_events_are_told_while_somebody_listens(
    world: World, caller: Session, ear: Session
) -> None:
    run, me = caller.start(), uuid4()
    caller.set_event(run)
    assert heard_before(ear, caller) == []
    caller.run(LISTEN, me, "30 seconds")
    caller.set_event(run)
    assert heard_before(ear, caller) == [str(run)]
    over(caller, me)
    caller.set_event(run)
    assert heard_before(ear, caller) == []
    caller.run(LISTEN, me, "30 seconds")
    caller.set_event(run)
    assert heard_before(ear, caller) == [str(run)]
    caller.run(UNLISTEN, me)
    caller.set_event(run)
    assert heard_before(ear, caller) == []


def test_a_listener_renews_for_itself_and_clears_the_dead_away(caller: Session) -> None:
    me, other, dead = uuid4(), uuid4(), uuid4()
    over(caller, dead)
    caller.run(LISTEN, other, "1 minute")
    caller.run(LISTEN, me, "30 seconds")
    assert listeners(caller) == [me, other]
    caller.run(LISTEN, me, "2 minutes")
    assert listeners(caller) == [other, me]


@pytest.mark.parametrize(
    ("listener", "lease", "why"),
    [
        (uuid4(), "0", "the lease is 00:00:00, but must be above 0 and at most 1 hour"),
        (uuid4(), "-1 second", "the lease is -00:00:01, but must be"),
        (uuid4(), "61 minutes", "the lease is 01:01:00, but must be"),
        (uuid4(), None, "the lease is null, but must be"),
        (None, "30 seconds", "the listener has no id"),
    ],
)
def test_what_is_no_lease_is_refused(
    caller: Session, listener: UUID | None, lease: str | None, why: str
) -> None:
    dead = uuid4()
    over(caller, dead)
    with pytest.raises(psycopg.Error, match=why) as refused:
        caller.run(LISTEN, listener, lease)
    assert refused.value.sqlstate == "RLV02"
    assert "Nothing was changed." in (refused.value.diag.message_hint or "")
    assert listeners(caller) == [dead]


def test_an_open_transaction_that_listens_holds_up_nobody_else(
    world: World, caller: Session
) -> None:
    mine, other, dead = uuid4(), uuid4(), uuid4()
    over(caller, dead)
    caller.run(LISTEN, other, "30 seconds")
    stranger = world.session("stranger").begin()
    over(caller, dead)
    stranger.run(LISTEN, mine, "30 seconds")  # and holds the dead one's row
    renewal = caller.go(lambda: caller.run(LISTEN, other, "30 seconds"))
    assert not renewal.waits()
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    journal = worker.go(lambda: worker.journal(finish(claimed)))
    assert not journal.waits()
    stranger.rollback()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_an_old_snapshot_listens_as_well(world: World, caller: Session, isolation: str) -> None:
    """The dead it sees are gone meanwhile: to delete them would fail its whole transaction."""
    me, other = uuid4(), uuid4()
    over(caller, uuid4())
    old = world.session("old").begin(isolation)
    assert len(listeners(old)) == 1
    caller.run(LISTEN, other, "1 minute")
    old.run(LISTEN, me, "30 seconds")
    old.commit()
    assert listeners(caller) == [me, other]


def test_a_database_from_before_they_were_public_gets_their_names(server: Server) -> None:
    with postgres.new_database(server) as url:
        migrate(url)
        with psycopg.connect(url, autocommit=True) as admin:
            for name, arguments in (("listen", "uuid, p_for interval"), ("unlisten", "uuid")):
                types = arguments.replace("p_for ", "")
                admin.execute(f"drop function rowlock.{name}({types})".encode())
                admin.execute(
                    f"create function rowlock.{name}(p_listener {arguments}) returns void"
                    " language sql begin atomic; end".encode()
                )
            admin.execute("update rowlock.repeatable set checksum = 'older'")
            assert migrate(url).applied == ("functions",)
            admin.execute(LISTEN, [uuid4(), "30 seconds"])
            # From now on they stay as they are, with the rights that were granted on them.
            admin.execute("revoke execute on function rowlock.listen from public")
            admin.execute("update rowlock.repeatable set checksum = 'older'")
            migrate(url)
            [kept] = admin.execute(
                "select proacl is not null from pg_proc where proname = 'listen'"
                " and pronamespace = 'rowlock'::regnamespace"
            ).fetchone() or [None]
            assert kept
