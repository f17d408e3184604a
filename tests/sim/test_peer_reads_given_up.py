"""What is left of reads from peers that are given up, or fail in any way and order: nothing, anywhere."""

from __future__ import annotations

import random

import anyio
import pytest
from support.peer_world import Cluster, play
from support.prefetch_world import WorldConfig, prompt

from penstock.actors.api import l1
from penstock.actors.api.types import SessionId
from penstock.runtime.hazard import ScriptedHazards

SEEDS = pytest.mark.parametrize("seed", range(6))
HAZARDS = (
    "peer_reads.before_send",
    "peer_store.after_read",
    "prefetch.before_load",
    "store.loaded",
)


@SEEDS
@pytest.mark.parametrize("where", HAZARDS)
def test_b7_a_load_that_is_given_up_anywhere_leaves_nothing(seed: int, where: str) -> None:
    """DESIGN 6: cancel at any line leaks nothing, here or at the peer; and it can be loaded again at once."""
    hazards = ScriptedHazards()
    gate = hazards.hold(where)

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        await cluster.peers["a"].has(one, range(6))
        watched = await cluster.asker.lookup(one)
        await gate.wait_reached()
        await cluster.asker.close(watched)
        await anyio.sleep(0.1)
        gate.open()
        await cluster.assert_nothing_is_held()
        again = await cluster.asker.lookup(one)
        assert await cluster.asker.wait_final(again) == 6
        assert await cluster.asker.read(again) == 6

    play(seed, scene, "a", hazards=hazards)


@SEEDS
@pytest.mark.parametrize("after_s", [0.0007, 0.0012, 0.0021])
def test_a14_what_a_peer_still_writes_is_given_to_nobody(seed: int, after_s: float) -> None:
    """A2, A14: a load is given up while a part is on its way. Its extents, which are all of L1, come back once that has
    been written, and whoever writes there next keeps its own bytes.

    Seen to fail with slots that hold nothing: the next writer had the extents at once, and other bytes in the end."""

    async def scene(cluster: Cluster) -> None:
        one, mine = prompt(6), prompt(6, "mine")
        asker, a = cluster.asker, cluster.peers["a"]
        a.wire.part_s = 0.05
        await a.has(one, range(6))
        watched = await asker.lookup(one)
        await anyio.sleep(after_s)
        await asker.close(watched)
        lease = await granted(cluster, mine)
        await asker.write(mine, range(6), lease)
        await anyio.sleep(0.2)
        read = await asker.lookup(mine)
        assert await asker.read(read) == 6
        await asker.close(read)
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a", config=WorldConfig(kept=(False,), pages=6))


async def granted(cluster: Cluster, keys: bytes) -> l1.WriteLease:
    """All of these, as soon as there is room."""
    asker = cluster.asker
    with anyio.fail_after(5):
        while True:
            reserve = l1.Reserve(keys, b"", asker.geometry, (0,), b"", SessionId(1), 10.0)
            lease = await asker.l1.ask(reserve, within=1)
            if set(lease.answers) == {0}:
                return lease
            if lease.lease:
                await asker.l1.ask(l1.Abort(lease.lease, SessionId(1)), within=1)
            await anyio.sleep(0.001)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_three_peers_no_byte_is_wrong_and_nothing_is_left(seed: int) -> None:
    """A1 to A4 and C8 with remote writers: peers stall, die, come back and are damaged while prompts are looked up and
    given up. Then all is well, and every request is answered in full."""
    draw = random.Random(seed)

    async def trouble(cluster: Cluster, prompts: list[bytes]) -> None:
        for _ in range(30):
            await anyio.sleep(draw.uniform(0, 0.05))
            peer = cluster.peers[draw.choice(["a", "b", "c"])]
            match draw.randrange(5):
                case 0:
                    peer.wire.is_open.clear()
                case 1:
                    peer.wire.is_open.set()
                case 2:
                    peer.link.lose("it died")
                    peer.begin(draw.randbytes(16))
                case 3:
                    peer.wire.loses = draw.choice([-1, 2])
                case _:
                    peer.promises(draw.choice(prompts), range(8))

    async def ask(cluster: Cluster, prompts: list[bytes]) -> None:
        for _ in range(8):
            await anyio.sleep(draw.uniform(0, 0.1))
            watched = await cluster.asker.lookup(draw.choice(prompts), load_s=draw.uniform(0.1, 3))
            if draw.random() < 0.3:
                await anyio.sleep(draw.uniform(0, 0.01))
            elif await cluster.asker.wait_final(watched):
                await cluster.asker.read(watched)
            await cluster.asker.close(watched)

    async def scene(cluster: Cluster) -> None:
        prompts = [prompt(8, f"prompt {number}") for number in range(4)]
        for number, one in enumerate(prompts):
            for name in ("abc"[number % 3], "abc"[(number + 1) % 3]):
                await cluster.peers[name].has(one, range(draw.randint(1, 8)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trouble, cluster, prompts)
            tasks.start_soon(ask, cluster, prompts)
            tasks.start_soon(ask, cluster, prompts)
        for peer in cluster.peers.values():
            peer.wire.is_open.set()
            peer.wire.loses = -1
            peer.promised.clear()
            peer.link.lose("it died")
            peer.begin()
            await peer.has(prompt(8, peer.name), range(8))
        await anyio.sleep(40)  # those that failed are tried again
        for name in cluster.peers:
            watched = await cluster.asker.lookup(prompt(8, name))
            assert await cluster.asker.wait_final(watched) == 8
            assert await cluster.asker.read(watched) == 8
            await cluster.asker.close(watched)
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a", "b", "c", hedge_after=0.1, read_within=1.0)
