"""The eviction controller: keeps room in L1 before it is needed, and makes some at once when it is.

    taken > high water  -> evict down to low water, in batches, between other work of the loop
    somebody had NO_ROOM -> evict what they asked for, now

Nothing that a ticket or lease holds is ever evicted; when everything is held, room is not made and the asker hears so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from penstock.actors.api import eviction, l1
from penstock.runtime.errors import ConfigError
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Bytes of arena taken. `low_bytes <= high_bytes <= arena_bytes`; equal to the arena: evict only on NO_ROOM."""

    low_bytes: int
    high_bytes: int
    batch_bytes: int  # evicted in one step of the loop
    ask_s: float  # how long the L1 manager may take for a step

    @staticmethod
    def of(
        arena_bytes: int, *, low: float, high: float, batch_bytes: int, ask_s: float
    ) -> Watermarks:
        """From fractions of the arena. Raises ConfigError."""
        if not 0.0 < low <= high <= 1.0:
            problem = f"low and high water must be 0 < low <= high <= 1, not {low} and {high}"
            raise ConfigError("l1.low_water", problem)
        return Watermarks(int(arena_bytes * low), int(arena_bytes * high), batch_bytes, ask_s)


class EvictionController(eviction.EvictionController):
    def __init__(self, manager: Ref[l1.L1Manager], watermarks: Watermarks) -> None:
        self._l1 = manager
        self._watermarks = watermarks

    async def receive(self, msg: eviction.Message) -> object:
        match msg:
            case eviction.MakeRoom():
                return answer(msg, await self._evict(msg.bytes_wanted))
            case eviction.Pressure():
                await self._relieve()
                return answer(msg, None)
            case _:
                assert_never(msg)

    async def _relieve(self) -> None:
        """From above high water down to low water; stops early when everything left is held."""
        usage = await self._l1.ask(l1.Measure(), within=self._watermarks.ask_s)
        if usage.taken_bytes <= self._watermarks.high_bytes:
            return
        excess = usage.taken_bytes - self._watermarks.low_bytes
        while excess > 0:
            freed = await self._evict(min(excess, self._watermarks.batch_bytes))
            if freed == 0:
                return
            excess -= freed

    async def _evict(self, bytes_wanted: int) -> int:
        room = await self._l1.ask(l1.Evict(bytes_wanted), within=self._watermarks.ask_s)
        return room.bytes_freed
