"""Connections of the native TCP channel on an event loop, their landings, and what is on its way out of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock._native import ChannelEnded, ChannelEndpoint
from penstock.runtime.channel import (
    Arrived,
    ChannelKind,
    ChannelLost,
    ChannelStatistics,
    LandingRefused,
    LandingSlot,
    Piece,
)
from penstock.runtime.errors import CapacityError
from penstock.runtime.tcp_options import TcpChannelOptions
from penstock.runtime.units import MIB

TOKEN_BYTES = 16  # a grant is the landing's token
SEND_PIECES_MAX = 256  # handed over at a time, so that sends take turns
SEND_BYTES_MAX = 32 * MIB  # the same: no more pieces once there are so many bytes
OURS = "this side ended it"


@dataclass(slots=True)
class Carrier:
    """What connections share with their endpoint."""

    native: ChannelEndpoint
    options: TcpChannelOptions
    landings: dict[int, TcpLanding] = field(default_factory=dict)  # by number, until drained
    sends: dict[int, HandedOver] = field(default_factory=dict)  # until their memory is read no more


class TcpConnection:
    """See `runtime.channel.Connection`."""

    def __init__(self, carrier: Carrier, number: int) -> None:
        """Made by its endpoint."""
        self.id = number
        self.senders: set[_Sending] = set()  # calls of send that wait
        self._carrier = carrier
        self._options = carrier.options
        self._reason: str | None = None
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[str] = self._loop.create_future()
        self._last_statistics = ChannelStatistics()
        self._queued_pieces = 0  # <= queued_pieces_max
        self._queued_bytes = 0  # <= queued_bytes_max, but for one piece alone
        self._turn = asyncio.Lock()  # who waits for room, in the order they came
        self._room = asyncio.Event()

    @property
    def kind(self) -> ChannelKind:
        return ChannelKind.TCP

    @property
    def statistics(self) -> ChannelStatistics:
        if self._over.done():
            return self._last_statistics
        return ChannelStatistics(*self._carrier.native.counts(self.id))

    @property
    def is_lost(self) -> bool:
        return self._reason is not None

    def open_landing(self, slots: Sequence[LandingSlot], arrived: Arrived) -> TcpLanding:
        """Raises CapacityError beyond `landings_max`; BufferError for memory that is read-only."""
        self._check_alive()
        token = secrets.token_bytes(TOKEN_BYTES)
        try:
            number = self._carrier.native.open_landing(self.id, token, slots)
        except ChannelEnded as ended:
            raise ChannelLost(str(ended)) from ended
        except ValueError as full:
            raise CapacityError(str(full)) from full
        landing = TcpLanding(self._carrier, self.id, number, token, arrived)
        self._carrier.landings[number] = landing
        return landing

    async def send(self, grant: bytes, pieces: Sequence[Piece]) -> None:
        if len(grant) != TOKEN_BYTES:
            raise LandingRefused(f"a grant of a TCP channel has 16 bytes, not {len(grant)}")
        self._check_alive()
        sending = _Sending(self.senders)
        begin = 0
        try:
            while begin < len(pieces):
                part, size = _turn_of(pieces, begin)
                if self._turn.locked() or not self._has_room(len(part), size):
                    async with self._turn:
                        await self._wait_room(len(part), size)
                        self._hand_over(sending, grant, part, size)
                else:
                    self._hand_over(sending, grant, part, size)
                begin += len(part)
            await sending.wait()
        finally:
            for number in [*sending.left]:  # what was given up: not begun, not sent
                if self._carrier.native.cancel_send(self.id, number):
                    self._carrier.sends.pop(number).end(number)

    async def wait_lost(self) -> str:
        return await asyncio.shield(self._over)

    async def aclose(self) -> None:
        if self._reason is None:
            self._reason = OURS
            self._carrier.native.end(self.id, OURS)
        await asyncio.shield(self._over)

    def end(self, reason: str) -> None:
        """By the endpoint: it is over, and nobody touches memory for it."""
        self._reason = self._reason or reason
        native = self._carrier.native
        self._last_statistics = ChannelStatistics(*native.counts(self.id))
        native.release(self.id)
        for sending in [*self.senders]:
            sending.lose(self._reason)
        self._room.set()
        self._over.set_result(self._reason)

    def free(self, pieces: int, size: int) -> None:
        """There is room again."""
        self._queued_pieces -= pieces
        self._queued_bytes -= size
        self._room.set()

    def _check_alive(self) -> None:
        if self._reason is not None:
            raise ChannelLost(f"the connection is over: {self._reason}")

    def _has_room(self, pieces: int, size: int) -> bool:
        if self._queued_pieces == 0:
            return True
        limits = self._options
        return (
            self._queued_pieces + pieces <= limits.queued_pieces_max
            and self._queued_bytes + size <= limits.queued_bytes_max
        )

    async def _wait_room(self, pieces: int, size: int) -> None:
        while not self._has_room(pieces, size):
            self._check_alive()
            self._room.clear()
            await self._room.wait()

    def _hand_over(
        self, sending: _Sending, grant: bytes, pieces: Sequence[Piece], size: int
    ) -> None:
        self._check_alive()
        try:
            number = self._carrier.native.send(self.id, grant, pieces)
        except ChannelEnded as ended:
            raise ChannelLost(str(ended)) from ended
        except (ValueError, OverflowError) as wrong:
            raise LandingRefused(str(wrong)) from wrong
        if number:
            self._queued_pieces += len(pieces)
            self._queued_bytes += size
            self._carrier.sends[number] = HandedOver(sending, self, len(pieces), size)
            sending.left.add(number)


class TcpLanding:
    """See `runtime.channel.Landing`."""

    def __init__(
        self, carrier: Carrier, connection: int, number: int, token: bytes, arrived: Arrived
    ) -> None:
        """Made by its connection."""
        self.arrived = arrived
        self.is_closed = False
        self._carrier = carrier
        self._connection = connection
        self._number = number
        self._token = token
        self._drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def grant(self) -> bytes:
        return self._token

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self._carrier.native.close_landing(self._connection, self._token):
                self._carrier.landings.pop(self._number).end()
        await asyncio.shield(self._drained)

    def end(self) -> None:
        """By the endpoint: nobody writes there."""
        self.is_closed = True
        self._drained.set_result(None)


class _Sending:
    """One call of `send`, which waits for what it handed over."""

    def __init__(self, senders: set[_Sending]) -> None:
        self.left: set[int] = set()  # handed over, and their memory perhaps still read
        self._senders = senders
        self._over: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until nothing is left. Raises ChannelLost."""
        if self.left:
            self._over = asyncio.get_running_loop().create_future()
            self._senders.add(self)
            try:
                await self._over
            finally:
                self._senders.discard(self)

    def end(self, number: int) -> None:
        self.left.discard(number)
        if not self.left and self._over is not None and not self._over.done():
            self._over.set_result(None)

    def lose(self, reason: str) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(ChannelLost(f"the connection was lost: {reason}"))


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Pieces that the native side has."""

    sending: _Sending
    connection: TcpConnection
    pieces: int
    bytes: int

    def end(self, number: int) -> None:
        """All of them are sent, or were given up."""
        self.connection.free(self.pieces, self.bytes)
        self.sending.end(number)

    def fail(self) -> None:
        """The connection is lost, of which the sender hears by that; or they were given up."""
        self.connection.free(self.pieces, self.bytes)


def _turn_of(pieces: Sequence[Piece], begin: int) -> tuple[Sequence[Piece], int]:
    """Pieces from `begin` on that are handed over together, and their bytes."""
    size = 0
    end = begin
    while end < len(pieces) and end - begin < SEND_PIECES_MAX and size < SEND_BYTES_MAX:
        size += pieces[end].payload.nbytes
        end += 1
    return pieces[begin:end], size
