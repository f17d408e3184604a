"""Values that several actors speak of. Keys and extents stay packed: Python never loops over them on a hot path."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, Protocol

KEY_BYTES = 32
EXTRA_BYTES_MAX = 1024  # of what else enters one chunk's key
REQUEST_ID_CHARS_MAX = 256
EXTENT_BYTES = 24
"""One packed extent: offset u64, bytes u64, digest u64, little-endian."""

SessionId = NewType("SessionId", int)
"""One attached process, numbered by the node. Not a secret: the session secret is."""

InstanceId = NewType("InstanceId", int)
"""One engine instance, numbered by the node in order of first attach."""

NODE_SESSION = SessionId(0)
NODE_INSTANCE = InstanceId(0)
"""Whose leases are the node's own: loads, saves. They never expire; their life is their handle."""

TenantId = NewType("TenantId", int)
"""One cache salt, numbered by the node. 0 is the empty salt."""

GeometryId = NewType("GeometryId", int)
"""One registered geometry of the table: which objects a chunk has, and what a hit needs of them."""

LeaseId = NewType("LeaseId", bytes)
TicketId = NewType("TicketId", bytes)
Epoch = NewType("Epoch", bytes)


class Memory(Protocol):
    """The arena, as those see it who hand its memory to stores."""

    def view(self, offset: int, size_bytes: int, /) -> memoryview:
        """A writable view of a range, which stays mapped as long as the view lives."""


class HitRule(Enum):
    """What a group needs for a prefix of n chunks to be a hit."""

    FULL = "every chunk"
    WINDOW = "the last window_chunks of the prefix"
    STATE = "the state at the end of the prefix"


@dataclass(frozen=True, slots=True)
class GroupGeometry:
    """One group of a geometry: its rule, and the exact object bytes and runs of each of its shards."""

    rule: HitRule
    window_chunks: int  # 0 unless rule is WINDOW
    shard_bytes: tuple[int, ...]
    shard_runs: tuple[int, ...]  # (layer, component) runs in an object


class Shortfall(Enum):
    """Why a ticket's final watermark is below what its prompt could have had. Named as in `engine.proto`."""

    NONE = "nothing is missing, or nobody has it"
    SLOWER_THAN_PREFILL = "loading it would take longer than computing it"
    NO_ROOM = "it does not fit into L1 beside what is held there"
    FAILED = "a store had it and could not give it"
    OUT_OF_TIME = "it did not come in time"
    BUSY = "the node is at its bound of loads"
    QUOTA = "it does not fit into the tenant's quota beside what is held there"


class Pool(Enum):
    """Which part of the arena a load's extents are taken from. Neither part ever serves for the other."""

    CACHE = "l1.bytes: what the cache holds, makes room in by eviction, and charges tenants for"
    PD = "pd.receive: what other nodes push; all of it is temporary, and no tenant is charged"


class Afterwards(Enum):
    """What becomes of a ticket when its loads are over."""

    KEEP = "it lives on, for its readers, until it is closed or expires"
    CLOSE = "it was only for the loads: nobody reads it"


@dataclass(frozen=True, slots=True)
class Slot:
    """One kind of object of a geometry: which group's and shard's, by position, and how large."""

    group: int
    shard: int
    bytes: int
    runs: int  # (layer, component) runs


@dataclass(frozen=True, slots=True)
class Shape:
    """What the number of a geometry stands for: one namespace, and the objects of each of its chunks by slot."""

    geometry: GeometryId
    namespace: bytes  # its digest
    groups: tuple[GroupGeometry, ...]
    slots: tuple[Slot, ...]
    is_all_full: bool = field(init=False)  # every shorter prefix of a hit is a hit

    def __post_init__(self) -> None:
        is_all_full = all(group.rule is HitRule.FULL for group in self.groups)
        object.__setattr__(self, "is_all_full", is_all_full)

    @staticmethod
    def of(geometry: GeometryId, namespace: bytes, groups: tuple[GroupGeometry, ...]) -> Shape:
        """Slots count the shards of the groups in order, as the table does."""
        slots = (
            Slot(
                number,
                shard,
                group.shard_bytes[shard],
                group.shard_runs[shard] if group.shard_runs else 1,
            )
            for number, group in enumerate(groups)
            for shard in range(len(group.shard_bytes))
        )
        return Shape(geometry, namespace, groups, tuple(slots))

    def slots_of(self, group: int) -> range:
        """The slots of one group's shards."""
        first = sum(len(one.shard_bytes) for one in self.groups[:group])
        return range(first, first + len(self.groups[group].shard_bytes))


@dataclass(frozen=True, slots=True)
class Extents:
    """Where objects lie in the arena: packed records of (offset, bytes, digest)."""

    packed: bytes

    def __len__(self) -> int:
        return len(self.packed) // EXTENT_BYTES
