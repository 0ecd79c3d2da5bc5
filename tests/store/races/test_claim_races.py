"""Claims and leases: no run in two hands, none in a dead one, nobody waits for anybody."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest

from store.races.sessions import APP, Worker, World, finish, release, step, suspend

# --- two claimers


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_two_claimers_never_get_the_same_run(world: World, fate: str) -> None:
    """4a: the second passes by what the first holds."""
    one, two = world.worker("one"), world.worker("two")
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 5)
    first = one.begin().claim(3)
    claim = two.go(lambda: two.claim(5))
    assert not claim.waits()
    second = claim.result()
    one.end(fate)
    assert len(first) == 3
    assert len(second) == 2
    assert not {c.run_id for c in first} & {c.run_id for c in second}
    assert len(two.claim(5)) == (0 if fate == "commit" else 3)


def test_a_claim_that_began_before_another_committed_sees_what_is_left(world: World) -> None:
    """4c: it waits for its own row, and every later statement looks anew."""
    slow, fast = world.worker("slow"), world.worker("fast")
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 3)
    heartbeat = world.connect_again(slow.worker_id).begin()
    heartbeat.heartbeat()
    claim = slow.go(lambda: slow.claim(3, listening=True))
    assert claim.waits(), "to say that it listens"
    assert len(fast.claim(2)) == 2
    heartbeat.commit()
    assert len(claim.result()) == 1


def test_many_claimers_share_a_backlog_without_overlap(world: World) -> None:
    """4a at random: every run is claimed once and finished once."""
    runs = set(world.anybody.start_many(*[{"workflow": "fulfil"}] * 300))
    workers = [world.worker(f"worker {n}") for n in range(4)]

    def work(worker: Worker) -> list[UUID]:
        mine: list[UUID] = []
        while claimed := worker.claim(7):
            assert all(one.epoch == 1 for one in claimed)
            assert set(worker.write(*[finish(one) for one in claimed])) == {"written"}
            mine += [one.run_id for one in claimed]
        return mine

    with ThreadPoolExecutor(len(workers)) as threads:
        done = [run for found in threads.map(work, workers) for run in found]
    # Who found only what others held has stopped early; the last one to look has not.
    done += work(workers[0])
    assert len(done) == len(runs)
    assert set(done) == runs


def test_a_ready_child_is_claimed_while_its_parents_suspend_is_open(world: World) -> None:
    """Watching holds a task FOR KEY SHARE, which no claim may wait for or pass by."""
    parents, worker = world.worker("parents"), world.worker()
    [parent] = world.claimed_by(parents)
    child = world.anybody.start()
    sleeps = suspend(parent, child)
    assert parents.begin().journal(sleeps).of(sleeps) == "written"
    assert [one.run_id for one in worker.claim()] == [child]
    parents.commit()
    assert world.state(child) == "running"


# --- large claims take turns


def two_at_it(world: World) -> list[Worker]:
    """As many as may be at one queue with large claims, and 100 runs that they leave."""
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 180)
    workers = [world.worker(f"worker {n}").begin() for n in range(2)]
    assert [len(one.claim(40)) for one in workers] == [40] * 2
    return workers


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_who_gets_no_turn_is_told_to_come_again_and_holds_nothing(world: World, fate: str) -> None:
    first, _ = two_at_it(world)
    late = world.worker("late")
    claim = late.go(lambda: late.claim(40))
    assert not claim.waits()
    assert claim.result() == []
    assert late.next.again_in == 0
    assert len(late.claim(31)) == 31, "a small one needs no turn"
    first.end(fate)
    assert len(late.claim(40)) == 40
    assert late.next.again_in is None


def test_turns_are_those_of_one_queue(world: World) -> None:
    two_at_it(world)
    elsewhere = [{"workflow": "fulfil", "queue": "other"}]
    others = set(world.anybody.start_many(*elsewhere * 40))
    late = world.worker("late")
    assert {one.run_id for one in late.claim(100)} == others
    assert late.next.again_in == 0, "of the first queue there is more"


def test_a_limited_queue_knows_no_turns(world: World) -> None:
    """There one claim is at it at a time anyway, and says so itself."""
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 200)
    world.anybody.limit(concurrency=1000)
    locks = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    worker = world.worker().begin()
    assert len(worker.claim(100)) == 100
    assert worker.ask(locks) == 0
    worker.commit()
    world.anybody.limit(concurrency=None)
    worker.begin()
    assert len(worker.claim(31)) == 31
    assert worker.ask(locks) == 0
    assert len(worker.claim(32)) == 32
    assert worker.ask(locks) == 1


# --- a claim against the reaper


def test_a_hand_over_in_progress_is_claimed_only_when_it_is_done(world: World) -> None:
    """4g"""
    dead, fresh = world.worker("dead"), world.worker("fresh")
    [old] = world.claimed_by(dead)
    world.expire(dead)
    reaper = world.session("reaper").begin()
    assert reaper.reap() == 1
    assert fresh.claim() == []
    reaper.commit()
    [new] = fresh.claim()
    assert (new.run_id, new.epoch) == (old.run_id, old.epoch + 2)


def test_the_reaper_passes_by_while_a_claim_is_open_and_then_finds_it(world: World) -> None:
    """4j: else the claim commits after its worker was removed, and nobody finds it again."""
    slow, other = world.worker("slow"), world.worker("other")
    world.anybody.start()
    [claimed] = slow.begin().claim()
    world.expire(slow)
    reap = world.anybody.go(world.anybody.reap)
    assert not reap.waits()
    assert reap.result() == 0
    assert world.count("worker") == 2, "not removed: its claim may still commit"
    slow.commit()
    assert world.state(claimed.run_id) == "running"
    assert world.anybody.reap() == 1
    assert [one.run_id for one in other.claim()] == [claimed.run_id]


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_a_claim_gets_nothing_while_its_worker_is_being_removed(world: World, fate: str) -> None:
    """4j, the other order; if the takeover rolls back, the lease is over all the same."""
    slow = world.worker("slow")
    world.anybody.start()
    world.expire(slow)
    reaper = world.session("reaper").begin()
    reaper.reap()
    claim = slow.go(slow.claim)
    assert not claim.waits()
    assert claim.result() == []
    reaper.end(fate)
    assert slow.claim() == []


def test_a_claim_gets_nothing_while_its_worker_leaves(world: World) -> None:
    """4j: what it claimed now, nobody would hand back."""
    worker = world.worker()
    leaving = world.connect_again(worker.worker_id).begin()
    leaving.leave()
    world.anybody.start()
    claim = worker.go(worker.claim)
    assert not claim.waits()
    assert claim.result() == []
    leaving.rollback()
    assert len(worker.claim()) == 1


def test_a_worker_whose_lease_is_over_or_that_drains_claims_nothing(world: World) -> None:
    late, drained = world.worker("late"), world.worker("drained")
    world.anybody.start()
    world.expire(late)
    drained.run("select rowlock.drain(%s)", drained.worker_id)
    assert late.claim() == drained.claim() == []


def test_a_run_whose_worker_row_is_gone_is_found(world: World) -> None:
    """4j: whoever deletes a worker by hand strands nothing."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    world.anybody.run("delete from rowlock.worker where id = %s", worker.worker_id)
    assert world.anybody.tend().taken_over == 1
    assert world.state(claimed.run_id) == "ready"


def test_two_reapers_share_the_work_and_count_each_takeover_once(world: World) -> None:
    dead = world.worker("dead")
    [claimed] = world.claimed_by(dead)
    world.expire(dead)
    one, two = world.session("one").begin(), world.session("two")
    assert one.reap() == 1
    second = two.go(two.reap)
    assert not second.waits()
    assert second.result() == 0
    one.commit()
    assert two.reap() == 0
    assert world.task(claimed.run_id).takeovers == 1


def test_takeovers_are_counted_from_the_last_new_step(world: World) -> None:
    """A run that gets on is never given up, however often its workers die."""
    for number in range(1, 6):
        worker = world.worker()
        claimed = worker.claim() or world.claimed_by(worker)
        worker.journal(step(claimed[0], str(number)))
        world.expire(worker)
        assert world.anybody.reap(max_takeovers=2) == 1
        assert world.task(claimed[0].run_id).takeovers == 1
    worker = world.worker()
    [last] = worker.claim()
    world.expire(worker)
    world.anybody.reap(max_takeovers=2)
    assert world.state(last.run_id) == "dead"


def test_the_dead_workers_row_stays_until_its_last_run_is_taken(world: World) -> None:
    """A bounded reap leaves it the rest, which it may still finish."""
    dead = world.worker("dead")
    claimed = world.claimed_by(dead, 3)
    world.expire(dead)
    assert world.anybody.reap(limit=2) == 2
    ends = [finish(one) for one in claimed]
    verdicts = dead.journal(*ends)
    assert sorted(verdicts.of(end) for end in ends) == ["lost", "lost", "written"]
    assert world.anybody.reap(limit=2) == 0
    assert dead.heartbeat() is None


# --- the lease


def test_a_heartbeat_names_a_claim_whose_reply_was_lost(world: World) -> None:
    """4k: so that it can be handed back; a renewed lease would keep it for ever."""
    worker, other = world.worker(), world.worker("other")
    world.anybody.start()
    [lost] = worker.claim()
    owned = worker.heartbeat()
    assert owned is not None
    assert (owned.run_ids, owned.epochs) == ([lost.run_id], [lost.epoch])
    hand_back = release(lost)
    assert worker.journal(hand_back).of(hand_back) == "written"
    assert worker.heartbeat() is not None
    assert [one.run_id for one in other.claim()] == [lost.run_id]


def test_a_heartbeat_waits_for_the_reaper_and_then_learns_its_fate(world: World) -> None:
    worker = world.worker()
    world.claimed_by(worker)
    world.expire(worker)
    reaper = world.session("reaper").begin()
    reaper.reap()
    beat = worker.go(worker.heartbeat)
    assert beat.waits()
    reaper.commit()
    assert beat.result() is None


def test_a_heartbeat_passes_an_open_journal_and_the_other_way_round(world: World) -> None:
    """Both hold the worker's row, in modes that suffer each other."""
    worker = world.worker()
    again = world.connect_again(worker.worker_id)
    [claimed] = world.claimed_by(worker)
    worker.begin().journal(step(claimed, "1"))
    beat = again.go(again.heartbeat)
    assert not beat.waits()
    worker.commit()
    again.begin().heartbeat()
    entry = step(claimed, "2")
    flush = worker.go(lambda: worker.journal(entry))
    assert not flush.waits()
    assert flush.result().of(entry) == "written"
    again.commit()


def test_a_lease_counts_from_the_clock_not_from_the_transactions_begin(world: World) -> None:
    """8F"""
    worker = world.worker()
    worker.begin().run("select pg_sleep(0.3)")
    worker.heartbeat(lease_s=10.0)
    left = worker.ask(
        "select extract(epoch from lease_until - clock_timestamp()) from rowlock.worker"
        " where id = %s",
        worker.worker_id,
    )
    worker.commit()
    assert left > 9.9


def test_leaving_waits_for_nobody_and_frees_what_can_be_freed(world: World) -> None:
    worker, other = world.worker(), world.worker("other")
    first, second = world.claimed_by(worker, 2)
    journal = world.connect_again(worker.worker_id).begin()
    journal.journal(step(first, "1"))
    leaving = worker.go(worker.leave)
    assert not leaving.waits()
    assert leaving.result() == 0, "its own journal is at work"
    journal.commit()
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", second.run_id)
    assert worker.leave() == 1
    assert [one.run_id for one in other.claim()] == [first.run_id]
    stranger.rollback()
    assert worker.leave() == 1
    assert [one.run_id for one in other.claim()] == [second.run_id]
    assert worker.heartbeat() is None


# --- the gate


def test_an_open_claim_holds_the_gate_so_that_a_limit_would_wait_for_it(world: World) -> None:
    """4d': a limited claim takes the gate FOR UPDATE; unlimited ones share it."""
    one, two = world.worker("one"), world.worker("two")
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 2)
    assert len(one.begin().claim(1)) == 1
    gate = "select name from rowlock.queue_gate where app = %s and name = 'default' for {}"
    assert world.anybody.run(gate.format("update skip locked"), APP) == []
    assert world.anybody.run(gate.format("key share skip locked"), APP) == [("default",)]
    assert len(two.claim(1)) == 1
    one.commit()
    assert world.anybody.run(gate.format("update skip locked"), APP) == [("default",)]


def test_a_gate_that_is_taken_stops_the_claims_of_its_queue_only(world: World) -> None:
    worker, limited = world.worker(), world.session("limited").begin()
    world.anybody.start()
    other = world.anybody.start(queue="other")
    limited.run("select from rowlock.queue_gate where name = 'default' for update")
    claim = worker.go(worker.claim)
    assert not claim.waits()
    assert [one.run_id for one in claim.result()] == [other]
    limited.rollback()
    assert len(worker.claim()) == 1


# --- READ COMMITTED


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize(
    "call", ["claim", "journal", "heartbeat", "leave", "tend", "reap", "record_failed_transaction"]
)
def test_our_own_transactions_demand_read_committed(
    world: World, call: str, isolation: str
) -> None:
    """4b: at a higher level a lock succeeds, and the look behind it is old."""
    worker = world.worker()
    [claimed] = world.claimed_by(worker)
    if call == "reap":
        world.expire(world.worker("dead"))
    worker.begin(isolation)
    calls: dict[str, Callable[[], object]] = {
        "claim": lambda: worker.claim(),
        "journal": lambda: worker.journal(step(claimed, "1")),
        "heartbeat": lambda: worker.heartbeat(),
        "leave": lambda: worker.leave(),
        "tend": lambda: worker.tend(),
        "reap": lambda: worker.reap(),
        "record_failed_transaction": lambda: worker.record_failed_transaction(claimed, "1"),
    }
    with pytest.raises(psycopg.Error) as refused:
        calls[call]()
    assert refused.value.sqlstate == "RLI01"
    worker.rollback()
    assert world.state(claimed.run_id) == "running"
