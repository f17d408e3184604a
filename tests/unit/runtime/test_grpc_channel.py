"""What data channels over gRPC are beyond the suite of all channels: strangers, and peers that break the protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import grpc
import pytest

from penstock.runtime.channel import ChannelLost, Connection, LandingSlot, Piece
from penstock.runtime.grpc_channel import METHOD, OFFER, GrpcEndpoint, data_handler
from penstock.runtime.grpc_frames import Word, gone, show
from penstock.runtime.grpc_stream import GrpcConnection, RawStream
from penstock.runtime.units import KIB, MIB

SECRET = bytes(range(32))
WITHIN_S = 10.0


@dataclass
class World:
    """An endpoint behind a server, a gRPC channel to it, and another endpoint that may dial over that."""

    listener: GrpcEndpoint
    dialer: GrpcEndpoint
    channel: grpc.aio.Channel
    came: list[Connection]

    def expect(self) -> None:
        self.listener.expect(SECRET, self.came.append)

    async def dial(self) -> Connection:
        return await self.dialer.over(self.channel).dial(OFFER, SECRET, within=WITHIN_S)

    async def stream(self, *messages: bytes) -> grpc.aio.StreamStreamCall:
        """By hand."""
        call = self.channel.stream_stream(METHOD)()
        for one in messages:
            await call.write(one)
        return call


@asynccontextmanager
async def world(**settings: float) -> AsyncIterator[World]:
    listener = GrpcEndpoint(**settings)  # type: ignore[arg-type]
    dialer = GrpcEndpoint(chunk_bytes=64 * KIB)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((data_handler(listener),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield World(listener, dialer, channel, [])
        finally:
            await dialer.aclose()
            await listener.aclose()
            await server.stop(None)


def play(scene: Callable[[World], Awaitable[None]], **settings: float) -> None:
    async def run() -> None:
        async with world(**settings) as it:
            with anyio.fail_after(WITHIN_S):
                await scene(it)

    anyio.run(run)


def test_a_stream_that_says_nothing_is_closed_in_time() -> None:
    """A15, D3"""

    async def scene(it: World) -> None:
        call = await it.stream()
        assert await call.read() is grpc.aio.EOF
        assert it.listener.strangers_refused == 1

    play(scene, show_within_s=0.05)


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1", show(bytes(32)), show(SECRET)[:-1]])
def test_a_stream_that_shows_no_secret_is_closed_unanswered(first: bytes) -> None:
    """A15, D3: a scan, garbage, a guess."""

    async def scene(it: World) -> None:
        it.expect()
        call = await it.stream(first)
        assert await call.read() is grpc.aio.EOF
        assert it.listener.strangers_refused == 1
        assert it.came == []
        await it.dial()  # who knows it still comes in
        assert len(it.came) == 1

    play(scene)


def test_strangers_are_few_at_once() -> None:
    """C10, D3: a flood of them costs nothing, and does not keep out who comes after it."""

    async def scene(it: World) -> None:
        codes = []
        for call in [await it.stream() for _ in range(5)]:
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert await call.read() is grpc.aio.EOF
            codes.append(await call.code())
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
        assert codes.count(grpc.StatusCode.OK) == 2
        it.expect()
        await it.dial()

    play(scene, strangers_max=2, show_within_s=0.3)


@pytest.mark.parametrize(
    "message",
    [
        bytes((Word.PIECES,)) + b"short",
        bytes((Word.PIECES,)) + bytes(16) + b"half a head",
        bytes((Word.GONE,)),
        show(SECRET),
        b"\xff",
    ],
)
def test_a_peer_that_breaks_the_protocol_loses_its_connection(message: bytes) -> None:
    """A15: and what went wrong is said."""

    async def scene(it: World) -> None:
        it.expect()
        call = await it.stream(show(SECRET))
        assert await call.read() == bytes((Word.TAKEN,))
        await call.write(message)
        assert "broke the protocol" in await it.came[0].wait_lost()
        assert await call.read() is grpc.aio.EOF

    play(scene)


def test_news_of_a_landing_that_nobody_sends_to_is_no_news() -> None:
    async def scene(it: World) -> None:
        it.expect()
        call = await it.stream(show(SECRET), gone(bytes(16)))
        assert await call.read() == bytes((Word.TAKEN,))
        arrived = anyio.Event()
        memory = bytearray(4)
        landing = it.came[0].open_landing(
            [LandingSlot(memoryview(memory), None)], lambda _: arrived.set()
        )
        head = bytes((Word.PIECES,)) + landing.grant
        part = (5).to_bytes(8, "little") + bytes(4) + (4).to_bytes(4, "little") + bytes(8)
        await call.write(head + part + (4).to_bytes(8, "little") + bytes(8) + b"data")
        await arrived.wait()
        assert memory == b"data"
        call.cancel()
        assert await it.came[0].wait_lost()

    play(scene)


def test_the_gRPC_channel_may_be_closed_under_a_connection() -> None:
    """C8: a send that waits hears of it, and nothing hangs."""

    async def scene(it: World) -> None:
        it.expect()
        near = await it.dial()
        memory = bytearray(MIB)
        landing = it.came[0].open_landing([LandingSlot(memoryview(memory), None)], lambda _: None)
        payload = memoryview(bytes(MIB))
        pieces = [Piece(number, 0, 0, payload, None) for number in range(64)]

        async def send() -> None:
            with pytest.raises(ChannelLost):
                await near.send(landing.grant, pieces)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.lowlevel.checkpoint()
            await it.channel.close()
        assert await near.wait_lost()
        assert await it.came[0].wait_lost()
        with pytest.raises(ChannelLost):
            await it.dial()

    play(scene)


def test_a_listener_that_closes_what_it_is_handed_leaves_the_dialer_with_words() -> None:
    async def scene(it: World) -> None:
        closed = anyio.Event()

        async def close(connection: Connection) -> None:
            await connection.aclose()
            closed.set()

        async with anyio.create_task_group() as tasks:
            it.listener.expect(SECRET, lambda one: tasks.start_soon(close, one))
            with pytest.raises(ChannelLost):
                near = await it.dial()
                raise ChannelLost(await near.wait_lost())
            await closed.wait()

    play(scene)


def test_an_offer_of_another_version_and_an_endpoint_without_a_way_are_refused() -> None:
    async def scene(it: World) -> None:
        with pytest.raises(ChannelLost, match="version"):
            await it.dialer.over(it.channel).dial(b"\x02", SECRET, within=1)
        with pytest.raises(ChannelLost, match="over"):
            await it.dialer.dial(OFFER, SECRET, within=1)

    play(scene)


def test_a_stream_that_is_given_up_twice_is_over_once() -> None:
    """gRPC cancels the task of a call when the call ends, and again when the server stops. Seen to hang aclose."""

    class Silent(RawStream):
        async def read(self) -> bytes:
            await anyio.sleep_forever()
            raise AssertionError

        write = read  # type: ignore[assignment]

    async def run() -> None:
        connection = GrpcConnection(Silent(anyio.sleep_forever, anyio.sleep_forever), KIB)  # type: ignore[arg-type]
        running = asyncio.get_running_loop().create_task(connection.run())
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()
        with anyio.fail_after(WITHIN_S):
            await connection.aclose()
        assert connection.is_lost

    anyio.run(run)
