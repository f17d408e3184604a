"""Prompts come back from a store through the engine's client: every byte through the real node, arena and copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from support.eventually import eventually
from support.nodes import local_node
from support.small_model import BLOCK_TOKENS, GEOMETRY, HEAD_SIZE, HEADS, LAYERS, spec

from penstock.actors.api import control, eviction, store
from penstock.actors.api.control import HealthState
from penstock.actors.api.errors import InvalidField
from penstock.actors.api.types import Shortfall
from penstock.actors.engine.client import Client
from penstock.actors.engine.layout import paged_layout
from penstock.actors.node import Node

pytestmark = pytest.mark.anyio

BLOCKS = 64
MEMORY = [{"name": "memory", "type": "memory", "capacity": "8MiB"}]


class Cache:
    """A paged cache of random bytes."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        shape = (2, BLOCKS, BLOCK_TOKENS, HEADS, HEAD_SIZE)
        self.tensors = [random.random(shape, dtype=np.float32) for _ in range(LAYERS)]
        self.layout = paged_layout("NL_X_TWO_NB_BS_NH_HS", self.tensors, GEOMETRY)

    def of(self, ids: list[int]) -> np.ndarray:
        return np.stack([tensor[:, ids] for tensor in self.tensors])


class Served:
    """A node with one memory store, and a client of it."""

    def __init__(self, node: Node, client: Client) -> None:
        self.node = node
        self.client = client
        self._refs = node._refs

    async def saved_and_evicted(self, chunks: int) -> tuple[list[int], Cache]:
        """A prompt whose objects are in the store, and no more in L1."""
        tokens, cache = list(range(self.client.chunk_tokens * chunks)), Cache(1)
        ids = list(range(len(tokens) // BLOCK_TOKENS))
        stored = await self.client.store(tokens, [cache.layout], [ids])
        assert stored.chunks_written == chunks
        await eventually(lambda: self._is_saved(chunks), within=10, what="the prompt is saved")
        await self.purge()
        assert (await self.node.usage()).resident_bytes == 0
        return tokens, cache

    async def purge(self) -> None:
        await self._refs.eviction.ask(eviction.Purge(), within=5)

    async def no_ticket_is_left(self) -> bool:
        return (await self.node.usage()).tickets == 0

    async def _is_saved(self, chunks: int) -> bool:
        """Written through, and nobody holds it any more."""
        saved = await self._refs.stores["memory"].ask(store.Measure(), within=5)
        return saved.objects == chunks and (await self.node.usage()).leases == 0


async def health_of(node: Node) -> control.NodeHealth:
    return await node._refs.control.ask(control.GetHealth(), within=5)


async def is_there(client: Client, tokens: list[int], chunks: int) -> bool:
    return (await client.prefetch(tokens)).hit_chunks == chunks


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with local_node(stores=MEMORY) as node, node.attach(spec()) as client:
        yield Served(node, client)


async def test_what_was_evicted_is_loaded_from_the_store_and_read_whole(served: Served) -> None:
    client = served.client
    tokens, cache = await served.saved_and_evicted(5)
    async with await client.lookup(tokens) as ticket:
        assert ticket.promised_chunks == 5
        assert await ticket.ready == 5
        assert ticket.shortfall is Shortfall.NONE
        other = Cache(2)
        ids = list(range(len(tokens) // BLOCK_TOKENS))
        loaded = await client.load(ticket, [other.layout], [ids])
        assert loaded.tokens == len(tokens)
        assert (other.of(ids) == cache.of(ids)).all()
    again = await client.lookup(tokens)
    assert again.is_final
    assert again.hit_chunks == 5


async def test_progress_tells_the_watermark_until_it_is_final(served: Served) -> None:
    client = served.client
    tokens, _ = await served.saved_and_evicted(6)
    ticket = await client.lookup([*tokens, *range(client.chunk_tokens)])
    seen = [hit async for hit in ticket.progress()]
    assert seen == sorted(seen)
    assert seen[-1] == 6
    assert (ticket.hit_chunks, ticket.total_chunks, ticket.is_final) == (6, 7, True)


async def test_prefetch_brings_a_prompt_back_and_a_pin_keeps_it_until_it_is_cancelled(
    served: Served,
) -> None:
    client = served.client
    tokens, _ = await served.saved_and_evicted(4)
    prefetched = await client.prefetch(tokens, pin_s=60)
    assert prefetched.promised_chunks == 4
    assert prefetched.ticket is not None
    assert await prefetched.ticket.ready == 4
    await served.purge()
    assert (await client.prefetch(tokens)).hit_chunks == 4
    await prefetched.ticket.cancel()
    await eventually(served.no_ticket_is_left, within=5, what="no ticket is left")
    await served.purge()
    assert (await served.node.usage()).resident_bytes == 0


async def test_prefetch_without_a_pin_loads_and_lets_go(served: Served) -> None:
    client = served.client
    tokens, _ = await served.saved_and_evicted(4)
    prefetched = await client.prefetch(tokens)
    assert prefetched.ticket is None
    assert prefetched.promised_chunks == 4
    await eventually(lambda: is_there(client, tokens, 4), within=5, what="the prompt is loaded")
    await eventually(served.no_ticket_is_left, within=5, what="no ticket is left")


async def test_a_pin_outlives_the_answer_that_named_it(served: Served) -> None:
    """Who only says `await client.prefetch(tokens, pin_s=...)` keeps nothing; the prompt stays all the same."""
    client = served.client
    tokens, _ = await served.saved_and_evicted(3)
    await client.prefetch(tokens, pin_s=60)
    await eventually(lambda: is_there(client, tokens, 3), within=5, what="the prompt is loaded")
    await served.purge()
    assert (await client.prefetch(tokens)).hit_chunks == 3
    assert (await served.node.usage()).tickets == 1


@pytest.mark.parametrize("bad", [-1, "1", 1e12])
async def test_a_pin_that_cannot_be_is_refused_by_name(served: Served, bad: object) -> None:
    client = served.client
    with pytest.raises(InvalidField, match="pin_s"):
        await client.prefetch([1], pin_s=bad)  # type: ignore[arg-type]


async def test_what_is_at_hand_comes_with_the_answer(served: Served) -> None:
    """Few bytes that a store has in memory: the lookup's own reply is final, and nothing is loaded a second time."""
    client = served.client
    tokens, cache = await served.saved_and_evicted(3)
    async with await client.lookup(tokens) as ticket:
        assert (ticket.is_final, ticket.hit_chunks) == (True, 3)
        other = Cache(2)
        ids = list(range(len(tokens) // BLOCK_TOKENS))
        assert (await client.load(ticket, [other.layout], [ids])).tokens == len(tokens)
        assert (other.of(ids) == cache.of(ids)).all()
    usage = await served.node.usage()
    assert usage.resident_bytes > 0
    assert (usage.reserved_bytes, usage.loaded_bytes, usage.quarantined_bytes) == (0, 0, 0)


async def test_what_no_store_has_is_a_miss_at_once_and_leaves_no_ticket(served: Served) -> None:
    client = served.client
    tokens, _ = await served.saved_and_evicted(2)
    other = [token + 1 for token in tokens]
    ticket = await client.lookup(other, request_id="r")
    assert (ticket.is_final, ticket.hit_chunks, ticket.promised_chunks) == (True, 0, 0)
    assert (await served.node.usage()).tickets == 0
    longer = await client.lookup([*other, *range(50 * client.chunk_tokens)], request_id="r")
    assert (longer.is_final, longer.hit_chunks) == (True, 0)
    assert (await served.node.usage()).tickets == 0


async def test_a_hole_ends_what_is_at_hand(served: Served) -> None:
    client = served.client
    tokens, _ = await served.saved_and_evicted(2)
    ticket = await client.lookup([*tokens, *range(client.chunk_tokens)])
    assert (ticket.is_final, ticket.hit_chunks, ticket.total_chunks) == (True, 2, 3)
    assert ticket.shortfall is Shortfall.NONE


async def test_b1_a_store_that_hangs_is_named_and_lookups_do_not_wait_for_it(
    tmp_path: Path,
) -> None:
    """B1: one store of two never answers. What L1 has and what the other store has come all the same, and health says
    degraded, which store, and why."""
    stuck = {
        "name": "stuck",
        "type": "file",
        "paths": str(tmp_path),
        "ownership": "shared",
        "write": "none",
        "locate_within": "100ms",
        "breaker": {"failures": 1},
        "faults": {"hang": 1.0},
    }
    async with local_node(stores=[stuck, *MEMORY]) as node, node.attach(spec()) as client:
        served = Served(node, client)
        assert (await health_of(node)).state is HealthState.SERVING
        tokens, _ = await served.saved_and_evicted(3)
        began = asyncio.get_running_loop().time()
        ticket = await client.lookup(tokens)
        assert await ticket.ready == 3
        assert asyncio.get_running_loop().time() - began < 0.1, "it waited for the store that hangs"
        longer = await client.lookup([*tokens, *range(client.chunk_tokens)])
        assert longer.hit_chunks == 3
        assert await longer.ready == 3  # when the store's time is over
        assert asyncio.get_running_loop().time() - began < 2.0
        health = await health_of(node)
        parts = {part.name: part for part in health.parts}
        assert health.state is HealthState.DEGRADED
        assert parts["store[stuck]"].state is HealthState.DEGRADED
        assert "reads fail: no answer" in parts["store[stuck]"].detail
        assert parts["store[memory]"].state is HealthState.SERVING
