"""The paged layouts that engines use, by name: one row each.

A name reads from the outside in. What stands before `X` is a list of tensors, what follows is the
shape of each. Letters: NB blocks, NL layers, TWO K then V, BS slots of a block, NH kv heads, HS head
size, CS = 2 * HS (K then V in one head), NBBS = NB * BS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType


class Axis(Enum):
    """A coordinate of KV."""

    NL = auto()
    TWO = auto()
    NB = auto()
    BS = auto()
    NH = auto()
    HS = auto()


NL, TWO, NB, BS, NH, HS = Axis

Dimension = tuple[Axis, ...]
"""What one dimension of a tensor counts: the product of its axes, the last one fastest. () is 1."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One row: how tensors are listed, and their shape."""

    name: str
    tensors: tuple[Axis, ...]  # the list of tensors, outermost axis first; () is one tensor
    shape: tuple[Dimension, ...]
    registered: tuple[Dimension, ...] = ()  # a shape that the engine gives out instead, if any

    @property
    def axes(self) -> frozenset[Axis]:
        """Every axis the row speaks of."""
        return frozenset(self.tensors).union(*self.shape)


def _row(
    name: str,
    tensors: tuple[Axis, ...],
    *shape: Axis | Dimension,
    registered: tuple[Axis | Dimension, ...] = (),
) -> tuple[str, Preset]:
    return name, Preset(name, tensors, _dimensions(shape), _dimensions(registered))


def _dimensions(shape: tuple[Axis | Dimension, ...]) -> tuple[Dimension, ...]:
    return tuple((axis,) if isinstance(axis, Axis) else axis for axis in shape)


NBBS, CS, TWO_BS, ONE = (NB, BS), (TWO, HS), (TWO, BS), ()

PRESETS: Mapping[str, Preset] = MappingProxyType(
    dict(
        [
            # One tensor for all layers: vLLM and TensorRT-LLM, cross-layer.
            _row("NB_NL_TWO_BS_NH_HS", (), NB, NL, TWO, BS, NH, HS),
            _row("NB_NL_TWO_NH_BS_HS", (), NB, NL, TWO, NH, BS, HS),
            # vLLM, flash attention: NHD and HND.
            _row("NL_X_TWO_NB_BS_NH_HS", (NL,), TWO, NB, BS, NH, HS),
            _row("NL_X_TWO_NB_NH_BS_HS", (NL,), TWO, NB, NH, BS, HS),
            # vLLM, FlashInfer: NHD and HND.
            _row("NL_X_NB_TWO_BS_NH_HS", (NL,), NB, TWO, BS, NH, HS),
            _row("NL_X_NB_TWO_NH_BS_HS", (NL,), NB, TWO, NH, BS, HS),
            # Latent attention (MLA): vLLM and SGLang.
            _row("NL_X_NB_BS_HS", (NL,), NB, BS, HS),
            _row("NL_X_NBBS_ONE_HS", (NL,), NBBS, ONE, HS),
            # SGLang: all K tensors, then all V tensors.
            _row("TWO_X_NL_X_NBBS_NH_HS", (TWO, NL), NBBS, NH, HS),
            _row("TWO_X_NL_X_NB_BS_NH_HS", (TWO, NL), NB, BS, NH, HS),
            # SGLang, unified: K and V of layer 0, K and V of layer 1, and so on.
            _row("NL_X_NB_BS_NH_HS", (NL, TWO), NB, BS, NH, HS),
            # vLLM, blocks first: K and V of a head side by side.
            _row("NL_X_NB_NH_BS_CS", (NL,), NB, NH, BS, CS),
            _row("NL_X_NB_BS_NH_CS", (NL,), NB, BS, NH, CS),
            # vLLM on CPUs: all K slots of a head, then all its V slots. It registers its tensors
            # under a shape that says otherwise.
            _row("NL_X_NB_NH_TWO_BS_HS", (NL,), NB, NH, TWO_BS, HS, registered=(NB, NH, BS, CS)),
        ]
    )
)

INDEXER_PRESET = "NL_X_NB_BSV_BSS"
"""Sparse-attention indexers: uint8 tensors, in each block the values of all slots, then their scales.
It holds two groups, so it is no row of the table: `indexer_layouts` reads it."""
