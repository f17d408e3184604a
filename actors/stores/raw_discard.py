"""Telling a medium which slots hold nothing any more: a file gives their room back, flash need not carry them along.

    freed -> WAITING -many at a time-> UNDER WAY -over, failed-> free
                '- needed ---------------------------------------^

Until then they are nobody's: none is written while it may be discarded, and what was freed has no name that a power cut
could bring back. Where nothing is to be discarded, slots are free at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from penstock.actors.core.slot_format import Run, Superblock
from penstock.actors.core.slot_space import SlotSpace
from penstock.actors.stores.device import Device
from penstock.actors.stores.discards import Span
from penstock.actors.stores.native_io import Moved
from penstock.runtime.log import Log

BATCH_RUNS = 256  # discarded by one call


class Discarder:
    """Between who frees slots of a volume, and its free space. Belongs to the loop."""

    def __init__(
        self, device: Device, layout: Superblock, space: SlotSpace, *, is_on: bool
    ) -> None:
        self._device = device
        self._layout = layout
        self._space = space
        self._is_on = is_on
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Run] = []  # bounded by the slots there are
        self._under_way: list[Run] = []
        self._begins = False  # in the next step of the loop, with all that are freed in this one
        self.over: asyncio.Future[list[str]] | None = None  # when what is under way will be

    @property
    def slots(self) -> int:
        """That wait, or are under way."""
        return sum(run.slots for run in (*self._waiting, *self._under_way))

    def free(self, runs: Sequence[Run]) -> None:
        """They are nobody's, for good."""
        if not self._is_on:
            self._space.release(runs)
            return
        self._waiting += runs
        self._begin_soon()

    def give_back(self) -> bool:
        """Free what waits, for it is needed. Whether there was something."""
        waiting, self._waiting = self._waiting, []
        self._space.release(waiting)
        return bool(waiting)

    async def stop(self) -> None:
        """Discard no more, and wait until what is under way is over."""
        self._is_on = False
        self.give_back()
        if self.over is not None:
            await asyncio.shield(self.over)

    def _begin_soon(self) -> None:
        if self._waiting and not self._begins and self.over is None:
            self._begins = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begins = False
        if not self._waiting:  # needed meanwhile
            return
        self._under_way, self._waiting = self._waiting[:BATCH_RUNS], self._waiting[BATCH_RUNS:]
        self.over = self._loop.create_future()
        spans = _spans(self._under_way, self._layout)
        self._device.discard(spans).add_done_callback(self._is_over)

    def _is_over(self, moved: Moved) -> None:
        over, self.over = self.over, None
        self._space.release(self._under_way)
        self._under_way = []
        if moved.result() < 0:
            self._is_on = False
            self.give_back()
            reason = f"{os.strerror(-moved.result())}; freed slots are written over, as without"
            Log("store.raw_block").warning("no_discards", device=self._device.name, reason=reason)
        if over is not None:
            over.set_result([])
        self._begin_soon()


def _spans(runs: Sequence[Run], layout: Superblock) -> list[Span]:
    """Where they are, neighbours together."""
    spans: list[Span] = []
    for run in sorted(runs):
        start = layout.slots_at + run.first * layout.slot_bytes
        size = run.slots * layout.slot_bytes
        if spans and sum(spans[-1]) == start:
            spans[-1] = (spans[-1][0], spans[-1][1] + size)
        else:
            spans.append((start, size))
    return spans
