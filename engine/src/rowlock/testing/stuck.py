"""The error of a test that waits for what will never come: it says what every run waits for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from rowlock.errors import RowlockError
from rowlock.store.laboratory import Unfinished

_HIDDEN = ("run_id", "generation", "attempt", "error", "opened_at")
_SAID = ("kind", "name", "on_run_id", "place", "due_at")


class Stuck(RowlockError, AssertionError):
    """The run can't go on: no time that passes brings what it waits for.

    ``run_id``: the run that was to end; ``unfinished``: every run without an outcome.
    """

    def __init__(self, run_id: UUID, why: str, unfinished: Sequence[Unfinished], hint: str) -> None:
        self.run_id = run_id
        self.unfinished = tuple(unfinished)
        lines = [f"  {one.workflow} {one.run_id}: {described(one)}" for one in unfinished]
        super().__init__(f"run {run_id} {why}. Unfinished runs:\n" + "\n".join([*lines, hint]))


def waits_for_ever(run_id: UUID, unfinished: Sequence[Unfinished]) -> Stuck:
    return Stuck(
        run_id,
        "will not end by itself, however much time passes",
        unfinished,
        "Bring about what it waits for, then go on with `harness.result(run)`.",
    )


def takes_too_long(run_id: UUID, within: timedelta, unfinished: Sequence[Unfinished]) -> Stuck:
    return Stuck(
        run_id,
        f"has not ended within {within} of its own time",
        unfinished,
        "If it may take so long, say so: `within=timedelta(…)`. If it never ends, use "
        "`harness.start` and `harness.advance`.",
    )


def described(run: Unfinished) -> str:
    """What a run waits for, in words."""
    match run.state:
        case "blocked":
            return f"blocked: {run.reason}"
        case "ready":
            return (
                f"ready, but no claim takes it: a limit of queue {run.queue} holds it back, or it "
                f"needs a worker of another version or of app {run.app}"
            )
        case "running":
            return "running, in a step that hangs because the test wants it to"
    waits = [_wait(wait) for wait in run.waits]
    if run.state == "scheduled" and run.due_at is not None:
        waits.append(f"its start at {run.due_at:%Y-%m-%d %H:%M:%S}")
    return "waits for " + (" or ".join(waits) or "nothing that is known")


def _wait(wait: dict[str, Any]) -> str:
    kind = wait["kind"]
    words = [f"a {kind}"]
    if wait.get("name"):
        words.append(f'"{wait["name"]}"')
    if wait.get("on_run_id"):
        words.append(f"of {wait['on_run_id']}" if kind != "run" else f"({wait['on_run_id']})")
    others = {name: value for name, value in wait.items() if name not in (*_HIDDEN, *_SAID)}
    words += [f"{name}={value}" for name, value in others.items() if value is not None]
    words.append(f"at place {wait['place']}")
    if wait.get("due_at"):
        words.append(f"until {wait['due_at'][:19]}")
    return " ".join(words)
