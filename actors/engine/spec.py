"""What an engine process declares of itself and its model when it attaches."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from penstock.actors.api.types import HitRule
from penstock.actors.core.namespace import (
    CANONICAL_ORDER,
    DTYPE_BYTES,
    Attention,
    Group,
    GroupShard,
    Namespace,
    ShardSizes,
)
from penstock.actors.engine.counting import GroupRule
from penstock.actors.engine.keyspace import KeySpace
from penstock.protos import engine_pb2
from penstock.runtime.errors import ConfigError

PROTOCOL_VERSION = 1

_ATTENTION = {
    Attention.FULL: engine_pb2.ATTENTION_KIND_FULL,
    Attention.WINDOW: engine_pb2.ATTENTION_KIND_WINDOW,
    Attention.MLA: engine_pb2.ATTENTION_KIND_MLA,
    Attention.RECURRENT: engine_pb2.ATTENTION_KIND_RECURRENT,
}


def new_engine_instance() -> bytes:
    """An unguessable id, to be made once at the engine's start and given to all its processes. 16 bytes."""
    return secrets.token_bytes(16)


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A layer group as this engine pages it."""

    name: str  # unique in the engine
    block_tokens: int  # the engine's page size in tokens
    group: Group  # what of it decides whose KV is interchangeable


@dataclass(frozen=True, slots=True)
class Place:
    """The part of the model this process holds; each rank is below its size."""

    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    dcp_rank: int = 0
    dcp_size: int = 1
    pcp_rank: int = 0
    pcp_size: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dcp", "pcp"):
            rank, size = getattr(self, f"{name}_rank"), getattr(self, f"{name}_size")
            if not 0 <= rank < size:
                raise ConfigError(f"place.{name}_rank", f"must be 0 to {size - 1}, not {rank}")


@dataclass(frozen=True, slots=True)
class GroupObjects:
    """The objects of one group that this process moves."""

    rule: GroupRule
    object_bytes: int
    runs: int  # (layer, component) runs in an object
    components: int
    block_tokens: int
    chunk_tokens: int
    is_state: bool  # one opaque state at the end of a chunk, and not something for each token

    @property
    def layers(self) -> int:
        return self.runs // self.components


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One process of an engine. Two processes share KV when their namespaces are equal."""

    weights: str  # "NAME@COMMIT", or "safetensors:SHA256"
    model_config_digest: bytes  # see penstock.actors.core.namespace.config_digest
    groups: tuple[GroupSpec, ...]
    engine_instance: bytes  # see new_engine_instance
    client: str = "engine"  # for logs
    place: Place = Place()
    own_shards: tuple[
        int, ...
    ] = ()  # for each group, this process's shard; empty: it moves no bytes
    generation: int = 0
    kv_scales_digest: bytes = b""
    byte_order: str = CANONICAL_ORDER
    transform: str = ""

    def __post_init__(self) -> None:
        is_id = isinstance(self.engine_instance, bytes) and 16 <= len(self.engine_instance) <= 64
        if not is_id:
            raise ConfigError(
                "engine_instance", "must be 16 to 64 bytes: use new_engine_instance()"
            )
        names = [one.name for one in self.groups]
        if len(set(names)) != len(names) or not all(names):
            raise ConfigError("groups", f"names must be there and differ, not {names}")
        if self.own_shards and len(self.own_shards) != len(self.groups):
            raise ConfigError("own_shards", "one for each group, or none at all")
        for one, shard in zip(self.groups, self.own_shards, strict=False):
            if not 0 <= shard < len(one.group.shards):
                raise ConfigError("own_shards", f"group {one.name} has no shard {shard}")

    def keyspace(self, chunk_tokens: int) -> KeySpace:
        """The key chains of this model, cut into chunks of `chunk_tokens`. Raises InvalidField."""
        namespace = Namespace(
            weights=self.weights,
            generation=self.generation,
            model_config_digest=self.model_config_digest,
            kv_scales_digest=self.kv_scales_digest,
            byte_order=self.byte_order,
            transform=self.transform,
            chunk_tokens=chunk_tokens,
            groups=tuple(one.group for one in self.groups),
            shard_sizes=ShardSizes(
                self.place.tp_size, self.place.pp_size, self.place.dcp_size, self.place.pcp_size
            ),
        )
        return KeySpace(namespace, chunk_tokens=chunk_tokens)

    def objects(self, chunk_tokens: int) -> tuple[GroupObjects, ...]:
        """What this process moves for each chunk; empty if nothing."""
        return tuple(
            GroupObjects(
                rule=_rule(one.group, chunk_tokens),
                object_bytes=one.group.shards[shard].object_bytes(chunk_tokens),
                runs=one.group.shards[shard].runs,
                components=one.group.components,
                block_tokens=one.block_tokens,
                chunk_tokens=chunk_tokens,
                is_state=one.group.attention is Attention.RECURRENT,
            )
            for one, shard in zip(self.groups, self.own_shards, strict=False)
        )

    def hello(self, *, resume: bytes = b"", epoch: bytes = b"") -> engine_pb2.Hello:
        """The first message of a stream."""
        return engine_pb2.Hello(
            protocol_version=PROTOCOL_VERSION,
            engine_instance=self.engine_instance,
            client=self.client,
            namespace=engine_pb2.Namespace(
                weights=self.weights,
                generation=self.generation,
                model_config_digest=self.model_config_digest,
                kv_scales_digest=self.kv_scales_digest,
                byte_order=self.byte_order,
                transform=self.transform,
            ),
            groups=[_group_message(one) for one in self.groups],
            shard=engine_pb2.Shard(**{name: getattr(self.place, name) for name in Place.__slots__}),
            own_shards=self.own_shards,
            resume=resume,
            epoch=epoch,
        )


def plain_model(
    *,
    weights: str,
    model_config_digest: bytes,
    layers: int,
    kv_heads: int,
    head_size: int,
    dtype: str,
    block_tokens: int,
    engine_instance: bytes,
    tp_rank: int | None = 0,
    tp_size: int = 1,
    client: str = "engine",
) -> EngineSpec:
    """The spec of a model whose layers are all alike, with full attention, cut by heads over `tp_size` ranks.

    `tp_rank` None: a process that moves no bytes, such as a scheduler. With more ranks than heads, heads are
    repeated, as engines do. Raises ConfigError when heads and ranks do not divide.
    """
    if kv_heads % tp_size and tp_size % kv_heads:
        raise ConfigError("tp_size", f"{kv_heads} heads cannot be cut over {tp_size} ranks")
    if dtype not in DTYPE_BYTES:
        raise ConfigError("dtype", f"{dtype!r} is none of {', '.join(DTYPE_BYTES)}")
    rank_heads = max(1, kv_heads // tp_size)
    shard = GroupShard(
        token_bytes=layers * 2 * rank_heads * head_size * DTYPE_BYTES[dtype],
        state_bytes=0,
        runs=layers * 2,
    )
    group = Group(
        layer_names=tuple(f"model.layers.{layer}.self_attn" for layer in range(layers)),
        attention=Attention.FULL,
        window_tokens=0,
        kv_heads=kv_heads,
        head_size=head_size,
        components=2,
        dtype=dtype,
        shards=(shard,) * tp_size,
    )
    return EngineSpec(
        weights=weights,
        model_config_digest=model_config_digest,
        groups=(GroupSpec("attention", block_tokens, group),),
        engine_instance=engine_instance,
        client=client,
        place=Place(tp_rank=tp_rank or 0, tp_size=tp_size),
        own_shards=() if tp_rank is None else (tp_rank,),
    )


def _rule(group: Group, chunk_tokens: int) -> GroupRule:
    match group.attention:
        case Attention.FULL | Attention.MLA:
            return GroupRule(HitRule.FULL)
        case Attention.WINDOW:
            return GroupRule(HitRule.WINDOW, -(-group.window_tokens // chunk_tokens))
        case Attention.RECURRENT:
            return GroupRule(HitRule.STATE)


def _group_message(one: GroupSpec) -> engine_pb2.Group:
    group = one.group
    return engine_pb2.Group(
        name=one.name,
        attention=_ATTENTION[group.attention],
        window_tokens=group.window_tokens,
        block_tokens=one.block_tokens,
        layer_names=group.layer_names,
        kv_heads=group.kv_heads,
        head_size=group.head_size,
        components=group.components,
        dtype=group.dtype,
        shards=[
            engine_pb2.GroupShard(
                token_bytes=shard.token_bytes, state_bytes=shard.state_bytes, runs=shard.runs
            )
            for shard in group.shards
        ],
    )
