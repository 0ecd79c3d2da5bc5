"""Rowlock: durable workflows written as plain Python functions on nothing but PostgreSQL.

    app = App("shop")

    @app.step
    async def charge(order: Order) -> Receipt: ...

    @app.workflow
    async def fulfil(order: Order) -> str:
        receipt = await charge(order)
        ...

Every step is a checkpoint: a run whose worker dies goes on elsewhere, from the last recorded one.
"""

from rowlock.app import App, Queue
from rowlock.blocking import BlockingClient, BlockingRun
from rowlock.client import Client, Run, RunInfo, call
from rowlock.errors import RowlockError
from rowlock.model.rates import Rate
from rowlock.model.retry import Retry
from rowlock.model.secret import Secret
from rowlock.settings import Settings
from rowlock.starting import Batch, Debounce, Dedup
from rowlock.worker import BlockingWorker, Worker
from rowlock.workflow import Call, Child, WorkflowCall

__all__ = [
    "App",
    "Batch",
    "BlockingClient",
    "BlockingRun",
    "BlockingWorker",
    "Call",
    "Child",
    "Client",
    "Debounce",
    "Dedup",
    "Queue",
    "Rate",
    "Retry",
    "RowlockError",
    "Run",
    "RunInfo",
    "Secret",
    "Settings",
    "Worker",
    "WorkflowCall",
    "call",
]
