"""Saves below L1, through a whole node over its socket."""

from __future__ import annotations

import pytest
from support.declarations import hello, keys
from support.nodes import local_node
from support.raw_engine import RawEngine, attached, extents_of

from penstock.actors.node import Node
from penstock.protos import engine_pb2
from penstock.runtime.errors import ConfigError

pytestmark = pytest.mark.anyio

SAVED, FAILED = engine_pb2.SAVE_STATE_SAVED, engine_pb2.SAVE_STATE_FAILED
UNKNOWN, NOT_WANTED = engine_pb2.SAVE_STATE_UNKNOWN, engine_pb2.SAVE_STATE_NOT_WANTED


def memory_store(name: str, **given: object) -> dict[str, object]:
    return {"name": name, "type": "memory", "capacity": "16MiB", **given}


async def put(engine: RawEngine, prompt: bytes, *, fill: int = 7) -> engine_pb2.Committed:
    """With digests of runs, without which nothing is saved."""
    reserved = (await engine.reserve(prompt)).reserved
    granted = len(extents_of(reserved.extents))
    words = fill.to_bytes(8, "little") * granted
    commit = engine_pb2.Commit(lease=reserved.lease, digests=words, runs=words * RUNS)
    return (await engine.ask(commit=commit)).committed


RUNS = hello().groups[0].shards[0].runs


async def stored(engine: RawEngine, prompt: bytes, *, within_ms: int = 2000) -> engine_pb2.Stored:
    ask = engine_pb2.WaitStored(prompt=engine_pb2.Prompt(keys=prompt), within_ms=within_ms)
    return (await engine.ask(wait_stored=ask)).stored


def saved_objects(node: Node, store: str, outcome: str) -> float:
    name = "penstock_writer_objects_total"
    return node.telemetry.value(name, store=store, outcome=outcome) or 0.0


async def test_what_became_of_a_prompt_is_told_by_store() -> None:
    stores = [
        memory_store("near"),
        memory_store("broken", attempts_max=1, faults={"fault": 1.0}),
        memory_store("read-only", write="none"),
    ]
    async with (
        local_node(stores=stores, writer__retry_within="300ms") as node,
        attached(node.address, hello()) as engine,
    ):
        assert (await put(engine, keys(3))).backlog_bytes > 0
        answer = await stored(engine, keys(4))
        assert list(answer.stores) == ["near", "broken", "read-only"]
        assert answer.slots == 1
        assert answer.states == bytes([SAVED, FAILED, NOT_WANTED] * 3 + [UNKNOWN] * 3)
        assert saved_objects(node, "near", "saved") == 3
        assert saved_objects(node, "broken", "failed") == 3


async def test_without_stores_there_is_nothing_to_tell() -> None:
    async with local_node() as node, attached(node.address, hello()) as engine:
        assert (await put(engine, keys(3))).backlog_bytes == 0
        answer = await stored(engine, keys(3))
        assert (list(answer.stores), answer.states) == ([], b"")


async def test_what_leaves_a_full_l1_is_saved_first() -> None:
    """B17 over the socket: a reservation that finds no room gets it, and nothing is lost for it."""
    stores = [memory_store("below", write="on_evict")]
    async with local_node(stores=stores) as node, attached(node.address, hello()) as engine:
        usage = await node.usage()
        chunk_bytes = (await put_one(engine, node)) or usage.arena_bytes
        count = usage.arena_bytes // chunk_bytes
        for number in range(count + 4):
            await put(engine, keys(1, prompt=f"p{number}"))
        prompts = b"".join(keys(1, prompt=f"p{number}") for number in range(3))
        assert (await stored(engine, prompts)).states == bytes([SAVED] * 3)
        assert node.telemetry.value("penstock_evicted_unsaved_chunks_total") in (None, 0.0)


async def put_one(engine: RawEngine, node: Node) -> int:
    await put(engine, keys(1, prompt="p0"))
    return (await node.usage()).resident_bytes


async def test_staging_keeps_nothing_that_was_saved() -> None:
    stores = [memory_store("below")]
    overrides = {"stores": stores, "l1__mode": "staging"}
    async with local_node(**overrides) as node, attached(node.address, hello()) as engine:
        await put(engine, keys(5))
        assert (await stored(engine, keys(5))).states == bytes([SAVED] * 5)
        found = (await engine.lookup(keys(5))).lookup
        assert found.hit_chunks == 0
        assert (await node.usage()).resident_bytes == 0


async def test_staging_without_a_store_is_refused() -> None:
    with pytest.raises(ConfigError, match="name stores"):
        async with local_node(l1__mode="staging"):
            pass
