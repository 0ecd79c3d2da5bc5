"""A Postgres of our own, for `rowlock dev`, the demo and the tests.

What lives here: finding the server's binaries, making a data folder, and starting, stopping and
killing one server as a child process. What may not: SQL of Rowlock, a database driver, anything
that a production worker needs. This room imports `rowlock.errors` and nothing else of Rowlock.

Where to go:

    start, stop, kill, the URL                          server.py
    which binaries, and may the server's user run them  binaries.py
    where the data lives by default                     data_folder.py
    initdb, the password, the first database            cluster.py
    one owner for each data folder                      lock.py
    what if our own process is killed                   watcher.py
    servers left behind, postmaster.pid                 postmaster.py
    facts about processes, on Linux and macOS           processes.py
    why root needs a second system user                 account.py
    which port                                          ports.py
"""

from rowlock.embedded.data_folder import default_data_folder
from rowlock.embedded.server import Server, ServerDidNotStart

__all__ = ["Server", "ServerDidNotStart", "default_data_folder"]
