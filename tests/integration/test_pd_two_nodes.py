"""Two real nodes: what one prefills is pushed to the other, bit by bit the same, or its engine computes it itself."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from support.cluster import Member, cluster
from support.declarations import OBJECT_BYTES, group, hello, keys
from support.eventually import eventually
from support.media import Prompt, find, put
from support.nodes import nobody_reads
from support.raw_engine import attached, extents_of

from penstock._native import crc64
from penstock.actors import node_pd
from penstock.protos import engine_pb2 as pb
from penstock.protos import pd_pb2
from penstock.runtime.units import MIB

pytestmark = pytest.mark.anyio
assert node_pd  # loaded by a node when it starts: that is no step of ours

PUSHES = {"receive": "4MiB", "offer_within": "3s", "part": "256KiB"}


def pd(**given: object) -> dict[str, object]:
    """Of the cluster's configuration. The heartbeat leaves a busy machine its time."""
    return {"pd": {**PUSHES, **given}, "heartbeat": "1s"}


PD = pd()


async def send(one: Member, prompt: Prompt, *, target: str, request_id: str = "r") -> bytes:
    """Begin a push. The name of it."""
    body = pb.PdSend(prompt=prompt.wire(), request_id=request_id, target=target)
    reply = await one.engine.ask(pd_send=body)
    assert reply.HasField("pd_send"), reply
    return reply.pd_send.transfer


async def sent(one: Member, transfer: bytes, *, within_ms: int = 4000) -> pb.PdSent:
    reply = await one.engine.ask(pd_wait=pb.PdWait(transfer=transfer, within_ms=within_ms))
    assert reply.HasField("pd_wait"), reply
    return reply.pd_wait


async def expect(other: Member, prompt: Prompt, *, request_id: str = "r") -> pb.LookupReply:
    body = pb.PdExpect(prompt=prompt.wire(), request_id=request_id, readers=1)
    reply = await other.engine.ask(pd_expect=body)
    assert reply.HasField("lookup"), reply
    return reply.lookup


async def read(
    other: Member, found: pb.LookupReply
) -> tuple[int, pb.Shortfall.ValueType, tuple[bytes, ...]]:
    """What a ticket has come to in the end, and the bytes of it."""
    hit, shortfall = found.hit_chunks, found.shortfall
    if not found.final:
        last = await other.engine.last_progress(found.ticket)
        hit, shortfall = last.hit_chunks, last.shortfall
    if not hit:
        return 0, shortfall, ()
    lease = (await other.engine.acquire(found.ticket)).acquired
    assert other.engine.arena is not None
    bodies = []
    for one in extents_of(lease.extents):
        bodies.append(bytes(other.engine.arena.view(one.offset, one.bytes)))
        assert crc64(bodies[-1]) == one.digest
    assert (await other.engine.release(lease.lease)).released.ok
    return hit, shortfall, tuple(bodies)


async def drained(other: Member) -> None:
    async def is_drained() -> bool:
        usage = await other.node.usage()
        return usage.pd_free_bytes == usage.pd_bytes

    await eventually(is_drained, within=5, what="the receive pool is empty")


@pytest.mark.parametrize("first", ["send", "expect", "put"])
async def test_what_one_node_prefills_is_read_at_the_other(first: str) -> None:
    """Whatever comes first: the push, the expectation, or the prompt itself."""
    prompt = Prompt.made("p", 12)
    async with cluster("a", "b", cluster=PD) as (one, other):
        if first == "put":
            await put(one.engine, prompt)
        if first == "expect":
            found = await expect(other, prompt)
        transfer = await send(one, prompt, target="b")
        if first != "put":
            await put(one.engine, prompt)
        if first != "expect":
            found = await expect(other, prompt)
        hit, _, bodies = await read(other, found)
        assert (hit, bodies) == (12, prompt.bodies)
        outcome = await sent(one, transfer)
        assert outcome.state == pb.PD_SENT_STATE_COMMITTED
        assert outcome.bytes == sum(map(len, prompt.bodies))
        await other.engine.ask(cancel=pb.Cancel(ticket=found.ticket))
        await drained(other)
        assert (await find(one.engine, prompt)).hit_chunks == 12


async def test_what_the_receiver_has_is_not_sent() -> None:
    """Objects that are held travel no second time."""
    prompt = Prompt.made("p", 10)
    async with cluster("a", "b", cluster=PD) as (one, other):
        await put(one.engine, prompt)
        await put(other.engine, Prompt(prompt.keys[: 4 * 32], prompt.bodies[:4]))
        found = await expect(other, prompt)
        assert (found.hit_chunks, found.promised_chunks) == (4, 10)
        transfer = await send(one, prompt, target="b")
        hit, _, bodies = await read(other, found)
        assert (hit, bodies) == (10, prompt.bodies)
        outcome = await sent(one, transfer)
        assert outcome.state == pb.PD_SENT_STATE_COMMITTED
        assert outcome.held_bytes == sum(map(len, prompt.bodies[:4]))
        assert outcome.bytes == sum(map(len, prompt.bodies[4:]))


async def test_chunks_are_pushed_as_they_are_prefilled() -> None:
    """The transfer overlaps the prefill; the watermark at the other node follows it."""
    prompt = Prompt.made("p", 12)
    async with cluster("a", "b", cluster=pd(part_objects=4)) as (one, other):
        transfer = await send(one, prompt, target="b")
        found = await expect(other, prompt)
        for chunks in (4, 8, 12):
            await put(one.engine, Prompt(prompt.keys[: chunks * 32], prompt.bodies[:chunks]))

            async def came(chunks: int = chunks) -> bool:
                progress = [one.hit_chunks for one in other.engine.progress]
                return bool(progress) and progress[-1] >= chunks

            await eventually(came, within=5, what=f"{chunks} chunks have come")
        assert (await sent(one, transfer)).state == pb.PD_SENT_STATE_COMMITTED
        assert (await read(other, found))[2] == prompt.bodies


async def test_without_an_offer_the_engine_computes_what_is_not_there() -> None:
    """Nobody pushes: final at what is there, within `offer_within`, and the rest is prefilled here."""
    prompt = Prompt.made("p", 6)
    async with cluster("a", "b", cluster=pd(offer_within="200ms")) as (_, other):
        await put(other.engine, Prompt(prompt.keys[: 2 * 32], prompt.bodies[:2]))
        found = await expect(other, prompt)
        hit, shortfall, bodies = await read(other, found)
        assert (hit, shortfall) == (2, pb.SHORTFALL_OUT_OF_TIME)
        assert bodies == prompt.bodies[:2]
        await put(other.engine, prompt)
        assert (await find(other.engine, prompt)).hit_chunks == 6
        await drained(other)


async def test_cancelling_the_ticket_cancels_the_push() -> None:
    """A14, from the decode side: no memory is left with it, and none is given anew that is still written."""
    prompt = Prompt.made("p", 8)
    async with cluster("a", "b", cluster=pd(part_objects=2)) as (one, other):
        await put(one.engine, Prompt(prompt.keys[: 4 * 32], prompt.bodies[:4]))
        transfer = await send(one, prompt, target="b")
        found = await expect(other, prompt)
        await eventually_hit(other, 2)
        assert (await other.engine.ask(cancel=pb.Cancel(ticket=found.ticket))).cancelled.ok
        outcome = await sent(one, transfer)
        assert (outcome.state, outcome.reason) == (
            pb.PD_SENT_STATE_FAILED,
            pd_pb2.PD_REASON_CANCELLED,
        )
        await drained(other)
        await nobody_reads(one.node)


async def eventually_hit(other: Member, chunks: int) -> None:
    async def has() -> bool:
        return any(one.hit_chunks >= chunks for one in other.engine.progress)

    await eventually(has, within=5, what=f"{chunks} chunks are hit")


async def test_cancelling_the_push_ends_what_is_expected() -> None:
    """From the prefill side: what has come may be used, and the rest is computed."""
    prompt = Prompt.made("p", 8)
    parts = pd(part_objects=2)
    async with cluster("a", "b", cluster=parts) as (one, other):
        await put(one.engine, Prompt(prompt.keys[: 4 * 32], prompt.bodies[:4]))
        transfer = await send(one, prompt, target="b")
        found = await expect(other, prompt)
        await eventually_hit(other, 4)
        assert (await one.engine.ask(pd_cancel=pb.PdCancel(transfer=transfer))).pd_cancel.ok
        hit, _, bodies = await read(other, found)
        assert bodies == prompt.bodies[:hit]
        assert hit < 8
        assert not (await one.engine.ask(pd_cancel=pb.PdCancel(transfer=transfer))).pd_cancel.ok
        await other.engine.ask(cancel=pb.Cancel(ticket=found.ticket))
        await drained(other)


async def test_a_prefill_engine_that_leaves_ends_its_push_at_what_it_stored() -> None:
    """Whoever waits for the rest hears so, long before the time for the push is up."""
    prompt = Prompt.made("p", 8)
    parts = pd(part_objects=2)
    async with cluster("a", "b", cluster=parts) as (one, other):
        async with attached(one.node.address, hello()) as engine:
            leaving = Member("a", one.node, engine)
            await put(engine, Prompt(prompt.keys[: 4 * 32], prompt.bodies[:4]))
            await send(leaving, prompt, target="b")
            found = await expect(other, prompt)
            await eventually_hit(other, 4)
        hit, _, bodies = await read(other, found)
        assert (hit, bodies) == (4, prompt.bodies[:4])
        await nobody_reads(one.node)


async def test_all_ranks_of_an_expected_prompt_read_the_same() -> None:
    """B9: one ticket decides for all of them, also when the push ends short of the prompt."""
    prompt = Prompt.made("p", 8)
    instance = b"i" * 16
    async with (
        cluster("a", "b", cluster=pd(part_objects=2)) as (one, other),
        attached(other.node.address, hello(instance=instance)) as scheduler,
        attached(other.node.address, hello(instance=instance)) as worker,
    ):
        await put(one.engine, Prompt(prompt.keys[: 4 * 32], prompt.bodies[:4]))
        transfer = await send(one, prompt, target="b")
        body = pb.PdExpect(prompt=prompt.wire(), request_id="r", readers=2)
        found = (await scheduler.ask(pd_expect=body)).lookup
        ranks = [Member("b", other.node, engine) for engine in (scheduler, worker)]
        await eventually_hit(ranks[0], 4)
        await one.engine.ask(pd_cancel=pb.PdCancel(transfer=transfer))
        last = await scheduler.last_progress(found.ticket)
        assert last.hit_chunks == 4
        leases = [
            (await rank.engine.acquire(found.ticket, rank=number)).acquired
            for number, rank in enumerate(ranks)
        ]
        assert leases[0].extents == leases[1].extents
        assert [lease.chunks for lease in leases] == [4, 4]
        for rank, lease in zip(ranks, leases, strict=True):
            assert (await rank.engine.release(lease.lease)).released.ok
        await scheduler.ask(cancel=pb.Cancel(ticket=found.ticket))
        await drained(other)


async def test_a_prompt_larger_than_the_pool_is_not_taken_in() -> None:
    """B13: told at once to both engines, and nothing waits for room that will never be."""
    prompt = Prompt.made("p", 12)
    small = pd(receive=f"{8 * OBJECT_BYTES}B")
    async with cluster("a", "b", cluster=small) as (one, other):
        await put(one.engine, prompt)
        found = await expect(other, prompt)
        outcome = await sent(one, await send(one, prompt, target="b"))
        assert outcome.state == pb.PD_SENT_STATE_FAILED
        assert outcome.reason == pd_pb2.PD_REASON_TOO_LARGE
        hit, shortfall, _ = await read(other, found)
        assert hit == 0
        assert shortfall != pb.SHORTFALL_NONE
        await drained(other)


async def test_two_full_nodes_that_push_to_each_other_both_come_on() -> None:
    """B13: neither cache gives way, and neither is asked to: the pools are enough."""
    ours, theirs = Prompt.made("a", 8), Prompt.made("b", 8)
    room = {"l1__bytes": 8 * OBJECT_BYTES, "l1__high_water": 1.0, "l1__low_water": 1.0}
    small = pd(receive=f"{8 * OBJECT_BYTES}B")
    async with cluster("a", "b", cluster=small, **room) as (one, other):
        assert await put(one.engine, ours) == 8
        assert await put(other.engine, theirs) == 8
        here, there = await expect(one, theirs), await expect(other, ours)
        pushes = [
            (one, await send(one, ours, target="b")),
            (other, await send(other, theirs, target="a")),
        ]
        assert (await read(one, here))[2] == theirs.bodies
        assert (await read(other, there))[2] == ours.bodies
        for side, transfer in pushes:
            assert (await sent(side, transfer)).state == pb.PD_SENT_STATE_COMMITTED
            assert (await side.node.usage()).evicted_chunks == 0
        for side, found in ((one, here), (other, there)):
            await side.engine.ask(cancel=pb.Cancel(ticket=found.ticket))
            await drained(side)


async def test_a_target_that_is_nobody_fails_in_time() -> None:
    async with cluster("a", "b", cluster=PD) as (one, _):
        prompt = Prompt.made("p", 2)
        await put(one.engine, prompt)
        body = pb.PdSend(prompt=prompt.wire(), request_id="r", target="nobody", within_ms=500)
        transfer = (await one.engine.ask(pd_send=body)).pd_send.transfer
        assert (await sent(one, transfer)).state == pb.PD_SENT_STATE_FAILED


async def test_the_node_tells_of_both_parts_of_its_arena() -> None:
    prompt = Prompt.made("p", 4)
    async with cluster("a", "b", cluster=PD) as (one, other):
        await put(one.engine, prompt)
        assert other.engine.welcome.arena_bytes == 8 * MIB
        found = await expect(other, prompt)
        await send(one, prompt, target="b")
        await read(other, found)
        stat = (await other.engine.ask(stat=pb.StatRequest())).stat
        assert (stat.arena_bytes, stat.pd_bytes) == (4 * MIB, 4 * MIB)
        assert stat.pd_loaded_bytes == 4 * OBJECT_BYTES
        assert stat.free_bytes == stat.arena_bytes
        assert stat.pd_free_bytes + stat.pd_loaded_bytes == stat.pd_bytes
        assert other.value("penstock_l1_pd_bytes", state="loaded") == stat.pd_loaded_bytes
        assert (await find(other.engine, prompt)).hit_chunks == 4  # asked of its peer


@pytest.mark.parametrize("given", [{}, {"pd": {"receive": "0B"}}])
async def test_a_node_that_takes_nothing_in_says_what_to_configure(
    given: dict[str, object],
) -> None:
    prompt = Prompt.made("p", 2)
    async with cluster("a", cluster=given) as (alone,):
        body = pb.PdExpect(prompt=prompt.wire(), request_id="r", readers=1)
        error = (await alone.engine.ask(pd_expect=body)).error
        assert "pd" in error.message
        assert alone.engine.welcome.arena_bytes == 4 * MIB


async def test_the_ranks_of_a_prefill_engine_push_side_by_side() -> None:
    """Each its own shard's objects; a chunk is readable when it has those of all of them."""
    groups = [group(shards=2)]
    packed = keys(6, prompt="p")
    ranks = [Prompt(packed, Prompt.made(f"rank {rank}", 6).bodies) for rank in (0, 1)]
    prefill, decode = b"p" * 16, b"d" * 16
    async with (
        cluster("a", "b", cluster=pd(part_objects=2)) as (one, other),
        AsyncExitStack() as all_,
    ):

        async def enter(side: Member, instance: bytes, shard: int) -> Member:
            greeting = hello(instance=instance, groups=groups, own_shards=[shard])
            engine = await all_.enter_async_context(attached(side.node.address, greeting))
            return Member(side.name, side.node, engine)

        writers = [await enter(one, prefill, shard) for shard in (0, 1)]
        readers = [await enter(other, decode, shard) for shard in (0, 1)]
        body = pb.PdExpect(prompt=ranks[0].wire(), request_id="r", readers=2)
        found = (await readers[0].engine.ask(pd_expect=body)).lookup
        transfers = []
        for writer, prompt in zip(writers, ranks, strict=True):
            await put(writer.engine, prompt)
            transfers.append(await send(writer, prompt, target="b"))
        last = await readers[0].engine.last_progress(found.ticket)
        assert (last.hit_chunks, last.shortfall) == (6, pb.SHORTFALL_NONE)
        for number, (reader, prompt) in enumerate(zip(readers, ranks, strict=True)):
            lease = (await reader.engine.acquire(found.ticket, rank=number)).acquired
            assert reader.engine.arena is not None
            read = [
                bytes(reader.engine.arena.view(one.offset, one.bytes))
                for one in extents_of(lease.extents)
            ]
            assert tuple(read) == prompt.bodies
            assert (await reader.engine.release(lease.lease)).released.ok
        for writer, transfer in zip(writers, transfers, strict=True):
            assert (await sent(writer, transfer)).state == pb.PD_SENT_STATE_COMMITTED
        await readers[0].engine.ask(cancel=pb.Cancel(ticket=found.ticket))
        await drained(other)
