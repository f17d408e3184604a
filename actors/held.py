"""What is held in the name of others, and when nobody refers to it any more."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVarTuple

from penstock.runtime.errors import forget_frames, forget_traceback

Args = TypeVarTuple("Args")


class Held:
    """A hold on what others hold: one part of a loan, which ends when nobody refers to this any more."""

    __slots__ = ("__weakref__", "_hold")

    def __init__(self, hold: object) -> None:
        self._hold = hold


def when_dropped(hold: object, tell: Callable[[], None]) -> None:
    """`tell`, in a step of the loop, when the last reference to `hold` is gone, on whatever thread."""
    loop = asyncio.get_running_loop()

    def dropped() -> None:
        if not loop.is_closed():  # it may outlive the node
            loop.call_soon_threadsafe(tell)

    weakref.finalize(hold, dropped).atexit = False


async def letting_go(work: Callable[[*Args], Coroutine[Any, Any, None]], *args: *Args) -> None:
    """`work`, which holds what it holds no longer than it runs, also when it is cancelled: a task group keeps the
    cancellations of its tasks in circles, and their frames with them, until the collector comes by."""
    running = work(*args)
    del work, args
    try:
        await running
    except asyncio.CancelledError as given_up:
        forget_frames(given_up)
        forget_traceback(given_up)
        raise
