"""A run's tree and its line of time, of values: which line stands where, which bar is how long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowlock.cli.portrait import Doing, Portrait
from rowlock.cli.timeline import Axis
from rowlock.cli.tree import Line, axis_of, lines_of, order_of, rendered
from rowlock.client import RunInfo
from rowlock.store.reports import Aside, ChildRow, Totals, WaitRow
from rowlock.store.statements import StepRow

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
RUN = UUID(int=1)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def step(
    place: str,
    end: float,
    seconds: float = 0.0,
    *,
    kind: str = "step",
    position: int | None = None,
    epoch: int = 1,
    error: str | None = None,
) -> StepRow:
    return StepRow(
        int(end * 10) if position is None else position,
        place,
        kind,
        "work",
        "succeeded",
        1,
        at(end),
        seconds,
        epoch,
        None if error else "1",
        json.dumps({"type": "ValueError", "message": error}) if error else None,
    )


def child(
    number: int, place: str = "1", *, parent: UUID = RUN, index: int | None = None
) -> ChildRow:
    return ChildRow(
        parent, place, 1, index, UUID(int=number), "invoice", "running", at(1), at(2), None
    )


def wait(
    place: str, kind: str = "timer", *, name: str | None = None, due: float | None = 60.0
) -> WaitRow:
    return WaitRow(
        place, kind, name, None, at(5), None if due is None else at(due), None, None, None, None
    )


def portrait(
    steps: Sequence[StepRow] = (),
    *,
    waits: Sequence[WaitRow] = (),
    doing: Sequence[Doing] = (),
    children: Sequence[ChildRow] = (),
    families: dict[UUID, int] | None = None,
    ended: float | None = None,
) -> Portrait:
    status, finished_at = ("waiting", None) if ended is None else ("succeeded", at(ended))
    info = RunInfo(
        RUN, "shop", "fulfil", "default", None, status, None, 50, 1, 1, BEGAN, None, BEGAN,
        finished_at, None, None, {}, {}, None, None, None,
    )  # fmt: skip
    by_parent: dict[UUID, list[ChildRow]] = {}
    for one in children:
        by_parent.setdefault(one.parent_id, []).append(one)
    return Portrait(
        info,
        Aside(at(10), None, None, None, None, None, None, None),
        None,
        steps,
        waits,
        doing,
        [],
        Totals(len(steps), 0),
        by_parent,
        families or {parent: len(theirs) for parent, theirs in by_parent.items()},
        [],
    )


def lines(seen: Portrait, width: int = 10) -> list[Line]:
    return lines_of(seen, Axis(at(0), at(10), width))


def places(seen: Portrait) -> list[str]:
    return [line.place.strip() for line in lines(seen)]


# --- the axis


@pytest.mark.parametrize(
    ("begin", "end", "bar"),
    [
        (0, 10, "██████████"),
        (0, 5, "█████"),
        (5, 10, "     █████"),
        (2, 2.5, "  ▌"),
        (2, 2, "  ▏"),
        (10, 10, "         █"),
        (-5, 3, "███"),
        (8, 99, "        ██"),
    ],
)
def test_a_bar_is_exact_to_an_eighth_and_never_nothing(begin: float, end: float, bar: str) -> None:
    assert Axis(at(0), at(10), 10).work(at(begin), at(end)) == bar


def test_a_moment_is_an_axis_too() -> None:
    axis = Axis(at(3), at(3), 10)
    assert axis.work(at(3), at(3)) == "▏"
    assert axis.shade(at(3), at(3), "░") == "░"


@given(st.floats(-20, 30), st.floats(-20, 30), st.integers(1, 60))
def test_no_bar_is_longer_than_its_axis(first: float, second: float, width: int) -> None:
    axis = Axis(at(0), at(10), width)
    begin, end = at(min(first, second)), at(max(first, second))
    for bar in (axis.work(begin, end), axis.shade(begin, end, "░")):
        assert 1 <= len(bar) <= width
        assert bar.strip()


def test_the_axis_holds_everything() -> None:
    copied = step("1", -100, 5.0)  # kept by a redo: older than the run's start
    axis = axis_of(portrait([copied, step("2", 3)]), 40)
    assert (axis.begin, axis.end) == (at(-105), at(10))
    assert axis_of(portrait([step("1", 3)], ended=4), 40).end == at(4)


# --- the tree


def test_places_are_ordered_as_numbers_and_what_came_of_a_cancel_last() -> None:
    given = ["undo.1", "10", "2", "cancel", "2.10", "2.9", "2.9.1", "grace_over"]
    assert sorted(given, key=order_of) == [
        "2", "2.9", "2.9.1", "2.10", "10", "cancel", "grace_over", "undo.1",
    ]  # fmt: skip


def test_branches_stand_below_where_they_began_even_if_nothing_is_recorded_there() -> None:
    seen = portrait(
        [step("3.2.1", 4, 1.0), step("1", 1), step("3.1", 3, 1.0)], waits=[wait("12.1")]
    )
    assert places(seen) == ["1", "3", "3.1", "3.2", "3.2.1", "12", "12.1"]
    by_place = {line.place.strip(): line for line in lines(seen)}
    assert by_place["3.2.1"].place == "    3.2.1"
    assert (by_place["3"].kind, by_place["3"].bar) == ("branch", "  ──")
    assert (by_place["12"].kind, by_place["12"].bar) == ("branch", "")


def test_a_step_is_drawn_with_its_own_time_and_a_wait_from_when_the_code_came_there() -> None:
    seen = portrait(
        [
            step("1", 2, 1.0),
            step("2", 6, kind="sleep"),
            step("3.1", 7, 1.0),
            step("4.1", 8, 1.0),
            step("5", 9, kind="receive"),
        ]
    )
    bars = {line.place.strip(): (line.bar, line.seconds) for line in lines(seen)}
    assert bars["1"] == (" █", "1.000")
    assert bars["2"] == ("  ░░░░", "~4.0")
    # After both branches: it waited for them first.
    assert bars["5"] == ("        ░", "~1.0")


def test_a_wait_does_not_begin_at_the_end_of_a_branch_that_went_on() -> None:
    seen = portrait(
        [step("1", 1), step("2.1", 9, 1.0), step("3", 5, kind="sleep"), step("2.2", 10, 1.0)]
    )
    [bar] = [line.bar for line in lines(seen) if line.place == "3"]
    assert bar == " ░░░░"


def test_a_claim_is_named_where_another_goes_on() -> None:
    steps = [step("1", 1), step("2", 2), step("3", 3, epoch=4), step("4", 4, epoch=4)]
    assert [line.claim for line in lines(portrait(steps))] == ["1", "", "4", ""]


def test_errors_are_short_and_control_characters_no_part_of_a_name() -> None:
    failed = step("1", 1, error="a\nb" + "c" * 100)
    [line] = lines(portrait([failed]))
    assert line.says.startswith("ValueError: a bccc")
    assert len(line.says) == 60
    odd = StepRow(1, "1", "step", "a\x1b[2Jb", "succeeded", 1, at(1), 0.1, 1, "1", None)
    [line] = lines(portrait([odd]))
    assert line.name == "a\\x1b[2Jb"


def test_what_is_open_says_what_must_happen() -> None:
    said = {
        line.place: line.says
        for line in lines(
            portrait(
                waits=[
                    wait("1"),
                    wait("2", "message", name="approval", due=None),
                    WaitRow("3", "retry", None, None, at(5), at(8), 2,
                            '{"type": "OSError", "message": "no"}', None, None),
                    WaitRow("4", "group", "x:1:4", None, at(5), None, None, None, 10_000, 50),
                    WaitRow("5", "run", None, RUN, at(5), None, None, None, None, None),
                ],
                doing=[Doing(RUN, "6", "slow", 2, at(7))],
            )
        )
    }  # fmt: skip
    assert said["1"].startswith("waits, until ")
    assert said["1"].endswith("(in 50s)")
    assert said["2"] == "waits for a message"
    assert said["3"].startswith("is tried again after OSError: no, until ")
    assert said["3"].endswith("(2.0s ago)")
    assert said["4"] == "waits for children: 50 of 10,000 ended"
    assert said["5"] == f"waits for run {RUN}"
    assert said["6"] == "is running"


def test_a_step_that_is_recorded_is_not_running_any_more() -> None:
    seen = portrait([step("1", 6)], doing=[Doing(RUN, "1", "slow", 1, at(1))])
    assert len(lines(seen)) == 1


def test_children_stand_below_their_step_theirs_below_them_and_others_are_counted() -> None:
    grandchild = child(20, "7", parent=UUID(int=10))
    seen = portrait(
        [step("1", 1, kind="children"), step("2", 3)],
        children=[child(10, index=1), child(11, index=2), child(12, "9"), grandchild],
        families={RUN: 10_000, UUID(int=10): 1, UUID(int=11): 7},
    )
    shown = [(line.place, line.name, line.says) for line in lines(seen)]
    assert shown == [
        ("1", "work", "1"),
        ("  └", "invoice #1", f"{UUID(int=10)}  running"),
        ("    └", "invoice", f"{UUID(int=20)}  running"),
        ("  └", "invoice #2", f"{UUID(int=11)}  running"),
        ("    └", "", f"7 children: rowlock list --parent {UUID(int=11)}"),
        ("2", "work", "1"),
        ("  └", "invoice", f"{UUID(int=12)}  running"),
        ("  └", "", f"… and 9,997 more: rowlock list --parent {RUN}"),
    ]


def test_lines_of_children_are_bounded_whatever_the_depth() -> None:
    mine = [child(n) for n in range(10, 60)]
    theirs = [child(1000 * one.id.int + n, parent=one.id) for one in mine for n in range(50)]
    found = lines(portrait([step("1", 1)], children=[*mine, *theirs]))
    assert sum(line.kind == "run" for line in found) == 500
    assert found[-1].says == "… more of them are not shown: a lower --depth shows less"


def test_the_columns_stand_under_each_other() -> None:
    seen = portrait([step("1", 1), step("2.13", 2, 1.0, position=1234, error="bad")])
    axis = Axis(at(0), at(10), 12)
    texts = ["".join(text for text, _ in line) for line in rendered(lines_of(seen, axis), axis)]
    column = texts[0].index("├")
    assert texts[0][column:] == "├ 10s ─────┤"
    assert texts[3][column:] == " █▍           ValueError: bad"
    assert [text[column - 1] for text in texts] == [" "] * 4
    assert texts[3].split()[:2] == ["1234", "2.13"]
