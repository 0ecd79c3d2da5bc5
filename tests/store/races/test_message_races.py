"""Messages: none is lost, none doubled, all are received in the order in which they were sent.

Whoever sends holds the receiver's run row, which no claim, takeover or finish needs; a receiver
that goes to sleep on a message takes the same row, or stays awake.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import psycopg
import pytest

from rowlock.store.entries import Entry
from rowlock.store.statements import Claimed
from store.races.sessions import (
    MAX_TAKEOVERS,
    Worker,
    World,
    emit,
    emitted,
    finish,
    for_message,
    go_on,
    receive,
    release,
    send,
    set_event,
    sleep_on,
    step,
    timer,
)

FATES = ["commit", "rollback"]
ISOLATIONS = ["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True)
class Receiver:
    """A run that can sleep on a message, and its worker."""

    worker: Worker
    run: Claimed

    def sleep(self, *, force: bool = False) -> str:
        return self.worker.verdict(sleep_on(self.run, for_message(), force=force))

    def receive(self, place: str = "1", *, retrying: bool = False) -> str:
        return self.worker.verdict(receive(self.run, place), retrying=retrying)


@pytest.fixture
def receiver(world: World) -> Receiver:
    worker = world.worker("receiver")
    return Receiver(worker, world.claimed_by(worker)[0])


def received(world: World, run: Claimed) -> list[object]:
    """What a run's receives got, in the order of recording."""
    rows = world.anybody.run(
        "select output from rowlock.step where run_id = %s and kind = 'receive' order by position",
        run.run_id,
    )
    return [value for (value,) in rows]


# --- a send against a receiver that goes to sleep


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_message_sent_before_its_receiver_sleeps_keeps_it_awake(
    world: World, receiver: Receiver, isolation: str
) -> None:
    sender = world.session("sender").begin(isolation)
    sender.send(receiver.run.run_id)
    sender.commit()
    assert receiver.sleep() == "look"
    assert receiver.receive() == "written"


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_receiver_stays_awake_while_a_send_is_open(
    world: World, receiver: Receiver, isolation: str, fate: str
) -> None:
    sender = world.session("sender").begin(isolation)
    sender.send(receiver.run.run_id)
    sleeps = receiver.worker.go(receiver.sleep)
    assert not sleeps.waits()
    assert sleeps.result() == "again"
    assert receiver.receive() == "empty"
    sender.end(fate)
    assert receiver.sleep() == ("look" if fate == "commit" else "written")


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_send_waits_for_an_open_sleep_and_wakes_it(
    world: World, receiver: Receiver, isolation: str, fate: str
) -> None:
    """Whatever the sender's snapshot: it may be older than the sleep."""
    sender = world.session("sender").begin(isolation)
    sender.ask("select count(*) from rowlock.task")
    receiver.worker.begin()
    assert receiver.sleep() == "written"
    sends = sender.go(lambda: sender.send(receiver.run.run_id))
    assert sends.waits()
    receiver.worker.end(fate)
    sends.result()
    sender.commit()
    world.anybody.sweep_wakes()
    assert world.state(receiver.run.run_id) == ("ready" if fate == "commit" else "running")
    if fate == "rollback":
        assert receiver.sleep() == "look"
    assert world.count("wake") == 0


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_message_wakes_a_sleeping_receiver_when_it_is_committed(
    world: World, receiver: Receiver, isolation: str, fate: str
) -> None:
    sender = world.session("sender").begin(isolation)
    sender.ask("select count(*) from rowlock.task")
    assert receiver.sleep() == "written"
    sender.send(receiver.run.run_id)
    world.anybody.tend()
    assert world.state(receiver.run.run_id) == "waiting"
    sender.end(fate)
    world.anybody.tend()
    assert world.state(receiver.run.run_id) == ("ready" if fate == "commit" else "waiting")


def test_a_message_of_another_topic_wakes_nobody(world: World, receiver: Receiver) -> None:
    receiver.sleep()
    world.anybody.send(receiver.run.run_id, topic="other")
    assert world.state(receiver.run.run_id) == "waiting"


def test_a_forced_sleep_beside_an_open_send_is_short(world: World, receiver: Receiver) -> None:
    """Its worker does not hold it for as long as a stranger likes; nor does it miss the message."""
    sender = world.session("sender").begin()
    sender.send(receiver.run.run_id)
    assert receiver.sleep(force=True) == "written"
    assert world.task(receiver.run.run_id).due_in <= 1.0
    world.make_due(receiver.run.run_id)
    tended = world.anybody.go(world.anybody.tend)
    assert not tended.waits()
    assert world.state(receiver.run.run_id) == "ready", "its timer went on beside the open send"
    sender.commit()
    again = Receiver(receiver.worker, receiver.worker.claim_run(receiver.run.run_id))
    assert again.sleep() == "look"


@pytest.mark.parametrize("fate", FATES)
def test_a_timeout_beside_an_open_send_that_holds_the_task_fires_afterwards(
    world: World, receiver: Receiver, fate: str
) -> None:
    """Only this run waits: the others' timers fire."""
    worker, [other] = receiver.worker, world.claimed_by(receiver.worker)
    for run in (receiver.run, other):
        limit = timer(run, "201", kind="message")
        limit.name = "approval"
        worker.journal(limit, sleep_on(run, for_message()))
        world.make_due(run.run_id)
    sender = world.session("sender").begin()
    sender.send(receiver.run.run_id)
    assert world.anybody.tend().promoted == 1
    assert world.state(other.run_id) == "ready"
    sender.end(fate)
    world.anybody.tend()
    assert world.state(receiver.run.run_id) == "ready"


# --- a send against claims, takeovers, ends and new generations


@pytest.mark.parametrize("fate", FATES)
def test_a_message_sent_while_its_receiver_is_claimed_is_there(
    world: World, receiver: Receiver, fate: str
) -> None:
    receiver.sleep()
    world.anybody.send(receiver.run.run_id, "first")
    receiver.worker.begin()
    run = receiver.worker.claim_run(receiver.run.run_id)
    sender = world.session("sender")
    sends = sender.go(lambda: sender.send(receiver.run.run_id, "second"))
    assert not sends.waits(), "it touches the task only where it sleeps"
    receiver.worker.end(fate)
    sends.result()
    if fate == "rollback":
        run = receiver.worker.claim_run(receiver.run.run_id)
    receiver.worker.journal(receive(run, "1"), receive(run, "2"))
    assert received(world, run) == ["first", "second"]


def test_claim_takeover_and_finish_pass_an_open_send(world: World, receiver: Receiver) -> None:
    """Promise 14: its row is one that none of them needs."""
    sender = world.session("sender").begin()
    sender.send(receiver.run.run_id)
    world.expire(receiver.worker)
    reap = world.anybody.go(world.anybody.reap)
    assert not reap.waits()
    assert reap.result() == 1
    fresh = world.worker("fresh")
    claim = fresh.go(lambda: fresh.claim_run(receiver.run.run_id))
    assert not claim.waits()
    run = claim.result()
    ends = fresh.go(lambda: fresh.verdict(step(run, "1"), finish(run)))
    assert not ends.waits()
    assert ends.result() == "written"
    sender.commit()
    assert world.inbox(run.run_id) == ["hello"], "accepted while it was unfinished; nobody read it"


def test_a_zombie_consumes_nothing_and_tells_nobody(world: World, receiver: Receiver) -> None:
    """Taken over: the message is for the next owner; no entry, event or message of the zombie."""
    zombie, fresh = receiver.worker, world.worker("fresh")
    [kept, other] = world.claimed_by(zombie, 2)
    world.anybody.send(receiver.run.run_id)
    stranger = world.session("stranger").begin()  # so that the zombie stays known
    stranger.run("select from rowlock.task where run_id = %s for update", kept.run_id)
    world.expire(zombie)
    world.anybody.reap()
    stranger.rollback()
    late: list[Entry] = [
        receive(receiver.run, "1"),
        send(receiver.run, "2", other.run_id),
        set_event(receiver.run, "3"),
        emit(receiver.run, "4"),
        emitted(receiver.run),
    ]
    for retrying in (False, True):
        verdicts = zombie.journal(*late, retrying=retrying)
        assert [verdicts.of(entry) for entry in late] == ["lost"] * len(late)
    assert world.inbox(receiver.run.run_id) == ["hello"]
    assert world.messages(other.run_id) == []
    assert (world.count("event"), world.count("stream_entry"), world.count("step")) == (0, 0, 0)
    [run] = [one for one in fresh.claim() if one.run_id == receiver.run.run_id]
    assert fresh.verdict(receive(run, "1")) == "written"


def test_a_message_is_kept_over_a_takeover_a_release_and_a_new_generation(
    world: World, receiver: Receiver
) -> None:
    worker, run = receiver.worker, receiver.run
    world.anybody.send(run.run_id, "one")
    world.anybody.send(run.run_id, "two")
    worker.journal(release(run))
    run = worker.claim_run(run.run_id)
    worker.journal(receive(run, "1"), go_on(run))
    run = worker.claim_run(run.run_id)
    assert run.generation == 2
    world.expire(worker)
    world.anybody.reap()
    fresh = world.worker("fresh")
    run = fresh.claim_run(run.run_id)
    fresh.journal(receive(run, "1"), receive(run, "2"))
    assert received(world, run) == ["one", "two"]


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_message_sent_while_its_receiver_continues_as_new_is_there_afterwards(
    world: World, receiver: Receiver, isolation: str, fate: str
) -> None:
    worker, run = receiver.worker, receiver.run
    sender = world.session("sender").begin(isolation)
    sender.ask("select count(*) from rowlock.task")
    worker.begin()
    assert worker.verdict(go_on(run)) == "written"
    sends = sender.go(lambda: sender.send(run.run_id))
    assert not sends.waits()
    sends.result()
    worker.end(fate)
    sender.commit()
    if fate == "commit":
        run = worker.claim_run(run.run_id)
    assert worker.verdict(receive(run, "1")) == "written"


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("fate", FATES)
def test_a_send_beside_a_finish_waits_for_nobody(
    world: World, receiver: Receiver, isolation: str, fate: str
) -> None:
    sender = world.session("sender").begin(isolation)
    receiver.worker.begin()
    receiver.worker.journal(finish(receiver.run))
    sends = sender.go(lambda: sender.send(receiver.run.run_id))
    assert not sends.waits()
    receiver.worker.end(fate)
    sends.result()
    sender.commit()
    with_task = fate == "rollback"
    if with_task:
        assert receiver.receive() == "written"
    else:
        with pytest.raises(psycopg.errors.DatabaseError, match="has ended"):
            world.anybody.send(receiver.run.run_id)


def test_given_up_as_dead_it_is_refused_messages(world: World, receiver: Receiver) -> None:
    for _ in range(MAX_TAKEOVERS):
        owner = world.task(receiver.run.run_id).worker_id
        assert owner is not None
        world.expire(world.connect_again(owner))
        world.anybody.reap()
        world.worker("next").claim()
    with pytest.raises(psycopg.errors.DatabaseError, match=r"has ended \(dead\)"):
        world.anybody.send(receiver.run.run_id)


# --- senders among themselves


@pytest.mark.parametrize("fate", FATES)
def test_ids_follow_the_order_of_commits(world: World, receiver: Receiver, fate: str) -> None:
    """Else a receiver would take the later one first, and the earlier one out of its order."""
    first, second = world.session("first").begin(), world.session("second")
    one = first.send(receiver.run.run_id, "one")
    sends = second.go(lambda: second.send(receiver.run.run_id, "two"))
    assert sends.waits()
    first.end(fate)
    assert sends.result() > one
    assert world.inbox(receiver.run.run_id) == (["one", "two"] if fate == "commit" else ["two"])


def test_a_journal_passes_by_a_receiver_whose_row_a_stranger_holds(
    world: World, receiver: Receiver
) -> None:
    """Its sender waits with all its entries; the batch's other runs go on."""
    worker, stranger = world.worker("sender"), world.session("stranger").begin()
    mine, other = world.claimed_by(worker, 2)
    stranger.send(receiver.run.run_id, "one")
    entries: list[Entry] = [
        step(mine, "1"),
        send(mine, "2", receiver.run.run_id, "two"),
        step(other, "1"),
    ]
    flush = worker.go(lambda: worker.journal(*entries))
    assert not flush.waits()
    assert [flush.result().of(entry) for entry in entries] == ["again", "again", "written"]
    stranger.commit()
    assert worker.verdict(*entries[:2]) == "written"
    assert world.inbox(receiver.run.run_id) == ["one", "two"]


def test_two_journals_that_send_to_each_others_runs_never_wait(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    [mine], [theirs] = world.claimed_by(one), world.claimed_by(two)
    one.begin()
    assert one.verdict(send(mine, "1", theirs.run_id), sleep_on(mine, for_message())) == "written"
    answers: list[Entry] = [send(theirs, "1", mine.run_id), sleep_on(theirs, for_message())]
    flush = two.go(lambda: two.journal(*answers))
    assert not flush.waits()
    assert [flush.result().of(entry) for entry in answers] == ["again", "again"]
    one.commit()
    verdicts = two.journal(*answers)
    assert [verdicts.of(entry) for entry in answers] == ["written", "look"]
    assert world.state(mine.run_id) == "ready"


def test_messages_of_one_batch_keep_their_order(world: World, receiver: Receiver) -> None:
    """Those of one sender; and a receiver in the same batch, before and after them."""
    worker = receiver.worker
    [sender] = world.claimed_by(worker)
    entries: list[Entry] = [send(sender, str(n), receiver.run.run_id, f"{n}") for n in (1, 2, 10)]
    early = receive(receiver.run, "1")
    sleeps = sleep_on(receiver.run, for_message())
    verdicts = worker.journal(entries[2], entries[0], early, entries[1], sleeps)
    assert (verdicts.of(early), verdicts.of(sleeps)) == ("empty", "look")
    assert world.inbox(receiver.run.run_id) == ["1", "2", "10"]


def test_a_send_that_wakes_is_told_and_its_receiver_may_be_locked(
    world: World, receiver: Receiver
) -> None:
    receiver.sleep()
    [sender] = world.claimed_by(receiver.worker)
    stranger = world.session("stranger").begin()
    stranger.run("select from rowlock.task where run_id = %s for update", receiver.run.run_id)
    assert receiver.worker.verdict(send(sender, "1", receiver.run.run_id)) == "written"
    assert world.anybody.tend().woken == 0
    stranger.rollback()
    assert world.anybody.tend().woken == 1
    assert world.state(receiver.run.run_id) == "ready"


def test_a_message_to_a_run_that_ended_or_never_was_is_undeliverable(
    world: World, receiver: Receiver
) -> None:
    worker, [sender] = receiver.worker, world.claimed_by(receiver.worker)
    worker.journal(send(sender, "1", receiver.run.run_id, key="once"), finish(receiver.run))
    entries: list[Entry] = [
        send(sender, "2", receiver.run.run_id),
        send(sender, "3", UUID_OF_NOBODY),
        send(sender, "4", receiver.run.run_id, key="once"),
    ]
    verdicts = worker.journal(*entries)
    assert [verdicts.of(entry) for entry in entries] == [
        "undeliverable",
        "undeliverable",
        "written",
    ]
    assert world.count("message") == 1


UUID_OF_NOBODY = UUID(int=7)


# --- keys


@pytest.mark.parametrize("fate", FATES)
def test_of_two_senders_with_one_key_the_second_waits_and_gets_the_firsts_message(
    world: World, receiver: Receiver, fate: str
) -> None:
    first, second = world.session("first").begin(), world.session("second")
    one = first.send(receiver.run.run_id, "one", key="k")
    sends = second.go(lambda: second.send(receiver.run.run_id, "two", key="k"))
    assert sends.waits()
    first.end(fate)
    assert (sends.result() == one) == (fate == "commit")
    assert world.inbox(receiver.run.run_id) == ["one" if fate == "commit" else "two"]


@pytest.mark.parametrize("isolation", ISOLATIONS[1:])
def test_a_sender_whose_snapshot_is_too_old_for_a_key_is_told_to_try_again(
    world: World, receiver: Receiver, isolation: str
) -> None:
    """As Postgres tells it of any row, and as drivers retry it: serialization_failure."""
    second = world.session("second").begin(isolation)
    second.ask("select count(*) from rowlock.message")
    one = world.anybody.send(receiver.run.run_id, "one", key="k")
    with pytest.raises(psycopg.errors.SerializationFailure):
        second.send(receiver.run.run_id, "two", key="k")
    second.rollback()
    assert second.begin(isolation).send(receiver.run.run_id, "two", key="k") == one
    second.commit()
    assert world.inbox(receiver.run.run_id) == ["one"]


@pytest.mark.parametrize("isolation", ISOLATIONS[1:])
def test_an_emit_whose_snapshot_is_too_old_is_told_to_try_again(
    world: World, receiver: Receiver, isolation: str
) -> None:
    late = world.session("late").begin(isolation)
    late.ask("select count(*) from rowlock.stream_entry")
    assert world.anybody.emit(receiver.run.run_id, "one") == 0
    with pytest.raises(psycopg.errors.SerializationFailure):
        late.emit(receiver.run.run_id, "two")
    late.rollback()
    assert late.begin(isolation).emit(receiver.run.run_id, "two") == 1
    late.commit()
    assert world.stream(receiver.run.run_id) == [(0, "one"), (1, "two")]


# --- receives in one batch, and batches that are sent again


def test_receives_of_one_batch_get_the_messages_in_the_order_of_their_positions(
    world: World, receiver: Receiver
) -> None:
    for value in ("one", "two"):
        world.anybody.send(receiver.run.run_id, value)
    world.anybody.send(receiver.run.run_id, "else", topic="other")
    entries: list[Entry] = [
        receive(receiver.run, "9", position=3),
        receive(receiver.run, "5", position=2),
        receive(receiver.run, "7", "other", position=4),
        receive(receiver.run, "6", position=1),
    ]
    verdicts = receiver.worker.journal(*entries)
    assert [verdicts.of(entry) for entry in entries] == ["empty", "written", "written", "written"]
    details = [verdicts.detail(entry) for entry in entries[1:]]
    assert details == ["two", "else", "one"]


def test_a_receive_that_is_sent_again_keeps_its_message(world: World, receiver: Receiver) -> None:
    """The first try committed, its answer was lost: the next message is for the next receive."""
    for value in ("one", "two"):
        world.anybody.send(receiver.run.run_id, value)
    entry = receive(receiver.run, "1")
    receiver.worker.journal(entry)
    again = receiver.worker.journal(entry, retrying=True)
    assert again.of(entry) == "recorded"
    assert again.detail(entry)["output"] == "one"
    assert world.inbox(receiver.run.run_id) == ["two"]


def test_a_receive_beside_one_that_is_recorded_gets_the_oldest_message(
    world: World, receiver: Receiver
) -> None:
    """The recorded one has its message: it must not take a turn again."""
    for value in ("one", "two", "three"):
        world.anybody.send(receiver.run.run_id, value)
    first, second = receive(receiver.run, "1"), receive(receiver.run, "2")
    receiver.worker.journal(first)
    verdicts = receiver.worker.journal(first, second, retrying=True)
    assert (verdicts.of(first), verdicts.of(second)) == ("recorded", "written")
    assert received(world, receiver.run) == ["one", "two"]


def test_a_receive_that_found_nothing_may_find_something_when_it_is_sent_again(
    world: World, receiver: Receiver
) -> None:
    """Nobody got the first answer: so its place in the history is before what was written then."""
    early, step_ = receive(receiver.run, "1"), step(receiver.run, "2")
    assert receiver.worker.journal(early, step_).of(early) == "empty"
    world.anybody.send(receiver.run.run_id)
    verdicts = receiver.worker.journal(early, step_, retrying=True)
    assert (verdicts.of(early), verdicts.of(step_)) == ("written", "recorded")
    history = world.anybody.run(
        "select place from rowlock.step where run_id = %s order by position", receiver.run.run_id
    )
    assert history == [("1",), ("2",)]


@pytest.mark.parametrize("fate", FATES)
def test_a_receive_is_sent_again_while_its_first_try_is_open(
    world: World, receiver: Receiver, fate: str
) -> None:
    world.anybody.send(receiver.run.run_id, "one")
    first, second = receiver.worker, world.connect_again(receiver.worker.worker_id)
    entry = receive(receiver.run, "1")
    first.begin().journal(entry)
    flush = second.go(lambda: second.journal(entry, retrying=True))
    assert flush.waits(), "for its own first try"
    first.end(fate)
    assert flush.result().of(entry) == ("recorded" if fate == "commit" else "written")
    assert received(world, receiver.run) == ["one"]
    assert world.inbox(receiver.run.run_id) == []


def test_what_hangs_on_a_step_that_is_sent_again_is_not_done_again(
    world: World, receiver: Receiver
) -> None:
    worker, [sender] = receiver.worker, world.claimed_by(receiver.worker)
    entries: list[Entry] = [
        send(sender, "1", receiver.run.run_id),
        set_event(sender, "2", "first"),
        emit(sender, "3"),
        finish(sender),
    ]
    worker.journal(*entries)
    world.anybody.run("update rowlock.event set value = '\"later\"'")
    verdicts = worker.journal(*entries, retrying=True)
    assert [verdicts.of(entry) for entry in entries] == ["recorded"] * 3 + ["written"]
    assert world.count("message") == 1
    assert world.stream(sender.run_id) == [(0, "line")]
    assert world.anybody.ask("select value from rowlock.event") == "later"


def test_a_poisoned_entry_beside_receives_and_sends_fails_alone(
    world: World, receiver: Receiver
) -> None:
    """The whole batch first, then each entry by itself, as a retry: nothing twice, in order."""
    worker, [sender] = receiver.worker, world.claimed_by(receiver.worker)
    world.anybody.send(sender.run_id, "for the sender")
    poison = step(receiver.run, "7", '"a\\u0000b"')
    healthy: list[Entry] = [
        send(sender, "1", receiver.run.run_id),
        receive(sender, "2"),
        emit(sender, "3"),
    ]
    with pytest.raises(psycopg.DataError):
        worker.journal(*healthy, poison)
    assert (world.count("message"), world.count("step")) == (1, 0)
    for entry in healthy:
        assert worker.verdict(entry, retrying=True) == "written"
    assert world.inbox(receiver.run.run_id) == ["hello"]
    assert received(world, sender) == ["for the sender"]
    assert world.stream(sender.run_id) == [(0, "line")]


# --- streams


@pytest.mark.parametrize("fate", FATES)
def test_entries_of_strangers_and_of_the_run_itself_leave_no_hole(
    world: World, receiver: Receiver, fate: str
) -> None:
    stranger = world.session("stranger").begin()
    stranger.emit(receiver.run.run_id, "theirs")
    mine: list[Entry] = [
        emit(receiver.run, "1", "a"),
        emitted(receiver.run, "b"),
        emitted(receiver.run, "c"),
    ]
    flush = receiver.worker.go(lambda: receiver.worker.journal(*mine))
    assert not flush.waits()
    assert {flush.result().of(entry) for entry in mine} == {"again"}
    stranger.end(fate)
    receiver.worker.journal(*mine)
    values = (["theirs"] if fate == "commit" else []) + ["a", "b", "c"]
    assert world.stream(receiver.run.run_id) == list(enumerate(values))
