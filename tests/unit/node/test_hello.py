"""What a Hello declares, and every way in which it is refused."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from support.declarations import CHUNK_TOKENS, group, hello

from penstock.actors.api.errors import InvalidField, VersionMismatch
from penstock.actors.api.types import HitRule
from penstock.actors.core.lossy import Element, LossyNamespaces
from penstock.actors.hello import HelloReader, ReadHello
from penstock.protos import engine_pb2
from penstock.protos.engine_pb2 import Hello


def read(given: Hello, *, chunk_tokens: int = CHUNK_TOKENS) -> ReadHello:
    reader = HelloReader(chunk_tokens=chunk_tokens)
    return anyio.run(partial(reader.read, given, correlation_id=7))


def changed(**fields: object) -> Hello:
    """An acceptable Hello with these fields set instead."""
    given = hello()
    for name, value in fields.items():
        setattr(given, name, value)
    return given


def test_geometry_slots_and_rules_follow_the_declaration() -> None:
    window = group(
        "window",
        attention=engine_pb2.ATTENTION_KIND_WINDOW,
        window_tokens=40,
        layers=["layers.2"],
        shards=3,
        token_bytes=512,
    )
    mla = group("mla", attention=engine_pb2.ATTENTION_KIND_MLA, layers=["layers.3"])
    state = group("state", attention=engine_pb2.ATTENTION_KIND_RECURRENT, layers=["layers.4"])
    del state.shards[:]
    state.shards.add(state_bytes=12288, runs=3)
    given = hello(groups=[group(), window, mla, state], own_shards=[0, 2, 0, 0])
    declared = read(given).declaration
    rules = [one.rule for one in declared.groups]
    assert rules == [HitRule.FULL, HitRule.WINDOW, HitRule.FULL, HitRule.STATE]
    assert declared.groups[1].window_chunks == 3  # 40 tokens reach into three chunks of 16
    assert declared.groups[1].shard_bytes == (8192, 8192, 8192)
    assert declared.groups[3].shard_bytes == (12288,)
    assert declared.groups[3].shard_runs == (3,)
    assert declared.slots == (0, 3, 4, 5)
    assert read(given).correlation_id == 7


@pytest.mark.parametrize(
    ("transform", "dtypes", "expected"),
    [
        ("fp8_e4m3", ["bfloat16"], Element.BFLOAT16),
        ("fp8_e4m3", ["float16", "float16"], Element.FLOAT16),
        ("", ["bfloat16"], None),
        ("another", ["bfloat16"], None),
        ("fp8_e4m3", ["float32"], None),
        ("fp8_e4m3", ["bfloat16", "float16"], None),
    ],
)
def test_a_lossy_transform_is_learned_where_all_elements_are_of_one_kind(
    transform: str, dtypes: list[str], expected: Element | None
) -> None:
    groups = [group(f"g{n}", layers=[f"layers.{n}"]) for n in range(len(dtypes))]
    for one, dtype in zip(groups, dtypes, strict=True):
        one.dtype = dtype
    given = hello(groups=groups)
    given.namespace.transform = transform
    lossy = LossyNamespaces()
    reader = HelloReader(chunk_tokens=CHUNK_TOKENS, lossy=lossy)
    told = anyio.run(partial(reader.read, given, correlation_id=7))
    assert lossy.element(told.declaration.namespace_digest, "fp8_e4m3") is expected


@pytest.mark.parametrize(
    ("blocks", "configured", "expected"), [((16,), 256, 256), ((48,), 256, 288), ((12, 8), 20, 24)]
)
def test_a_chunk_is_a_multiple_of_every_block(
    blocks: tuple[int, ...], configured: int, expected: int
) -> None:
    groups = [group(str(block), layers=[f"layers.{block}"], block_tokens=block) for block in blocks]
    assert read(hello(groups=groups), chunk_tokens=configured).declaration.chunk_tokens == expected


def test_who_declares_no_shard_moves_no_bytes() -> None:
    assert read(hello(own_shards=[])).declaration.slots == ()


def test_what_is_not_the_models_does_not_change_its_namespace() -> None:
    """E1: two processes of one model have one namespace, whatever else tells them apart.

    Seen to fail with block_tokens among what a group is told by.
    """
    paged = hello(groups=[group(block_tokens=8)])
    assert read(paged).roots.digest(b"", b"") == read(hello(own_shards=[])).roots.digest(b"", b"")
    digest = read(hello()).declaration.namespace_digest
    assert digest == read(paged).declaration.namespace_digest


@pytest.mark.parametrize("version", [0, 2])
def test_another_protocol_is_refused_with_both_versions(version: int) -> None:
    with pytest.raises(VersionMismatch, match=f"protocol 1, the client {version}"):
        read(changed(protocol_version=version))


def _group_with(**fields: object) -> Hello:
    one = group()
    for name, value in fields.items():
        setattr(one, name, value)
    return hello(groups=[one])


def _with_shard(**fields: int) -> Hello:
    given = hello()
    for name, value in fields.items():
        setattr(given.shard, name, value)
    return given


def _with_namespace(**fields: object) -> Hello:
    given = hello()
    for name, value in fields.items():
        setattr(given.namespace, name, value)
    return given


def _many(count: int) -> list[engine_pb2.Group]:
    return [group(f"g{index}", layers=[f"layers.{index}"]) for index in range(count)]


def _wide(name: str, *, layers: int = 1, shards: int = 1) -> engine_pb2.Group:
    return group(name, layers=[f"{name}.{index}" for index in range(layers)], shards=shards)


REFUSED = [
    (changed(engine_instance=b"i" * 15), "len(hello.engine_instance)"),
    (changed(engine_instance=b"i" * 65), "len(hello.engine_instance)"),
    (changed(client="c" * 129), "len(hello.client)"),
    (changed(client="two\nlines"), "hello.client"),
    (changed(resume=b"r" * 31), "hello.resume"),
    (changed(epoch=b"e" * 15), "hello.epoch"),
    (hello(groups=[]), "len(groups)"),
    (hello(groups=_many(65)), "len(groups)"),
    (hello(groups=[group(), group(layers=["layers.9"])]), "hello.groups"),
    (hello(groups=[group("a"), group("b")]), "groups[1]"),
    (_group_with(name=""), "len(hello.groups[0].name)"),
    (_group_with(name="n" * 65), "len(hello.groups[0].name)"),
    (_group_with(attention=0), "hello.groups[0].attention"),
    (_group_with(attention=99), "hello.groups[0].attention"),
    (_group_with(window_tokens=1), "groups[0].window_tokens"),
    (_group_with(attention=engine_pb2.ATTENTION_KIND_WINDOW), "groups[0].window_tokens"),
    (_group_with(block_tokens=0), "groups[0].block_tokens"),
    (_group_with(block_tokens=65537), "groups[0].block_tokens"),
    (_group_with(kv_heads=0), "groups[0].kv_heads"),
    (_group_with(head_size=65537), "groups[0].head_size"),
    (_group_with(components=0), "groups[0].components"),
    (_group_with(dtype="int3"), "groups[0].dtype"),
    (_group_with(dtype="float8_e4m3fn"), "kv_scales_digest"),
    (hello(groups=[group(layers=[])]), "len(groups[0].layer_names)"),
    (hello(groups=[group(layers=["l", "l"])]), "groups[0].layer_names"),
    (hello(groups=[group(layers=[""])]), "groups[0].layer_names[0]"),
    (hello(groups=[group(shards=0)]), "len(groups[0].shards)"),
    (hello(groups=[group(shards=1025)]), "len(groups[0].shards)"),
    (hello(groups=[group(token_bytes=0)]), "groups[0].shards[0].token_bytes"),
    (hello(groups=[group(token_bytes=2**33)]), "groups[0].shards[0].token_bytes"),
    (hello(groups=[group(token_bytes=257)]), "groups[0].shards[0].runs"),
    (hello(groups=[_wide("a", layers=2000), _wide("b", layers=49)]), "layer_names of all groups"),
    (hello(groups=[_wide("a", shards=1000), _wide("b", shards=25)]), "shards of all groups"),
    (hello(own_shards=[0, 0]), "hello.own_shards"),
    (hello(own_shards=[1]), "hello.own_shards[0]"),
    (_with_shard(tp_rank=1), "hello.shard.tp_rank"),
    (_with_shard(pp_rank=2, pp_size=2), "hello.shard.pp_rank"),
    (_with_shard(dcp_size=1025), "shard_sizes.dcp"),
    (_with_namespace(weights=""), "weights"),
    (_with_namespace(weights="/models/llama"), "weights"),
    (_with_namespace(weights="org/model@main"), "weights"),
    (_with_namespace(model_config_digest=b"d" * 31), "model_config_digest"),
    (_with_namespace(kv_scales_digest=b"d"), "kv_scales_digest"),
    (_with_namespace(byte_order=""), "byte_order"),
    (_with_namespace(transform="a\nb"), "transform"),
]


@pytest.mark.parametrize(("given", "field"), REFUSED, ids=[field for _, field in REFUSED])
def test_what_contradicts_itself_is_refused_with_the_path_of_the_field(
    given: Hello, field: str
) -> None:
    """A12, A17, A21: nothing about the model is guessed or left out; a doubt is a refusal."""
    with pytest.raises(InvalidField) as refused:
        read(given)
    assert refused.value.field == field
