"""How many pods a version of a pool should have.

By latency, when the mean time of a run is known: what arrives and what is due must be through
within the target wait. By backlog otherwise: a slot for each. When runs wait longer than the
target although the estimate says it is enough, the estimate is wrong: the number doubles, up to
what the backlog asks for. Down only to the highest want of a window; to zero only after a while
without anything to do; back from zero at once.

Limits of queues will lower what is usable, once queues have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rowlock_operator.observed import Memory
from rowlock_operator.spec import Pool

UTILISATION = 0.8
"""Slots that are planned to be in use: the rest is for what comes next."""
STARTUP_S = 20.0
"""A timer that falls due this soon is worth starting a pod for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a version of a pool has to do."""

    running: int = 0
    due: int = 0
    """Ready runs that it may claim."""
    oldest_due_s: float = 0.0
    next_due_s: float | None = None
    """Until the next timer of its runs falls due."""
    arrivals_per_s: float = 0.0
    mean_run_s: float | None = None

    @property
    def is_idle(self) -> bool:
        soon = self.next_due_s is not None and self.next_due_s < STARTUP_S
        return not (self.running or self.due or soon)


def wanted_now(pool: Pool, load: Load, current: int) -> int:
    """Pods for the load of this moment, before clamping and smoothing."""
    slots = pool.slots_each
    busy = ceil(load.running / (slots * UTILISATION))
    by_backlog = ceil((load.running + load.due) / (slots * UTILISATION))
    if load.mean_run_s is None:
        return by_backlog
    through = load.due * load.mean_run_s / pool.target_wait_s
    by_latency = ceil((load.arrivals_per_s * load.mean_run_s + through) / slots)
    want = max(busy, by_latency, 1 if load.due else 0)
    if load.oldest_due_s > pool.target_wait_s:
        want = max(want, min(by_backlog, max(2 * current, 1)))
    return want


def scale(
    pool: Pool,
    load: Load,
    current: int,
    memory: Memory,
    *,
    now: float,
    window_s: float,
    floor: int | None = None,
) -> tuple[int, Memory]:
    """The number to have now, and what to remember for the next time.

    ``floor``: at least so many, whatever the pool's minimum is.
    """
    busy_at = memory.busy_at if load.is_idle and memory.busy_at else now
    want = wanted_now(pool, load, current)
    if want == 0 and not load.is_idle:
        want = 1
    if now - busy_at < pool.idle_after_s:
        want = max(want, 1)
    want = min(max(want, pool.min, floor or 0), max(pool.max, floor or 0))
    # Someone who knows nothing of the past holds what is there for a window.
    past = memory.wants or ((now, current),)
    wants = (*((at, n) for at, n in past if now - at <= window_s), (now, want))
    highest = max(n for _, n in wants)
    # The past keeps it up, never above what there is.
    number = max(want, min(highest, current))
    return min(number, max(pool.max, floor or 0)), Memory(wants=wants, busy_at=busy_at)
