"""The contention suite: how a database and Rowlock's claims on it behave when many want the same.

`rowlock loadtest` runs it. What is driven are Rowlock's SQL functions, from many connections in a
few processes, without workflow code: so PostgreSQL is measured and not Python. Results are values
(results.py), and everything that is said and drawn of them is pure: verdict.py, pictures.py,
report.py.

Raw SQL to Rowlock's tables stands in truth.py alone; the rest uses public functions and the
catalog.
"""
