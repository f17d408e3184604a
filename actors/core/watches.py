"""Tickets whose watermark can still move, because writes or loads they hope for are in flight.

Pure bookkeeping: the L1 manager asks which are due, computes their new watermark from the table, and reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.actors.api.types import GeometryId, SessionId, TicketId


@dataclass(slots=True)
class Watch:
    ticket: TicketId
    session: SessionId  # whose lookup it was
    keys: bytes
    geometry: GeometryId
    hit_chunks: int  # last reported; never decreases
    promised_chunks: int  # last reported; >= hit_chunks
    expires: float  # loop time at which the ticket is over


class Watches:
    """At most `watches_max` at once; a lookup beyond that is final at once, which is only less helpful."""

    def __init__(self, *, watches_max: int) -> None:
        self._watches_max = watches_max
        self._watches: dict[TicketId, Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    @property
    def has_room(self) -> bool:
        return len(self._watches) < self._watches_max

    def has(self, ticket: TicketId) -> bool:
        return ticket in self._watches

    def add(self, watch: Watch) -> None:
        assert self.has_room
        assert watch.ticket not in self._watches
        self._watches[watch.ticket] = watch

    def remove(self, ticket: TicketId) -> None:
        self._watches.pop(ticket, None)

    def living(self, now: float) -> Iterator[Watch]:
        """Those whose ticket is not over, oldest first. The caller may remove while iterating."""
        return (watch for watch in [*self._watches.values()] if watch.expires > now)

    def expired(self, now: float) -> Iterator[Watch]:
        return (watch for watch in [*self._watches.values()] if watch.expires <= now)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert len(self._watches) <= self._watches_max
        for watch in self._watches.values():
            assert 0 <= watch.hit_chunks < watch.promised_chunks <= len(watch.keys) // 32, watch
