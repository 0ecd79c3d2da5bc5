"""What a WorkflowApp's status says: conditions with stable reasons, a phase, a few numbers. Pure.

Ready              True: AllPoolsReady.  False: Paused, SecretMissing, SecretKeyMissing,
                   DatabaseUnreachable, Migrating, MigrationFailed, RolloutInProgress,
                   WorkersFailing, RolloutFailed, ImageTooOld, Refused
Progressing        True: Migrating, RolloutInProgress, WorkersFailing.  False: Complete, Paused,
                   Waiting, MigrationFailed, ImageTooOld, RolloutFailed, Refused
Migrated           True: SchemaCurrent.  False: MigrationPending, MigrationRunning,
                   MigrationFailed, ImageTooOld.  Unknown: DatabaseUnreachable
DatabaseReachable  True: Connected.  False: SecretMissing, SecretKeyMissing, ConnectionFailed,
                   OperatorOutdated
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from rowlock_operator.observed import Observed
from rowlock_operator.plan import Progress

MOST_TEXT = 1024


class Verdict(NamedTuple):
    """A condition's substance."""

    status: str
    reason: str
    message: str


class Change(NamedTuple):
    """A condition that turned; worth an Event."""

    type: str
    status: str
    reason: str
    message: str

    @property
    def is_warning(self) -> bool:
        return self.reason in TROUBLE


TROUBLE = {
    "SecretMissing",
    "SecretKeyMissing",
    "ConnectionFailed",
    "OperatorOutdated",
    "DatabaseUnreachable",
    "MigrationFailed",
    "WorkersFailing",
    "RolloutFailed",
    "ImageTooOld",
    "Refused",
}


def status_of(seen: Observed, progress: Progress) -> dict[str, Any]:
    """The whole status. Times of conditions that did not turn stay as they were."""
    spec, fleet = seen.spec, seen.database.fleet
    verdicts = _verdicts(seen, progress)
    status: dict[str, Any] = {
        "observedGeneration": spec.generation,
        "version": spec.version,
        "phase": _phase(seen, verdicts),
        "readyWorkers": sum(w.ready for w in seen.workloads),
        "workers": sum(w.replicas for w in seen.workloads),
        "pools": [
            {
                "name": w.pool,
                "version": w.version,
                "workers": w.replicas,
                "ready": w.ready,
                "wanted": progress.wanted.get(w.name, w.replicas),
            }
            for w in sorted(seen.workloads, key=lambda w: (w.pool, w.version))
        ],
        "conditions": [_condition(seen, type_, verdict) for type_, verdict in verdicts.items()],
    }
    if fleet is not None:
        mine = [one for one in fleet.queues if one.app == spec.app]
        waits = [one.oldest_due_seconds or 0.0 for one in mine if one.state == "ready"]
        status["openRuns"] = sum(one.tasks for one in mine)
        status["oldestWaitSeconds"] = round(max(waits, default=0.0))
        status["schemaLevel"] = fleet.schema_level
    return status


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Conditions that turned, or for another reason; of several with one reason the first."""
    old = {one["type"]: (one["status"], one["reason"]) for one in before.get("conditions", ())}
    turned: dict[str, Change] = {}
    for one in after["conditions"]:
        if old.get(one["type"]) != (one["status"], one["reason"]):
            change = Change(one["type"], one["status"], one["reason"], one["message"])
            turned.setdefault(change.reason, change)
    return list(turned.values())


def _verdicts(seen: Observed, progress: Progress) -> dict[str, Verdict]:
    database = _database(seen)
    migrated = _migrated(seen, progress)
    hindered = _hindered(seen, progress, database, migrated)
    version = seen.spec.version
    if hindered is not None:
        ready = Verdict("False", hindered.reason, hindered.message)
        going = hindered.reason in _GOING
        reason = hindered.reason if going or hindered.reason in _ENDS else "Waiting"
        progressing = Verdict("True" if going else "False", reason, hindered.message)
    else:
        ready = Verdict("True", "AllPoolsReady", f"version {version} serves all pools")
        progressing = Verdict("False", "Complete", f"version {version} is rolled out")
    return {
        "Ready": ready,
        "Progressing": progressing,
        "Migrated": migrated,
        "DatabaseReachable": database,
    }


_GOING = ("Migrating", "RolloutInProgress", "WorkersFailing")
_ENDS = ("Paused", "MigrationFailed", "ImageTooOld", "RolloutFailed", "Refused")


def _database(seen: Observed) -> Verdict:
    database, spec = seen.database, seen.spec
    if database.reason:
        return Verdict("False", database.reason, database.trouble)
    return Verdict("True", "Connected", f"as secret {spec.secret} says")


def _migrated(seen: Observed, progress: Progress) -> Verdict:
    job = progress.migration
    if progress.migrated is None:
        return Verdict("Unknown", "DatabaseUnreachable", "the schema can't be looked at")
    if progress.migrated:
        assert seen.database.fleet is not None
        level = seen.database.fleet.schema_level
        return Verdict("True", "SchemaCurrent", f"the database is at level {level}")
    if job is not None and job.succeeded and seen.database.needs_migration:
        why = (
            f"{seen.spec.image} has migrated, but not as far as this operator can read: upgrade it"
        )
        return Verdict("False", "ImageTooOld", why)
    if job is None or job.succeeded:
        return Verdict("False", "MigrationPending", f"a Job for {seen.spec.image} will be started")
    if job.failed:
        why = job.trouble or "its pod left no message"
        return Verdict("False", "MigrationFailed", f"Job {job.name} failed: {why}")
    more = f": {job.trouble}" if job.trouble else ""
    return Verdict("False", "MigrationRunning", f"Job {job.name} runs{more}")


def _hindered(
    seen: Observed, progress: Progress, database: Verdict, migrated: Verdict
) -> Verdict | None:
    """Why the app is not ready; None: it is."""
    spec = seen.spec
    others = sum(w.ready for w in seen.workloads if w.version != spec.version)
    meanwhile = f"; workers of other versions serve on ({others} ready)" if others else ""
    if spec.paused:
        return Verdict("False", "Paused", "spec.paused is set: nothing is changed")
    if database.status == "False":
        known = database.reason.startswith("Secret")
        reason = database.reason if known else "DatabaseUnreachable"
        return Verdict("False", reason, database.message)
    if migrated.status != "True":
        reason = migrated.reason if migrated.reason in _ENDS else "Migrating"
        return Verdict("False", reason, migrated.message + meanwhile)
    if seen.refusal:
        return Verdict("False", "Refused", seen.refusal + meanwhile)
    if progress.pools_ready and not progress.registered:
        message = (
            f"pods are ready, but no worker of app {spec.app} has registered with version "
            f"{spec.version} yet; if this stays, the App in the code has another name: set spec.app"
        )
        return Verdict("False", "RolloutInProgress", message)
    if not progress.pools_ready or not progress.promoted:
        is_stuck = any(w.stuck for w in seen.workloads if w.version == spec.version)
        if progress.stuck:
            message = f"workers of version {spec.version} do not start: {'; '.join(progress.stuck)}"
            reason = "RolloutFailed" if is_stuck else "WorkersFailing"
            return Verdict("False", reason, message + meanwhile)
        message = f"workers of version {spec.version} are starting{meanwhile}"
        return Verdict("False", "RolloutInProgress", message)
    return None


def _phase(seen: Observed, verdicts: dict[str, Verdict]) -> str:
    reason = verdicts["Ready"].reason
    if reason == "AllPoolsReady":
        return "Ready"
    if reason == "Migrating":
        return "Migrating"
    if reason in ("RolloutInProgress", "WorkersFailing"):
        return "Progressing"
    if reason == "Paused":
        return "Paused"
    return "Degraded" if seen.workloads or reason in _ENDS else "Pending"


def _condition(seen: Observed, type_: str, verdict: Verdict) -> dict[str, Any]:
    old = next((c for c in seen.status.get("conditions", ()) if c["type"] == type_), None)
    turned = old is None or old["status"] != verdict.status
    now = datetime.fromtimestamp(seen.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": type_,
        "status": verdict.status,
        "reason": verdict.reason,
        "message": verdict.message[:MOST_TEXT],
        "observedGeneration": seen.spec.generation,
        "lastTransitionTime": now if old is None or turned else old["lastTransitionTime"],
    }
