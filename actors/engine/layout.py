"""Declared layouts: an engine's tensors and the name of their arrangement become a `PagedLayout`.

A layout is declared and proven, never guessed: nothing is concluded from a shape. What the shapes
must be under the declaration is checked here; that the engine really keeps its KV so is proven by
`layout_probe.probe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import assert_never

from penstock._native import LayoutRefused, PagedLayout
from penstock.actors.engine.presets import INDEXER_PRESET, PRESETS, Axis, Dimension, Preset
from penstock.actors.engine.tensor_memory import RawTensor, Tensor, TensorMemory, memory_of

__all__ = [
    "INDEXER_PRESET",
    "PRESETS",
    "KvGeometry",
    "LayoutRefused",
    "PagedLayout",
    "RawTensor",
    "Tensor",
    "indexer_layouts",
    "opaque_layout",
    "paged_layout",
]

_SCALE_BYTES = 4  # one float32 for each
_SCALED_VALUES = 128  # values


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGeometry:
    """What an engine says of one layer group. How many blocks and layers there are, its tensors say.

    For latent attention `kv_heads` is 1 and `head_size` the size of the latent vector.
    """

    block_tokens: int  # BS
    kv_heads: int  # NH
    head_size: int  # HS, in elements

    def __post_init__(self) -> None:
        if min(self.block_tokens, self.kv_heads, self.head_size) < 1:
            raise LayoutRefused(f"every number of a geometry is at least 1: {self}")


def paged_layout(preset: str, tensors: Sequence[Tensor], geometry: KvGeometry) -> PagedLayout:
    """The layout of a group of layers whose tensors are arranged as `preset` says.

    `tensors`: one for each layer, in layer order, for names that begin with NL_X; all K tensors and
    then all V tensors for TWO_X_NL_X; K and V of each layer in turn for NL_X_NB_BS_NH_HS; a single
    one where NL is in the shape. The layout keeps them alive.

    Raises LayoutRefused: an unknown name, a shape or a dtype that the declaration does not allow, a
    head that is not contiguous, tensors that differ, memory that is not the CPU's.
    """
    row = PRESETS.get(preset)
    if row is None:
        raise LayoutRefused(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    if Axis.NH not in row.axes and geometry.kv_heads != 1:
        raise LayoutRefused(f"{preset} has one head, and {geometry.kv_heads} are declared")
    memories = _alike(tensors)
    first = _fitted(row, memories[0], geometry)
    return _assembled(row, [_fitted(row, memory, geometry) for memory in memories], first, geometry)


def indexer_layouts(
    tensors: Sequence[Tensor], *, block_tokens: int, head_size: int = 128
) -> tuple[PagedLayout, PagedLayout]:
    """The two groups of NL_X_NB_BSV_BSS: fp8 values and their float32 scales, one for 128 values.

    `tensors`: one uint8 tensor for each layer, [NB, bytes of a block] or [NB, BS, bytes of a slot].
    Raises LayoutRefused as paged_layout.
    """
    memories = _alike(tensors)
    scale_bytes = -(-head_size // _SCALED_VALUES) * _SCALE_BYTES
    block_bytes = block_tokens * (head_size + scale_bytes)
    found = _inner_bytes(memories[0])
    if memories[0].element_bytes != 1 or found != block_bytes:
        raise LayoutRefused(
            f"{INDEXER_PRESET}: a block of {block_tokens} slots is {block_bytes} bytes (uint8), "
            f"and the tensor has {found} bytes in elements of {memories[0].element_bytes}"
        )

    def part(offset: int, slot_bytes: int) -> PagedLayout:
        return PagedLayout(
            bases=[memory.address + offset for memory in memories],
            span_bytes=[memory.span_bytes - offset for memory in memories],
            layers=len(memories),
            components=1,
            blocks=memories[0].shape[0],
            block_slots=block_tokens,
            heads=1,
            head_bytes=slot_bytes,
            s_block=memories[0].strides_bytes[0],
            s_slot=slot_bytes,
            s_head=slot_bytes,
            owner=[memory.owner for memory in memories],
        )

    return part(0, head_size), part(block_tokens * head_size, scale_bytes)


def opaque_layout(tensors: Sequence[Tensor]) -> PagedLayout:
    """State that cannot be cut by token: one tensor for each layer, its first dimension the blocks.

    A block is moved whole, as the bytes it is. Raises LayoutRefused as paged_layout.
    """
    memories = _alike(tensors)
    block_bytes = _inner_bytes(memories[0])
    return PagedLayout(
        bases=[memory.address for memory in memories],
        span_bytes=[memory.span_bytes for memory in memories],
        layers=len(memories),
        components=1,
        blocks=memories[0].shape[0],
        block_slots=1,
        heads=1,
        head_bytes=block_bytes,
        s_block=memories[0].strides_bytes[0],
        s_slot=block_bytes,
        s_head=block_bytes,
        owner=[memory.owner for memory in memories],
    )


@dataclass(frozen=True, slots=True)
class _Fitted:
    """One tensor under its row: how many there are of each axis, and how far apart, in bytes."""

    memory: TensorMemory
    counts: Mapping[Axis, int]
    strides: Mapping[Axis, int]


def _alike(tensors: Sequence[Tensor]) -> list[TensorMemory]:
    """All tensors of a group have one shape, one dtype size and the same strides."""
    if not tensors:
        raise LayoutRefused("a group of layers without tensors")
    memories = [memory_of(tensor) for tensor in tensors]
    first = memories[0]
    for index, memory in enumerate(memories):
        for what in ("shape", "strides_bytes", "element_bytes"):
            if getattr(memory, what) != getattr(first, what):
                raise LayoutRefused(
                    f"tensor {index} has {what} {getattr(memory, what)}, and tensor 0 has "
                    f"{getattr(first, what)}: they are not one group"
                )
    return memories


def _fitted(row: Preset, memory: TensorMemory, geometry: KvGeometry) -> _Fitted:
    """Lay the row's axes over a tensor. Raises LayoutRefused where they do not fit."""
    for shape in (row.shape, row.registered):
        sizes = _sizes(shape, memory.shape, geometry)
        if sizes is not None:
            break
    else:
        raise LayoutRefused(
            f"{row.name}: a tensor of shape {list(memory.shape)} is not {_described(row.shape)} "
            f"with {geometry}"
        )
    strides = memory.strides_bytes
    if shape is not row.shape:
        strides = _restrided(row, memory, sizes)
    of_axis: dict[Axis, int] = {}
    for dimension, stride in zip(row.shape, strides, strict=True):
        step = stride
        for axis in reversed(dimension):
            of_axis[axis] = step
            step *= sizes[axis]
    if geometry.head_size > 1 and of_axis[Axis.HS] != memory.element_bytes:
        raise LayoutRefused(f"{row.name}: the elements of a head are not contiguous")
    return _Fitted(memory, sizes, of_axis)


def _sizes(
    shape: Sequence[Dimension], found: Sequence[int], geometry: KvGeometry
) -> dict[Axis, int] | None:
    """The count of every axis when `found` is a tensor of `shape`; None when it is not."""
    if len(shape) != len(found):
        return None
    sizes = {axis: _declared(axis, geometry) for axis in Axis}
    for dimension, count in zip(shape, found, strict=True):
        open_axes = [axis for axis in dimension if sizes[axis] == 0]
        known = prod(sizes[axis] for axis in dimension if sizes[axis] != 0)
        if count % known != 0 or (not open_axes and count != known):
            return None
        for axis in open_axes:  # NB or NL: one to a dimension at most
            sizes[axis] = count // known
    return sizes


def _declared(axis: Axis, geometry: KvGeometry) -> int:
    """How many there are of an axis; 0 where the tensors say it."""
    match axis:
        case Axis.NB | Axis.NL:
            return 0
        case Axis.TWO:
            return 2
        case Axis.BS:
            return geometry.block_tokens
        case Axis.NH:
            return geometry.kv_heads
        case Axis.HS:
            return geometry.head_size
        case _:
            assert_never(axis)


def _restrided(row: Preset, memory: TensorMemory, sizes: Mapping[Axis, int]) -> tuple[int, ...]:
    """Strides of the true shape, for a tensor given out under another one.

    Both begin with the same dimensions; the rest must be contiguous, or the true shape could not be
    read from it at all.
    """
    same = 0
    while row.shape[same] == row.registered[same]:
        same += 1
    step = memory.element_bytes
    inner = list(zip(memory.shape[same:], memory.strides_bytes[same:], strict=True))
    for count, stride in reversed(inner):
        if count > 1 and stride != step:
            raise LayoutRefused(f"{row.name}: dimensions {same} and up are not contiguous")
        step *= count
    strides = []
    for dimension in row.shape[same:]:
        step //= prod(sizes[axis] for axis in dimension)
        strides.append(step)
    return (*memory.strides_bytes[:same], *strides)


def _assembled(
    row: Preset, fitted: Sequence[_Fitted], first: _Fitted, geometry: KvGeometry
) -> PagedLayout:
    """Bases in the order [layer][kv], whatever the order of the tensors and of their dimensions."""
    components = 2 if Axis.TWO in row.axes else 1
    listed = 2 if Axis.TWO in row.tensors else 1
    layers = len(fitted) // listed if Axis.NL in row.tensors else first.counts[Axis.NL]
    expected = listed * (layers if Axis.NL in row.tensors else 1)
    if len(fitted) != expected or layers < 1:
        raise LayoutRefused(f"{row.name}: {len(fitted)} tensors, which is not {listed} for a layer")
    bases, spans = [], []
    for layer in range(layers):
        for kv in range(components):
            place = {Axis.NL: layer, Axis.TWO: kv}
            index = 0
            for axis in row.tensors:
                index = index * (layers if axis is Axis.NL else 2) + place[axis]
            offset = sum(place[axis] * first.strides.get(axis, 0) for axis in place)
            memory = fitted[index].memory
            bases.append(memory.address + offset)
            spans.append(memory.span_bytes - offset)
    return PagedLayout(
        bases=bases,
        span_bytes=spans,
        layers=layers,
        components=components,
        blocks=first.counts[Axis.NB],
        block_slots=geometry.block_tokens,
        heads=geometry.kv_heads,
        head_bytes=geometry.head_size * first.memory.element_bytes,
        s_block=first.strides[Axis.NB],
        s_slot=first.strides[Axis.BS],
        s_head=first.strides.get(Axis.NH, 0),
        owner=[one.memory.owner for one in fitted],
    )


def _inner_bytes(memory: TensorMemory) -> int:
    """Bytes of one block, the first dimension being blocks. Raises LayoutRefused for holes in it."""
    step = memory.element_bytes
    for count, stride in reversed(
        list(zip(memory.shape[1:], memory.strides_bytes[1:], strict=True))
    ):
        if count > 1 and stride != step:
            raise LayoutRefused("the bytes of a block are not contiguous")
        step *= count
    return step


def _described(shape: Sequence[Dimension]) -> str:
    return "[" + ", ".join("*".join(axis.name for axis in one) or "1" for one in shape) + "]"
