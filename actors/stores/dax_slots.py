"""Which object is in which slot of which arena. Copies nothing; belongs to the loop.

FREE -taken-> WRITTEN -published-> HELD -dropped-> FREE, when nobody reads it any more
                 '- given up, failed, overtaken -> FREE
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from anyio.lowlevel import checkpoint

from penstock.actors.stores.dax_arena import DaxArena, SlotEntry
from penstock.actors.stores.store import StoreRefused

PARTS = 256  # of the index, so that none of them is ever listed or rehashed at length
ADOPTED_STEP = 256  # objects that an arena brings with it, in one step of the loop


@dataclass(slots=True, eq=False)
class Held:
    """One object in its slot, or on its way there."""

    arena: DaxArena
    slot: int
    entry: SlotEntry
    readers: int = 0
    is_dropped: bool = False  # and its slot is free when readers == 0


class DaxSlots:
    def __init__(self) -> None:
        self.arenas: list[DaxArena] = []
        self._parts: tuple[dict[bytes, Held], ...] = tuple({} for _ in range(PARTS))
        self._written: set[Held] = set()  # on their way
        self._sequence = 0  # of the latest save
        self._changed = asyncio.Event()  # replaced whenever it is set: a slot was filled or freed

    def get(self, key: bytes) -> Held | None:
        return self._parts[key[0]].get(key)

    async def oldest_first(self) -> Iterator[Held]:
        """All that there are, in steps; each step of what is returned is short, too."""
        parts: list[list[Held]] = []
        for part in self._parts:
            parts.append(sorted(part.values(), key=_sequence_of))
            await checkpoint()
        return heapq.merge(*parts, key=_sequence_of)

    async def of(self, arena: DaxArena) -> list[Held]:
        """What is held there, in steps; some of it may be dropped meanwhile."""
        mine: list[Held] = []
        for part in self._parts:
            mine += [held for held in part.values() if held.arena is arena]
            await checkpoint()
        return mine

    def arena(self, path: Path) -> DaxArena:
        """Raises StoreRefused."""
        for arena in self.arenas:
            if arena.path == path:
                return arena
        known = ", ".join(str(one.path) for one in self.arenas)
        raise StoreRefused("arenas", f"there is no arena {path}; there are {known}")

    async def adopt(self, arena: DaxArena, found: Sequence[tuple[int, SlotEntry]]) -> None:
        """An arena, and what `find` told of it: in steps; all at once when it is given up. Of two objects of one name
        the later one counts."""
        self.arenas.append(arena)
        if found:
            self._sequence = max(self._sequence, found[-1][1].sequence)
        left = iter(found)
        try:
            while step := [*islice(left, ADOPTED_STEP)]:
                for slot, entry in step:
                    self._publish(Held(arena, slot, entry))
                await checkpoint()
        finally:
            for slot, entry in left:
                self._publish(Held(arena, slot, entry))
            self._tell()

    def take(self, entry: SlotEntry) -> Held | None:
        """A slot for it, in the arena that has most of them; its sequence is the latest. None: there is none."""
        open_ones = [one for one in self.arenas if one.free and not one.is_draining]
        if not open_ones:
            return None
        arena = max(open_ones, key=lambda one: len(one.free))
        self._sequence += 1
        place = Held(arena, arena.free.pop(), entry._replace(sequence=self._sequence))
        self._written.add(place)
        return place

    def settle(self, place: Held, *, is_whole: bool, source: Held | None = None) -> None:
        """It is written, or will not be. What was copied from `source` counts only if that is still what is held."""
        self._written.discard(place)
        is_late = source is not None and self.get(place.entry.key) is not source
        if is_whole and not is_late:
            self._publish(place)
        else:
            self._free(place)
        self._tell()

    def drop(self, held: Held) -> None:
        del self._parts[held.entry.key[0]][held.entry.key]
        held.arena.held -= 1
        self._free(held)
        self._tell()

    def drop_those(self, some: Sequence[Held]) -> set[bytes]:
        """Those that are held still. Returns their keys."""
        still = [held for held in some if self.get(held.entry.key) is held]
        for held in still:
            self.drop(held)
        return {held.entry.key for held in still}

    def begin_reading(self, held: Held) -> None:
        held.readers += 1

    def end_reading(self, held: Held) -> None:
        held.readers -= 1
        self._free_if_unused(held)

    def is_written(self, arena: DaxArena) -> bool:
        """Whether something is on its way there."""
        return any(one.arena is arena for one in self._written)

    async def change(self) -> None:
        """The next one."""
        await self._changed.wait()

    def _publish(self, held: Held) -> None:
        """The one that was saved last stays under its key."""
        part = self._parts[held.entry.key[0]]
        known = part.get(held.entry.key)
        if known is not None and known.entry.sequence > held.entry.sequence:
            self._free(held)
            return
        part[held.entry.key] = held
        held.arena.held += 1
        if known is not None:
            known.arena.held -= 1
            self._free(known)

    def _free(self, held: Held) -> None:
        held.arena.clear(held.slot)
        held.is_dropped = True
        self._free_if_unused(held)

    def _free_if_unused(self, held: Held) -> None:
        if held.is_dropped and not held.readers:
            held.arena.free.append(held.slot)
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _sequence_of(held: Held) -> int:
    return held.entry.sequence
