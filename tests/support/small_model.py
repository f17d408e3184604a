"""A model as small as tests need one, and what an engine says of it."""

from __future__ import annotations

from penstock.actors.engine.client import EngineSpec, new_engine_instance, plain_model
from penstock.actors.engine.layout import KvGeometry

LAYERS, HEADS, HEAD_SIZE, BLOCK_TOKENS = 2, 2, 16, 4
GEOMETRY = KvGeometry(block_tokens=BLOCK_TOKENS, kv_heads=HEADS, head_size=HEAD_SIZE)


def spec(*, dtype: str = "float32", block_tokens: int = BLOCK_TOKENS) -> EngineSpec:
    """Of a new engine instance: one worker, which has all of the model."""
    return plain_model(
        weights="test/model@" + "0" * 40,
        model_config_digest=bytes(32),
        layers=LAYERS,
        kv_heads=HEADS,
        head_size=HEAD_SIZE,
        dtype=dtype,
        block_tokens=block_tokens,
        engine_instance=new_engine_instance(),
    )
