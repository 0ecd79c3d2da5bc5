"""A worker at work: claiming, running, journalling, keeping the lease. asyncio lives here.

Decisions come from ``model``, statements from ``store``. Nothing here knows the decorators and
classes that people hold; it is given a Code to run.
"""
