"""The L1 manager: who may read, write or evict each object of host memory.

One per node, and the only one who touches the native table. Every rule is in there; here messages become calls, ids
are drawn, the clock is read, and tickets that can still grow are watched. Others hold a Ref[l1.L1Manager]. Its crash
ends the epoch: a table is never served by a second manager.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from anyio import wait_readable

from penstock import _native
from penstock.actors.api import directory, eviction, l1, l1_contents, l1_loading, l1_saving, writer
from penstock.actors.api.types import (
    KEY_BYTES,
    NODE_INSTANCE,
    NODE_SESSION,
    Extents,
    GeometryId,
    LeaseId,
    Shortfall,
    TicketId,
)
from penstock.actors.core.quota import Tenants
from penstock.actors.core.watches import Watch, Watches
from penstock.actors.l1_contents import Contents
from penstock.actors.l1_expiry import Expiry
from penstock.actors.l1_geometries import Geometries
from penstock.actors.l1_life_cycle import LifeCycle, LifeCycleMessage
from penstock.actors.l1_loading import Loading
from penstock.actors.l1_metrics import L1Metrics, usage_of
from penstock.actors.l1_refusals import REFUSALS, bad_acquire, bad_commit, bad_release
from penstock.actors.l1_saving import Saving
from penstock.actors.l1_staging import UNBOUNDED, WriteBound
from penstock.actors.l1_watching import Watching
from penstock.runtime.errors import ActorStopped, MailboxFull, mapped
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry

NO_LEASE, NO_TICKET = LeaseId(b""), TicketId(b"")
STEP_OBJECTS_MAX = 4096  # of ending leases, and chunks of ending tickets, in one step of the loop


class L1Manager(l1.L1Manager):
    """Shell of the native table. `high_water_bytes` taken, and the eviction controller is told."""

    def __init__(
        self,
        table: _native.Table,
        *,
        arena_bytes: int,
        high_water_bytes: int,
        watches: Watches,
        tenants: Tenants,
        telemetry: Telemetry,
        eviction_controller: Ref[eviction.EvictionController],
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
        store_writer: Ref[writer.StoreWriter] | None = None,
        hits_max: int = 0,
        bound: WriteBound = UNBOUNDED,
        told: Ref[directory.Directory] | None = None,
    ) -> None:
        """`beside`: what goes on beside its messages, such as telling how far the arena is backed.
        `store_writer`: who saves below L1, if anybody does. `hits_max`: chunks of hits kept for it, if it counts them.
        `bound`: of what is written. In staging `table` is a `StagedTable`, through which that is only on its way.
        """
        self._table = table
        self._arena_bytes = arena_bytes
        self._high_water_bytes = high_water_bytes
        self._eviction_controller = eviction_controller
        self._beside = beside
        self._tenants = tenants
        self._telemetry = telemetry
        self._geometries = Geometries(table)
        self._watching = Watching(table, watches)
        self._loading = Loading(
            table, self._watching, tenants, now=_now, filled=self._tell_pressure
        )
        self._life_cycle = LifeCycle(table, self._geometries, tenants, ended=self._ended)
        self._expiry = Expiry(table, step_objects_max=STEP_OBJECTS_MAX, expired=self._ended)
        self._saving = Saving(
            table,
            self._geometries,
            tenants,
            store_writer=store_writer,
            hits_max=hits_max,
            evicted=self._room,
        )
        self._bound = bound
        self._contents = Contents(table, told)
        self._border = self._contents.around(mapped(REFUSALS))
        self._pressure_told = False  # and not taken yet
        self._lookups = self._lookup_chunks = self._hit_chunks = 0

    async def on_start(self) -> None:
        self._telemetry.collect_from(L1Metrics(self._measure))
        self._table.attach(NODE_SESSION, instance=NODE_INSTANCE)
        self.start_soon(self._expiry.sweep, name="l1 expiry")
        self.start_soon(self._drain_returned, name="l1 returned handles")
        if self._beside is not None:
            self.start_soon(self._beside, name="l1 beside")

    def receive(self, msg: l1.Message) -> object:
        with self._border:
            match msg:
                case l1.Lookup():
                    return answer(msg, self._lookup(msg))
                case l1_loading.Survey() | l1_loading.ReserveLoad() | l1_loading.Finish():
                    return self._loading.receive(msg)
                case l1.LookAgain():
                    return answer(msg, self._look_again(msg))
                case l1.Acquire():
                    return answer(msg, self._acquire(msg))
                case l1.Release():
                    return answer(msg, self._release(msg))
                case l1.Reserve():
                    return answer(msg, self._bound.reserve(msg, self._geometries, self._reserve))
                case l1.MakeReady():
                    self._make_ready(msg)
                    return answer(msg, None)
                case l1.Commit():
                    return answer(msg, self._commit(msg))
                case l1.Abort():
                    return answer(msg, self._abort(msg))
                case l1.GiveBack():
                    self._abort(msg)
                    return answer(msg, None)
                case l1.CloseTickets():
                    return answer(msg, self._close_tickets(msg))
                case l1.Peek():
                    return answer(msg, self._peek(msg.keys, msg.geometry))
                case l1.Touch():
                    return answer(msg, self._touch(msg.keys))
                case l1.Promise():
                    return answer(msg, self._promise(msg))
                case l1.Evict():
                    return answer(msg, self._saving.evict(msg))
                case l1.TakePressure():
                    self._pressure_told = False
                    return answer(msg, self._measure())
                case l1.Measure():
                    return answer(msg, self._measure())
                case (
                    l1_saving.TakeCommitted()
                    | l1_saving.TakeHits()
                    | l1_saving.Borrow()
                    | l1_saving.BorrowWriting()
                    | l1_saving.Victims()
                    | l1_saving.EvictThese()
                    | l1_saving.LetGo()
                    | l1_saving.DropSaved()
                    | l1_saving.SaveBacklog()
                    | l1_saving.TellShape()
                    | l1_saving.FindShapes()
                ):
                    return self._saving.receive(msg)
                case _:
                    return self._receive_other(msg)

    def _receive_other(self, msg: _OtherMessage) -> object:
        match msg:
            case (
                l1_loading.Land()
                | l1_loading.Move()
                | l1_loading.Hope()
                | l1_loading.Settle()
                | l1_loading.Await()
                | l1_loading.Forsake()
            ):
                return self._loading.receive(msg)
            case l1_contents.TakeChanges() | l1_contents.ResidentKeys():
                return self._contents.receive(msg)
            case _:
                done = self._life_cycle.receive(msg)
                self._loading.sweep()  # each step ends few tickets, and all steps may end many
                return done

    # Reading. A prompt shorter than a chunk has no keys, which is no mistake: nothing of it is cached.

    def _lookup(self, msg: l1.Lookup) -> l1.Hit:
        if not msg.keys:
            self._lookups += 1
            return l1.Hit(NO_TICKET, 0, 0)
        now, ticket = _now(), msg.ticket
        expires = now + msg.ticket_s
        hit, promised = self._table.lookup(
            msg.keys,
            geometry=msg.geometry,
            ticket=ticket,
            instance=msg.instance,
            readers=msg.readers,
            now=now,
            expires=expires,
        )
        self._lookups += 1
        self._lookup_chunks += len(msg.keys) // KEY_BYTES
        self._hit_chunks += hit
        self._saving.hit(msg.geometry, msg.keys[: hit * KEY_BYTES])
        hope = 0 if msg.loader is None else len(msg.keys) // KEY_BYTES
        is_hoped = False
        promised = max(promised, hope)
        if promised > hit and msg.watcher is not None and self._watching.has_room(msg.keys):
            if hit == 0:
                self._table.open_ticket(
                    ticket,
                    geometry=msg.geometry,
                    instance=msg.instance,
                    readers=msg.readers,
                    now=now,
                    expires=expires,
                )
            watch = Watch(ticket, msg.session, msg.keys, msg.geometry, hit, promised, expires, hope)
            self._watching.begin(watch, msg.watcher)
            if msg.loader is not None:
                self._loading.begin(msg, msg.loader)
                is_hoped = True
        else:
            promised = hit
        if promised:
            self._expiry.expects(expires)
        shortfall = Shortfall.BUSY if hope > promised and not is_hoped else Shortfall.NONE
        return l1.Hit(ticket if promised else NO_TICKET, hit, promised, is_hoped, shortfall)

    def _look_again(self, msg: l1.LookAgain) -> l1.Hit:
        found = self._table.follow(msg.ticket, msg.keys, now=_now())
        promised = self._watching.promised(msg.ticket, found.promised, otherwise=found.hit)
        return l1.Hit(msg.ticket, found.hit, promised)

    def _promise(self, msg: l1.Promise) -> l1.Hit:
        if not msg.keys:
            return l1.Hit(NO_TICKET, 0, 0)
        hit = self._peek(msg.keys, msg.geometry)
        self._touch(msg.keys[: hit * KEY_BYTES])
        return l1.Hit(NO_TICKET, hit, self._table.promised(msg.keys, geometry=msg.geometry))

    def _peek(self, keys: bytes, geometry: GeometryId) -> int:
        return self._table.peek(keys, geometry=geometry) if keys else 0

    def _touch(self, keys: bytes) -> int:
        return self._table.touch(keys, now=_now()) if keys else 0

    def _acquire(self, msg: l1.Acquire) -> l1.ReadLease:
        now = _now()
        try:
            acquired = self._table.acquire(
                msg.ticket,
                rank=msg.rank,
                slots=msg.slots,
                first_chunk=msg.first_chunk,
                lease=os.urandom(16),
                session=msg.session,
                now=now,
                expires=now + msg.lease_s,
            )
        except _native.BadArgument as refused:
            chunks = self._table.chunks_of(msg.ticket)
            raise bad_acquire(msg, ticket_chunks=chunks, refused=refused) from refused
        self._expiry.expects(now + msg.lease_s)
        return l1.ReadLease(
            LeaseId(acquired.lease), Extents(acquired.extents), acquired.chunks, msg.lease_s
        )

    def _release(self, msg: l1.Release) -> bool:
        try:
            outcome = self._table.release(
                msg.lease, session=msg.session, damaged=msg.damaged, now=_now()
            )
        except _native.BadArgument as refused:
            raise bad_release(refused) from refused
        return outcome == _native.Outcome.OK

    def _close_tickets(self, msg: l1.CloseTickets) -> l1.Closed:
        closed = seen = chunks = 0
        for ticket in msg.tickets:
            if chunks >= STEP_OBJECTS_MAX:
                break
            seen += 1
            chunks += 1 + self._table.chunks_of(ticket)
            if self._table.close_ticket(ticket, instance=msg.instance) == _native.Outcome.OK:
                self._watching.close(ticket, by=msg.session)
                self._loading.close(ticket)
                closed += 1
        return l1.Closed(closed, seen)

    # Writing.

    def _reserve(self, msg: l1.Reserve) -> l1.WriteLease:
        if not msg.keys:
            return l1.WriteLease(NO_LEASE, b"", Extents(b""), 0, msg.lease_s)
        now = _now()
        lease = LeaseId(os.urandom(16))
        tenant = self._tenants.account(msg.salt)
        if tenant.is_new:
            self._table.set_quota(tenant.id, tenant.bytes_max)
            self._table.set_weight(tenant.id, tenant.weight)
        if msg.instead_of:
            self._table.abort(msg.instead_of, session=msg.session)
        reserved = self._table.reserve(
            msg.keys,
            parent=msg.parent,
            geometry=msg.geometry,
            slots=msg.slots,
            tenant=tenant.id,
            lease=lease,
            session=msg.session,
            now=now,
            expires=now + msg.lease_s,
        )
        granted = _GRANTED in reserved.answers
        if granted:
            self._expiry.expects(now + msg.lease_s)
            self._tell_pressure()
        return l1.WriteLease(
            lease if granted else NO_LEASE,
            reserved.answers,
            Extents(reserved.extents),
            reserved.bytes_missing,
            msg.lease_s,
            reserved.own_bytes_missing,
        )

    def _make_ready(self, msg: l1.MakeReady) -> None:
        before = msg.chunks_before
        self._table.make_ready(
            msg.keys, geometry=msg.geometry, slots=msg.slots, chunks_before=before
        )

    def _commit(self, msg: l1.Commit) -> l1_saving.Committed:
        try:
            outcomes, runs_done = self._table.commit_some(
                msg.lease,
                session=msg.session,
                indices=msg.indices,
                digests=msg.digests,
                runs=msg.runs,
                done=msg.done,
                runs_done=msg.runs_done,
                objects_max=msg.objects_max,
                now=_now(),
            )
        except _native.BadArgument as refused:
            raise bad_commit(refused) from refused
        self._loading.came(_now())
        self._saving.committed()
        return l1_saving.Committed(outcomes, self._saving.backlog_bytes, runs_done)

    def _abort(self, msg: l1.Abort | l1.GiveBack) -> bool:
        outcome = self._table.abort(msg.lease, session=msg.session)
        self._loading.went(_now())
        return outcome == _native.Outcome.OK

    # Room and time.

    def _room(self, evicted: _native.Evicted) -> l1.Room:
        self._pressure_told = False  # who evicts lives, and hears again if it lost the last one
        freed, quarantined = evicted.bytes, evicted.quarantined_bytes
        return l1.Room(freed, evicted.chunks, evicted.is_over, quarantined)

    def _tell_pressure(self) -> None:
        """Above high water: once, until the controller takes it."""
        taken = self._arena_bytes - self._table.free_bytes
        if self._pressure_told or taken <= self._high_water_bytes:
            return
        with suppress(MailboxFull, ActorStopped):
            self._eviction_controller.tell_nowait(eviction.Pressure())
            self._pressure_told = True

    def _ended(self, now: float) -> None:
        """Leases or tickets may have come to their end."""
        self._loading.went(now)
        self._loading.sweep()

    async def _drain_returned(self) -> None:
        """Handles that died on other threads are ended at the table's next call; with none coming, by us."""
        while True:
            await wait_readable(self._table.return_fd)
            self._table.drain()
            self._loading.went(_now())  # what a load gave up is promised no more

    # Numbers.

    def _measure(self) -> l1.Usage:
        looked = (self._lookups, self._lookup_chunks, self._hit_chunks)
        return usage_of(self._table.statistics(), self._arena_bytes, looked)


_GRANTED = int(_native.Answer.GRANTED)
_OtherMessage = l1_loading.Other | l1_contents.Message | LifeCycleMessage


def _now() -> float:
    """Monotonic seconds of the loop: virtual in simulation."""
    return asyncio.get_running_loop().time()
