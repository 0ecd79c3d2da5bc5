"""What rowlock.set_limit refuses, it refuses in words and with a hint that fit what was given."""

from __future__ import annotations

import psycopg
import pytest

from store.races.sessions import World

REFUSED = [
    ("concurrency => 0", "concurrency is 0, but", "set_limit('payments', concurrency => 5)"),
    ("worker_concurrency => 1000001", "from 1 to 1000000", "worker_concurrency => 5"),
    ("rate => 'often'", "rate is often, but", "rate => '100/min'"),
    ("rate => ''", "rate is empty, but", "rate => '100/min'"),
    ("rate => '1000000000/s'", "a number up to 999999999", "rate => '100/min'"),
    ("partitions => true, partition_rate => 'x'", "partition_rate is x", "partition_rate => '1"),
    ("ageing => '-5 s'", "ageing is -5 s, but", "ageing => interval '1 minute'"),
    ("ageing => '1000 days'", "366 days", "ageing => interval"),
    ("weight => 2000", "weight is 2000, but must be from 0.001 to 1000", "weight => 2)"),
    (
        "partition_concurrency => 1",
        "partition_concurrency is a limit for each partition, which needs a queue with partitions",
        "partitions => true, partition_concurrency => 1",
    ),
    ("partition_rate => '1/s'", "needs a queue with partitions", "partitions => true"),
]


@pytest.mark.parametrize(("given", "what", "hint"), REFUSED)
def test_what_can_be_no_limit_is_refused_with_a_hint_that_fits(
    world: World, given: str, what: str, hint: str
) -> None:
    error = refused(world, f"set_limit('default', {given})")
    assert what in str(error)
    assert hint in str(error.diag.message_hint)


@pytest.mark.parametrize(
    "call", ["unset_limit('default', 'partitions')", "set_limit('default', partitions => false)"]
)
def test_partitions_stay_while_a_limit_needs_them(world: World, call: str) -> None:
    world.anybody.limit("default", partitions=True, partition_rate="5/s")
    error = refused(world, call)
    assert "queue default can't do without partitions: it has a partition_rate" in str(error)
    hint = str(error.diag.message_hint)
    assert "First rowlock.unset_limit('default', 'partition_rate')" in hint
    world.anybody.limit("default", partition_rate=None)
    assert world.anybody.ask(f"select rowlock.{call}")


def refused(world: World, call: str) -> psycopg.Error:
    state = "select q::text from rowlock.queue as q order by 1"
    before = world.anybody.run(state)
    with pytest.raises(psycopg.Error) as caught:
        world.anybody.run(f"select rowlock.{call}")
    assert caught.value.sqlstate == "RLV02"
    assert "Nothing was changed" in str(caught.value.diag.message_hint)
    assert world.anybody.run(state) == before
    return caught.value
