"""Random programs in a random world, held against a simple model (promises 1, 2, 3, 7, 9).

In the default suite some fixed seeds and one that is drawn and printed; for longer by
ROWLOCK_PROGRAM_SECONDS, and one seed again by ROWLOCK_PROGRAM_SEED.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

import postgres
from promises.programs import draw
from promises.world import live_through
from rowlock.embedded import Server

SECONDS = float(os.environ.get("ROWLOCK_PROGRAM_SECONDS", "0"))
SEED = int(os.environ.get("ROWLOCK_PROGRAM_SEED", "0")) or random.SystemRandom().randint(1, 10**6)
AT_ONCE = 12
"""Programs that share a world."""


async def _round(server: Server, template: str, seed: int) -> Counter[str]:
    families = {f"{seed}.{n}": draw(f"{seed}.{n}") for n in range(AT_ONCE)}
    with postgres.new_database(server, template) as database:
        found, happened = await live_through(database, families, seed)
    report = "\n\n".join("\n".join([family, *lines]) for family, lines in found.items())
    assert not found, f"seed {seed}: {report}"
    return happened


@pytest.mark.timeout(SECONDS + 900)
@pytest.mark.parametrize("seed", [1, 2, 3, 4, SEED], ids=["1", "2", "3", "4", "drawn"])
async def test_whatever_happens_a_program_does_what_it_says(
    server: Server, template: str, seed: int
) -> None:
    print(f"programs: seed {seed}")
    happened = await _round(server, template, seed)
    if seed == SEED:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            seed += 1
            happened += await _round(server, template, seed)
    print(f"programs: {dict(happened)}, to seed {seed}")


@pytest.mark.timeout(900)
async def test_what_every_life_saw_is_the_same_in_fresh_processes_with_other_hashes(
    database: str, tmp_path: Path
) -> None:
    """Worker processes are killed at random moments; the next have another PYTHONHASHSEED."""
    print(f"programs: seed {SEED}")
    families = {f"{SEED}.{n}": draw(f"{SEED}.{n}", slow=20.0) for n in range(40)}
    found, happened = await live_through(database, families, SEED, folder=tmp_path)
    report = "\n\n".join("\n".join([family, *lines]) for family, lines in found.items())
    assert not found, f"seed {SEED}: {report}"
    print(f"programs: {dict(happened)}")
