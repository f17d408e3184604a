"""The node is killed and comes back; the engine never notices more than misses. Scenarios C1, C11 and B10."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest
from support.nodes import ServedNode, served_node
from support.small_model import spec

from penstock.actors.engine.client import Client, ClientConfig, Loaded, Start, Stored
from penstock.actors.engine.layout import KvGeometry, paged_layout

pytestmark = [pytest.mark.with_stores_too, pytest.mark.anyio]

TOKENS = list(range(64))  # four chunks
BLOCKS = list(range(4))
SPEC = spec(block_tokens=16)


class Nodes:
    """One node after another, in the same place."""

    def __init__(self, state_dir: Path, stack: ExitStack) -> None:
        self._state_dir = state_dir
        self._stack = stack
        self.address = f"unix://{state_dir}/penstock.sock"

    async def start(self) -> ServedNode:
        start = partial(self._stack.enter_context, served_node(self._state_dir))
        return await anyio.to_thread.run_sync(start)


def arenas_mapped() -> set[str]:
    """The arenas in this process's address space, each with its address and inode."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if "memfd:penstock" in line}


async def test_a_node_killed_and_started_again_is_nothing_but_misses(tmp_path: Path) -> None:
    """C1, C11, B10: no request fails, old leases are not used, the old arena is unmapped, and the client is
    attached again within a second of the node's return. Seen to fail without the link's retries."""
    blocks = [np.random.default_rng(0).random((2, 4, 16, 2, 16), dtype=np.float32) for _ in "ab"]
    layout = paged_layout(
        "NL_X_TWO_NB_BS_NH_HS", blocks, KvGeometry(block_tokens=16, kv_heads=2, head_size=16)
    )
    before = arenas_mapped()
    with ExitStack() as stack:
        nodes = Nodes(tmp_path / "node", stack)
        first = await nodes.start()
        config = ClientConfig(address=nodes.address)
        async with Client.connect(config, SPEC) as client:
            assert (await client.store(TOKENS, [layout], [BLOCKS])).chunks_written == 4
            ticket = await client.lookup(TOKENS)
            lease = await ticket.acquire()
            await lease.copy_to([layout], [BLOCKS])
            epoch = (await client.stat()).epoch
            old = arenas_mapped() - before
            assert old
            first.kill()
            while client.is_attached:
                await client._link._news.wait()
            # Nobody is there: misses, at once.
            with anyio.fail_after(1):
                assert await client.load(ticket, [layout], [BLOCKS]) == Loaded()
                assert (await client.lookup(TOKENS)).hit_chunks == 0
                assert await client.store(TOKENS, [layout], [BLOCKS]) == Stored()
            assert not old & arenas_mapped()
            await nodes.start()
            await client.wait_attached(within=1.0)
            # The new node, and nothing of the old one.
            assert (await client.stat()).epoch != epoch
            assert not old & arenas_mapped()
            assert client._link.current().arena.is_mapped
            assert await client.load(ticket, [layout], [BLOCKS]) == Loaded()
            assert (await client.lookup(TOKENS)).hit_chunks == 0
            assert (await client.store(TOKENS, [layout], [BLOCKS])).chunks_written == 4
            async with await client.lookup(TOKENS) as again:
                assert (await client.load(again, [layout], [BLOCKS])).tokens == 64
            said = client.statistics()
            assert said.attachments == 2
            assert set(said.excused) == {
                "load: StaleEpoch",
                "lookup: NodeAway",
                "store: NodeAway",
            }
            del lease


async def test_an_engine_may_start_before_its_node(tmp_path: Path) -> None:
    """C1: the other order."""
    with ExitStack() as stack:
        nodes = Nodes(tmp_path / "node", stack)
        config = ClientConfig(address=nodes.address, start=Start.DETACHED)
        async with Client.connect(config, replace(SPEC, own_shards=())) as client:
            assert (await client.lookup(TOKENS)).hit_chunks == 0
            await nodes.start()
            await client.wait_attached(within=1.0)
            assert (await client.lookup(TOKENS)).total_chunks == 4


async def test_a_node_told_to_stop_lets_its_engines_go(tmp_path: Path) -> None:
    """SIGTERM: the engine leaves with misses, and finds the node that comes after."""
    with ExitStack() as stack:
        nodes = Nodes(tmp_path / "node", stack)
        node = await nodes.start()
        async with Client.connect(ClientConfig(address=nodes.address), SPEC) as client:
            node.process.terminate()
            ticket = await client.lookup(TOKENS)
            assert ticket.hit_chunks == 0
            node.kill()  # it drains: it would wait for us
            await nodes.start()
            await client.wait_attached(within=1.0)
            assert (await client.lookup(TOKENS)).total_chunks == 4
