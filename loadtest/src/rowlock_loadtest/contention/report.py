"""The report: one HTML file that needs no network, and the same figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rowlock_loadtest.contention.charts import PALETTE, STYLE, alone, number
from rowlock_loadtest.contention.pictures import costs, pictures
from rowlock_loadtest.contention.results import Part, Point, Suite

PAGE = """body{margin:0 auto;max-width:980px;padding:24px 20px 60px;
font:15px/1.55 system-ui,sans-serif;
color:var(--ink);background:var(--paper)}h1{font-size:26px;margin:0 0 4px}h2{margin:44px 0 6px;
font-size:20px;border-top:1px solid var(--grid);padding-top:22px}.quiet-text{color:var(--quiet)}
.verdict{border-left:4px solid var(--c0);padding:2px 16px;margin:18px 0}
.verdict.bad{border-color:var(--c1)}
figure{margin:22px 0}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;margin:8px 0}
th,td{padding:4px 10px;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{color:var(--quiet);font-weight:600}
.bad-text{color:var(--c1);font-weight:600}details{margin:10px 0}summary{cursor:pointer}
nav a{margin-right:14px}a{color:var(--c0)}"""

LATENCIES = ("claim", "journal", "queue wait", "start")


def html(suite: Suite) -> str:
    """The whole page."""
    state = "" if suite.ok else " bad"
    unfinished = "" if suite.finished else f"<p class='bad-text'>{escape(suite.stopped)}</p>"
    nav = "".join(f"<a href='#{part.name}'>{escape(part.name)}</a>" for part in suite.parts)
    said = "".join(f"<p>{escape(line)}</p>" for line in suite.verdict)
    parts = "".join(map(_part, suite.parts))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>Rowlock load test, {escape(suite.began_at)}</title>"
        f"<style>{PALETTE}{STYLE}{PAGE}</style></head><body>"
        f"<h1>Rowlock load test</h1><p class='quiet-text'>{escape(suite.began_at)}</p>{unfinished}"
        "<div"
        f" class='verdict{state}'>{said}</div><nav>{nav}</nav>{parts}{_about(suite)}</body></html>"
    )


def write(suite: Suite, folder: Path) -> tuple[Path, Path]:
    """Write both files; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "report.html", folder / "report.json"
    page.write_text(html(suite))
    data.write_text(json.dumps(suite.facts(), indent=1))
    return page, data


def write_pictures(suite: Suite, folder: Path) -> list[Path]:
    """Every chart as a file of its own, named after its scenario; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in suite.parts:
        for name, svg in pictures(part).items():
            path = folder / f"loadtest-{part.name}-{name}.svg"
            path.write_text(alone(svg))
            paths.append(path)
    return paths


def _part(part: Part) -> str:
    figures = "".join(f"<figure>{svg}</figure>" for svg in pictures(part).values())
    said = "".join(_said(line) for line in part.remarks)
    skipped = "".join(f"<p class='quiet-text'>Not run: {escape(why)}.</p>" for why in part.skipped)
    short = "" if part.finished else "<p class='bad-text'>This scenario was cut short.</p>"
    tables = f"{_figures(part.points)}{_checks(part.points)}" if part.points else ""
    return (
        f"<h2 id='{part.name}'>{escape(part.title)}</h2><p"
        f" class='quiet-text'>{escape(part.what)}</p>"
        f"{short}{skipped}<ul>{said}</ul>{figures}{tables}"
    )


def _said(line: str) -> str:
    kind = " class='bad-text'" if line.startswith("FAILED") else ""
    return f"<li{kind}>{escape(line)}</li>"


def _figures(points: Sequence[Point]) -> str:
    names = [n for n in LATENCIES if any(n in point.latencies for point in points)]
    heads = ["load", "runs/s", "CPU idle"]
    heads += [f"{name} {q}, ms" for name in names for q in ("p50", "p99", "p99.9")]
    heads += ["WAL bytes", "commits", "statements", "client CPU, µs", "server CPU, µs"]
    heads += ["HOT", "dead tuples", "rollbacks", "deadlocks", "locks waited for", "xmin age"]
    rows = []
    for point in points:
        row = [point.label, number(point.per_second)]
        row.append("" if point.cpu_idle is None else f"{point.cpu_idle:.0%}")
        for name in names:
            one = point.latencies.get(name)
            row += [
                "" if one is None or not one.total else number(1000 * one.quantile(share))
                for share in (0.5, 0.99, 0.999)
            ]
        for name in ("WAL bytes", "commits", "statements", "client CPU, µs", "server CPU, µs"):
            row.append(number(point.costs[name]) if name in point.costs else "")
        server = point.server
        row.append(f"{server.get('HOT updates, share', 0):.0%}")
        row.append(
            number(
                max(
                    [server.get("dead tuples at the end", 0)]
                    + [s.dead_tuples for s in point.samples]
                )
            )
        )
        row.append(number(server.get("rollbacks", 0)))
        row.append(number(server.get("deadlocks", 0)))
        row.append(number(max([s.locks_waited_for for s in point.samples], default=0)))
        row.append(number(max([s.xmin_age for s in point.samples], default=0)))
        rows.append(row)
    return (
        "<details><summary>All figures (costs are of one run; dead tuples, locks and xmin: the"
        " most that"
        f" was seen)</summary>{_table(heads, rows)}</details>"
    )


def _checks(points: Sequence[Point]) -> str:
    rows = [
        [point.label, check.name, "held" if check.ok else "FAILED", check.detail]
        for point in points
        for check in point.checks
    ]
    bad = sum(not check.ok for point in points for check in point.checks)
    told = f"{bad} FAILED" if bad else "all held"
    return (
        f"<details{' open' if bad else ''}><summary>{len(rows)} checks, {told}</summary>"
        f"{_table(['load', 'check', '', 'seen'], rows)}</details>"
    )


def _about(suite: Suite) -> str:
    options = {name: str(value) for name, value in suite.options.items()}
    return (
        "<h2 id='environment'>Environment</h2>"
        f"{_facts(suite.environment)}<h3>The server's settings</h3>{_facts(suite.settings)}"
        f"<h3>This run's options</h3>{_facts(options)}"
        "<p class='quiet-text'>Latencies at a set pace are counted from when a call was meant to"
        " be sent;"
        " at full speed, from when it was sent. Commits and WAL are those of the whole server"
        " while the"
        " load ran.</p>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    return _table([], [[name, value] for name, value in facts.items()])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f"<div class='scroll'><table>{top}<tbody>{body}</tbody></table></div>"


def summary(point: Point) -> str:
    """A point on one line, for the terminal."""
    claim = point.latencies.get("claim")
    p99 = f", claim p99 {1000 * claim.quantile(0.99):.1f} ms" if claim and claim.total else ""
    state = "" if point.ok else "  FAILED"
    spent = f"  ({costs(point)})" if point.costs else ""
    return f"{point.label}: {number(point.per_second)} runs/s{p99}{spent}{state}"
