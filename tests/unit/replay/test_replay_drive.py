"""E3: a count that is not the trace's is an error and never a number."""

from __future__ import annotations

import anyio
import pytest
from support.nodes import local_node

from penstock.actors.cli.replay_drive import Blocks, Counts, ReplayBroken, drive_one
from penstock.actors.cli.traces import TraceRequest

pytestmark = [pytest.mark.anyio, pytest.mark.loop_step_ms(100)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_prompt_that_the_client_had_to_cut_breaks_the_replay() -> None:
    """Seen to fail: the replay went on with counts of the part that was left."""
    blocks = Blocks(4096)
    request = TraceRequest(0.0, "", tuple(range(100)))
    async with (
        local_node(chunk_tokens=1, gateway__objects_max=64) as node,
        node.attach(blocks.spec()) as client,
    ):
        with anyio.fail_after(10), pytest.raises(ReplayBroken, match="64 of 100 blocks"):
            await drive_one(client, request, blocks, Counts())
        short = TraceRequest(0.0, "", tuple(range(64)))
        await drive_one(client, short, blocks, counts := Counts())
        await drive_one(client, short, blocks, counts)
        assert (counts.blocks, counts.hit_blocks) == (128, 64)
