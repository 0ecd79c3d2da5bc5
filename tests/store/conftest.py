"""Fixtures of the races, and of all else that calls our functions: a database, sessions on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import postgres
from rowlock.embedded import Server
from store.races.sessions import Connections, World

# Emptying the tables takes a few milliseconds, a database for each test a hundred times as long.
EMPTY = """
do $$
declare
    v_table regclass;
begin
    drop table if exists public.book;
    for v_table in
        select c.oid::regclass from pg_class as c
         where c.relnamespace = 'rowlock'::regnamespace and c.relkind = 'r'
           and c.relname not in ('migration', 'repeatable')
    loop
        execute format('delete from %s', v_table);
    end loop;
end $$
"""


@pytest.fixture(scope="module")
def connections(server: Server, template: str) -> Iterator[Connections]:
    """Connections to a migrated database for all tests of a module."""
    with postgres.new_database(server, template) as url:
        connections = Connections(url)
        yield connections
        connections.close()


@pytest.fixture
def world(connections: Connections) -> Iterator[World]:
    """An empty database in which sessions meet; all of them are let go afterwards."""
    connection = connections.take()
    connection.execute(EMPTY)
    connections.give_back(connection)
    world = World(connections)
    yield world
    world.close()
