"""Keep this worker's lease alive.

Everything works under the lease; this service renews it until the worker stops. If renewals come
too late, LeaseExpired ends the tenure before the lease does: working without a lease is the one
thing a worker must never do.

A renewal answers with what the database says is ours. Both sides are reconciled with what is
really alive here: a claim whose reply was lost is handed back, a run that was taken over is
dropped, one that is to be cancelled is told.

Reads: model/lease.py (when to stop trusting).  Writes: store's HEARTBEAT.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from rowlock.model.lease import Lease
from rowlock.runtime.journal import WorkerGone
from rowlock.runtime.stopping import CancelRequest, decode_requests
from rowlock.settings import Settings
from rowlock.store.connection import Backoff, Disconnected, Session
from rowlock.store.statements import HEARTBEAT, Owned

log = logging.getLogger("rowlock.lease")


NEWS_EVERY_S = 0.02
"""However often it is poked, it renews no more often than this."""


class LeaseExpired(Exception):
    """The lease could not be renewed in time."""


class Claims(Protocol):
    """What is alive here, by run; and how to mend a difference."""

    def alive(self) -> dict[UUID, int]: ...
    def drop(self, run_id: UUID, epoch: int) -> None: ...
    def hand_back(self, run_id: UUID, epoch: int) -> None: ...
    def cancel(self, run_id: UUID, request: CancelRequest) -> None: ...


class LeaseKeeper:
    def __init__(
        self,
        settings: Settings,
        session: Session,
        worker_id: int,
        registered_at: float,
        claims: Claims,
        *,
        suspects: Callable[[], list[str]] = list,
        doing: Callable[[], Sequence[msgspec.Struct]] = list,
    ) -> None:
        self._settings = settings
        self._session = session
        self._worker_id = worker_id
        self._claims = claims
        self._suspects = suspects
        self._doing = doing
        self._unclaimed: set[tuple[UUID, int]] = set()
        self._sooner = asyncio.Event()
        self.lease = Lease.renewed(worker_id, sent_at=registered_at, lease_s=settings.lease_seconds)

    def poke(self) -> None:
        """Somebody said that there is news: renew now."""
        self._sooner.set()

    async def run(self) -> None:
        """Renew until cancelled. Raises WorkerGone or LeaseExpired."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._guard())

    async def _renew(self) -> None:
        clock = asyncio.get_running_loop()
        backoff = Backoff(first_s=0.2, most_s=2.0)
        failing_since: float | None = None
        while True:
            sent_at = clock.time()
            before = self._claims.alive()
            try:
                answer = await self._session.rows(
                    HEARTBEAT,
                    {
                        "worker": self._worker_id,
                        "lease": self._settings.lease_seconds,
                        "doing": _json(self._doing()),
                    },
                )
            except Disconnected as error:
                if failing_since is None:
                    failing_since = sent_at
                    log.warning("the lease could not be renewed, trying on: %s", error)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            if failing_since is not None:
                log.info("the database is back after %.1f s", clock.time() - failing_since)
                failing_since = None
            if not answer:
                raise WorkerGone
            self.lease = Lease.renewed(
                self._worker_id, sent_at=sent_at, lease_s=self._settings.lease_seconds
            )
            self._reconcile(before, answer[0])
            try:
                async with asyncio.timeout(
                    self._settings.lease_seconds / 3 * random.uniform(0.9, 1.0)
                ):
                    await self._sooner.wait()
                    await asyncio.sleep(NEWS_EVERY_S)
            except TimeoutError:
                pass
            self._sooner.clear()

    async def _guard(self) -> None:
        """Stop in time, however the renewal fares: it may hang, or the loop may have been."""
        clock = asyncio.get_running_loop()
        while (left := self.lease.trusted_until - clock.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)
        log.error(
            "the lease of worker %d was not renewed in time; its runs are stopped here and go on "
            "elsewhere. Running meanwhile: %s",
            self._worker_id,
            "; ".join(self._suspects()) or "nothing",
        )
        raise LeaseExpired

    def _reconcile(self, before: dict[UUID, int], owned: Owned) -> None:
        theirs = dict(zip(owned.run_ids, owned.epochs, strict=True))
        alive = self._claims.alive()
        for run_id, epoch in before.items():
            # Loaded before we asked and still loaded, yet not ours: taken over.
            if alive.get(run_id) == epoch and theirs.get(run_id) != epoch:
                self._claims.drop(run_id, epoch)
        unclaimed = {pair for pair in theirs.items() if alive.get(pair[0]) != pair[1]}
        for run_id, epoch in unclaimed & self._unclaimed:
            # Twice in a row nobody here runs it: the reply to its claim was lost.
            log.warning("run %s was claimed for this worker, but its reply was lost", run_id)
            self._claims.hand_back(run_id, epoch)
        self._unclaimed = unclaimed
        if owned.cancels is not None:
            for text, request in decode_requests(owned.cancels).items():
                self._claims.cancel(UUID(text), request)


def _json(doing: Sequence[msgspec.Struct]) -> str | None:
    return msgspec.json.encode(doing).decode() if doing else None
