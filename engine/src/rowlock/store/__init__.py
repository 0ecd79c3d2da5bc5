"""Everything that is said to PostgreSQL.

The only room that imports psycopg. Statements are values, short executors run them; SQL with any
logic in it lives in files: tables in ``migrations/``, functions and views in ``functions/``.
Nothing here knows what a workflow is.
"""
