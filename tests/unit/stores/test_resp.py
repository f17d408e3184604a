"""Answers of a server in every cut and in every wrong form; what goes to sinks; connections that end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import anyio
import pytest

from penstock.actors.stores.resp import ConnectionLost, RespConnection
from penstock.actors.stores.resp_words import RespError, command
from penstock.runtime.sim_loop import simulate

STALL_S = 0.05


class Transport(asyncio.Transport):
    """Takes what is written; full, when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class Into:
    """A sink of some memory in pieces."""

    def __init__(self, *sizes: int) -> None:
        self.memory = bytearray(sum(sizes))
        self._rooms = []
        start = 0
        for size in sizes:
            self._rooms.append(memoryview(self.memory)[start : start + size])
            start += size

    def room(self, left_bytes: int) -> memoryview:
        return self._rooms.pop(0) if self._rooms else memoryview(b"")


def play(scene: Callable[[RespConnection, Transport], Awaitable[None]]) -> None:
    async def run() -> None:
        connection, transport = RespConnection(STALL_S), Transport()
        connection.connection_made(transport)
        await scene(connection, transport)

    simulate(1, run)


def receive(connection: RespConnection, data: bytes, cuts: random.Random | None = None) -> None:
    """As a transport does, in pieces as large as there is room, or smaller."""
    while data and connection.is_open:
        room = connection.get_buffer(-1)
        count = min(len(room), len(data))
        if cuts is not None:
            count = min(count, cuts.choice((1, 2, 3, 7, 100)))
        room[:count] = data[:count]
        connection.buffer_updated(count)
        data = data[count:]


ANSWERS = [
    (b"+OK\r\n", b"OK"),
    (b":-17\r\n", -17),
    (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*3\r\n:1\r\n*1\r\n$1\r\nx\r\n+y\r\n", [1, [b"x"], b"y"]),
    (b"-OOM command not allowed\r\n", RespError("OOM", "OOM command not allowed")),
]


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_read_in_any_cut(seed: int) -> None:
    async def scene(connection: RespConnection, _: Transport) -> None:
        draw = random.Random(seed)
        chosen = [draw.choice(ANSWERS) for _ in range(12)]
        exchanges = [connection.send([command("PING")] * n) for n in (1, 4, 7)]
        receive(connection, b"".join(text for text, _ in chosen), draw)
        replies = [reply for one in exchanges for reply in await one.finished]
        assert replies == [said for _, said in chosen]

    play(scene)


@pytest.mark.loop_step_ms(2000)  # the test plays the transport, byte by byte
@pytest.mark.parametrize("seed", range(20))
def test_large_values_go_where_their_sinks_say(seed: int) -> None:
    """In any cut; values without a sink, refused ones and missing ones between them."""

    async def scene(connection: RespConnection, _: Transport) -> None:
        draw = random.Random(seed)
        value = draw.randbytes(200_000)
        whole, pieces = Into(200_000), Into(48, 4096, 200_000 - 4144)
        short, unasked, nothing = Into(100), Into(), Into(10)
        sinks = [whole, unasked, pieces, None, nothing, short]
        exchange = connection.send([command("GET", "k")] * 6, sinks)
        large = b"$200000\r\n" + value + b"\r\n"
        answers = [large, large, large, b"$3\r\nabc\r\n", b"$-1\r\n", large]
        receive(connection, b"".join(answers), draw if seed < 4 else None)
        replies = await exchange.finished
        assert replies == [200_000, 200_000, 200_000, b"abc", None, 200_000]
        assert whole.memory == value
        assert pieces.memory == value
        assert short.memory == value[:100]
        assert not any(nothing.memory)

    play(scene)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"$x\r\n",
        b"$99999999999999999999999\r\n",
        b":\r\n",
        b"*1\r\n" * 20,
        b"x" * 100_000,
        b"$3\r\nabcd\r\n",
        b"+OK\r\n+nobody asked\r\n",
        b"$2000000\r\n",  # where none was asked for
    ],
)
@pytest.mark.parametrize("has_sink", [False, True])
def test_nonsense_ends_the_connection(data: bytes, *, has_sink: bool) -> None:
    async def scene(connection: RespConnection, transport: Transport) -> None:
        sink = Into(8)
        exchange = connection.send([command("GET", "k")], [sink] if has_sink else [])
        receive(connection, data)
        if not exchange.finished.done() and has_sink:
            receive(connection, b"z" * 2_000_010)  # the value that was announced, and no end
        assert transport.aborted
        with pytest.raises(ConnectionLost):
            connection.send([command("PING")])

    play(scene)


@pytest.mark.loop_step_ms(30)  # the test's own 3 MB
def test_what_is_sent_is_what_was_said_in_order_and_when_there_is_room() -> None:
    async def scene(connection: RespConnection, transport: Transport) -> None:
        value = memoryview(random.Random(1).randbytes(3_000_000))
        connection.send([command("SET", "k", (value[:10], value[10:]), "PX", "5")])
        connection.send([command("PING")])
        connection.pause_writing()
        await anyio.lowlevel.checkpoint()
        assert not transport.written
        connection.resume_writing()
        await anyio.lowlevel.checkpoint()
        assert 0 < len(transport.written) < len(value), "all in one step of the loop"
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        sent = (
            b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$3000000\r\n" + value + b"\r\n$2\r\nPX\r\n$1\r\n5\r\n"
        )
        assert bytes(transport.written) == sent + b"*1\r\n$4\r\nPING\r\n"

    play(scene)


def test_what_was_given_up_is_not_written_to() -> None:
    """A2: the rest of a value whose reader went away is thrown away, and what follows is read."""

    async def scene(connection: RespConnection, _: Transport) -> None:
        sink = Into(100_000)
        exchange = connection.send([command("GET", "k")], [sink])
        other = connection.send([command("PING")])
        receive(connection, b"$100000\r\n" + b"a" * 50_000)
        exchange.abandon()
        receive(connection, b"b" * 50_000 + b"\r\n+PONG\r\n")
        assert sink.memory == b"a" * 50_000 + bytes(50_000)
        assert await other.finished == [b"PONG"]

    play(scene)


def test_a_connection_that_stalls_ends() -> None:
    """B1: and with it all that waits on it; one that waits for nothing does not."""

    async def scene(connection: RespConnection, transport: Transport) -> None:
        done = connection.send([command("PING")])
        receive(connection, b"+PONG\r\n")
        await done.finished
        await anyio.sleep(2 * STALL_S)
        assert connection.is_open
        hold = object()
        waiting = [connection.send([command("PING")], hold=hold) for _ in range(2)]
        for one in waiting:
            with pytest.raises(ConnectionLost, match="nothing moved"):
                await one.finished
            assert one.hold is None
        assert transport.aborted
        assert connection.queued_bytes == 0

    play(scene)


def test_an_error_shows_its_first_word_alone() -> None:
    """D1: the rest may name users, keys and arguments."""
    assert (
        repr(RespError("NOPERM", "NOPERM User app has no permissions"))
        == "RespError(code='NOPERM')"
    )
