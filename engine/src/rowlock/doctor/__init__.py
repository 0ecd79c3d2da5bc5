"""What may be wrong with a database and the fleet on it, found and each with its remedy.

What lives here: the checks. `examination.py` of the store asks, a check judges what it was
answered, and gives a Finding; whoever shows findings (the command `rowlock doctor`) lives
elsewhere. What may not: SQL, writing anything, printing.

Where to go:

    a finding                            finding.py
    which checks there are, in order     examine.py
    the connection, the server           server.py
    connections, transactions, vacuum    upkeep.py
    the schema, rights                   schema.py
    runs and workers                     fleet.py
"""

from rowlock.doctor.examine import examine
from rowlock.doctor.finding import Finding, State

__all__ = ["Finding", "State", "examine"]
