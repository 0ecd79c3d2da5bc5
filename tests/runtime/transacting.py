"""The workflows of test_transactions.py, over transactions of one kind."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rowlock import App
from rowlock.errors import MisplacedCall, StepFailed

tried: list[str] = []
RELEASE = threading.Event()


class Workflows:
    """``plain``: transactions that are plain functions; ``common``: those that workflows name."""

    def __init__(
        self,
        app: App,
        common: tuple[Any, Any, Any, Any],
        other: Iterable[Any],
        plain: Iterable[Any],
    ) -> None:
        book, book_sync, slow_sync, transfer = common
        by_name = {t.name: t for t in other}
        plain_by_name = {t.name: t for t in plain}

        @app.workflow
        async def transacts(name: str) -> Any:
            if name in by_name:
                return await by_name[name]()
            return await plain_by_name[name].in_thread()

        @app.workflow
        async def books(count: int) -> list[int]:
            both = [book(n) for n in range(count)]
            plain = [book_sync.in_thread(n) for n in range(count, 2 * count)]
            numbers = await asyncio.gather(*both, *plain)
            await app.sleep(0.01)
            return [*numbers, await book(99)]

        @app.workflow
        async def fails_between() -> int:
            """Sooner or later psycopg prepares what it sends for the first time in a failing
            pipeline."""
            done = 0
            for n in range(8):
                with suppress(StepFailed, MisplacedCall):
                    await by_name["swallows_a_broken_rule"]()
                done += 1 + 0 * await book(n)
            return done

        @app.workflow
        async def many_plain(count: int) -> int:
            return sum(await asyncio.gather(*(slow_sync.in_thread(n) for n in range(count))))

        @app.workflow
        def sync_books() -> list[int]:
            first: int = book_sync(1)
            app.sleep(0.01).wait()
            return [first, book.blocking(2)]

        @app.workflow
        async def transfers() -> int:
            await asyncio.gather(transfer("a", "b"), transfer("b", "a"), transfer("a", "b"))
            await app.sleep(0.01)
            return 3

        @app.workflow
        async def cancelled_at_random(plain: bool, seed: int) -> int:
            """Cancels transactions at every possible moment of theirs."""
            rng = random.Random(seed)
            done = 0
            for n in range(8):
                call = book_sync.in_thread(n) if plain else book(n)
                task = asyncio.create_task(call)
                await app.sleep(rng.random() * 0.01)
                task.cancel()
                await asyncio.wait([task])
                done += not task.cancelled()
            return done

        self.transacts = transacts
        self.books = books
        self.fails_between = fails_between
        self.many_plain = many_plain
        self.sync_books = sync_books
        self.transfers = transfers
        self.cancelled_at_random = cancelled_at_random
