"""Groups of children: the parent is woken once, when all have ended, whatever the order.

Each journal notes how many of a group it ended, and sums up with its next batch what is committed.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import Claimed
from store.races.sessions import (
    MAX_TAKEOVERS,
    Worker,
    World,
    children,
    finish,
    for_group,
    go_on,
    receive,
    release,
    sleep_on,
    step,
    stop,
)

FATES = ["commit", "rollback"]
ISOLATIONS = ["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True)
class Family:
    """A parent and its group of children, on two workers."""

    parents: Worker
    parent: Claimed
    group: str
    worker: Worker
    members: list[Claimed]

    def sleep(self) -> str:
        return self.parents.verdict(sleep_on(self.parent, for_group(self.group, len(self.members))))

    def end(self, *numbers: int, worker: Worker | None = None) -> list[str]:
        """These children end in one batch; gives the groups that are to be summed up."""
        entries: list[Entry] = [finish(self.members[n]) for n in numbers]
        verdicts = (worker or self.worker).journal(*entries)
        assert {verdicts.of(entry) for entry in entries} == {"written"}
        return verdicts.groups

    def tally(self, worker: Worker | None = None) -> None:
        (worker or self.worker).journal(groups=[self.group])


def family(world: World, count: int = 3) -> Family:
    parents, worker = world.worker("parents"), world.worker("members")
    [parent] = world.claimed_by(parents)
    starts = children(parent, "1", count)
    group = parents.journal(starts).detail(starts)
    return Family(parents, parent, group, worker, worker.claim(count))


def arrived(world: World) -> int:
    return int(world.anybody.ask("select coalesce(sum(count), 0) from rowlock.arrival"))


def test_the_parent_is_woken_when_the_last_has_ended_and_not_before(world: World) -> None:
    group = family(world)
    assert group.sleep() == "written"
    assert group.end(0, 1) == [group.group]
    group.tally()
    assert world.state(group.parent.run_id) == "waiting"
    group.end(2)
    assert world.state(group.parent.run_id) == "waiting", "the next batch sums it up"
    group.tally()
    assert world.state(group.parent.run_id) == "ready"
    run = group.parents.claim_run(group.parent.run_id)
    assert group.parents.verdict(sleep_on(run, for_group(group.group, 3))) == "look"


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_two_end_in_two_journals_that_are_both_open(world: World, first: int) -> None:
    """Neither sees the other's; whoever sums up after both commits does."""
    group = family(world, 2)
    group.sleep()
    # The second child's worker.
    group.worker.journal(release(group.members[1]))
    second = world.worker("second")
    [member] = second.claim()
    one, two = group.worker, second
    one.begin().journal(finish(group.members[0]))
    two.begin().journal(finish(member))
    order = [one, two] if first == 0 else [two, one]
    order[0].commit()
    group.tally(order[0])
    assert world.state(group.parent.run_id) == "waiting"
    order[1].commit()
    group.tally(order[1])
    assert world.state(group.parent.run_id) == "ready"


def test_both_tallies_come_after_both_commits(world: World) -> None:
    group = family(world, 2)
    group.sleep()
    group.end(0)
    group.end(1)
    second = world.worker("second")
    group.worker.begin()
    group.tally()
    tally = second.go(lambda: group.tally(second))
    assert not tally.waits()
    tally.result()
    group.worker.rollback()
    world.anybody.tend()
    group.tally(second)
    assert world.state(group.parent.run_id) == "ready"


@pytest.mark.parametrize("fate", FATES)
def test_a_parent_that_goes_to_sleep_beside_the_tally_is_woken_by_the_sweep(
    world: World, fate: str
) -> None:
    """It looked before the last arrival was committed; its wait can't be seen yet."""
    group = family(world, 1)
    group.parents.begin()
    assert group.sleep() == "written"
    group.end(0)
    tally = group.worker.go(group.tally)
    assert not tally.waits()
    tally.result()
    world.anybody.tend()
    group.parents.end(fate)
    world.anybody.tend()
    assert world.state(group.parent.run_id) == ("ready" if fate == "commit" else "running")
    if fate == "rollback":
        assert group.sleep() == "look"
    assert world.count("wake") == 0


@pytest.mark.parametrize(("fate", "verdict"), [("commit", "look"), ("rollback", "written")])
def test_a_parent_that_sleeps_beside_an_open_finish_is_woken_by_the_tally(
    world: World, fate: str, verdict: str
) -> None:
    group = family(world, 1)
    group.worker.begin()
    group.end(0)
    assert group.sleep() == "written"
    group.worker.end(fate)
    group.tally()
    assert world.state(group.parent.run_id) == ("ready" if fate == "commit" else "waiting")
    if fate == "commit":
        run = group.parents.claim_run(group.parent.run_id)
        assert group.parents.verdict(sleep_on(run, for_group(group.group, 1))) == verdict


def test_a_tally_that_never_came_is_made_up_for_within_a_minute(world: World) -> None:
    """The journal died between its commit and its next batch."""
    group = family(world, 1)
    group.sleep()
    group.end(0)
    assert world.task(group.parent.run_id).due_in <= 60
    world.make_due(group.parent.run_id)
    world.anybody.tend()
    run = group.parents.claim_run(group.parent.run_id)
    assert group.parents.verdict(sleep_on(run, for_group(group.group, 1))) == "look"


def test_a_tally_waits_for_no_stranger_who_holds_the_parent(world: World) -> None:
    group = family(world, 1)
    group.sleep()
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", group.parent.run_id)
    [other] = world.claimed_by(group.worker)
    group.end(0)
    mine = step(other, "1")
    flush = group.worker.go(lambda: group.worker.journal(mine, groups=[group.group]))
    assert not flush.waits()
    assert flush.result().of(mine) == "written"
    world.anybody.tend()
    stranger.rollback()
    world.anybody.tend()
    assert world.state(group.parent.run_id) == "ready"


@pytest.mark.parametrize("how", ["dead", "cancelled before it began", "cancelled by force"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_child_that_ends_without_its_code_counts_too(
    world: World, how: str, isolation: str
) -> None:
    group = family(world, 1)
    [member] = group.members
    caller = world.session("caller").begin(isolation)
    caller.ask("select 1") if how == "dead" else caller.ask("select count(*) from rowlock.run")
    group.sleep()
    if how == "dead":
        caller.rollback()
        for _ in range(MAX_TAKEOVERS):
            owner = world.task(member.run_id).worker_id
            assert owner is not None
            world.expire(world.connect_again(owner))
            world.anybody.reap()
            world.worker("next").claim()
    else:
        group.worker.journal(release(member))
        caller.rollback()
        caller.begin(isolation)
        if how == "cancelled before it began":
            world.anybody.run("update rowlock.task set started_at = null where state = 'ready'")
        caller.cancel(member.run_id, force=how == "cancelled by force")
        caller.commit()
    assert arrived(world) == 1
    world.anybody.tend()
    assert world.state(group.parent.run_id) in ("ready", "running")


def test_a_child_counts_once_however_often_it_is_redone(world: World) -> None:
    group = family(world, 2)
    group.sleep()
    member = group.members[0]
    for n in range(3):
        group.worker.journal(finish(member, "failed"))
        world.anybody.retry(member.run_id)
        [member] = group.worker.claim()
        assert member.generation == n + 2
        assert member.in_group
    assert arrived(world) == 1
    group.worker.journal(finish(member))
    group.tally()
    assert (arrived(world), world.state(group.parent.run_id)) == (1, "waiting")


def test_a_child_that_continues_counts_when_it_ends(world: World) -> None:
    group = family(world, 1)
    group.sleep()
    [member] = group.members
    group.worker.journal(go_on(member))
    assert arrived(world) == 0
    member = group.worker.claim_run(member.run_id)
    assert group.worker.journal(finish(member)).groups == [group.group]
    group.tally()
    assert world.state(group.parent.run_id) == "ready"


def test_a_finish_that_is_sent_again_counts_once_and_is_summed_up(world: World) -> None:
    """The answer to its commit was lost, and with it the group's name."""
    group = family(world, 2)
    group.sleep()
    ends: list[Entry] = [finish(member) for member in group.members]
    group.worker.journal(*ends)
    again = group.worker.journal(*ends, retrying=True)
    assert [again.of(entry) for entry in ends] == ["written", "written"]
    assert arrived(world) == 2
    assert again.groups == [group.group]
    group.tally()
    assert world.state(group.parent.run_id) == "ready"


def test_a_zombies_finish_does_not_count(world: World) -> None:
    group = family(world, 2)
    group.sleep()
    world.expire(group.worker)
    world.anybody.reap()
    group.worker.journal(finish(group.members[0]))
    assert arrived(world) == 0


def test_a_cancelled_parent_cancels_the_children_of_its_group(world: World) -> None:
    group = family(world, 2)
    group.worker.journal(release(group.members[0]))
    group.parents.journal(stop(group.parent))
    owns = group.worker.heartbeat()
    assert owns is not None
    assert owns.cancels is not None
    [member] = group.worker.claim()
    assert member.cancel is not None


@pytest.mark.parametrize("fate", FATES)
def test_many_arrivals_are_folded_into_one_that_says_the_same(world: World, fate: str) -> None:
    """Each tally reads them all; and two journals that fold at once must not lose any."""
    count = 150
    group = family(world, count)
    group.sleep()
    for n in range(count - 1):
        group.end(n)
    second = world.worker("second")
    group.worker.begin()
    group.tally()
    fold = second.go(lambda: group.tally(second))
    assert not fold.waits()
    fold.result()
    assert arrived(world) == count - 1
    group.worker.end(fate)
    assert arrived(world) == count - 1
    if fate == "commit":
        assert world.count("arrival") == 1
    group.end(count - 1)
    group.tally()
    assert world.state(group.parent.run_id) == "ready"


def test_a_parent_that_is_redone_or_forked_may_wait_for_its_group_again(world: World) -> None:
    """What it knew is kept as long as it is itself; nobody will end those children once more."""
    group = family(world, 2)
    group.end(0, 1)
    group.tally()
    group.parents.journal(step(group.parent, "2", kind="results"), step(group.parent, "3"))
    group.parents.journal(finish(group.parent, "failed"))
    world.anybody.rewind(group.parent.run_id, "2")
    copy = world.anybody.fork(group.parent.run_id)
    for run in group.parents.claim():
        assert run.run_id in (group.parent.run_id, copy)
        assert group.parents.verdict(sleep_on(run, for_group(group.group, 2))) == "look"


def test_a_fork_that_waits_for_the_same_group_is_woken_with_its_original(world: World) -> None:
    group = family(world, 1)
    group.sleep()
    copy = world.anybody.fork(group.parent.run_id)
    run = group.parents.claim_run(copy)
    assert group.parents.verdict(sleep_on(run, for_group(group.group, 1))) == "written"
    group.end(0)
    group.tally()
    assert [world.state(one) for one in (group.parent.run_id, copy)] == ["ready", "ready"]


def test_arrivals_of_an_older_generation_are_not_those_of_the_next(world: World) -> None:
    group = family(world, 1)
    group.parents.journal(go_on(group.parent))
    run = group.parents.claim_run(group.parent.run_id)
    group.end(0)
    group.tally()
    starts = children(run, "1", 1)
    name = group.parents.journal(starts).detail(starts)
    assert name != group.group
    assert group.parents.verdict(sleep_on(run, for_group(name, 1))) == "written"


def test_a_parent_beside_its_group_receives_and_sleeps_as_any_run(world: World) -> None:
    group = family(world, 1)
    world.anybody.send(group.parent.run_id)
    entries: list[Entry] = [
        receive(group.parent, "2"),
        sleep_on(group.parent, for_group(group.group, 1)),
    ]
    verdicts = group.parents.journal(*entries)
    assert [verdicts.of(entry) for entry in entries] == ["written", "written"]
