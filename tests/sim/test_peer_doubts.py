"""What came damaged from a peer: it is told, looks at its own copy, and drops that; but on nobody's mere word."""

from __future__ import annotations

import anyio
import pytest
from support.peer_world import Cluster, Peer, play
from support.prefetch_world import prompt

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.peers import ReadAsk, ReadTold
from penstock.actors.stores.peer_doubts import DOUBT, DOUBTS_MAX, KEPT_MAX, Came, Doubts
from penstock.runtime.channel import Piece

SEEDS = pytest.mark.parametrize("seed", range(4))


def doubted(peer: Peer, outcome: str) -> float:
    """Objects that it has looked at."""
    labels = {"peer": "asker", "outcome": outcome}
    return peer.world.telemetry.value("penstock_peer_doubted_objects_total", **labels) or 0.0


def asked(peer: Peer, doubts: bytes) -> ReadAsk:
    """A read of nothing, with these doubts."""
    return ReadAsk(peer.world.shape.namespace, b"", b"", b"grant", 0, doubts)


@SEEDS
def test_a8_who_gave_damaged_bytes_is_told_with_the_next_read_and_drops_them(seed: int) -> None:
    """A8: refused at every lookup, it would be read for nothing each time, by every node. Its other objects stay."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        asker, a = cluster.asker, cluster.peers["a"]
        await a.has(one, range(6))
        a.world.memory.view(2 * 4096, 4096)[77] ^= 4
        first = await asker.lookup(one)
        assert await asker.wait_final(first) < 6
        await asker.close(first)
        assert (await a.world.usage()).damaged_objects == 0
        again = await asker.lookup(one)
        await asker.wait_final(again)
        await asker.close(again)
        usage = await a.world.usage()
        assert (usage.damaged_objects, usage.resident_bytes) == (1, 5 * 4096)
        assert (doubted(a, "damaged"), doubted(a, "whole")) == (1, 0)
        third = await asker.lookup(one)
        await asker.wait_final(third)
        await asker.close(third)
        assert cluster.value("penstock_store_damaged_total", store="peers") == 1, "once, not thrice"
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a")


@SEEDS
def test_what_was_damaged_on_the_way_stays(seed: int) -> None:
    """The owner's copy is whole: it is looked at, and read again."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(4)
        asker, a = cluster.asker, cluster.peers["a"]
        await a.has(one, range(4))
        send = a.theirs.send

        async def harmed(grant: bytes, pieces: list[Piece]) -> None:
            a.theirs.send = send  # type: ignore[method-assign]
            bad = bytearray(pieces[0].payload)
            bad[5] ^= 1
            pieces[0].payload = memoryview(bad)
            await send(grant, pieces)

        a.theirs.send = harmed  # type: ignore[method-assign, assignment]
        first = await asker.lookup(one)
        assert await asker.wait_final(first) < 4
        again = await asker.lookup(one)
        assert await asker.wait_final(again) == 4
        assert await asker.read(again) == 4
        await asker.close(first)
        await asker.close(again)
        assert (doubted(a, "damaged"), doubted(a, "whole")) == (0, 1)
        assert (await a.world.usage()).resident_bytes == 4 * 4096
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a")


def test_b2_a_peer_that_doubts_all_evicts_nothing() -> None:
    """B2: neither what is whole, nor what is not there, nor a slot that there is not. What is no list of doubts, or too
    many of them, is refused."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(6)
        a = cluster.peers["a"]
        await a.has(one, range(4))
        names = [(one[at * 32 : at * 32 + 32], slot) for at in range(6) for slot in (0, 7)]
        told = await a.reads.serve(
            a.link.served, asked(a, b"".join([DOUBT.pack(*name) for name in names]))
        )
        assert told == ReadTold(b"", ())
        assert (doubted(a, "damaged"), doubted(a, "whole")) == (0, 4)
        for wrong in (b"x" * 33, bytes(DOUBT.size * (DOUBTS_MAX + 1))):
            with pytest.raises(InvalidField, match="doubted"):
                await a.reads.serve(a.link.served, asked(a, wrong))
        usage = await a.world.usage()
        assert (usage.damaged_objects, usage.resident_bytes) == (0, 4 * 4096)
        await cluster.assert_nothing_is_held()

    play(0, scene, "a")


def test_b2_a_peer_that_was_wrong_gets_a_share_of_the_time() -> None:
    """B2: what took a second to find whole buys nine seconds without another look; and one is looked at at a time."""

    async def scene(cluster: Cluster) -> None:
        one = prompt(1)
        a = cluster.peers["a"]
        await a.has(one, range(1))
        ask = asked(a, DOUBT.pack(one[:32], 0))
        digester = a.digester
        of = digester.of

        async def slow(payloads: list[memoryview]) -> list[int]:
            await anyio.sleep(0.5)
            return await of(payloads)

        digester.of = slow  # type: ignore[method-assign, assignment]
        async with anyio.create_task_group() as both:
            both.start_soon(a.reads.serve, a.link.served, ask)
            both.start_soon(a.reads.serve, a.link.served, ask)
        assert doubted(a, "whole") == 1
        await anyio.sleep(4)
        await a.reads.serve(a.link.served, ask)
        assert doubted(a, "whole") == 1
        await anyio.sleep(0.6)
        await a.reads.serve(a.link.served, ask)
        assert doubted(a, "whole") == 2
        await cluster.assert_nothing_is_held()

    play(0, scene, "a")


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_a_look_that_is_given_up_holds_nothing(after_s: float) -> None:
    async def scene(cluster: Cluster) -> None:
        one = prompt(1)
        a = cluster.peers["a"]
        await a.has(one, range(1))

        async def slow(_: list[memoryview]) -> list[int]:
            await anyio.sleep(0.2)
            return [0]

        a.digester.of = slow  # type: ignore[method-assign, assignment]
        with anyio.move_on_after(after_s):
            await a.reads.serve(a.link.served, asked(a, DOUBT.pack(one[:32], 0)))
        await cluster.assert_nothing_is_held()
        assert (await a.world.usage()).damaged_objects == (after_s > 0.2)

    play(0, scene, "a")


def test_doubts_are_told_once_and_are_bounded() -> None:
    """C9: whoever gave it last is told; what there is no room for is forgotten, the oldest first."""
    doubts = Doubts()
    space = b"n" * 32
    names = [b"%032d" % at for at in range(KEPT_MAX + 10)]
    own = [(name, 3) for name in names]
    doubts.came(Came("b", space, names, own))
    doubts.came(Came("a", space, names, own))
    doubts.damaged([*names, b"of a store long ago"])
    assert doubts.take("b", space) == doubts.take("a", b"m" * 32) == b""
    told = []
    while batch := doubts.take("a", space):
        assert len(batch) <= DOUBTS_MAX * DOUBT.size
        told += [*DOUBT.iter_unpack(batch)]
    assert len(told) == KEPT_MAX
    assert set(told) <= set(own)
