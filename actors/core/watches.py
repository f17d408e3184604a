"""Tickets whose watermark can still move, because writes they hope for are in flight, or stores may have more.

Pure bookkeeping: the L1 manager asks which are due, computes their new watermark from the table, and reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.actors.api.types import KEY_BYTES, GeometryId, SessionId, Shortfall, TicketId


@dataclass(slots=True)
class Watch:
    ticket: TicketId
    session: SessionId  # whose lookup it was
    keys: bytes
    geometry: GeometryId
    hit_chunks: int  # last reported; never decreases
    promised_chunks: int  # last reported; >= hit_chunks
    expires: float  # loop time at which the ticket is over
    hope_chunks: int = 0  # what the prefetcher promises; less than is hit: nothing
    shortfall: Shortfall = Shortfall.NONE  # why it promises no more

    def reaches(self, hit_chunks: int, by_writers: int) -> int:
        """What its watermark can still come to, when writers promise so much.

        With nothing of it but a reason from the prefetcher it stays: that has waited for writers as long as it may."""
        if not self.hope_chunks and self.shortfall is not Shortfall.NONE:
            return hit_chunks
        return max(by_writers, self.hope_chunks)


class Watches:
    """At most `watches_max` at once; a lookup beyond that is final at once, which is only less helpful."""

    def __init__(self, *, watches_max: int, chunks_max: int) -> None:
        self._watches_max = watches_max
        self._chunks_max = chunks_max
        self._chunks = 0  # of all prompts in _watches, <= chunks_max
        self._watches: dict[TicketId, Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def has_room(self, keys: bytes) -> bool:
        """Whether a ticket for these packed keys may be watched, too."""
        chunks = self._chunks + len(keys) // KEY_BYTES
        return len(self._watches) < self._watches_max and chunks <= self._chunks_max

    def has(self, ticket: TicketId) -> bool:
        return ticket in self._watches

    def find(self, ticket: TicketId) -> Watch | None:
        return self._watches.get(ticket)

    def add(self, watch: Watch) -> None:
        assert self.has_room(watch.keys)
        assert watch.ticket not in self._watches
        self._watches[watch.ticket] = watch
        self._chunks += len(watch.keys) // KEY_BYTES

    def remove(self, ticket: TicketId) -> None:
        if (watch := self._watches.pop(ticket, None)) is not None:
            self._chunks -= len(watch.keys) // KEY_BYTES

    def living(self, now: float) -> Iterator[Watch]:
        """Those whose ticket is not over, oldest first. The caller may remove while iterating."""
        return (watch for watch in [*self._watches.values()] if watch.expires > now)

    def expired(self, now: float) -> Iterator[Watch]:
        return (watch for watch in [*self._watches.values()] if watch.expires <= now)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert len(self._watches) <= self._watches_max
        chunks = [len(watch.keys) // KEY_BYTES for watch in self._watches.values()]
        assert self._chunks == sum(chunks) <= self._chunks_max
        for watch in self._watches.values():
            assert 0 <= watch.hit_chunks < watch.promised_chunks <= len(watch.keys) // KEY_BYTES, (
                watch
            )
