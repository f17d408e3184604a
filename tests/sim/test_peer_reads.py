"""What goes wrong while a node reads from the L1 of others: they die, are slow, have not what they promise; whoever
asked gives up."""

from __future__ import annotations

import random

import anyio
import pytest
from support.peer_world import Cluster, play
from support.prefetch_world import WorldConfig, now, prompt

from penstock.runtime.hazard import ScriptedHazards

SEEDS = pytest.mark.parametrize("seed", range(6))


@SEEDS
def test_what_a_peer_has_is_loaded(seed: int) -> None:
    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        await cluster.peers["a"].has(one, range(6))
        watched = await cluster.asker.lookup(one)
        assert await cluster.asker.wait_final(watched) == 6
        assert await cluster.asker.read(watched) == 6
        await cluster.asker.close(watched)
        await cluster.assert_nothing_is_held()
        usage = await cluster.asker.usage()
        assert usage.resident_bytes == 0, "what is read from a peer is not kept"
        assert cluster.value("penstock_peer_read_objects_total", peer="a", outcome="came") == 6

    play(seed, scene, "a")


def test_what_no_peer_promises_is_told_in_the_step_of_the_lookup() -> None:
    """A node among others answers a miss as soon as one that stands alone, and asks nobody."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        await cluster.peers["a"].world.store(one, range(6))
        watched = await cluster.asker.lookup(one)
        assert watched.is_final
        assert watched.hit == 0
        cluster.peers["a"].promises(one, range(6))
        again = await cluster.asker.lookup(one)
        assert not again.is_final
        assert await cluster.asker.wait_final(again) == 6
        assert await cluster.asker.read(again) == 6

    play(0, scene, "a", config=WorldConfig(kept=(False,), is_at_hand=True))


@SEEDS
def test_peers_give_what_each_has_at_the_same_time(seed: int) -> None:
    """The longest run first; what lies behind it from who has that, concurrently."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a, b = cluster.peers["a"], cluster.peers["b"]
        await a.has(one, range(4))
        await b.world.store(one, range(6))
        b.promises(one, range(4, 6))
        a.wire.is_open.clear()
        watched = await cluster.asker.lookup(one)
        await anyio.sleep(0.3)
        assert b.link.asked, "it waits for the other one"
        assert watched.hit == 0
        a.wire.is_open.set()
        assert await cluster.asker.wait_final(watched) == 6
        assert await cluster.asker.read(watched) == 6

    play(seed, scene, "a", "b", config=WorldConfig(kept=(False,), slice_chunks=8))


@SEEDS
@pytest.mark.parametrize("after_s", [0.0, 0.0003, 0.0006, 0.001, 0.002, 0.004])
def test_c8_a_peer_dies_in_the_middle_of_a_read(seed: int, after_s: float) -> None:
    """C8: that prefix is cut, both sides are free, and the next request works. Seen to fail with the arrivals waited
    for without the link: it took the whole time of a read."""

    async def scene(cluster: Cluster) -> None:
        one, other = prompt(6), prompt(4, "other")
        a, b = cluster.peers["a"], cluster.peers["b"]
        await a.has(one, range(6))
        await b.has(other, range(4))
        began = now()
        watched = await cluster.asker.lookup(one)
        await anyio.sleep(after_s)
        a.dies()
        assert await cluster.asker.wait_final(watched) in range(7)
        assert now() - began < 0.5
        if watched.hit:
            assert await cluster.asker.read(watched) == watched.hit
        await cluster.asker.close(watched)
        again = await cluster.asker.lookup(other)
        assert await cluster.asker.wait_final(again) == 4
        assert await cluster.asker.read(again) == 4
        await cluster.asker.close(again)
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a", "b")


@SEEDS
def test_c8_what_a_dead_peer_had_another_one_gives(seed: int) -> None:
    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a, b = cluster.peers["a"], cluster.peers["b"]
        await a.has(one, range(6))
        await b.world.store(one, range(6))
        b.promises(one, range(5))
        watched = await cluster.asker.lookup(one)
        await anyio.sleep(0.001)
        a.link.lose("it died")
        assert await cluster.asker.wait_final(watched) == 5
        assert await cluster.asker.read(watched) == 5

    play(seed, scene, "a", "b")


@SEEDS
def test_c8_a_lost_data_connection_costs_what_was_on_it(seed: int) -> None:
    """The control stream lives still: what was sent does not arrive, and is not waited for."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a = cluster.peers["a"]
        await a.has(one, range(6))
        began = now()
        watched = await cluster.asker.lookup(one)
        await anyio.sleep(0.001)
        a.theirs.lose("the cable was pulled")
        assert await cluster.asker.wait_final(watched) < 6
        assert now() - began < 0.5
        a.begin()
        again = await cluster.asker.lookup(one)
        assert await cluster.asker.wait_final(again) == 6
        assert await cluster.asker.read(again) == 6

    play(seed, scene, "a")


@SEEDS
def test_b1_a_peer_that_sends_nothing_loses_its_part_to_another(seed: int) -> None:
    """B1: after hedge_after, and the extents are written by one of them at a time."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a, b = cluster.peers["a"], cluster.peers["b"]
        await a.has(one, range(6))
        await b.has(one, range(6))
        a.wire.is_open.clear()
        began = now()
        watched = await cluster.asker.lookup(one)
        assert await cluster.asker.wait_final(watched) == 6
        assert 0.2 <= now() - began < 0.5
        assert await cluster.asker.read(watched) == 6
        outcome = {"peer": "a", "outcome": "slow"}
        assert cluster.value("penstock_peer_read_objects_total", **outcome) >= 5
        a.wire.is_open.set()
        await cluster.asker.close(watched)
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a", "b", hedge_after=0.2)


@SEEDS
def test_b1_a_slow_peer_costs_only_its_own_part(seed: int) -> None:
    """B1: what comes from another one is there at once, and L1's own, too."""

    async def scene(cluster: Cluster) -> None:
        slow, quick = prompt(6), prompt(6, "quick")
        a, b = cluster.peers["a"], cluster.peers["b"]
        await a.has(slow, range(6))
        await b.has(quick, range(6))
        a.wire.is_open.clear()
        stuck = await cluster.asker.lookup(slow)
        await anyio.sleep(0.01)
        began = now()
        watched = await cluster.asker.lookup(quick)
        assert await cluster.asker.wait_final(watched) == 6
        assert now() - began < 0.3
        assert await cluster.asker.read(watched) == 6
        assert not stuck.is_final
        assert await cluster.asker.wait_final(stuck) == 0
        await cluster.asker.close(watched)
        await cluster.asker.close(stuck)
        a.wire.is_open.set()
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a", "b")


@SEEDS
def test_b8_the_deadline_of_who_asks_is_the_peers_too(seed: int) -> None:
    """B8: it is over in the engine's time, and the peer holds nothing for it any longer."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a = cluster.peers["a"]
        await a.has(one, range(6))
        a.wire.is_open.clear()
        began = now()
        watched = await cluster.asker.lookup(one, load_s=0.3)
        await anyio.sleep(0.1)
        assert a.reads.under_way > 0
        assert await cluster.asker.wait_final(watched) == 0
        assert now() - began < 0.4
        await anyio.sleep(0.01)
        assert a.reads.under_way == 0
        await cluster.asker.close(watched)
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a")


@SEEDS
def test_a15_a_restarted_peer_gives_nothing_of_its_former_life(seed: int) -> None:
    """A15: it promised before, and has an empty L1 now: that is a miss. What asks by the former link is refused."""

    async def scene(cluster: Cluster) -> None:
        one, other = prompt(6), prompt(4, "other")
        a = cluster.peers["a"]
        a.promises(one, range(6))
        former = a.link
        former.lose("it was restarted")
        a.begin(b"2" * 16)
        await a.has(other, range(4))
        watched = await cluster.asker.lookup(one)
        assert await cluster.asker.wait_final(watched) == 0
        assert cluster.value("penstock_peer_read_objects_total", peer="a", outcome="absent") >= 1
        again = await cluster.asker.lookup(other)
        assert await cluster.asker.wait_final(again) == 4
        assert await cluster.asker.read(again) == 4
        assert former.asked == []

    play(seed, scene, "a")


@SEEDS
def test_a_promise_that_is_wrong_is_asked_of_the_next(seed: int) -> None:
    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a, b = cluster.peers["a"], cluster.peers["b"]
        await a.world.store(one, range(2))
        a.promises(one, range(6))
        await b.world.store(one, range(6))
        b.promises(one, range(5))
        watched = await cluster.asker.lookup(one)
        assert await cluster.asker.wait_final(watched) == 5
        assert await cluster.asker.read(watched) == 5

    play(seed, scene, "a", "b")


@SEEDS
def test_what_was_sent_and_does_not_come_is_not_waited_for_without_end(seed: int) -> None:
    """B11: the reply is there, and a piece is not: after read_within that peer has failed."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a = cluster.peers["a"]
        await a.has(one, range(6))
        a.wire.loses = 3
        began = now()
        watched = await cluster.asker.lookup(one)
        hit = await cluster.asker.wait_final(watched)
        assert 0 < hit < 6
        assert now() - began < 1.2
        assert await cluster.asker.read(watched) == hit
        await cluster.asker.close(watched)
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a", read_within=1.0, hedge_after=0.3)


@SEEDS
@pytest.mark.parametrize("harm", ["flip", "swap"])
def test_a8_what_a_peer_gives_is_verified(seed: int, harm: str) -> None:
    """A7, A8: a bit of its memory has changed, or an object lies in another's place: a miss from there on."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a = cluster.peers["a"]
        await a.has(one, range(6))
        pages = [bytes(a.world.memory.view(at * 4096, 4096)) for at in range(6)]
        if harm == "flip":
            a.world.memory.view(2 * 4096, 4096)[77] ^= 4
        else:
            a.world.memory.view(2 * 4096, 4096)[:] = pages[4]
        watched = await cluster.asker.lookup(one)
        hit = await cluster.asker.wait_final(watched)
        assert hit < 6
        if hit:
            assert await cluster.asker.read(watched) == hit
        assert cluster.value("penstock_store_damaged_total", store="peers") == 1

    play(seed, scene, "a")


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
    """A2, A14: a load is given up while a part is on its way. Its extents come back once that has been written, and
    whoever writes there next keeps its own bytes.

    Seen to fail with the landing's holds let go of in `close` before the last part was written."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a = cluster.peers["a"]
        a.wire.part_s = 0.05
        await a.has(one, range(6))
        watched = await cluster.asker.lookup(one)
        await anyio.sleep(after_s)
        await cluster.asker.close(watched)
        mine = prompt(60, "mine")
        await cluster.asker.store(mine, range(50))
        await anyio.sleep(0.2)
        read = await cluster.asker.lookup(mine[: 50 * 32])
        assert await cluster.asker.read(read) == 50
        await cluster.asker.close(read)
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a")


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
