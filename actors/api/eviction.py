"""Making room in L1."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.actors.api.l1 import Room
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg


class EvictionController(Actor["Message"]):
    """Address of the eviction controller."""


@dataclass(frozen=True, slots=True)
class MakeRoom(Msg["EvictionController", int]):
    """Somebody was told NO_ROOM: free at least this much now. Answers the bytes freed, which may be fewer."""

    bytes_wanted: int
    # Somebody was told QUOTA: of what the tenant of this salt has, and may do without.
    own: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Pressure(Msg["EvictionController", None]):
    """L1 has filled past its high watermark. Told once, until it is taken (`l1.TakePressure`)."""


@dataclass(frozen=True, slots=True)
class Purge(Msg["EvictionController", Room]):
    """Evict everything that nobody reads or writes."""


Message = MakeRoom | Pressure | Purge
