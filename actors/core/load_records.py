"""Loads under way, and the tickets that wait for each: two tickets that want one object load it once.

    open ----> LOADING --landed--> LANDED --all kept, or its last ticket leaves--> over
      join* ------'  \\                '- join*
                      '-- failed, or its last ticket leaves --> over

A record is one call of one tier: some objects of consecutive chunks, under one lease. It lasts as long as its latest
ticket wants it. Pure bookkeeping: who loads, and what becomes of the lease, is the prefetcher's.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from penstock.actors.api.types import TicketId

Name = tuple[bytes, int]
"""An object: the key of its chunk, and its slot. A chunk's key tells the prompt before it, and so its geometry."""


class Stage(enum.Enum):
    LOADING = "a tier is at it"
    LANDED = "readable by the tickets that wait for it"
    OVER = "gone from the book"


@dataclass(slots=True, eq=False)
class Record:
    """One load. `names` and `places` are parallel: what an object is, and its (chunk, slot) in every prompt with it."""

    tier: int
    names: tuple[Name, ...]
    places: tuple[tuple[int, int], ...]
    deadline: float  # the latest of its tickets'; loop time
    stage: Stage = Stage.LOADING
    tickets: dict[TicketId, None] = field(
        default_factory=dict
    )  # in order of joining; > 0 unless OVER


class Records:
    """All loads of one prefetcher."""

    def __init__(self) -> None:
        self._by_name: dict[Name, Record] = {}
        self._of: dict[TicketId, dict[Record, None]] = {}  # tickets without a record are not in it

    def __len__(self) -> int:
        return len({id(record) for record in self._by_name.values()})

    def find(self, name: Name) -> Record | None:
        """The load that brings this object, or has brought it and keeps it for its tickets."""
        return self._by_name.get(name)

    def open(
        self,
        tier: int,
        names: Sequence[Name],
        places: Sequence[tuple[int, int]],
        ticket: TicketId,
        deadline: float,
    ) -> Record:
        """A new load of objects that L1 has granted.

        A grant proves that whoever had an object's name before has lost it, though its load may not have heard so yet:
        the name is the new load's.
        """
        record = Record(tier, tuple(names), tuple(places), deadline)
        self._by_name.update(dict.fromkeys(record.names, record))
        self._add(record, ticket)
        return record

    def join(self, record: Record, ticket: TicketId, deadline: float) -> None:
        """One more ticket waits for this load, which may take as long as that one may. Idempotent."""
        assert record.stage is not Stage.OVER
        record.deadline = max(record.deadline, deadline)
        self._add(record, ticket)

    def of(self, ticket: TicketId) -> tuple[Record, ...]:
        """The loads that a ticket waits for, oldest first."""
        return tuple(self._of.get(ticket, ()))

    def is_waiting(self, ticket: TicketId) -> bool:
        """Whether anything that it wants is still being loaded."""
        return any(record.stage is Stage.LOADING for record in self._of.get(ticket, ()))

    def land(self, record: Record, names: Iterable[Name]) -> None:
        """Of the load only these objects were lost; the rest is there."""
        assert record.stage is Stage.LOADING
        record.stage = Stage.LANDED
        self.forget(record, names)

    def forget(self, record: Record, names: Iterable[Name]) -> None:
        """These objects are the record's matter no more: they are resident, or lost."""
        for name in names:
            if self._by_name.get(name) is record:
                del self._by_name[name]

    def leave(self, ticket: TicketId, records: Iterable[Record]) -> Iterator[Record]:
        """The ticket waits for these no more. Gives those of which it was the last; they are over."""
        mine = self._of.get(ticket, {})
        for record in [*records]:
            mine.pop(record, None)
            record.tickets.pop(ticket, None)
            if not record.tickets and record.stage is not Stage.OVER:
                self.close(record)
                yield record
        if not mine:
            self._of.pop(ticket, None)

    def close(self, record: Record) -> None:
        """The load has ended, for all its tickets."""
        record.stage = Stage.OVER
        self.forget(record, record.names)
        for ticket in record.tickets:
            self._of[ticket].pop(record, None)
            if not self._of[ticket]:
                del self._of[ticket]
        record.tickets.clear()

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        for name, record in self._by_name.items():
            assert name in record.names
            assert record.stage is not Stage.OVER
            assert record.tickets, "a load that nobody waits for"
        for ticket, mine in self._of.items():
            assert mine
            assert all(ticket in record.tickets for record in mine)

    def _add(self, record: Record, ticket: TicketId) -> None:
        record.tickets[ticket] = None
        self._of.setdefault(ticket, {})[record] = None
