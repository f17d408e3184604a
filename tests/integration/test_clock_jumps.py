"""C9: the wall clock jumps by days under a node and its engine; nothing they promised each other changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import anyio
import numpy as np
import pytest
from support.nodes import local_node
from support.small_model import GEOMETRY, spec

from penstock.actors.engine.client import Client
from penstock.actors.engine.layout import paged_layout
from penstock.actors.engine.prompt_memory import whole

pytestmark = [pytest.mark.with_stores_too, pytest.mark.anyio]

DAY_S = 86_400.0
BLOCKS = list(range(12))
Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Sets the wall clock of this process, where node and client both live, off by so many seconds."""
    time_s, time_ns = time.time, time.time_ns

    def jump(offset_s: float) -> None:
        monkeypatch.setattr(time, "time", lambda: time_s() + offset_s)
        monkeypatch.setattr(time, "time_ns", lambda: time_ns() + int(offset_s * 1e9))

    return jump


@pytest.mark.parametrize("days", [1, -1, 10_000])
async def test_a_jump_ends_no_lease_and_no_ticket(jump: Jump, days: int) -> None:
    """Reading and writing go on under leases from before the jump, and one ends when it is due.

    Seen to fail with the L1 manager's clock replaced by time.time: forwards, all had expired; backwards, the short
    lease never did.
    """
    cache = np.random.default_rng(0).random((2, 64, 4, 2, 16), dtype=np.float32)
    layout = paged_layout("NL_X_TWO_NB_BS_NH_HS", [cache, cache.copy()], GEOMETRY)
    async with local_node() as node, node.attach(spec()) as client:
        tokens = list(range(client.chunk_tokens * 2))
        await client.store(tokens, [layout], [BLOCKS])
        ticket = await client.lookup(tokens)
        reading = await ticket.acquire()
        session = client._link.current()
        prompt = session.keyspace.prompt([7] * client.chunk_tokens)
        writing = await session.reserve(whole(prompt), parent=b"", chunks=1, within=None)

        await reserve_for_a_moment(client)

        jump(days * DAY_S)
        await wait_expired(client)  # at its time, and nothing else with it
        await reading.copy_to([layout], [BLOCKS])
        assert (await reading.release()).tokens == len(tokens)
        await writing.copy_from([layout], [BLOCKS])
        await writing.commit()
        assert writing.outcome().chunks_written == 1
        assert (await client.load(ticket, [layout], [BLOCKS])).tokens == len(tokens)
        assert client.statistics().excused == {}


async def reserve_for_a_moment(client: Client) -> None:
    """Reserve a chunk for 0.2 seconds, and say nothing more of it."""
    session = client._link.current()
    prompt = session.keyspace.prompt([9] * client.chunk_tokens)
    config, session.config = session.config, replace(session.config, lease_ms=200)
    lease = await session.reserve(whole(prompt), parent=b"", chunks=1, within=None)
    session.config = config
    lease._claim_end()


async def wait_expired(client: Client) -> None:
    """Until the lease of `reserve_for_a_moment` is over: its memory waits for proof that nobody writes there."""
    with anyio.fail_after(5):
        while not (await client.stat()).quarantined_bytes:
            await anyio.wait_all_tasks_blocked()
