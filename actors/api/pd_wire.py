"""What the two sides of a push say to each other, as `pd.proto` has it: values without a wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from struct import Struct
from typing import NewType

from penstock.actors.api.types import Epoch

TransferId = NewType("TransferId", bytes)
"""One life of one push, drawn by its sender: 16 bytes."""

TRANSFER_BYTES = 16
OBJECTS_MAX = 1 << 16  # of one offer: what is done for each of them fits into a step of the loop
CHUNKS_MAX = 1 << 16
PRIORITY_MAX = 1000
DIGESTS_MAX = 1 << 12  # records of one Data: what is done for them is a step of the loop
DIGEST_RECORD = Struct("<QQ")
"""Piece number, CRC-64/NVME."""

RUN_BITS = 20
WHOLE = (1 << RUN_BITS) - 1
"""In the place of a run: the object."""


def piece_number(place: int, run: int = WHOLE) -> int:
    """Of a run of the object at this place of the offer, or of the whole object."""
    return place << RUN_BITS | run


class Reason(Enum):
    """Why a push ended without all of its objects. Named as in `pd.proto`."""

    CANCELLED = "who wanted it wants it no more"
    NO_ROOM = "the receive budget was taken by others until the time for it was up"
    TOO_LARGE = "the whole receive budget is too small for it, or it breaks another bound"
    NAMESPACE = "no engine of the receiver has declared this namespace"
    STALE = "it names another life of the receiver, or a transfer that is not known any more"
    MISMATCH = "the prompt expected under this request id is another one"
    UNSUPPORTED = "it consists of slices, which the receiver does not scatter"
    OUT_OF_TIME = "the time for it is up"
    IDLE = "nothing was heard of the other side, or nobody came for it, for too long"
    DAMAGED = "what arrived is not what was sent"
    SOURCE = "the sender has not got the objects, or lost them"
    PEER = "the link or its data connection was lost"
    BUSY = "the receiver takes on no more"
    PROTOCOL = "the other side has broken the contract"
    STOPPING = "the node stops"


class Phase(Enum):
    """How far the receiver is. Named as in `pd.proto`."""

    UNKNOWN = "no such transfer, or not any more"
    WAITING = "for its turn at the receive budget"
    GRANTED = "and not complete"
    COMMITTED = "all has arrived, and was verified"


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of an object under unequal tensor parallelism."""

    slot: int  # of the receiver's namespace
    first_layer: int
    layers: int
    first_head: int
    heads: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Object number n is that of slot `slots[n % len(slots)]` of chunk `n // len(slots)`."""

    transfer: TransferId
    request_id: str
    epoch: Epoch  # of the receiver's life
    namespace: bytes  # its digest, and the receiver's
    keys: bytes  # of the prompt's chunks, from its start
    slots: tuple[int, ...]  # ascending
    logical_bytes: tuple[int, ...]  # of an object of each slot
    priority: int
    within_s: float  # that the sender gives all of it
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Of consecutive chunks. The landing's slots are the objects that are needed, in order."""

    transfer: TransferId
    request_id: str
    epoch: Epoch
    first_chunk: int
    needs: bytes  # one for each object, chunk-major: 1, it is to be sent
    landing: bytes = field(repr=False)  # empty: nothing is


@dataclass(frozen=True, slots=True)
class Data:
    transfer: TransferId
    digests: bytes = field(repr=False)  # packed DIGEST_RECORD


@dataclass(frozen=True, slots=True)
class Commit:
    transfer: TransferId
    objects: int  # that were sent
    digest: bytes  # SHA-256 of their packed digests, in the order of the offer
    chunks: int  # of the prompt, from its start; fewer than were offered: the sender has no more


@dataclass(frozen=True, slots=True)
class Abort:
    transfer: TransferId
    reason: Reason
    text: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    transfer: TransferId


@dataclass(frozen=True, slots=True)
class State:
    transfer: TransferId
    phase: Phase
    grants: int = 0  # that were sent
    objects: int = 0  # that were needed, and are verified


Word = Offer | Grant | Data | Commit | Abort | Query | State
