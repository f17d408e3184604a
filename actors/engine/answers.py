"""What the node says of a prompt beside its bytes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.protos import engine_pb2

TicketT = TypeVar("TicketT")


@dataclass(frozen=True, slots=True)
class Prefetched(Generic[TicketT]):
    """How much of a prompt is readable now, and how much when what is on its way has come."""

    total_chunks: int = 0
    hit_chunks: int = 0
    promised_chunks: int = 0
    ticket: TicketT | None = None
    """Of the pin: wait for its `ready` for the loads, `cancel()` to unpin before its time. None: nothing is pinned."""


class SaveState(enum.IntEnum):
    """What became of one object at one store."""

    UNKNOWN = 0  # nothing is remembered of it, and the store does not have it
    SAVED = 1  # whole, and durable as the store was configured
    FAILED = 2  # finally; it is not there
    PENDING = 3  # it waits, or is being saved
    NOT_WANTED = 4  # the store's write policy has not asked for it (yet)


@dataclass(frozen=True, slots=True)
class Saves:
    """What became of a prompt's objects at the stores below the node's memory."""

    stores: tuple[str, ...] = ()  # in tier order
    slots: int = 0  # objects per chunk that are told of
    states: bytes = b""  # one byte of SaveState for each (chunk, slot, store), in that order

    @staticmethod
    def of(reply: engine_pb2.Stored) -> Saves:
        return Saves(tuple(reply.stores), reply.slots, reply.states)

    def at(self, store: str) -> list[SaveState]:
        """Of each object in turn, chunk by chunk. Raises ValueError for a store that the node does not have."""
        if store not in self.stores:
            there = ", ".join(self.stores) or "none"
            raise ValueError(f"the node has no store {store!r}: it has {there}")
        place = self.stores.index(store)
        return [SaveState(one) for one in self.states[place :: len(self.stores)]]
