"""Scenarios A: a byte is served only under its own key, whole, and as it was written; else there is a miss."""

from __future__ import annotations

import struct

import pytest
from support.declarations import COMMIT, OBJECT_BYTES, group, hello, keys
from support.eventually import eventually
from support.nodes import local_node
from support.raw_engine import RawEngine, attached, extents_of

from penstock._native import crc64
from penstock.actors.node import Node
from penstock.protos import common_pb2 as wire
from penstock.protos import engine_pb2 as pb

pytestmark = [pytest.mark.anyio, pytest.mark.with_stores_too]


def tokens(count: int, *, first: int = 0) -> bytes:
    return struct.pack(f"<{count}I", *range(first, first + count))


async def hit_chunks(engine: RawEngine, prompt: bytes) -> int:
    return await engine.final_hit(prompt)


async def quarantined(node: Node) -> int:
    return (await node.usage()).quarantined_bytes


async def test_what_a_lost_writer_reserved_never_becomes_kv() -> None:
    """A1: the stream of a writer ends between reserve and commit: the keys stay a miss, the memory is quarantined
    as long as its process lives, and whoever writes the keys then gets other memory.

    Seen to fail with StreamLost answered by Table.process_gone: the extents were given to the next writer.
    """
    instance = b"a" * 16
    async with local_node() as node, attached(node.address, hello()) as other:
        async with attached(node.address, hello(instance=instance)) as writer:
            reserved = (await writer.reserve(keys(2))).reserved
            before = extents_of(reserved.extents)
            assert (await other.lookup(keys(2))).lookup.hit_chunks == 0
            writer.call.cancel()

            async def is_quarantined() -> bool:
                return await quarantined(node) == 2 * OBJECT_BYTES

            await eventually(is_quarantined, within=1, what="the reservation is quarantined")
            await other.put(keys(2))
            found = (await other.lookup(keys(2))).lookup
            again = extents_of((await other.acquire(found.ticket)).acquired.extents)
            taken = {extent.offset for extent in before}
            assert not taken & {extent.offset for extent in again}
            assert await quarantined(node) == 2 * OBJECT_BYTES


async def test_a_stale_release_tells_the_reader_and_disturbs_nobody() -> None:
    """A3: two readers of one object; one lease runs out, its late release is not ok, the other reader's pin holds,
    and while the overdue one has not let go the memory is not given to anybody.

    Seen to fail with Release answering ok whatever Table.release said; and with expired leases freed by `expire`.
    """
    async with (
        local_node(l1__bytes=2 * OBJECT_BYTES) as node,
        attached(node.address, hello()) as slow,
        attached(node.address, hello()) as quick,
    ):
        await slow.put(keys(2))
        ticket = (await slow.lookup(keys(2), ticket_ms=50)).lookup.ticket
        late = (await slow.acquire(ticket, lease_ms=50)).acquired
        other = (await quick.lookup(keys(2))).lookup.ticket
        held = (await quick.acquire(other)).acquired

        async def is_overdue() -> bool:
            return (await node.usage()).overdue_leases == 1

        await eventually(is_overdue, within=2, what="the short lease is overdue")
        assert not (await slow.release(late.lease)).released.ok
        assert not (await slow.release(late.lease)).released.ok  # and again
        no_room = (await slow.reserve(keys(1, prompt="new"))).reserved
        assert set(no_room.answers) == {pb.ANSWER_NO_ROOM}
        assert (await quick.release(held.lease)).released.ok


async def test_an_overdue_reader_keeps_its_memory_until_it_lets_go() -> None:
    """A3: the object may leave the index, its bytes stay under the reader who has them mapped."""
    async with (
        local_node(l1__bytes=2 * OBJECT_BYTES) as node,
        attached(node.address, hello()) as reader,
        attached(node.address, hello()) as writer,
    ):
        await writer.put(keys(2), fill=1)
        ticket = (await reader.lookup(keys(2), ticket_ms=20)).lookup.ticket
        lease = (await reader.acquire(ticket, lease_ms=20)).acquired

        async def is_overdue() -> bool:
            return (await node.usage()).overdue_leases == 1

        await eventually(is_overdue, within=2, what="the lease is overdue")
        refused = (await writer.reserve(keys(2, prompt="new"))).reserved
        assert set(refused.answers) == {pb.ANSWER_NO_ROOM}
        assert reader.arena is not None
        for extent in extents_of(lease.extents):
            assert set(reader.arena.view(extent.offset, extent.bytes)) == {1}
        assert not (await reader.release(lease.lease)).released.ok
        await writer.put(keys(2, prompt="new"), fill=2)


async def test_an_expired_reservation_is_never_handed_to_a_second_writer() -> None:
    """A4: the first writer's copy may still run: the second gets other memory, and the late commit is stale.

    Seen to fail with write leases freed by `expire`: both writers had one extent.
    """
    async with (
        local_node() as node,
        attached(node.address, hello()) as first,
        attached(node.address, hello()) as second,
    ):
        late = (await first.reserve(keys(2), lease_ms=20)).reserved

        async def is_quarantined() -> bool:
            return await quarantined(node) == 2 * OBJECT_BYTES

        await eventually(is_quarantined, within=2, what="the reservation has expired")
        reserved = (await second.reserve(keys(2))).reserved
        assert set(reserved.answers) == {pb.ANSWER_GRANTED}
        ours = {one.offset for one in extents_of(reserved.extents)}
        assert not ours & {one.offset for one in extents_of(late.extents)}
        await second.commit(reserved.lease, [1, 2])
        outcomes = (await first.commit(late.lease, [3, 4])).committed.outcomes
        assert outcomes == b"\x01\x01"
        assert await quarantined(node) == 0  # its writer said that it is done
        ticket = (await second.lookup(keys(2))).lookup.ticket
        extents = extents_of((await second.acquire(ticket)).acquired.extents)
        assert [one.digest for one in extents] == [1, 2]


async def test_an_overdue_writer_whose_stream_ends_keeps_its_memory_quarantined() -> None:
    """A4: no timer and no end of a stream frees memory a living process may still write: its lease had run out
    before its stream was lost, and it holds the memory all the same.

    Seen to fail while only live leases counted as held: the session was forgotten, its memory given to the next.
    """
    async with local_node() as node, attached(node.address, hello()) as other:
        async with attached(node.address, hello()) as writer:
            await writer.reserve(keys(2), lease_ms=20)

            async def is_quarantined() -> bool:
                return await quarantined(node) == 2 * OBJECT_BYTES

            await eventually(is_quarantined, within=2, what="the reservation has expired")
            writer.call.cancel()

            async def has_left() -> bool:
                return (await other.stat()).sessions == 1

            await eventually(has_left, within=2, what="the stream's end is noticed")
            assert await quarantined(node) == 2 * OBJECT_BYTES  # this process lives


async def test_the_same_request_id_with_other_tokens_is_another_prompt() -> None:
    """A5: keys come from tokens only, so the second prompt is a miss, whatever name it comes under.

    Seen to fail with requests told apart by their name alone.
    """
    async with local_node() as node, attached(node.address, hello()) as engine:
        await engine.put_prompt(pb.Prompt(tokens=tokens(32)))

        async def look(body: bytes) -> pb.LookupReply:
            asked = pb.Lookup(prompt=pb.Prompt(tokens=body), readers=1, request_id="r")
            return (await engine.ask(lookup=asked)).lookup

        first = await look(tokens(32))
        assert first.hit_chunks == 2
        second = await look(tokens(32, first=1))
        assert second.hit_chunks == 0
        assert second.ticket != first.ticket
        stale = await engine.acquire(first.ticket)
        assert stale.error.code == wire.ERROR_CODE_STALE


@pytest.mark.parametrize(
    "change",
    ["dtype", "layer names", "kv heads", "generation", "weights", "config", "window", "shards"],
)
async def test_kv_of_another_model_is_never_hit(change: str) -> None:
    """A12, A21: dtype, geometry, stage, weights, generation: another namespace, so other keys for equal tokens.

    Seen to fail with one digest for every namespace (tests/unit/keys shows each part of it alone).
    """
    given = hello()
    match change:
        case "dtype":
            given.groups[0].dtype = "bfloat16"
        case "layer names":  # another pipeline stage of the same geometry
            given = hello(groups=[group(layers=["layers.2", "layers.3"])])
        case "kv heads":
            given.groups[0].kv_heads = 4
        case "generation":
            given.namespace.generation = 1
        case "weights":
            given.namespace.weights = COMMIT[::-1]
        case "config":
            given.namespace.model_config_digest = b"d" * 32
        case "window":
            given = hello(groups=[group(attention=pb.ATTENTION_KIND_WINDOW, window_tokens=1 << 20)])
        case "shards":
            given.shard.tp_size = 2
    async with (
        local_node() as node,
        attached(node.address, hello()) as ours,
        attached(node.address, given) as theirs,
    ):
        prompt = pb.Prompt(tokens=tokens(32))
        await ours.put_prompt(prompt)
        assert await ours.final_hit_of(prompt) == 2
        assert await theirs.final_hit_of(prompt) == 0
        assert ours.welcome.namespace_digest != theirs.welcome.namespace_digest


@pytest.mark.parametrize("isolated_by", ["salt", "adapter"])
async def test_tenants_and_adapters_do_not_meet(isolated_by: str) -> None:
    """A13: what A wrote is a miss for B, for the node's own peek too, and costs B the same.

    Seen to fail with salt and adapter left out of the digest that begins the chain.
    """
    async with local_node() as node, attached(node.address, hello()) as engine:

        def prompt(name: bytes) -> pb.Prompt:
            made = pb.Prompt(tokens=tokens(32))
            setattr(made, isolated_by, name)
            return made

        async def look(name: bytes) -> int:
            return await engine.final_hit_of(prompt(name))

        await engine.put_prompt(prompt(b"A"))
        assert await look(b"A") == 2
        assert await look(b"B") == 0
        assert await look(b"") == 0
        delta_base = (
            await engine.ask(lookup=pb.Lookup(prompt=prompt(b"B"), readers=1))
        ).lookup.prompt_id
        delta = prompt(b"A")
        delta.delta.CopyFrom(pb.Delta(base=delta_base))
        refused = await engine.ask(lookup=pb.Lookup(prompt=delta, readers=1))
        assert refused.error.code == wire.ERROR_CODE_INVALID


async def test_a_scribble_after_commit_is_noticed_by_the_reader_and_never_served_again() -> None:
    """A22: bytes changed in the shared arena after commit do not digest to what was committed: the reader says so,
    the object leaves the index and is counted, its memory is used again only when the readers are done.

    Seen to fail with the `damaged` indices of a Release not handed to the table.
    """
    async with (
        local_node() as node,
        attached(node.address, hello()) as writer,
        attached(node.address, hello()) as reader,
    ):
        reserved = (await writer.reserve(keys(3))).reserved
        assert writer.arena is not None
        assert reader.arena is not None
        body = bytes(range(256)) * (OBJECT_BYTES // 256)
        extents = extents_of(reserved.extents)
        for extent in extents:
            writer.arena.view(extent.offset, extent.bytes)[:] = body
        digest = crc64(body)
        await writer.commit(reserved.lease, [digest] * 3)
        writer.arena.view(extents[1].offset, 1)[:] = b"\xff"  # the stray write

        ticket = (await reader.lookup(keys(3))).lookup.ticket
        lease = (await reader.acquire(ticket)).acquired
        damaged = [
            index
            for index, extent in enumerate(extents_of(lease.extents))
            if crc64(bytes(reader.arena.view(extent.offset, extent.bytes))) != extent.digest
        ]
        assert damaged == [1]
        assert (await reader.release(lease.lease, damaged=damaged)).released.ok
        assert await hit_chunks(reader, keys(3)) == 1
        stat = await reader.stat()
        assert stat.damaged_objects == 1
        await writer.put(keys(3)[32:64])
        assert await hit_chunks(reader, keys(3)) == 3
