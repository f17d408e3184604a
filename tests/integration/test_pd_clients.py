"""Prefill and decode workers of both kinds, at two real nodes: what one computes is what the other reads.

Whether an engine has an event loop or threads is its own affair: both speak the same wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import numpy as np
import pytest
from support.cluster import cluster
from support.eventually import eventually
from support.paged_cache import Blocks
from support.small_model import BLOCK_TOKENS, HEAD_SIZE, HEADS, LAYERS, spec

from penstock.actors import node_pd
from penstock.actors.api.pd import Sent, SentState
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import Client, ClientConfig, Loaded
from penstock.actors.node import Node

pytestmark = pytest.mark.anyio
assert node_pd  # loaded by a node when it starts: that is no step of ours

T = TypeVar("T")
PD = {"pd": {"receive": "4MiB", "part": "64KiB"}, "heartbeat": "1s"}
CHUNKS = 6


class Worker:
    """An engine of either kind, as the test drives both: whatever is asked for is awaited."""

    def __init__(self, client: Client | BlockingClient) -> None:
        self._client = client

    @property
    def chunk_tokens(self) -> int:
        return self._client.chunk_tokens

    async def ask(self, name: str, *args: Any, **given: Any) -> Any:
        return await self.settled(partial(getattr(self._client, name), *args, **given))

    async def ready(self, ticket: Any) -> int:
        if isinstance(self._client, Client):
            return int(await ticket.ready)
        return int(await self.settled(ticket.ready))

    async def over(self, transfer: Any) -> Sent:
        if isinstance(self._client, Client):
            return await transfer
        return await self.settled(transfer.over)

    async def settled(self, ask: Callable[[], Awaitable[T] | Future[T]]) -> T:
        if isinstance(self._client, Client):
            return await ask()  # type: ignore[misc]
        return await anyio.to_thread.run_sync(lambda: ask().result(10))  # type: ignore[union-attr]


@asynccontextmanager
async def a_task(node: Node) -> AsyncIterator[Worker]:
    async with node.attach(spec()) as client:
        yield Worker(client)


@asynccontextmanager
async def a_thread(node: Node) -> AsyncIterator[Worker]:
    connect = partial(BlockingClient.connect, ClientConfig(address=node.address), spec())
    client = await anyio.to_thread.run_sync(connect)
    try:
        yield Worker(client)
    finally:
        await anyio.to_thread.run_sync(client.close)


KINDS: Mapping[str, Callable[[Node], Any]] = {"task": a_task, "thread": a_thread}


def blocks_of(tokens: list[int]) -> list[int]:
    return list(range(len(tokens) // BLOCK_TOKENS))


@pytest.mark.parametrize("prefill", KINDS)
@pytest.mark.parametrize("decode", KINDS)
async def test_what_is_prefilled_by_either_kind_is_decoded_by_either(
    prefill: str, decode: str
) -> None:
    """Pushed while it is stored chunk by chunk, into the blocks of another layout, bit by bit the same."""
    writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
    reader = Blocks("NL_X_NB_TWO_NH_BS_HS", seed=1)
    async with (
        cluster("a", "b", cluster=PD) as (one, other),
        KINDS[prefill](one.node) as here,
        KINDS[decode](other.node) as there,
    ):
        tokens = list(range(here.chunk_tokens * CHUNKS + 1))
        ids = blocks_of(tokens)
        ticket = await there.ask("pd_expect", tokens, request_id="r1", readers=1)
        assert not ticket.is_final
        transfer = await here.ask("pd_send", tokens, target="b", request_id="r1", priority=1)
        for chunks in range(2, CHUNKS + 1, 2):
            part = tokens[: chunks * here.chunk_tokens]
            await here.ask("store", part, [writer.layout], [ids])
        assert await there.ready(ticket) == CHUNKS
        loaded = await there.ask("load", ticket, [reader.layout], [ids])
        assert loaded.tokens == CHUNKS * here.chunk_tokens
        assert np.array_equal(reader.of(ids), writer.of(ids))
        sent = await here.over(transfer)
        assert (sent.state, sent.bytes) == (SentState.COMMITTED, loaded.bytes)


@pytest.mark.parametrize("prefill", KINDS)
async def test_layers_are_at_the_other_node_before_their_chunks_are_committed(
    prefill: str,
) -> None:
    """The transfer overlaps the prefill within a chunk; and nothing is read before it is committed."""
    writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
    reader = Blocks("NL_X_NB_TWO_NH_BS_HS", seed=1)
    async with (
        cluster("a", "b", cluster=PD) as (one, other),
        KINDS[prefill](one.node) as here,
        a_task(other.node) as there,
    ):
        tokens = list(range(here.chunk_tokens * CHUNKS + 1))
        ids = blocks_of(tokens)
        ticket = await there.ask("pd_expect", tokens, request_id="r1", readers=1)
        transfer = await here.ask("pd_send", tokens, target="b", request_id="r1")
        lease = await here.ask("reserve", tokens)
        for layer in range(LAYERS):
            layers = range(layer, layer + 1)
            await here.settled(partial(lease.copy_from, [writer.layout], [ids], layers=layers))
            assert await here.settled(partial(transfer.layers, lease, layer)) == CHUNKS * 2
        whole_bytes = CHUNKS * here.chunk_tokens * LAYERS * 2 * HEADS * HEAD_SIZE * 4

        async def is_there() -> bool:
            sent = await here.settled(partial(transfer.wait, within=0))
            return bool(sent.early_bytes == whole_bytes)

        await eventually(is_there, within=5, what="all layers are pushed")
        assert (ticket.hit_chunks, ticket.is_final) == (0, False)
        await here.settled(lease.commit)
        assert await there.ready(ticket) == CHUNKS
        loaded = await there.ask("load", ticket, [reader.layout], [ids])
        assert loaded.tokens == CHUNKS * here.chunk_tokens
        assert np.array_equal(reader.of(ids), writer.of(ids))
        sent = await here.over(transfer)
        assert (sent.state, sent.bytes) == (SentState.COMMITTED, whole_bytes)


async def test_a_prefill_that_gives_up_in_the_middle_of_a_chunk_leaves_nothing() -> None:
    """C7: what was pushed of it is nothing at the other node, and the memory of both is free."""
    writer = Blocks("NL_X_TWO_NB_BS_NH_HS")
    async with cluster("a", "b", cluster=PD) as (one, other), a_task(other.node) as there:
        async with a_task(one.node) as here:
            tokens = list(range(here.chunk_tokens * CHUNKS))
            ids = blocks_of(tokens)
            ticket = await there.ask("pd_expect", tokens, request_id="r1", readers=1)
            transfer = await here.ask("pd_send", tokens, target="b", request_id="r1")
            await here.ask("store", tokens[: here.chunk_tokens], [writer.layout], [ids])
            lease = await here.ask("reserve", tokens, first_chunk=1)
            await lease.copy_from([writer.layout], [ids], first_chunk=1, layers=range(1))
            assert await transfer.layers(lease, 0) == (CHUNKS - 1) * 2
        assert await there.ready(ticket) == 1
        await ticket.cancel()

        async def is_free() -> bool:
            near, far = await one.node.usage(), await other.node.usage()
            return near.reserved_bytes == near.quarantined_bytes == 0 and (
                far.pd_free_bytes == far.pd_bytes
            )

        await eventually(is_free, within=5, what="the memory of both is free")


@pytest.mark.parametrize("decode", KINDS)
async def test_a_prompt_that_nobody_pushes_is_a_miss_in_time(decode: str) -> None:
    """The engine computes it; asked again, another request's ticket is not in its way."""
    late = {"pd": {"receive": "4MiB", "offer_within": "200ms"}, "heartbeat": "1s"}
    blocks = Blocks("NL_X_TWO_NB_BS_NH_HS")
    async with (
        cluster("a", "b", cluster=late) as (_, other),
        KINDS[decode](other.node) as there,
    ):
        tokens = list(range(there.chunk_tokens * 2))
        ticket = await there.ask("pd_expect", tokens, request_id="r1")
        assert await there.ready(ticket) == 0
        assert ticket.shortfall.name == "OUT_OF_TIME"
        assert await there.ask("load", ticket, [blocks.layout], [blocks_of(tokens)]) == Loaded()
        stored = await there.ask("store", tokens, [blocks.layout], [blocks_of(tokens)])
        assert stored.chunks_written == 2


@pytest.mark.parametrize("prefill", KINDS)
async def test_a_cancelled_push_is_over_for_whoever_waits(prefill: str) -> None:
    async with cluster("a", "b", cluster=PD) as (one, _), KINDS[prefill](one.node) as here:
        tokens = list(range(here.chunk_tokens * 2))
        transfer = await here.ask("pd_send", tokens, target="b", request_id="r1")
        cancelled = transfer.cancel()
        if cancelled is not None:
            await cancelled
        sent = await here.over(transfer)
        assert sent.state is SentState.FAILED
        assert sent.reason is not None
        assert sent.reason.name == "CANCELLED"
