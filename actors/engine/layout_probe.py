"""Proof of a declared layout: the engine writes what only it can place, the copy must find all of it.

A shape does not tell K from V, or heads from slots, when their counts are alike. So at registration
the engine writes, by its own means, another value at every (layer, kv, block, slot, head) of two
blocks, and the copy reads them back through the declared strides.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from itertools import product

from penstock._native import Copier, Direction, PagedLayout
from penstock.runtime.errors import CallerError

ProbeWriter = Callable[[int, int, int, bytes], None]
"""Writes one (layer, kv, block) of the engine's cache: `bytes` is [slot][head][dim], contiguous, in
the cache's dtype. Every element is a finite number in bf16, fp16, fp32 and fp8."""

_DIGITS = 64  # a byte below 64 begins no NaN and no infinity, whatever the dtype


class LayoutUnproven(CallerError):
    """Yours: the engine does not keep its KV as declared. Names the first place that differs."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One head run of a paged cache."""

    layer: int
    kv: int
    block: int
    slot: int
    head: int


def probe(layout: PagedLayout, write: ProbeWriter, *, copier: Copier) -> None:
    """Prove `layout` by the first and the last block, which lose what they held.

    Raises LayoutUnproven where the copy does not find what `write` was given.
    """
    blocks = sorted({0, layout.blocks - 1})
    marks = _marks(layout, blocks)
    for layer, kv, block in product(range(layout.layers), range(layout.components), blocks):
        runs = product([layer], [kv], [block], range(layout.block_slots), range(layout.heads))
        write(layer, kv, block, b"".join(marks[Place(*place)] for place in runs))
    object_bytes = layout.object_bytes(len(blocks))
    with mmap.mmap(-1, object_bytes) as memory:
        copier.copy(
            direction=Direction.TO_OBJECTS,
            layout=layout,
            arena=memory,
            extents=array("Q", [0, object_bytes, 0]),
            block_ids=array("q", blocks),
        )
        read = bytes(memory)
    _compare(layout, blocks, marks, read)


def _places(layout: PagedLayout, blocks: list[int]) -> Iterator[Place]:
    """In the order of the object: [layer][kv][token][head]."""
    axes = range(layout.layers), range(layout.components), blocks, range(layout.block_slots)
    for layer, kv, block, slot in product(*axes):
        for head in range(layout.heads):
            yield Place(layer, kv, block, slot, head)


def _marks(layout: PagedLayout, blocks: list[int]) -> dict[Place, bytes]:
    """A value for each place: its number in base 64, repeated over the head run.

    Runs too short for that many digits share values; then the probe says less, never anything wrong.
    """
    places = list(_places(layout, blocks))
    width = 1
    while _DIGITS**width <= len(places):
        width += 1
    marks = {}
    for number, place in enumerate(places, start=1):
        digits = bytes(number // _DIGITS**power % _DIGITS for power in range(width))
        marks[place] = (digits * (layout.head_bytes // width + 1))[: layout.head_bytes]
    return marks


def _compare(
    layout: PagedLayout, blocks: list[int], marks: dict[Place, bytes], read: bytes
) -> None:
    by_mark = {mark: place for place, mark in marks.items()}
    for number, place in enumerate(_places(layout, blocks)):
        found = read[number * layout.head_bytes : (number + 1) * layout.head_bytes]
        if found == marks[place]:
            continue
        origin = by_mark.get(found)
        names = ", ".join(Place.__slots__)
        seen = f"what was written at {astuple(origin)}" if origin else "nothing that was written"
        raise LayoutUnproven(
            f"at ({names}) = {astuple(place)} the declared layout finds {seen}: the engine keeps "
            f"its KV in another order; declare that one"
        )
