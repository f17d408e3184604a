"""Other nodes, and the links to them: one that this node has dialled for each, and one that each has dialled here.

The dialer of a link asks, and its listener answers. Both are lost for good when either side ends them, and then a new
one is made, by the same dialer. A peer that was restarted has another epoch, and is another peer.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.actors.api.directory import Directory
from penstock.actors.api.types import Epoch
from penstock.runtime.actor import Actor
from penstock.runtime.channel import ChannelKind, Connection
from penstock.runtime.errors import CallerError, CapacityError, UnavailableError
from penstock.runtime.message import Msg
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry


class Peers(Actor["Message"]):
    """Address of the actor that dials other nodes, and keeps the links."""


class PeerAway(UnavailableError):
    """Theirs: there is no link to this node, or it was lost while it was used."""


class PeerRefused(UnavailableError):
    """Theirs: the other node did not accept what it was told. Says what."""


class PeerBusy(CapacityError):
    """Nobody's: the other node has as much to do for this one as it takes on."""


class ReadTooLarge(CallerError):
    """Yours: more than the other node gives in one read; its limits are those of the link."""


# ---------------------------------------------------------------- links


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What the listener of a link takes on for its dialer."""

    reads_max: int  # at a time
    read_objects_max: int  # of one
    read_bytes_max: int  # of all of them together
    message_bytes_max: int  # of one message either way


@dataclass(frozen=True, slots=True)
class ReadAsk:
    """Objects of one namespace that are wanted of a peer. The piece of each has its position here as its number."""

    namespace: bytes  # its digest
    chunk_keys: bytes  # packed, of different chunks
    objects: bytes  # packed (u32 position in chunk_keys, u16 slot)
    grant: bytes = field(repr=False)  # of the landing, which has a slot for each
    slot_bytes: int  # of all its slots together
    doubted: bytes = (
        b""  # packed (chunk key, u16 slot): came from this peer lately, and was damaged
    )


@dataclass(frozen=True, slots=True)
class ReadTold:
    """What the listener says became of them. That a piece has arrived, only the landing knows."""

    outcomes: bytes  # one byte each: 1, it was sent
    headers: Sequence[bytes]  # of those that were sent, in order, without the zeros at their end


class ByteStream(Protocol):
    """One call of a link that sends any number of messages in either direction."""

    async def read(self) -> bytes | None:
        """The next message; None: the other side sends no more. Raises PeerAway. Given up, it ends the call."""

    async def write(self, data: bytes) -> None:
        """Raises PeerAway."""


class OpenStream(ByteStream, Protocol):
    """As its dialer sees it."""

    async def finish(self) -> None:
        """Nothing more is written. Raises PeerAway."""

    def cancel(self) -> None:
        """End it, at once. Idempotent."""


class PeerLink(Protocol):
    """A link that this node has dialled."""

    @property
    def node_id(self) -> str: ...

    @property
    def epoch(self) -> Epoch:
        """Of the other node's life."""

    @property
    def limits(self) -> LinkLimits: ...

    @property
    def connection(self) -> Connection:
        """Its data connection."""

    @property
    def is_lost(self) -> bool: ...

    async def wait_lost(self) -> str:
        """Why it was lost, once it is."""

    async def read(self, ask: ReadAsk, *, within: float) -> ReadTold:
        """Have these objects sent. Waits for its turn where the peer takes on no more; given up, the peer hears of it.

        Raises PeerAway, PeerBusy, PeerRefused, ReadTooLarge, DeadlineExceeded."""

    def stream(self, method: str) -> OpenStream:
        """A call of one of the other node's `StreamHandler`s, by its whole path. Raises PeerAway."""


class ServedLink(Protocol):
    """A link that another node has dialled here."""

    @property
    def node_id(self) -> str: ...

    @property
    def epoch(self) -> Epoch: ...

    @property
    def is_lost(self) -> bool: ...

    async def wait_lost(self) -> str: ...

    async def connection(self, *, within: float) -> Connection:
        """Its data connection, once the other node has made it. Raises PeerAway."""


StreamHandler = Callable[[ServedLink, ByteStream], Awaitable[None]]
"""Serves one call of a link. It is cancelled when the link is lost; the call ends when it returns. What it raises of
PenstockErrors ends the call with their words."""


# ---------------------------------------------------------------- messages


class PeerState(enum.Enum):
    """Of the link that this node dials."""

    DIALLING = "there is no link yet, or not any more; it is tried again"
    LINKED = "there is one"


@dataclass(frozen=True, slots=True)
class PeerUsage:
    """One other node, for health and status."""

    node_id: str
    address: str
    state: PeerState
    epoch: Epoch  # of its life, as far as it is known; empty: never linked
    channel: ChannelKind | None  # of the data connection
    serves: int  # links that it has dialled here
    bytes_in: int  # of objects, by the data connections of the links there are
    bytes_out: int
    detail: str  # why it is away; else empty
    linked_s: float = 0.0  # how long there has been a link


@dataclass(frozen=True, slots=True)
class ClusterUsage:
    """`degraded`: what is wrong with the source of members; empty: nothing."""

    node_id: str
    degraded: str
    peers: tuple[PeerUsage, ...]  # by their ids


@dataclass(frozen=True, slots=True)
class FindLink(Msg["Peers", PeerLink]):
    """The link to this node. Raises PeerAway; answered at once."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Measure(Msg["Peers", ClusterUsage]):
    pass


Message = FindLink | Measure


@dataclass(frozen=True, slots=True)
class Reach:
    """How a store reaches other nodes: who may have something, and how to ask them."""

    directory: Ref[Directory]
    peers: Ref[Peers]
    telemetry: Telemetry
