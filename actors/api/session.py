"""Who is attached, and what is known of the processes behind the sessions."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.actors.api.types import (
    Epoch,
    GeometryId,
    GroupGeometry,
    InstanceId,
    SessionId,
    TicketId,
)
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg


class Sessions(Actor["Message"]):
    """Address of the session keeper."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a Hello declares, checked and in our own words."""

    instance: bytes  # 16 to 64 unguessable bytes, the same in all processes of the engine
    client: str
    namespace_digest: bytes
    groups: tuple[GroupGeometry, ...]
    slots: tuple[int, ...]  # the slots this process moves; empty: it moves no bytes
    chunk_tokens: int
    resume: bytes = field(repr=False)  # secret of the session it continues; empty: none
    resume_epoch: Epoch


@dataclass(frozen=True, slots=True)
class Attached:
    session: SessionId
    instance: InstanceId
    geometry: GeometryId
    gave_up: int  # leases of the resumed session that were given up


@dataclass(frozen=True, slots=True)
class Attach(Msg["Sessions", Attached]):
    """Open a session. Refused when the node is full, or the engine instance contradicts itself."""

    declaration: Declaration
    secret: bytes = field(
        repr=False
    )  # 32 unguessable bytes drawn by the asker; proves the session at the arena socket


@dataclass(frozen=True, slots=True)
class Abandoned(Msg["Sessions", None]):
    """Whoever asked to attach with this secret gave up, and may never have heard that it was attached."""

    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamEnded(Msg["Sessions", None]):
    """The session's stream is over, in whatever way. Not a proof that its process is.

    `tickets` are those it opened, which nobody can be told of any more."""

    session: SessionId
    instance: InstanceId
    tickets: tuple[TicketId, ...]


@dataclass(frozen=True, slots=True)
class Door:
    """What the arena socket may do for the bearer of a session secret."""

    session: SessionId
    hands_out_arena: bool


@dataclass(frozen=True, slots=True)
class Enter(Msg["Sessions", Door]):
    """Somebody at the arena socket shows a session secret. From here on the process may touch the arena."""

    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProcessExited(Msg["Sessions", None]):
    """The pidfd of the process that entered as `session` has fired: it is proven gone."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class Geometry:
    geometry: GeometryId
    chunk_tokens: int


@dataclass(frozen=True, slots=True)
class FindGeometry(Msg["Sessions", Geometry]):
    """The geometry declared for a namespace. Refused when no session ever declared it."""

    namespace_digest: bytes


@dataclass(frozen=True, slots=True)
class Count(Msg["Sessions", int]):
    """How many sessions have a stream."""


Message = Attach | Abandoned | StreamEnded | Enter | ProcessExited | FindGeometry | Count
