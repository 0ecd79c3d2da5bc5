"""`rowlock operator`: runs until SIGTERM, as one replica; a second one would do no harm."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import kopf

from rowlock_operator.cluster import Cluster
from rowlock_operator.handlers import registry
from rowlock_operator.reconciler import OperatorSettings, Reconciler

log = logging.getLogger("rowlock.operator")


def settings_from_environment() -> OperatorSettings:
    """``ROWLOCK_OPERATOR_NAMESPACE`` (with commas; empty: all), ``…_STABILIZATION_SECONDS``."""
    text = os.environ.get("ROWLOCK_OPERATOR_NAMESPACE", "")
    namespaces = tuple(filter(None, (name.strip() for name in text.split(","))))
    window = os.environ.get("ROWLOCK_OPERATOR_STABILIZATION_SECONDS") or "60"
    return OperatorSettings(namespaces=namespaces or ("*",), window_s=float(window))


async def run(settings: OperatorSettings, *, liveness: str | None) -> None:
    """Operate until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    everywhere = settings.namespaces == ("*",)
    async with Cluster() as cluster:
        reconciler = Reconciler(cluster, settings)
        reconciling = asyncio.create_task(reconciler.run())
        try:
            await kopf.operator(
                registry=registry(reconciler),
                standalone=True,
                clusterwide=everywhere,
                namespaces=() if everywhere else settings.namespaces,
                liveness_endpoint=liveness,
                stop_flag=stop,
            )
        finally:
            reconciling.cancel()
            await asyncio.gather(reconciling, return_exceptions=True)
