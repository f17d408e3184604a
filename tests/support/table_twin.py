"""The dumb twin of the native table: the same rules, one at a time, and no hurry.

It knows nothing of extents, hashing or queues. Every object here takes one page, so that room is a
number. Where the native table may choose (which of several equally old chunks goes first), the
twin only checks that the choice was allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from support.table_twin_state import (
    IN_FLIGHT,
    PAGE_BYTES,
    PROMISED,
    READABLE,
    READABLE_BY_LOAD,
    Refused,
    TwinChunk,
    TwinLease,
    TwinObject,
    TwinState,
    TwinStep,
    TwinTicket,
)

from penstock._native import Answer, Outcome, Pool


class TableTwin(TwinState):
    """Names and arguments are those of `_native.Table`, less what a twin does not need."""

    # Reading.

    def lookup(
        self,
        keys: Sequence[bytes],
        ticket: bytes,
        *,
        geometry: int,
        instance: int,
        readers: int,
        expires: float,
    ) -> tuple[int, int]:
        if instance not in self.sessions.values():
            raise Refused("SessionUnknown")
        hit, promised = (self.scan(keys, geometry, states) for states in (READABLE, PROMISED))
        if hit:
            made = TwinTicket(instance, geometry, readers, expires, looked_up=hit)
            self.tickets[ticket] = made
            self.pin_for(made, self.readable(keys[:hit], geometry))
        return hit, promised

    def open_ticket(
        self, ticket: bytes, *, geometry: int, instance: int, readers: int, expires: float
    ) -> None:
        if instance not in self.sessions.values():
            raise Refused("SessionUnknown")
        self.tickets[ticket] = TwinTicket(instance, geometry, readers, expires)

    def pin_for(self, ticket: TwinTicket, chunks: Sequence[TwinChunk | None]) -> None:
        ticket.chunks += chunks
        for chunk in chunks:
            if chunk:
                chunk.pins += 1
        self.touch(chunks)

    def extend(self, ticket_id: bytes, keys: Sequence[bytes]) -> int:
        ticket = self.tickets.get(ticket_id)
        if ticket is None:
            raise Refused("TicketUnknown")
        end = len(ticket.chunks)
        found = ticket.chunks + self.readable(keys[end:], ticket.geometry)
        groups = self.geometries[ticket.geometry]
        hit = self.hit(groups, found, READABLE_BY_LOAD)
        if hit > end:
            self.pin_for(ticket, found[end:hit])
        return max(hit, end)

    def acquire(
        self,
        ticket_id: bytes,
        lease_id: bytes,
        *,
        rank: int,
        slots: Sequence[int],
        first_chunk: int,
        session: int,
        expires: float,
    ) -> tuple[bytes, TwinLease]:
        self.require_attached(session)
        ticket = self.tickets.get(ticket_id)
        if ticket is None or ticket.instance != self.sessions[session]:
            raise Refused("TicketUnknown")
        before = ticket.ranks.get(rank)
        held = self.leases.get(before) if before else None
        if before and held and not (held.overdue or held.ending):
            if self.leases[before].session != session:
                raise Refused("RankTaken")
            return before, self.leases[before]
        if first_chunk > len(ticket.chunks):
            raise Refused("BadArgument")
        self.require_room(session)
        objects: list[TwinObject | None] = []
        for place, chunk in enumerate(ticket.chunks[first_chunk:], first_chunk):
            states = READABLE_BY_LOAD if place >= ticket.looked_up else READABLE
            for slot in slots:
                one = chunk.objects.get(slot) if chunk else None
                readable = one and one.state in states and not one.damaged
                objects.append(one if readable else None)
        lease = TwinLease(session, False, expires, len(slots), objects)
        for one in filter(None, objects):
            one.readers += 1
        for chunk in lease.chunks():
            chunk.pins += 1
        self.leases[lease_id] = lease
        ticket.ranks[rank] = lease_id
        return lease_id, lease

    def release(self, lease_id: bytes, *, session: int, damaged: Sequence[int]) -> Outcome:
        lease = self.lease_of(lease_id, session, writes=False)
        if lease is None:
            return Outcome.STALE
        if any(i >= len(lease.objects) or lease.objects[i] is None for i in damaged):
            raise Refused("BadArgument")
        for index in damaged:
            one = lease.objects[index]
            assert one is not None
            if one.state in IN_FLIGHT:
                one.damaged = True
            elif one.state == "resident":
                self.leave(one)
                self.settle(one.chunk)
        self.end_lease(lease_id, TwinStep())
        return Outcome.STALE if lease.overdue else Outcome.OK

    def close_ticket(self, ticket_id: bytes, *, instance: int) -> Outcome:
        ticket = self.tickets.get(ticket_id)
        if ticket is None or ticket.instance != instance:
            return Outcome.STALE
        self.end_ticket(ticket_id)
        return Outcome.OK

    # Writing.

    def reserve(
        self,
        keys: Sequence[bytes],
        lease_id: bytes,
        *,
        parent: bytes,
        geometry: int,
        slots: Sequence[int],
        tenant: int,
        session: int,
        expires: float,
        pool: Pool = Pool.CACHE,
    ) -> list[Answer]:
        self.require_attached(session)
        self.require_room(session)
        known = (self.chunks.get(key) for key in keys)
        if any(chunk and chunk.geometry != geometry for chunk in known):
            raise Refused("GeometryUnknown")
        answers: list[Answer] = []
        objects: list[TwinObject | None] = []
        before = self.chunks.get(parent)
        for key in keys:
            for slot in slots:
                last = answers[-1] if answers else Answer.GRANTED
                over = last in (Answer.NO_ROOM, Answer.QUOTA)
                answer = last if over else self.answer(key, slot, tenant, pool)
                answers.append(answer)
                granted = answer == Answer.GRANTED
                made = self.make(key, slot, geometry, tenant, pool) if granted else None
                objects.append(made)
            chunk = self.chunks.get(key)
            if before and chunk and not chunk.parent and not self.rests_on(before, chunk):
                chunk.parent = before
                before.children += 1
            before = chunk
        if any(objects):
            self.leases[lease_id] = TwinLease(session, True, expires, len(slots), objects, pool)
        return answers

    def answer(self, key: bytes, slot: int, tenant: int, pool: Pool) -> Answer:
        chunk = self.chunks.get(key)
        present = chunk.objects.get(slot) if chunk else None
        if present:
            return Answer.RESIDENT if present.state == "resident" else Answer.IN_FLIGHT
        payer = chunk.tenant if chunk and chunk.objects else tenant
        quota = self.room.quotas.get(payer, 0)
        if pool is Pool.CACHE and quota and (self.pages_of(payer) + 1) * PAGE_BYTES > quota:
            return Answer.QUOTA
        if not self.has_records(pool, chunk) or self.pages_free(pool) == 0:
            return Answer.NO_ROOM
        return Answer.GRANTED

    def make(self, key: bytes, slot: int, geometry: int, tenant: int, pool: Pool) -> TwinObject:
        chunk = self.chunks.setdefault(key, TwinChunk(key, geometry))
        if not chunk.objects:
            chunk.tenant = tenant
        chunk.objects[slot] = TwinObject(chunk, slot, pool)
        return chunk.objects[slot]

    def rests_on(self, chunk: TwinChunk | None, ancestor: TwinChunk) -> bool:
        while chunk and chunk is not ancestor:
            chunk = chunk.parent
        return chunk is ancestor

    def settle_writes(
        self,
        lease_id: bytes,
        *,
        session: int,
        indices: Sequence[int],
        digests: Sequence[int],
        load: bool,
    ) -> list[Outcome]:
        """Commit, or loaded."""
        lease = self.lease_of(lease_id, session, writes=True)
        if lease and not load and lease.pool is Pool.PD:
            raise Refused("BadArgument")
        if lease is None or lease.overdue:
            self.prove_written(lease_id, lease, indices)
            return [Outcome.STALE] * max(len(indices), len(digests))
        chosen = list(indices) or [i for i, one in enumerate(lease.objects) if one]
        stamp = self.tick()
        outcomes = []
        for index, digest in zip(chosen, digests, strict=True):
            outcomes.append(self.settle_write(lease, index, digest, stamp, load=load))
        if not any(lease.objects):
            del self.leases[lease_id]
        return outcomes

    def settle_write(
        self, lease: TwinLease, index: int, digest: int, stamp: int, *, load: bool
    ) -> Outcome:
        one = lease.objects[index]
        if one is None or (load and one.state == "loaded"):
            return Outcome.STALE
        one.digest = digest
        if load:
            one.state = "loaded"
            return Outcome.OK
        lease.objects[index] = None
        if one.damaged:
            self.discard(one)
            return Outcome.STALE
        if not one.chunk.resident():
            one.chunk.stamp = stamp
        one.state = "resident"
        return Outcome.OK

    def prove_written(
        self, lease_id: bytes, lease: TwinLease | None, indices: Sequence[int]
    ) -> None:
        """The owner of an ended reservation says that these are written: nobody writes them now."""
        if lease is None:
            return
        proven = set(indices) if indices else set(range(len(lease.objects)))
        lease.quarantined -= proven
        for index in proven:
            if shared := lease.objects[index]:
                lease.objects[index] = None
                self.drop_reader(shared)
        lease.pages_overdue = len(lease.quarantined) + sum(one is not None for one in lease.objects)
        if not lease.pages_overdue:
            del self.leases[lease_id]

    def abort(self, lease_id: bytes, *, session: int) -> Outcome:
        lease = self.lease_of(lease_id, session, writes=True)
        if lease is None:
            return Outcome.STALE
        self.end_lease(lease_id, TwinStep())
        return Outcome.STALE if lease.overdue else Outcome.OK

    # Life cycle.

    def due(self, now: float) -> list[bytes]:
        return [i for i, lease in self.leases.items() if self.expires(lease) <= now]

    def expires(self, lease: TwinLease) -> float:
        return inf if lease.ending or lease.is_overdue_whole() else lease.expires

    def expire(self, now: float, objects_max: float = inf) -> tuple[int, int, int]:
        """With a bound: which of several is first is not the twin's to know, so nothing else may be due."""
        step = TwinStep(max(1, objects_max))
        reads = writes = 0
        for one in self.due(now):
            is_write = self.leases[one].writes
            if self.make_overdue(one, step):
                writes += is_write
                reads += not is_write
        tickets = [i for i, ticket in self.tickets.items() if ticket.expires <= now]
        for one in tickets:
            self.end_ticket(one)
        return reads, writes, len(tickets)

    def next_expiry(self) -> float:
        times = [self.expires(lease) for lease in self.leases.values()]
        return min([*times, *(ticket.expires for ticket in self.tickets.values()), inf])

    def leases_of(self, session: int) -> list[bytes]:
        """The newest first."""
        return [i for i, lease in reversed(self.leases.items()) if lease.session == session]

    def stream_lost(self, session: int) -> int:
        self.require_attached(session)
        self.orphan_some(session, inf)
        self.lost.add(session)
        return len(self.leases_of(session))

    def orphan_some(self, session: int, objects_max: float) -> tuple[int, bool]:
        return self.orphan(self.leases_of(session), objects_max)

    def forsake_some(
        self, session: int, objects_max: float, pool: Pool = Pool.CACHE
    ) -> tuple[int, bool]:
        mine = ((one, self.leases[one]) for one in self.leases_of(session))
        writes = [one for one, lease in mine if lease.writes and lease.pool is pool]
        return self.orphan(writes, objects_max)

    def orphan(self, leases: Sequence[bytes], objects_max: float) -> tuple[int, bool]:
        step, orphaned = TwinStep(max(1, objects_max)), 0
        for one in leases:
            lease = self.leases[one]
            if lease.is_overdue_whole() and not lease.ending:
                continue
            turn = self.end_lease if lease.ending else self.make_overdue
            if not step.left or not turn(one, step):
                return orphaned, False
            orphaned += 1
        return orphaned, True

    def end_some(self, session: int, objects_max: float) -> tuple[int, bool]:
        step, ended = TwinStep(max(1, objects_max)), 0
        for one in self.leases_of(session):
            if not step.left or not self.end_lease(one, step):
                return ended, False
            ended += 1
        instance = self.sessions.get(session)
        if instance is None or list(self.sessions.values()).count(instance) > 1:
            return ended, True
        return ended, self.close_tickets(instance, step)[1]

    def session_over(self, session: int) -> int:
        """process_gone, or give_up."""
        ended, _ = self.end_some(session, inf)
        self.sessions.pop(session, None)
        self.lost.discard(session)
        return ended

    def instance_gone(self, instance: int) -> int:
        return self.close_tickets(instance, TwinStep())[0]

    def close_some(self, instance: int, chunks_max: int) -> tuple[int, bool]:
        return self.close_tickets(instance, TwinStep(chunks_max))

    def close_tickets(self, instance: int, step: TwinStep) -> tuple[int, bool]:
        mine = [i for i, one in reversed(self.tickets.items()) if one.instance == instance]
        for closed, one in enumerate(mine):
            if not step.left:
                return closed, False
            step.take(1 + len(self.tickets[one].chunks))
            self.end_ticket(one)
        return len(mine), True

    def evict(self, pages_wanted: int, victims: Sequence[bytes]) -> int:
        """Take out what the native table chose, if it may be chosen. Returns the pages freed."""
        self.tick()
        freed = 0
        for key in victims:
            assert freed < pages_wanted, "evicted more than was wanted"
            candidates = [chunk for chunk in self.chunks.values() if chunk.is_candidate()]
            chunk = self.chunks[key]
            assert chunk in candidates, "evicted what is held, or has children"
            if self.lru:
                assert chunk.stamp == min(one.stamp for one in candidates), "evicted out of turn"
            freed += sum(not one.readers for one in chunk.resident())
            self.take_out(chunk)
        more = any(chunk.is_candidate() for chunk in self.chunks.values())
        assert freed >= pages_wanted or not more, "evicted too little"
        return freed

    def drop(self, keys: Sequence[bytes]) -> int:
        dropped = 0
        for key in keys:
            chunk = self.chunks.get(key)
            if chunk and chunk.resident():
                self.take_out(chunk)
                dropped += 1
        return dropped

    def take_out(self, chunk: TwinChunk) -> None:
        for one in chunk.resident():
            self.leave(one)
        self.settle(chunk)
