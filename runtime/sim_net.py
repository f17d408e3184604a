"""A network of simulated nodes in one process: data connections (`runtime.channel`) and ordered pipes of messages, with
delay, cuts, and bytes that arrive in parts, late and in any order between pieces. All of it is drawn from one source.

    net = SimNet(random.Random(7))
    near, far = net.connect()          # a data connection's two ends
    here, there = net.pipe()           # a stream of messages each way

The bytes of a send are under way after it has returned, as in the buffers of a kernel, and each part of a piece is
written in two moments, between which its landing may be closed: `close` returns after the second one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.runtime.channel import (
    Accepted,
    Arrived,
    ChannelKind,
    ChannelLost,
    ChannelStatistics,
    Landing,
    LandingRefused,
    LandingSlot,
    Piece,
)
from penstock.runtime.errors import UnavailableError

GRANT_BYTES = 16
SENDING_MAX = 64  # pieces of one connection under way; more wait in `send`


class PipeCut(UnavailableError):
    """Theirs: the pipe is cut. What was under way is lost."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What a network does to what is sent. Seconds and bytes."""

    delay_s: tuple[float, float] = (0.0002, 0.005)  # of one message, or of one part of a piece
    write_s: tuple[float, float] = (
        0.0,
        0.001,
    )  # between the two moments in which a part is written
    part_bytes: int = 1500  # of a piece that is written at a time
    damage: float = 0.0  # chance that a part has another byte than was sent


class SimNet:
    """Draws delays for all that it connects."""

    def __init__(self, draw: random.Random, weather: Weather | None = None) -> None:
        self.draw = draw
        self.weather = weather or Weather()
        self.endpoints: dict[bytes, SimEndpoint] = {}  # by their offers

    def delay_s(self) -> float:
        return self.draw.uniform(*self.weather.delay_s)

    def write_s(self) -> float:
        return self.draw.uniform(*self.weather.write_s)

    def damaged(self, part: bytes) -> bytes:
        """As it arrives."""
        if not part or self.draw.random() >= self.weather.damage:
            return part
        at = self.draw.randrange(len(part))
        return part[:at] + bytes([part[at] ^ 1 << self.draw.randrange(8)]) + part[at + 1 :]

    def connect(self) -> tuple[SimConnection, SimConnection]:
        """The two ends of one data connection."""
        near, far = SimConnection(self), SimConnection(self)
        near.peer, far.peer = far, near
        return near, far

    def endpoint(self) -> SimEndpoint:
        """One that others on this network can dial."""
        endpoint = SimEndpoint(self, self.draw.randbytes(8))
        self.endpoints[endpoint.offer()] = endpoint
        return endpoint

    def pipe(self) -> tuple[SimPipe, SimPipe]:
        """Both ends of a stream of messages."""
        near, far = SimPipe(self), SimPipe(self)
        near.peer, far.peer = far, near
        return near, far


# ---------------------------------------------------------------- data connections


@dataclass(slots=True, eq=False)
class _Arrival:
    """A piece on its way, whose bytes have left the sender's memory."""

    grant: bytes
    number: int
    slot: int
    offset: int
    payload: bytes
    written: int = 0  # of them, by now


class SimLanding:
    """See `Landing`."""

    def __init__(self, grant: bytes, slots: Sequence[LandingSlot], arrived: Arrived) -> None:
        self._grant = grant
        self.slots: Sequence[LandingSlot] = tuple(slots)  # empty once it is closed
        self.arrived = arrived
        self.is_closed = False
        self.writing = 0  # parts between their two moments
        self._still = asyncio.Event()

    @property
    def grant(self) -> bytes:
        return self._grant

    def has_room(self, arrival: _Arrival) -> bool:
        """Whether it lies within its slot."""
        if not 0 <= arrival.slot < len(self.slots) or arrival.offset < 0:
            return False
        return arrival.offset + len(arrival.payload) <= len(self.slots[arrival.slot].memory)

    async def close(self) -> None:
        self.is_closed = True
        self.settle()
        await self._still.wait()

    def settle(self) -> None:
        """Nothing is being written, perhaps."""
        if self.is_closed and not self.writing:
            self.slots = ()
            self._still.set()


class SimConnection:
    """One end. See `Connection`."""

    peer: SimConnection

    def __init__(self, net: SimNet) -> None:
        self._net = net
        self._statistics = ChannelStatistics()
        self._landings: dict[bytes, SimLanding] = {}
        self._under_way = 0  # pieces sent from here and not arrived, <= SENDING_MAX
        self._room = asyncio.Event()
        self._lost = asyncio.Event()
        self._why = ""

    @property
    def kind(self) -> ChannelKind:
        return ChannelKind.TCP

    @property
    def statistics(self) -> ChannelStatistics:
        return self._statistics

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    @property
    def open_landings(self) -> int:
        """For oracles: that are not closed."""
        return sum(not landing.is_closed for landing in self._landings.values())

    def open_landing(self, slots: Sequence[LandingSlot], arrived: Arrived) -> Landing:
        if self.is_lost:
            raise ChannelLost(self._why)
        grant = self._net.draw.randbytes(GRANT_BYTES)
        landing = self._landings[grant] = SimLanding(grant, slots, arrived)
        return landing

    async def send(self, grant: bytes, pieces: Sequence[Piece]) -> None:
        if len(grant) != GRANT_BYTES:
            raise LandingRefused("that is no grant")
        for piece in pieces:
            while self._under_way >= SENDING_MAX and not self.is_lost:
                self._room.clear()
                await self._room.wait()
            await asyncio.sleep(self._net.write_s())
            if self.is_lost:
                raise ChannelLost(self._why)
            landing = self.peer.landing(grant)
            if landing is None and self._net.draw.random() < 0.5:
                raise LandingRefused("the landing is closed")  # this side may know, or not
            self._begin(grant, piece)

    def landing(self, grant: bytes) -> SimLanding | None:
        """One that takes pieces."""
        landing = self._landings.get(grant)
        return None if landing is None or landing.is_closed or self.is_lost else landing

    def _begin(self, grant: bytes, piece: Piece) -> None:
        arrival = _Arrival(grant, piece.number, piece.slot, piece.offset, bytes(piece.payload))
        self._under_way += 1
        self._statistics.pieces_sent += 1
        self._statistics.bytes_sent += len(arrival.payload)
        self._later(self._net.delay_s(), arrival)

    def _later(self, seconds: float, arrival: _Arrival) -> None:
        asyncio.get_running_loop().call_later(seconds, self.peer.write, arrival)

    def write(self, arrival: _Arrival) -> None:
        """The first moment of a part: it is decided that it is written."""
        landing = self.landing(arrival.grant)
        if landing is None or not landing.has_room(arrival):
            self._statistics.pieces_refused += 1
            self.peer.arrived()
            return
        landing.writing += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self._net.write_s(), self._written, landing, arrival)

    def _written(self, landing: SimLanding, arrival: _Arrival) -> None:
        """The second one: the bytes are there, whatever has happened in between."""
        slot, start = landing.slots[arrival.slot], arrival.written
        part = self._net.damaged(arrival.payload[start : start + self._net.weather.part_bytes])
        begin = arrival.offset + start
        slot.memory[begin : begin + len(part)] = part
        arrival.written += len(part)
        landing.writing -= 1
        landing.settle()
        if arrival.written < len(arrival.payload):
            asyncio.get_running_loop().call_later(self._net.delay_s(), self.write, arrival)
            return
        self._statistics.pieces_received += 1
        self._statistics.bytes_received += len(arrival.payload)
        self.peer.arrived()
        if not landing.is_closed:
            landing.arrived([arrival.number])

    def arrived(self) -> None:
        """A piece that was sent from here is under way no more."""
        self._under_way -= 1
        self._room.set()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return self._why

    def lose(self, why: str) -> None:
        """Both ends, at once."""
        for end in (self, self.peer):
            if not end.is_lost:
                end.end(why)

    def end(self, why: str) -> None:
        """This end is lost: its landings are as if closed."""
        self._why = why
        self._lost.set()
        self._room.set()
        for landing in self._landings.values():
            landing.is_closed = True
            landing.settle()

    async def aclose(self) -> None:
        self.lose("closed")
        for landing in self._landings.values():
            await landing.close()


class SimEndpoint:
    """What one node has. See `Endpoint`."""

    kind = ChannelKind.TCP

    def __init__(self, net: SimNet, offer: bytes) -> None:
        self._net = net
        self._offer = offer
        self._expected: dict[bytes, Accepted] = {}
        self._connections: list[SimConnection] = []
        self._is_closed = False

    def offer(self) -> bytes:
        return self._offer

    def expect(self, secret: bytes, accepted: Accepted) -> None:
        self._expected[secret] = accepted

    def forget(self, secret: bytes) -> None:
        self._expected.pop(secret, None)

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> SimConnection:
        await asyncio.sleep(min(within, self._net.delay_s()))
        far = self._net.endpoints.get(offer)
        if far is None or self._is_closed:
            raise ChannelLost("nobody listens there")
        near, other = self._net.connect()
        if not far.accept(secret, other):
            raise ChannelLost("the other side does not expect this connection")
        self._connections.append(near)
        return near

    def accept(self, secret: bytes, connection: SimConnection) -> bool:
        accepted = self._expected.pop(secret, None)
        if accepted is None:
            return False
        self._connections.append(connection)
        accepted(connection)
        return True

    async def aclose(self) -> None:
        self._is_closed = True
        self._net.endpoints.pop(self._offer, None)
        for connection in self._connections:
            await connection.aclose()


# ---------------------------------------------------------------- messages


@dataclass(slots=True)
class _Queue:
    messages: deque[bytes] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class SimPipe:
    """One end of an ordered stream of messages each way. `write` waits for the delay, as for the reader's window."""

    peer: SimPipe

    def __init__(self, net: SimNet) -> None:
        self._net = net
        self._queue = _Queue()
        self._due = 0.0  # when the last message of this end is there: the next one is not before it
        self._is_cut = False
        self._is_finished = False

    @property
    def is_cut(self) -> bool:
        return self._is_cut

    async def read(self) -> bytes | None:
        """None: the other end has finished. Raises PipeCut."""
        while not self._queue.messages:
            if self._is_cut:
                raise PipeCut("the pipe is cut")
            if self._is_finished:
                return None
            self._queue.changed.clear()
            await self._queue.changed.wait()
        if self._is_cut:
            raise PipeCut("the pipe is cut")
        return self._queue.messages.popleft()

    async def write(self, data: bytes) -> None:
        """Raises PipeCut."""
        if self._is_cut:
            raise PipeCut("the pipe is cut")
        loop = asyncio.get_running_loop()
        self._due = max(self._due, loop.time() + self._net.delay_s())
        loop.call_at(self._due, self.peer.deliver, data)
        await asyncio.sleep(0)

    def deliver(self, data: bytes) -> None:
        if not self._is_cut:
            self._queue.messages.append(data)
            self._queue.changed.set()

    def finish(self) -> None:
        """Nothing more is written: the other end reads to its end, once all is there."""
        loop = asyncio.get_running_loop()
        loop.call_at(max(self._due, loop.time()), self.peer.finished)

    def finished(self) -> None:
        self._is_finished = True
        self._queue.changed.set()

    def cut(self) -> None:
        """Both ends, at once; what is under way is lost."""
        self.end()
        self.peer.end()

    def end(self) -> None:
        """This end is cut."""
        self._is_cut = True
        self._queue.messages.clear()
        self._queue.changed.set()
