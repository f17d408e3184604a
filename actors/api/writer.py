"""What one may ask of the store writer, which saves what is in L1 to the stores below it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from penstock.actors.api.l1_saving import Borrowed
from penstock.actors.api.types import GeometryId
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg


class StoreWriter(Actor["Message"]):
    """Address of the store writer."""


class ObjectState(enum.IntEnum):
    """What became of one object at one store. On the wire: `SaveState` of engine.proto, equal numbers."""

    UNKNOWN = 0  # nothing is known of it, and the store does not say that it has it (any more)
    SAVED = 1  # whole, and visible; durable as the store was configured
    FAILED = 2  # finally; it is not there
    PENDING = 3  # it waits, or is being saved
    NOT_WANTED = 4  # the store's write policy did not ask for it (yet)


@dataclass(frozen=True, slots=True)
class News(Msg["StoreWriter", None]):
    """Something was committed, or hit. Told once, until it is taken (`l1_saving.TakeCommitted`, `TakeHits`)."""


@dataclass(frozen=True, slots=True)
class SavedDown:
    """Of a batch that is about to be evicted, counted in (object, store)."""

    saved: int
    failed: int  # finally: they may go all the same
    late: int  # not begun: the store's part of L1 was taken by others for too long


@dataclass(frozen=True, slots=True)
class SaveDown(Msg["StoreWriter", SavedDown]):
    """These objects are about to be evicted: save them to every store that wants them then, or still waits for them.
    Answers when all of that is settled."""

    batch: Borrowed
    room_s: float  # how long the batch is held until a store's part of L1 has room for it


@dataclass(frozen=True, slots=True)
class Stored:
    """`states`: one byte of ObjectState for each (chunk, slot, store), in that order, as they are when it is answered.
    `stores`: their names, in tier order."""

    stores: tuple[str, ...]
    states: bytes


@dataclass(frozen=True, slots=True)
class WaitStored(Msg["StoreWriter", Stored]):
    """Wait until nothing of these objects is pending any more, at most so long; then say what became of them."""

    keys: bytes  # of chunks
    geometry: GeometryId
    slots: tuple[int, ...]
    within_s: float


@dataclass(frozen=True, slots=True)
class LetGo(Msg["StoreWriter", int]):
    """Somebody needs room, and nothing else may go: what is being saved may be evicted meanwhile, and what it rests on.
    With `own`, what is being saved of the tenant of this salt. Answers how many leases that were."""

    own: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class WriterUsage:
    """Arena bytes held by saves under way, and objects that wait to be saved, of all stores together."""

    inflight_bytes: int
    queued_objects: int
    queued_bytes: int


@dataclass(frozen=True, slots=True)
class Measure(Msg["StoreWriter", WriterUsage]):
    pass


Message = News | SaveDown | WaitStored | LetGo | Measure
