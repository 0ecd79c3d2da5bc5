"""For tests of workflows: a worker in the test's process, virtual time, crashes at exact moments.

What lives here: the harness that users test with, and with which Rowlock's own promises are
tested; the databases it uses; what its pytest fixtures give (they stand in the package
rowlock_pytest, which pytest loads at every start, so that loading it loads nothing else). What may
not: anything that a worker in production needs, SQL.

Where to go:

    the harness                                     harness.py, blocking.py for plain tests
    one worker that can be killed                   worker.py, wire.py
    one worker after the other                      succession.py
    faults at a named step                          faults.py, zombie.py
    a crash at every point                          crashes.py
    moments, and what they are called               moments.py
    waiting for what never comes                    stuck.py
    databases, the shared embedded server           databases.py, shared.py, keeper.py
    time, and other things only tests do to a database    store/laboratory.py
"""

from rowlock.testing.blocking import BlockingHarness
from rowlock.testing.crashes import CrashReport
from rowlock.testing.databases import Databases
from rowlock.testing.faults import FaultNeverHappened
from rowlock.testing.harness import Harness
from rowlock.testing.opening import OpenHarness
from rowlock.testing.stuck import Stuck

__all__ = [
    "BlockingHarness",
    "CrashReport",
    "Databases",
    "FaultNeverHappened",
    "Harness",
    "OpenHarness",
    "Stuck",
]
