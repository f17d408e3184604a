"""What a Hello declares, checked: the namespace that begins its key chains, and the geometry of its objects."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from anyio.lowlevel import checkpoint

from penstock.actors.api.errors import InvalidField, VersionMismatch
from penstock.actors.api.session import Declaration
from penstock.actors.api.types import Epoch, GroupGeometry, HitRule
from penstock.actors.core.lossy import LossyNamespaces
from penstock.actors.core.namespace import (
    GROUPS_MAX,
    LAYERS_MAX,
    SHARDS_MAX,
    Attention,
    Group,
    GroupShard,
    Namespace,
    RootDigests,
    ShardSizes,
    chunk_tokens_for,
)
from penstock.actors.engine_codec import check_between
from penstock.protos import engine_pb2

PROTOCOL_VERSION = 1
INSTANCE_BYTES_MIN, INSTANCE_BYTES_MAX = 16, 64
CLIENT_CHARS_MAX = 128
GROUP_NAME_CHARS_MAX = 64
SECRET_BYTES = 32
EPOCH_BYTES = 16
PIECES_A_STEP = 16  # a group each, or less; tens of microseconds

_ATTENTION = {
    engine_pb2.ATTENTION_KIND_FULL: Attention.FULL,
    engine_pb2.ATTENTION_KIND_WINDOW: Attention.WINDOW,
    engine_pb2.ATTENTION_KIND_MLA: Attention.MLA,
    engine_pb2.ATTENTION_KIND_RECURRENT: Attention.RECURRENT,
}
_RULES = {
    Attention.FULL: HitRule.FULL,
    Attention.MLA: HitRule.FULL,
    Attention.WINDOW: HitRule.WINDOW,
    Attention.RECURRENT: HitRule.STATE,
}


@dataclass(frozen=True, slots=True)
class ReadHello:
    correlation_id: int
    declaration: Declaration
    roots: RootDigests  # where its key chains begin


class HelloReader:
    """`chunk_tokens` is the node's configured value; each Hello's block sizes may round it up. `lossy` learns which
    namespaces allow a lossy transform."""

    def __init__(self, *, chunk_tokens: int, lossy: LossyNamespaces | None = None) -> None:
        self._chunk_tokens = chunk_tokens
        self._lossy = LossyNamespaces() if lossy is None else lossy

    async def read(self, hello: engine_pb2.Hello, *, correlation_id: int) -> ReadHello:
        """In steps: others get their turn between them. Raises InvalidField, VersionMismatch."""
        if hello.protocol_version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"this node speaks protocol {PROTOCOL_VERSION}, the client {hello.protocol_version}:"
                " bring both to one release"
            )
        _check_identity(hello)
        _check_sums(hello)
        names = [group.name for group in hello.groups]
        if len(set(names)) != len(names):
            raise InvalidField("hello.groups", "two groups have one name")
        chunk_tokens = chunk_tokens_for(
            self._chunk_tokens, [group.block_tokens for group in hello.groups]
        )
        await checkpoint()
        groups = tuple(_group(index, group) for index, group in enumerate(hello.groups))
        await checkpoint()
        namespace = _namespace(hello, groups, chunk_tokens)
        roots = RootDigests(namespace, await _encoded(namespace))
        await checkpoint()
        geometry = tuple(_geometry(group, chunk_tokens) for group in groups)
        digest = roots.digest(b"", b"")
        self._lossy.learn(digest, namespace)
        declaration = Declaration(
            instance=hello.engine_instance,
            client=hello.client,
            namespace_digest=digest,
            groups=geometry,
            slots=_own_slots(hello, geometry),
            chunk_tokens=chunk_tokens,
            resume=hello.resume,
            resume_epoch=Epoch(hello.epoch),
        )
        return ReadHello(correlation_id, declaration, roots)


async def _encoded(namespace: Namespace) -> bytes:
    pieces = []
    for number, piece in enumerate(namespace.pieces()):
        if number % PIECES_A_STEP == 0:
            await checkpoint()
        pieces.append(piece)
    return b"".join(pieces)


def _check_identity(hello: engine_pb2.Hello) -> None:
    check_between(
        "len(hello.engine_instance)",
        len(hello.engine_instance),
        INSTANCE_BYTES_MIN,
        INSTANCE_BYTES_MAX,
    )
    check_between("len(hello.client)", len(hello.client), 0, CLIENT_CHARS_MAX)
    if not hello.client.isprintable():
        raise InvalidField("hello.client", "a name for logs has printable characters only")
    if hello.resume and len(hello.resume) != SECRET_BYTES:
        raise InvalidField("hello.resume", f"a session secret has {SECRET_BYTES} bytes")
    if hello.epoch and len(hello.epoch) != EPOCH_BYTES:
        raise InvalidField("hello.epoch", f"an epoch has {EPOCH_BYTES} bytes")
    for index, group in enumerate(hello.groups):
        check_between(f"len(hello.groups[{index}].name)", len(group.name), 1, GROUP_NAME_CHARS_MAX)


def _check_sums(hello: engine_pb2.Hello) -> None:
    """Before anything is made of them: a Hello is read in one step of the loop, which others wait for."""
    check_between("len(groups)", len(hello.groups), 1, GROUPS_MAX)
    layers = shards = 0
    for index, group in enumerate(hello.groups):
        path = f"groups[{index}]"
        layers += check_between(f"len({path}.layer_names)", len(group.layer_names), 1, LAYERS_MAX)
        shards += check_between(f"len({path}.shards)", len(group.shards), 1, SHARDS_MAX)
    check_between("layer_names of all groups", layers, 1, LAYERS_MAX)
    check_between("shards of all groups", shards, 1, SHARDS_MAX)


def _namespace(hello: engine_pb2.Hello, groups: tuple[Group, ...], chunk_tokens: int) -> Namespace:
    given, shard = hello.namespace, hello.shard
    for kind in ("tp", "pp", "dcp", "pcp"):
        size = getattr(shard, f"{kind}_size") or 1
        check_between(f"hello.shard.{kind}_rank", getattr(shard, f"{kind}_rank"), 0, size - 1)
    return Namespace(
        weights=given.weights,
        generation=given.generation,
        model_config_digest=given.model_config_digest,
        kv_scales_digest=given.kv_scales_digest,
        byte_order=given.byte_order,
        transform=given.transform,
        chunk_tokens=chunk_tokens,
        groups=groups,
        shard_sizes=ShardSizes(
            shard.tp_size or 1, shard.pp_size or 1, shard.dcp_size or 1, shard.pcp_size or 1
        ),
    )


def _group(index: int, group: engine_pb2.Group) -> Group:
    attention = _ATTENTION.get(group.attention)
    if attention is None:
        raise InvalidField(f"hello.groups[{index}].attention", "say how its layers attend")
    return Group(
        layer_names=tuple(group.layer_names),
        attention=attention,
        window_tokens=group.window_tokens,
        kv_heads=group.kv_heads,
        head_size=group.head_size,
        components=group.components,
        dtype=group.dtype,
        shards=tuple(
            GroupShard(one.token_bytes, one.state_bytes, one.runs) for one in group.shards
        ),
    )


def _geometry(group: Group, chunk_tokens: int) -> GroupGeometry:
    return GroupGeometry(
        rule=_RULES[group.attention],
        window_chunks=-(-group.window_tokens // chunk_tokens),
        shard_bytes=tuple(shard.object_bytes(chunk_tokens) for shard in group.shards),
        shard_runs=tuple(shard.runs for shard in group.shards),
    )


def _own_slots(hello: engine_pb2.Hello, geometry: tuple[GroupGeometry, ...]) -> tuple[int, ...]:
    """The slots this process moves: slots count the shards of all groups in order."""
    if not hello.own_shards:
        return ()
    if len(hello.own_shards) != len(geometry):
        raise InvalidField("hello.own_shards", "one for each group, or none at all")
    counts = [len(group.shard_bytes) for group in geometry]
    slots = []
    for index, (base, count) in enumerate(zip(accumulate(counts, initial=0), counts, strict=False)):
        own = hello.own_shards[index]
        check_between(f"hello.own_shards[{index}]", own, 0, count - 1)
        slots.append(base + own)
    return tuple(slots)
