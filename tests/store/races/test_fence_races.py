"""The fence: what a worker writes that is slow, paused, or no longer the owner.

The journal holds its worker's row while it writes; only who holds that row FOR UPDATE takes runs
away. Labels name the attacks on the protocol that these repeat on the real statements.
"""

from __future__ import annotations

import pytest

from store.races.sessions import (
    World,
    finish,
    release,
    step,
    suspend,
    timer,
)


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_batch_that_stalls_never_mixes_its_steps_with_the_next_owners(
    world: World, fate: str
) -> None:
    """1a: the batch stalls on one run while the reaper comes for all of them."""
    slow, fresh = world.worker("slow"), world.worker("fresh")
    stalled, other = world.claimed_by(slow, 2)
    stray = world.session("stray").begin()  # an earlier try, still open on the server
    stray.record_transaction(stalled, "5")

    flush = slow.go(
        lambda: slow.journal(step(stalled, "5"), step(other, "3"), step(other, "4"), retrying=True)
    )
    assert flush.waits()
    world.expire(slow)
    assert world.anybody.reap() == 0, "its journal is at work: nobody may take its runs"

    stray.end(fate)
    flush.result()
    assert world.anybody.reap() == 2
    [taken] = [one for one in fresh.claim() if one.run_id == other.run_id]
    again = step(taken, "3", '"fresh"')
    assert fresh.journal(again, retrying=True).of(again) == "recorded"
    assert world.steps(other.run_id) == [("3", "done", 1), ("4", "done", 1)]


def test_no_step_is_recorded_after_its_runs_outcome(world: World) -> None:
    """1b: a zombie comes back when another has finished its run."""
    zombie, fresh = world.worker("zombie"), world.worker("fresh")
    [old] = world.claimed_by(zombie)
    zombie.begin().journal(step(old, "1"))
    world.expire(zombie)
    assert world.anybody.reap() == 0
    zombie.commit()
    assert world.anybody.reap() == 1
    [new] = fresh.claim()
    fresh.journal(finish(new))

    assert zombie.journal(step(old, "2")).of_worker == "gone"
    late = world.anybody.ask(
        "select count(*) from rowlock.step as s join rowlock.outcome as o using (run_id)"
        " where s.recorded_at > o.finished_at"
    )
    assert late == 0


def test_a_run_that_ended_and_was_removed_gets_no_orphan_steps(world: World) -> None:
    """1c: retention removed the run before the late writer came."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    worker.journal(finish(claimed))
    for table, column in (("run", "id"), ("outcome", "run_id"), ("step", "run_id")):
        world.anybody.run(f"delete from rowlock.{table} where {column} = %s", claimed.run_id)

    late, asleep = step(claimed, "1"), timer(claimed, "2")
    verdicts = worker.journal(late, asleep, retrying=True)
    assert (verdicts.of(late), verdicts.of(asleep)) == ("lost", "lost")
    assert (world.count("step"), world.count("wait")) == (0, 0)


def test_a_journal_passes_by_while_a_takeover_of_its_worker_is_open(world: World) -> None:
    """1d: it neither waits nor writes; afterwards it learns that it is gone."""
    slow, reaper = world.worker("slow"), world.session("reaper")
    [claimed] = world.claimed_by(slow)
    world.expire(slow)
    reaper.begin()
    assert reaper.reap() == 1

    flush = slow.go(lambda: slow.journal(step(claimed, "1")))
    assert not flush.waits()
    assert flush.result().of_worker == "again"
    reaper.commit()
    assert slow.journal(step(claimed, "1")).of_worker == "gone"
    assert world.steps(claimed.run_id) == []


def test_a_takeover_that_rolls_back_leaves_the_worker_its_runs(world: World) -> None:
    """1d, the other fate."""
    slow, reaper = world.worker("slow"), world.session("reaper")
    [claimed] = world.claimed_by(slow)
    world.expire(slow)
    reaper.begin().reap()
    assert slow.journal(step(claimed, "1")).of_worker == "again"
    reaper.rollback()
    mine = step(claimed, "1")
    assert slow.journal(mine).of(mine) == "written"


def test_the_epoch_goes_on_after_a_block_and_a_resume(world: World) -> None:
    """1e: a zombie of an early epoch must never fit again."""
    worker, other = world.worker(), world.worker("other")
    [first] = world.claimed_by(worker)
    worker.journal(release(first, "nondeterminism"))
    assert world.state(first.run_id) == "blocked"
    world.anybody.run("select rowlock.resume(%s)", first.run_id)
    [second] = other.claim()
    assert second.epoch > first.epoch

    for late in (step(first, "1"), finish(first), suspend(first, timers=("1",)), release(first)):
        assert worker.journal(late).of(late) == "lost"
    assert world.task(first.run_id).worker_id == other.worker_id


@pytest.mark.parametrize("end", ["hand back", "sleep", "leave", "take over", "block"])
def test_every_end_of_a_claim_shuts_out_its_owner(world: World, end: str) -> None:
    """1f: a hand-back that left the epoch would let the old owner write on."""
    worker = world.worker()
    old, kept = world.claimed_by(worker, 2)
    match end:
        case "hand back":
            worker.journal(release(old))
        case "block":
            worker.journal(release(old, "nondeterminism"))
        case "sleep":
            worker.journal(timer(old, "1"), suspend(old, timers=("1",)))
        case "leave":
            # One task is held by somebody: the worker's row stays until that is free, too.
            stranger = world.session("stranger").begin()
            stranger.run("select from rowlock.task where run_id = %s for update", kept.run_id)
            assert worker.leave() == 1
            stranger.rollback()
        case "take over":
            stranger = world.session("stranger").begin()
            stranger.run("select from rowlock.task where run_id = %s for update", kept.run_id)
            world.expire(worker)
            assert world.anybody.reap() == 1
            stranger.rollback()
    assert world.task(old.run_id).epoch == old.epoch + 1

    late, mine = step(old, "7"), step(kept, "7")
    verdicts = worker.journal(late, mine)
    assert (verdicts.of(late), verdicts.of(mine)) == ("lost", "written")
    assert ("7", "done", 1) not in world.steps(old.run_id)


def test_a_step_stays_although_its_worker_loses_the_run_before_the_finish(world: World) -> None:
    """1g: what was recorded is adopted by the next owner."""
    slow, fresh = world.worker("slow"), world.worker("fresh")
    [old] = world.claimed_by(slow)
    slow.journal(step(old, "1"))
    world.expire(slow)
    world.anybody.reap()
    [new] = fresh.claim()

    assert slow.journal(finish(old)).of_worker == "gone"
    again = step(new, "1", '"fresh"')
    verdicts = fresh.journal(again, retrying=True)
    assert (verdicts.of(again), verdicts.detail(again)["output"]) == ("recorded", "done")
    fresh.journal(finish(new))
    assert world.state(old.run_id) == "succeeded"


def test_an_entry_of_an_old_epoch_does_nothing_beside_one_of_the_present(world: World) -> None:
    """A batch may carry what is left of an earlier claim of the same run by the same worker."""
    worker = world.worker()
    [old] = world.claimed_by(worker)
    worker.journal(timer(old, "1"), suspend(old, timers=("1",)))
    world.make_due(old.run_id)
    world.anybody.promote_due()
    [new] = worker.claim()

    stale, present = finish(old), suspend(new, timers=("1",))
    verdicts = worker.journal(stale, present)
    assert (verdicts.of(stale), verdicts.of(present)) == ("lost", "written")
    assert world.state(old.run_id) == "waiting"


def test_a_run_that_ends_twice_in_a_batch_leaves_nothing_behind(world: World) -> None:
    """A run that is being put to sleep is handed back, because its worker drains."""
    worker = world.worker()
    slept, done, watched = world.claimed_by(worker, 3)
    worker.journal(suspend(slept, watched.run_id), release(slept))
    assert world.state(slept.run_id) in ("waiting", "ready")
    worker.journal(suspend(done, watched.run_id), finish(done))
    assert world.state(done.run_id) == "succeeded"
    waits = world.anybody.ask("select count(*) from rowlock.wait where run_id = %s", done.run_id)
    assert waits == 0
