"""What the dumb twin of the native table holds: dictionaries, sets, and counting anew every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from penstock._native import Rule

PAGE_BYTES = 4096
READABLE = frozenset({"resident"})
READABLE_BY_LOAD = READABLE | {"loaded"}
PROMISED = READABLE_BY_LOAD | {"reserved"}
IN_FLIGHT = frozenset({"reserved", "loaded"})


class Refused(Exception):
    """The twin would refuse; the name is that of the native error."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class TwinGroup:
    rule: Rule
    shards: int
    window: int = 0


@dataclass(eq=False)
class TwinObject:
    chunk: TwinChunk
    slot: int
    state: str = "reserved"  # reserved, loaded, resident, gone
    digest: int = 0
    damaged: bool = False
    readers: int = 0


@dataclass(eq=False)
class TwinChunk:
    key: bytes
    geometry: int
    tenant: int = 0
    parent: TwinChunk | None = None
    children: int = 0
    objects: dict[int, TwinObject] = field(default_factory=dict)  # by slot; live ones only
    pins: int = 0
    stamp: int = 0

    def resident(self) -> list[TwinObject]:
        return [one for one in self.objects.values() if one.state == "resident"]

    def is_candidate(self) -> bool:
        in_flight = any(one.state in IN_FLIGHT for one in self.objects.values())
        return not (self.pins or self.children or in_flight) and bool(self.resident())


@dataclass(eq=False)
class TwinLease:
    session: int
    writes: bool
    expires: float
    width: int
    objects: list[TwinObject | None]
    overdue: bool = False
    quarantined: set[int] = field(default_factory=set)  # indices
    pages_overdue: int = 0

    def chunks(self) -> list[TwinChunk]:
        """Each chunk once that the lease has an object of."""
        rows = range(0, len(self.objects), self.width)
        firsts = ([one for one in self.objects[r : r + self.width] if one] for r in rows)
        return [row[0].chunk for row in firsts if row]


@dataclass(eq=False)
class TwinTicket:
    instance: int
    geometry: int
    readers: int
    expires: float
    looked_up: int = 0
    chunks: list[TwinChunk | None] = field(default_factory=list)
    ranks: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Room:
    """What the arena and the tenants have."""

    pages: int
    objects: int
    chunks: int
    quotas: dict[int, int] = field(default_factory=dict)


class TwinState:
    def __init__(
        self, *, pages: int, objects_max: int, quarantine_pages: int, lru: bool = True
    ) -> None:
        self.room = Room(pages, objects_max, objects_max)
        self.quarantine_pages = quarantine_pages
        self.lru = lru
        self.geometries: list[Sequence[TwinGroup]] = []
        self.chunks: dict[bytes, TwinChunk] = {}  # the index
        self.gone: set[TwinObject] = set()  # quarantined: out of the index, with readers
        self.leases: dict[bytes, TwinLease] = {}
        self.tickets: dict[bytes, TwinTicket] = {}
        self.sessions: dict[int, int] = {}  # attached or lost: its instance
        self.lost: set[int] = set()
        self.stamp = 0

    # Counting.

    def live(self) -> list[TwinObject]:
        return [one for chunk in self.chunks.values() for one in chunk.objects.values()]

    def pages_in(self, state: str) -> int:
        return sum(one.state == state for one in self.live())

    def pages_quarantined(self) -> int:
        return len(self.gone) + sum(len(lease.quarantined) for lease in self.leases.values())

    def pages_free(self) -> int:
        return self.room.pages - len(self.live()) - self.pages_quarantined()

    def pages_of(self, tenant: int) -> int:
        return sum(one.chunk.tenant == tenant for one in self.live())

    def pages_pinned(self) -> int:
        return sum(len(chunk.resident()) for chunk in self.chunks.values() if chunk.pins)

    def held(self) -> set[TwinChunk]:
        """Out of the index, but a pin or an overdue reader keeps the record."""
        chunks = {one.chunk for one in self.gone}
        for lease in self.leases.values():
            chunks |= set(lease.chunks()) if not lease.overdue else set()
        for ticket in self.tickets.values():
            chunks |= {chunk for chunk in ticket.chunks if chunk}
        return {chunk for chunk in chunks if self.chunks.get(chunk.key) is not chunk}

    # Finding.

    def scan(self, keys: Sequence[bytes], geometry: int, states: frozenset[str]) -> int:
        """The largest n at which every group's rule holds, by trying them all."""
        groups = self.geometries[geometry]
        return self.hit(groups, self.readable(keys, geometry), states)

    def readable(self, keys: Sequence[bytes], geometry: int) -> list[TwinChunk | None]:
        """What readers of this geometry see: chunks of another one are absent to them."""
        found = [self.chunks.get(key) for key in keys]
        return [chunk if chunk and chunk.geometry == geometry else None for chunk in found]

    def hit(
        self,
        groups: Sequence[TwinGroup],
        found: Sequence[TwinChunk | None],
        states: frozenset[str],
    ) -> int:
        def whole(chunk: TwinChunk | None, slots: range) -> bool:
            objects = chunk.objects if chunk else {}
            have = (objects.get(slot) for slot in slots)
            return all(one and one.state in states and not one.damaged for one in have)

        def holds(n: int) -> bool:
            first = 0
            for group in groups:
                slots = range(first, first + group.shards)
                first += group.shards
                start = {Rule.FULL: 0, Rule.WINDOW: max(0, n - group.window), Rule.STATE: n - 1}
                if not all(whole(chunk, slots) for chunk in found[start[group.rule] : n]):
                    return False
            return True

        return max((n for n in range(1, len(found) + 1) if holds(n)), default=0)

    def tick(self) -> int:
        self.stamp += 1
        return self.stamp

    def touch(self, chunks: Iterable[TwinChunk | None]) -> int:
        stamp = self.tick()
        touched = [chunk for chunk in chunks if chunk and chunk.resident()]
        for chunk in touched:
            chunk.stamp = stamp
        return len(touched)

    # Who asks.

    def require_attached(self, session: int) -> None:
        if session not in self.sessions or session in self.lost:
            raise Refused("SessionUnknown")

    def require_room(self, session: int) -> None:
        """That the session's instance does not hold back too much."""
        instance = self.sessions[session]
        overdue = sum(
            lease.pages_overdue
            for lease in self.leases.values()
            if lease.overdue and self.sessions[lease.session] == instance
        )
        if overdue and overdue >= self.quarantine_pages:
            raise Refused("QuarantineFull")

    def lease_of(self, lease_id: bytes, session: int, *, writes: bool) -> TwinLease | None:
        lease = self.leases.get(lease_id)
        wanted = lease and lease.session == session and lease.writes == writes
        return lease if wanted else None

    # Leaving.

    def leave(self, one: TwinObject) -> None:
        """Out of the index; quarantined while it has readers."""
        del one.chunk.objects[one.slot]
        one.state = "gone"
        if one.readers:
            self.gone.add(one)

    def discard(self, one: TwinObject) -> None:
        self.leave(one)
        self.settle(one.chunk)

    def settle(self, chunk: TwinChunk | None) -> None:
        """A chunk without objects and children leaves the index, and perhaps its parent then."""
        while chunk and not chunk.objects and not chunk.children:
            if self.chunks.get(chunk.key) is not chunk:
                return
            del self.chunks[chunk.key]
            parent, chunk.parent = chunk.parent, None
            if parent:
                parent.children -= 1
            chunk = parent

    def drop_reader(self, one: TwinObject) -> None:
        one.readers -= 1
        if not one.readers:
            self.gone.discard(one)

    def end_lease(self, lease_id: bytes) -> None:
        """Its owner touches nothing of it any more."""
        lease = self.leases.pop(lease_id)
        for one in filter(None, lease.objects):
            if lease.writes:
                self.discard(one)
            else:
                self.drop_reader(one)
        if not lease.writes and not lease.overdue:
            for chunk in lease.chunks():
                chunk.pins -= 1

    def make_overdue(self, lease_id: bytes) -> None:
        lease = self.leases[lease_id]
        lease.overdue = True
        if lease.writes:
            lease.quarantined = {
                i for i, one in enumerate(lease.objects) if one and one.state == "reserved"
            }
            lease.pages_overdue = len(lease.quarantined)
            for one in filter(None, lease.objects):
                self.discard(one)
            lease.objects = [None] * len(lease.objects)
        else:
            lease.pages_overdue = sum(one is not None for one in lease.objects)
            for chunk in lease.chunks():
                chunk.pins -= 1
        if not lease.pages_overdue:
            del self.leases[lease_id]

    def end_ticket(self, ticket_id: bytes) -> None:
        for chunk in self.tickets.pop(ticket_id).chunks:
            if chunk:
                chunk.pins -= 1
