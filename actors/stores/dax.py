"""Objects in mapped files or DAX devices: memory that keeps what it holds.

    FREE -taken-> being written -entry written-> HELD -dropped-> FREE, when nobody reads it any more
                       '- given up before it was begun -> FREE

Where what is, is read from the entries of all slots when the store is opened (`dax_arena.py`). Bytes are copied outside
the loop's thread when they are more than 64 KiB; a copy that was begun is always ended, also for those who give up.
Arenas come and go while the store works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from penstock._native import copy_bytes
from penstock.actors.api.store import ArenaUsage, Keys
from penstock.actors.stores.dax_arena import DaxArena, SlotEntry
from penstock.actors.stores.dax_config import ARENAS_MAX, DaxConfig, Msync
from penstock.actors.stores.digests import INLINE_BYTES_MAX
from penstock.actors.stores.store import (
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreFault,
    StoreRefused,
    Wanted,
)

ENTRIES_MAX = 1024  # told at a time by recovery
MOVED_MAX = 16  # objects moved at a time when an arena is drained
THREADS = 4


async def open_dax_store(config: DaxConfig) -> DaxStore:
    """Lock and map all arenas, and read their entries. Raises StoreRefused, StoreFault."""
    store = DaxStore(config)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(store.aclose)
        for one in config.arenas:
            await store.add_arena(one.path, int(one.bytes))
        undo.pop_all()
    return store


@dataclass(slots=True, eq=False)
class _Held:
    """One object in its slot."""

    arena: DaxArena
    slot: int
    entry: SlotEntry
    readers: int = 0
    is_dropped: bool = False  # and its slot is free when readers == 0


class DaxStore:
    ownership = Ownership.EXCLUSIVE

    def __init__(self, config: DaxConfig) -> None:
        self._slot_bytes = int(config.slot_bytes)
        self._is_synced = config.msync is Msync.SAVE
        self._arenas: list[DaxArena] = []
        self._held: dict[bytes, _Held] = {}  # oldest first, as far as that is known
        self._sequence = 0  # of the latest save
        self._changed = asyncio.Event()  # replaced whenever it is set: a slot was filled or freed
        self._limiter = anyio.CapacityLimiter(THREADS)

    async def locate(self, keys: Keys) -> bytes:
        await checkpoint()
        return bytes(key in self._held for key in keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        await checkpoint()
        outcomes = [self._refusal(one) for one in wanted]
        readers: list[_Held] = []
        copies: list[Callable[[], None]] = []
        for at, one in enumerate(wanted):
            if outcomes[at].fate is Fate.DONE:
                held = self._held[one.key]
                held.readers += 1
                readers.append(held)
                copies.append(partial(_copy_out, held, one))
        try:
            await self._work(copies, sum(one.entry.payload_bytes for one in readers))
        finally:
            for held in readers:
                held.readers -= 1
                self._free_if_unused(held)
        return outcomes

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        await checkpoint()
        outcomes = [DONE] * len(given)
        places: dict[int, _Held] = {}
        for at, one in enumerate(given):
            size = len(one.header) + one.payload_bytes
            if size > self._slot_bytes:
                reason = f"{size} bytes with its header, slot_bytes is {self._slot_bytes}"
                outcomes[at] = Outcome(Fate.REFUSED, reason=reason)
            elif (place := self._place(one)) is None:
                outcomes[at] = Outcome(Fate.FULL, reason="no slot is free")
            else:
                places[at] = place
        errors = await self._write(
            [(held, given[at].header, given[at].payload) for at, held in places.items()]
        )
        for at, held in places.items():
            if held in errors:
                outcomes[at] = Outcome(Fate.FAULT, reason=errors[held])
        return outcomes

    async def delete(self, keys: Keys) -> None:
        await checkpoint()
        for key in keys:
            held = self._held.pop(key, None)
            if held is not None:
                self._drop(held)

    async def recover(self) -> AsyncIterator[list[Entry]]:
        held = [*self._held.values()]
        for start in range(0, len(held), ENTRIES_MAX):
            await checkpoint()
            yield [
                Entry(one.entry.key, one.entry.device, self._slot_bytes, one.entry.tenant)
                for one in held[start : start + ENTRIES_MAX]
                if not one.is_dropped
            ]

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        """A slot, whatever is in it."""
        return max(self._slot_bytes, header_bytes + payload_bytes)

    @property
    def capacity_bytes(self) -> int:
        slots = sum(one.layout.slots for one in self._arenas if not one.is_draining)
        return slots * self._slot_bytes

    async def aclose(self) -> None:
        arenas, self._arenas = self._arenas, []
        self._held.clear()
        with anyio.CancelScope(shield=True):
            for arena in arenas:
                await anyio.to_thread.run_sync(arena.close)

    # Arenas at run time.

    def arenas(self) -> tuple[ArenaUsage, ...]:
        return tuple(
            ArenaUsage(str(one.path), one.layout.slots, one.taken, one.is_draining)
            for one in self._arenas
        )

    async def add_arena(self, path: Path, size_bytes: int) -> None:
        """From now on objects are kept there, too; and found, if there are any. Raises StoreRefused, StoreFault."""
        if len(self._arenas) >= ARENAS_MAX:
            raise StoreRefused(
                "arenas", f"there are {ARENAS_MAX} already, the most a store may have"
            )
        arena = await anyio.to_thread.run_sync(DaxArena.open, path, size_bytes, self._slot_bytes)
        with ExitStack() as undo:
            undo.callback(arena.close)
            found = await anyio.to_thread.run_sync(_scanned, arena)
            undo.pop_all()
        self._adopt(arena, found)

    def close_arena(self, path: Path) -> None:
        """Nothing new is kept there; it does not count for the capacity any more. Raises StoreRefused."""
        arena = self._arena(path)
        if not any(one is not arena and not one.is_draining for one in self._arenas):
            raise StoreRefused("arenas", f"{path} is the only one: add another one before")
        arena.is_draining = True

    async def drain_arena(self, path: Path) -> set[bytes]:
        """Close it, and move what is there to the others, as far as they have room.

        Returns the keys of what had to be dropped. Given up, it stays closed to new objects, and what was moved stays
        moved. Raises StoreRefused, StoreFault.
        """
        self.close_arena(path)
        arena = self._arena(path)
        dropped: set[bytes] = set()
        while True:
            mine = [one for one in self._held.values() if one.arena is arena]
            if not mine:
                if not arena.taken:
                    return dropped
                await self._changed.wait()  # somebody reads or writes there still
                continue
            for start in range(0, len(mine), MOVED_MAX):
                dropped |= await self._move(mine[start : start + MOVED_MAX])

    async def remove_arena(self, path: Path) -> None:
        """Unmap and unlock a drained one; its file stays. Raises StoreRefused."""
        arena = self._arena(path)
        if not arena.is_draining or arena.taken:
            raise StoreRefused("arenas", f"{path} is in use: drain it first")
        self._arenas.remove(arena)
        await anyio.to_thread.run_sync(arena.close)

    # Slots.

    def _arena(self, path: Path) -> DaxArena:
        for arena in self._arenas:
            if arena.path == path:
                return arena
        known = ", ".join(str(one.path) for one in self._arenas)
        raise StoreRefused("arenas", f"there is no arena {path}; there are {known}")

    def _adopt(self, arena: DaxArena, found: Iterable[tuple[int, SlotEntry]]) -> None:
        """Of two objects of one name the later one counts."""
        slots: set[int] = set()
        self._arenas.append(arena)
        for slot, entry in sorted(found, key=lambda one: one[1].sequence):
            slots.add(slot)
            self._sequence = max(self._sequence, entry.sequence)
        arena.free = [slot for slot in arena.free if slot not in slots]
        for slot, entry in sorted(found, key=lambda one: one[1].sequence):
            self._publish(_Held(arena, slot, entry))

    def _place(self, given: Given) -> _Held | None:
        """A slot for it, in the arena that has most of them."""
        self._sequence += 1
        entry = SlotEntry(
            given.key,
            given.device,
            given.tenant,
            self._sequence,
            len(given.header),
            given.payload_bytes,
        )
        return self._take_slot(entry)

    def _take_slot(self, entry: SlotEntry) -> _Held | None:
        open_ones = [one for one in self._arenas if one.free and not one.is_draining]
        if not open_ones:
            return None
        arena = max(open_ones, key=lambda one: len(one.free))
        return _Held(arena, arena.free.pop(), entry)

    async def _write(
        self, writes: Sequence[tuple[_Held, memoryview, memoryview]]
    ) -> dict[_Held, str]:
        """Fill these slots and publish them. What went wrong with which; a batch that is given up goes on or is not
        begun."""
        written: set[_Held] = set()
        errors: dict[_Held, str] = {}

        def write(held: _Held, header: memoryview, payload: memoryview) -> None:
            write_it = held.arena.write_synced if self._is_synced else held.arena.write
            try:
                write_it(held.slot, held.entry, header, payload[: held.entry.payload_bytes])
            except OSError as error:
                errors[held] = f"{held.arena.path}: {error.strerror}"
            else:
                written.add(held)

        size = sum(len(header) + held.entry.payload_bytes for held, header, _ in writes)
        try:
            copies = [partial(write, *one) for one in writes]
            await (self._in_thread(copies) if self._is_synced else self._work(copies, size))
        finally:
            for held, _, _ in writes:
                if held in written:
                    self._publish(held)
                else:
                    self._drop(held)
        return errors

    def _publish(self, held: _Held) -> None:
        """The one that was saved last stays under its key."""
        known = self._held.get(held.entry.key)
        if known is not None and known.entry.sequence > held.entry.sequence:
            known, held = held, known
        if known is not None:
            self._drop(known)
            self._held.pop(held.entry.key, None)  # what is saved again is the youngest again
        self._held[held.entry.key] = held
        self._tell()

    def _drop(self, held: _Held) -> None:
        held.arena.clear(held.slot)
        held.is_dropped = True
        self._free_if_unused(held)

    def _free_if_unused(self, held: _Held) -> None:
        if held.is_dropped and not held.readers:
            held.arena.free.append(held.slot)
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _move(self, some: Sequence[_Held]) -> set[bytes]:
        """To other arenas. Returns the keys of those there was no room for."""
        dropped: set[bytes] = set()
        moving: list[tuple[_Held, _Held]] = []
        for held in some:
            if self._held.get(held.entry.key) is not held:
                continue  # deleted or saved again meanwhile
            self._sequence += 1
            place = self._take_slot(held.entry._replace(sequence=self._sequence))
            if place is None:
                dropped.add(held.entry.key)
                del self._held[held.entry.key]
                self._drop(held)
            else:
                held.readers += 1
                moving.append((held, place))
        try:
            errors = await self._write(
                [(place, *held.arena.parts(held.slot, held.entry)) for held, place in moving]
            )
        finally:
            for held, _ in moving:
                held.readers -= 1
                self._free_if_unused(held)
        for reason in errors.values():
            raise StoreFault(reason)
        return dropped

    def _refusal(self, wanted: Wanted) -> Outcome:
        """Of one that is to be loaded; DONE if it may be."""
        held = self._held.get(wanted.key)
        if held is None:
            return MISSING
        entry = held.entry
        header, size = entry.header_bytes, entry.payload_bytes
        if header > len(wanted.header) or size > len(wanted.payload):
            room = f"{len(wanted.header)} + {len(wanted.payload)}"
            reason = f"it has {header} + {size} bytes, there is room for {room}"
            return Outcome(Fate.REFUSED, size, reason)
        return Outcome(Fate.DONE, size)

    async def _work(self, copies: Sequence[Callable[[], None]], size_bytes: int) -> None:
        """All of them: at once when it is little, else in a thread."""
        if size_bytes > INLINE_BYTES_MAX:
            await self._in_thread(copies)
        else:
            _all_of(copies)

    async def _in_thread(self, copies: Sequence[Callable[[], None]]) -> None:
        """Given up, it returns when nothing is copied any more; or nothing was."""
        if copies:
            await anyio.to_thread.run_sync(_all_of, copies, limiter=self._limiter)


def _all_of(works: Sequence[Callable[[], None]]) -> None:
    for work in works:
        work()


def _scanned(arena: DaxArena) -> list[tuple[int, SlotEntry]]:
    return [*arena.scan()]


def _copy_out(held: _Held, wanted: Wanted) -> None:
    header, payload = held.arena.parts(held.slot, held.entry)
    copy_bytes(source=header, target=wanted.header[: len(header)])
    copy_bytes(source=payload, target=wanted.payload[: len(payload)])
