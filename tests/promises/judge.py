"""The model: what may have come of a program, held against all that is recorded of it.

`fits` says what results and errors an operation allows. `Judge` holds what the lives of each run
saw, and what its steps did, against the ledgers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from typing import Any

from promises.programs import ATTEMPTS, Entry, Life, Op, Program, Seen
from workers.until import Sql

CHILD_GONE = "RunFailed:"
"""What a parent gets of a child that was cancelled."""


def errors_of(op: Op) -> set[str]:
    """How errors begin that this operation may raise."""
    kind, n, *rest = op
    match kind:
        case "fail" | "hopeless" | "broken" | "book badly":
            return {f"ValueError: no {n}"}
        case "timed":
            return {"StepTimeout:"}
        case "receive" | "watch":
            return set() if rest[1] is None else {"ReceiveTimeout:"}
        case "watch child":
            return {"EventNeverSet:"} | (set() if rest[1] is None else {"ReceiveTimeout:"})
        case "tell child":
            return {"NotDelivered:"}
        case "gather" | "group":
            return errors_of_all(*rest[0])
        case "spawn" | "guard":
            return errors_of_all(rest[0], rest[1])
        case "within":
            return errors_of_all(rest[1])
        case "child":
            return errors_of_node(rest[0])
        case "handle":
            return errors_of_node(rest[0]) | errors_of_all(rest[1])
        case "map" if not rest[1]:
            return set().union(*(errors_of_node(node) for node in rest[0]))
    return set()


def errors_of_all(*bodies: list[Op]) -> set[str]:
    return set().union(*(errors_of(op) for ops in bodies for op in ops))


def errors_of_node(node: Program) -> set[str]:
    return errors_of_all(*node["bodies"]) | {CHILD_GONE}


def must_fail(op: Op) -> bool:
    """Whether it can't succeed."""
    kind, _, *rest = op
    match kind:
        case "fail" | "hopeless" | "book badly":
            return True
        case "gather" | "group":
            return any(must_fail_one_of(ops) for ops in rest[0])
        case "spawn" | "guard":
            return must_fail_one_of(rest[0]) or must_fail_one_of(rest[1])
        case "child":
            return node_must_fail(rest[0])
        case "handle":
            return node_must_fail(rest[0]) or must_fail_one_of(rest[1])
        case "map" if not rest[1]:
            return any(node_must_fail(node) for node in rest[0])
    return False


def must_fail_one_of(ops: list[Op]) -> bool:
    return any(must_fail(op) for op in ops)


def node_must_fail(node: Program) -> bool:
    return any(must_fail_one_of(ops) for ops in node["bodies"])


def error_fits(text: str, errors: set[str]) -> bool:
    return any(text.startswith(one) for one in errors)


def fits_body(ops: list[Op], value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(ops)
        and all(fits(op, one) for op, one in zip(ops, value, strict=True))
    )


def fits_or_error(ops: list[Op], value: Any) -> bool:
    if isinstance(value, list) and value[:1] == ["!"]:
        return error_fits(value[1], errors_of_all(ops))
    return fits_body(ops, value)


def fits_node(node: Program, value: Any) -> bool:
    return not node_must_fail(node) and fits_body(node["bodies"][-1], value)


def fits(op: Op, value: Any) -> bool:
    """Whether an operation may have given this."""
    if must_fail(op):
        return False
    kind, n, *rest = op
    match kind:
        case "sleep" | "tell self" | "tell child" | "event" | "emit" | "leave":
            return value is None
        case "now":
            return datetime.fromisoformat(value).tzinfo is not None
        case "uuid":
            return isinstance(value, str) and len(value) == 36
        case "random":
            return isinstance(value, float) and 0 <= value < 1
        case "receive":
            return isinstance(value, dict) and set(value) == {"by", "n"}
        case "watch" | "watch child":
            return isinstance(value, list) and len(value) == 2
        case "raws":
            return bool(value == [n] * rest[0])
        case "gather" | "group":
            return len(value) == len(rest[0]) and all(map(fits_body, rest[0], value))
        case "gather all":
            return len(value) == len(rest[0]) and all(map(fits_or_error, rest[0], value))
        case "race":
            return len(value) > 0 and all(fits_or_error(rest[0][i], one) for i, one in value)
        case "completed":
            return sorted(i for i, _ in value) == list(range(len(rest[0]))) and all(
                fits_or_error(rest[0][i], one) for i, one in value
            )
        case "spawn":
            return fits_body(rest[0], value[0]) and fits_body(rest[1], value[1])
        case "within":
            return value == "late" or fits_body(rest[1], value)
        case "guard":
            return fits_body(rest[0], value)
        case "catch":
            return fits_or_error(rest[0], value)
        case "child":
            return fits_node(rest[0], value)
        case "handle":
            return fits_body(rest[1], value[0]) and fits_node(rest[0], value[1])
        case "map":
            return len(value) == len(rest[0]) and all(
                error_fits(one[1], errors_of_node(node))
                if one[:1] == ["!"]
                else fits_node(node, one)
                for node, one in zip(rest[0], value, strict=True)
            )
    return bool(value == n)


@dataclass(frozen=True)
class Step:
    """A recorded step."""

    run: str
    generation: int
    place: str
    position: int
    epoch: int
    kind: str
    output: Any
    error: Any
    native: bool
    """Recorded in this generation, not copied into it."""


STEPS = """
select s.run_id::text, s.generation, s.place, s.position, s.epoch, s.kind, s.output, s.error,
       s.epoch > coalesce((select max(o.epoch) from rowlock.outcome o
                            where o.run_id = s.run_id and o.generation < s.generation), 0)
  from rowlock.step s"""

ENDS = """
select o.run_id::text, o.generation, o.epoch, o.status, o.output, o.error,
       coalesce((select g.input from rowlock.generation g
                  where g.run_id = o.run_id and g.generation = o.generation), r.input)
  from rowlock.outcome o join rowlock.run r on r.id = o.run_id order by 1, 2"""

SKIPPED = """
select m.run_id::text, m.topic, m.id from rowlock.message m
 where m.received_place is null
   and exists (select from rowlock.message x where x.run_id = m.run_id and x.topic = m.topic
                  and x.id > m.id and x.received_place is not null)"""

FORKS = "select id::text from rowlock.run where forked_from is not null"

SENT = f"""
select from_run_id::text, count(*) from rowlock.message
 where from_run_id is not null and run_id::text not in ({FORKS}) group by 1"""
"""By sender; a fork has copies."""

CHILDREN = """
select parent_id::text, parent_generation, parent_place, array_agg(child_index order by child_index)
  from rowlock.run where parent_id is not null group by 1, 2, 3"""


@dataclass
class Judge:
    """Finds what is wrong; each finding begins with the run it is about."""

    sql: Sql
    seen: Seen
    cancelled: set[str] = field(default_factory=set)
    """Families of which something was asked to be cancelled."""
    forced: set[str] = field(default_factory=set)
    """Families of which something was cancelled by force."""
    found: list[tuple[str, str]] = field(default_factory=list)

    def all(self) -> list[tuple[str, str]]:
        """What is wrong: run and finding."""
        self.steps: dict[tuple[str, int], dict[str, Step]] = defaultdict(dict)
        for row in self.sql(STEPS):
            step = Step(*row)
            self.steps[step.run, step.generation][step.place] = step
        self.ends = self.sql(ENDS)
        self.lives: dict[tuple[str, int], list[Life]] = defaultdict(list)
        for life in self.seen.lives:
            self.lives[str(life.run), life.generation].append(life)
        self._nothing_is_left()
        self._results()
        self._lives()
        self._executions()
        self._bookings()
        self._messages()
        self._streams_and_events()
        self._undos()
        self._children()
        return self.found

    def _blame(self, run: str, what: str) -> None:
        self.found.append((run, what))

    def _nothing_is_left(self) -> None:
        for table in ("task", "wait", "cancel_request"):
            for run, row in self.sql(f"select run_id::text, to_jsonb(x) from rowlock.{table} x"):
                self._blame(run, f"left in {table}: {row}")

    def _results(self) -> None:
        for run, generation, _, status, output, error, given in self.ends:
            node, family, turn = given["node"], given["family"], given.get("turn", 0)
            last = turn + 1 == len(node["bodies"])
            ops = node["bodies"][turn]
            where = f"generation {generation} {status}"
            if status == "continued":
                if last or must_fail_one_of(ops):
                    self._blame(run, f"{where} can't be")
            elif status == "succeeded":
                if not last or not fits_body(ops, output):
                    self._blame(run, f"{where} with {output}")
            elif status == "failed":
                text = f"{error['type'].rsplit('.')[-1]}: {error['message']}"
                if not error_fits(text, errors_of_all(ops)):
                    self._blame(run, f"{where} with {error}")
                if "RunFailed" in text and family not in self.cancelled:
                    self._blame(run, f"{where} with {error}, but nobody cancelled")
            elif status != "cancelled" or family not in self.cancelled:
                self._blame(run, f"{where}: {error}")

    def _stands(self, life: Life, entry: Entry) -> bool:
        """Whether an outcome that code saw was recorded by the end of that life."""
        _, what, place, text = entry
        if what not in ("got", "raised") or not place or text.startswith('"CancelledError'):
            return True
        if text == "[]":
            return True  # a map of nothing is no step: its place is of what came before it
        step = self.steps[str(life.run), life.generation].get(place)
        return step is not None and step.epoch <= life.epoch

    def _standing(self, life: Life) -> Life:
        """What it saw before the first outcome that was not recorded: there it ran ahead."""
        log = list(takewhile(lambda entry: self._stands(life, entry), life.log))
        return replace(life, log=log)

    def _lives(self) -> None:
        ended = {(run, generation): epoch for run, generation, epoch, *_ in self.ends}
        for (run, generation), all_lives in self.lives.items():
            for life in all_lives:  # one, at its end, may be ahead of the journal
                loose = [entry for entry in life.log if not self._stands(life, entry)]
                if len(loose) > 1 or (loose and ended.get((run, generation)) == life.epoch):
                    self._blame(run, f"{generation}: epoch {life.epoch} knew for nothing {loose}")
            lives = [self._standing(life) for life in all_lives]
            longest = max(lives, key=lambda life: len(life.log))
            epochs = Counter(life.epoch for life in lives)
            for epoch, count in epochs.items():
                if count > 1:
                    self._blame(run, f"generation {generation}: {count} lives in epoch {epoch}")
            for life in lives:
                for number, (one, other) in enumerate(zip(life.log, longest.log, strict=False)):
                    if one != other:
                        self._blame(
                            run,
                            f"generation {generation}: epoch {life.epoch} saw {one}, epoch "
                            f"{longest.epoch} {other}, as number {number}:\n"
                            + _side_by_side(life.log, longest.log),
                        )
                        break
            self._against_ledger(run, generation, longest)

    def _against_ledger(self, run: str, generation: int, life: Life) -> None:
        """What code saw is what is recorded, in the order of recording."""
        steps = self.steps[run, generation]
        last = 0
        for _, what, place, text in life.log:
            if what not in ("got", "raised") or not place or text.startswith('"CancelledError'):
                continue
            if text == "[]":
                continue
            step = steps.get(place)
            if step is None:
                continue
            if step.kind in ("step", "transaction", "uuid", "random", "receive", "get_event"):
                value = json.loads(text)
                good = (
                    step.error is not None and value.endswith(step.error["message"])
                    if what == "raised"
                    else step.error is None and step.output == value
                )
                if not good:
                    self._blame(run, f"{generation}: saw {what} {text} at {place}: {step}")
            if step.position < last:
                self._blame(run, f"{generation}: saw {place} out of order: {life.log}")
            last = max(last, step.position)

    def _executions(self) -> None:
        lives = {(str(life.run), life.generation, life.epoch): life for life in self.seen.lives}
        for run, generation, place, epoch in self.seen.done:
            life = lives[run, generation, epoch]
            for entry in life.log[: self.seen.knew[run, generation, place, epoch]]:
                if not self._stands(life, entry):
                    self._blame(
                        run,
                        f"{generation}: epoch {epoch} executed {place} knowing {entry}, which "
                        "nobody had recorded",
                    )
        for (run, generation, place, epoch), count in self.seen.done.items():
            step = self.steps[run, generation].get(place)
            if step is not None and epoch > step.epoch:
                self._blame(run, f"{generation}: executed in epoch {epoch} though recorded: {step}")
            if count > ATTEMPTS:
                self._blame(run, f"{generation}: {place} was executed {count} times in {epoch}")
        for steps in self.steps.values():
            for step in steps.values():
                if (
                    step.kind == "step"
                    and step.native
                    and not step.place.startswith("undo.")
                    and not self.seen.done[step.run, step.generation, step.place, step.epoch]
                ):
                    self._blame(step.run, f"recorded, never executed: {step}")

    def _bookings(self) -> None:
        booked = Counter(self.sql("select run::text, generation, place, epoch from booked"))
        wanted = Counter(
            (step.run, step.generation, step.place, step.epoch)
            for steps in self.steps.values()
            for step in steps.values()
            if step.kind == "transaction" and step.error is None and step.native
        )
        for key in booked.keys() | wanted.keys():
            if booked[key] != wanted[key]:
                self._blame(key[0], f"booked {booked[key]} times, recorded {wanted[key]}: {key}")

    def _messages(self) -> None:
        for run, topic, message in self.sql(SKIPPED):
            self._blame(run, f"message {message} of topic {topic} was passed over")
        came = dict(self.sql(SENT))
        sent = Counter(
            step.run
            for steps in self.steps.values()
            for step in steps.values()
            if step.kind == "send" and step.native and step.error is None
        )
        forks = {run for (run,) in self.sql(FORKS)}
        for run in (came.keys() | sent.keys()) - forks:
            if came.get(run, 0) != sent[run]:
                self._blame(run, f"sent {sent[run]} messages, {came.get(run, 0)} came")

    def _streams_and_events(self) -> None:
        entries = Counter(
            (run, json.dumps(value))
            for run, value in self.sql("select run_id::text, value from rowlock.stream_entry")
        )
        emitted: Counter[tuple[str, str]] = Counter()
        events: dict[tuple[str, str], tuple[int, int, Any]] = {}
        names = {
            (run, generation, place): name
            for run, generation, place, name in self.sql(
                "select run_id::text, generation, place, name from rowlock.step"
                " where kind = 'set_event'"
            )
        }
        for steps in self.steps.values():
            for step in steps.values():
                if not step.native or step.error is not None:
                    continue
                value = [step.generation, step.place]
                if step.kind == "emit":
                    emitted[step.run, json.dumps(value)] += 1
                elif step.kind == "set_event":
                    name = names[step.run, step.generation, step.place]
                    latest = (step.generation, step.position, value)
                    key = (step.run, name)
                    events[key] = max(events.get(key, latest), latest, key=lambda e: e[:2])
        for one in entries.keys() | emitted.keys():
            if entries[one] != emitted[one]:
                self._blame(
                    one[0], f"emitted {emitted[one]} times, in stream {entries[one]}: {one}"
                )
        shown = {
            (run, name): value
            for run, name, value in self.sql("select run_id::text, name, value from rowlock.event")
        }
        for key in shown.keys() | events.keys():
            wanted = events[key][2] if key in events else None
            if shown.get(key) != wanted:
                self._blame(key[0], f"event {key[1]} is {shown.get(key)}, last set to {wanted}")

    def _undos(self) -> None:
        for run, generation, epoch, status, _, _, given in self.ends:
            done = sorted(
                (
                    step
                    for step in self.steps[run, generation].values()
                    if step.place.startswith("undo.") and step.kind == "step"
                ),
                key=lambda step: step.position,
            )
            numbers = [
                int(step.error["message"].split()[-1]) if step.error else step.output
                for step in done
            ]
            lives = self.lives[run, generation]
            registered = [
                _registered(life)
                for life in sorted(lives, key=lambda one: -one.epoch)
                if life.epoch <= epoch
            ]
            wanted = registered[0][::-1] if registered and status in ("failed", "cancelled") else []
            if given["family"] in self.forced:
                # the last life may have been told before it ran any code
                wanted = max(registered, key=len, default=[])[::-1][: len(numbers)]
            if numbers != wanted:
                self._blame(run, f"{generation} {status}: undid {numbers} of {registered}")

    def _children(self) -> None:
        started = {(run, g, place): indexes for run, g, place, indexes in self.sql(CHILDREN)}
        for steps in self.steps.values():
            for step in steps.values():
                key = (step.run, step.generation, step.place)
                if not step.native or step.error is not None:
                    continue
                if step.kind == "children":
                    indexes = started.get(key, [])
                    if not indexes or indexes != list(range(1, len(indexes) + 1)):
                        self._blame(step.run, f"children {indexes} of {step}")
                elif step.kind == "child" and not self.sql(
                    "select 1 from rowlock.run where id = %s", step.output
                ):
                    self._blame(step.run, f"no child of {step}")


def _registered(life: Life) -> list[int]:
    return [n for n, what, _, _ in life.log if what == "registered"]


def _side_by_side(log: list[Any], other: list[Any]) -> str:
    lines = []
    for number in range(max(len(log), len(other))):
        a = log[number] if number < len(log) else ""
        b = other[number] if number < len(other) else ""
        lines.append(f"  {' ' if a == b else '*'} {a!s:60} | {b}")
    return "\n".join(lines)
