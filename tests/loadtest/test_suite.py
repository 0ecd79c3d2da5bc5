"""Every scenario, as short as can be, on the embedded server."""

from __future__ import annotations

from pathlib import Path

from loadtest.conftest import TINY
from rowlock_loadtest.contention import report, suite
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
