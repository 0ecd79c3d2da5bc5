"""Questions of many in one statement: those that come while one is under way go with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from itertools import islice
from typing import Generic, TypeVar

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")

MOST_ASKED = 1000
"""So many in one statement at most."""


class Together(Generic[Question, Answer]):
    """``ask`` is given a list of questions and gives an answer to each."""

    def __init__(
        self, ask: Callable[[list[Question]], Awaitable[Mapping[Question, Answer]]]
    ) -> None:
        self._ask = ask
        self._asked: dict[Question, asyncio.Future[Answer]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, question: Question) -> Answer:
        """The answer. Raises what ``ask`` raised."""
        if question not in self._asked:
            self._asked[question] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._work())
        return await asyncio.shield(self._asked[question])

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
            self._asking = None

    async def _work(self) -> None:
        while self._asked:
            asked = dict(islice(self._asked.items(), MOST_ASKED))
            for question in asked:
                del self._asked[question]
            try:
                answers = await self._ask(list(asked))
            except BaseException as error:
                for future in asked.values():
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # whoever asked may be gone
                if not isinstance(error, Exception):
                    raise
            else:
                for question, future in asked.items():
                    if not future.done():
                        future.set_result(answers[question])
