"""Two real nodes: what one prefills is pushed to the other, bit by bit the same, or its engine computes it itself."""

from __future__ import annotations

import pytest
from support.cluster import Member, cluster
from support.eventually import eventually
from support.media import Prompt, find, put
from support.raw_engine import extents_of

from penstock._native import crc64
from penstock.protos import engine_pb2 as pb

pytestmark = pytest.mark.anyio

PD = {"pd": {"receive": "4MiB", "offer_within": "3s", "part": "256KiB"}}


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
    """A14: whatever comes first: the push, the expectation, or the prompt itself."""
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
