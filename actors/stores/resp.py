"""One connection of the Redis protocol (RESP 2) that moves large values without copies of its own.

    connection.send([command("GET", key)], [sink])     a bulk string goes where its sink says
    connection.send([command("SET", key, view)])       a view is sent from where it lies

    IDLE --line--> READING --bulk with a sink--> PLACING --its last byte--> IDLE
                                                       '--- the sink refuses: read, and thrown away

What is sent together is answered together: an exchange. It runs by itself, in callbacks: whoever gives up waiting
for it changes nothing but that its sinks are forgotten. Clients at hand make a string of what they read before
anyone sees it (docs/adr/0009): that costs more than the server does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from penstock.actors.stores.resp_words import Data, Nonsense, Reader, Reply
from penstock.actors.stores.store import StoreFault
from penstock.runtime.units import KIB, MIB

PLACED_BYTES_MAX = MIB  # read, or written, in one step of the loop
WRITE_BYTES = 256 * KIB  # handed to the transport at a time
JOINED_BYTES_MAX = 16 * KIB  # pieces that are smaller are joined to so much


class Sink(Protocol):
    """Where the bytes of one bulk string go."""

    def room(self, left_bytes: int) -> memoryview:
        """For the next of them, at most so many; empty: the rest is not wanted. Asked again when it is full."""


class ConnectionLost(StoreFault):
    """Theirs: it ended, stalled, or spoke nonsense."""


class Exchange:
    """Some commands and their answers, in order. An answer that went to a sink is its length."""

    def __init__(
        self, commands: Sequence[Sequence[Data]], sinks: Sequence[Sink | None], hold: object
    ) -> None:
        self.finished: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self.unsent: deque[Data] = deque(piece for one in commands for piece in one)
        self.bytes = sum(map(len, self.unsent))
        self.sinks = deque([*sinks, *[None] * (len(commands) - len(sinks))])
        self.replies: list[Reply] = []
        self.hold = hold  # until it is finished

    def abandon(self) -> None:
        """Nothing is placed any more."""
        self.sinks = deque([None] * len(self.sinks))


class RespConnection(asyncio.BufferedProtocol):
    """Belongs to the loop. It ends by itself when nothing moves for `stall_s` while something is awaited."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._pumping = False  # a call of _pump is due
        self._unsent: deque[Exchange] = deque()
        self._open: deque[Exchange] = deque()  # not answered yet, oldest first
        self._reader = Reader()
        self._target = memoryview(b"")  # of the sink; not empty: it is being filled
        self._left = 0  # of the bulk string that is placed or thrown away
        self._must_end = False  # what comes after these is its end
        self._moved_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.queued_bytes = 0  # of exchanges that are not finished
        self.reason = ""  # why it is closed

    @property
    def is_open(self) -> bool:
        return not self.reason

    @property
    def waiting(self) -> int:
        """Exchanges that are not finished."""
        return len(self._open)

    def send(
        self,
        commands: Sequence[Sequence[Data]],
        sinks: Sequence[Sink | None] = (),
        *,
        hold: object = None,
    ) -> Exchange:
        """Raises ConnectionLost."""
        if not self.is_open:
            raise ConnectionLost(self.reason)
        exchange = Exchange(commands, sinks, hold)
        self.queued_bytes += exchange.bytes
        if not self._open:
            self._moved_s = self._loop.time()
        self._open.append(exchange)
        self._unsent.append(exchange)
        if self._watch is None:
            self._watch = self._loop.call_later(self._stall_s, self._look)
        self._pump_soon()
        return exchange

    def close(self, reason: str = "it was closed") -> None:
        """At once; what is not answered is lost. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Not 0: a transport of TLS would pause for ever at an empty buffer.
        transport.set_write_buffer_limits(high=WRITE_BYTES)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(
            f"the connection ended{f': {error.strerror}' if isinstance(error, OSError) else ''}"
        )

    def eof_received(self) -> None:
        self.close("the server ended the connection")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._moved_s = self._loop.time()
        self._pump_soon()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._left:
            if self._open[0].sinks[0] is None:
                self._target = memoryview(b"")  # given up meanwhile
            room = self._target or self._reader.scratch
            return room[: min(self._left, PLACED_BYTES_MAX)]
        return self._reader.room()

    def buffer_updated(self, nbytes: int) -> None:
        self._moved_s = self._loop.time()
        try:
            if self._left:
                self._placed(nbytes)
            else:
                self._reader.filled(nbytes)
            self._read_on()
        except Nonsense as nonsense:
            self.close(f"the server spoke nonsense: {nonsense}")

    # Reading.

    def _read_on(self) -> None:
        while not self._left and self.is_open and self._reader.has_some:
            if self._must_end:
                self._must_end = not self._reader.skip_end()
                if self._must_end:
                    return
                self._done_one()
                continue
            if not self._open:
                raise Nonsense("an answer to nothing")
            if self._open[0].sinks[0] is not None and self._reader.begins_bulk:
                size = self._reader.bulk_size()
                if size is None:
                    return
                if size >= 0:
                    self._begin_bulk(size)
                    continue
                known, reply = True, None
            else:
                known, reply = self._reader.reply()
            if not known:
                return
            self._open[0].replies.append(reply)
            self._done_one()

    def _begin_bulk(self, size: int) -> None:
        """What came of it already is placed."""
        self._open[0].replies.append(size)
        self._left, self._must_end = size, True
        self._find_target()
        while self._left and self._reader.has_some:
            self._placed(self._reader.take(self._target or self._reader.scratch, self._left))

    def _placed(self, count: int) -> None:
        self._left -= count
        self._target = self._target[count:]
        self._find_target()

    def _find_target(self) -> None:
        sinks = self._open[0].sinks
        if self._left and not self._target and sinks[0] is not None:
            self._target = sinks[0].room(self._left)[: self._left]
            if not self._target:
                sinks[0] = None

    def _done_one(self) -> None:
        exchange = self._open[0]
        exchange.sinks.popleft()
        if exchange.sinks:
            return
        self._open.popleft()
        self.queued_bytes -= exchange.bytes
        exchange.hold = None
        exchange.finished.set_result(exchange.replies)

    # Writing.

    def _pump_soon(self) -> None:
        """In the next step, so that what is sent in this one goes together."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Hand over what the transport takes, as much as is good for one step of the loop."""
        self._pumping = False
        budget = PLACED_BYTES_MAX
        while self._unsent and not self._paused and self._transport is not None and self.is_open:
            if budget <= 0:
                self._pump_soon()
                return
            piece = self._next_piece()
            if piece:
                self._transport.write(piece)
                budget -= len(piece)

    def _next_piece(self) -> Data:
        """Small ones joined: each that is handed over is a call of the system."""
        small = bytearray()
        while self._unsent:
            pieces = self._unsent[0].unsent
            if not pieces:
                self._unsent.popleft()
                continue
            if len(small) + len(pieces[0]) <= JOINED_BYTES_MAX:
                small += pieces.popleft()
                continue
            if small:
                break
            view = memoryview(pieces.popleft())
            if len(view) > WRITE_BYTES:
                pieces.appendleft(view[WRITE_BYTES:])
            return view[:WRITE_BYTES]
        return small

    # Ending.

    def _look(self) -> None:
        self._watch = None
        if not self._open:
            return
        left_s = self._moved_s + self._stall_s - self._loop.time()
        if left_s <= 0:
            self.close(f"nothing moved for {self._stall_s:g} s")
        else:
            self._watch = self._loop.call_later(left_s, self._look)

    def _end(self, reason: str) -> None:
        if not self.is_open:
            return
        self.reason = reason
        if self._watch is not None:
            self._watch.cancel()
        self._target, self._left = memoryview(b""), 0
        self._unsent.clear()
        for exchange in self._open:
            exchange.unsent.clear()
            exchange.hold = None
            if not exchange.finished.done():
                exchange.finished.set_exception(ConnectionLost(reason))
                exchange.finished.exception()  # heard, also where nobody waits
        self._open.clear()
        self.queued_bytes = 0
