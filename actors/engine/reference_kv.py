"""The reference engine's paged KV cache: torch tensors in one of the layouts that real engines use.

The model sees one order, [block, slot, head, dim] for each (layer, K or V), through strided views;
which bytes are neighbours in memory is the layout's business. Two workers with different layouts
hold the same KV in different places, which is what the block copy has to bridge.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from penstock._native import PagedLayout
from penstock.actors.engine.layout import KvGeometry, paged_layout
from penstock.actors.engine.reference_config import ModelShape

Views = list[tuple[Tensor, Tensor]]  # for each layer: K and V as [block, slot, head, dim]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """Dimensions of a paged cache: layers NL, blocks NB, slots BS, K/V heads NH, head size HS."""

    layers: int
    blocks: int
    block_tokens: int
    kv_heads: int
    head_size: int


@dataclass(frozen=True, slots=True)
class Paging:
    """How one named layout allocates its tensors and where K and V lie in them."""

    shape: Callable[[CacheSize], tuple[int, ...]]  # of each tensor
    tensors: Callable[[CacheSize], int]
    views: Callable[[list[Tensor], CacheSize], Views]


def _per_layer(size: CacheSize) -> int:
    return size.layers


def _two_nb_bs_nh_hs(size: CacheSize) -> tuple[int, ...]:
    return (2, size.blocks, size.block_tokens, size.kv_heads, size.head_size)


def _nb_two_nh_bs_hs(size: CacheSize) -> tuple[int, ...]:
    return (size.blocks, 2, size.kv_heads, size.block_tokens, size.head_size)


def _nbbs_nh_hs(size: CacheSize) -> tuple[int, ...]:
    return (size.blocks * size.block_tokens, size.kv_heads, size.head_size)


def _k_list_then_v_list(tensors: list[Tensor], size: CacheSize) -> Views:
    paged = [tensor.view(size.blocks, size.block_tokens, *tensor.shape[1:]) for tensor in tensors]
    return list(zip(paged[: size.layers], paged[size.layers :], strict=True))


PAGINGS: Mapping[str, Paging] = MappingProxyType(
    {
        "NL_X_TWO_NB_BS_NH_HS": Paging(  # vLLM, flash attention
            _two_nb_bs_nh_hs, _per_layer, lambda tensors, _: [(t[0], t[1]) for t in tensors]
        ),
        "NL_X_NB_TWO_NH_BS_HS": Paging(  # vLLM, FlashInfer with heads outermost
            _nb_two_nh_bs_hs,
            _per_layer,
            lambda tensors, _: [
                (t[:, 0].transpose(1, 2), t[:, 1].transpose(1, 2)) for t in tensors
            ],
        ),
        "TWO_X_NL_X_NBBS_NH_HS": Paging(  # SGLang
            _nbbs_nh_hs, lambda size: 2 * size.layers, _k_list_then_v_list
        ),
    }
)


class PagedKv:
    """All KV blocks of one engine, in the layout named `preset`."""

    def __init__(
        self, shape: ModelShape, *, preset: str, blocks: int, block_tokens: int, dtype: torch.dtype
    ) -> None:
        self.size = CacheSize(
            layers=shape.layers,
            blocks=blocks,
            block_tokens=block_tokens,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
        )
        paging = PAGINGS[preset]
        self.preset = preset
        self.dtype = dtype
        self.tensors = [
            torch.empty(paging.shape(self.size), dtype=dtype).zero_()  # touched before it is timed
            for _ in range(paging.tensors(self.size))
        ]
        self._views = paging.views(self.tensors, self.size)

    @property
    def token_bytes(self) -> int:
        """Bytes of KV of one token over all layers."""
        size = self.size
        return size.layers * 2 * size.kv_heads * size.head_size * self.dtype.itemsize

    def blocks_of(self, tokens: int) -> int:
        """Blocks that `tokens` consecutive tokens take."""
        return -(-tokens // self.size.block_tokens)

    def layout(self) -> PagedLayout:
        """Where all of it lies, for the block copy: as the preset says, not as the views do."""
        geometry = KvGeometry(
            block_tokens=self.size.block_tokens,
            kv_heads=self.size.kv_heads,
            head_size=self.size.head_size,
        )
        return paged_layout(self.preset, self.tensors, geometry)

    def write_block(self, layer: int, kv: int, block: int, data: bytes) -> None:
        """Put `data`, [slot][head][dim] in the cache's dtype, where the model will read it."""
        view = self._views[layer][kv][block]
        view.copy_(torch.frombuffer(bytearray(data), dtype=self.dtype).view(view.shape))

    def sequence(self, blocks: Sequence[int]) -> "PagedSequence":
        """The sequence whose KV lies in `blocks`, in that order."""
        return PagedSequence(self._views, blocks, self.size.block_tokens)

    def digest(self, blocks: Sequence[int]) -> str:
        """SHA-256 of the KV in `blocks` as [layer][kv][token][head][dim], whatever the layout.

        Made with the engine's own indexing and the standard library's hash: it shares nothing with
        Penstock's copy and its digest, and so can bear witness on them.
        """
        digest = hashlib.sha256()
        index = torch.tensor(blocks)
        for pair in self._views:
            for view in pair:
                bits = view[index].contiguous().view(torch.uint8)
                digest.update(bits.numpy().data)
        return digest.hexdigest()


class PagedSequence:
    """One sequence's KV: position p is slot p % block_tokens of its block p // block_tokens."""

    def __init__(self, views: Views, blocks: Sequence[int], block_tokens: int) -> None:
        self._views = views
        self._blocks = torch.tensor(blocks, dtype=torch.int64)
        self._block_tokens = block_tokens

    def write(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """Put `keys`, `values` [tokens, kv_heads, head_size] at positions first, first + 1, ..."""
        positions = torch.arange(first, first + keys.shape[0])
        blocks, slots = (
            self._blocks[positions // self._block_tokens],
            positions % self._block_tokens,
        )
        for view, rows in zip(self._views[layer], (keys, values), strict=True):
            view[blocks, slots] = rows.to(view.dtype)

    def read(self, layer: int, count: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `count` positions, [kv_heads, count, head_size], float32."""
        blocks = self._blocks[: -(-count // self._block_tokens)]
        keys, values = (_rows(view[blocks], count) for view in self._views[layer])
        return keys, values


def _rows(paged: Tensor, count: int) -> Tensor:
    """[block, slot, head, dim] -> [head, position, dim]; every layout gives equal strides."""
    return paged.flatten(0, 1)[:count].transpose(0, 1).float().contiguous()
