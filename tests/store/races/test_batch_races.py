"""Batches: each start's list is in one run, once, whoever meets whom; no one else is held up."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock import Batch
from store.races.sessions import APP, Session, World, finish
from store.races.test_start_key_races import FATES, OLD_SNAPSHOTS, fall_due, input_of, refused

PAGES = Batch("pages", 4, timedelta(hours=1))


def add(session: Session, *pages: Any, how: Batch = PAGES, **others: Any) -> UUID:
    return session.start(input=json.dumps({"pages": pages} | others), batch=how)


def entry(*pages: Any, **options: Any) -> dict[str, Any]:
    return {"workflow": "fulfil", "input": {"pages": pages}, "batch": "pages", **options}


def pages_of(world: World, run_id: UUID) -> Any:
    return world.anybody.ask("select input -> 'pages' from rowlock.run where id = %s", run_id)


def gathered(world: World) -> list[Any]:
    """The lists of all runs, in the order in which they were begun."""
    return [
        pages
        for [pages] in world.anybody.run("select input -> 'pages' from rowlock.run order by id")
    ]


# --- one after the other


def test_starts_with_a_key_are_gathered_until_the_list_is_full(world: World) -> None:
    first = add(world.anybody, 1)
    assert add(world.anybody, 2, {"page": 3}) == first
    assert (pages_of(world, first), world.state(first)) == ([1, 2, {"page": 3}], "scheduled")
    assert 3500 < world.task(first).due_in <= 3600
    assert add(world.anybody, [4]) == first
    assert (pages_of(world, first), world.state(first)) == ([1, 2, {"page": 3}, [4]], "ready")
    assert world.task(first).due_in <= 0
    second = add(world.anybody, 5)
    assert second != first
    assert gathered(world) == [[1, 2, {"page": 3}, [4]], [5]]
    [claimed] = world.worker().claim()
    assert json.loads(claimed.input) == {"pages": [1, 2, {"page": 3}, [4]]}
    assert world.count("start_key") == 1


def test_one_that_is_full_by_itself_begins_at_once(world: World) -> None:
    run_id = add(world.anybody, 1, 2, 3, 4)
    assert world.state(run_id) == "ready"
    assert add(world.anybody, 5) != run_id


def test_what_would_be_too_long_lets_the_batch_go_and_begins_the_next(world: World) -> None:
    first, second = add(world.anybody, 1, 2, 3), add(world.anybody, 4, 5)
    assert first != second
    assert (world.state(first), world.state(second)) == ("ready", "scheduled")
    assert add(world.anybody, 6) == second
    assert gathered(world) == [[1, 2, 3], [4, 5, 6]]


def test_what_would_be_too_large_does_so_too(world: World) -> None:
    """Compressed it is small: what counts is what has to be read and written."""
    half = "x" * 600_000
    first = add(world.anybody, half)
    assert add(world.anybody, "y") == first
    second = add(world.anybody, half)
    assert (first != second, world.state(first)) == (True, "ready")


def test_one_that_is_due_is_added_to_until_it_is_promoted(world: World) -> None:
    first = add(world.anybody, 1)
    world.make_due(first)
    assert add(world.anybody, 2) == first
    assert world.anybody.promote_due() == 1
    second = add(world.anybody, 3)
    assert gathered(world) == [[1, 2], [3]]
    assert world.state(second) == "scheduled"


def test_size_and_wait_are_the_least_that_any_start_asked_for(world: World) -> None:
    first = add(world.anybody, 1)
    assert add(world.anybody, 2, how=Batch("pages", 3, timedelta(minutes=1))) == first
    assert 30 < world.task(first).due_in <= 60
    assert add(world.anybody, 3, how=Batch("pages", 100, timedelta(hours=2))) == first
    assert (world.state(first), pages_of(world, first)) == ("ready", [1, 2, 3])


def test_keys_are_each_workflows_own(world: World) -> None:
    others = {
        add(world.anybody, 1),
        world.anybody.start("invoice", input='{"pages": [1]}', batch=PAGES),
        add(world.anybody, 1, how=Batch("others", 4, 60)),
        world.anybody.start(dedup="pages"),
    }
    assert len(others) == 4
    assert world.count("start_key") == 4


def test_the_other_arguments_must_be_those_of_the_batch(world: World) -> None:
    first = add(world.anybody, 1, site="a", deep=True)
    before = world.task(first)
    for others in ({"site": "b", "deep": True}, {"site": "a"}, {}):
        with pytest.raises(psycopg.Error) as told:
            add(world.anybody, 2, 3, 4, 5, **others)
        assert told.value.sqlstate == "RLV01"
        assert str(first) in (told.value.diag.message_primary or "")
        assert "Nothing was started" in (told.value.diag.message_hint or "")
    another = lambda: world.anybody.start(  # noqa: E731
        input='{"urls": [1], "site": "a", "deep": true}', batch=PAGES
    )
    assert refused(another) == "RLV01"
    assert (world.task(first).state, pages_of(world, first)) == (before.state, [1])
    assert (world.count("run"), world.count("task")) == (1, 1)
    assert add(world.anybody, 2, deep=True, site="a") == first


def test_all_else_is_that_of_the_first_start(world: World) -> None:
    first = world.anybody.start(
        input='{"pages": [1]}', batch=PAGES, priority=7, attributes={"by": 1}, deadline=60
    )
    seen = "select attributes, priority, queue, deadline_at from rowlock.runs"
    before = world.anybody.run(seen)
    assert world.anybody.start(
        input='{"pages": [2]}', batch=PAGES, priority=9, attributes={"by": 2}, queue="other"
    ) == first  # fmt: skip
    assert world.anybody.run(seen) == before


def test_several_of_a_batch_in_one_call_are_as_in_several(world: World) -> None:
    runs = [entry(n, size=2, wait="1 hour") for n in range(5)]
    ids = world.anybody.start_many(*runs[:3], {"workflow": "invoice"}, *runs[3:])
    assert ids[0] == ids[1] != ids[2] == ids[4] != ids[5]
    assert [pages for pages in gathered(world) if pages] == [[0, 1], [2, 3], [4]]
    assert [world.state(one) for one in (ids[0], ids[2], ids[5])] == ["ready", "ready", "scheduled"]


def test_many_are_refused_together(world: World) -> None:
    """The second of them does not fit the first."""
    other = entry(2)
    other["input"]["site"] = "b"
    assert refused(lambda: world.anybody.start_many(entry(1), other)) == "RLV01"
    assert world.count("run") == world.count("start_key") == 0


def test_a_redo_and_a_fork_have_the_whole_list_and_no_key(world: World) -> None:
    worker = world.worker()
    first = add(world.anybody, 1)
    add(world.anybody, 2, 3, 4)
    worker.journal(finish(worker.claim_run(first), "failed"))
    second = add(world.anybody, 5)
    fork = world.anybody.fork(first)
    world.anybody.retry(first)
    assert {json.loads(one.input)["pages"].__len__() for one in worker.claim()} == {4}
    assert pages_of(world, fork) == [1, 2, 3, 4]
    assert add(world.anybody, 6) == second
    batch = "select batch from rowlock.runs where run_id = %s"
    assert world.anybody.ask(batch, fork) is None


def test_what_was_redone_or_ready_before_is_not_added_to(world: World) -> None:
    """A claim may have it in an older snapshot; what was recorded came of the list it had."""
    later = "select rowlock.reschedule(%s, now() + interval '1 hour')"
    redone = add(world.anybody, 1)
    world.anybody.cancel(redone)
    world.anybody.resume(redone)
    world.anybody.run(later, redone)
    assert world.state(redone) == "scheduled"
    was_ready = add(world.anybody, 2)
    assert was_ready != redone
    fall_due(world, was_ready)
    world.anybody.run(later, was_ready)
    assert world.state(was_ready) == "scheduled"
    third = add(world.anybody, 3)
    assert gathered(world) == [[1], [2], [3]]
    world.anybody.run("select rowlock.reschedule(%s, now() + interval '2 hours')", third)
    assert add(world.anybody, 4) == third


def test_a_removed_runs_key_leaves_with_it(world: World) -> None:
    run_id = add(world.anybody, 1)
    world.anybody.cancel(run_id)
    world.anybody.run("select rowlock.delete(%s)", run_id)
    assert world.count("start_key") == 0
    assert add(world.anybody, 2) != run_id


# --- two at once


@pytest.mark.parametrize("fate", FATES)
def test_an_open_one_holds_up_its_key_and_its_run_alone(world: World, fate: str) -> None:
    worker = world.worker()
    run_id, other = add(world.anybody, 1), add(world.anybody, 1, how=Batch("others", 4, 60))
    world.make_due(other)
    caller, two = world.session("caller").begin(), world.session("two")
    assert add(caller, 2) == run_id
    promoted = world.anybody.go(world.anybody.promote_due)
    assert not promoted.waits()
    assert promoted.result() == 1
    assert [one.run_id for one in worker.claim()] == [other]
    starts = two.go(lambda: add(two, 3))
    assert starts.waits()
    caller.end(fate)
    assert starts.result() == run_id
    assert pages_of(world, run_id) == ([1, 2, 3] if fate == "commit" else [1, 3])


@pytest.mark.parametrize("fate", FATES)
def test_a_start_waits_for_the_open_first_of_its_batch(world: World, fate: str) -> None:
    caller, two = world.session("caller").begin(), world.session("two")
    first = add(caller, 1)
    starts = two.go(lambda: add(two, 2))
    assert starts.waits()
    caller.end(fate)
    assert (starts.result() == first) == (fate == "commit")
    assert gathered(world) == ([[1, 2]] if fate == "commit" else [[2]])


@pytest.mark.parametrize("fate", FATES)
def test_the_one_that_fills_it_counts_when_it_is_committed(world: World, fate: str) -> None:
    worker = world.worker()
    run_id = add(world.anybody, 1)
    caller, two = world.session("caller").begin(), world.session("two")
    assert add(caller, 2, 3, 4) == run_id
    assert worker.claim() == []
    starts = two.go(lambda: add(two, 5))
    assert starts.waits()
    caller.end(fate)
    assert (starts.result() == run_id) == (fate == "rollback")
    claimed = [json.loads(one.input)["pages"] for one in worker.claim()]
    if fate == "commit":
        assert (claimed, gathered(world)) == ([[1, 2, 3, 4]], [[1, 2, 3, 4], [5]])
    else:
        assert (claimed, gathered(world)) == ([], [[1, 5]])


@pytest.mark.parametrize("fate", FATES)
def test_one_that_lets_the_batch_go_and_is_rolled_back_has_not(world: World, fate: str) -> None:
    run_id = add(world.anybody, 1, 2, 3)
    caller = world.session("caller").begin()
    second = add(caller, 4, 5)
    caller.end(fate)
    assert world.state(run_id) == ("ready" if fate == "commit" else "scheduled")
    assert (add(world.anybody, 6) == second) == (fate == "commit")
    assert gathered(world) == ([[1, 2, 3], [4, 5, 6]] if fate == "commit" else [[1, 2, 3, 6]])


@pytest.mark.parametrize("fate", FATES)
def test_one_that_falls_due_while_it_is_added_to_is_claimed_with_all(
    world: World, fate: str
) -> None:
    """Promotion passes it by until it is known what is in it."""
    worker = world.worker()
    run_id = add(world.anybody, 1)
    world.make_due(run_id)
    caller = world.session("caller").begin()
    assert add(caller, 2) == run_id
    assert (world.anybody.promote_due(), worker.claim()) == (0, [])
    caller.end(fate)
    assert world.anybody.promote_due() == 1
    [claimed] = worker.claim()
    assert json.loads(claimed.input)["pages"] == ([1, 2] if fate == "commit" else [1])


@pytest.mark.parametrize("fate", FATES)
def test_who_meets_its_promotion_waits_for_it_and_starts_anew(world: World, fate: str) -> None:
    run_id = add(world.anybody, 1)
    world.make_due(run_id)
    tender, caller = world.session("tender").begin(), world.session("caller")
    assert tender.promote_due() == 1
    starts = caller.go(lambda: add(caller, 2))
    assert starts.waits()
    tender.end(fate)
    assert (starts.result() == run_id) == (fate == "rollback")
    assert gathered(world) == ([[1], [2]] if fate == "commit" else [[1, 2]])


@pytest.mark.parametrize("fate", FATES)
def test_who_meets_its_cancel_waits_for_it_and_starts_anew(world: World, fate: str) -> None:
    run_id = add(world.anybody, 1)
    canceller, caller = world.session("canceller").begin(), world.session("caller")
    canceller.cancel(run_id)
    starts = caller.go(lambda: add(caller, 2))
    assert starts.waits()
    canceller.end(fate)
    assert (starts.result() == run_id) == (fate == "rollback")
    assert world.state(run_id) == ("cancelled" if fate == "commit" else "scheduled")


@pytest.mark.parametrize("fate", FATES)
def test_nothing_is_added_to_one_that_has_been_asked_to_stop(world: World, fate: str) -> None:
    """The cancel passed its task by, for somebody was adding to it: a later round ends it."""
    run_id = add(world.anybody, 1)
    caller, canceller, two = world.session("caller").begin(), world.anybody, world.session("two")
    assert add(caller, 2) == run_id
    cancels = canceller.go(lambda: canceller.cancel(run_id))
    assert not cancels.waits()
    cancels.result()
    caller.end(fate)
    assert world.state(run_id) == "scheduled"
    second = add(two, 3)
    assert second != run_id
    while world.anybody.sweep_cancels():
        pass
    assert (world.state(run_id), world.state(second)) == ("cancelled", "scheduled")


def test_two_who_fill_it_at_once_leave_a_full_one_and_the_next(world: World) -> None:
    add(world.anybody, 1, 2, 3)
    stranger, one, two = (world.session(name) for name in ("stranger", "one", "two"))
    stranger.begin().run("select from rowlock.start_key for update")
    first, second = one.go(lambda: add(one, 4)), two.go(lambda: add(two, 5))
    assert first.waits()
    assert second.waits()
    stranger.rollback()
    assert first.result() != second.result()
    assert sorted(map(len, gathered(world))) == [1, 4]


@pytest.mark.parametrize("level", OLD_SNAPSHOTS)
@pytest.mark.parametrize("meanwhile", ["added", "promoted", "full"])
def test_what_changed_after_the_callers_snapshot_is_a_serialization_failure(
    world: World, level: str, meanwhile: str
) -> None:
    run_id = add(world.anybody, 1)
    caller = world.session("caller").begin(level)
    caller.run("select count(*) from rowlock.run")
    if meanwhile == "promoted":
        fall_due(world, run_id)
    else:
        add(world.anybody, *([2] if meanwhile == "added" else [2, 3, 4]))
    before = gathered(world)
    assert refused(lambda: add(caller, 5)) == "40001"
    caller.rollback()
    assert gathered(world) == before


@pytest.mark.parametrize("level", OLD_SNAPSHOTS)
def test_an_older_snapshot_in_which_nothing_changed_adds(world: World, level: str) -> None:
    run_id = add(world.anybody, 1)
    caller = world.session("caller").begin(level)
    caller.run("select count(*) from rowlock.run")
    assert add(caller, 2) == run_id
    caller.commit()
    assert pages_of(world, run_id) == [1, 2]


def test_many_with_the_same_keys_in_opposite_order_never_deadlock(world: World) -> None:
    one, two = world.session("one").begin(), world.session("two")
    asked = [entry(n, batch=key, wait="1 hour") for n, key in enumerate("abc")]
    asked += [{"workflow": "fulfil", "debounce": "k", "quiet": "1 hour"}]
    first = one.start_many(*asked)
    starts = two.go(lambda: two.start_many(*reversed(asked)))
    assert starts.waits()
    one.commit()
    assert starts.result() == first[::-1]
    assert sorted(pages for pages in gathered(world) if pages) == [[0, 0], [1, 1], [2, 2]]


# --- what can't be meant


def test_options_that_contradict_each_other_are_refused(world: World) -> None:
    page: dict[str, Any] = {"input": {"pages": [1]}, "batch": "k"}
    bad: list[tuple[dict[str, Any], str]] = [
        (page | {"batch": ""}, "a batch that is empty"),
        (page | {"batch": 7}, "not a text"),
        (page | {"batch": "x" * 1001}, "longer than 1000 bytes"),
        (page | {"size": 0}, "a size of 0"),
        (page | {"size": 10_001}, "a size of 10001"),
        (page | {"size": 1.5}, "a size of 1.5"),
        (page | {"size": "many"}, "a size of many"),
        (page | {"wait": "0"}, "not a duration above 0"),
        (page | {"wait": "-1 s"}, "not a duration above 0"),
        (page | {"wait": "1001 years"}, "longer than 1000 years"),
        ({"size": 7}, "size without batch"),
        ({"wait": "1 s"}, "wait without batch"),
        (page | {"quiet": "1 s"}, "quiet without debounce"),
        (page | {"key": "k"}, "both batch and key"),
        (page | {"dedup": "k"}, "both dedup and batch"),
        (page | {"debounce": "k", "quiet": "1 s"}, "both debounce and batch"),
        (page | {"delay": "1 s"}, "both batch and delay"),
        (page | {"start_at": "2090-01-01"}, "both batch and start_at"),
        (page | {"start_before": "2090-01-01"}, "both batch and start_before"),
        (page | {"input": {}}, "must be a list (a JSON array), but 0 are"),
        (page | {"input": {"page": 1}}, "but 0 are"),
        (page | {"input": {"a": [1], "b": [2]}}, "but 2 are"),
        (page | {"input": {"pages": []}}, "its list pages is empty"),
        (
            page | {"size": 2, "input": {"pages": [1, 2, 3]}},
            "a list pages of 3, but a batch takes 2",
        ),
        (page | {"input": {"pages": [1] * 101}}, "of 101, but a batch takes 100"),
        (page | {"input": [1]}, "not a JSON object"),
        (
            page | {"input": {"pages": {"$codec": "zlib", "payload": "eJw="}}},
            "its argument pages was written by a codec",
        ),
        (
            page | {"input": {"pages": [1], "site": {"$codec": "aesgcm:1", "payload": "eJw="}}},
            "its argument site was written by a codec",
        ),
    ]
    for options, why in bad:
        plain = {"workflow": "fulfil"}
        with pytest.raises(psycopg.Error) as told:
            world.anybody.start_many(plain, {**plain, **options})
        assert (told.value.sqlstate, options) == ("RLV01", options)
        assert why in str(told.value)
        if {type(options.get("size", 1)), type(options.get("batch", ""))} == {int, str}:
            given = {k: json.dumps(v) if k == "input" else v for k, v in options.items()}
            names = ", ".join(f"{name} => %s" for name in given)
            with pytest.raises(psycopg.Error) as told:
                world.anybody.run(
                    f"select rowlock.start('fulfil', app => '{APP}', {names})", *given.values()
                )
            assert (told.value.sqlstate, options) == ("RLV01", options)
            assert why in str(told.value)
    assert world.count("run") == world.count("start_key") == 0


def test_a_start_that_says_no_more_than_a_key_takes_a_hundred_within_five_seconds(
    world: World,
) -> None:
    ask = "select rowlock.start('fulfil', %s, app => 'shop', batch => 'pages')"
    run_id = world.anybody.ask(ask, '{"pages": [1]}')
    assert 0 < world.task(run_id).due_in <= 5
    assert world.anybody.ask("select batch_size from rowlock.run") == Batch("pages").size == 100
    assert Batch("pages").wait == 5
    assert input_of(world, run_id) is None
