"""One mapped file or device: a table of entries, then slots. What an entry says of its slot is all that is known.

An entry is written when its slot is whole, and zeroed before its slot is written again: one that is read back with
its checksum good is of an object that was saved whole. Methods that may wait for the medium say so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from penstock._native import copy_bytes, crc64, sync_bytes
from penstock.actors.stores.dax_config import Msync
from penstock.actors.stores.dax_layout import ENTRY_BYTES, super_block
from penstock.actors.stores.dax_medium import DaxMedium, open_dax_medium, unlock
from penstock.actors.stores.store import BLOCK_BYTES, StoreFault, StoreRefused
from penstock.runtime.units import MIB

_CRC = struct.Struct("<Q")
_ENTRY = struct.Struct("<4sHHQ32s16sIIQ")
_ENTRY_MAGIC = b"SLOT"
_NOTHING = bytes(ENTRY_BYTES)
FREE_STEP = 4096  # slots listed at a time, so that no other thread waits for the whole list


class SlotEntry(NamedTuple):
    """What lies in a slot."""

    key: bytes
    device: int
    tenant: bytes  # 16 bytes
    sequence: int  # later saves have higher ones
    header_bytes: int
    payload_bytes: int


class DaxArena:
    """Open, locked and mapped. `free`: slots nobody has; what is counted belongs to whoever owns the arena."""

    def __init__(self, path: Path, medium: DaxMedium) -> None:
        self.path = path
        self.layout = medium.layout
        self.is_memory = medium.is_memory  # touching it never waits for a disk
        self.free: list[int] = []
        self.held = 0  # slots with objects that can be found
        self.is_draining = False
        self._fd = medium.fd
        self._mapping = medium.memory
        self._memory = memoryview(medium.memory)
        self._unsynced: set[int] = set()  # slots whose entry was zeroed since it was last synced

    @staticmethod
    def open(path: Path, size_bytes: int, slot_bytes: int, msync: Msync) -> DaxArena:
        """With all slots free, until `scan` tells. Blocks. Raises StoreRefused, StoreFault."""
        medium = open_dax_medium(path, size_bytes, slot_bytes)
        arena = DaxArena(path, medium)
        with ExitStack() as undo:
            undo.callback(arena.close)
            if medium.is_device and msync is Msync.SAVE:
                problem = f"{path} is a DAX device, which has nothing that could be synced"
                advice = "say msync: none, or make a filesystem on it and mount that with -o dax"
                raise StoreRefused("msync", f"{problem}: {advice}")
            if medium.is_blank:
                arena._format(is_synced=not medium.is_device)
            for start in range(medium.layout.slots, 0, -FREE_STEP):
                arena.free.extend(range(start - 1, max(start - FREE_STEP, 0) - 1, -1))
            undo.pop_all()
        return arena

    @property
    def taken(self) -> int:
        """Slots somebody has."""
        return self.layout.slots - len(self.free)

    def close(self) -> None:
        """Blocks. The views that are left keep the mapping; nobody uses it any more. Idempotent."""
        if self._fd < 0:
            return
        unlock(self._fd)
        self._fd = -1
        self._memory.release()
        with suppress(BufferError):
            self._mapping.close()

    def scan(self) -> Iterator[tuple[int, SlotEntry]]:
        """All slots that hold something, by their entries. Blocks."""
        for start in range(0, self.layout.slots, MIB // ENTRY_BYTES):
            count = min(self.layout.slots - start, MIB // ENTRY_BYTES)
            table = bytearray(count * ENTRY_BYTES)
            begin = BLOCK_BYTES + start * ENTRY_BYTES
            copy_bytes(source=self._memory[begin : begin + len(table)], target=table)
            for at in range(count):
                data = memoryview(table)[at * ENTRY_BYTES : (at + 1) * ENTRY_BYTES]
                entry = _decoded(data, start + at, self.layout.slot_bytes)
                if entry is not None:
                    yield start + at, entry

    def find(self) -> list[tuple[int, SlotEntry]]:
        """What `scan` finds, oldest first; the slots of it are free no more. Blocks."""
        found = sorted(self.scan(), key=lambda one: one[1].sequence)
        slots = {slot for slot, _ in found}
        self.free = [slot for slot in self.free if slot not in slots]
        return found

    def write(self, slot: int, entry: SlotEntry, header: memoryview, payload: memoryview) -> None:
        """Header and payload, then the entry. Never blocks for the medium but to read a page in."""
        self._fill(slot, header, payload)
        self._put_entry(slot, entry)

    def write_synced(
        self, slot: int, entry: SlotEntry, header: memoryview, payload: memoryview
    ) -> None:
        """As `write`, with the medium following step by step. Blocks. Raises OSError."""
        if slot in self._unsynced:
            sync_bytes(self._entry(slot))
            self._unsynced.discard(slot)
        self._fill(slot, header, payload)
        sync_bytes(self._slot(slot)[: len(header) + len(payload)])
        self._put_entry(slot, entry)
        sync_bytes(self._entry(slot))

    def parts(self, slot: int, entry: SlotEntry) -> tuple[memoryview, memoryview]:
        """Header and payload, where they lie."""
        end = entry.header_bytes + entry.payload_bytes
        memory = self._slot(slot)
        return memory[: entry.header_bytes], memory[entry.header_bytes : end]

    def clear(self, slot: int) -> None:
        """Nothing is there any more. The medium follows before the slot is written again, or sooner."""
        self._entry(slot)[:] = _NOTHING
        self._unsynced.add(slot)

    def _format(self, *, is_synced: bool) -> None:
        """Blank it is, so all entries are zeros. Raises StoreFault."""
        block = super_block(self.layout)
        self._memory[: len(block)] = block
        if is_synced:
            try:
                sync_bytes(self._memory[: self.layout.data])
            except OSError as error:
                raise StoreFault(f"{self.path}: {error.strerror or error}") from error

    def _fill(self, slot: int, header: memoryview, payload: memoryview) -> None:
        memory = self._slot(slot)
        end = len(header) + len(payload)
        copy_bytes(source=header, target=memory[: len(header)])
        copy_bytes(source=payload, target=memory[len(header) : end])

    def _put_entry(self, slot: int, entry: SlotEntry) -> None:
        body = _ENTRY.pack(
            _ENTRY_MAGIC,
            entry.device,
            0,
            entry.sequence,
            entry.key,
            entry.tenant,
            slot,
            entry.header_bytes,
            entry.payload_bytes,
        )
        self._entry(slot)[: len(body) + _CRC.size] = body + _CRC.pack(crc64(body))

    def _entry(self, slot: int) -> memoryview:
        begin = BLOCK_BYTES + slot * ENTRY_BYTES
        return self._memory[begin : begin + ENTRY_BYTES]

    def _slot(self, slot: int) -> memoryview:
        begin = self.layout.data + slot * self.layout.slot_bytes
        return self._memory[begin : begin + self.layout.slot_bytes]


def _decoded(data: memoryview, slot: int, slot_bytes: int) -> SlotEntry | None:
    """None: the slot is free, or its entry was not written whole, or for it."""
    magic, device, _, sequence, key, tenant, number, header, payload = _ENTRY.unpack_from(data)
    if magic != _ENTRY_MAGIC:
        return None
    body = data[: _ENTRY.size]
    is_good = crc64(body) == _CRC.unpack_from(data, _ENTRY.size)[0]
    if not is_good or number != slot or header + payload > slot_bytes:
        return None
    return SlotEntry(key, device, tenant, sequence, header, payload)
