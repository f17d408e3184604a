"""How a raw device is laid out, and whether one that was laid out before fits what is configured."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.actors.core.slot_format import HEAD_BYTES, VOLUME_BYTES, Superblock
from penstock.actors.core.slot_log import log_blocks
from penstock.actors.stores.store import StoreRefused

SPARE_SHARE = 64  # one slot in so many is not told of: freed ones wait for a flush, or for who still reads them
SLOTS_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """What is configured for one device."""

    key: str  # of the configuration, that named it
    name: str
    rank: int
    block_bytes: int
    header_bytes: int
    slot_bytes: int
    metadata_bytes: int  # 0: as large as it has to be
    size_bytes: int  # of the device
    bound_bytes: int  # what may be used of it; <= size_bytes
    is_discarded: bool = False  # whether the medium is told of slots that hold nothing any more

    def stored_bytes(self, header_bytes: int, payload_bytes: int) -> int:
        """Of an object in its slots, with what fills up header and end."""
        end = header_bytes + -header_bytes % self.header_bytes + payload_bytes
        return end + -end % self.block_bytes

    def slots_of(self, header_bytes: int, payload_bytes: int) -> int:
        return -(-self.stored_bytes(header_bytes, payload_bytes) // self.slot_bytes)


def told_slots(layout: Superblock, geometry: Geometry) -> int:
    """How many slots objects may take: within the bound, and less the spare ones."""
    bounded = min(layout.slots, (geometry.bound_bytes - layout.slots_at) // geometry.slot_bytes)
    return bounded - layout.slots // SPARE_SHARE


def spared(layout: Superblock) -> int:
    """How many slots objects may take of a device that may be used up to its end."""
    return layout.slots - layout.slots // SPARE_SHARE


def lay_out(geometry: Geometry, volume: bytes) -> Superblock:
    """For a device that holds nothing. Raises StoreRefused."""
    assert len(volume) == VOLUME_BYTES
    room = geometry.bound_bytes - HEAD_BYTES
    slots = min(max(room, 0) // geometry.slot_bytes, SLOTS_MAX)
    needed = log_blocks(slots, geometry.block_bytes) * geometry.block_bytes
    metadata = geometry.metadata_bytes or needed
    slots = min(slots, (room - metadata) // geometry.slot_bytes)
    if slots < 1:
        metadata = (
            geometry.metadata_bytes or log_blocks(1, geometry.block_bytes) * geometry.block_bytes
        )
        least = HEAD_BYTES + metadata + geometry.slot_bytes
        problem = (
            f"{geometry.name} may use {geometry.bound_bytes} bytes, which is less than one slot"
        )
        advice = f"give it at least {least} bytes, or a smaller slot_bytes"
        raise StoreRefused(geometry.key, f"{problem} and its metadata: {advice}")
    needed = log_blocks(slots, geometry.block_bytes) * geometry.block_bytes
    if metadata < needed:
        problem = f"{metadata} bytes are too few for {slots} slots"
        raise StoreRefused("metadata_bytes", f"{problem}: give at least {needed}, or 0")
    return Superblock(
        volume=volume,
        generation=0,
        block_bytes=geometry.block_bytes,
        header_bytes=geometry.header_bytes,
        slot_bytes=geometry.slot_bytes,
        metadata_bytes=metadata,
        slots=slots,
        rank=geometry.rank,
    )


def fit(found: Superblock, geometry: Geometry) -> Superblock:
    """`found`, or one with more slots, or of another rank: to be written then. Raises StoreRefused."""
    for name in ("block_bytes", "header_bytes", "slot_bytes", "metadata_bytes"):
        there, wanted = getattr(found, name), getattr(geometry, name)
        if there != wanted and wanted:
            key = "block_align" if name == "block_bytes" else name
            problem = f"{geometry.name} was laid out with {there}, not {wanted}"
            raise StoreRefused(key, f"{problem}: say {key}: {there}, or {erasing(geometry.name)}")
    if found.end > geometry.size_bytes:
        problem = (
            f"{geometry.name} has {geometry.size_bytes} bytes, and was laid out for {found.end}"
        )
        raise StoreRefused(
            geometry.key, f"{problem}: restore its size, or {erasing(geometry.name)}"
        )
    if told_slots(found, geometry) < 1:
        problem = f"{geometry.name} may use {geometry.bound_bytes} bytes, less than one slot's end"
        least = found.slots_at + (found.slots // SPARE_SHARE + 1) * found.slot_bytes
        raise StoreRefused("capacity", f"{problem}: give it at least {least} bytes")
    possible = (geometry.bound_bytes - found.slots_at) // found.slot_bytes
    grown = max(found.slots, min(possible, SLOTS_MAX, _slots_for(found.log_blocks, found)))
    return found._replace(slots=grown, rank=geometry.rank)


def erasing(name: str) -> str:
    """How to make a device blank, in words."""
    how = f"dd if=/dev/zero of={name} bs={HEAD_BYTES} count=1 conv=notrunc,fsync"
    return f"erase it, and all objects on it, by `{how}`"


def _slots_for(blocks: int, layout: Superblock) -> int:
    """The most slots that a log of so many blocks is good for."""
    low, high = layout.slots, SLOTS_MAX
    while low < high:
        middle = (low + high + 1) // 2
        if log_blocks(middle, layout.block_bytes) <= blocks:
            low = middle
        else:
            high = middle - 1
    return low


def _up(size_bytes: int, multiple: int) -> int:
    return -(-size_bytes // multiple) * multiple
