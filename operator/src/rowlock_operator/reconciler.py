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
from rowlock.settings import Settings
from rowlock_operator.actions import Action, Apply, CreateJob, Promote
from rowlock_operator.cluster import Cluster, SecretMissing
from rowlock_operator.database import Databases
from rowlock_operator.observed import Database, Memory, Observed
from rowlock_operator.plan import plan
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


class _App:
    """What is kept of an app between its rounds."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.where: Settings | None = None
        """Its database, when that is known."""
        self.memory: dict[str, Memory] = {}
        self.refusal = ""
        self.task: asyncio.Task[None] | None = None


class Reconciler:
    """See the module's text."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._databases = Databases()
        self._apps: dict[Key, _App] = {}
        self.last_listing = time.monotonic()
        """When all apps were last listed (monotonic): the operator's pulse."""

    def hear(self, namespace: str, name: str) -> None:
        """Something happened to this app, or to something made for it."""
        key = (namespace, name)
        if key not in self._apps:
            self._apps[key] = app = _App()
            app.task = asyncio.create_task(self._keep(key, app), name=f"{namespace}/{name}")
        self._apps[key].heard.set()

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
            tasks = [app.task for app in self._apps.values() if app.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._databases.close()

    async def _keep(self, key: Key, app: _App) -> None:
        """Rounds of one app, until it is gone."""
        try:
            while True:
                app.heard.clear()
                try:
                    if not await self._round(key, app):
                        return
                except (ApiError, httpx2.HTTPError) as error:
                    log.warning("%s/%s: Kubernetes refused: %s", *key, error)
                except Exception:
                    log.exception("%s/%s: a round failed; it will be tried again", *key)
                await asyncio.sleep(QUIET_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.every_s):
                        await app.heard.wait()
        finally:
            del self._apps[key]
            await self._close_unused()

    async def _close_unused(self) -> None:
        used = {app.where for app in self._apps.values() if app.where is not None}
        await self._databases.keep_only(used)

    async def _round(self, key: Key, app: _App) -> bool:
        """One look, plan and act. False when the app is gone."""
        body = await self._cluster.app(*key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            return False
        spec, database = await self._database(app, AppSpec.of(body))
        workloads, migrations, pods = await self._cluster.children(spec)
        seen = Observed(
            spec=spec,
            now=time.time(),
            database=database,
            workloads=workloads,
            migrations=migrations,
            pods=pods,
            status=body.get("status") or {},
            memory=app.memory,
            refusal=app.refusal,
        )
        planned = plan(seen, window_s=self._settings.window_s)
        app.memory = planned.memory
        assert planned.progress is not None
        await self._say(seen, status_of(seen, planned.progress))
        await self._act(app, spec, planned.actions)
        return True

    async def _database(self, app: _App, spec: AppSpec) -> tuple[AppSpec, Database]:
        """What is known of the database; and the spec with the version of its secret."""
        try:
            url, version = await self._cluster.database_url(spec)
        except SecretMissing as missing:
            app.where = None
            return spec, Database(reachable=False, reason=missing.reason, trouble=str(missing))
        where = Settings(database_url=url, pgbouncer=spec.pgbouncer)
        if app.where != where:
            app.where = where
            await self._close_unused()
        database = await self._databases.look(where, spec.app)
        return replace(spec, secret_version=version), database

    async def _act(self, app: _App, spec: AppSpec, actions: Sequence[Action]) -> None:
        """Carry out one after the other; what is refused must not hold up the rest."""
        refusals = []
        for action in actions:
            log.info("%s/%s: %s", spec.namespace, spec.name, _brief(action))
            try:
                if isinstance(action, Promote):
                    assert app.where is not None  # the plan has seen its database
                    await self._databases.promote(app.where, action.app, action.version)
                else:
                    await self._cluster.carry_out(spec, action)
            except (ApiError, RowlockError) as error:
                refusals.append(f"{_brief(action)} was refused: {error}")
                log.warning("%s/%s: %s", spec.namespace, spec.name, refusals[-1])
        app.refusal = "; ".join(refusals)
        if actions and not refusals:
            app.heard.set()  # look at what came of it

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


def _brief(action: Action) -> str:
    if isinstance(action, Apply | CreateJob):
        manifest = action.manifest
        return f"{type(action).__name__} {manifest['kind']} {manifest['metadata']['name']}"
    return repr(action)
