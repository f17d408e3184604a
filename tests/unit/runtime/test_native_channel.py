"""The TCP channel's own: its bounds, strangers, peers that die or stop, and what an idle one costs.

What every kind of channel must do is in tests/contract/test_channel*.py; frames and threads in tests/csrc.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from support.channel_peer import peer_process
from support.channel_rig import (
    WITHIN_S,
    Hold,
    Memory,
    Pair,
    connect,
    gone,
    new_secret,
    pattern,
    piece,
    send_and_see,
    with_large_memory,
)
from support.eventually import eventually

from penstock.runtime.channel import ChannelLost, LandingRefused, LandingSlot
from penstock.runtime.errors import CapacityError, ConfigError, StartFailed
from penstock.runtime.native_channel import TcpEndpoint
from penstock.runtime.security import TcpAddress
from penstock.runtime.tcp_options import TcpChannelOptions
from penstock.runtime.units import KIB, MIB

LOOPBACK = TcpAddress("127.0.0.1", 0)


@asynccontextmanager
async def endpoint(**given: object) -> AsyncIterator[TcpEndpoint]:
    one = TcpEndpoint(TcpChannelOptions(**{"listen": LOOPBACK, **given}))  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await one.aclose()


def play(scene: Callable[[Pair], Awaitable[None]], **given: object) -> None:
    """Between two endpoints with these options."""

    async def run() -> None:
        async with endpoint(**given) as dialer, endpoint(**given) as listener:
            near, far = await connect(dialer, listener)
            await scene(Pair(near, far, dialer, listener))

    anyio.run(run)


def port_of(offer: bytes) -> int:
    return int(offer.rpartition(b":")[2])


# Bounds.


@with_large_memory
def test_a_send_waits_while_the_queue_is_full_and_may_be_given_up() -> None:
    """C10: the peer is stopped, so nothing more is read there; what waits is bounded here."""

    async def run() -> None:
        secret = new_secret()
        async with peer_process(secret, 1) as peer, endpoint(queued_pieces_max=8) as near:
            connection = await near.dial(peer.offer, secret, within=WITHIN_S)
            grant = await peer.grant()
            peer.process.send_signal(signal.SIGSTOP)
            payload = pattern(8 * MIB)  # more than the system's buffers have room for
            holds = [Hold() for _ in range(40)]
            watched = [weakref.ref(one) for one in holds]
            sent: list[int] = []

            async def send(number: int) -> None:
                some = [piece(payload, number=number, hold=holds[number])]
                await connection.send(grant, some)
                sent.append(number)

            async with anyio.create_task_group() as senders:
                for number in range(len(holds)):
                    senders.start_soon(send, number)
                with anyio.move_on_after(0.2):
                    await connection.wait_lost()
                assert len(sent) < 20
                senders.cancel_scope.cancel()
            holds.clear()
            gc.collect()
            assert sum(one() is not None for one in watched) <= 8, "what nobody waits for is held"
            await connection.aclose()
            await gone(*watched)

    anyio.run(run)


@pytest.mark.parametrize("limits", [{"queued_pieces_max": 1}, {"queued_bytes_max": 1}])
def test_the_tightest_bounds_let_everything_through(limits: dict[str, int]) -> None:
    async def scene(pair: Pair) -> None:
        memory = Memory(64 * KIB)
        landing, heard = pair.far.open(memory)
        payload = pattern(64 * KIB)
        async with anyio.create_task_group() as senders:
            for first in range(0, 300, 10):
                pieces = [piece(payload, number=first + at) for at in range(10)]
                senders.start_soon(pair.near.connection.send, landing.grant, pieces)
        await heard.wait(300)
        assert sorted(heard.numbers) == [*range(300)]

    play(scene, **limits)


def test_landings_connections_and_expectations_are_bounded() -> None:
    async def scene(pair: Pair) -> None:
        pair.far.open(Memory(1))
        pair.far.open(Memory(1))
        with pytest.raises(CapacityError, match="landings_max"):
            pair.far.open(Memory(1))
        with pytest.raises(ChannelLost, match="connections_max"):
            await connect(pair.dialer, pair.listener)
        pair.listener.expect(new_secret(), lambda _: None)
        with pytest.raises(CapacityError, match="2"):
            pair.listener.expect(new_secret(), lambda _: None)
        await send_and_see(Pair(pair.far, pair.near, pair.listener, pair.dialer), b"still there")

    play(scene, landings_max=2, connections_max=1, expected_max=2)


def test_more_pieces_than_a_landing_takes_are_refused() -> None:
    async def scene(pair: Pair) -> None:
        landing, heard = pair.far.open(Memory(8))
        pieces = [piece(b"x", number=number) for number in range(10)]
        await pair.near.connection.send(landing.grant, pieces)
        await pair.near.connection.send(landing.grant, [piece(b"y", number=3)])

        async def are_refused() -> bool:
            return pair.far.connection.statistics.pieces_refused == 7

        await eventually(are_refused, within=WITHIN_S, what="six of them, and one that had come")
        await heard.wait(4)
        assert sorted(heard.numbers) == [0, 1, 2, 3]

    play(scene, pieces_max=4)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"streams": 17},
        {"part_bytes": 1},
        {"hello_within": 0.0},
        {"peer_timeout": 0.0},
        {"strangers_max": 0},
    ],
)
def test_an_option_out_of_its_range_is_refused(options: dict[str, float]) -> None:
    async def run() -> None:
        (name,) = options
        with pytest.raises(ValueError, match=name):
            TcpEndpoint(TcpChannelOptions(**options))  # type: ignore[arg-type]

    anyio.run(run)


def test_numbers_that_are_none_are_refused_here() -> None:
    async def scene(pair: Pair) -> None:
        landing, _ = pair.far.open(Memory(1))
        for wrong in (piece(b"", number=-1), piece(b"", offset=-1), piece(b"", slot=2**32)):
            with pytest.raises(LandingRefused):
                await pair.near.connection.send(landing.grant, [wrong])
        with pytest.raises(BufferError):
            pair.far.connection.open_landing(
                [LandingSlot(memoryview(b"read-only"), None)], lambda _: None
            )
        await send_and_see(pair, b"still there")

    play(scene)


# Where it listens, and who comes.


def test_an_address_that_is_taken_is_no_start() -> None:
    async def run() -> None:
        async with endpoint() as first:
            with pytest.raises(StartFailed, match="cannot listen"):
                TcpEndpoint(
                    TcpChannelOptions(listen=TcpAddress("127.0.0.1", port_of(first.offer())))
                )

    anyio.run(run)


def test_a_name_is_looked_up_and_a_wildcard_needs_one() -> None:
    async def run() -> None:
        with pytest.raises(ConfigError, match="advertise"):
            TcpEndpoint(TcpChannelOptions(listen=TcpAddress("0.0.0.0", 0)))
        named = {
            "listen": TcpAddress("0.0.0.0", 0),
            "advertise": TcpAddress("localhost", 0),
        }
        async with endpoint(**named) as listener, endpoint(listen=None) as dialer:
            assert listener.offer().startswith(b"localhost:")
            assert port_of(listener.offer()) > 0
            assert dialer.offer() == b""
            near, far = await connect(dialer, listener)
            await send_and_see(Pair(near, far, dialer, listener), b"by name")
            with pytest.raises(ChannelLost, match="not known"):
                await dialer.dial(b"no-such-host.invalid:1", new_secret(), within=WITHIN_S)

    anyio.run(run)


def test_who_never_answers_costs_a_dial_its_time_and_no_more() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            offer = b"127.0.0.1:%d" % silent.getsockname()[1]
            async with endpoint() as dialer:
                with pytest.raises(ChannelLost, match=r"within 0\.1 s"):
                    await dialer.dial(offer, new_secret(), within=0.1)
                await dialer.aclose()
                with pytest.raises(ChannelLost, match="closed"):
                    await dialer.dial(offer, new_secret(), within=0.1)

    anyio.run(run)


def test_strangers_are_counted_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """C10: garbage, a port scan, and who says nothing; those who are expected still come in."""

    async def scene(pair: Pair) -> None:
        port = port_of(pair.listener.offer())
        assert isinstance(pair.listener, TcpEndpoint)
        talking = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
        for number, one in enumerate(talking):
            if number % 3 == 0:
                one.sendall(b"\xff" * 72)
            elif number % 3 == 1:
                one.close()

        async def are_refused() -> bool:
            return isinstance(pair.listener, TcpEndpoint) and pair.listener.strangers_refused == 30

        await eventually(are_refused, within=WITHIN_S, what="all of them are refused")
        for one in talking:
            one.close()
        near, far = await connect(pair.dialer, pair.listener)
        await send_and_see(Pair(near, far, pair.dialer, pair.listener), b"let in")

    with caplog.at_level(logging.WARNING):
        play(scene, hello_within=0.2, strangers_max=16)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said))
    assert 1 <= len(said) <= 4
    assert all(one.startswith("stranger_refused") for one in said)


def test_what_a_callback_raises_is_its_own_and_others_hear() -> None:
    async def run() -> None:
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: raised.append(what))
        async with endpoint() as dialer, endpoint() as listener:
            near, far = await connect(dialer, listener)

            def fail(_: object) -> None:
                raise ZeroDivisionError

            memory = Memory(8)
            bad = far.connection.open_landing([memory.slot()], fail)
            good, heard = far.open(Memory(8))
            for number in range(5):
                await near.connection.send(bad.grant, [piece(b"x", number=number)])
                await near.connection.send(good.grant, [piece(b"y", number=number)])
            await heard.wait(5)
        assert raised

    anyio.run(run)


# Peers that are gone.


@with_large_memory
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_peer_that_dies_or_stops_in_mid_piece_is_lost(sign: signal.Signals) -> None:
    """C8: a stopped one, by `peer_timeout`: its system still answers, but takes no bytes."""

    async def run() -> None:
        secret, size = new_secret(), 64 * MIB
        async with peer_process(secret, size) as peer, endpoint(peer_timeout=1.0) as near:
            connection = await near.dial(peer.offer, secret, within=WITHIN_S)
            grant = await peer.grant()
            payload = pattern(size)
            hold = Hold()
            watched = weakref.ref(hold)
            pieces = [piece(payload, number=number, hold=hold) for number in range(64)]
            del hold

            async def kill() -> None:
                async def has_begun() -> bool:
                    return connection.statistics.pieces_sent > 0

                await eventually(has_begun, within=WITHIN_S, what="the first piece is sent")
                peer.process.send_signal(sign)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kill)
                with anyio.fail_after(WITHIN_S), pytest.raises(ChannelLost):
                    await connection.send(grant, pieces)
            assert await connection.wait_lost()
            pieces.clear()
            await gone(watched)

    anyio.run(run)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None,
    reason="cutting a network needs root, unshare (util-linux) and ip (iproute2)",
)
def test_a_network_that_is_cut_without_a_word_is_noticed() -> None:
    """C8: half-open, idle and sending: bytes and probes that nobody answers."""
    script = Path(__file__).parents[2] / "support" / "channel_cut.py"
    ran = subprocess.run(
        ["unshare", "-n", sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(told) == 2
    for one in told:
        assert all(one["said"])
        assert one["took_s"] < 6


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_dials_and_ends_leave_no_descriptor_behind() -> None:
    async def run() -> None:
        async with endpoint(streams=3) as dialer, endpoint(streams=3) as listener:
            first = 0
            for _ in range(20):
                near, far = await connect(dialer, listener)
                await near.connection.aclose()
                await far.connection.wait_lost()
                with pytest.raises(ChannelLost):
                    await dialer.dial(listener.offer(), new_secret(), within=WITHIN_S)
                first = first or descriptors()

            async def are_closed() -> bool:
                return descriptors() <= first

            await eventually(are_closed, within=WITHIN_S, what="there are no more than after one")

    anyio.run(run)


def test_an_idle_connection_costs_no_processor_time() -> None:
    async def scene(pair: Pair) -> None:
        await send_and_see(pair, pattern(MIB))
        began = time.process_time()
        with anyio.move_on_after(0.5):
            await pair.near.connection.wait_lost()
        assert time.process_time() - began < 0.0025 * 2  # 0.5 % of a core, each side

    play(scene, streams=4, threads=4)
