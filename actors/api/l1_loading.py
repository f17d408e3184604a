"""What the L1 manager does for loads from the tiers below. Part of `api/l1.py`, where the others find it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.actors.api.types import (
    Extents,
    GeometryId,
    InstanceId,
    LeaseId,
    Pool,
    Shortfall,
    TicketId,
)
from penstock.runtime.message import Msg

if TYPE_CHECKING:
    from penstock.actors.api.l1 import L1Manager  # noqa: F401 - addressed by name


@dataclass(frozen=True, slots=True)
class LoadLease:
    """As WriteLease, of the node itself. The lease lives until `hold` dies: whoever may still write keeps it."""

    lease: LeaseId  # empty when nothing was granted
    answers: bytes
    extents: Extents
    bytes_missing: int
    hold: object = field(repr=False)  # None when nothing was granted


@dataclass(frozen=True, slots=True)
class Landed:
    """`hits` of the tickets named, in order; -1 for one that is over or settled. `lease` is of what was
    loaded: that of the Land when nothing was lost (`hold` is None: keep yours), a new one when something was, and empty
    when all was."""

    hits: tuple[int, ...]
    lease: LeaseId
    hold: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class Survey(Msg["L1Manager", bytes]):
    """What L1 has of these chunks: one byte of `_native.Presence` per (chunk, slot of the geometry)."""

    keys: bytes
    geometry: GeometryId


@dataclass(frozen=True, slots=True)
class ReserveLoad(Msg["L1Manager", LoadLease]):
    """Extents for the objects of `slots` of consecutive chunks, to be loaded into.

    All of `pool`, whose NO_ROOM and `bytes_missing` are its own. What lies in Pool.PD never becomes resident: it is
    readable by the tickets it landed for, and gone when the lease's handle has died and the last reader has left."""

    keys: bytes
    parent: bytes
    geometry: GeometryId
    slots: tuple[int, ...]
    salt: bytes = field(repr=False)  # the tenant charged
    pool: Pool = Pool.CACHE


@dataclass(frozen=True, slots=True)
class Land(Msg["L1Manager", Landed]):
    """Of a load: these objects are whole and verified; the rest of the lease, if `lost`, leaves the index, and its
    memory comes back when the lease's handle dies. `tickets`, each up to so many chunks, may read what was loaded."""

    lease: LeaseId
    indices: tuple[int, ...]
    digests: bytes
    runs: bytes
    lost: int  # objects granted and not named
    tickets: tuple[tuple[TicketId, int], ...]


@dataclass(frozen=True, slots=True)
class Move(Msg["L1Manager", tuple[int, ...]]):
    """The same tickets clause alone, for those who join what has landed already. Answers their hits, as in Landed."""

    tickets: tuple[tuple[TicketId, int], ...]


@dataclass(frozen=True, slots=True)
class Hope(Msg["L1Manager", None]):
    """The loader still promises so many chunks of this ticket; fewer than are hit: none. 0: as Settle, but it hears of
    the ticket's end."""

    ticket: TicketId
    chunks: int
    shortfall: Shortfall


@dataclass(frozen=True, slots=True)
class Settle(Msg["L1Manager", None]):
    """The loader has done with this ticket, and need not hear of its end. With a shortfall its watermark is final: the
    loader has waited for writers, too. One that was looked up only for its loads is closed."""

    ticket: TicketId
    shortfall: Shortfall


@dataclass(frozen=True, slots=True)
class Whole:
    """A load, all of whose objects are whole and verified."""

    lease: LeaseId
    digests: bytes
    runs: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """What a ticket has come to. Both 0: it is closed, as that of any miss."""

    hit_chunks: int
    promised_chunks: int  # >= hit_chunks: by writers


@dataclass(frozen=True, slots=True)
class Finish(Msg["L1Manager", Finished]):
    """Land, keep and settle in one: these loads are all that comes for this ticket.

    Its watcher is not told: whoever asks tells. Refused if the ticket is over."""

    ticket: TicketId
    instance: InstanceId
    loads: tuple[Whole, ...]


@dataclass(frozen=True, slots=True)
class Await(Msg["L1Manager", int]):
    """What L1 has of this object, as a `_native.Presence`. If it is coming, the ticket's loader hears
    `prefetch.Stirred` once it is there or given up."""

    ticket: TicketId
    key: bytes  # of its chunk
    geometry: GeometryId
    slot: int


@dataclass(frozen=True, slots=True)
class Forsaken:
    """What one step has ended. Until `is_over`, something is left."""

    tickets: int  # settled, as FAILED
    is_over: bool


@dataclass(frozen=True, slots=True)
class Forsake(Msg["L1Manager", Forsaken]):
    """A loader begins its life: whatever one before it has promised is void. One bounded step: of its loads, which
    leave the index (who may still write one keeps its memory), then of its tickets. Those of another
    pool's loader are left alone."""

    objects_max: int  # about so many objects, or chunks of tickets
    pool: Pool = Pool.CACHE  # that the loader takes its extents from


Other = Land | Move | Hope | Settle | Await | Forsake
Message = Survey | ReserveLoad | Finish | Other
