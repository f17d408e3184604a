"""What both sides of a push have in common: what is offered, what they want done, how long they wait.

The sides are pure: `pd_sending.Sending` and `pd_receiving.Receiving` take words, news and the time, and answer with
effects, in the order in which they are to be carried out. Between the two:

    sender                                      receiver
    OFFERING   --- Offer -------------------->  WAITING for its turn at the budget
               <-- Grant, of each part -------  FILLING
    SENDING    --- Data; pieces to landings -->    each part: OPEN -> CLOSING -> SEALED -> LANDING -> LANDED
    COMMITTING --- Commit ------------------->
               <-- State(COMMITTED) ----------  COMMITTED
    OVER       <-- Abort, from either side -->  OVER

Of objects that are not committed yet, runs may be sent and told (`pd_early`); the object's own digest comes with its
commit, and nothing of it is verified or landed before.

Whatever was lost with a stream is said again, and every word may come twice. Both sides end within their deadlines,
whatever the other one does: `until` says when to call `tick`.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct

from penstock.actors.api.pd_wire import Offer, Reason, Word
from penstock.actors.api.types import KEY_BYTES

RUN_DIGEST = Struct("<Q")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a side waits, seconds."""

    allocation_s: float  # for the receive budget
    transfer_s: float  # from the first grant to the end
    idle_s: float  # without a word of the other side, or a piece
    query_s: float  # until a sender asks whether the receiver is there; below idle_s


@dataclass(frozen=True, slots=True)
class Layout:
    """The objects of an offer by their place: chunk-major, one for each slot."""

    chunks: int
    slots: tuple[int, ...]
    logical_bytes: tuple[int, ...]  # of each slot
    runs: tuple[int, ...]  # of each slot

    @staticmethod
    def of(offer: Offer, runs: tuple[int, ...]) -> Layout:
        return Layout(len(offer.keys) // KEY_BYTES, offer.slots, offer.logical_bytes, runs)

    @property
    def width(self) -> int:
        """Objects of one chunk."""
        return len(self.slots)

    @property
    def objects(self) -> int:
        return self.chunks * self.width

    def bytes_of(self, places: Iterable[int]) -> int:
        """Logical bytes of these objects."""
        return sum(self.logical_bytes[place % self.width] for place in places)

    def runs_of(self, place: int) -> int:
        return self.runs[place % self.width]


@dataclass(frozen=True, slots=True)
class ObjectDigests:
    """Of one object. `runs` are packed u64; empty: it has none."""

    place: int
    digest: int
    runs: bytes


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Say:
    """To the other side, if there is a stream; what is lost is said again."""

    word: Word


@dataclass(frozen=True, slots=True)
class Close:
    """The landing of a part; tell `closed`, when nobody can write its memory any more."""

    first_chunk: int


@dataclass(frozen=True, slots=True)
class Verify:
    """These objects of a part, over its memory, which nobody writes any more; tell `verified`."""

    first_chunk: int
    objects: tuple[ObjectDigests, ...]


@dataclass(frozen=True, slots=True)
class Land:
    """These objects of a part are good: L1 is to say so to its tickets; tell `landed`."""

    first_chunk: int
    objects: tuple[ObjectDigests, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Let go of the memory of a part: nobody writes it, nor reads it to verify it."""

    first_chunk: int


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing more comes of it but what was begun with parts. `reason` None: all of it is there."""

    reason: Reason | None
    text: str


Effect = Say | Close | Verify | Land | Drop | Over


class PdBug(AssertionError):
    """Ours: told of something that cannot be in this state."""


def commit_digest(digests: Sequence[int]) -> bytes:
    """Of the digests of all objects that were sent, in the order of their places."""
    packed = array("Q", digests)
    if sys.byteorder == "big":
        packed.byteswap()
    return hashlib.sha256(packed).digest()


def soonest(*times: float) -> float:
    """The first of these times; inf, if there is none."""
    return min(times, default=math.inf)
