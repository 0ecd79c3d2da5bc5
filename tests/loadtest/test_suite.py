"""Every scenario, as short as can be, on the embedded server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loadtest.conftest import TINY
from rowlock_loadtest.contention import report, suite, verdict
from rowlock_loadtest.contention.place import Asking, opened
from rowlock_loadtest.contention.results import Part
from rowlock_loadtest.contention.scenarios import SCENARIOS


def test_all_scenarios_hold_and_are_told(tmp_path: Path) -> None:
    heard: list[Part] = []
    with opened(None, Asking(yes=False)) as place:
        found = suite.run(place, TINY, list(SCENARIOS), tell=lambda _: None, told=heard.append)
    assert found.ok, found.verdict
    assert found.finished
    assert [part.name for part in heard] == list(SCENARIOS)
    for part in found.parts:
        assert part.points or part.skipped
        assert all(point.checks for point in part.points)
        assert bool(part.points) == bool(part.remarks)
    page, data = report.write(found, tmp_path)
    text = page.read_text() + data.read_text()
    password = place.url.split("password=")[1].split()[0]
    assert password not in text
    assert len(report.write_pictures(found, tmp_path)) > 10
    assert found.settings["fsync"] == "on"
    each_can_be_cut_short(found.parts)


def each_can_be_cut_short(parts: list[Part]) -> None:
    """Whichever load is the last, there is a page with it."""
    for whole in parts:
        for number in range(1, len(whole.points) + 1):
            part = replace(whole, points=whole.points[:number], finished=False)
            part.remarks = verdict.remarks(part)
            page = report.html(replace(suite.blank(), parts=[part]))
            assert "was cut short" in page
            assert part.points[-1].label.partition(",")[0] in page
