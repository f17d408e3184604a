"""The native table against its dumb twin: any calls, in any order, and both agree on everything.

After every step the native table checks its own invariants, against the allocator too.
"""

from __future__ import annotations

import threading
from math import inf

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from support.table_calls import chain, instance_of, picks, prompts, sessions
from support.table_changes_calls import ChangesCalls
from support.table_twin_state import PAGE_BYTES, TwinStep

from penstock._native import Policy, Pool


class TableMachine(ChangesCalls):
    # Life cycle.

    @rule(seconds=st.integers(0, 8))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        assert tuple(self.table.expire(self.now)) == self.twin.expire(self.now)

    @rule(objects_max=st.integers(1, 4))
    def expire_some(self, objects_max: int) -> None:
        """What is due, if it is one lease, a part of it."""
        times = sorted(self.twin.expires(lease) for lease in self.twin.leases.values())
        tickets = [ticket.expires for ticket in self.twin.tickets.values()]
        if times and times[0] < min([inf, *times[1:], *tickets]):
            self.now = max(self.now, int(times[0]))
            seen = self.table.expire(self.now, objects_max=objects_max)
            assert tuple(seen) == self.twin.expire(self.now, objects_max)

    @rule(
        session=sessions,
        objects_max=st.integers(1, 6),
        how=st.sampled_from(["orphan_some", "end_some"]),
    )
    def leave_in_steps(self, session: int, objects_max: int, how: str) -> None:
        """One step; anything may come before the next."""
        seen = getattr(self.table, how)(session, objects_max)
        assert (seen.count, seen.is_over) == getattr(self.twin, how)(session, objects_max)

    @rule(session=sessions, objects_max=st.integers(1, 6), pool=st.sampled_from(Pool))
    def forsake_some(self, session: int, objects_max: int, pool: Pool) -> None:
        seen = self.table.forsake_some(session, objects_max, pool)
        assert (seen.count, seen.is_over) == self.twin.forsake_some(session, objects_max, pool)

    @rule(instance=st.integers(1, 3), chunks_max=st.integers(1, 6))
    def close_some(self, instance: int, chunks_max: int) -> None:
        seen = self.table.close_some(instance, chunks_max)
        assert (seen.count, seen.is_over) == self.twin.close_some(instance, chunks_max)

    @rule(session=sessions)
    def stream_lost(self, session: int) -> None:
        self.both(lambda: self.table.stream_lost(session), lambda: self.twin.stream_lost(session))

    @rule(session=sessions, dead=st.booleans())
    def session_over(self, session: int, dead: bool) -> None:
        end = self.table.process_gone if dead else self.table.give_up
        assert end(session) == self.twin.session_over(session)

    @rule(session=sessions)
    def come_back(self, session: int) -> None:
        if session not in self.twin.sessions:
            self.attach(session)

    @rule(instance=st.integers(1, 3))
    def instance_gone(self, instance: int) -> None:
        assert self.table.instance_gone(instance) == self.twin.instance_gone(instance)

    @rule(pages=st.integers(1, 8))
    def evict(self, pages: int) -> None:
        evicted = self.table.evict(pages * PAGE_BYTES, now=self.now)
        victims = [evicted.keys[i : i + 32] for i in range(0, len(evicted.keys), 32)]
        assert evicted.bytes == self.twin.evict(pages, victims) * PAGE_BYTES
        assert evicted.chunks == len(victims)

    @rule(tenant=st.integers(0, 2), pages=st.integers(1, 8))
    def evict_own(self, tenant: int, pages: int) -> None:
        """In which order is the table's affair; but only what is the tenant's and may go, no more than is wanted."""
        evicted = self.table.evict_own(tenant, pages * PAGE_BYTES, now=self.now)
        victims = [evicted.keys[i : i + 32] for i in range(0, len(evicted.keys), 32)]
        self.twin.tick()
        freed = 0
        for key in victims:
            chunk = self.twin.chunks[key]
            assert chunk.tenant == tenant
            assert freed < pages, "evicted more than was wanted"
            freed += len(chunk.resident())
            assert self.twin.evict_these([key]) == [key]
        assert evicted.is_over == (not victims)

    @rule(geometry=st.integers(0, 2), prompt=prompts)
    def drop(self, geometry: int, prompt: str) -> None:
        keys = chain(geometry, prompt)[-2:]
        assert self.table.drop(b"".join(keys)) == self.twin.drop(keys)

    @rule(tenant=st.integers(0, 2), pages=st.integers(0, 12))
    def set_quota(self, tenant: int, pages: int) -> None:
        self.table.set_quota(tenant, pages * PAGE_BYTES)
        self.twin.room.quotas[tenant] = pages * PAGE_BYTES

    @precondition(lambda self: self.leases and self.tickets)
    @rule(lease=picks, ticket=picks, session=sessions)
    def handles_die(self, lease: int, ticket: int, session: int) -> None:
        """On another thread; the next call finds them."""
        lease_id, ticket_id = self.pick(self.leases, lease), self.pick(self.tickets, ticket)
        handles = [
            self.table.lease_handle(lease_id, session=session),
            self.table.ticket_handle(ticket_id, instance=instance_of(session)),
        ]
        thread = threading.Thread(target=handles.clear)
        thread.start()
        thread.join()
        known = self.twin.leases.get(lease_id)
        self.twin.close_ticket(ticket_id, instance=instance_of(session))
        if known and known.session == session:
            self.twin.end_lease(lease_id, TwinStep())

    # Afterwards.

    @invariant()
    def same(self) -> None:
        seen, twin = self.table.statistics(), self.twin
        assert seen.bytes_free == twin.pages_free() * PAGE_BYTES
        assert seen.bytes_reserved == twin.pages_in("reserved") * PAGE_BYTES
        assert seen.bytes_loaded == twin.pages_in("loaded") * PAGE_BYTES
        assert seen.bytes_resident == twin.pages_in("resident") * PAGE_BYTES
        assert seen.bytes_quarantined == twin.pages_quarantined() * PAGE_BYTES
        assert seen.bytes_pinned == twin.pages_pinned() * PAGE_BYTES
        assert seen.pd_bytes_free == twin.pages_free(Pool.PD) * PAGE_BYTES
        assert seen.pd_bytes_reserved == twin.pages_in("reserved", Pool.PD) * PAGE_BYTES
        assert seen.pd_bytes_loaded == twin.pages_in("loaded", Pool.PD) * PAGE_BYTES
        assert seen.pd_bytes_quarantined == twin.pages_quarantined(Pool.PD) * PAGE_BYTES
        assert seen.objects == len(twin.live())
        assert seen.chunks == sum(bool(chunk.objects) for chunk in twin.chunks.values())
        assert seen.placeholders == sum(not chunk.objects for chunk in twin.chunks.values())
        assert seen.overdue_leases == sum(lease.overdue for lease in twin.leases.values())
        assert seen.leases + seen.overdue_leases == len(twin.leases)
        assert seen.tickets == len(twin.tickets)
        assert self.table.next_expiry() == twin.next_expiry()
        for tenant in range(3):
            assert self.table.bytes_of(tenant) == twin.pages_of(tenant) * PAGE_BYTES

    @invariant()
    def valid(self) -> None:
        self.table.validate()


class S3FifoMachine(TableMachine):
    policy = Policy.S3FIFO


TestLru = TableMachine.TestCase
TestS3Fifo = S3FifoMachine.TestCase
TestLru.settings = TestS3Fifo.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
