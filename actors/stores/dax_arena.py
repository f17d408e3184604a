"""One mapped file or device: a table of entries, then slots. What an entry says of its slot is all that is known.

    0          4 KiB: what this is, and how large its slots are
    4 KiB      128 bytes for each slot: its entry, or zeros
    data       the slots: header, then payload

An entry is written when its slot is whole, and zeroed before its slot is written again: one that is read back with
its checksum good is of an object that was saved whole. Methods that may wait for the medium say so.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from penstock._native import copy_bytes, crc64, sync_bytes
from penstock.actors.stores.header import whole_blocks
from penstock.actors.stores.store import BLOCK_BYTES, StoreFault, StoreRefused
from penstock.runtime.units import MIB

MAGIC = b"PENSTDAX"
VERSION = 1
ENTRY_BYTES = 128
SLOTS_MAX = 1 << 22

_SUPER = struct.Struct("<8sHHIQQQ")  # magic, version, 0, 0, slot bytes, slots, data
_CRC = struct.Struct("<Q")
_ENTRY = struct.Struct("<4sHHQ32s16sIIQ")
_ENTRY_MAGIC = b"SLOT"
_NOTHING = bytes(ENTRY_BYTES)


class SlotEntry(NamedTuple):
    """What lies in a slot."""

    key: bytes
    device: int
    tenant: bytes  # 16 bytes
    sequence: int  # later saves have higher ones
    header_bytes: int
    payload_bytes: int


class Layout(NamedTuple):
    slot_bytes: int
    slots: int
    data: int  # where the first slot begins


class DaxArena:
    """Open, locked and mapped. `free`: slots nobody has; all belong to whoever owns the arena."""

    def __init__(self, path: Path, fd: int, memory: mmap.mmap, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        self.free = [*range(layout.slots - 1, -1, -1)]
        self.is_draining = False
        self._fd = fd
        self._mapping = memory
        self._memory = memoryview(memory)
        self._unsynced: set[int] = set()  # slots whose entry was zeroed since it was last synced

    @staticmethod
    def open(path: Path, size_bytes: int, slot_bytes: int) -> DaxArena:
        """Blocks. Raises StoreRefused, StoreFault."""
        with ExitStack() as undo, _faults_of(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(_unlock, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problem = f"{path} is in use by another process, or named twice"
                raise StoreRefused("arenas", problem) from None
            memory = mmap.mmap(fd, _size(path, fd, size_bytes))
            arena = DaxArena(path, fd, memory, _layout(path, memoryview(memory), slot_bytes))
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
        _unlock(self._fd)
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


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Errors of the system become StoreFault."""
    try:
        yield
    except OSError as error:
        raise StoreFault(f"{path}: {error.strerror or error}") from error


def _unlock(fd: int) -> None:
    """Explicitly: a mapping has a duplicate of it, and may live on for a while."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


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


def _size(path: Path, fd: int, size_bytes: int) -> int:
    """Of the file, made larger if it is new, or the device. Raises StoreRefused, OSError."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        size = os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(status.st_mode) else size_bytes
        if not size or size < size_bytes:
            problem = f"{path}: say how much of the device may be used; it has {size} bytes"
            raise StoreRefused("arenas.bytes", problem)
        return size_bytes or size
    if status.st_size == 0 and size_bytes:
        os.posix_fallocate(fd, 0, size_bytes)  # so that no write finds the disk full
        return size_bytes
    if status.st_size < max(size_bytes, 1):
        problem = f"{path} has {status.st_size} bytes: arenas do not grow, add another one"
        raise StoreRefused("arenas.bytes", problem)
    return status.st_size


def _layout(path: Path, memory: memoryview, slot_bytes: int) -> Layout:
    """As it was laid out, or is now. Raises StoreRefused."""
    first = bytes(memory[:BLOCK_BYTES])
    if first != bytes(BLOCK_BYTES):
        return _known_layout(path, first, len(memory), slot_bytes)
    slots = min((len(memory) - 2 * BLOCK_BYTES) // (slot_bytes + ENTRY_BYTES), SLOTS_MAX)
    if slots < 1:
        problem = f"{path} has {len(memory)} bytes: too few for one slot of {slot_bytes}"
        raise StoreRefused("arenas.bytes", problem)
    layout = Layout(slot_bytes, slots, whole_blocks(BLOCK_BYTES + slots * ENTRY_BYTES))
    nothing = bytes(MIB)
    for start in range(BLOCK_BYTES, layout.data, MIB):
        part = memory[start : min(start + MIB, layout.data)]
        copy_bytes(source=nothing[: len(part)], target=part)
    sync_bytes(memory[: layout.data])
    body = _SUPER.pack(MAGIC, VERSION, 0, 0, *layout)
    memory[: len(body) + _CRC.size] = body + _CRC.pack(crc64(body))
    sync_bytes(memory[:BLOCK_BYTES])
    return layout


def _known_layout(path: Path, first: bytes, size: int, slot_bytes: int) -> Layout:
    magic, version, _, _, *numbers = _SUPER.unpack_from(first)
    layout = Layout(*numbers)
    if magic != MAGIC:
        problem = f"{path} holds something else: give another path, or zero its first 4096 bytes"
        raise StoreRefused("arenas.path", problem)
    if version != VERSION:
        problem = f"{path} is of version {version}, this release reads {VERSION}"
        raise StoreRefused("arenas.path", problem)
    if crc64(first[: _SUPER.size]) != _CRC.unpack_from(first, _SUPER.size)[0]:
        problem = f"{path}: its first block is damaged; zero it to begin anew"
        raise StoreRefused("arenas.path", problem)
    if layout.data + layout.slots * layout.slot_bytes > size:
        raise StoreRefused("arenas.path", f"{path} has {size} bytes, and once had more")
    if layout.slot_bytes != slot_bytes:
        problem = f"{path} has slots of {layout.slot_bytes} bytes: say so, or zero its first block"
        raise StoreRefused("slot_bytes", problem)
    return layout
