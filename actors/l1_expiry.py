"""Leases and tickets that end by themselves: whoever sleeps until the next one does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from penstock import _native


class Expiry:
    """Belongs to the L1 manager. `expired` hears of every step in which something may have ended."""

    def __init__(
        self, table: _native.Table, *, step_objects_max: int, expired: Callable[[float], None]
    ) -> None:
        self._table = table
        self._step_objects_max = step_objects_max
        self._expired = expired
        self._wake = asyncio.Event()
        self._sweeps_at = math.inf  # when it wakes by itself; <= the next expiry

    def expects(self, at: float) -> None:
        """A lease or ticket was made. It is woken only if it would come too late: most last equally long."""
        if at < self._sweeps_at:
            self._wake.set()

    async def sweep(self) -> None:
        """For ever: sleep until the next lease or ticket expires, and end it."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._sweeps_at = self._table.next_expiry()
            wait_s = self._sweeps_at - loop.time()
            if wait_s <= 0:
                self._table.expire(loop.time(), objects_max=self._step_objects_max)
                self._expired(loop.time())
                await asyncio.sleep(0)  # others first: there may be more
                continue
            try:
                async with asyncio.timeout(None if wait_s == math.inf else wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
