"""The block copy in NumPy, one head run at a time, and objects to copy to and from."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from penstock._native import Direction, crc64
from penstock.actors.engine.layout import PagedLayout

if TYPE_CHECKING:
    from support.paged_engines import Cache

PAGE_BYTES = 4096


class Objects:
    """Objects at multiples of 4096 in an arena, last one first."""

    def __init__(self, layout: PagedLayout, *, count: int, object_blocks: int, seed: int) -> None:
        self.bytes = layout.object_bytes(object_blocks)
        stride = -(-self.bytes // PAGE_BYTES) * PAGE_BYTES
        self.arena = mmap.mmap(-1, count * stride)
        self.arena.write(np.random.default_rng(seed).bytes(count * stride))
        self.offsets = [stride * (count - 1 - index) for index in range(count)]
        self.extents = array("Q")
        for offset in self.offsets:
            self.extents.extend((offset, self.bytes, 0))

    def view(self, index: int) -> np.ndarray:
        """One object's bytes, in place."""
        return np.frombuffer(self.arena, np.uint8, self.bytes, self.offsets[index])

    def contents(self) -> bytes:
        """The whole arena."""
        return self.arena[:]


def copy(
    cache: Cache,
    objects: Objects,
    direction: Direction,
    block_ids: Sequence[int],
    *,
    skip_blocks: int,
    layers: range,
) -> bytes:
    """What Copier.copy must do and return."""
    size, components = cache.size, cache.engine.components
    count = len(objects.offsets)
    blocks = len(block_ids) // count
    head_bytes = size.elements * cache.dtype.itemsize
    digests = array("Q")
    for index in range(count):
        runs = objects.view(index).reshape(
            size.layers, components, blocks, size.slots, size.heads, head_bytes
        )
        for layer in layers:
            for kv in range(components):
                for place in np.ndindex(blocks, size.slots, size.heads):
                    position = index * blocks + place[0]
                    if position < skip_blocks:
                        continue
                    run = cache.run(layer, kv, block_ids[position], *place[1:])
                    if direction is Direction.TO_OBJECTS:
                        runs[layer, kv][place] = run.numpy()
                    else:
                        run[:] = torch.from_numpy(runs[layer, kv][place])
                digests.append(crc64(runs[layer, kv].tobytes()))
    return digests.tobytes()
