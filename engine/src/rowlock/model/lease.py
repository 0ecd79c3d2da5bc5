"""When a worker must stop believing that it owns its runs. Pure: time is passed in."""

from __future__ import annotations

from dataclasses import dataclass

SAFETY_SHARE = 0.1
"""This share of a lease is given up at its end, for what stopping takes."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long this process may act as a worker.

    Postgres decides who owns a run; a Lease only decides when to stop believing it. The
    window opens when the renewal was *sent*, so a slow answer can never lengthen it.
    """

    worker_id: int
    trusted_until: float

    @classmethod
    def renewed(cls, worker_id: int, *, sent_at: float, lease_s: float) -> Lease:
        """The lease after a renewal that was sent at ``sent_at`` (monotonic seconds)."""
        return cls(worker_id, sent_at + lease_s * (1 - SAFETY_SHARE))

    def is_trusted(self, now: float) -> bool:
        """Whether a run may still be worked on at ``now`` (monotonic seconds)."""
        return now < self.trusted_until
