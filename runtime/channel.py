"""Data channels: how bytes of objects get from one node's memory straight into another's.

A connection joins two nodes and carries bytes both ways. Whoever is to receive opens a landing over memory of its own
and gives its `grant` to the other side by the control stream; the other side sends pieces to it. A landing takes only
what names it, only within its slots, and nothing at all once it is closed: when `close` has returned no byte is written
there any more, whatever the peer does.

One contract suite holds for all kinds: `tests/contract/test_channels.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.runtime.errors import CallerError, UnavailableError

SECRET_BYTES = 32  # what a dialer shows, drawn by the listening side for one link
GRANT_BYTES_MAX = 64 * 1024


class ChannelKind(enum.Enum):
    """As written in configuration and spoken in handshakes."""

    GRPC = "grpc"
    TCP = "tcp"
    NIXL = "nixl"


class ChannelLost(UnavailableError):
    """Theirs: the connection is over. What was being sent may have arrived in part, or not at all."""


class LandingRefused(CallerError):
    """Yours: there is no such landing at the peer (any more), or a piece does not lie within its slot."""


@dataclass(slots=True)  # a frozen one takes four times as long to make, and there are many
class LandingSlot:
    """Writable memory for one object. Whoever may still write it keeps `hold` alive. Nobody changes it."""

    memory: memoryview = field(repr=False)
    hold: object = field(repr=False)


@dataclass(slots=True)  # as LandingSlot
class Piece:
    """Bytes to be sent to `offset` of one slot. `number` names them to the receiver: unique in their landing, below
    2**63. Whoever may still read `payload` keeps `hold` alive. Nobody changes it."""

    number: int
    slot: int
    offset: int
    payload: memoryview = field(repr=False)
    hold: object = field(repr=False)


@dataclass(slots=True)
class ChannelStatistics:
    """Of one connection since it was made: whole pieces, and their payloads."""

    bytes_sent: int = 0
    bytes_received: int = 0
    pieces_sent: int = 0
    pieces_received: int = 0
    pieces_refused: int = 0  # for a landing that is closed or unknown, or beyond its slot


Arrived = Callable[[Sequence[int]], None]
"""Called in steps of the loop with the numbers of pieces that are whole in their slots, each once, in any order."""


class Landing(Protocol):
    """Memory that the peer at the other end of one connection may write to, until it is closed."""

    @property
    def grant(self) -> bytes:
        """What the sender must show: unguessable, at most GRANT_BYTES_MAX, of no use on any other connection."""

    async def close(self) -> None:
        """No byte is written to its slots any more once this has returned; pieces that come later are refused and
        counted. Idempotent; given up, the landing is closed all the same and its slots' holds live until it is true."""


class Connection(Protocol):
    """One peer, by one channel. Lost for good when either side ends it: its landings are then as if closed."""

    @property
    def kind(self) -> ChannelKind: ...

    @property
    def statistics(self) -> ChannelStatistics: ...

    @property
    def is_lost(self) -> bool: ...

    def open_landing(self, slots: Sequence[LandingSlot], arrived: Arrived) -> Landing:
        """Raises ChannelLost."""

    async def send(self, grant: bytes, pieces: Sequence[Piece]) -> None:
        """Send all of `pieces`, and return when their memory is read no more.

        That they have arrived is for the receiver to say. Several sends may be under way; what waits is bounded, and
        waits here. Raises ChannelLost; LandingRefused where this side can tell. Given up half-way, what was not begun
        is not sent, and memory that is still read is kept by `hold`.
        """

    async def wait_lost(self) -> str:
        """Why it was lost, once it is."""

    async def aclose(self) -> None:
        """End it, and wait until neither landings nor sent memory are touched any more. Idempotent."""


Accepted = Callable[[Connection], None]


class Endpoint(Protocol):
    """What one node has of one kind of channel: it is dialled, and dials."""

    @property
    def kind(self) -> ChannelKind: ...

    def offer(self) -> bytes:
        """How others dial it, for handshakes: at most 4096 bytes. Empty: it can only dial."""

    def expect(self, secret: bytes, accepted: Accepted) -> None:
        """Hand the one connection that will show `secret` to `accepted`. Others are closed unanswered, counted, and
        told of once. See `forget`."""

    def forget(self, secret: bytes) -> None:
        """Expect it no longer. A connection made by it lives on."""

    async def dial(self, offer: bytes, secret: bytes, *, within: float) -> Connection:
        """A connection to the node that made `offer` and expects `secret`. Raises ChannelLost."""

    async def aclose(self) -> None:
        """End all connections, and stop listening. Idempotent."""
