"""The eviction controller: keeps room in L1 before it is needed, and makes some at once when it is.

    taken > high water  -> evict down to low water
    somebody had NO_ROOM -> evict what they asked for, now
    purge                -> evict everything

All of it in batches, between other work of the loop: a batch is bounded by its bytes and by its chunks, so that
neither large objects nor many small ones hold the loop up.

Nothing that a ticket or lease holds is ever evicted; when everything is held, room is not made and the asker hears so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from anyio.lowlevel import checkpoint

from penstock.actors.api import eviction, l1
from penstock.runtime.errors import ConfigError
from penstock.runtime.hazard import hazard
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Bytes of arena taken. `low_bytes <= high_bytes <= arena_bytes`; equal to the arena: evict only on NO_ROOM."""

    arena_bytes: int
    low_bytes: int
    high_bytes: int
    batch_bytes: int  # evicted in one step of the loop
    batch_chunks: int  # the same; whichever comes first
    ask_s: float  # how long the L1 manager may take for a step

    @staticmethod
    def of(
        arena_bytes: int,
        *,
        low: float,
        high: float,
        batch_bytes: int,
        batch_chunks: int,
        ask_s: float,
    ) -> Watermarks:
        """From fractions of the arena. Raises ConfigError."""
        if not 0.0 < low <= high <= 1.0:
            problem = f"low and high water must be 0 < low <= high <= 1, not {low} and {high}"
            raise ConfigError("l1.low_water", problem)
        low_bytes, high_bytes = int(arena_bytes * low), int(arena_bytes * high)
        return Watermarks(arena_bytes, low_bytes, high_bytes, batch_bytes, batch_chunks, ask_s)


class EvictionController(eviction.EvictionController):
    def __init__(self, manager: Ref[l1.L1Manager], watermarks: Watermarks) -> None:
        self._l1 = manager
        self._watermarks = watermarks

    async def receive(self, msg: eviction.Message) -> object:
        match msg:
            case eviction.MakeRoom():
                room = await self._evict(min(msg.bytes_wanted, self._watermarks.arena_bytes))
                return answer(msg, room.bytes_freed)
            case eviction.Pressure():
                await self._relieve()
                return answer(msg, None)
            case eviction.Purge():
                return answer(msg, await self._evict(self._watermarks.arena_bytes))
            case _:
                assert_never(msg)

    async def _relieve(self) -> None:
        """From above high water down to low water; stops early when everything left is held."""
        usage = await self._l1.ask(l1.TakePressure(), within=self._watermarks.ask_s)
        if usage.taken_bytes > self._watermarks.high_bytes:
            await self._evict(usage.taken_bytes - self._watermarks.low_bytes)

    async def _evict(self, bytes_wanted: int) -> l1.Room:
        """Batch by batch, until so much is free or nothing is left that may go."""
        freed = chunks = 0
        room = l1.Room(0, 0, is_over=False)
        while freed < bytes_wanted:
            wanted = min(bytes_wanted - freed, self._watermarks.batch_bytes)
            batch = l1.Evict(wanted, self._watermarks.batch_chunks)
            room = await self._l1.ask(batch, within=self._watermarks.ask_s)
            freed += room.bytes_freed
            chunks += room.chunks_evicted
            if room.is_over:
                break
            await hazard("eviction.between_batches")
            await checkpoint()  # an ask of an idle L1 manager is no turn of the loop
        return l1.Room(freed, chunks, room.is_over)
