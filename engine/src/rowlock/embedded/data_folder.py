"""Where `rowlock dev` keeps its database when nobody says otherwise.

The user's own data folder: outside of the project, so that `git clean` can't take the data along
and two check-outs share one server. Root is the exception: its home is closed (0700) to the user
Postgres runs as, and opening it up for a development database would be a hole nobody asked for.
There the data goes where a system service keeps it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rowlock.embedded.account import server_account

SYSTEM_FOLDER = Path("/var/lib/rowlock")


def default_data_folder() -> Path:
    """The default data folder; it need not exist yet, and its permissions are never changed.

    ``$XDG_DATA_HOME/rowlock``, else ``~/.local/share/rowlock`` (macOS: ``~/Library/Application
    Support/rowlock``); for root ``/var/lib/rowlock`` if the server's user can't reach that.
    """
    folder = _user_data_home() / "rowlock"
    return folder if server_account().can_enter(folder) else SYSTEM_FOLDER


def _user_data_home() -> Path:
    """The base folder of the user's data, by the XDG Base Directory Specification.

    The specification says that a relative path is invalid and to be ignored.
    """
    configured = Path(os.environ.get("XDG_DATA_HOME", ""))
    if configured.is_absolute():
        return configured
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path.home() / ".local" / "share"
