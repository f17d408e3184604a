"""A data channel on virtual time: bytes are copied in parts, and may be slow, held up, or lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from anyio.lowlevel import checkpoint

from penstock.runtime.channel import (
    Arrived,
    ChannelKind,
    ChannelLost,
    ChannelStatistics,
    LandingRefused,
    LandingSlot,
    Piece,
)

_grants = itertools.count(1)


@dataclass
class Wire:
    """How a channel behaves. Changed by a test at any moment."""

    part_bytes: int = 1024
    part_s: float = 0.0001  # from when a part was read to when it is written
    late_s: float = 0.0  # after a piece was written, until the receiver is told of it
    is_open: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: nothing moves
    loses: int = -1  # pieces until one is lost on its way, and all after it; below 0: none

    def __post_init__(self) -> None:
        self.is_open.set()


class SimLanding:
    def __init__(self, slots: Sequence[LandingSlot], arrived: Arrived) -> None:
        self.grant = next(_grants).to_bytes(16, "big")
        self.is_closed = False
        self._slots: list[LandingSlot] | None = [*slots]
        self._arrived = arrived
        self._writing = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def close(self) -> None:
        """What has left the sender is written still; then nothing is."""
        self.is_closed = True
        if not self._writing:
            self._slots = None
        await self._quiet.wait()

    def begin(self) -> None:
        self._writing += 1
        self._quiet.clear()

    def write(self, piece: Piece, at: int, part: bytes) -> None:
        assert self._slots is not None
        start = piece.offset + at
        self._slots[piece.slot].memory[start : start + len(part)] = part

    def end(self) -> None:
        self._writing -= 1
        if not self._writing:
            self._quiet.set()
            if self.is_closed:
                self._slots = None  # lets go of what is held

    def whole(self, number: int) -> None:
        if not self.is_closed:
            self._arrived([number])


class SimConnection:
    """One end. Both share a wire."""

    kind = ChannelKind.TCP

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.statistics = ChannelStatistics()
        self.other: SimConnection = self
        self.landings: dict[bytes, SimLanding] = {}
        self.sending = 0  # sends under way
        self._lost = asyncio.Event()
        self._why = ""

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return self._why

    def open_landing(self, slots: Sequence[LandingSlot], arrived: Arrived) -> SimLanding:
        if self.is_lost:
            raise ChannelLost(self._why)
        landing = SimLanding(slots, arrived)
        self.landings[landing.grant] = landing
        return landing

    async def send(self, grant: bytes, pieces: Sequence[Piece]) -> None:
        self.sending += 1
        try:
            for piece in pieces:
                landing = self.other.landings.get(grant)
                if landing is None or landing.is_closed:
                    self.other.statistics.pieces_refused += 1
                    raise LandingRefused("there is no such landing")
                await self._send(landing, piece)
        finally:
            self.sending -= 1

    async def _send(self, landing: SimLanding, piece: Piece) -> None:
        wire = self.wire
        if wire.loses == 0:
            return
        wire.loses -= 1
        for at in range(0, len(piece.payload), wire.part_bytes):
            await checkpoint()
            await wire.is_open.wait()
            if self.is_lost:
                raise ChannelLost(self._why)
            if landing.is_closed:
                raise LandingRefused("it was closed")
            part = bytes(piece.payload[at : at + wire.part_bytes])
            landing.begin()
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(wire.part_s)
                landing.write(piece, at, part)
            finally:
                landing.end()
        self.statistics.pieces_sent += 1
        self.statistics.bytes_sent += len(piece.payload)
        self.other.statistics.pieces_received += 1
        self.other.statistics.bytes_received += len(piece.payload)
        if wire.late_s:
            asyncio.get_running_loop().call_later(wire.late_s, landing.whole, piece.number)
        else:
            landing.whole(piece.number)

    def lose(self, why: str) -> None:
        """Both ends."""
        for end in (self, self.other):
            if not end.is_lost:
                end._why = why
                end._lost.set()
                for landing in end.landings.values():
                    landing.is_closed = True

    async def aclose(self) -> None:
        self.lose("it was closed")


def sim_channel(wire: Wire) -> tuple[SimConnection, SimConnection]:
    one, other = SimConnection(wire), SimConnection(wire)
    one.other, other.other = other, one
    return one, other
