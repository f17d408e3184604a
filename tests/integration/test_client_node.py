"""The engine's client against a real node in this process: every byte through the real table and arena."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest
from support.nodes import local_node, nobody_reads
from support.paged_cache import NODE_BLOCKS, Blocks
from support.small_model import BLOCK_TOKENS, spec

from penstock.actors.engine.client import Client, Loaded, Stored
from penstock.actors.engine.errors import MovesNoBytes, RankBusy, RequestRefused
from penstock.actors.engine.prompt_memory import whole

pytestmark = [pytest.mark.with_stores_too, pytest.mark.anyio]


@asynccontextmanager
async def attached(**overrides: object) -> AsyncIterator[Client]:
    async with local_node(**overrides) as node, node.attach(spec()) as client:
        yield client


def blocks_of(client: Client, tokens: list[int], *, first: int = 0) -> list[int]:
    return list(range(first, first + len(tokens) // BLOCK_TOKENS))


async def test_kv_written_by_one_layout_is_read_by_another() -> None:
    async with local_node() as node, node.attach(spec()) as client:
        tokens = list(range(client.chunk_tokens * 3 + 1))
        ids = blocks_of(client, tokens)
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        reader = Blocks("NL_X_NB_TWO_NH_BS_HS", seed=1)
        stored = await client.store(tokens, [writer.layout], [ids])
        assert stored.chunks_written == 3
        assert await client.store(tokens, [writer.layout], [ids]) == Stored(chunks_resident=3)
        other = list(reversed(ids))
        async with await client.lookup(tokens) as ticket:
            assert (await ticket.ready, ticket.total_chunks) == (3, 3)
            loaded = await client.load(ticket, [reader.layout], [other])
        assert loaded == Loaded(tokens=3 * client.chunk_tokens, bytes=stored.bytes)
        assert np.array_equal(reader.of(other), writer.of(ids))
        await client.wait_stored(tokens, within=5)
        await nobody_reads(node)
        stat = await client.stat()
        assert (stat.tickets, stat.chunks) == (0, 3)


async def test_a_growing_conversation_by_deltas() -> None:
    async with attached() as client:
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        chunk = client.chunk_tokens
        tokens = list(range(chunk * 4))
        await client.store(tokens, [writer.layout], [blocks_of(client, tokens)])
        for chunks in (1, 2, 4):
            ticket = await client.lookup(tokens[: chunks * chunk], request_id="turn")
            assert (ticket.hit_chunks, ticket.total_chunks) == (chunks, chunks)
        assert (await client.stat()).tickets == 1  # the older tickets of the request were closed


async def test_the_same_request_id_with_other_tokens_meets_only_its_own_kv() -> None:
    """A5: same request id, other tokens: a new ticket, and never the first prompt's KV."""
    async with attached() as client:
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        tokens = list(range(client.chunk_tokens * 2))
        ids = blocks_of(client, tokens)
        await client.store(tokens, [writer.layout], [ids], request_id="r")
        first = await client.lookup(tokens, request_id="r")
        assert first.hit_chunks == 2
        other = [token + 1 for token in tokens]
        second = await client.lookup(other, request_id="r")
        assert (second.hit_chunks, second.total_chunks) == (0, 2)
        assert await client.load(second, [writer.layout], [ids]) == Loaded()
        # The first ticket was closed with its request: what it promised is a miss, and not an error.
        assert await client.load(first, [writer.layout], [ids]) == Loaded()
        tail = [*tokens[: client.chunk_tokens], *other[client.chunk_tokens :]]
        assert (await client.lookup(tail, request_id="r")).hit_chunks == 1


async def test_a_reader_watches_a_writer_finish() -> None:
    """The watermark moves when the other writer commits."""
    async with local_node() as node, node.attach(spec()) as client, node.attach(spec()) as other:
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        tokens = list(range(client.chunk_tokens * 2))
        ids = blocks_of(client, tokens)
        prompt = client._link.current().keyspace.prompt(tokens)
        session = client._link.current()
        async with await session.reserve(whole(prompt), parent=b"", chunks=2, within=None) as lease:
            ticket = await other.lookup(tokens)
            assert (ticket.hit_chunks, ticket.promised_chunks) == (0, 2)
            assert not ticket.is_final
            await lease.copy_from([writer.layout], [ids])
            await lease.commit()
            with anyio.fail_after(5):
                assert await ticket.ready == 2


async def test_two_loads_of_one_rank_at_once_are_one_too_many() -> None:
    """The slot of a rank is one lease. Seen to fail: the load that began first was told 0 tokens, as its lease was
    released under it by the other one, which raised."""
    async with local_node() as node, node.attach(spec()) as client:
        writer, reader = Blocks("NL_X_TWO_NB_BS_NH_HS"), Blocks("NL_X_NB_TWO_NH_BS_HS", seed=1)
        tokens = list(range(client.chunk_tokens * 3))
        ids = blocks_of(client, tokens)
        await client.store(tokens, [writer.layout], [ids])
        outcomes: list[Loaded | RankBusy] = []

        async def load(skip_tokens: int) -> None:
            try:
                outcomes.append(
                    await client.load(ticket, [reader.layout], [ids], skip_tokens=skip_tokens)
                )
            except RankBusy as refused:
                outcomes.append(refused)

        async with await client.lookup(tokens) as ticket:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(load, 0)
                tasks.start_soon(load, client.chunk_tokens)
            refused, loaded = sorted(outcomes, key=lambda one: isinstance(one, Loaded))
            assert isinstance(refused, RankBusy)
            assert "rank 0" in str(refused)
            assert isinstance(loaded, Loaded)
            assert loaded.tokens == 3 * client.chunk_tokens
            assert np.array_equal(reader.of(ids), writer.of(ids))
            again = await client.load(ticket, [reader.layout], [ids])  # one after the other
            assert again.tokens == loaded.tokens
            async with await ticket.acquire():
                with pytest.raises(RankBusy):
                    await client.load(ticket, [reader.layout], [ids])
        assert client.statistics().excused == {}
        await client.wait_stored(tokens, within=5)
        await nobody_reads(node)


async def test_ranks_load_at_once() -> None:
    async with attached() as client:
        writer, reader = Blocks("NL_X_TWO_NB_BS_NH_HS"), Blocks("NL_X_NB_TWO_NH_BS_HS", seed=1)
        tokens = list(range(client.chunk_tokens * 2))
        ids = blocks_of(client, tokens)
        await client.store(tokens, [writer.layout], [ids])
        loaded: list[int] = []

        async def load(rank: int) -> None:
            moved = await client.load(ticket, [reader.layout], [ids], rank=rank)
            loaded.append(moved.tokens)

        async with await client.lookup(tokens, readers=2) as ticket:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(load, 0)
                tasks.start_soon(load, 1)
        assert loaded == [2 * client.chunk_tokens] * 2


async def test_readers_out_of_bounds_are_refused_and_the_stream_lives() -> None:
    async with attached() as client:
        for readers in (0, 129):
            with pytest.raises(RequestRefused, match="readers"):
                await client.lookup([1] * 100, readers=readers)
        assert (await client.stat()).sessions == 1


async def test_n_ranks_read_one_ticket() -> None:
    async with attached() as client:
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        tokens = list(range(client.chunk_tokens))
        ids = blocks_of(client, tokens)
        await client.store(tokens, [writer.layout], [ids])
        async with await client.lookup(tokens, readers=2) as ticket:
            for rank in (0, 1):
                loaded = await client.load(ticket, [writer.layout], [ids], rank=rank)
                assert loaded.tokens == client.chunk_tokens
            with pytest.raises(RequestRefused, match="rank"):
                await client.load(ticket, [writer.layout], [ids], rank=2)


async def test_hints() -> None:
    async with attached() as client:
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        tokens = list(range(client.chunk_tokens * 2))
        await client.store(tokens, [writer.layout], [blocks_of(client, tokens)])
        assert await client.touch(tokens) == 2
        found = await client.prefetch([*tokens, *tokens])
        assert (found.total_chunks, found.hit_chunks) == (4, 2)
        assert (await client.health()).parts


async def test_a_full_node_refuses_chunks_and_says_so() -> None:
    async with attached(l1__bytes=64 << 10) as client:
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        tokens = list(range(client.chunk_tokens * 12))
        ids = [block % NODE_BLOCKS for block in blocks_of(client, tokens)]
        stored = await client.store(tokens, [writer.layout], [ids])
        assert stored.chunks_refused > 0
        assert stored.chunks_written + stored.chunks_refused == 12


async def test_a_live_owner_gives_up_its_orphaned_leases_when_it_is_back() -> None:
    """C1: the stream was cut and the process lives: what it held comes back with the next session, at once."""
    async with local_node() as node, node.attach(spec()) as client:
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        tokens = list(range(client.chunk_tokens * 2))
        ids = blocks_of(client, tokens)
        await client.store(tokens[: client.chunk_tokens], [writer.layout], [ids])
        await client.wait_stored(tokens, within=5)
        await nobody_reads(node)
        ticket = await client.lookup(tokens)
        reading = await ticket.acquire()
        session = client._link.current()
        prompt = session.keyspace.prompt([9] * client.chunk_tokens)
        writing = await session.reserve(whole(prompt), parent=b"", chunks=1, within=None)
        assert (await client.stat()).leases == 2
        session._stream._call.cancel()
        while client._link._session is session:
            await client._link._news.wait()
        await client.wait_attached(within=1.0)
        stat = await client.stat()
        assert (stat.leases, stat.overdue_leases, stat.tickets) == (0, 0, 0)
        assert (stat.reserved_bytes, stat.quarantined_bytes) == (0, 0)
        assert (await client.lookup(tokens)).hit_chunks == 1
        del reading, writing


async def test_over_tcp_on_this_machine() -> None:
    """Who comes over TCP looks up, and moves no bytes: nothing tells a tunnel from this machine."""
    listen = [{"address": "127.0.0.1:0"}]
    async with local_node(gateway__listen=listen) as node, node.attach(spec()) as client:
        assert not client.config.is_local
        writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
        tokens = list(range(client.chunk_tokens))
        ids = blocks_of(client, tokens)
        assert (await client.lookup(tokens)).hit_tokens == 0
        with pytest.raises(MovesNoBytes):
            await client.store(tokens, [writer.layout], [ids])
