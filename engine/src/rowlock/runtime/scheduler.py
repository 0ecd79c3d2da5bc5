"""Makes schedules tick: every worker runs it, none is in charge.

It looks at what is due, computes which ticks that means, and hands them to the database, which
takes them on the schedule's row or says that another was first. Then it sleeps until the next tick
that the database knows of, by the database's count of seconds: this machine's clock is never asked.

Who finds that another was first stands back: for a second it does not come for ticks that follow
each other faster. So many workers and a dense schedule cost each of them a statement a second.

Reads: store's LOOK_AT_SCHEDULES, SCHEDULES_TO_PLACE.  Writes: TICK, BACKFILL_TICKS,
SET_SCHEDULE_ASIDE, DECLARE_SCHEDULES.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from rowlock.errors import Refused, RowlockError
from rowlock.model.cron import BadSchedule
from rowlock.model.schedules import Declaration, declared, due_ticks, range_ticks
from rowlock.store.connection import Backoff, Disconnected, Poisoned, Session
from rowlock.store.schedules import (
    BACKFILL_TICKS,
    DECLARE_SCHEDULES,
    LOOK_AT_SCHEDULES,
    SCHEDULES_TO_PLACE,
    SET_SCHEDULE_ASIDE,
    TICK,
    Due,
)

log = logging.getLogger("rowlock.scheduler")

MOST_DUE = 100
PAGE = 500
POLL_S = 10.0
"""However far the next tick is: what nobody told of is found after this long."""
STAND_BACK_S = 1.0
EARLY_S = 0.05
"""So near to a tick it is waited for, whoever was first the last time."""
AFTER_S = 0.002
"""So long after its time a tick is due for sure."""
PLACE_EVERY_S = 3600.0


class Scheduler:
    """See the module's text."""

    def __init__(
        self,
        app: str,
        version: str,
        declarations: Sequence[Declaration],
        session: Session,
    ) -> None:
        self._app = app
        self._version = version
        self._declarations = tuple(declarations)
        self._session = session
        self._sooner = asyncio.Event()
        self._is_declared = False
        self._is_first = False
        self._expects_none = True
        self.is_placed = False
        """It has looked, and said what the code says if that counts."""

    def poke(self) -> None:
        """Somebody said that a schedule has changed: look now."""
        self._sooner.set()

    async def run(self) -> None:
        """Look until cancelled."""
        clock = asyncio.get_running_loop()
        backoff = Backoff()
        place_at = clock.time()
        while True:
            self._sooner.clear()
            try:
                pause_s = await self._look()
                if clock.time() >= place_at:
                    await self._place()
                    place_at = clock.time() + PLACE_EVERY_S * random.uniform(0.9, 1.1)
                backoff.reset()
            except Disconnected:
                pause_s = backoff.next_s()
            except RowlockError as error:
                # Nothing else of this worker depends on it.
                log.warning("schedules can't be looked at, trying again: %s", error)
                pause_s = max(STAND_BACK_S, backoff.next_s())
            try:
                async with asyncio.timeout(pause_s):
                    await self._sooner.wait()
                    self._expects_none = True
            except TimeoutError:
                pass

    async def _look(self) -> float:
        """Do what is due; gives for how long to sleep."""
        looked, *found = await self._session.rows(
            LOOK_AT_SCHEDULES,
            {"app": self._app, "version": self._version, "limit": MOST_DUE},
        )
        if await self._declare(is_current=bool(looked.is_current)):
            return 0.0
        self.is_placed = True
        verdicts = [await self._tick(one) for one in found if one.kind == "due"]
        fills = [await self._fill(one) for one in found if one.kind == "backfill"]
        next_s = POLL_S if looked.next_in is None else looked.next_in + AFTER_S
        expects_none, self._expects_none = self._expects_none, False
        if "done" in verdicts or "done" in fills:
            # There may be more; if there is not, that does not mean that others were faster.
            self._is_first = self._expects_none = True
            return 0.0
        if "locked" in verdicts or "locked" in fills:
            # Perhaps a stranger holds it, for long: others have their time nevertheless.
            return min(next_s, STAND_BACK_S)
        if "taken" in verdicts or not expects_none:
            self._is_first = False
        if not self._is_first and next_s > EARLY_S:
            next_s = max(next_s, STAND_BACK_S * random.uniform(0.8, 1.2))
        return min(next_s, POLL_S * random.uniform(0.8, 1.2))

    async def _declare(self, *, is_current: bool) -> bool:
        """Say what the code says, once this version is the current one; whether that was now."""
        if not is_current:
            self._is_declared = False
        if not is_current or self._is_declared:
            return False
        parameters = {
            "app": self._app,
            "version": self._version,
            "declared": declared(self._declarations),
        }
        self._is_declared = await self._session.one(DECLARE_SCHEDULES, parameters)
        return self._is_declared

    async def _tick(self, row: Due) -> str:
        try:
            ticks, following = due_ticks(row)
            return await self._session.one(
                TICK,
                {
                    "app": self._app,
                    "name": row.name,
                    "revision": row.revision,
                    "base": row.base,
                    "ticks": ticks,
                    "next": following,
                },
            )
        except (BadSchedule, Refused, Poisoned) as error:
            log.error("schedule %s can't tick and is set aside: %s", row.name, error)
            await self._session.rows(
                SET_SCHEDULE_ASIDE,
                {
                    "app": self._app,
                    "name": row.name,
                    "revision": row.revision,
                    "error": str(error),
                },
            )
            return "taken"

    async def _fill(self, row: Due) -> str:
        error: str | None = None
        try:
            if row.revision is None:
                raise BadSchedule("the schedule was deleted")
            ticks, is_done = range_ticks(row)
        except BadSchedule as bad:
            ticks, is_done, error = [], True, str(bad)
        parameters = {
            "app": self._app,
            "id": row.id,
            "revision": row.revision,
            "base": row.base,
            "ticks": ticks,
            "is_done": is_done,
            "error": error,
        }
        try:
            return await self._session.one(BACKFILL_TICKS, parameters)
        except (Refused, Poisoned) as refused:
            log.error("backfill %s of schedule %s is given up: %s", row.id, row.name, refused)
            given_up = parameters | {"ticks": [], "is_done": True, "error": str(refused)}
            return await self._session.one(BACKFILL_TICKS, given_up)

    async def _place(self) -> None:
        """Compute anew what hangs on time zones: they may not be those that were computed with."""
        after = ""
        while True:
            page = await self._session.rows(
                SCHEDULES_TO_PLACE, {"app": self._app, "after": after, "limit": PAGE}
            )
            for row in page:
                await self._place_one(row)
            if len(page) < PAGE:
                return
            after = page[-1].name or ""

    async def _place_one(self, row: Due) -> None:
        assert row.base is not None
        try:
            ticks, following = due_ticks(row)
        except BadSchedule:
            return  # it is set aside when it is due
        if ticks or following is None or row.next_in is None:
            return  # it is due, or not placed at all yet: that is the look's matter
        if abs(following.timestamp() - row.next_in) > 0.5:
            log.info("schedule %s ticks next at %s now", row.name, following.isoformat())
            await self._session.rows(
                TICK,
                {
                    "app": self._app,
                    "name": row.name,
                    "revision": row.revision,
                    "base": row.base,
                    "ticks": [],
                    "next": following,
                },
            )
