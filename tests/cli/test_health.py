"""What /livez and /readyz make of the processes' silence and status."""

from __future__ import annotations

import asyncio

from rowlock.cli.health import SILENT_S, health
from rowlock.runtime.supervisor import Fleet, Supervisor
from rowlock.settings import Settings


def supervisor(*statuses: str, silent_s: float = 0.0) -> Supervisor:
    """One whose processes say what they are told to say."""
    fleet = Fleet(command=(), environment={}, processes=len(statuses), grace_s=1.0)
    made = Supervisor(Settings(), fleet)
    for process, status in zip(made.processes, statuses, strict=True):
        process.status = status
        process.heard_at = asyncio.get_running_loop().time() - silent_s
    return made


async def test_ready_only_when_every_process_is() -> None:
    assert health(supervisor("ready", "ready"), "/readyz")[0] == 200
    for other in ("starting", "lost", "stopped", "broken", "draining"):
        assert health(supervisor("ready", other), "/readyz")[0] == 503


async def test_not_ready_while_draining() -> None:
    draining = supervisor("ready")
    draining.draining.set()
    assert health(draining, "/readyz")[1]["status"] == "draining"


async def test_alive_without_a_lease_and_between_two_lives() -> None:
    lost = supervisor("lost", "stopped")
    lost.processes[1].heard_at = None
    assert health(lost, "/livez")[0] == 200


async def test_not_alive_when_a_process_says_nothing_for_long() -> None:
    assert health(supervisor("ready", silent_s=SILENT_S - 1), "/livez")[0] == 200
    assert health(supervisor("ready", silent_s=SILENT_S + 1), "/livez")[0] == 503
