"""News for the gateway. All of it is level-triggered: losing one to a full mailbox delays it, no more."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.actors.api.types import SessionId, Shortfall, TicketId
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg


class Gateway(Actor["Message"]):
    """Address of the gateway: the engine's gRPC service."""


@dataclass(frozen=True, slots=True)
class TicketMoved(Msg["Gateway", None]):
    """The watermark of a ticket, as it is now."""

    session: SessionId
    ticket: TicketId
    hit_chunks: int
    promised_chunks: int  # == hit_chunks: the watermark will not move any more
    shortfall: Shortfall = Shortfall.NONE


@dataclass(frozen=True, slots=True)
class EndSession(Msg["Gateway", None]):
    """The process behind a session is gone; its stream may be held open by a child it forked."""

    session: SessionId
    reason: str


@dataclass(frozen=True, slots=True)
class StopAdmitting(Msg["Gateway", int]):
    """Refuse new sessions from now on; those attached go on. Answers how many they are."""


Message = TicketMoved | EndSession | StopAdmitting
