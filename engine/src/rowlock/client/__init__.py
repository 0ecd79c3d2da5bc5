"""What starts, watches and mends runs."""

from rowlock.client.client import Client, call
from rowlock.client.run import Run, RunInfo, StreamEntry

__all__ = ["Client", "Run", "RunInfo", "StreamEntry", "call"]
