"""The states of an unfinished run, the outcomes of a finished one, and how they follow.

The table below is the whole state machine: the database's CHECK, the diagram in ARCHITECTURE.md
and this module are compared by tests/store/test_states.py.
"""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """What an unfinished run's task says."""

    SCHEDULED = "scheduled"
    """Due later."""
    READY = "ready"
    """May be claimed."""
    RUNNING = "running"
    """Claimed by a worker."""
    WAITING = "waiting"
    """Unloaded, until a timer falls due or what it waits for happens."""
    BLOCKED = "blocked"
    """Needs a person or other code, or the end of a pause; the reason says which."""


class Outcome(StrEnum):
    """How a generation ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"
    """Given up after repeated takeovers without progress."""
    CONTINUED = "continued"
    """A later generation goes on."""


TRANSITIONS: dict[TaskState, dict[str, TaskState | Outcome]] = {
    TaskState.SCHEDULED: {
        "falls due": TaskState.READY,
        "reschedule, to now": TaskState.READY,
        "cancel": Outcome.CANCELLED,
        "too late to begin": Outcome.FAILED,
    },
    TaskState.READY: {
        "claim": TaskState.RUNNING,
        "reschedule": TaskState.SCHEDULED,
        "meet a pause": TaskState.BLOCKED,
        "cancel": Outcome.CANCELLED,
        "too late to begin": Outcome.FAILED,
    },
    TaskState.RUNNING: {
        "suspend": TaskState.WAITING,
        "hand back": TaskState.READY,
        "take over": TaskState.READY,
        "block": TaskState.BLOCKED,
        "return": Outcome.SUCCEEDED,
        "raise": Outcome.FAILED,
        "cancel": Outcome.CANCELLED,
        "give up": Outcome.DEAD,
        "continue as new": Outcome.CONTINUED,
    },
    TaskState.WAITING: {
        "wake": TaskState.READY,
        "falls due": TaskState.READY,
        "wake, saved up": TaskState.SCHEDULED,
        "cancel": Outcome.CANCELLED,
    },
    TaskState.BLOCKED: {
        "resume": TaskState.READY,
        "end of the pause": TaskState.READY,
        "cancel": Outcome.CANCELLED,
        "too late to begin": Outcome.FAILED,
    },
}
