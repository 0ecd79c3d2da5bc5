"""Runs one worker process: ``python -m workers.main MODULE:APP SLOTS GRACE``."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys

from rowlock import App
from rowlock.runtime.in_flight import IN_MEMORY_S
from rowlock.runtime.process import WorkerProcess
from rowlock.runtime.tenure import WorkerOptions
from rowlock.settings import Settings
from rowlock.telemetry import logs
from rowlock.telemetry.setup import observers


async def work(app: App, slots: int, grace_s: float) -> None:
    in_memory_s = float(os.environ.get("WORKER_IN_MEMORY_S", IN_MEMORY_S))
    options = WorkerOptions(slots=slots, grace_s=grace_s, in_memory_s=in_memory_s)
    settings = Settings.from_environment()
    observer = observers(app.code.app, settings.version)
    await WorkerProcess(settings, app.code, options, observer=observer).run()
    observer.close()


def main() -> None:
    logs.set_up(
        level=os.environ.get("WORKER_LOG", "INFO"), style=os.environ.get("WORKER_LOG_STYLE", "text")
    )
    module, _, name = sys.argv[1].partition(":")
    app = getattr(importlib.import_module(module), name)
    asyncio.run(work(app, int(sys.argv[2]), float(sys.argv[3])))
    logging.shutdown()
    os._exit(0)  # a step that was abandoned in its thread must not keep the process


if __name__ == "__main__":
    main()
