"""The block copy, digest included, beside plain copies of the same bytes by the same threads.

    python tests/bench/copy.py [--json FILE] [--rounds N]

For every preset, 256 MiB of bf16 KV in objects of 256 tokens are put and got. In the same round the
same two pieces of memory are copied flat, by memcpy and by streaming stores; a row's ratio is to the
faster of the two. Head runs are 128 bytes (heads of 64), 1152 bytes for latent attention.

`ratio_to_memcpy` is with the blocks of a prompt one after the other, where the flat copy and ours read
the same bytes in the same order. `scattered_ratio` is with all blocks shuffled, the worst that an
engine's allocator can do; then a core cannot read as fast as the flat copy does, digest or not.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from harness import Options, Report, Sample, interleaved, parse_options, ratio

from penstock._native import Copier, Direction, PagedLayout
from penstock.actors.engine.layout import (
    INDEXER_PRESET,
    PRESETS,
    KvGeometry,
    RawTensor,
    indexer_layouts,
    paged_layout,
)
from penstock.actors.engine.presets import Axis

OBJECT_TOKENS = 256
TOTAL_BYTES = 256 << 20
ELEMENT_BYTES = 2
LAYERS = 16
ATTENTION = KvGeometry(block_tokens=16, kv_heads=8, head_size=64)
LATENT = KvGeometry(block_tokens=64, kv_heads=1, head_size=576)
VLLM_CPU = KvGeometry(block_tokens=128, kv_heads=8, head_size=64)
INDEXER_BLOCK_TOKENS, INDEXER_SLOT_BYTES = 64, 132
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Scene:
    """A paged cache, the objects it is copied to and from, and its blocks in two orders."""

    layout: PagedLayout
    paged: mmap.mmap
    arena: mmap.mmap
    extents: array[int]
    block_ids: array[int]
    scattered_ids: array[int]
    moved_bytes: int


def main() -> None:
    options = parse_options(__doc__)
    copier = Copier(threads=len(os.sched_getaffinity(0)))
    report = Report("copy")
    rows: list[dict[str, object]] = []
    worst: dict[str, float] = {}
    for preset in (*PRESETS, INDEXER_PRESET):
        for direction, samples in measured(copier, preset, options):
            name = f"{preset}.{direction.name.lower()}"
            plain = zip(samples["memcpy"].values, samples["streaming"].values, strict=True)
            best = Sample(tuple(max(pair) for pair in plain))
            ratios = {
                "ratio_to_memcpy": ratio(samples["ours"], best),
                "scattered_ratio": ratio(samples["scattered"], best),
            }
            for key, sample in ratios.items():
                report.add(f"{name}.{key}", sample, unit="")
                worst[key] = min(worst.get(key, sample.median), sample.median)
            rows.append(
                {
                    "preset": preset,
                    "direction": direction.name.lower(),
                    **{key: sample.median for key, sample in ratios.items()},
                    **{f"{case}_gib_s": sample.median for case, sample in samples.items()},
                }
            )
    report.note("rows", rows)
    report.note("threads", copier.threads)
    report.note("instructions", copier.instructions.name)
    report.add("min_ratio", worst["ratio_to_memcpy"], unit="")
    report.add("min_scattered_ratio", worst["scattered_ratio"], unit="")
    report.finish(options)


def measured(
    copier: Copier, preset: str, options: Options
) -> list[tuple[Direction, dict[str, Sample]]]:
    """Both directions of one preset; all cases on the same memory."""
    scene = make_scene(preset)
    results = []
    for direction in Direction:
        ways = scene.arena, scene.paged
        destination, source = ways if direction is Direction.TO_OBJECTS else reversed(ways)
        flat = {
            "destination": memoryview(destination)[: scene.moved_bytes],
            "source": memoryview(source)[: scene.moved_bytes],
        }

        def ours(block_ids: array[int], direction: Direction = direction) -> bytes:
            return copier.copy(
                direction=direction,
                layout=scene.layout,
                arena=scene.arena,
                extents=scene.extents,
                block_ids=block_ids,
            )

        def memcpy(flat: dict[str, memoryview] = flat) -> None:
            copier.baseline_memcpy(**flat)

        def streaming(flat: dict[str, memoryview] = flat) -> None:
            copier.baseline_streaming(**flat)

        cases: dict[str, Callable[[], object]] = {
            "ours": partial(ours, scene.block_ids),
            "scattered": partial(ours, scene.scattered_ids),
            "memcpy": memcpy,
            "streaming": streaming,
        }
        results.append(
            (
                direction,
                interleaved(
                    {name: timed(case, scene.moved_bytes) for name, case in cases.items()},
                    rounds=options.rounds,
                ),
            )
        )
    return results


def timed(case: Callable[[], object], moved_bytes: int) -> Callable[[], float]:
    """GiB/s of one run of `case`."""

    def run() -> float:
        started = time.perf_counter()
        case()
        return moved_bytes / (time.perf_counter() - started) / GIB

    return run


def make_scene(preset: str) -> Scene:
    """As many whole objects as make about TOTAL_BYTES, and exactly the blocks that they need."""
    if preset == INDEXER_PRESET:
        return _scene(INDEXER_BLOCK_TOKENS, INDEXER_BLOCK_TOKENS * INDEXER_SLOT_BYTES, 1, _indexer)
    row = PRESETS[preset]
    geometry = ATTENTION if Axis.NH in row.axes else LATENT
    geometry = VLLM_CPU if row.registered else geometry
    components = 2 if Axis.TWO in row.axes else 1
    block_bytes = (
        geometry.block_tokens * geometry.kv_heads * geometry.head_size * ELEMENT_BYTES * components
    )

    def declared(paged: mmap.mmap, blocks: int) -> PagedLayout:
        counts = {
            Axis.NL: LAYERS,
            Axis.TWO: 2,
            Axis.NB: blocks,
            Axis.BS: geometry.block_tokens,
            Axis.NH: geometry.kv_heads,
            Axis.HS: geometry.head_size,
        }
        shape = tuple(prod(counts[axis] for axis in dimension) for dimension in row.shape)
        tensors = prod(counts[axis] for axis in row.tensors)
        return paged_layout(preset, _carve(paged, tensors, shape, ELEMENT_BYTES), geometry)

    return _scene(geometry.block_tokens, block_bytes, LAYERS, declared)


def _indexer(paged: mmap.mmap, blocks: int) -> PagedLayout:
    shape = (blocks, INDEXER_BLOCK_TOKENS, INDEXER_SLOT_BYTES)
    values, _ = indexer_layouts(_carve(paged, 1, shape, 1), block_tokens=INDEXER_BLOCK_TOKENS)
    return values


def _scene(
    block_tokens: int,
    block_bytes: int,
    layers: int,
    declared: Callable[[mmap.mmap, int], PagedLayout],
) -> Scene:
    object_blocks = OBJECT_TOKENS // block_tokens
    count = TOTAL_BYTES // (layers * object_blocks * block_bytes)
    blocks = count * object_blocks
    paged = _memory(blocks * layers * block_bytes)
    layout = declared(paged, blocks)
    object_bytes = layout.object_bytes(object_blocks)
    stride = -(-object_bytes // 4096) * 4096
    arena = _memory(max(count * stride, len(paged)))
    extents = array("Q")
    for index in range(count):
        extents.extend((index * stride, object_bytes, 0))
    in_order = array("q", range(blocks))
    scattered = array("q", random.Random(1).sample(in_order, blocks))
    moved_bytes = count * object_bytes // 64 * 64
    return Scene(layout, paged, arena, extents, in_order, scattered, moved_bytes)


def _memory(size: int) -> mmap.mmap:
    """Touched memory, in huge pages if they can be had, as an arena's are."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    np.frombuffer(memory, np.uint8).fill(7)
    return memory


def _carve(
    memory: mmap.mmap, count: int, shape: Sequence[int], element_bytes: int
) -> list[RawTensor]:
    """Packed tensors, one after the other."""
    address = np.frombuffer(memory, np.uint8).ctypes.data
    strides = tuple(prod(shape[axis + 1 :]) * element_bytes for axis in range(len(shape)))
    return [
        RawTensor(
            address=address + index * prod(shape) * element_bytes,
            shape=tuple(shape),
            strides_bytes=strides,
            element_bytes=element_bytes,
        )
        for index in range(count)
    ]


if __name__ == "__main__":
    main()
