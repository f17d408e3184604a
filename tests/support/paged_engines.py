"""Paged caches as the engines make them, one for each preset, written without the presets' table.

Each knows two things on its own: the shape of its tensors, and where a head run is by indexing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from penstock.actors.engine.layout import KvGeometry, PagedLayout, paged_layout

Shape = tuple[int, ...]
Run = Callable[[Sequence[Tensor], "Size", int, int, int, int, int], Tensor]


@dataclass(frozen=True, slots=True)
class Size:
    """A cache: layers, blocks, slots of a block, heads, elements of a head."""

    layers: int
    blocks: int
    slots: int
    heads: int
    elements: int

    @property
    def geometry(self) -> KvGeometry:
        return KvGeometry(block_tokens=self.slots, kv_heads=self.heads, head_size=self.elements)


@dataclass(frozen=True, slots=True)
class Engine:
    """How many tensors, of what shape, and the head run at (layer, kv, block, slot, head)."""

    count: Callable[[Size], int]
    shape: Callable[[Size], Shape]
    run: Run
    components: int = 2


def _half(run: Tensor, kv: int) -> Tensor:
    return run[kv * (len(run) // 2) : (kv + 1) * (len(run) // 2)]


def _vllm_cpu(t: Sequence[Tensor], z: Size, i: int, k: int, b: int, s: int, h: int) -> Tensor:
    return t[i].view(z.blocks, z.heads, 2 * z.slots, z.elements)[b, h, k * z.slots + s]


def _layers(z: Size) -> int:
    return z.layers


def _pairs(z: Size) -> int:
    return 2 * z.layers


ENGINES: dict[str, Engine] = {
    "NB_NL_TWO_BS_NH_HS": Engine(
        lambda z: 1,
        lambda z: (z.blocks, z.layers, 2, z.slots, z.heads, z.elements),
        lambda t, z, i, k, b, s, h: t[0][b, i, k, s, h],
    ),
    "NB_NL_TWO_NH_BS_HS": Engine(
        lambda z: 1,
        lambda z: (z.blocks, z.layers, 2, z.heads, z.slots, z.elements),
        lambda t, z, i, k, b, s, h: t[0][b, i, k, h, s],
    ),
    "NL_X_TWO_NB_BS_NH_HS": Engine(
        _layers,
        lambda z: (2, z.blocks, z.slots, z.heads, z.elements),
        lambda t, z, i, k, b, s, h: t[i][k, b, s, h],
    ),
    "NL_X_TWO_NB_NH_BS_HS": Engine(
        _layers,
        lambda z: (2, z.blocks, z.heads, z.slots, z.elements),
        lambda t, z, i, k, b, s, h: t[i][k, b, h, s],
    ),
    "NL_X_NB_TWO_BS_NH_HS": Engine(
        _layers,
        lambda z: (z.blocks, 2, z.slots, z.heads, z.elements),
        lambda t, z, i, k, b, s, h: t[i][b, k, s, h],
    ),
    "NL_X_NB_TWO_NH_BS_HS": Engine(
        _layers,
        lambda z: (z.blocks, 2, z.heads, z.slots, z.elements),
        lambda t, z, i, k, b, s, h: t[i][b, k, h, s],
    ),
    "NL_X_NB_BS_HS": Engine(
        _layers,
        lambda z: (z.blocks, z.slots, z.elements),
        lambda t, z, i, k, b, s, h: t[i][b, s],
        components=1,
    ),
    "NL_X_NBBS_ONE_HS": Engine(
        _layers,
        lambda z: (z.blocks * z.slots, 1, z.elements),
        lambda t, z, i, k, b, s, h: t[i][b * z.slots + s, 0],
        components=1,
    ),
    "TWO_X_NL_X_NBBS_NH_HS": Engine(
        _pairs,
        lambda z: (z.blocks * z.slots, z.heads, z.elements),
        lambda t, z, i, k, b, s, h: t[k * z.layers + i][b * z.slots + s, h],
    ),
    "TWO_X_NL_X_NB_BS_NH_HS": Engine(
        _pairs,
        lambda z: (z.blocks, z.slots, z.heads, z.elements),
        lambda t, z, i, k, b, s, h: t[k * z.layers + i][b, s, h],
    ),
    "NL_X_NB_BS_NH_HS": Engine(
        _pairs,
        lambda z: (z.blocks, z.slots, z.heads, z.elements),
        lambda t, z, i, k, b, s, h: t[2 * i + k][b, s, h],
    ),
    "NL_X_NB_NH_BS_CS": Engine(
        _layers,
        lambda z: (z.blocks, z.heads, z.slots, 2 * z.elements),
        lambda t, z, i, k, b, s, h: _half(t[i][b, h, s], k),
    ),
    "NL_X_NB_BS_NH_CS": Engine(
        _layers,
        lambda z: (z.blocks, z.slots, z.heads, 2 * z.elements),
        lambda t, z, i, k, b, s, h: _half(t[i][b, s, h], k),
    ),
    "NL_X_NB_NH_TWO_BS_HS": Engine(
        _layers, lambda z: (z.blocks, z.heads, z.slots, 2 * z.elements), _vllm_cpu
    ),
}


class Cache:
    """One engine's cache of random bits, and its declared layout."""

    def __init__(self, preset: str, size: Size, dtype: torch.dtype, *, seed: int) -> None:
        self.engine = ENGINES[preset]
        self.size = size
        self.dtype = dtype
        random = np.random.default_rng(seed)
        shape = self.engine.shape(size)
        self.tensors = [
            torch.from_numpy(
                random.integers(0, 256, (*shape[:-1], shape[-1] * dtype.itemsize), np.uint8)
            ).view(dtype)
            for _ in range(self.engine.count(size))
        ]
        self.layout: PagedLayout = paged_layout(preset, self.tensors, size.geometry)

    def run(self, layer: int, kv: int, block: int, slot: int, head: int) -> Tensor:
        """The bytes of one head run, in place."""
        run = self.engine.run(self.tensors, self.size, layer, kv, block, slot, head)
        return run.view(torch.uint8)

    def bytes(self) -> bytes:
        """All that the engine holds."""
        return b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in self.tensors)

    def write(self, layer: int, kv: int, block: int, data: bytes) -> None:
        """The engine's own way to write one block: [slot][head][dim]."""
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        values = values.view(self.size.slots, self.size.heads, -1)
        for slot in range(self.size.slots):
            for head in range(self.size.heads):
                self.run(layer, kv, block, slot, head)[:] = values[slot, head]
