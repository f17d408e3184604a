"""The same work on many objects: a few workers take them, one after the other.

    items -> workers, `at_once` of them -> answers, by position

However many objects there are, no step of the loop is longer for it.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from penstock.runtime.errors import forget_traceback

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 128  # workers, where nobody says how many
BEGUN_A_STEP = 32  # workers; some tens of microseconds each
DONE_A_STEP = 16  # items, by one worker, if it has to wait for none of them


async def together(
    work: Callable[[Item], Awaitable[Result]], items: Sequence[Item], *, at_once: int = AT_ONCE
) -> list[Result]:
    """`work` of all items, so many at a time; answers in their order.

    The first error cancels the others, and is raised as it is.
    """
    if len(items) == 1:
        return [await work(items[0])]
    workers = _Workers(work, items, ends_s=math.inf)
    try:
        answers = await workers.run(min(at_once, len(items)))
    finally:
        workers.let_go()
    return [answers[at] for at in range(len(items))]


async def in_time(
    work: Callable[[Item], Awaitable[Result]],
    items: Sequence[Item],
    *,
    within_s: float,
    at_once: int = AT_ONCE,
) -> dict[int, Result]:
    """As `together`, what is known after `within_s`, by position; at least one, however long that takes.

    What was begun by then is cancelled. Items are taken in their order.
    """
    workers = _Workers(work, items, ends_s=asyncio.get_running_loop().time() + within_s)
    try:
        return await workers.run(min(at_once, len(items)))
    finally:
        workers.let_go()


class _Workers(Generic[Item, Result]):
    """Of one round. It is emptied when that is over: anyio keeps the frames of tasks that were cancelled in a circle,
    and what items hold is not to wait for the collector."""

    def __init__(
        self,
        work: Callable[[Item], Awaitable[Result]],
        items: Sequence[Item],
        *,
        ends_s: float,
    ) -> None:
        self._work = work
        self._left: Iterator[tuple[int, Item]] = iter(enumerate(items))
        self._ends_s = ends_s
        self._scope = anyio.CancelScope()
        self._answers: dict[int, Result] = {}
        self._errors: list[Exception] = []

    async def run(self, count: int) -> dict[int, Result]:
        with self._scope:
            async with anyio.create_task_group() as group:
                for number in range(1, count + 1):
                    group.start_soon(self._worker)
                    if number % BEGUN_A_STEP == 0:
                        await checkpoint()
        if self._errors:
            raise self._errors[0]
        return self._answers

    def let_go(self) -> None:
        self._left = iter(())
        self._answers = {}
        self._errors = []
        del self._work

    async def _worker(self) -> None:
        try:
            with self:
                await self._take()
        except CancelledError as given_up:
            forget_traceback(given_up)
            raise

    async def _take(self) -> None:
        for count, (at, item) in enumerate(self._left, start=1):
            self._answers[at] = await self._work(item)
            # Not before there is something to tell.
            self._scope.deadline = self._ends_s
            if count % DONE_A_STEP == 0:
                await checkpoint()

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._errors.append(error)
        self._scope.cancel()
        return True
