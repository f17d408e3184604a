"""Prompts that operators have a node hold: fetched from its peers, kept from eviction, bounded, and let go."""

from __future__ import annotations

import grpc
import pytest
from support.cluster import LINK_WITHIN_S, Member, Plan, cluster, member
from support.declarations import OBJECT_BYTES
from support.eventually import eventually
from support.media import Prompt, find, put
from support.raw_engine import channel_to
from support.stored_node import purge

from penstock.protos import control_pb2 as pb
from penstock.protos import control_pb2_grpc
from penstock.protos.fleet_pb2 import ChunksPinned, ChunksRequest, PinChunksRequest

pytestmark = pytest.mark.anyio


async def pin(one: Member, prompt: Prompt, node_id: str, *, for_ms: int = 60_000) -> ChunksPinned:
    digest = one.engine.welcome.namespace_digest
    chunks = ChunksRequest(namespace_digest=digest, chunk_keys=prompt.keys)
    request = pb.PinRequest(prompt=PinChunksRequest(prompt=chunks, for_ms=for_ms), node_id=node_id)
    async with channel_to(one.node.address) as channel:
        reply = await control_pb2_grpc.ControlStub(channel).Pin(request, timeout=10)
    return reply.pinned


async def holds(one: Member, bytes_: int) -> None:
    """Wait until it holds so many bytes of L1 that nobody may evict."""

    async def does() -> bool:
        usage = await one.node.usage()
        return usage.loaded_bytes + usage.pinned_bytes == bytes_

    await eventually(does, within=LINK_WITHIN_S, what=f"{one.name} holds {bytes_} bytes")


async def test_a_node_fetches_what_it_is_to_hold_and_serves_it_when_its_peer_has_it_no_more() -> (
    None
):
    """Asked at a, for b; let go, nothing of it is left."""
    prompt = Prompt.made("a", 6)
    async with cluster("a", "b") as (a, b):
        await put(a.engine, prompt)
        await b.knows(prompt.keys, of="a")
        told = await pin(a, prompt, "b")
        assert (told.known, told.hit_chunks, told.promised_chunks) == (True, 0, 6)
        await holds(b, 6 * OBJECT_BYTES)
        await purge(a.node)
        for for_ms in (
            30_000,
            90_000,
        ):  # says how far it has come; the longer one is another ticket
            assert (await pin(a, prompt, "b", for_ms=for_ms)).hit_chunks == 6
        assert (await find(b.engine, prompt)).bodies == prompt.bodies
        await pin(a, prompt, "b", for_ms=0)
        await holds(b, 0)
        assert (await b.node.usage()).tickets == 0


async def test_what_is_pinned_is_not_evicted_until_it_is_let_go() -> None:
    """Pinned again, the longer time counts, and no more than two tickets are held for it."""
    prompt = Prompt.made("a", 4)
    async with member(Plan.of("a", "b"), "a") as a:
        await put(a.engine, prompt)
        for for_ms, tickets in ((1000, 1), (500, 1), (60_000, 2), (70_000, 2), (60_000, 2)):
            assert (await pin(a, prompt, "a", for_ms=for_ms)).hit_chunks == 4
            assert (await a.node.usage()).tickets == tickets
        async with channel_to(a.node.address) as channel:
            purged = await control_pb2_grpc.ControlStub(channel).Purge(pb.PurgeRequest())
        assert purged.chunks == 0
        assert (await find(a.engine, prompt)).bodies == prompt.bodies
        assert (await pin(a, prompt, "a", for_ms=0)).hit_chunks == 0
        await purge(a.node)
        assert (await a.node.usage()).resident_bytes == 0


async def test_a_pin_ends_by_itself_and_makes_room_for_another() -> None:
    first, second = Prompt.made("a", 4), Prompt.made("b", 4)
    async with member(Plan.of("a", "b"), "a", cluster={"pins": {"pins_max": 1}}) as a:
        for prompt in (first, second):
            await put(a.engine, prompt)
        await pin(a, first, "a", for_ms=200)
        with pytest.raises(grpc.aio.AioRpcError, match=r"cluster\.pins\.pins_max") as refusal:
            await pin(a, second, "a")
        assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await holds(a, 0)
        assert (await pin(a, second, "a")).hit_chunks == 4


async def test_pins_are_bounded_in_bytes_and_time_and_name_the_bound() -> None:
    pins = {"bytes_max": 5 * OBJECT_BYTES, "within": "10s"}
    small, large = Prompt.made("a", 5), Prompt.made("b", 6)
    async with cluster("a", "b", cluster={"pins": pins}) as (a, b):
        await put(b.engine, small)
        await put(b.engine, large)
        with pytest.raises(grpc.aio.AioRpcError, match=r"cluster\.pins\.bytes_max") as refusal:
            await pin(a, large, "b", for_ms=5000)
        assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError, match=r"at most 10000 ms \(cluster\.pins\.within"):
            await pin(a, small, "a", for_ms=10_001)
        assert (await pin(a, small, "b", for_ms=5000)).hit_chunks == 5
        assert (await pin(a, small, "b", for_ms=5000)).hit_chunks == 5
        with pytest.raises(grpc.aio.AioRpcError, match="z is no member"):
            await pin(a, small, "z")


async def test_what_nobody_has_is_not_held() -> None:
    prompt = Prompt.made("nowhere", 3)
    async with cluster("a", "b") as (a, b):
        told = await pin(a, prompt, "b")
        assert (told.known, told.hit_chunks) == (True, 0)
        await holds(b, 0)
