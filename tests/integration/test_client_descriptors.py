"""What a client that attaches again and again keeps open, in an engine whose garbage collector never runs."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from support.nodes import served_node
from support.small_model import spec

from penstock.actors.engine.client import Client, ClientConfig
from penstock.actors.engine.errors import NodeAway

pytestmark = pytest.mark.anyio

SPEC = spec()
TOKENS = list(range(64))


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def lose(client: Client) -> None:
    """End the stream from this side and wait until another has begun."""
    attached = client.statistics().attachments
    client._link.current()._stream.end(NodeAway("lost by the test"))
    with anyio.fail_after(5):
        while client.statistics().attachments == attached or not client.is_attached:
            await client._link._news.wait()


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def descriptors_settle_at(count: int) -> int:
    """The process's open descriptors, once they are `count`, or after half a second."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + 0.5  # gRPC closes a socket on a thread of its own
    while (opened := descriptors_open()) != count and loop.time() < ends:
        await anyio.wait_all_tasks_blocked()
        await asyncio.to_thread(os.sched_yield)
    return opened


async def test_attaching_again_keeps_no_descriptor(tmp_path: Path) -> None:
    """B11: with the collector off (or its objects frozen) as with it on.

    Seen to fail: one connection to the node's socket more for each session that ended.
    """
    with served_node(tmp_path / "state") as node, no_collector():
        config = ClientConfig(address=node.address, attach_within_s=5.0)
        async with Client.connect(config, SPEC) as client:
            await lose(client)
            await client.lookup(TOKENS)
            opened = await descriptors_settle_at(0)
            for _ in range(8):
                await lose(client)
                assert (await client.lookup(TOKENS)).total_chunks > 0
            assert await descriptors_settle_at(opened) == opened
        assert node.stat().sessions == 0


async def test_clients_made_one_after_the_other_keep_no_descriptor(tmp_path: Path) -> None:
    """B11: also when the client itself goes."""
    with served_node(tmp_path / "state") as node, no_collector():
        config = ClientConfig(address=node.address, attach_within_s=5.0)
        counts = []
        for _ in range(6):
            async with Client.connect(config, SPEC) as client:
                await client.lookup(TOKENS)
            counts.append(await descriptors_settle_at(counts[0] if counts else 0))
        assert counts[-1] == counts[0]
