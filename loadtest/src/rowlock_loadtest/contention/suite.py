"""A whole run: one scenario after the other in one place, and what is told of it.

Reads and writes: place.py, scenarios.py, report.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import psycopg

from rowlock_loadtest.contention import verdict
from rowlock_loadtest.contention.crew import Crew
from rowlock_loadtest.contention.losses import losses_told
from rowlock_loadtest.contention.place import Place, environment
from rowlock_loadtest.contention.results import Part, Suite
from rowlock_loadtest.contention.scenarios import SCENARIOS
from rowlock_loadtest.contention.stage import Size, Stage

MOST_PROCESSES = 4


@contextmanager
def stage_at(place: Place, size: Size, tell: Callable[[str], None]) -> Iterator[Stage]:
    """A stage with its crew, which is dismissed in the end."""
    with (
        psycopg.connect(
            place.url, autocommit=True, application_name="rowlock loadtest"
        ) as connection,
        closing(Crew(max(1, min(MOST_PROCESSES, os.cpu_count() or 1)))) as crew,
    ):
        yield Stage(place, crew, size, tell, connection)


def run(
    place: Place,
    size: Size,
    names: Sequence[str],
    *,
    tell: Callable[[str], None],
    told: Callable[[Part], None],
    suite: Suite | None = None,
) -> Suite:
    """Play these scenarios. What was played before an interruption stands in ``suite``.

    ``tell`` hears what is about to be done, ``told`` is given each scenario when it is over, or
    what there is of it when it is cut short. Raises Lost when connections end in the middle.
    """
    suite = suite or blank()
    suite.environment, suite.settings = environment(place)
    suite.options = asdict(size) | {"scenarios": ", ".join(names)}
    with losses_told(), stage_at(place, size, tell) as stage:
        for n, name in enumerate(names, 1):
            stage.tell = _labelled(tell, f"{n} of {len(names)}, {name}")
            stage.playing = None
            try:
                SCENARIOS[name](stage).finished = True
            finally:
                if part := _worth_telling(stage.playing):
                    part.remarks = verdict.remarks(part)
                    suite.parts.append(part)
                    suite.verdict = verdict.verdict(suite.parts)
                    told(part)
    suite.finished = True
    return suite


def _worth_telling(part: Part | None) -> Part | None:
    """A scenario that was cut short is told of if it has measured anything."""
    return part if part is not None and (part.finished or part.points) else None


def _labelled(tell: Callable[[str], None], where: str) -> Callable[[str], None]:
    return lambda what: tell(f"{where}: {what}")


def blank() -> Suite:
    """A suite in which nothing was played yet."""
    return Suite(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), {}, {}, {})
