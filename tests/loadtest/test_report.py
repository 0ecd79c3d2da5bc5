"""The report stands alone, shows what failed, and its charts are whole."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from loadtest.making import BROKEN, histogram, point, sample, sweep
from rowlock_loadtest.contention import report
from rowlock_loadtest.contention.charts import Axis, Series, alone, bars, lines, number, stacked
from rowlock_loadtest.contention.pictures import DRAWERS, pictures
from rowlock_loadtest.contention.results import Part, Suite
from rowlock_loadtest.contention.scenarios import SCENARIOS
from rowlock_loadtest.contention.verdict import SAYERS, remarks, verdict

SVG = "{http://www.w3.org/2000/svg}"


def suite_of(*parts: Part) -> Suite:
    suite = Suite("2026-01-01 00:00 UTC", {"PostgreSQL": "18"}, {"fsync": "on"}, {"seconds": 1})
    suite.parts = list(parts)
    for part in parts:
        part.remarks = remarks(part)
    suite.verdict = verdict(suite.parts)
    suite.finished = True
    return suite


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_scenario_has_its_charts_and_its_sentences() -> None:
    assert set(SCENARIOS) == set(DRAWERS) == set(SAYERS)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = report.html(suite_of(sweep({1: 1000, 2: 1800, 4: 3000, 8: 4000})))
    without_names = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|\bsrc=|<script|<link|@import|url\(", without_names)
    assert "prefers-color-scheme:dark" in page


def test_what_comes_from_outside_is_escaped() -> None:
    part = sweep({1: 1000})
    part.points[0].label = "<script>alert(1)</script> & more"
    page = report.html(suite_of(part))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_failure_is_open_on_the_page_and_in_the_json(tmp_path: Path) -> None:
    part = sweep({1: 1000})
    part.points[0].checks.append(BROKEN)
    suite = suite_of(part)
    page, data = report.write(suite, tmp_path / "new" / "folder")
    assert "<details open><summary>2 checks, 1 FAILED" in page.read_text()
    facts = json.loads(data.read_text())
    assert facts["ok"] is False
    assert facts["scenarios"][0]["points"][0]["latencies"]["claim"]["count"] == 4


def test_throughput_is_drawn_with_the_law_where_one_fits() -> None:
    part = sweep({1: 1000, 2: 1900, 4: 3400, 8: 5500})
    drawn = pictures(part)["throughput-10"]
    assert drawn.count("<polyline") == 2
    assert any("Universal Scalability Law" in text for text in texts(drawn))
    for one in part.points:
        one.cpu_idle = 0.01
    assert pictures(part)["throughput-10"].count("<polyline") == 1


def test_running_is_drawn_against_its_limit() -> None:
    part = Part("limits", "Limits", "…")
    one = point("binding: 10", samples=[sample(0.1, 9), sample(0.2, 10)])
    one.limit, one.most_running = 10, 10
    part.points = [one]
    [_, drawn] = pictures(part).values()
    assert "limit 10" in texts(drawn)
    assert "runs that hold a claim" in texts(drawn)


def test_axes_are_labelled_and_the_highest_value_is_within_them() -> None:
    drawn = lines(
        "Title",
        [Series("a", [(1, 10.0), (8, 473.0)])],
        Axis("claimers", "doubling"),
        Axis("runs/s"),
    )
    found = texts(drawn)
    assert {"Title", "a", "claimers", "runs/s", "1", "2", "4", "8", "500"} <= set(found)
    for mark in ET.fromstring(drawn).iter(f"{SVG}circle"):
        assert 0 < float(mark.attrib["cy"]) < 380


def test_a_chart_that_stands_alone_brings_both_palettes() -> None:
    svg = alone(bars("Bars", {"one": 1.0, "two": 2.0}, "runs/s", told=number))
    ET.fromstring(svg)
    assert "prefers-color-scheme:dark" in svg


@pytest.mark.parametrize(
    "drawn",
    [
        lines("nothing", [], Axis("x"), Axis("y")),
        lines("zero", [Series("a", [(0, 0.0), (1, 0.0)])], Axis("x"), Axis("y")),
        lines("one", [Series("a", [(1, 5.0)])], Axis("x", "doubling"), Axis("y", "log")),
        stacked("nothing", [], {}, Axis("x"), Axis("y")),
        stacked("areas", [0, 1], {"CPU": [1, 2], "IO": [0, 3]}, Axis("x"), Axis("y")),
        bars("nothing", {}, "u", told=number),
    ],
)
def test_a_chart_of_little_or_nothing_is_still_a_chart(drawn: str) -> None:
    assert texts(drawn)
    assert "nan" not in drawn


def test_an_empty_part_is_told_but_not_drawn() -> None:
    part = Part("limits", "Limits", "…", skipped=["all of it: none there"])
    assert pictures(part) == {}
    assert "Not run: all of it: none there." in report.html(suite_of(part))


def test_percentiles_that_too_few_values_tell_of_are_not_drawn() -> None:
    part = Part("backlog", "Deep", "…")
    few = point("few")
    few.latencies["claim"] = histogram(*range(1, 51))
    part.points = [few]
    [drawn] = pictures(part).values()
    marks = list(ET.fromstring(drawn).iter(f"{SVG}title"))
    assert len(marks) == 3  # 50, 75, 90: one in a hundred of 50 values is none
