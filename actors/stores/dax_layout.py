"""How a mapped file or device is laid out, and whether it is ours, blank, or somebody else's.

0          4 KiB: what this is, and how large its slots are
4 KiB      128 bytes for each slot: its entry, or zeros
data       the slots: header, then payload
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from penstock._native import crc64
from penstock.actors.stores.header import whole_blocks
from penstock.actors.stores.store import BLOCK_BYTES, StoreRefused
from penstock.runtime.units import MIB

MAGIC = b"PENSTDAX"
VERSION = 1
ENTRY_BYTES = 128
SLOTS_MAX = 1 << 22

_SUPER = struct.Struct("<8sHHIQQQ")  # magic, version, 0, 0, slot bytes, slots, data
_CRC = struct.Struct("<Q")

Read: TypeAlias = Callable[[int, int], bytes]
"""So many bytes from there on; what is not there is zeros. Blocks. Raises OSError."""


class Layout(NamedTuple):
    slot_bytes: int
    slots: int
    data: int  # where the first slot begins

    @property
    def end(self) -> int:
        return self.data + self.slots * self.slot_bytes


def super_block(layout: Layout) -> bytes:
    """What the first block begins with."""
    body = _SUPER.pack(MAGIC, VERSION, 0, 0, *layout)
    return body + _CRC.pack(crc64(body))


def judged(path: Path, read: Read, size_bytes: int, slot_bytes: int) -> tuple[Layout, bool]:
    """How `size_bytes` of it are laid out, or are to be; and whether it is blank. Blocks.

    Blank is what has zeros where all entries will be: nothing else is written over. Raises StoreRefused, OSError.
    """
    first = read(0, BLOCK_BYTES)
    wanted = _new_layout(path, size_bytes, slot_bytes)
    if first != bytes(BLOCK_BYTES):
        return _known_layout(path, first, size_bytes, wanted), False
    for start in range(BLOCK_BYTES, wanted.data, MIB):
        count = min(MIB, wanted.data - start)
        if read(start, count) != bytes(count):
            problem = f"{path} holds something else behind its first block of zeros"
            raise StoreRefused("arenas.path", f"{problem}: {_advice(path, wanted)}")
    return wanted, True


def _new_layout(path: Path, size_bytes: int, slot_bytes: int) -> Layout:
    slots = min((size_bytes - 2 * BLOCK_BYTES) // (slot_bytes + ENTRY_BYTES), SLOTS_MAX)
    if slots < 1:
        problem = f"{path} has {size_bytes} bytes: too few for one slot of {slot_bytes}"
        raise StoreRefused("arenas.bytes", problem)
    return Layout(slot_bytes, slots, whole_blocks(BLOCK_BYTES + slots * ENTRY_BYTES))


def _known_layout(path: Path, first: bytes, size_bytes: int, wanted: Layout) -> Layout:
    magic, version, _, _, *numbers = _SUPER.unpack_from(first)
    layout = Layout(*numbers)
    if magic != MAGIC:
        problem = f"{path} holds something else: {_advice(path, wanted)}"
        raise StoreRefused("arenas.path", problem)
    if version != VERSION:
        problem = f"{path} is of version {version}, this release reads {VERSION}"
        raise StoreRefused("arenas.path", problem)
    if crc64(first[: _SUPER.size]) != _CRC.unpack_from(first, _SUPER.size)[0]:
        problem = f"{path}: its first block is damaged: {_advice(path, wanted)}"
        raise StoreRefused("arenas.path", problem)
    if layout.end > size_bytes:
        problem = f"{path} was laid out for {layout.end} bytes, and has, or may use, {size_bytes}"
        advice = f"say so many bytes, or restore its size; arenas do not shrink: drain it, or {_advice(path, wanted)}"
        raise StoreRefused("arenas.bytes", f"{problem}: {advice}")
    if layout.slot_bytes != wanted.slot_bytes:
        problem = f"{path} has slots of {layout.slot_bytes} bytes"
        raise StoreRefused("slot_bytes", f"{problem}: say so, or {_advice(path, wanted)}")
    return layout


def _advice(path: Path, layout: Layout) -> str:
    return f"give another path, or, if nobody needs it, zero its first {layout.data} bytes"
