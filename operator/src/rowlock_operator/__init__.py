"""Rowlock's operator for Kubernetes: keeps what runs in step with what a WorkflowApp says.

    spec ──┐
    observed ──► plan ──► actions ──► cluster, database
    fleet ─┘      └────► status

Level-based: every round looks at everything and decides anew, so it may be killed at any point.
``plan`` and what it uses (``spec``, ``observed``, ``scaling``, ``manifests``, ``status``) are pure:
values in, values out. ``cluster`` alone speaks to Kubernetes, ``database`` alone to PostgreSQL.
"""
