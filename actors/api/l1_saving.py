"""What one may ask of the L1 manager to save objects elsewhere, and to make room: part of `l1.Message`.

Whatever is borrowed is held until the last reference to its `hold` is gone: nobody can forget to give it back, and
memory that a save still reads is never given to a writer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from penstock.actors.api.types import KEY_BYTES, GeometryId, LeaseId, SessionId, Shape
from penstock.runtime.message import Msg

if TYPE_CHECKING:
    from penstock.actors.api.l1 import L1Manager, Room  # noqa: F401 - messages are addressed to it

BORROWED = Struct("<QQQIIHHI")
"""offset, bytes, digest, chunk (its key's place), tenant (a number), slot, 0, runs (how many digests)."""

SLOT = Struct("<H")
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Named:
    """Objects of one shape by name: a chunk's key and a slot for each, packed."""

    shape: Shape
    keys: bytes
    slots: bytes  # packed u16

    def __len__(self) -> int:
        return len(self.slots) // SLOT.size

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        for place, (slot,) in enumerate(SLOT.iter_unpack(self.slots)):
            yield self.keys[place * KEY_BYTES : (place + 1) * KEY_BYTES], slot


@dataclass(frozen=True, slots=True)
class BorrowedObject:
    """One object as it lies in the arena."""

    key: bytes  # of its chunk
    slot: int
    offset: int
    logical_bytes: int
    digest: int
    run_digests: bytes  # packed u64; empty: it was committed without any
    tenant: bytes  # digest of the salt; empty: none


@dataclass(frozen=True, slots=True)
class Borrowed:
    """Objects of one shape that may be read until the last reference to `hold` is gone."""

    shape: Shape
    keys: bytes  # of their chunks
    objects: bytes = field(repr=False)  # packed BORROWED records
    runs: bytes = field(repr=False)  # packed u64 run digests of all of them, in order
    tenants: Mapping[int, bytes] = field(repr=False)  # digests of salts by the numbers in `objects`
    arena_bytes: int
    lease: LeaseId
    hold: object = field(repr=False)

    def __len__(self) -> int:
        return len(self.objects) // BORROWED.size

    def __iter__(self) -> Iterator[BorrowedObject]:
        start = 0
        for offset, size, digest, chunk, tenant, slot, _, runs in BORROWED.iter_unpack(
            self.objects
        ):
            end = start + runs * DIGEST_BYTES
            key = self.keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES]
            own_runs = self.runs[start:end]
            yield BorrowedObject(key, slot, offset, size, digest, own_runs, self.tenants[tenant])
            start = end

    def presence(self) -> bytes:
        """One byte per slot of each chunk, chunk-major: 1, if its object is among these."""
        width = len(self.shape.slots)
        presence = bytearray(len(self.keys) // KEY_BYTES * width)
        for _, _, _, chunk, _, slot, _, _ in BORROWED.iter_unpack(self.objects):
            presence[chunk * width + slot] = 1
        return bytes(presence)


@dataclass(frozen=True, slots=True)
class Committed:
    """`outcomes`: one byte of `_native.Outcome` per index of a Commit. `backlog_bytes`: what waits to be saved below
    L1, or is being saved: a hint to write less, never a refusal. `runs_done`: for the next part of a long one."""

    outcomes: bytes
    backlog_bytes: int
    runs_done: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """The oldest news of commits, of one tenant. `is_last`: there was no more when this was taken."""

    borrowed: Borrowed | None
    named: Named | None  # what was left no room for: not held
    gone: int  # objects that left L1 before this
    lost: int  # counter: news that gave way to newer ones, since the epoch began
    is_last: bool


@dataclass(frozen=True, slots=True)
class TakeCommitted(Msg["L1Manager", Taken]):
    """Borrow what engines have committed, oldest first, at most so many objects. Those beyond `bytes_max` of the arena
    are only named. What `writer.News` was told of is looked into now: the next news is told anew."""

    objects_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class HitChunks:
    shape: Shape
    keys: bytes


@dataclass(frozen=True, slots=True)
class TakeHits(Msg["L1Manager", tuple[HitChunks, ...]]):
    """Chunks that lookups have hit since the last asking, about so many; what was too much to remember is not among
    them. Empty: no more."""

    chunks_max: int


@dataclass(frozen=True, slots=True)
class Borrow(Msg["L1Manager", tuple[Borrowed, ...]]):
    """All resident objects of these chunks, each tenant's under a lease of its own. To be borrowed is no use of a
    chunk. `wanted`: one byte per slot of each chunk, chunk-major: 0, if its object is not; empty: all are."""

    keys: bytes
    geometry: GeometryId
    wanted: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class BorrowWriting(Msg["L1Manager", Borrowed | None]):
    """Objects that an engine writes under a lease of its own, and has not committed: in the order of `indices`, their
    digests unknown. Whatever becomes of the lease, nobody else has their memory before the hold is gone. None: no
    indices. Raises WriteOver; InvalidField for an index that was not granted, is committed, or is out of order."""

    lease: LeaseId
    writer: SessionId
    indices: bytes = field(repr=False)  # packed u32, ascending


@dataclass(frozen=True, slots=True)
class Offered:
    """`is_over`: nothing is left that may go. None, and not over: a step in which all that was looked at was spared,
    as its tenants take little; see `victims.next_victims`."""

    borrowed: Borrowed | None
    is_over: bool


@dataclass(frozen=True, slots=True)
class Victims(Msg["L1Manager", Offered]):
    """What eviction would take next, held, and still there."""

    bytes_wanted: int
    chunks_max: int
    own: bytes | None = field(default=None, repr=False)  # of the tenant of this salt alone


@dataclass(frozen=True, slots=True)
class EvictThese(Msg["L1Manager", "Room"]):
    """Evict those of these chunks that nobody holds, and that have no other resident objects than these."""

    shape: Shape
    keys: bytes
    presence: bytes = field(repr=False)  # one byte per slot of each chunk: 1, if its object may go


@dataclass(frozen=True, slots=True)
class LetGo(Msg["L1Manager", bool]):
    """What was borrowed may be evicted though it is held: its memory comes back when it is held no more."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class DropSaved(Msg["L1Manager", int]):
    """Staging: these objects have been saved, or finally failed to be. Answers how many were still there."""

    objects: Named


@dataclass(frozen=True, slots=True)
class SaveBacklog(Msg["L1Manager", None]):
    """How many bytes wait to be saved, or are being saved, as the store writer knows it."""

    backlog_bytes: int


@dataclass(frozen=True, slots=True)
class TellShape(Msg["L1Manager", Shape]):
    """What the number of a geometry stands for."""

    geometry: GeometryId


@dataclass(frozen=True, slots=True)
class FindShapes(Msg["L1Manager", tuple[Shape, ...]]):
    """Of this namespace, all that were ever declared here: nearly always one, or none."""

    namespace: bytes  # its digest


Message = (
    TakeCommitted
    | TakeHits
    | Borrow
    | BorrowWriting
    | Victims
    | EvictThese
    | LetGo
    | DropSaved
    | SaveBacklog
    | TellShape
    | FindShapes
)
