"""Brings every app a little nearer to its spec, again and again: look, plan, act, say how far.

Each app has a task of its own, so that a database that does not answer holds up nobody else. A
round is due when something was heard of the app, and every few seconds anyway: what was heard
only shortens the wait. Nothing of what it remembers is needed to go on after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import httpx2
from lightkube import ApiError

from rowlock.errors import RowlockError
from rowlock_operator.cluster import Cluster, SecretMissing
from rowlock_operator.database import Databases
from rowlock_operator.observed import Database, Memory, Observed
from rowlock_operator.plan import Promote, plan
from rowlock_operator.spec import AppSpec
from rowlock_operator.status import changes, status_of

log = logging.getLogger("rowlock.operator")

Key = tuple[str, str]
"""Namespace and name."""
QUIET_S = 0.5
"""Rounds of one app are at least so far apart: events come in flocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """How the operator works. Times in seconds."""

    namespaces: tuple[str, ...] = ("*",)
    every_s: float = 5.0
    """Each app is looked at so often, even if nothing is heard of it."""
    listing_s: float = 30.0
    """All apps are listed so often, should the watch have ended in silence."""
    window_s: float = 60.0
    """Numbers of workers go down to the highest that was wanted within this."""


class Reconciler:
    """See the module's text."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._databases = Databases()
        self._urls: dict[Key, str] = {}
        self._memory: dict[Key, dict[str, Memory]] = {}
        self._refusals: dict[Key, str] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._heard: dict[Key, asyncio.Event] = {}
        self.last_listing = time.monotonic()
        """When all apps were last listed (monotonic): the operator's pulse."""

    def hear(self, namespace: str, name: str) -> None:
        """Something happened to this app, or to something made for it."""
        key = (namespace, name)
        if key not in self._tasks:
            self._heard[key] = asyncio.Event()
            self._tasks[key] = asyncio.create_task(self._keep(key), name=f"{namespace}/{name}")
        self._heard[key].set()

    async def run(self) -> None:
        """List all apps now and then, until cancelled."""
        try:
            while True:
                try:
                    for body in await self._cluster.apps(self._settings.namespaces):
                        meta = body["metadata"]
                        self.hear(meta["namespace"], meta["name"])
                    self.last_listing = time.monotonic()
                    pause_s = self._settings.listing_s
                except (ApiError, httpx2.HTTPError) as error:
                    log.warning("the apps can't be listed: %s", error)
                    pause_s = self._settings.every_s
                await asyncio.sleep(pause_s)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self._databases.close()

    async def _keep(self, key: Key) -> None:
        """Rounds of one app, until it is gone."""
        heard = self._heard[key]
        try:
            while True:
                heard.clear()
                try:
                    if not await self._round(key):
                        return
                except (ApiError, httpx2.HTTPError) as error:
                    log.warning("%s/%s: Kubernetes refused: %s", *key, error)
                except Exception:
                    log.exception("%s/%s: a round failed; it will be tried again", *key)
                await asyncio.sleep(QUIET_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.every_s):
                        await heard.wait()
        finally:
            self._tasks.pop(key, None)
            self._heard.pop(key, None)
            self._memory.pop(key, None)
            self._refusals.pop(key, None)
            self._urls.pop(key, None)
            await self._databases.keep_only(set(self._urls.values()))

    async def _round(self, key: Key) -> bool:
        """One look, plan and act. False when the app is gone."""
        body = await self._cluster.app(*key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            return False
        spec, database = await self._database(key, AppSpec.of(body))
        workloads, migrations, pods = await self._cluster.children(spec)
        seen = Observed(
            spec=spec,
            now=time.time(),
            database=database,
            workloads=workloads,
            migrations=migrations,
            pods=pods,
            status=body.get("status") or {},
            memory=self._memory.get(key, {}),
            refusal=self._refusals.get(key, ""),
        )
        planned = plan(seen, window_s=self._settings.window_s)
        self._memory[key] = planned.memory
        assert planned.progress is not None
        await self._say(seen, status_of(seen, planned.progress))
        await self._act(key, spec, planned.actions)
        return True

    async def _database(self, key: Key, spec: AppSpec) -> tuple[AppSpec, Database]:
        """What is known of the database; and the spec with the version of its secret."""
        try:
            url, version = await self._cluster.database_url(spec)
        except SecretMissing as missing:
            self._urls.pop(key, None)
            return spec, Database(reachable=False, reason=missing.reason, trouble=str(missing))
        if self._urls.get(key) != url:
            self._urls[key] = url
            await self._databases.keep_only(set(self._urls.values()))
        database = await self._databases.look(url, spec.app, pgbouncer=spec.pgbouncer)
        return replace(spec, secret_version=version), database

    async def _act(self, key: Key, spec: AppSpec, actions: Sequence[Any]) -> None:
        """Carry out one after the other; what is refused must not hold up the rest."""
        refusals = []
        for action in actions:
            log.info("%s/%s: %s", *key, _brief(action))
            try:
                if isinstance(action, Promote):
                    await self._databases.promote(self._urls[key], action.app, action.version)
                else:
                    await self._cluster.carry_out(spec, action)
            except (ApiError, RowlockError) as error:
                log.warning("%s/%s: %s was refused: %s", *key, _brief(action), error)
                refusals.append(f"{_brief(action)} was refused: {error}")
        self._refusals[key] = "; ".join(refusals)
        if actions and not refusals:
            self._heard[key].set()  # look at what came of it

    async def _say(self, seen: Observed, status: dict[str, Any]) -> None:
        if status == seen.status:
            return
        await self._cluster.write_status(seen.spec, status)
        for change in changes(seen.status, status):
            log.info(
                "%s/%s: %s is %s, %s: %s",
                seen.spec.namespace,
                seen.spec.name,
                change.type,
                change.status,
                change.reason,
                change.message,
            )
            await self._cluster.tell(seen.spec, change)


def _brief(action: Any) -> str:
    manifest = getattr(action, "manifest", None)
    if manifest is not None:
        return f"{type(action).__name__} {manifest['kind']} {manifest['metadata']['name']}"
    return repr(action)
