"""Charts as SVG: lines, stacked areas, bars. Pure: values in, text out.

Colours come from a style sheet (STYLE) with a light and a dark half, so that a chart follows the
page it stands in, or stands alone (:func:`alone`). They are Okabe and Ito's, which colour-blind
people tell apart; lines differ in their marks as well. Source: Okabe, Ito, "Color Universal
Design", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, BOTTOM = 76, 24, 58
LEGEND_LINE, CHARACTER = 20, 6.7
COLOURS = 8

LIGHT = ["#0072b2", "#d55e00", "#009e73", "#a8478b", "#8a6d00", "#2a8fc7", "#5f4b8b", "#6b6b6b"]
DARK = ["#56b4e9", "#ff9a57", "#35d0a5", "#e9a3cf", "#f0d043", "#a5d8f7", "#b9a7e8", "#b5b5b5"]


def _palette(colours: Sequence[str], ink: str, quiet: str, grid: str, paper: str) -> str:
    named = "".join(f"--c{n}:{colour};" for n, colour in enumerate(colours))
    return f"{named}--ink:{ink};--quiet:{quiet};--grid:{grid};--paper:{paper};"


_LIGHT = _palette(LIGHT, "#1b1b1b", "#595959", "#dddddd", "#ffffff")
_DARK = _palette(DARK, "#ececec", "#b0b0b0", "#3d3d3d", "#16181c")
PALETTE = f":root{{{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
STYLE = (
    "".join(f".s{n}{{stroke:var(--c{n})}}.f{n}{{fill:var(--c{n})}}" for n in range(COLOURS))
    + ".chart{font:13px system-ui,sans-serif;width:100%;max-width:760px;height:auto}"
    ".chart text{fill:var(--ink);stroke:none}.chart .quiet{fill:var(--quiet);font-size:12px}"
    ".chart .title{font-weight:600;font-size:15px}"
    ".grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--quiet);stroke-width:1}"
    ".line{fill:none;stroke-width:2.2;stroke-linejoin:round}.dashed{stroke-dasharray:7 5}"
    ".layer{stroke:var(--paper);stroke-width:1}.bound{stroke:var(--ink);stroke-width:1.5;"
    "stroke-dasharray:3 3}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One line. ``marks``: its points are measured, not computed."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = True
    dashed: bool = False
    colour: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """``scale``: linear, log (10), doubling (each tick twice the last), nines (shares below 1)."""

    label: str
    scale: str = "linear"
    ticks: Sequence[float] | None = None
    names: Mapping[float, str] | None = None


def alone(svg: str) -> str:
    """The chart as a file of its own, with its style and a background."""
    head, _, rest = svg.partition(">")
    paper = f'<rect width="{WIDTH}" height="100%" fill="var(--paper)"/>'
    return f"{head}><style>{PALETTE}{STYLE}</style>{paper}{rest}\n"


def lines(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    spans: Sequence[tuple[str, float]] = (),
    bound: tuple[str, float] | None = None,
) -> str:
    """Lines over two axes. ``spans``: names of parts of the x axis, with where each begins.

    ``bound``: a level that is drawn across, with its name.
    """
    every = [point for one in series for point in one.points]
    if not every:
        return _empty(title)
    highest = max([value for _, value in every] + ([bound[1]] if bound else []))
    lowest = min(value for _, value in every)
    y_ticks = y.ticks or _ticks(y.scale, lowest, highest)
    x_ticks = x.ticks or _ticks(x.scale, min(p for p, _ in every), max(p for p, _ in every))
    # A span of time ends where it ends, not at the next round number.
    x_end = max(p for p, _ in every) if x.scale == "linear" else None
    frame = _Frame(title, [one.name for one in series], x, y, x_ticks, y_ticks, x_end or None)
    parts = [frame.background()]
    ends = [*(at for _, at in spans[1:]), x_end or x_ticks[-1]][: len(spans)]
    for (name, at), end in zip(spans, ends, strict=True):
        if at > x_ticks[0]:
            parts.append(_rule(frame.x(at), frame.top, frame.x(at), frame.bottom, "bound"))
        middle = (frame.x(at) + frame.x(end)) / 2
        parts.append(_text(middle, frame.top + 14, name, "quiet", "middle"))
    if bound is not None:
        level = frame.y(bound[1])
        parts.append(_rule(frame.left, level, frame.right, level, "bound"))
        parts.append(_text(frame.right - 4, level - 5, bound[0], "quiet", "end"))
    for n, one in enumerate(series):
        colour = (n if one.colour is None else one.colour) % COLOURS
        place = [(frame.x(a), frame.y(b)) for a, b in one.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in place)
        kind = "line dashed" if one.dashed else "line"
        parts.append(f'<polyline class="{kind} s{colour}" points="{path}"/>')
        if one.marks and len(place) <= 40:
            for (a, b), (p, value) in zip(place, one.points, strict=True):
                told = f"{one.name}: {number(value)} at {number(p)}"
                parts.append(_mark(n, a, b, colour, told))
    parts.append(
        frame.legend(
            [(one.colour if one.colour is not None else n) for n, one in enumerate(series)],
            [one.dashed for one in series],
        )
    )
    return frame.svg(parts)


def stacked(
    title: str, moments: Sequence[float], layers: Mapping[str, Sequence[float]], x: Axis, y: Axis
) -> str:
    """Areas on top of each other, the first at the bottom."""
    if len(moments) < 2 or not layers:
        return _empty(title)
    totals = [sum(values) for values in zip(*layers.values(), strict=True)]
    y_ticks = _ticks("linear", 0, max([*totals, 1]))
    x_ticks = _ticks("linear", moments[0], moments[-1])
    frame = _Frame(title, list(layers), x, y, x_ticks, y_ticks, moments[-1])
    parts = [frame.background()]
    below = [0.0] * len(moments)
    for n, (name, values) in enumerate(layers.items()):
        above = [a + b for a, b in zip(below, values, strict=True)]
        upper = [f"{frame.x(t):.1f},{frame.y(v):.1f}" for t, v in zip(moments, above, strict=True)]
        lower = [f"{frame.x(t):.1f},{frame.y(v):.1f}" for t, v in zip(moments, below, strict=True)]
        points = " ".join([*upper, *reversed(lower)])
        parts.append(
            f'<polygon class="layer f{n % COLOURS}" points="{points}">'
            f"<title>{escape(name)}</title></polygon>"
        )
        below = above
    parts.append(frame.legend(list(range(len(layers))), [False] * len(layers), areas=True))
    return frame.svg(parts)


def bars(
    title: str, values: Mapping[str, float], unit: str, *, told: Callable[[float], str]
) -> str:
    """Horizontal bars, one a line, each with its value."""
    if not values:
        return _empty(title)
    row, top = 26, 44
    left = min(330.0, max(len(name) for name in values) * 7.6 + 14)
    room = WIDTH - left - 110
    highest = max(values.values()) or 1.0
    height = top + row * len(values) + 30
    parts = [_text(10, 22, title, "title")]
    for n, (name, value) in enumerate(values.items()):
        middle = top + row * n + row / 2
        length = max(1.0, value / highest * room)
        parts.append(_text(left - 8, middle + 4, name, "", "end"))
        parts.append(
            f'<rect class="f0" x="{left:.1f}" y="{middle - 8:.1f}" width="{length:.1f}" height="16"'
            ' rx="2"/>'
        )
        parts.append(_text(left + length + 6, middle + 4, told(value), ""))
    parts.append(_text(left, height - 10, unit, "quiet"))
    return _svg(title, height, parts)


def number(value: float) -> str:
    """For people: three digits that matter, thousands apart."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ticks(scale: str, lowest: float, highest: float) -> list[float]:
    if scale == "log":
        first = math.floor(math.log10(max(lowest, 1e-9)) + 1e-9)
        last = max(first + 1, math.ceil(math.log10(max(highest, 1e-9)) - 1e-9))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        return [k * 10.0**n for n in range(first, last) for k in steps] + [10.0**last]
    if scale == "doubling":
        first, last = math.floor(math.log2(lowest)), math.ceil(math.log2(highest))
        return [2.0**n for n in range(first, last + 1)]
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * 0.999)
    return [n * step for n in range(math.ceil(highest / step - 1e-9) + 1)]


class _Frame:
    """The room between the axes, and where a value is in it."""

    def __init__(
        self,
        title: str,
        names: Sequence[str],
        x: Axis,
        y: Axis,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        x_end: float | None = None,
    ) -> None:
        self.title, self.names = title, names
        self._x, self._y, self._x_ticks, self._y_ticks = x, y, x_ticks, y_ticks
        self._x_end = x_ticks[-1] if x_end is None else x_end
        self._rows = _wrapped(names)
        self.left, self.right = LEFT, WIDTH - RIGHT
        self.top = 42 + LEGEND_LINE * len(self._rows)
        self.height = HEIGHT + LEGEND_LINE * (len(self._rows) - 1)
        self.bottom = self.height - BOTTOM

    def x(self, value: float) -> float:
        share = _share(self._x.scale, value, self._x_ticks[0], self._x_end)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        share = _share(self._y.scale, value, self._y_ticks[0], self._y_ticks[-1])
        return self.bottom - share * (self.bottom - self.top)

    def background(self) -> str:
        parts = [_text(10, 22, self.title, "title")]
        for tick in self._y_ticks:
            level = self.y(tick)
            parts.append(_rule(self.left, level, self.right, level, "grid"))
            parts.append(_text(self.left - 8, level + 4, _name(self._y, tick), "quiet", "end"))
        for tick in (tick for tick in self._x_ticks if tick <= self._x_end):
            place = self.x(tick)
            parts.append(_rule(place, self.bottom, place, self.bottom + 5, "axis"))
            parts.append(_text(place, self.bottom + 20, _name(self._x, tick), "quiet", "middle"))
        parts.append(_rule(self.left, self.bottom, self.right, self.bottom, "axis"))
        middle = (self.left + self.right) / 2
        parts.append(_text(middle, self.height - 12, self._x.label, "", "middle"))
        half = (self.top + self.bottom) / 2
        parts.append(
            f'<text transform="translate(18 {half:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._y.label)}</text>"
        )
        return "".join(parts)

    def legend(self, colours: Sequence[int], dashed: Sequence[bool], areas: bool = False) -> str:
        parts = []
        for line, row in enumerate(self._rows):
            level = 40 + LEGEND_LINE * line
            for place, n in row:
                colour = colours[n] % COLOURS
                if areas:
                    parts.append(
                        f'<rect class="f{colour}" x="{place:.0f}" y="{level - 9}" width="14"'
                        ' height="14"/>'
                    )
                else:
                    kind = "line dashed" if dashed[n] else "line"
                    parts.append(
                        f'<line class="{kind} s{colour}" x1="{place:.0f}" y1="{level - 3}"'
                        f' x2="{place + 26:.0f}" y2="{level - 3}"/>'
                    )
                    if not dashed[n]:
                        parts.append(_mark(n, place + 13, level - 3, colour, ""))
                shift = 20 if areas else 32
                parts.append(_text(place + shift, level + 2, self.names[n], "quiet"))
        return "".join(parts)

    def svg(self, parts: Sequence[str]) -> str:
        return _svg(self.title, self.height, parts)


def _wrapped(names: Sequence[str]) -> list[list[tuple[float, int]]]:
    """The legend in rows: where each name stands, and its number."""
    rows: list[list[tuple[float, int]]] = [[]]
    place = 12.0
    for n, name in enumerate(names):
        width = 48 + len(name) * CHARACTER
        if rows[-1] and place + width > WIDTH - 10:
            rows.append([])
            place = 12.0
        rows[-1].append((place, n))
        place += width
    return rows


def _share(scale: str, value: float, first: float, last: float) -> float:
    """Where a value is between the first tick and the last, from 0 to 1."""
    if scale in ("log", "doubling"):
        value, first, last = (math.log(max(v, 1e-9)) for v in (value, first, last))
    elif scale == "nines":
        value, first, last = (-math.log10(max(1 - v, 1e-9)) for v in (value, first, last))
    return 0.0 if last == first else min(1.0, max(0.0, (value - first) / (last - first)))


def _name(axis: Axis, tick: float) -> str:
    return axis.names[tick] if axis.names and tick in axis.names else number(tick)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
        f'aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {height:.0f}">{"".join(parts)}</svg>'
    )


def _empty(title: str) -> str:
    return _svg(title, 70, [_text(10, 22, title, "title"), _text(10, 50, "no data", "quiet")])


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}{end}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _mark(shape: int, x: float, y: float, colour: int, told: str) -> str:
    title = f"<title>{escape(told)}</title>" if told else ""
    kind = f'class="f{colour}"'
    if shape % 4 == 0:
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
    if shape % 4 == 1:
        return f'<rect {kind} x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'
    points = [(0, -5), (5, 4), (-5, 4)] if shape % 4 == 2 else [(0, -5), (5, 0), (0, 5), (-5, 0)]
    path = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in points)
    return f'<polygon {kind} points="{path}">{title}</polygon>'
