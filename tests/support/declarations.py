"""What the tests' engines declare: small models whose objects are easy to count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from penstock.actors.api.session import Declaration
from penstock.actors.api.types import Epoch, GroupGeometry, HitRule
from penstock.actors.core.namespace import Attention, Group, GroupShard, Namespace
from penstock.protos import engine_pb2

CHUNK_TOKENS = 16
TOKEN_BYTES = 4096 // CHUNK_TOKENS  # so that an object of one chunk is one page
OBJECT_BYTES = CHUNK_TOKENS * TOKEN_BYTES
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def group(
    name: str = "full",
    *,
    attention: engine_pb2.AttentionKind.ValueType = engine_pb2.ATTENTION_KIND_FULL,
    window_tokens: int = 0,
    layers: Sequence[str] = ("layers.0", "layers.1"),
    shards: int = 1,
    token_bytes: int = TOKEN_BYTES,
    block_tokens: int = CHUNK_TOKENS,
) -> engine_pb2.Group:
    """One group whose shards are all alike."""
    shard = engine_pb2.GroupShard(token_bytes=token_bytes, runs=2)
    return engine_pb2.Group(
        name=name,
        attention=attention,
        window_tokens=window_tokens,
        block_tokens=block_tokens,
        layer_names=list(layers),
        kv_heads=2,
        head_size=32,
        components=2,
        dtype="float16",
        shards=[shard] * shards,
    )


def hello(
    *,
    instance: bytes | None = None,
    groups: Sequence[engine_pb2.Group] | None = None,
    own_shards: Sequence[int] | None = None,
    resume: bytes = b"",
    epoch: bytes = b"",
    weights: str = COMMIT,
) -> engine_pb2.Hello:
    """A Hello that is accepted. `own_shards` None: the first shard of each group; empty: moves no bytes."""
    given = [group()] if groups is None else list(groups)
    return engine_pb2.Hello(
        protocol_version=1,
        engine_instance=os.urandom(16) if instance is None else instance,
        client="test",
        namespace=engine_pb2.Namespace(
            weights=weights,
            model_config_digest=hashlib.sha256(b"model").digest(),
            byte_order="canonical",
        ),
        groups=given,
        own_shards=[0] * len(given) if own_shards is None else own_shards,
        resume=resume,
        epoch=epoch,
    )


def namespace() -> Namespace:
    """A namespace of one small group."""
    shard = GroupShard(TOKEN_BYTES, 0, 2)
    one = Group(("layers.0", "layers.1"), Attention.FULL, 0, 2, 32, 2, "float16", (shard,))
    return Namespace(
        weights=COMMIT,
        model_config_digest=hashlib.sha256(b"model").digest(),
        byte_order="canonical",
        chunk_tokens=CHUNK_TOKENS,
        groups=(one,),
    )


def declaration(
    *,
    instance: bytes = b"i" * 16,
    namespace: bytes = b"n" * 32,
    slots: tuple[int, ...] = (0,),
    shard_bytes: int = OBJECT_BYTES,
    resume: bytes = b"",
    epoch: bytes = b"",
) -> Declaration:
    """What such a Hello is read as."""
    geometry = GroupGeometry(HitRule.FULL, 0, (shard_bytes,), (2,))
    return Declaration(
        instance, "test", namespace, (geometry,), slots, CHUNK_TOKENS, resume, Epoch(epoch)
    )


def keys(chunks: int, *, prompt: str = "prompt") -> bytes:
    """Packed keys of a prompt; the same prompt's first keys are the same at every length."""
    return b"".join(hashlib.sha256(f"{prompt}/{i}".encode()).digest() for i in range(chunks))
