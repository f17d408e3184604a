"""Objects in mapped files or DAX devices: memory that keeps what it holds.

Where what is, is read from the entries of all slots when the store is opened (`dax_arena.py`), and then kept beside
them (`dax_slots.py`). Bytes are copied in threads, but for little that lies in memory: a page that is on a disk would
hold the loop up. Whoever gives up leaves at once; what is being copied keeps its slots and its memory until it is over,
and what has not begun is not begun. Arenas come and go while the store works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from anyio.lowlevel import checkpoint

from penstock._native import copy_bytes
from penstock.actors.api.store import ArenaUsage, Keys
from penstock.actors.stores.beside import opened_beside, undone_by
from penstock.actors.stores.dax_arena import DaxArena, SlotEntry
from penstock.actors.stores.dax_config import ARENAS_MAX, DaxConfig, Msync
from penstock.actors.stores.dax_slots import DaxSlots, Held
from penstock.actors.stores.store import (
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreFault,
    StoreRefused,
    Wanted,
)
from penstock.actors.stores.threads import Threads
from penstock.runtime.background import Background
from penstock.runtime.units import KIB

ENTRIES_MAX = 1024  # told at a time by recovery
MOVED_MAX = 16  # objects moved at a time when an arena is drained
THREADS = 4
INLINE_BYTES_MAX = 64 * KIB  # copied in the loop's own step; more goes to a thread
Found: TypeAlias = list[tuple[int, SlotEntry]]


async def open_dax_store(config: DaxConfig, context: StoreContext) -> DaxStore:
    """Lock and map all arenas, and read their entries. Raises StoreRefused, StoreFault."""
    store = DaxStore(config, context.beside)
    async with undone_by(store.aclose):
        for one in config.arenas:
            await store.add_arena(one.path, int(one.bytes))
    return store


@dataclass(frozen=True, slots=True)
class _Write:
    """Into a slot."""

    place: Held
    header: memoryview
    payload: memoryview
    hold: object  # until it is over
    source: Held | None = None  # it is moved from there


class DaxStore:
    ownership = Ownership.EXCLUSIVE

    def __init__(self, config: DaxConfig, beside: Threads) -> None:
        self._slot_bytes = int(config.slot_bytes)
        self._msync = config.msync
        self._slots = DaxSlots()
        self._threads = Threads("penstock-dax", THREADS)
        self._beside = beside  # for opening and closing
        self._closing = Background(self._close, StoreFault)
        self._is_closed = False

    async def locate(self, keys: Keys) -> bytes:
        await checkpoint()
        return bytes(self._slots.get(key) is not None for key in keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        await checkpoint()
        outcomes: list[Outcome] = []
        readers: list[Held] = []
        copies: list[Callable[[], None]] = []
        for one in wanted:
            held = self._slots.get(one.key)
            outcomes.append(MISSING if held is None else _refusal(held, one))
            if held is not None and outcomes[-1].fate is Fate.DONE:
                self._slots.begin_reading(held)
                readers.append(held)
                copies.append(partial(_copy_out, held, one))

        def ended(_: _Batch) -> None:
            for held in readers:
                self._slots.end_reading(held)

        is_little = sum(one.entry.payload_bytes for one in readers) <= INLINE_BYTES_MAX
        is_quick = is_little and all(one.arena.is_memory for one in readers)
        batch = _Batch(copies, ended)
        if is_quick:
            batch.run_at_once()
        else:
            await self._run(batch)
        return outcomes

    def load_at_once(self, wanted: Sequence[Wanted]) -> list[Outcome] | None:
        """What lies in memory: two turns of the loop would take longer than the copy."""
        found = [self._slots.get(one.key) for one in wanted]
        held = [one for one in found if one is not None and one.arena.is_memory]
        if len(held) < len(wanted):
            return None
        outcomes = [*map(_refusal, held, wanted)]
        if any(one.fate is not Fate.DONE for one in outcomes):
            return None
        for one, into in zip(held, wanted, strict=True):
            _copy_out(one, into)  # in this step: nobody gives its slot away meanwhile
        return outcomes

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        await checkpoint()
        outcomes = [DONE] * len(given)
        places: dict[int, Held] = {}
        for at, one in enumerate(given):
            size = len(one.header) + one.payload_bytes
            if size > self._slot_bytes:
                reason = f"{size} bytes with its header, slot_bytes is {self._slot_bytes}"
                outcomes[at] = Outcome(Fate.REFUSED, reason=reason)
            elif (place := self._slots.take(_entry_of(one))) is None:
                outcomes[at] = Outcome(Fate.FULL, reason="no slot is free")
            else:
                places[at] = place
        writes = [
            _Write(held, given[at].header, given[at].payload, given[at].hold)
            for at, held in places.items()
        ]
        errors = await self._write(writes)
        for at, held in places.items():
            if held in errors:
                outcomes[at] = Outcome(Fate.FAULT, reason=errors[held])
        return outcomes

    async def delete(self, keys: Keys) -> None:
        await checkpoint()
        for key in keys:
            held = self._slots.get(key)
            if held is not None:
                self._slots.drop(held)

    async def recover(self) -> AsyncIterator[list[Entry]]:
        held = await self._slots.oldest_first()
        while batch := [*islice(held, ENTRIES_MAX)]:
            await checkpoint()
            yield [
                Entry(one.entry.key, one.entry.device, self._slot_bytes, one.entry.tenant)
                for one in batch
                if not one.is_dropped
            ]

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        """A slot, whatever is in it."""
        return max(self._slot_bytes, header_bytes + payload_bytes)

    @property
    def capacity_bytes(self) -> int:
        slots = sum(one.layout.slots for one in self._slots.arenas if not one.is_draining)
        return slots * self._slot_bytes

    async def aclose(self) -> None:
        """When no thread copies any more: until then the arenas stay locked. Given up, it goes on by itself."""
        if not self._is_closed:
            await self._closing.result()

    async def _close(self) -> None:
        await self._threads.close()
        for arena in self._slots.arenas:
            await self._beside.run(arena.close)
        self._is_closed = True

    # Arenas at run time.

    def arenas(self) -> tuple[ArenaUsage, ...]:
        return tuple(
            ArenaUsage(str(one.path), one.layout.slots, one.taken, one.is_draining)
            for one in self._slots.arenas
        )

    async def add_arena(self, path: Path, size_bytes: int) -> None:
        """From now on objects are kept there, too; and found, if there are any. Raises StoreRefused, StoreFault."""
        self._check_count()
        open_it = partial(self._open_arena, path, size_bytes)
        async with opened_beside(self._beside, open_it) as (arena, found):
            self._check_count()  # others may have come meanwhile
        await self._slots.adopt(arena, found)

    def close_arena(self, path: Path) -> None:
        """Nothing new is kept there; it does not count for the capacity any more. Raises StoreRefused."""
        arena = self._slots.arena(path)
        if not any(one is not arena and not one.is_draining for one in self._slots.arenas):
            raise StoreRefused("arenas", f"{path} is the only one: add another one before")
        arena.is_draining = True

    async def drain_arena(self, path: Path) -> set[bytes]:
        """Close it, and move what is there to the others, as far as they have room.

        Returns the keys of the rest, which is dropped in the last step. Given up, it stays closed to new objects, what
        was moved stays moved, and nothing was dropped. Raises StoreRefused, StoreFault.
        """
        self.close_arena(path)
        arena = self._slots.arena(path)
        while arena.held or self._slots.is_written(arena):
            await self._move_all(arena)
            rest = await self._slots.of(arena)
            if not self._slots.is_written(arena):
                # In one step, so that whoever gives up has been told of nothing, and nothing is gone. The actor has
                # evicted what there is no room for, so it is little.
                return self._slots.drop_those(rest)
            await self._slots.change()
        return set()

    async def remove_arena(self, path: Path) -> None:
        """Unmap and unlock a drained one, when nobody reads there any more; its file stays. Raises StoreRefused."""
        arena = self._slots.arena(path)
        if not arena.is_draining or arena.held or self._slots.is_written(arena):
            raise StoreRefused("arenas", f"{path} is in use: drain it first")
        while arena.taken:
            await self._slots.change()
        self._slots.arenas.remove(arena)
        await self._beside.run(arena.close)

    def _open_arena(self, path: Path, size_bytes: int, opened: ExitStack) -> tuple[DaxArena, Found]:
        """Blocks."""
        arena = DaxArena.open(path, size_bytes, self._slot_bytes, self._msync)
        opened.callback(arena.close)
        return arena, arena.find()

    def _check_count(self) -> None:
        if len(self._slots.arenas) >= ARENAS_MAX:
            problem = f"there are {ARENAS_MAX} already, the most a store may have"
            raise StoreRefused("arenas", problem)

    async def _move_all(self, arena: DaxArena) -> None:
        """To other arenas, as long as there is room."""
        mine = await self._slots.of(arena)
        for start in range(0, len(mine), MOVED_MAX):
            if not await self._move(mine[start : start + MOVED_MAX]):
                return

    async def _move(self, some: Sequence[Held]) -> bool:
        """Whether there was room."""
        moving: list[tuple[Held, Held]] = []
        has_room = True
        for held in some:
            if self._slots.get(held.entry.key) is not held:
                continue  # deleted or saved again meanwhile
            place = self._slots.take(held.entry)
            if place is None:
                has_room = False
                break
            self._slots.begin_reading(held)
            moving.append((held, place))
        writes = [
            _Write(place, *held.arena.parts(held.slot, held.entry), hold=None, source=held)
            for held, place in moving
        ]
        for reason in (await self._write(writes)).values():
            raise StoreFault(reason)
        return has_room

    # Copying.

    async def _write(self, writes: Sequence[_Write]) -> dict[Held, str]:
        """Fill these slots and publish them. What went wrong with which; a batch that is given up is not published."""
        written: set[Held] = set()
        errors: dict[Held, str] = {}
        is_synced = self._msync is Msync.SAVE

        def write(one: _Write) -> None:
            place = one.place
            write_it = place.arena.write_synced if is_synced else place.arena.write
            try:
                write_it(
                    place.slot, place.entry, one.header, one.payload[: place.entry.payload_bytes]
                )
            except OSError as error:
                errors[place] = f"{place.arena.path}: {error.strerror}"
            else:
                written.add(place)

        def ended(batch: _Batch) -> None:
            for one in writes:
                is_whole = one.place in written and not batch.is_given_up
                self._slots.settle(one.place, is_whole=is_whole, source=one.source)
                if one.source is not None:
                    self._slots.end_reading(one.source)

        batch = _Batch([partial(write, one) for one in writes], ended)
        size = sum(len(one.header) + one.place.entry.payload_bytes for one in writes)
        arenas = [one.place.arena for one in writes]
        is_quick = size <= INLINE_BYTES_MAX and all(one.is_memory for one in arenas)
        if (is_quick and not is_synced) or not writes:
            batch.run_at_once()
        else:
            await self._run(batch)
        return errors

    async def _run(self, batch: _Batch) -> None:
        """In a thread. Given up, it goes on by itself. Raises StoreFault."""
        answer = await self._begun(batch)
        try:
            await asyncio.shield(answer)
        finally:
            batch.is_given_up = True  # or over

    async def _begun(self, batch: _Batch) -> asyncio.Future[None]:
        """Given up, nothing of it is begun. Raises StoreFault."""
        answer: asyncio.Future[None] | None = None
        try:
            answer = await self._threads.begin(batch.run)
        except RuntimeError as error:
            raise StoreFault(f"no thread can be started: {error}") from None
        finally:
            if answer is None:
                batch.ended(batch)
        answer.add_done_callback(batch.over)
        return answer


class _Batch:
    """Copies one after the other. `ended` is told of its batch, and need not know it: in a circle, the memory that is
    copied would wait for the collector."""

    def __init__(
        self, works: Sequence[Callable[[], None]], ended: Callable[[_Batch], None]
    ) -> None:
        self.works = works
        self.ended = ended
        self.is_given_up = False  # set by the loop, read between any two copies

    def run_at_once(self) -> None:
        try:
            self.run()
        finally:
            self.ended(self)

    def run(self) -> None:
        for work in self.works:
            if self.is_given_up:
                return
            work()

    def over(self, answer: asyncio.Future[None]) -> None:
        answer.exception()  # heard, also where nobody waits
        self.ended(self)


def _entry_of(given: Given) -> SlotEntry:
    """Its sequence comes with its slot."""
    return SlotEntry(
        given.key, given.device, given.tenant, 0, len(given.header), given.payload_bytes
    )


def _refusal(held: Held, wanted: Wanted) -> Outcome:
    """Of one that is to be loaded; DONE if it may be."""
    header, size = held.entry.header_bytes, held.entry.payload_bytes
    if header > len(wanted.header) or size > len(wanted.payload):
        room = f"{len(wanted.header)} + {len(wanted.payload)}"
        reason = f"it has {header} + {size} bytes, there is room for {room}"
        return Outcome(Fate.REFUSED, size, reason)
    return Outcome(Fate.DONE, size)


def _copy_out(held: Held, wanted: Wanted) -> None:
    header, payload = held.arena.parts(held.slot, held.entry)
    copy_bytes(source=header, target=wanted.header[: len(header)])
    copy_bytes(source=payload, target=wanted.payload[: len(payload)])
