"""What a process has counted, as a value that travels and can be added to others.

A child counts, its parent adds up: counters and histograms for ever, also those of children that
have died; gauges only while whoever reported them lives.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rowlock.telemetry.families import FAMILIES, GAUGE

Labels = tuple[str, ...]
Cells = list[float]
"""The numbers of one series: a histogram's sum and then its buckets (each alone, not added up),
else one."""


class Page(msgspec.Struct, frozen=True):
    """All series, by family."""

    families: dict[str, list[tuple[Labels, Cells]]] = {}


def merged(pages: Iterable[Page]) -> Page:
    """One page of many. What this code does not know, or knows in another shape, is left out:
    a package may be upgraded under a running parent."""
    found: dict[str, dict[Labels, Cells]] = {}
    for page in pages:
        for name, series in page.families.items():
            family = FAMILIES.get(name)
            if family is None:
                continue
            table = found.setdefault(name, {})
            for labels, cells in series:
                if len(cells) != family.width or len(labels) != len(family.labels):
                    continue
                before = table.get(labels)
                if before is None:
                    table[labels] = cells
                elif family.merged_by == "max":
                    table[labels] = [max(before[0], cells[0])]
                else:
                    table[labels] = [a + b for a, b in zip(before, cells, strict=True)]
    return Page({name: list(table.items()) for name, table in found.items()})


def of_the_dead(page: Page) -> Page:
    """What stays of a process that has ended: all but its gauges."""
    return Page(
        {
            name: series
            for name, series in page.families.items()
            if name in FAMILIES and FAMILIES[name].kind != GAUGE
        }
    )
