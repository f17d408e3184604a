"""Native copies run beside the event loop, in a bounded number of threads, and always to their end.

A copy cannot be called off, and as long as it runs nobody may be told that its memory is free. So whatever cancels the
caller, an anyio scope or `asyncio.wait_for`, is heard only when the thread has ended.
"""

from __future__ import annotations

import asyncio
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from anyio import CancelScope, CapacityLimiter

from penstock._native import ArenaMapping, Copier
from penstock.actors.engine.copying import Batch


class Mover:
    """At most `copies_max` copies at once, each over `copy_threads` threads; more callers wait for their turn."""

    def __init__(self, *, copies_max: int, copy_threads: int) -> None:
        self._turns = CapacityLimiter(copies_max)
        self._pool = ThreadPoolExecutor(copies_max, thread_name_prefix="penstock copy")
        self._copier = Copier(threads=copy_threads)

    async def copy(self, batch: Batch, mapping: ArenaMapping) -> array[int]:
        """The runs' digests. If this is cancelled, the copy has either not begun or has ended. Raises BadBlocks."""
        async with self._turns:
            running = asyncio.wrap_future(
                self._pool.submit(partial(batch.run, self._copier, mapping))
            )
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                await _wait_to_end(running)
                raise
            return running.result()

    def close(self) -> None:
        """No copy is running any more; the threads end."""
        self._pool.shutdown(wait=False)


async def _wait_to_end(running: asyncio.Future[array[int]]) -> None:
    with CancelScope(shield=True):
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue  # the caller raises the first one, when the thread has ended
    running.exception()  # nobody is left to hear of it
