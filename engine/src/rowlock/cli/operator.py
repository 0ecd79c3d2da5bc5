"""`rowlock operator`: the entry point of the operator's image; the operator is a package apart."""

from __future__ import annotations

import asyncio
import logging

import click

from rowlock.cli.options import log_options
from rowlock.telemetry import logs
from rowlock_operator.main import run, settings_from_environment


@click.command("operator")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Answer /healthz on this port; 0: don't.",
)
@log_options
def operator_command(port: int, log_format: str, log_level: str) -> None:
    """Run the operator for Kubernetes.

    In a cluster, or with KUBECONFIG. ROWLOCK_OPERATOR_NAMESPACE names the namespaces it looks
    after, with commas between them; all if empty.

    \b
    Example:
      rowlock operator --port 8080
    """
    logs.set_up(level=log_level, style=log_format)
    for chatty in ("aiohttp.access", "kopf.activities.probe", "kopf.objects", "httpx2"):
        logging.getLogger(chatty).setLevel("WARNING")
    liveness = f"http://0.0.0.0:{port}/healthz" if port else None
    asyncio.run(run(settings_from_environment(), liveness=liveness))
