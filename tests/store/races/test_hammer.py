"""Everything at random, by a seed: workers and callers meet on a few runs, then all is checked.

Transactions are held open for a moment and rolled back now and then, batches are sent again,
workers are declared dead at work, callers come with every isolation level. No worker's call may
wait for a caller's transaction, none may deadlock; in the end every history is whole, nobody sleeps
in vain.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import psycopg
import pytest

import postgres
from rowlock.embedded import Server
from rowlock.store.entries import Entry, Suspend, Watch
from rowlock.store.statements import Claimed
from store.races.sessions import (
    Connections,
    Session,
    Worker,
    World,
    child,
    children,
    emit,
    emitted,
    finish,
    for_end,
    for_event,
    for_group,
    for_message,
    go_on,
    receive,
    release,
    send,
    set_event,
    sleep_on,
    step,
    stop,
    timer,
)
from store.races.waiting import is_caller, is_worker, waiting_for_callers
from workers import checks

SECONDS = float(os.environ.get("ROWLOCK_HAMMER_SECONDS", "8"))
SEED = int(os.environ.get("ROWLOCK_HAMMER_SEED", "0")) or random.SystemRandom().randint(1, 10**6)
ISOLATIONS = ["read committed", "repeatable read", "serializable"]
RUNS = 10
FORGIVEN = {
    "RLS01": "it has not ended, or not so",
    "RLS02": "it has ended",
    "RLN04": "nothing is recorded at that place",
    "40001": "an old snapshot",
}

CHECKS = checks.CHECKS | {
    "a run sleeps although it is to be cancelled and has not seen it": """
        select t.run_id from rowlock.task t join rowlock.cancel_request c on c.run_id = t.run_id
         where t.state in ('waiting', 'scheduled') and rowlock.is_meant(c, t.generation)
           and not exists (select from rowlock.step s
                            where s.run_id = t.run_id and s.generation = t.generation
                              and s.place = 'cancel')""",
    "a request to cancel was left behind": """
        select c.run_id from rowlock.cancel_request c
         where not exists (select from rowlock.task t
                            where t.run_id = c.run_id and rowlock.is_meant(c, t.generation))""",
    "a run is set aside for a pause that is over": """
        select t.run_id from rowlock.task t
         where t.state = 'blocked' and rowlock.is_paused(t.reason)
           and not exists (select from rowlock.pause p
                            where p.app = t.app and p.workflow = t.workflow)""",
    "the end of a pause was left behind": "select app, workflow from rowlock.pause",
    "a note was left behind": "select run_id, on_run_id from rowlock.wake",
    "a run sleeps although its group has ended": """
        select t.run_id from rowlock.task t
          join rowlock.wait w on w.run_id = t.run_id and w.generation = t.generation
         where t.state = 'waiting' and w.kind = 'group' and t.due_at > now() + interval '2 s'
           and w.count <= (select sum(a.count) from rowlock.arrival a where a.name = w.name)""",
    "the arrivals of a group are not its children that have ended": """
        select x.name, x.ended, a.arrived from (
            select format('%s:%s:%s', r.parent_id, r.parent_generation, r.parent_place) as name,
                   count(*) as ended
              from rowlock.run r
             where r.child_index is not null
               and exists (select from rowlock.outcome o
                            where o.run_id = r.id and o.status <> 'continued')
             group by 1) x
          full join (select name, sum(count) as arrived from rowlock.arrival group by 1) a
            on a.name = x.name
         where x.ended is distinct from a.arrived""",
    "a generation is missing": """
        select run_id from (
            select run_id, generation from rowlock.outcome
            union select run_id, generation from rowlock.task) x
         group by run_id having count(*) <> max(generation)""",
    "messages of a run are not in the order of their times": """
        select run_id from (
            select run_id, sent_at, lag(sent_at) over (partition by run_id order by id) as before
              from rowlock.message) x where before > sent_at""",
    "an outcome was recorded in an epoch that is over": """
        select o.run_id from rowlock.outcome o
          join rowlock.outcome p on p.run_id = o.run_id and p.generation = o.generation - 1
         where o.epoch < p.epoch""",
}


IN_VAIN = """
select t.run_id, t.epoch, w.kind from rowlock.task as t
  join rowlock.wait as w on w.run_id = t.run_id and w.generation = t.generation
 where t.state = 'waiting' and t.due_at > clock_timestamp() + interval '2 minutes'
   and not exists (select from rowlock.wake as k
                    where k.run_id = t.run_id or k.on_run_id = w.on_run_id)
   and (w.kind = 'message' and exists (
            select from rowlock.message as m
             where m.run_id = t.run_id and m.topic = w.name and m.received_place is null)
        or w.kind = 'event' and exists (
            select from rowlock.event as e where e.run_id = w.on_run_id and e.name = w.name)
        or w.kind in ('event', 'run') and not exists (
            select from rowlock.task as o where o.run_id = w.on_run_id))
"""
"""What happens and who is woken or noted by it is one commit: no moment may show any of these."""


class Hammer:
    """What all threads share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.runs = world.anybody.start_many(*[{"workflow": "fulfil"}] * RUNS)
        self.until = time.monotonic() + SECONDS
        self.done: Counter[str] = Counter()
        self.sent: list[tuple[UUID, int]] = []
        """Messages of callers that were committed."""
        self.lock = threading.Lock()

    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def did(self, what: str) -> None:
        with self.lock:
            self.done[what] += 1


def caller(hammer: Hammer, session: Session, number: int) -> None:
    """One call on one run in a transaction of its own, held open for a moment."""
    dice = random.Random(SEED * 100 + number)
    is_caller(session)
    session.run("set lock_timeout = '5 s'")
    while hammer.goes_on():
        run = dice.choice(hammer.runs)
        call = dice.choices(
            [
                *("send", "set_event", "emit", "cancel", "force"),
                *("retry", "resume", "rewind", "fork", "fork with children"),
                *("move", "reprioritise", "reschedule", "pause", "unpause"),
            ],
            [8, 4, 2, 1.5, 0.5, 5, 5, 2, 0.1, 0.1, 1, 1, 1, 0.5, 2],
        )[0]
        message = None
        try:
            session.begin(dice.choice(ISOLATIONS))
            if dice.random() < 0.5:
                session.ask("select count(*) from rowlock.wait")
                session.run("select pg_sleep(%s)", dice.random() * 0.03)
            match call:
                case "send":
                    key = dice.choice([None, None, str(dice.random())])
                    message = session.send(run, str(number), topic=dice.choice("ab"), key=key)
                case "set_event":
                    session.set_event(run)
                case "emit":
                    session.emit(run)
                case "cancel" | "force":
                    session.cancel(run, force=call == "force")
                case "retry":
                    session.retry(run)
                case "resume":
                    session.resume(run)
                case "rewind":
                    session.rewind(run, str(dice.randint(1, 6)))
                case "fork":
                    session.fork(run)
                case "fork with children":
                    session.run("select rowlock.fork(%s, children => true)", run)
                case "move":
                    session.run(
                        "select rowlock.move(%s, %s)", run, dice.choice(["default", "other"])
                    )
                case "reprioritise":
                    session.run("select rowlock.reprioritise(%s, %s)", run, dice.randint(0, 100))
                case "reschedule":
                    session.run(
                        "select rowlock.reschedule(%s, clock_timestamp() + %s * interval '1 ms')",
                        run,
                        dice.randint(-20, 20),
                    )
                case "pause" | "unpause":
                    workflow = dice.choice(["fulfil", "invoice"])
                    session.run(f"select rowlock.{call}(workflow => %s)", workflow)
            session.run("select pg_sleep(%s)", dice.choice([0, 0.002, 0.01, 0.25]) * dice.random())
            if dice.random() < 0.75:
                session.commit()
                hammer.did(call)
                if message is not None:
                    hammer.sent.append((run, message))
            else:
                session.rollback()
        except psycopg.Error as error:
            session.rollback()
            if error.sqlstate not in FORGIVEN:
                raise
            hammer.did(f"{call}: {error.sqlstate}")


def watch(hammer: Hammer, session: Session) -> tuple[set[tuple[object, ...]], set[str]]:
    """Looks all the time, for a later message repairs much.

    Gives who slept in vain, and which calls of workers waited for a caller's transaction.
    """
    lost: set[tuple[object, ...]] = set()
    waited: set[str] = set()
    while hammer.goes_on():
        lost |= set(session.run(IN_VAIN))
        waited |= waiting_for_callers(session)
        session.run("select pg_sleep(0.02)")
    return lost, waited


class Owner:
    """One worker at a time: claims, does something of everything, is declared dead, begins anew."""

    def __init__(self, hammer: Hammer, number: int) -> None:
        self.hammer = hammer
        self.dice = random.Random(SEED * 100 + 50 + number)
        self.number = number
        self.worker = self.hire()
        self.groups: list[str] = []
        self.draining = False

    def hire(self) -> Worker:
        with self.hammer.lock:
            worker = self.hammer.world.worker(f"worker {self.number}")
        is_worker(worker)
        return worker

    def work(self) -> None:
        while self.hammer.goes_on():
            self.round()

    def round(self) -> int:
        """Gives how much it did."""
        dice = self.dice
        if (self.draining or dice.random() < 0.05) and self.worker.heartbeat() is None:
            self.begin_anew()
        worker = self.worker
        tended = worker.tend() if dice.random() < 0.3 or self.draining else None
        claimed = worker.claim(dice.randint(1, 6))
        entries: list[Entry] = []
        for one in claimed:
            entries += self.play(one)
        if not self.draining and dice.random() < 0.01:
            self.hammer.world.expire(worker)  # it does not know yet, and goes on
        if not self.write(entries):
            self.begin_anew()
        return len(claimed) + (0 if tended is None else tended.promoted + tended.woken)

    def begin_anew(self) -> None:
        self.hammer.did("declared dead")
        self.worker = self.hire()
        self.groups = []

    def play(self, run: Claimed) -> list[Entry]:
        dice, worker = self.dice, self.worker
        last = worker.ask(
            "select coalesce(max(position), 0) from rowlock.step"
            " where run_id = %s and generation = %s and place <> 'cancel'",
            run.run_id,
            run.generation,
        )
        seen = worker.ask(
            "select true from rowlock.step where run_id = %s and generation = %s"
            "   and place = 'cancel'",
            run.run_id,
            run.generation,
        )
        entries: list[Entry] = []
        if run.cancel is not None and not seen:
            entries.append(stop(run, position=last + 1))
            seen, last = True, last + 1
        others = self.hammer.runs
        for n in range(last + 1, last + dice.randint(1, 5)):
            place = str(n)
            kind = dice.choice(["receive"] * 4 + ["step", "step", "send", "event", "emit", "child"])
            match kind:
                case "receive":
                    entries.append(receive(run, place, dice.choice("ab")))
                case "step":
                    entries += [step(run, place), emitted(run)]
                case "send":
                    key = dice.choice([None, f"{run.run_id}-{place}"])
                    entries.append(
                        send(run, place, dice.choice(others), topic=dice.choice("ab"), key=key)
                    )
                case "event":
                    entries.append(set_event(run, place))
                case "emit":
                    entries.append(emit(run, place))
                case "child":
                    if not self.draining:
                        group = children(run, place, dice.randint(1, 3))
                        entries.append(group if dice.random() < 0.7 else child(run, place))
        return [*entries, *self.leave(run, last + 10, seen=bool(seen))]

    def leave(self, run: Claimed, place: int, *, seen: bool) -> list[Entry]:
        """Its end, its sleep, or back it goes."""
        dice = self.dice
        how = dice.random()
        if seen or self.draining or how < 0.08:
            status = "cancelled" if seen else dice.choice(["succeeded", "failed"])
            ends = finish(run, status, waited=True)
            ends.cancelled = seen or run.cancel is not None
            return [ends]
        if how < 0.13:
            return [go_on(run)]
        if how < 0.17:
            return [release(run, dice.choice([None, "nondeterminism"]))]
        places = [str(place + n) for n in range(3)]
        other = dice.choice([one for one in self.hammer.runs if one != run.run_id])
        watches: list[Watch] = [
            for_message(places[0], dice.choice("ab")),
            dice.choice([for_event(other, places[1]), for_end(other, places[1])]),
        ]
        group = self.worker.run(
            "select s.output #>> '{}', (select count(*) from rowlock.run as r"
            "   where r.parent_id = s.run_id and r.parent_generation || ':' || r.parent_place"
            "       = split_part(s.output #>> '{}', ':', 2) || ':'"
            "         || split_part(s.output #>> '{}', ':', 3))"
            "  from rowlock.step as s where s.run_id = %s and s.generation = %s"
            "   and s.kind = 'children' limit 1",
            run.run_id,
            run.generation,
        )
        if group and group[0][0].startswith(str(run.run_id)):
            watches.append(for_group(group[0][0], group[0][1], places[2]))
        chosen = dice.sample(watches, 1 if dice.random() < 0.7 else len(watches))
        if dice.random() < 0.15:
            limit = timer(run, chosen[0].place, 0.05)
            limit.kind, limit.name, limit.on_run = chosen[0].kind, chosen[0].name, chosen[0].on
            if chosen[0].kind in ("message", "event"):
                return [limit, sleep_on(run, *chosen)]
        return [sleep_on(run, *chosen)]

    def write(self, entries: list[Entry]) -> bool:
        """Until each has its verdict, as the runtime does; False when the worker is gone."""
        dice, tries, unsure = self.dice, 0, False
        left = entries
        while left or self.groups:
            tries += 1
            hold = dice.random() < 0.4
            if hold:
                self.worker.begin()
            verdicts = self.worker.journal(
                *left, retrying=unsure or dice.random() < 0.2, groups=self.groups
            )
            if hold:
                self.worker.run("select pg_sleep(%s)", dice.random() * 0.02)
                if dice.random() < 0.2:
                    self.worker.rollback()
                    continue
                self.worker.commit()
            if verdicts.of_worker == "gone":
                return False
            if verdicts.of_worker == "again":
                continue
            if left and dice.random() < 0.1:
                # The answer was lost: the same batch again. What it says now is what counts; what
                # is passed by now may have been written by the first try.
                unsure = True
                again = self.worker.journal(*left, retrying=True, groups=verdicts.groups)
                if again.of_worker is None:
                    verdicts = again
            self.groups = verdicts.groups
            kept: list[Entry] = []
            for entry in left:
                verdict = verdicts.of(entry)
                self.hammer.did(f"{type(entry).__name__.lower()} {verdict}")
                if verdict == "again":
                    if isinstance(entry, Suspend):
                        entry.force = entry.force or tries > 20
                    kept.append(entry)
                elif verdict == "look":
                    kept.append(self.awake(entry))
            left = kept
        return True

    def awake(self, entry: Entry) -> Entry:
        """It may not sleep: give it back, somebody claims it and looks."""
        return release(_claimed(entry))


def _claimed(entry: Entry) -> Claimed:
    made = Claimed.__new__(Claimed)
    object.__setattr__(made, "run_id", UUID(entry.run))
    object.__setattr__(made, "epoch", entry.epoch)
    return made


@pytest.mark.timeout(SECONDS * 4 + 120)
def test_whatever_meets_nothing_is_lost_and_nobody_waits(server: Server, template: str) -> None:
    print(f"hammer: seed {SEED}, {SECONDS:g} s")
    with postgres.new_database(server, template) as url, ExitStack() as stack:
        connections = Connections(url)
        stack.callback(connections.close)
        world = World(connections)
        stack.callback(world.close)
        hammer = Hammer(world)
        owners = [Owner(hammer, n) for n in range(3)]
        callers = [world.session(f"caller {n}") for n in range(3)]
        watcher = world.session("watcher")
        with ThreadPoolExecutor(7) as threads:
            watched = threads.submit(watch, hammer, watcher)
            jobs = [threads.submit(owner.work) for owner in owners]
            jobs += [threads.submit(caller, hammer, callers[n], n) for n in range(3)]
            for job in jobs:
                job.result()
        print(f"hammer: {dict(sorted(hammer.done.items()))}")
        assert watched.result() == (set(), set())
        assert _broken(url, whole=False) == {}

        # Now everybody ends what he gets; in the end only those sleep who wait for what never came.
        world.anybody.run("select rowlock.unpause(workflow => name) from rowlock.workflow")
        quiet = 0
        while quiet < 3:
            for owner in owners:
                owner.draining = True
            world.anybody.run("update rowlock.cancel_request set look_at = clock_timestamp()")
            done = sum(owner.round() for owner in owners)
            quiet = 0 if done else quiet + 1
        assert _broken(url, whole=True) == {}
        there = set(world.anybody.run("select run_id, id from rowlock.message"))
        assert set(hammer.sent) <= there
        awake = world.anybody.run("select run_id, state from rowlock.task where state <> 'waiting'")
        assert [row for row in awake if row[1] != "blocked"] == []


def _broken(url: str, *, whole: bool) -> dict[str, list[tuple[object, ...]]]:
    """Checks that found something; ``whole``: also those that hold once all is quiet."""
    asleep = [name for name in CHECKS if "left behind" in name or "sleeps" in name]
    with psycopg.connect(url, autocommit=True) as connection:
        found = {
            name: connection.execute(f"{query} limit 5".encode()).fetchall()
            for name, query in CHECKS.items()
            if whole or name not in asleep
        }
        broken = {name: rows for name, rows in found.items() if rows}
        for run_id in {row[0] for rows in broken.values() for row in rows}:
            print(f"history of {run_id}:")
            for step_ in connection.execute(
                "select generation, position, place, kind, name, epoch, recorded_at"
                "  from rowlock.step where run_id::text = %s order by 1, 2",
                [str(run_id)],
            ):
                print("  ", *step_)
    return broken
