"""An engine's paged KV cache of the small model, in layouts that engines have."""

from __future__ import annotations

import numpy as np
from support.small_model import BLOCK_TOKENS, GEOMETRY, HEAD_SIZE, HEADS, LAYERS

from penstock._native import PagedLayout
from penstock.actors.engine.layout import paged_layout

NODE_BLOCKS = 64


class Blocks:
    """A paged cache in one of two layouts; `kv` is always [layer, kv, block, slot, head, dim]."""

    def __init__(self, preset: str, *, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        if preset == "NL_X_TWO_NB_BS_NH_HS":
            shape = (2, NODE_BLOCKS, BLOCK_TOKENS, HEADS, HEAD_SIZE)
            tensors = [random.random(shape, dtype=np.float32) for _ in range(LAYERS)]
            self.views = tensors
        else:
            shape = (NODE_BLOCKS, 2, HEADS, BLOCK_TOKENS, HEAD_SIZE)
            tensors = [random.random(shape, dtype=np.float32) for _ in range(LAYERS)]
            self.views = [tensor.transpose(1, 0, 3, 2, 4) for tensor in tensors]
        self.layout: PagedLayout = paged_layout(preset, tensors, GEOMETRY)

    def of(self, block_ids: list[int]) -> np.ndarray:
        return np.stack([view[:, block_ids] for view in self.views])


class Engine:
    """A paged KV cache in NumPy: per layer [2, NB, BS, NH, HS] of float32."""

    def __init__(self, blocks: int = 64, seed: int = 0) -> None:
        shape = (LAYERS, 2, blocks, BLOCK_TOKENS, HEADS, HEAD_SIZE)
        self.kv = np.random.default_rng(seed).random(shape, dtype=np.float32)
        run = self.kv[0, 0]
        self.layout = PagedLayout(
            bases=[self.kv[layer, kv].ctypes.data for layer in range(LAYERS) for kv in range(2)],
            span_bytes=[run.nbytes] * (LAYERS * 2),
            layers=LAYERS,
            components=2,
            blocks=blocks,
            block_slots=BLOCK_TOKENS,
            heads=HEADS,
            head_bytes=HEAD_SIZE * 4,
            s_block=run.strides[0],
            s_slot=run.strides[1],
            s_head=run.strides[2],
            owner=self.kv,
        )

    def of(self, block_ids: list[int]) -> np.ndarray:
        return self.kv[:, :, block_ids]
