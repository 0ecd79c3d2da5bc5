"""Which system user the server runs as.

Postgres refuses to run as root. Whoever is not root runs it as themselves; root (a container, a
CI job) hands it to `postgres` if the system has that user, else to `nobody`.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """A system user in the form `subprocess.Popen` takes; all None means "as we are"."""

    name: str
    user: int | None = None
    group: int | None = None
    extra_groups: list[int] | None = None

    @property
    def is_another(self) -> bool:
        """Whether the server runs as someone else than this process."""
        return self.user is not None

    def can_enter(self, folder: Path) -> bool:
        """Whether this user may pass through ``folder`` and all folders above it.

        Folders that don't exist yet don't count: whoever makes them decides.
        """
        existing = (f for f in (folder, *folder.parents) if f.exists())
        return all(self._has_search_bit(f.stat()) for f in existing)

    def _has_search_bit(self, facts: os.stat_result) -> bool:
        if not self.is_another:
            return True  # the kernel will say so itself, in clearer words
        if facts.st_uid == self.user:
            return bool(facts.st_mode & stat.S_IXUSR)
        if facts.st_gid == self.group:
            return bool(facts.st_mode & stat.S_IXGRP)
        return bool(facts.st_mode & stat.S_IXOTH)


def server_account() -> Account:
    """The user the server runs as, given who we are."""
    if os.geteuid() != 0:
        return Account(name="the current user")
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, [])
