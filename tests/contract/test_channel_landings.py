"""The suite over all data channels (see test_channels.py): what a landing refuses, and who keeps memory alive."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable

import anyio
import pytest
from support.channel_rig import (
    LARGE,
    WITHIN_S,
    Hold,
    Memory,
    Pair,
    Rig,
    connect,
    every_kind,
    gone,
    pattern,
    piece,
    play,
    refused,
    send_and_see,
    with_large_memory,
)
from support.eventually import eventually

from penstock.runtime.channel import GRANT_BYTES_MAX, LandingRefused
from penstock.runtime.units import KIB, MIB

OFFER_BYTES_MAX = 4096

# A landing takes only what names it, within its slots, and nothing once it is closed.


@every_kind
@pytest.mark.parametrize(
    ("slot", "offset", "length"),
    [
        pytest.param(0, 0, 101, id="longer"),
        pytest.param(0, 100, 1, id="beyond"),
        pytest.param(0, 2**63, 1, id="far"),
        pytest.param(0, 2**64 - 1, 2, id="wrapping"),
        pytest.param(1, 0, 1, id="no such slot"),
        pytest.param(2**32 - 1, 0, 0, id="no such slot by far"),
        pytest.param(0, 2**64 - 8 * MIB, 8 * MIB + 100, id="wrapping, large"),
    ],
)
def test_a_piece_that_does_not_lie_in_its_slot_is_refused(
    make: Callable[[], Rig], slot: int, offset: int, length: int
) -> None:
    """A11: nothing is written, and the connection lives. Either side may refuse it."""
    payload = bytes(length)  # here: that of the largest takes a step of milliseconds

    async def scene(pair: Pair) -> None:
        memory = Memory(100)
        landing, heard = pair.far.open(memory)
        try:
            wrong = piece(payload, slot=slot, offset=offset)
            await pair.near.connection.send(landing.grant, [wrong])
        except LandingRefused:
            pass
        else:
            await refused(pair.far, 1)
        assert memory.is_untouched
        await send_and_see(pair, b"still there")
        assert heard.numbers == []

    play(make, scene)


@every_kind
def test_a_grant_that_was_never_given_is_refused(make: Callable[[], Rig]) -> None:
    """A15: whoever guesses, or holds an old grant, writes nowhere."""

    async def scene(pair: Pair) -> None:
        memory = Memory(16)
        landing, heard = pair.far.open(memory)
        guessed = bytes(byte ^ 1 for byte in landing.grant)
        try:
            await pair.near.connection.send(guessed, [piece(b"x" * 16)])
        except LandingRefused:
            pass
        else:
            await refused(pair.far, 1)
        assert memory.is_untouched
        assert heard.numbers == []
        await send_and_see(pair, b"still there")

    play(make, scene)


@every_kind
@pytest.mark.parametrize("length", [0, 1, GRANT_BYTES_MAX + 1])
def test_what_is_no_grant_is_refused_here(make: Callable[[], Rig], length: int) -> None:
    async def scene(pair: Pair) -> None:
        with pytest.raises(LandingRefused):
            await pair.near.connection.send(bytes(length), [piece(b"x")])
        await send_and_see(pair, b"still there")

    play(make, scene)


@every_kind
def test_a_grant_is_of_no_use_on_another_connection(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        other_near, other_far = await connect(pair.dialer, pair.listener)
        memory = Memory(16)
        landing, heard = pair.far.open(memory)
        try:
            await other_near.connection.send(landing.grant, [piece(b"x" * 16)])
        except LandingRefused:
            pass
        else:
            await refused(other_far, 1)
        assert memory.is_untouched
        assert heard.numbers == []
        assert pair.far.connection.statistics.pieces_refused == 0

    play(make, scene)


@every_kind
def test_grants_are_small_and_never_the_same(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        grants = [pair.far.open(Memory(64))[0].grant for _ in range(50)]
        assert len(set(grants)) == 50
        assert all(0 < len(one) <= GRANT_BYTES_MAX for one in grants)
        assert 0 < len(pair.listener.offer()) <= OFFER_BYTES_MAX

    play(make, scene)


@every_kind
def test_a_closed_landing_refuses_what_comes_later(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        memory = Memory(100)
        landing, heard = pair.far.open(memory)
        await landing.close()
        await landing.close()
        for number in range(3):
            await send_to_closed(pair, landing.grant, number)
        assert memory.is_untouched
        assert heard.numbers == []
        await send_and_see(pair, b"still there")

    async def send_to_closed(pair: Pair, grant: bytes, number: int) -> None:
        try:
            await pair.near.connection.send(grant, [piece(b"late", number=number)])
        except LandingRefused:
            return  # this side was told by now
        await refused(pair.far, number + 1)

    play(make, scene)


@with_large_memory
@every_kind
@pytest.mark.parametrize("given_up", [False, True], ids=["awaited", "given up"])
def test_no_byte_is_written_after_a_close_in_mid_piece(
    make: Callable[[], Rig], given_up: bool
) -> None:
    """A2, A14: memory is used again the moment close has returned; the rest of the piece goes nowhere.

    Given up, the close happens all the same; a second one tells when. Seen to fail with a close that closes nothing.
    """
    payload = pattern(LARGE)

    async def close_in_mid_piece(pair: Pair) -> bool:
        memory = Memory(LARGE)
        landing, heard = pair.far.open(memory)
        async with anyio.create_task_group() as senders:
            senders.start_soon(send_it, pair, landing.grant)
            await heard.begin(memory)
            if given_up:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await landing.close()
            await landing.close()
            memory.mark()
            was_in_time = not heard.numbers
        await send_and_see(pair, pattern(MIB, 3))  # so all of it has come by
        assert memory.is_marked
        return was_in_time

    async def send_it(pair: Pair, grant: bytes) -> None:
        with contextlib.suppress(LandingRefused):  # it was told of the close
            await pair.near.connection.send(grant, [piece(payload)])

    async def scene(pair: Pair) -> None:
        for _ in range(20):  # the whole piece may have come before anybody looked
            if await close_in_mid_piece(pair):
                return
        pytest.fail("the piece was whole each time before it could be closed")

    play(make, scene)


# Whoever may still touch memory keeps it.


@every_kind
def test_a_landing_holds_its_memory_until_it_is_closed(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        memory = Memory(64)
        landing, heard = pair.far.open(memory)
        watched = weakref.ref(memory.hold or Hold())
        memory.hold = None
        gc.collect()
        assert watched() is not None
        await pair.near.connection.send(landing.grant, [piece(b"x" * 64)])
        await heard.wait(1)
        assert watched() is not None
        await landing.close()
        await gone(watched)

    play(make, scene)


@every_kind
def test_a_send_holds_its_memory_until_it_is_read(make: Callable[[], Rig]) -> None:
    async def scene(pair: Pair) -> None:
        hold = Hold()
        watched = weakref.ref(hold)
        landing, heard = pair.far.open(Memory(64))
        sent = piece(b"x" * 64, hold=hold)
        await pair.near.connection.send(landing.grant, [sent])
        del hold, sent
        await heard.wait(1)
        await gone(watched)

    play(make, scene)


@with_large_memory
@every_kind
def test_a_send_that_is_given_up_leaves_nothing_behind(make: Callable[[], Rig]) -> None:
    """What was not begun is not sent; the memory is held until it is read no more; the next one works."""
    payload = pattern(LARGE)

    async def scene(pair: Pair) -> None:
        memory = Memory(LARGE)
        landing, heard = pair.far.open(memory)
        holds = [Hold() for _ in range(8)]
        watched = [weakref.ref(one) for one in holds]
        pieces = [piece(payload, number=at, hold=one) for at, one in enumerate(holds)]
        del holds
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as senders:
                senders.start_soon(pair.near.connection.send, landing.grant, pieces)
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert scope.cancelled_caught
        del pieces
        for one in watched:
            await gone(one)
        await send_and_see(pair, pattern(MIB, 3))
        assert len(heard.numbers) < 8, "most of it had not begun"
        await landing.close()

    play(make, scene)


@every_kind
def test_sends_that_wait_are_given_up_and_others_take_their_place(make: Callable[[], Rig]) -> None:
    count, payload = 64, pattern(256 * KIB)

    async def scene(pair: Pair) -> None:
        landing, heard = pair.far.open(Memory(len(payload)))
        sent: list[int] = []

        async def send(number: int, scope: anyio.CancelScope) -> None:
            with scope:
                pieces = [piece(payload, number=4 * number + at) for at in range(4)]
                await pair.near.connection.send(landing.grant, pieces)
                sent.append(number)

        scopes = [anyio.CancelScope() for _ in range(count)]
        async with anyio.create_task_group() as senders:
            for number, scope in enumerate(scopes):
                senders.start_soon(send, number, scope)
            await anyio.lowlevel.checkpoint()
            for scope in scopes[::2]:
                scope.cancel()
        assert set(sent) >= {*range(1, count, 2)}

        async def have_come() -> bool:
            return {4 * number + at for number in sent for at in range(4)} <= {*heard.numbers}

        # Of those given up, some pieces had begun, and come, too.
        await eventually(have_come, within=WITHIN_S, what="what was sent has come")
        assert len(set(heard.numbers)) == len(heard.numbers)
        await send_and_see(pair, b"still there")

    play(make, scene)
