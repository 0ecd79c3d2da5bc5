"""Fixtures for the client's tests: the runtime's bench."""

from runtime.conftest import bench, sql

__all__ = ["bench", "sql"]
