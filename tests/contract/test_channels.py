"""One suite over all data channels: every sentence of runtime/channel.py. A kind joins by a file in
`contract/channels/`, which has `RIGS: dict[str, Callable[[], Rig]]`, by name (see support/channel_rig.py). One that
needs what is not here calls `pytest.skip` in `Rig.endpoint` and says what is missing.

Here: what comes in whole. What is refused, and who holds memory: test_channel_landings.py. Who may come in, and how it
ends: test_channel_ends.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio
import pytest
from support.channel_rig import (
    LARGE,
    Heard,
    Memory,
    Pair,
    Rig,
    every_kind,
    pattern,
    piece,
    play,
    refused,
    send_and_see,
    with_large_memory,
)

from penstock.runtime.channel import ChannelStatistics, LandingRefused
from penstock.runtime.units import KIB, MIB

# Pieces arrive: whole, where they were sent to, and nowhere else.


@with_large_memory
@every_kind
@pytest.mark.parametrize("length", [0, 1, 71, 4 * KIB, MIB + 3, LARGE + 1])
def test_a_piece_comes_whole_and_touches_nothing_else(make: Callable[[], Rig], length: int) -> None:
    payload = pattern(length)

    async def scene(pair: Pair) -> None:
        memory = Memory(length + 200)
        landing, heard = pair.far.open(memory)
        await pair.near.connection.send(landing.grant, [piece(payload, number=5, offset=100)])
        await heard.wait(1)
        assert heard.numbers == [5]
        assert memory.view[100 : 100 + length] == payload
        assert memory.view[:100] == memory.view[100 + length :] == bytes([0xEE]) * 100
        assert memory.is_guarded
        await landing.close()

    play(make, scene)


@every_kind
def test_a_piece_may_end_where_its_slot_ends_and_be_empty_there(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        memory = Memory(64)
        landing, heard = pair.far.open(Memory(0), memory)
        pieces = [
            piece(b"", number=1, slot=0),
            piece(b"", number=2, slot=1, offset=64),
            piece(b"x" * 32, number=2**63 - 1, slot=1, offset=32),
        ]
        await pair.near.connection.send(landing.grant, pieces)
        await heard.wait(3)
        assert sorted(heard.numbers) == [1, 2, 2**63 - 1]
        assert memory.view[32:] == b"x" * 32
        assert memory.is_guarded

    play(make, scene)


@every_kind
def test_nothing_to_send_is_sent_at_once(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        landing, heard = pair.far.open(Memory(1))
        await pair.near.connection.send(landing.grant, [])
        await send_and_see(pair, b"after it")
        assert heard.numbers == []
        await landing.close()

    play(make, scene)


@every_kind
def test_pieces_for_many_landings_come_each_to_its_own(make: Callable[[], Rig]) -> None:
    draw = random.Random(20)
    landings, slots, parts, part_bytes = 20, 4, 8, 999
    payloads = [[draw.randbytes(parts * part_bytes) for _ in range(slots)] for _ in range(landings)]

    async def scene(pair: Pair) -> None:
        memories = [[Memory(parts * part_bytes) for _ in range(slots)] for _ in range(landings)]
        opened = [pair.far.open(*some) for some in memories]
        async with anyio.create_task_group() as senders:
            for (landing, _), some in zip(opened, payloads, strict=True):
                pieces = [
                    piece(
                        memoryview(some[slot])[part * part_bytes : (part + 1) * part_bytes],
                        number=slot * parts + part,
                        slot=slot,
                        offset=part * part_bytes,
                    )
                    for slot in range(slots)
                    for part in range(parts)
                ]
                draw.shuffle(pieces)
                senders.start_soon(pair.near.connection.send, landing.grant, pieces)
        for (landing, heard), some, wanted in zip(opened, memories, payloads, strict=True):
            await heard.wait(slots * parts)
            assert sorted(heard.numbers) == [*range(slots * parts)]
            assert [one.view for one in some] == wanted
            assert all(one.is_guarded for one in some)
            await landing.close()

    play(make, scene)


@every_kind
def test_many_small_pieces_all_come(make: Callable[[], Rig]) -> None:
    count = 2000

    async def scene(pair: Pair) -> None:
        memory = Memory(count * 16)
        landing, heard = pair.far.open(memory)
        payload = pattern(count * 16)
        view = memoryview(payload)
        pieces = [
            piece(view[16 * at : 16 * at + 16], number=at, offset=16 * at) for at in range(count)
        ]
        await pair.near.connection.send(landing.grant, pieces)
        await heard.wait(count)
        assert sorted(heard.numbers) == [*range(count)]
        assert memory.view == payload
        assert heard.batches_max <= 1024  # in steps of the loop
        await landing.close()

    play(make, scene)


@with_large_memory
@every_kind
def test_both_directions_go_at_once(make: Callable[[], Rig]) -> None:
    there, back = pattern(8 * MIB, 1), pattern(8 * MIB + 1, 2)

    async def scene(pair: Pair) -> None:
        far_memory, near_memory = Memory(len(there)), Memory(len(back))
        far_landing, far_heard = pair.far.open(far_memory)
        near_landing, near_heard = pair.near.open(near_memory)
        async with anyio.create_task_group() as senders:
            for _ in range(3):
                senders.start_soon(send_back_and_forth, pair, there, back)
            senders.start_soon(
                pair.near.connection.send, far_landing.grant, [piece(there, number=1)]
            )
            senders.start_soon(
                pair.far.connection.send, near_landing.grant, [piece(back, number=2)]
            )
        await far_heard.wait(1)
        await near_heard.wait(1)
        assert far_memory.view == there
        assert near_memory.view == back

    async def send_back_and_forth(pair: Pair, there: bytes, back: bytes) -> None:
        await send_and_see(pair, there[:70_000])
        await send_and_see(Pair(pair.far, pair.near, pair.listener, pair.dialer), back[:70_000])

    play(make, scene)


@every_kind
def test_several_sends_are_under_way_and_what_is_too_much_waits(make: Callable[[], Rig]) -> None:
    """C10: bounded queues make a sender wait, and refuse nobody."""
    sends, pieces, length = 100, 20, 8 * KIB

    async def scene(pair: Pair) -> None:
        memory = Memory(length)
        landing, heard = pair.far.open(memory)
        payload = pattern(length)
        async with anyio.create_task_group() as senders:
            for send in range(sends):
                some = [piece(payload, number=send * pieces + at) for at in range(pieces)]
                senders.start_soon(pair.near.connection.send, landing.grant, some)
        await heard.wait(sends * pieces)
        assert sorted(heard.numbers) == [*range(sends * pieces)]
        assert memory.view == payload
        assert memory.is_guarded

    play(make, scene)


@every_kind
def test_memory_that_was_sent_is_read_no_more(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        payload = bytearray(pattern(MIB))
        wanted = bytes(payload)
        memory = Memory(len(payload))
        landing, heard = pair.far.open(memory)
        await pair.near.connection.send(landing.grant, [piece(payload)])
        payload[:] = bytes(len(payload))
        await heard.wait(1)
        assert memory.view == wanted
        await landing.close()

    play(make, scene)


@every_kind
def test_statistics_count_whole_pieces_and_their_payloads(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        near, far = pair.near.connection, pair.far.connection
        assert near.statistics == far.statistics == ChannelStatistics()
        landing, heard = pair.far.open(Memory(100))
        await near.send(landing.grant, [piece(b"x" * 60), piece(b"y" * 40, number=1, offset=60)])
        await near.send(landing.grant, [piece(b"", number=2)])
        await heard.wait(3)
        assert near.statistics == ChannelStatistics(bytes_sent=100, pieces_sent=3)
        assert far.statistics == ChannelStatistics(bytes_received=100, pieces_received=3)
        await landing.close()
        try:
            await near.send(landing.grant, [piece(b"late", number=3)])
        except LandingRefused:  # this side was told: nothing of it comes to the other
            assert near.statistics.pieces_sent == 3
        else:
            await refused(pair.far, 1)
            assert far.statistics.pieces_refused == 1
        assert far.statistics.pieces_received == 3
        assert far.statistics.bytes_received == 100

    play(make, scene)


def test_news_are_awaited_without_a_guess() -> None:
    """The suite's own ear: it wakes when told, and not before."""

    async def run() -> None:
        heard = Heard()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heard.wait, 2)
            await anyio.lowlevel.checkpoint()
            heard([1])
            await anyio.lowlevel.checkpoint()
            heard([2])
        assert heard.numbers == [1, 2]

    anyio.run(run)
