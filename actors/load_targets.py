"""From a part of a plan to what L1 is asked to grant, and from there to what a store is asked to load."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.actors.api.l1_loading import LoadLease, ReserveLoad
from penstock.actors.api.prefetch import Fetch
from penstock.actors.api.store import Target
from penstock.actors.api.types import KEY_BYTES, Memory, Shape, Shortfall
from penstock.actors.core.load_plan import Part

PAGE_BYTES = 4096
_QUOTA = 4  # of _native.Answer
_EXTENT = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class Refused:
    """L1 has granted less than was asked for."""

    chunk: int  # the first of which it has refused something
    why: Shortfall

    @staticmethod
    def by(answer: int, chunk: int) -> Refused:
        """`answer`: the first that is a refusal."""
        return Refused(chunk, Shortfall.QUOTA if answer == _QUOTA else Shortfall.NO_ROOM)


def reservation(want: Fetch, part: Part) -> ReserveLoad:
    """Extents for a part of a ticket's prompt."""
    first, last = part.first * KEY_BYTES, part.last * KEY_BYTES
    return ReserveLoad(
        want.keys[first:last],
        want.keys[max(0, first - KEY_BYTES) : first],
        want.shape.geometry,
        part.slots,
        want.salt,
    )


def load_targets(
    shape: Shape,
    memory: Memory,
    lease: LoadLease,
    indices: Sequence[int],
    *,
    names: Sequence[tuple[bytes, int]],
    keys: Sequence[bytes],
) -> list[Target]:
    """`indices`: of the answers of `lease`; parallel, `names`: chunk and slot of the object, and its `keys`."""
    targets = []
    for index, (chunk, slot), key in zip(indices, names, keys, strict=True):
        start = index * _EXTENT.size
        offset, logical_bytes, _ = _EXTENT.unpack_from(lease.extents.packed, start)
        kind = shape.slots[slot]
        view = memory.view(offset, whole_pages(logical_bytes))
        size, runs, hold = logical_bytes, kind.runs, lease.hold
        targets.append(
            Target(key, kind.shard, shape.namespace, size, runs, view, hold, chunk, slot)
        )
    return targets


def arena_bytes(shape: Shape, part: Part) -> int:
    """Bytes of the extents of a part: more than it loads, as each object has whole pages."""
    chunk_bytes = sum(whole_pages(shape.slots[slot].bytes) for slot in part.slots)
    return (part.last - part.first) * chunk_bytes


def whole_pages(size: int) -> int:
    """Bytes of the extent of an object."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES
