"""What the dumb twin of the native table holds: dictionaries, sets, and counting anew every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

from penstock._native import Pool, Rule

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
    pool: Pool = Pool.CACHE
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
    pool: Pool = Pool.CACHE  # of what it writes
    overdue: bool = False
    overdue_until: int = 0  # half way: the rest is as it was
    ending: bool = False  # half way: its last objects are gone
    quarantined: set[int] = field(default_factory=set)  # indices
    pages_overdue: int = 0

    def chunks(self, start: int = 0, end: int | None = None) -> list[TwinChunk]:
        """Each chunk once that the lease has an object of."""
        rows = range(start, len(self.objects) if end is None else end, self.width)
        firsts = ([one for one in self.objects[r : r + self.width] if one] for r in rows)
        return [row[0].chunk for row in firsts if row]

    def is_overdue_whole(self) -> bool:
        return self.overdue and self.overdue_until == len(self.objects)


@dataclass
class TwinStep:
    """How many objects one call may still deal with."""

    left: float = inf

    def take(self, objects: int) -> None:
        self.left = max(0, self.left - objects)

    def share_of(self, size: int, width: int) -> int:
        if self.left >= size:
            return size
        return min(size, ceil(max(1, self.left) / width) * width)


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
    objects: int  # in the cache; there are records of as many chunks as of objects in both pools
    pd_pages: int = 0
    pd_objects: int = 0
    quotas: dict[int, int] = field(default_factory=dict)


class TwinState:
    def __init__(
        self,
        *,
        pages: int,
        objects_max: int,
        quarantine_pages: int,
        lru: bool = True,
        pd_pages: int = 0,
        pd_objects_max: int = 0,
    ) -> None:
        self.room = Room(pages, objects_max, pd_pages, pd_objects_max)
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

    def pages_in(self, state: str, pool: Pool = Pool.CACHE) -> int:
        return sum(one.state == state and one.pool is pool for one in self.live())

    def pages_quarantined(self, pool: Pool = Pool.CACHE) -> int:
        leases = (lease for lease in self.leases.values() if lease.pool is pool)
        gone = sum(one.pool is pool for one in self.gone)
        return gone + sum(len(lease.quarantined) for lease in leases)

    def records(self, pool: Pool) -> int:
        return sum(one.pool is pool for one in [*self.live(), *self.gone])

    def has_records(self, pool: Pool, chunk: TwinChunk | None) -> bool:
        """For one more object, and for its chunk if it has none: so many are kept for pushes as may come yet."""
        room = self.room
        kept = room.pd_objects - self.records(Pool.PD) if pool is Pool.CACHE else 0
        chunks = len(self.chunks) + len(self.held()) + kept
        if chunk is None and chunks >= room.objects + room.pd_objects:
            return False
        return self.records(pool) < (room.objects if pool is Pool.CACHE else room.pd_objects)

    def pages_free(self, pool: Pool = Pool.CACHE) -> int:
        pages = self.room.pages if pool is Pool.CACHE else self.room.pd_pages
        live = sum(one.pool is pool for one in self.live())
        return pages - live - self.pages_quarantined(pool)

    def pages_of(self, tenant: int) -> int:
        """What it pays for: nothing of what other nodes push."""
        mine = (one for one in self.live() if one.chunk.tenant == tenant)
        return sum(one.pool is Pool.CACHE for one in mine)

    def pages_pinned(self) -> int:
        return sum(len(chunk.resident()) for chunk in self.chunks.values() if chunk.pins)

    def held(self) -> set[TwinChunk]:
        """Out of the index, but a pin or an overdue reader keeps the record."""
        chunks = {one.chunk for one in self.gone}
        for lease in self.leases.values():
            chunks |= set(lease.chunks(lease.overdue_until))
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
        if instance == 0:
            return  # the node itself
        overdue = sum(
            lease.pages_overdue
            for lease in self.leases.values()
            if lease.overdue and self.sessions[lease.session] == instance
        )
        if overdue and overdue >= self.quarantine_pages:
            raise Refused("QuarantineFull")

    def lease_of(self, lease_id: bytes, session: int, *, writes: bool) -> TwinLease | None:
        lease = self.leases.get(lease_id)
        if not lease or lease.session != session or lease.writes != writes:
            return None
        if lease.ending:
            self.end_lease(lease_id, TwinStep())
        elif lease.overdue and not lease.is_overdue_whole():
            self.make_overdue(lease_id, TwinStep())
        return self.leases.get(lease_id)

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

    def end_lease(self, lease_id: bytes, step: TwinStep) -> bool:
        """Its owner touches nothing of it any more: the last rows first. True: it is over."""
        lease = self.leases[lease_id]
        if not lease.ending:
            lease.ending = True
            step.take(1)
        share = step.share_of(len(lease.objects), lease.width)
        start = len(lease.objects) - share
        step.take(share)
        if not lease.writes:
            for chunk in lease.chunks(max(start, lease.overdue_until)):
                chunk.pins -= 1
        for index in reversed(range(start, len(lease.objects))):
            one = lease.objects.pop()
            if one and lease.writes and index >= lease.overdue_until:
                self.discard(one)
            elif one:
                self.drop_reader(one)
                lease.pages_overdue -= index < lease.overdue_until
            if index in lease.quarantined:
                lease.quarantined.remove(index)
                lease.pages_overdue -= 1
        lease.overdue_until = min(lease.overdue_until, start)
        if not lease.objects:
            del self.leases[lease_id]
        return not lease.objects

    def make_overdue(self, lease_id: bytes, step: TwinStep) -> bool:
        """The first rows first. True: it is overdue wholly, and over if it holds nothing back."""
        lease = self.leases[lease_id]
        if not lease.overdue:
            lease.overdue = True
            step.take(1)
        start = lease.overdue_until
        share = step.share_of(len(lease.objects) - start, lease.width)
        step.take(share)
        lease.overdue_until = start + share
        if not lease.writes:
            for chunk in lease.chunks(start, lease.overdue_until):
                chunk.pins -= 1
        for index in range(start, lease.overdue_until):
            one = lease.objects[index]
            if not one:
                continue
            held_back = not lease.writes or one.state == "reserved"
            lease.pages_overdue += held_back
            if lease.writes:
                is_shared = held_back and one.readers > 0  # the writer becomes a reader, too
                one.readers += is_shared
                if held_back and not is_shared:
                    lease.quarantined.add(index)
                if not is_shared:
                    lease.objects[index] = None
                self.discard(one)
        if not lease.is_overdue_whole():
            return False
        if not lease.pages_overdue:
            del self.leases[lease_id]
        return True

    def end_ticket(self, ticket_id: bytes) -> None:
        for chunk in self.tickets.pop(ticket_id).chunks:
            if chunk:
                chunk.pins -= 1
