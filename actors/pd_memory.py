"""Memory of the receive budget: what one part of a push is written to, who may still write or read it, and when its
bytes are free again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

from penstock.actors.api.l1_loading import LoadLease
from penstock.actors.api.types import KEY_BYTES, LeaseId, Memory, Shape
from penstock.actors.core.pd_session import Layout, ObjectDigests
from penstock.actors.held import when_dropped
from penstock.actors.load_targets import whole_pages
from penstock.runtime.channel import Landing, LandingSlot

GRANTED, RESIDENT, IN_FLIGHT = 0, 1, 2  # of _native.Answer; what is above is a refusal
_EXTENT = struct.Struct("<QQQ")

Name: TypeAlias = tuple[bytes, int]
"""An object of L1: the key of its chunk, and its slot."""


class Grip:
    """Holds the leases of one part. Its bytes are free when nobody refers to it: neither a landing that is written,
    nor a request that reads it."""

    __slots__ = ("__weakref__", "holds")

    def __init__(self, hold: object) -> None:
        self.holds = [hold]


@dataclass(slots=True, eq=False, weakref_slot=True)
class PartMemory:
    """What was reserved for one part. `indices`: of the lease's answers, by place; `views`: whole objects."""

    first_chunk: int
    needs: bytes  # one for each object of the part, chunk-major
    arena_bytes: int  # of what was granted
    lease: LeaseId
    grip: Grip = field(repr=False)
    indices: dict[int, int] = field(repr=False)
    views: dict[int, memoryview] = field(repr=False)
    landing: Landing | None = None
    is_landed: bool = False

    def slots(self) -> list[LandingSlot]:
        """Of its landing."""
        return [LandingSlot(view, self.grip) for view in self.views.values()]


class Claim:
    """What one push was admitted for at the budget, and no part of it has taken yet. What comes back of a part while it
    is open is there for the next try; then it is the budget's."""

    def __init__(self, give_back: Callable[[int], None]) -> None:
        self.bytes = 0
        self._give_back = give_back
        self._is_open = True

    def take(self, memory: PartMemory) -> bool:
        """For a part. False: it needs more than there is."""
        if memory.arena_bytes > self.bytes:
            return False
        if memory.arena_bytes:
            self.bytes -= memory.arena_bytes
            when_dropped(memory.grip, partial(self._come_back, memory.arena_bytes))
        return True

    def close(self) -> None:
        """No more parts are reserved."""
        self._is_open = False
        self._give_back(self.bytes)
        self.bytes = 0

    def _come_back(self, size_bytes: int) -> None:
        if self._is_open:
            self.bytes += size_bytes
        else:
            self._give_back(size_bytes)


Shelf: TypeAlias = "WeakValueDictionary[Name, PartMemory]"
"""Where objects are, or will be, that pushes bring: a second push of the same does not bring them again."""


def part_ranges(
    layout: Layout, sizes: Sequence[int], needs: bytes, *, bytes_max: int, objects_max: int
) -> Iterator[range]:
    """Chunks of each part: as many as are within the bounds, and one at least. `sizes`: arena bytes by slot."""
    width, start, taken = layout.width, 0, 0
    for chunk in range(layout.chunks):
        own = needs[chunk * width : (chunk + 1) * width]
        size = sum(one for one, is_needed in zip(sizes, own, strict=True) if is_needed)
        is_full = (chunk + 1 - start) * width > objects_max or taken + size > bytes_max
        if is_full and chunk > start:
            yield range(start, chunk)
            start, taken = chunk, 0
        taken += size
    yield range(start, layout.chunks)


def part_memory(
    shape: Shape, layout: Layout, chunks: range, lease: LoadLease, memory: Memory
) -> PartMemory:
    """Of what `lease` has granted of these chunks, if anything."""
    first = chunks.start * layout.width
    needs = bytes(answer == GRANTED for answer in lease.answers)
    indices, views, arena_bytes = {}, {}, 0
    for index, is_needed in enumerate(needs):
        if is_needed:
            offset, size, _ = _EXTENT.unpack_from(lease.extents.packed, index * _EXTENT.size)
            assert size == shape.slots[layout.slots[index % layout.width]].bytes
            indices[first + index] = index
            views[first + index] = memory.view(offset, size)
            arena_bytes += whole_pages(size)
    grip = Grip(lease.hold)
    return PartMemory(chunks.start, needs, arena_bytes, lease.lease, grip, indices, views)


def empty_part(layout: Layout, chunks: range) -> PartMemory:
    """Nothing of it is needed."""
    needs = bytes(len(chunks) * layout.width)
    return PartMemory(chunks.start, needs, 0, LeaseId(b""), Grip(None), {}, {}, is_landed=True)


def name_of(keys: bytes, layout: Layout, place: int) -> Name:
    """Of the object at a place of an offer."""
    chunk, slot = divmod(place, layout.width)
    return keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES], layout.slots[slot]


def payloads_of(view: memoryview, one: ObjectDigests) -> tuple[list[memoryview], list[int]]:
    """What is to be digested of an object, and what must come of it: its runs, where they are all of one size."""
    digests = [digest for (digest,) in struct.iter_unpack("<Q", one.runs)]
    if not digests or len(view) % len(digests):
        return [view], [one.digest]
    size = len(view) // len(digests)
    return [view[start : start + size] for start in range(0, len(view), size)], digests
