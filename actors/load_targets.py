"""From what L1 granted to what a store is asked to load."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from penstock.actors.api.l1_loading import LoadLease
from penstock.actors.api.store import Target
from penstock.actors.api.types import Memory, Shape

PAGE_BYTES = 4096
_EXTENT = struct.Struct("<QQQ")


def load_targets(
    shape: Shape,
    memory: Memory,
    lease: LoadLease,
    indices: Sequence[int],
    named: Sequence[tuple[int, bytes]],
) -> list[Target]:
    """`indices`: of the answers of `lease`; `named`, parallel: slot and key of the object."""
    targets = []
    for index, (slot, key) in zip(indices, named, strict=True):
        start = index * _EXTENT.size
        offset, logical_bytes, _ = _EXTENT.unpack_from(lease.extents.packed, start)
        kind = shape.slots[slot]
        view = memory.view(offset, -(-logical_bytes // PAGE_BYTES) * PAGE_BYTES)
        targets.append(
            Target(key, kind.shard, shape.namespace, logical_bytes, kind.runs, view, lease.hold)
        )
    return targets
