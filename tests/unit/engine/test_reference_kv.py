"""The reference engine's paged KV against Penstock's block copy: neither has seen the other's code."""

import hashlib
import mmap
from array import array

import pytest
import torch

from penstock._native import Copier, Direction
from penstock.actors.engine.layout_probe import LayoutUnproven, probe
from penstock.actors.engine.reference_config import MODEL_SIZES
from penstock.actors.engine.reference_kv import PAGINGS, PagedKv

TINY = MODEL_SIZES["1m"]


def filled(preset: str, block_tokens: int) -> PagedKv:
    """A cache in which no two blocks, heads or elements are alike."""
    kv = PagedKv(TINY, preset=preset, blocks=12, block_tokens=block_tokens, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    for tensor in kv.tensors:
        bits = torch.randint(-(1 << 15), 1 << 15, tensor.shape, generator=generator)
        tensor.view(torch.int16).copy_(bits)
    return kv


def copy(direction: Direction, kv: PagedKv, blocks: list[int], arena: mmap.mmap) -> None:
    Copier(threads=1).copy(
        direction=direction,
        layout=kv.layout(),
        arena=arena,
        extents=array("Q", [0, len(blocks) * kv.size.block_tokens * kv.token_bytes, 0]),
        block_ids=array("q", blocks),
    )


@pytest.mark.parametrize("preset", PAGINGS)
def test_the_declared_layout_is_where_the_model_reads(preset: str) -> None:
    """Goal: the block copy finds every element where the engine's own indexing finds it (A17).
    Method: the object's bytes must hash to what the engine's digest of the same blocks says."""
    kv, blocks = filled(preset, 16), [5, 0, 11]
    object_bytes = len(blocks) * 16 * kv.token_bytes
    with mmap.mmap(-1, object_bytes) as arena:
        copy(Direction.TO_OBJECTS, kv, blocks, arena)
        assert hashlib.sha256(arena[:object_bytes]).hexdigest() == kv.digest(blocks)


@pytest.mark.parametrize("preset", PAGINGS)
def test_an_object_written_by_one_layout_is_read_by_another(preset: str) -> None:
    """Goal: another layout with blocks of another size holds the same KV afterwards."""
    source, target = filled("NL_X_TWO_NB_BS_NH_HS", 16), filled(preset, 32)
    with mmap.mmap(-1, 64 * source.token_bytes) as arena:
        copy(Direction.TO_OBJECTS, source, [3, 1, 4, 10], arena)
        copy(Direction.TO_PAGED, target, [7, 2], arena)
    assert target.digest([7, 2]) == source.digest([3, 1, 4, 10])
    keys, values = source.sequence([3, 1, 4, 10]).read(2, 60)
    there = target.sequence([7, 2]).read(2, 60)
    # Random bits hold NaNs, which no comparison of numbers finds equal.
    assert torch.equal(keys.view(torch.int32), there[0].view(torch.int32))
    assert torch.equal(values.view(torch.int32), there[1].view(torch.int32))


@pytest.mark.parametrize(
    ("preset", "alike"),
    [
        ("NL_X_TWO_NB_BS_NH_HS", "NL_X_TWO_NB_NH_BS_HS"),
        ("NL_X_NB_TWO_NH_BS_HS", "NL_X_NB_TWO_BS_NH_HS"),
    ],
)
def test_a_layout_is_proven_at_the_start(preset: str, alike: str) -> None:
    """Goal: a worker that declares the wrong layout never serves (A17).
    Method: with as many slots as heads, both declarations fit the shape; one is true."""
    kv = PagedKv(TINY, preset=preset, blocks=3, block_tokens=2, dtype=torch.bfloat16)
    assert TINY.kv_heads == kv.size.block_tokens
    copier = Copier(threads=1)
    probe(kv.layout(), kv.write_block, copier=copier)
    kv.preset = alike
    with pytest.raises(LayoutUnproven, match="keeps its KV in another order"):
        probe(kv.layout(), kv.write_block, copier=copier)


def test_a_sequence_of_more_than_its_blocks_is_a_bug_that_shows() -> None:
    """Goal: no silent write into another sequence's block."""
    kv = filled("NL_X_TWO_NB_BS_NH_HS", 16)
    rows = torch.zeros(1, TINY.kv_heads, TINY.head_size)
    with pytest.raises(IndexError):
        kv.sequence([0, 1]).write(0, 32, rows, rows)
