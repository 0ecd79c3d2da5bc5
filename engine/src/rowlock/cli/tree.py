"""A run's steps, waits and children as lines: what came of what, and when. Pure.

A line for each place, ordered as the program is written: branches below the place they began at. A
step's bar begins its own duration before it was recorded. When a wait began is recorded only while
it lasts; afterwards its bar begins where what is before it in its branch ended, which is when the
code came there as far as can be known.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec

from rowlock.cli.output import STATUS_STYLES, Segments, local_time, one_line, printable, span
from rowlock.cli.portrait import Doing, Portrait
from rowlock.cli.timeline import BUSY, WAIT, Axis
from rowlock.store.reports import ChildRow, WaitRow
from rowlock.store.statements import StepRow

OUTPUT_CHARS = 60
NAME_CHARS = 32
MOST_LINES_OF_CHILDREN = 500
FEW = 100
"""So many branches side by side are looked at to find which ended last."""

WAITING_KINDS = frozenset({"sleep", "receive", "result", "results", "get_event"})
"""Kinds of steps that took no worker's time: between what came before and one of them is a wait."""
HEADINGS = ("#", "place", "kind", "name", "tries", "seconds", "claim")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the tree."""

    position: str = ""
    place: str = ""
    kind: str = ""
    name: str = ""
    tries: str = ""
    seconds: str = ""
    claim: str = ""
    """The epoch, where it is another than that of the step recorded before it."""
    bar: str = ""
    says: str = ""
    style: str = ""
    """Of what it says."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (
            self.position,
            self.place,
            self.kind,
            self.name,
            self.tries,
            self.seconds,
            self.claim,
        )


def axis_of(portrait: Portrait, width: int) -> Axis:
    """From the first thing that is known to have happened to the end, or to now."""
    info = portrait.info
    begins = [info.started_at or info.created_at]
    begins += [_began(step) for step in portrait.steps]
    end = info.finished_at or portrait.now
    return Axis(min(begins), max(end, *begins), width)


def lines_of(portrait: Portrait, axis: Axis) -> list[Line]:
    """The tree."""
    found = _by_place(portrait, axis)
    for branch, (begin, end) in _branches(found, portrait.steps).items():
        bar = "" if begin is None or end is None else axis.shade(begin, end, "─")
        found.setdefault(branch, [Line("", _indented(branch), "branch", bar=bar)])
    family = _Family(portrait, axis)
    ordered = []
    for place in sorted(found, key=order_of):
        ordered += found[place]
        ordered += family.started_at(place)
    return [*ordered, *family.others(set(found))]


def order_of(place: str) -> tuple[tuple[int, int, str], ...]:
    """Outline numbers as numbers; the cancel and what was undone come after them."""
    parts = place.split(".")
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _by_place(portrait: Portrait, axis: Axis) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    arrivals = _Arrivals(portrait)
    last_epoch: int | None = None
    for step in portrait.steps:
        waited_from = arrivals.at(step) if step.kind in WAITING_KINDS else None
        line = _step(step, axis, waited_from)
        if step.epoch != last_epoch:
            line = replace(line, claim=str(step.epoch))
        last_epoch = step.epoch
        found.setdefault(step.place, []).append(line)
    recorded = set(found)
    for wait in portrait.waits:
        found.setdefault(wait.place, []).append(_wait(wait, axis, portrait.now))
    for doing in portrait.doing:
        if doing.place not in recorded:
            found.setdefault(doing.place, []).append(_doing(doing, axis, portrait.now))
    return found


def _began(step: StepRow) -> datetime:
    return step.recorded_at - timedelta(seconds=step.seconds)


class _Arrivals:
    """When the code came to a place: when what is before it in its branch had ended.

    That is the last step there, or the last of a branch that had ended by then: one that goes on
    was not awaited.
    """

    def __init__(self, portrait: Portrait) -> None:
        self._begun = portrait.info.started_at or portrait.info.created_at
        ends: dict[str, dict[int, datetime]] = {}
        for step in portrait.steps:
            place = step.place
            while place:
                place, _, number = place.rpartition(".")
                if number.isdecimal():
                    siblings = ends.setdefault(place, {})
                    known = siblings.get(int(number), step.recorded_at)
                    siblings[int(number)] = max(known, step.recorded_at)
        self._ends = {branch: sorted(found.items()) for branch, found in ends.items()}
        """By branch, the number and the end of all that is in it."""

    def at(self, step: StepRow) -> datetime:
        place = step.place
        while place:
            place, _, number = place.rpartition(".")
            ends = self._ends.get(place, [])
            before = bisect_left(ends, int(number), key=itemgetter(0)) if number.isdecimal() else 0
            near = [
                end for _, end in ends[max(0, before - FEW) : before] if end <= step.recorded_at
            ]
            if near:
                return max(near)
        return min(self._begun, step.recorded_at)


Extent = tuple[datetime | None, datetime | None]


def _branches(places: Iterable[str], steps: Sequence[StepRow]) -> dict[str, Extent]:
    """All branches that these places are in, and from when to when something in them went on."""
    found: dict[str, Extent] = {branch: (None, None) for at in places for branch in _above(at)}
    for step in steps:
        for branch in _above(step.place):
            begin, end = found[branch]
            found[branch] = (
                min(begin or _began(step), _began(step)),
                max(end or step.recorded_at, step.recorded_at),
            )
    return found


def _above(place: str) -> Iterator[str]:
    """The branches a place is in: of 4.1.2 these are 4 and 4.1."""
    parts = place.split(".")
    if parts[0].isdecimal():
        yield from (".".join(parts[:count]) for count in range(1, len(parts)))


def _indented(place: str) -> str:
    return "  " * place.count(".") + place


def _step(step: StepRow, axis: Axis, waited_from: datetime | None) -> Line:
    if waited_from is not None:
        bar = axis.shade(waited_from, step.recorded_at, WAIT)
        seconds = f"~{(step.recorded_at - waited_from).total_seconds():.1f}"
    else:
        bar = axis.work(_began(step), step.recorded_at)
        seconds = f"{step.seconds:.3f}"
    return Line(
        str(step.position),
        _indented(step.place),
        step.kind,
        _short(step.name),
        str(step.attempts),
        seconds,
        bar=bar,
        says=one_line(step.output or "", OUTPUT_CHARS) if step.error is None else said(step.error),
        style="" if step.error is None else "red",
    )


def _short(name: str | None) -> str:
    """A name for a column; what it is made of is clean before it is measured."""
    return one_line(printable(name or ""), NAME_CHARS)


def said(error: str | None) -> str:
    """An error in a line: its type and message."""
    if error is None:
        return ""
    facts = msgspec.json.decode(error)
    if not isinstance(facts, dict):
        return one_line(str(facts), OUTPUT_CHARS)
    return one_line(f"{facts.get('type', 'error')}: {facts.get('message', '')}", OUTPUT_CHARS)


def _wait(wait: WaitRow, axis: Axis, now: datetime) -> Line:
    return Line(
        "",
        _indented(wait.place),
        wait.kind,
        _short(wait.name) if wait.kind != "group" else "",
        str(wait.attempts or ""),
        f"{(now - wait.opened_at).total_seconds():.1f}",
        bar=axis.shade(wait.opened_at, now, WAIT),
        says=_awaited(wait, now),
        style="yellow",
    )


def _awaited(wait: WaitRow, now: datetime) -> str:
    """What has to happen, and until when it is waited for."""
    match wait.kind:
        case "timer":
            what = ["waits"]
        case "retry":
            what = [f"is tried again after {said(wait.error) or 'an error'}"]
        case "run":
            what = [f"waits for run {wait.on_run_id}"]
        case "message":
            what = ["waits for a message"]
        case "event":
            what = [f"waits for an event of run {wait.on_run_id}"]
        case "group":
            what = [f"waits for children: {wait.arrived or 0:,} of {wait.children or 0:,} ended"]
        case other:
            what = [f"waits ({other})"]
    if wait.due_at is not None:
        left = wait.due_at - now
        due = f"in {span(left)}" if left > timedelta(0) else f"{span(-left)} ago"
        what.append(f"until {local_time(wait.due_at)} ({due})")
    return ", ".join(what)


def _doing(doing: Doing, axis: Axis, now: datetime) -> Line:
    return Line(
        "",
        _indented(doing.place),
        "step",
        _short(doing.name),
        str(doing.attempt),
        f"{(now - doing.since).total_seconds():.1f}",
        bar=axis.shade(doing.since, now, BUSY),
        says="is running",
        style="blue",
    )


class _Family:
    """Lines of children, theirs below them, as long as there is room."""

    def __init__(self, portrait: Portrait, axis: Axis) -> None:
        self._portrait = portrait
        self._axis = axis
        self._room = MOST_LINES_OF_CHILDREN
        self._mine = portrait.children.get(portrait.info.id, ())
        self._by_place: dict[str | None, list[ChildRow]] = {}
        for child in self._mine:
            self._by_place.setdefault(child.place, []).append(child)

    def started_at(self, place: str) -> Iterator[Line]:
        """The children that were started at a place."""
        for child in self._by_place.get(place, ()):
            yield from self._lines(child, place.count(".") + 1)

    def others(self, places: Container[str | None]) -> Iterator[Line]:
        """Those of places that are not shown, and how many there are beside."""
        for place, children in self._by_place.items():
            if place not in places:
                for child in children:
                    yield from self._lines(child, 1)
        yield from self._left(self._portrait.info.id, len(self._mine), 1)
        if not self._room:
            yield Line(says="… more of them are not shown: a lower --depth shows less", style="dim")

    def _lines(self, child: ChildRow, indent: int) -> Iterator[Line]:
        if not self._room:
            return
        self._room -= 1
        yield self._line(child, indent)
        theirs = self._portrait.children.get(child.id, ())
        for one in theirs:
            yield from self._lines(one, indent + 1)
        yield from self._left(child.id, len(theirs), indent + 1)

    def _line(self, child: ChildRow, indent: int) -> Line:
        begin = child.started_at or child.created_at
        end = child.finished_at or self._portrait.now
        number = f" #{child.index}" if child.index is not None else ""
        return Line(
            "",
            "  " * indent + "└",
            "run",
            _short(f"{child.workflow}{number}"),
            "",
            f"{(end - begin).total_seconds():.1f}",
            bar=self._axis.shade(begin, end, "▄" if child.finished_at else BUSY),
            says=f"{child.id}  {child.status}",
            style=STATUS_STYLES.get(child.status, ""),
        )

    def _left(self, parent: UUID, shown: int, indent: int) -> Iterator[Line]:
        """How many children are not shown, and how to see them."""
        left = self._portrait.families.get(parent, 0) - shown
        if left > 0:
            what = f"… and {left:,} more" if shown else f"{left:,} children"
            says = f"{what}: rowlock list --parent {parent}"
            yield Line("", "  " * indent + "└", says=says, style="dim")


def rendered(lines: Sequence[Line], axis: Axis) -> Iterator[Segments]:
    """The lines under each other, each column as wide as it must be."""
    heading = Line(*HEADINGS)
    widths = [max(len(line.columns[n]) for line in (heading, *lines)) for n in range(len(HEADINGS))]
    scale = f"├ {span(axis.length)} ".ljust(axis.width - 1, "─") + "┤"
    yield [(f"{_columns(heading, widths)}  {scale}", "bold")]
    for line in lines:
        bar = line.bar.ljust(axis.width) if line.says else line.bar
        yield [
            (f"{_columns(line, widths)}  ", ""),
            (bar, line.style or "cyan"),
            (f"  {line.says}" if line.says else "", line.style),
        ]


_RIGHT = frozenset({0, 4, 5, 6})
"""Columns of numbers."""


def _columns(line: Line, widths: Sequence[int]) -> str:
    return "  ".join(
        cell.rjust(size) if number in _RIGHT else cell.ljust(size)
        for number, (cell, size) in enumerate(zip(line.columns, widths, strict=True))
    )


def facts_of(child: ChildRow, portrait: Portrait) -> dict[str, Any]:
    """A child for scripts, with its own."""
    theirs = portrait.children.get(child.id, ())
    return {
        "id": child.id,
        "workflow": child.workflow,
        "status": child.status,
        "place": child.place,
        "generation": child.generation,
        "index": child.index,
        "created_at": child.created_at,
        "started_at": child.started_at,
        "finished_at": child.finished_at,
        "children": [facts_of(one, portrait) for one in theirs],
        "children_total": portrait.families.get(child.id, 0),
    }
