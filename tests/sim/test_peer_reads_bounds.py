"""What a peer may ask of this node's L1 at a time, and what it is told beyond that; who is slow holds nobody else."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from support.fake_store import payload
from support.peer_world import LINK, READS, Cluster, Peer, play
from support.prefetch_world import now, prompt

from penstock.actors.api.errors import InvalidField
from penstock.actors.api.peers import PeerBusy, ReadAsk, ReadTold, ReadTooLarge
from penstock.actors.object_keys import object_keys
from penstock.actors.stores.header import decode
from penstock.actors.stores.peer_reading import OBJECT
from penstock.runtime.channel import LandingSlot
from penstock.runtime.errors import DeadlineExceeded

SEEDS = pytest.mark.parametrize("seed", range(4))
PAGE = 4096
NAMESPACE = b"n" * 32


class Landed:
    """A landing of the asker's, and what has come there."""

    def __init__(self, peer: Peer, count: int) -> None:
        self.pages = [bytearray(PAGE) for _ in range(count)]
        self.numbers: set[int] = set()
        slots = [LandingSlot(memoryview(page), None) for page in self.pages]
        self.landing = peer.link.connection.open_landing(slots, self.numbers.update)


def ask_of(keys: bytes, objects: list[tuple[int, int]], landed: Landed) -> ReadAsk:
    packed = b"".join([OBJECT.pack(*one) for one in objects])
    return ReadAsk(NAMESPACE, keys, packed, landed.landing.grant, PAGE * len(objects))


async def served(peer: Peer, ask: ReadAsk) -> ReadTold:
    return await peer.reads.serve(peer.link.served, ask)


@SEEDS
def test_a_read_sends_what_there_is_and_says_what_there_is_not(seed: int) -> None:
    """No byte beyond an object's own; headers of those that were sent; nothing is held afterwards."""

    async def scene(cluster: Cluster) -> None:
        a, one = cluster.peers["a"], prompt(4)
        await a.has(one, range(3))
        landed = Landed(a, 5)
        wants = [(0, 0), (2, 0), (3, 0), (1, 0), (1, 7)]
        told = await served(a, ask_of(one, wants, landed))
        assert told.outcomes == b"\1\1\0\1\0"
        assert landed.numbers == {0, 1, 3}
        names = [*object_keys(a.world.shape, one, [0])]
        sent = [names[0], names[2], names[1]]
        for number, name in zip((0, 1, 3), sent, strict=True):
            assert bytes(landed.pages[number]) == payload(name, PAGE)
        for header, name in zip(told.headers, sent, strict=True):
            padded = header + bytes(PAGE - len(header))
            assert decode(padded).key == name
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a")


@SEEDS
def test_a_namespace_that_nobody_declared_here_has_nothing(seed: int) -> None:
    async def scene(cluster: Cluster) -> None:
        a, one = cluster.peers["a"], prompt(2)
        await a.has(one, range(2))
        ask = replace(ask_of(one, [(0, 0), (1, 0)], Landed(a, 2)), namespace=b"m" * 32)
        assert await served(a, ask) == ReadTold(b"\0\0", ())

    play(seed, scene, "a")


@pytest.mark.parametrize(
    ("keys", "objects", "changed"),
    [
        (prompt(1), [(1, 0)], {}),
        (prompt(1), [(0, 0), (0, 0)], {}),
        (prompt(1) * 2, [(0, 0), (1, 0)], {}),
        (prompt(3), [(0, 0)], {}),
        (prompt(1)[:-1], [(0, 0)], {}),
        (prompt(1), [(0, 0)], {"objects": b"12345"}),
        (prompt(1), [(0, 0)], {"namespace": b""}),
    ],
)
def test_b2_what_makes_no_sense_is_refused(
    keys: bytes, objects: list[tuple[int, int]], changed: dict[str, bytes]
) -> None:
    async def scene(cluster: Cluster) -> None:
        a = cluster.peers["a"]
        with pytest.raises(InvalidField):
            await served(a, replace(ask_of(keys, objects, Landed(a, 1)), **changed))
        assert a.reads.under_way == 0

    play(0, scene, "a")


@SEEDS
def test_c10_a_peer_has_so_many_reads_at_a_time_and_no_more(seed: int) -> None:
    """C10: one more is refused; others have theirs; and those that hang end in their time."""

    async def scene(cluster: Cluster) -> None:
        a, one = cluster.peers["a"], prompt(4)
        await a.has(one, range(4))
        a.wire.is_open.clear()
        errors: list[Exception] = []

        async def hang(chunk: int) -> None:
            keys = one[chunk * 32 : chunk * 32 + 32]
            try:
                await served(a, ask_of(keys, [(0, 0)], Landed(a, 1)))
            except DeadlineExceeded as late:
                errors.append(late)

        began = now()
        async with anyio.create_task_group() as tasks:
            for number in range(READS.peer_max):
                tasks.start_soon(hang, number % 4)
            await anyio.sleep(0.1)
            with pytest.raises(PeerBusy):
                await served(a, ask_of(one[:32], [(0, 0)], Landed(a, 1)))
            held = await a.world.usage()
            assert held.leases >= READS.peer_max
        assert len(errors) == READS.peer_max
        assert now() - began == pytest.approx(READS.within_s, abs=0.2)
        a.wire.is_open.set()
        await cluster.assert_nothing_is_held()

    play(seed, scene, "a")


def test_c10_what_is_too_large_is_refused() -> None:
    async def scene(cluster: Cluster) -> None:
        a, one = cluster.peers["a"], prompt(65)
        with pytest.raises(ReadTooLarge, match="64"):
            await served(a, ask_of(one, [(at, 0) for at in range(65)], Landed(a, 65)))
        assert LINK.read_objects_max == 64

    play(0, scene, "a")
