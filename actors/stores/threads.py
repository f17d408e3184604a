"""Blocking calls of foreign libraries, in a bounded number of threads that nobody has to wait for in vain.

A thread is started for each call: the calls meant here go over a network, or into a kernel that may never answer. A
thread that hangs ends with the process, which its like would otherwise not let go.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

from penstock.actors.stores.together import together

Item = TypeVar("Item")
Result = TypeVar("Result")


class NoThread(RuntimeError):
    """Nobody's: the system has no thread left."""


class Threads:
    """At most `count` calls at a time. A call that was given up keeps its thread, and its place, until it returns."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._places = asyncio.Semaphore(count)

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises. Cancelled, it goes on unheard."""
        return await (await self.begin(work))

    async def begin(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Begin `work` when there is a place for it. What it returns or raises, later; nobody has to ask.

        Raises NoThread.
        """
        await self._places.acquire()
        answer: asyncio.Future[Result] | None = None
        try:
            answer = _begun(_Call(work, self._places.release), self._name)
        finally:
            if answer is None:
                self._places.release()
        return answer

    @property
    def count(self) -> int:
        return self._count

    async def close(self) -> None:
        """Wait until every call has returned, those that were given up, too. None is begun any more."""
        for _ in range(self._count):
            await self._places.acquire()

    async def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work` of every item, side by side; answers in their order. The first error ends it, and is raised as it
        is."""
        return await together(
            lambda item: self.run(partial(work, item)), items, at_once=self._count
        )


def on_a_thread(name: str, work: Callable[[], Result]) -> asyncio.Future[Result]:
    """Begin `work`, on a thread of its own: whoever calls sees to it that there are few. Raises NoThread."""
    return _begun(_Call(work, lambda: None), name)


def _begun(call: _Call[Result], name: str) -> asyncio.Future[Result]:
    try:
        threading.Thread(target=call, name=name, daemon=True).start()
    except RuntimeError as error:
        raise NoThread(f"no thread can be started: {error}") from None
    return call.answer


class _Call(Generic[Result]):
    """One call: made on the loop's thread, called on its own, answered on the loop's."""

    def __init__(self, work: Callable[[], Result], ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Result] = self._loop.create_future()
        self._work = work
        self._ended = ended
        self._result: list[Result] = []  # one, or none
        self._error: BaseException | None = None

    def __call__(self) -> None:
        with self:
            self._result.append(self._work())
        del self._work  # and with it the memory that it touched
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _: object, error: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        self._error = error
        return True

    def _settle(self) -> None:
        self._ended()
        # An error leads back to this call, by the frames it came through: none of what they hold is to wait for the
        # collector.
        answer, error = self.answer, self._error
        del self.answer, self._error
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(self._result[0])
