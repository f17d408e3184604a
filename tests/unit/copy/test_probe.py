"""A declared layout is proven at registration (A17)."""

from __future__ import annotations

import pytest
import torch
from support.paged_engines import ENGINES, Cache, Size

from penstock._native import Copier
from penstock.actors.engine.layout import KvGeometry, paged_layout
from penstock.actors.engine.layout_probe import LayoutUnproven, probe


@pytest.mark.parametrize("preset", ENGINES)
def test_every_true_declaration_is_proven(preset: str) -> None:
    heads = 3 if ENGINES[preset].components == 2 else 1
    cache = Cache(preset, Size(2, 5, 4, heads, 8), torch.bfloat16, seed=1)
    probe(cache.layout, cache.write, copier=Copier(threads=1))


def test_a_probe_leaves_the_other_blocks_alone() -> None:
    cache = Cache("NL_X_NB_TWO_BS_NH_HS", Size(2, 5, 4, 3, 8), torch.bfloat16, seed=1)
    before = [tensor[1:4].clone().view(torch.uint8) for tensor in cache.tensors]
    probe(cache.layout, cache.write, copier=Copier(threads=1))
    after = [tensor[1:4].view(torch.uint8) for tensor in cache.tensors]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


SAME_SHAPE = [
    # (true, declared, shape of the engine's tensors): the shapes fit both, every number being 2.
    ("NL_X_TWO_NB_BS_NH_HS", "NL_X_NB_TWO_BS_NH_HS", Size(2, 2, 2, 2, 16)),
    ("NL_X_NB_TWO_NH_BS_HS", "NL_X_NB_TWO_BS_NH_HS", Size(2, 4, 2, 2, 16)),
    ("NL_X_TWO_NB_BS_NH_HS", "NL_X_TWO_NB_NH_BS_HS", Size(1, 3, 4, 4, 16)),
    ("NL_X_NB_NH_BS_CS", "NL_X_NB_BS_NH_CS", Size(2, 3, 2, 2, 16)),
    ("NL_X_NB_NH_TWO_BS_HS", "NL_X_NB_NH_BS_CS", Size(1, 3, 4, 2, 16)),
    ("NL_X_NB_NH_BS_CS", "NL_X_NB_NH_TWO_BS_HS", Size(1, 3, 4, 2, 16)),
    ("TWO_X_NL_X_NB_BS_NH_HS", "NL_X_NB_BS_NH_HS", Size(2, 3, 4, 2, 16)),
    ("NB_NL_TWO_NH_BS_HS", "NB_NL_TWO_BS_NH_HS", Size(2, 3, 2, 2, 16)),
]


@pytest.mark.parametrize(("true", "declared", "size"), SAME_SHAPE)
def test_a_false_declaration_of_the_same_shape_is_caught(
    true: str, declared: str, size: Size
) -> None:
    """A17. Goal: with two kv heads (or any counts alike) a shape fits several layouts; a wrong one is
    found out before it serves a byte. Method: an engine of one layout, declared as another that its
    shapes allow. Seen to fail when the probe writes one value for a whole block."""
    cache = Cache(true, size, torch.float16, seed=1)
    layout = paged_layout(declared, cache.tensors, size.geometry)
    with pytest.raises(LayoutUnproven, match="what was written at"):
        probe(layout, cache.write, copier=Copier(threads=1))


def test_an_engine_that_writes_elsewhere_is_caught() -> None:
    """A17, when nothing of what was written is where the layout looks."""
    cache = Cache("NL_X_NB_BS_HS", Size(1, 4, 4, 1, 8), torch.bfloat16, seed=1)
    with pytest.raises(LayoutUnproven, match="nothing that was written"):
        probe(cache.layout, lambda layer, kv, block, data: None, copier=Copier(threads=1))


def test_every_value_is_a_finite_number_in_every_dtype() -> None:
    """An engine's tensor API may normalise what is not a number; the probe must not depend on it."""
    seen: list[bytes] = []
    cache = Cache("NL_X_TWO_NB_BS_NH_HS", Size(3, 2, 16, 4, 16), torch.bfloat16, seed=1)

    def write(layer: int, kv: int, block: int, data: bytes) -> None:
        seen.append(data)
        cache.write(layer, kv, block, data)

    probe(cache.layout, write, copier=Copier(threads=1))
    everything = torch.frombuffer(bytearray(b"".join(seen)), dtype=torch.uint8)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn):
        assert everything.view(dtype).float().isfinite().all()


def test_a_cache_of_one_block_is_proven_by_that_block() -> None:
    tensor = torch.zeros(1, 4, 8)
    layout = paged_layout(
        "NL_X_NB_BS_HS", [tensor], KvGeometry(block_tokens=4, kv_heads=1, head_size=8)
    )

    def write(layer: int, kv: int, block: int, data: bytes) -> None:
        tensor[block] = torch.frombuffer(bytearray(data), dtype=torch.float32).view(4, 8)

    probe(layout, write, copier=Copier(threads=1))
