"""What one may ask of the L1 manager. Every message is a batch; ids of leases are drawn by the manager."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.actors.api import l1_contents, l1_loading, l1_saving
from penstock.actors.api.types import (
    Afterwards,
    Extents,
    GeometryId,
    GroupGeometry,
    InstanceId,
    LeaseId,
    Pool,
    SessionId,
    Shortfall,
    TicketId,
)
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg

if TYPE_CHECKING:
    from penstock.actors.api.gateway import Gateway
    from penstock.actors.api.loader import Loader
    from penstock.runtime.ref import Ref


class L1Manager(Actor["Message"]):
    """Address of the L1 manager. One per node; its death ends the epoch and the node."""


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Hit:
    """`hit_chunks` are pinned for `ticket`; `promised_chunks` counts what is on its way too.

    `ticket` is empty when nothing was hit and nothing is on its way."""

    ticket: TicketId
    hit_chunks: int
    promised_chunks: int  # >= hit_chunks
    is_hoped: bool = False  # the loader is to fetch what is missing, or to say that it does not
    shortfall: Shortfall = Shortfall.NONE

    @property
    def final(self) -> bool:
        return self.promised_chunks == self.hit_chunks


@dataclass(frozen=True, slots=True)
class ReadLease:
    lease: LeaseId
    extents: Extents  # chunk-major, one per slot asked for
    chunks: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class WriteLease:
    """`answers` holds one byte of `_native.Answer` per (chunk, slot); `extents` one record per answer."""

    lease: LeaseId  # empty when nothing was granted
    answers: bytes
    extents: Extents
    bytes_missing: int  # arena bytes of what was answered NO_ROOM and eviction could make room for
    lease_s: float
    own_bytes_missing: int = 0  # the same of QUOTA, and of eviction of what the tenant itself has


@dataclass(frozen=True, slots=True)
class Ended:
    """What one bounded step has ended. Until `is_over`, something of it is left, a lease half way perhaps."""

    count: int  # of leases or tickets that came to their end
    is_over: bool


@dataclass(frozen=True, slots=True)
class Closed:
    tickets: int  # that were open
    seen: int  # of those that the message names, from its first on; the others are left for another step


@dataclass(frozen=True, slots=True)
class Room:
    bytes_freed: int
    chunks_evicted: int
    is_over: bool  # nothing is left that may go
    bytes_quarantined: int = 0  # evicted, and still read: free when that ends


@dataclass(frozen=True, slots=True)
class Usage:
    """Gauges of the table, in bytes of arena taken, and its counters since the epoch began."""

    arena_bytes: int
    free_bytes: int
    reserved_bytes: int
    loaded_bytes: int
    resident_bytes: int
    quarantined_bytes: int
    pinned_bytes: int
    largest_free_bytes: int
    chunks: int
    objects: int
    leases: int
    overdue_leases: int
    tickets: int
    evicted_chunks: int
    damaged_objects: int
    lookups: int
    lookup_chunks: int
    hit_chunks: int
    # Of Pool.PD, which nothing above counts bytes of.
    pd_bytes: int = 0
    pd_free_bytes: int = 0
    pd_reserved_bytes: int = 0
    pd_loaded_bytes: int = 0
    pd_quarantined_bytes: int = 0

    @property
    def taken_bytes(self) -> int:
        return self.arena_bytes - self.free_bytes


# ---------------------------------------------------------------- attaching


@dataclass(frozen=True, slots=True)
class AddGeometry(Msg["L1Manager", GeometryId]):
    """Answers the number of these groups of this namespace, the same whenever they are the same."""

    groups: tuple[GroupGeometry, ...]
    namespace: bytes  # its digest


@dataclass(frozen=True, slots=True)
class Attach(Msg["L1Manager", None]):
    session: SessionId
    instance: InstanceId


@dataclass(frozen=True, slots=True)
class StreamLost(Msg["L1Manager", int]):
    """Pins of the session are gone, its reservations leave the index, their memory is quarantined.

    Answers how many leases it leaves behind, those included that were overdue before."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class OrphanSome(Msg["L1Manager", Ended]):
    """One bounded step of StreamLost, which must follow: about so many objects, of a large lease a part."""

    session: SessionId
    objects_max: int


@dataclass(frozen=True, slots=True)
class EndSome(Msg["L1Manager", Ended]):
    """The same of ProcessGone and GiveUp: its leases, which are counted, and the tickets that end with it."""

    session: SessionId
    objects_max: int


@dataclass(frozen=True, slots=True)
class ProcessGone(Msg["L1Manager", int]):
    """The process is proven dead (or proven never to have mapped the arena). Answers the leases ended."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class GiveUp(Msg["L1Manager", int]):
    """The living owner says it touches nothing of the lost session any more. Answers the leases given up."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class CloseSome(Msg["L1Manager", Ended]):
    """Nobody is left who could use the instance's tickets: close those of about so many chunks."""

    instance: InstanceId
    chunks_max: int


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Peek(Msg["L1Manager", int]):
    keys: bytes
    geometry: GeometryId


@dataclass(frozen=True, slots=True)
class Lookup(Msg["L1Manager", Hit]):
    """Pin the resident prefix. A ticket that can still grow is watched: `watcher` hears `gateway.TicketMoved`.

    `ticket` is drawn by the asker, who can then close it even when it gave up before it heard the answer. With a
    `loader` the whole prompt is promised as long as that may bring it; it hears when the ticket is over."""

    ticket: TicketId
    keys: bytes
    geometry: GeometryId
    session: SessionId
    instance: InstanceId
    readers: int
    ticket_s: float
    watcher: Ref[Gateway] | None
    loader: Ref[Loader] | None = None
    afterwards: Afterwards = Afterwards.KEEP  # when the loader has done with it, or is no more
    pool: Pool = Pool.CACHE  # that the loader takes its extents from


@dataclass(frozen=True, slots=True)
class LookAgain(Msg["L1Manager", Hit]):
    """The hit of a ticket as it is now; pins what has become readable since. `keys` are the whole prompt's."""

    ticket: TicketId
    keys: bytes
    geometry: GeometryId


@dataclass(frozen=True, slots=True)
class Acquire(Msg["L1Manager", ReadLease]):
    ticket: TicketId
    session: SessionId
    rank: int
    slots: tuple[int, ...]
    first_chunk: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class Release(Msg["L1Manager", bool]):
    lease: LeaseId
    session: SessionId
    damaged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CloseTickets(Msg["L1Manager", Closed]):
    """Their pins go; leases made from them live on. One bounded step: at least the first of them.

    Who watches one that another session looked up hears of its end."""

    tickets: tuple[TicketId, ...]
    instance: InstanceId
    session: SessionId  # who closes them


@dataclass(frozen=True, slots=True)
class Touch(Msg["L1Manager", int]):
    """Make these chunks recent. Answers how many of them are known."""

    keys: bytes


@dataclass(frozen=True, slots=True)
class Promise(Msg["L1Manager", Hit]):
    """What a lookup would hit now and later; touches it, pins nothing."""

    keys: bytes
    geometry: GeometryId


# ---------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class MakeReady(Msg["L1Manager", None]):
    """A part of a long prompt is about to be reserved: back the memory that this will write."""

    keys: bytes
    geometry: GeometryId
    slots: tuple[int, ...]
    chunks_before: int  # of the prompt, made ready already


@dataclass(frozen=True, slots=True)
class Reserve(Msg["L1Manager", WriteLease]):
    keys: bytes
    parent: bytes
    geometry: GeometryId
    slots: tuple[int, ...]
    salt: bytes = field(repr=False)  # the tenant charged
    session: SessionId
    lease_s: float
    instead_of: LeaseId | None = None  # aborted in the same step: nobody takes its room in between


@dataclass(frozen=True, slots=True)
class Commit(Msg["L1Manager", l1_saving.Committed]):
    """`indices` empty: all that were granted.

    A long one is sent part by part, whole each time: `done` of its objects were committed before, with `runs_done` of
    its run digests, and this part is of at most `objects_max`."""

    lease: LeaseId
    session: SessionId
    indices: tuple[int, ...]
    digests: bytes
    runs: bytes
    done: int = 0
    runs_done: int = 0
    objects_max: int = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Abort(Msg["L1Manager", bool]):
    lease: LeaseId
    session: SessionId


@dataclass(frozen=True, slots=True)
class GiveBack(Msg["L1Manager", None]):
    """An Abort of what its caller never heard of."""

    lease: LeaseId
    session: SessionId


# ---------------------------------------------------------------- room


@dataclass(frozen=True, slots=True)
class SetQuota(Msg["L1Manager", int]):
    """Bound what a tenant holds, until the epoch ends; 0: no bound. What is above it stays until it is evicted. Answers
    the bytes it holds now. Raises TooManyTenants, HeldUnbound."""

    salt: bytes = field(repr=False)
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Evict(Msg["L1Manager", Room]):
    """Free so many bytes, by evicting at most so many chunks that nobody reads or writes."""

    bytes_wanted: int
    chunks_max: int
    own: bytes | None = field(default=None, repr=False)  # of the tenant of this salt alone


@dataclass(frozen=True, slots=True)
class TakePressure(Msg["L1Manager", Usage]):
    """What Pressure was told of is looked into now: the next one is told anew."""


@dataclass(frozen=True, slots=True)
class Measure(Msg["L1Manager", Usage]):
    pass


Message = (
    AddGeometry | Attach | OrphanSome | EndSome | StreamLost | ProcessGone | GiveUp | CloseSome
    | Peek | Lookup | LookAgain | Acquire | Release | CloseTickets | Touch | Promise
    | MakeReady | Reserve | Commit | Abort | GiveBack | Evict | TakePressure | Measure
    | SetQuota | l1_contents.Message | l1_loading.Message | l1_saving.Message
)  # fmt: skip
