"""What the L1 manager does for loads from the tiers below: extents for them, and tickets that grow as they land.

    Lookup with a loader -> served -> Hope* -> Settle
                              |                  |
                              '- the ticket is over: the loader hears Leave, until it does

A ticket reads what a load has brought (LOADED) only as far as the prefetcher says that it waits for that load:
everything else counts for it when it is RESIDENT, as for anybody.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock import _native
from penstock.actors.api import l1, l1_loading, loader
from penstock.actors.api.types import (
    KEY_BYTES,
    NODE_SESSION,
    Afterwards,
    Extents,
    LeaseId,
    Pool,
    Shortfall,
    TicketId,
)
from penstock.actors.core.quota import Tenants
from penstock.actors.l1_watching import Watching
from penstock.runtime.errors import ActorStopped, MailboxFull
from penstock.runtime.ref import Ref

NO_LEASE = LeaseId(b"")
NOT_SERVED = -1
TICKET_BYTES = 16
_GRANTED = int(_native.Answer.GRANTED)
_POOLS = {Pool.CACHE: _native.Pool.CACHE, Pool.PD: _native.Pool.PD}
_COMING = int(_native.Presence.COMING)


@dataclass(slots=True)
class Served:
    """A ticket that a loader loads for, or keeps loaded objects for."""

    lookup: l1.Lookup
    loader: Ref[loader.Loader]
    hit_chunks: int = 0  # when it was moved last


class Loading:
    """Belongs to the L1 manager, and uses its table."""

    def __init__(
        self,
        table: _native.Table,
        watching: Watching,
        tenants: Tenants,
        *,
        now: Callable[[], float],
        filled: Callable[[], None],
    ) -> None:
        """`filled` is called when extents were granted."""
        self._table = table
        self._watching = watching
        self._tenants = tenants
        self._now = now
        self._filled = filled
        self._served: dict[TicketId, Served] = {}  # len <= the table's tickets_max
        self._left: dict[TicketId, Served] = {}  # over, and the loader not told
        self._awaits: dict[TicketId, l1_loading.Await] = {}  # of tickets that are served

    def begin(self, lookup: l1.Lookup, by: Ref[loader.Loader]) -> None:
        """Its ticket is open, and the loader is going to be told to fetch."""
        self._served[lookup.ticket] = Served(lookup, by)
        self._table.tell_end(lookup.ticket)

    def close(self, ticket: TicketId) -> None:
        """The ticket was closed."""
        if (served := self._served.pop(ticket, None)) is not None:
            self._left[ticket] = served
            self._tell_left()

    def sweep(self) -> None:
        """Tickets may have ended: those of a lost instance, or by time."""
        ended = self._table.take_ended()
        for start in range(0, len(ended), TICKET_BYTES):
            ticket = TicketId(ended[start : start + TICKET_BYTES])
            if (served := self._served.pop(ticket, None)) is not None:
                self._left[ticket] = served
        self._tell_left()

    def came(self, now: float) -> None:
        """Something was committed."""
        self._watching.advance(now)
        self._tell_stirred()

    def went(self, now: float) -> None:
        """Something was given up, lost or expired."""
        self._watching.look_again(now)
        self._tell_stirred()

    def receive(self, msg: l1_loading.Message) -> object:
        match msg:
            case l1_loading.Survey():
                return self._table.presence(msg.keys, geometry=msg.geometry)
            case l1_loading.ReserveLoad():
                return self._reserve(msg)
            case l1_loading.Finish():
                return self._finish(msg)
            case l1_loading.Land():
                return self._land(msg)
            case l1_loading.Move():
                return self._move(msg.tickets)
            case l1_loading.Hope():
                self._watching.hope(msg.ticket, msg.chunks, msg.shortfall, self._now())
            case l1_loading.Settle():
                self._settle(msg.ticket, msg.shortfall)
            case l1_loading.Await():
                return self._await(msg)
            case l1_loading.Forsake():
                return self._forsake(msg)
        return None

    def _reserve(self, msg: l1_loading.ReserveLoad) -> l1_loading.LoadLease:
        lease = LeaseId(os.urandom(16))
        tenant = self._tenants.account(msg.salt)
        if tenant.is_new:
            self._table.set_quota(tenant.id, tenant.bytes_max)
            self._table.set_weight(tenant.id, tenant.weight)
        reserved = self._table.reserve(
            msg.keys,
            parent=msg.parent,
            geometry=msg.geometry,
            slots=msg.slots,
            tenant=tenant.id,
            lease=lease,
            session=NODE_SESSION,
            now=self._now(),
            expires=math.inf,
            pool=_POOLS[msg.pool],
        )
        hold = None
        if _GRANTED in reserved.answers:
            hold = self._table.lease_handle(lease, session=NODE_SESSION)
            if msg.pool is Pool.CACHE:
                self._filled()
        return l1_loading.LoadLease(
            NO_LEASE if hold is None else lease,
            reserved.answers,
            Extents(reserved.extents),
            reserved.bytes_missing,
            hold,
        )

    def _land(self, msg: l1_loading.Land) -> l1_loading.Landed:
        lease = msg.lease
        hold: _native.LeaseHandle | None = None
        if msg.indices:
            self._table.loaded(
                lease,
                session=NODE_SESSION,
                indices=msg.indices,
                digests=msg.digests,
                runs=msg.runs,
                now=self._now(),
            )
        if msg.lost:
            rest = LeaseId(os.urandom(16))
            if self._table.salvage(lease, session=NODE_SESSION, into=rest):
                lease, hold = rest, self._table.lease_handle(rest, session=NODE_SESSION)
            else:
                lease = NO_LEASE
            self.went(self._now())  # others may have hoped for what was lost
        return l1_loading.Landed(self._move(msg.tickets), lease, hold)

    def _move(self, tickets: Iterable[tuple[TicketId, int]]) -> tuple[int, ...]:
        now = self._now()
        return tuple(self._move_one(ticket, chunks, now) for ticket, chunks in tickets)

    def _move_one(self, ticket: TicketId, chunks: int, now: float) -> int:
        served = self._served.get(ticket)
        if served is None:
            return NOT_SERVED
        try:
            keys = served.lookup.keys
            hit = self._table.step(ticket, keys, now=now).hit
            if chunks > hit:
                self._table.extend(ticket, keys[: chunks * KEY_BYTES], now=now)
                hit = self._table.step(ticket, keys, now=now).hit
        except _native.TableError:
            return NOT_SERVED  # it is over, and its watcher hears so by the same
        finally:
            self._watching.refresh(ticket, now)
        served.hit_chunks = hit
        return hit

    def _settle(self, ticket: TicketId, shortfall: Shortfall) -> None:
        served = self._served.pop(ticket, None)
        self._left.pop(ticket, None)
        self._watching.hope(ticket, 0, shortfall, self._now())
        if served is not None and served.lookup.afterwards is Afterwards.CLOSE:
            self._table.close_ticket(ticket, instance=served.lookup.instance)
            self._watching.close(ticket, by=served.lookup.session)

    def _finish(self, msg: l1_loading.Finish) -> l1_loading.Finished:
        ticket, now = msg.ticket, self._now()
        served = self._served.get(ticket)
        if served is None:
            raise _native.TicketUnknown("it is over, or settled")
        for load in msg.loads:
            self._table.commit(
                load.lease,
                session=NODE_SESSION,
                indices=(),
                digests=load.digests,
                runs=load.runs,
                now=now,
            )
        found = self._table.follow(ticket, served.lookup.keys, now=now)
        hit, promised = found.hit, max(found.hit, found.promised)
        del self._served[ticket]
        self._watching.settle(ticket, hit, promised)
        if promised == 0:
            self._table.close_ticket(ticket, instance=msg.instance)
        if msg.loads:
            self.came(now)  # others may have hoped for the same
        return l1_loading.Finished(hit, promised)

    def _await(self, msg: l1_loading.Await) -> int:
        present = self._present(msg)
        if present == _COMING and msg.ticket in self._served:
            self._awaits[msg.ticket] = msg
        return present

    def _present(self, wanted: l1_loading.Await) -> int:
        return self._table.presence(wanted.key, geometry=wanted.geometry)[wanted.slot]

    def _tell_stirred(self) -> None:
        """Level-triggered: a loader whose mailbox is full hears at the next such event."""
        for ticket, wanted in [*self._awaits.items()]:
            served = self._served.get(ticket)
            if served is not None:
                if self._present(wanted) == _COMING:
                    continue
                try:
                    served.loader.tell_nowait(loader.Stirred(ticket))
                except MailboxFull:
                    continue
                except ActorStopped:
                    pass
            del self._awaits[ticket]

    def _forsake(self, msg: l1_loading.Forsake) -> l1_loading.Forsaken:
        """Loads first: then no ticket is promised what they would have brought."""
        pool = _POOLS[msg.pool]
        if not self._table.forsake_some(NODE_SESSION, msg.objects_max, pool).is_over:
            return l1_loading.Forsaken(0, is_over=False)
        tickets = chunks = 0
        its_own = [ticket for ticket, one in self._served.items() if one.lookup.pool is msg.pool]
        while its_own and chunks < msg.objects_max:
            ticket = its_own.pop()
            chunks += 1 + len(self._served[ticket].lookup.keys) // KEY_BYTES
            tickets += 1
            self._settle(ticket, Shortfall.FAILED)
        if not its_own:
            for ticket in [one for one, left in self._left.items() if left.lookup.pool is msg.pool]:
                del self._left[ticket]
            self.went(self._now())
        return l1_loading.Forsaken(tickets, is_over=not its_own)

    def _tell_left(self) -> None:
        """Level-triggered: a loader whose mailbox is full hears at the next end of a ticket, or keeps its own time."""
        while self._left:
            ticket, left = self._left.popitem()
            try:
                left.loader.tell_nowait(loader.Leave(ticket, left.hit_chunks))
            except MailboxFull:
                self._left[ticket] = left
                return
            except ActorStopped:
                continue
