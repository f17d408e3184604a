"""Opening what may hang, on a thread beside the loop that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Generic, TypeVar

import anyio

from penstock.actors.stores.store import StoreFault
from penstock.actors.stores.threads import Threads
from penstock.runtime.errors import mapped

GIVE_UP_WITHIN_S = 1.0  # to close what was opened in vain
Opened = TypeVar("Opened")


@asynccontextmanager
async def opened_beside(
    threads: Threads, open_it: Callable[[ExitStack], Opened]
) -> AsyncIterator[Opened]:
    """What `open_it` returns. It blocks, and leaves with its stack how to close what it opens, which blocks, too.

        async with opened_beside(context.beside, open_media) as media:
            return RawBlockStore(media)

    Whoever gives up leaves at once, and then, as when the body fails, it is closed: here within GIVE_UP_WITHIN_S, or
    whenever the thread gets that far. Once the body is over, it belongs to whoever took it there. Raises what `open_it`
    raises, and StoreFault when no thread, descriptor or device is to be had.
    """
    opening = _Opening(open_it)

    async def give_up() -> None:
        if (close := opening.give_up()) is not None:
            await threads.run(close)

    async with undone_by(give_up):
        with mapped({RuntimeError: StoreFault, OSError: StoreFault}):
            yield await threads.run(opening)


@asynccontextmanager
async def undone_by(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Unless the body gets to its end, `close` is called, and waited for no longer than GIVE_UP_WITHIN_S."""
    is_over = False
    try:
        yield
        is_over = True
    finally:
        if not is_over:
            with anyio.move_on_after(GIVE_UP_WITHIN_S, shield=True):
                await close()


class _Opening(Generic[Opened]):
    """Whoever comes last closes what nobody wants any more: the thread, or the one who gave up."""

    def __init__(self, open_it: Callable[[ExitStack], Opened]) -> None:
        self._open_it = open_it
        self._lock = threading.Lock()
        self._is_given_up = False
        self._close: Callable[[], None] | None = None  # what has been opened and handed over

    def __call__(self) -> Opened:
        with ExitStack() as stack:
            opened = self._open_it(stack)
            with self._lock:
                if not self._is_given_up:
                    self._close = stack.pop_all().close
        return opened

    def give_up(self) -> Callable[[], None] | None:
        """What is to be called if the thread has done its part; else it closes by itself."""
        with self._lock:
            self._is_given_up = True
            return self._close
