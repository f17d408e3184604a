"""Tickets that can still grow, followed in the table: who is told when a watermark moves.

Every commit, loss and expiry looks at all of them, which is why their number and their chunks are bounded.
"""

from __future__ import annotations

from penstock import _native
from penstock.actors.api import gateway
from penstock.actors.api.types import KEY_BYTES, SessionId, Shortfall, TicketId
from penstock.actors.core.watches import Watch, Watches
from penstock.runtime.errors import ActorStopped, MailboxFull
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref


class Watching:
    """The watches of one table. Belongs to the L1 manager."""

    def __init__(self, table: _native.Table, watches: Watches) -> None:
        self._table = table
        self._watches = watches
        self._watchers: dict[TicketId, Ref[gateway.Gateway]] = {}  # same tickets as in _watches
        self._log = Log("l1_watching")

    def has_room(self, keys: bytes) -> bool:
        return self._watches.has_room(keys)

    def has(self, ticket: TicketId) -> bool:
        return self._watches.has(ticket)

    def promised(self, ticket: TicketId, by_writers: int, *, otherwise: int) -> int:
        """What the watermark of a ticket can still reach; `otherwise`, if it is not watched."""
        watch = self._watches.find(ticket)
        return otherwise if watch is None else max(by_writers, watch.hope_chunks)

    def begin(self, watch: Watch, watcher: Ref[gateway.Gateway]) -> None:
        self._watches.add(watch)
        self._watchers[watch.ticket] = watcher

    def close(self, ticket: TicketId, *, by: SessionId) -> None:
        """The ticket was closed. Who looked it up hears so, unless it was that session's own wish."""
        watch = self._watches.find(ticket)
        if watch is None:
            return
        if watch.session == by:
            self._end(ticket)
        else:
            self._tell(watch, watch.hit_chunks, watch.hit_chunks)

    def _end(self, ticket: TicketId) -> None:
        if self._watchers.pop(ticket, None) is not None:
            self._watches.remove(ticket)

    def advance(self, now: float) -> None:
        """Something was committed, given up or expired: move the watermarks that can move, and say so.

        A watcher whose mailbox is full hears at the next such event: the watch is only moved when it was told.
        Never raises: this is done in the step of whoever comes next, who has no part in the watched tickets.
        """
        for watch in self._watches.expired(now):
            self._tell(watch, watch.hit_chunks, watch.hit_chunks)
        for watch in self._watches.living(now):
            self._refresh(watch, now)

    def refresh(self, ticket: TicketId, now: float) -> None:
        """The same of one ticket, if it is watched."""
        if (watch := self._watches.find(ticket)) is not None:
            self._refresh(watch, now)

    def hope(self, ticket: TicketId, chunks: int, shortfall: Shortfall, now: float) -> None:
        """The prefetcher promises so much of this ticket from now on."""
        if (watch := self._watches.find(ticket)) is not None:
            watch.hope_chunks, watch.shortfall = chunks, shortfall
            self._refresh(watch, now)

    def settle(self, ticket: TicketId, hit: int, promised: int) -> None:
        """The prefetcher promises no more, and whoever looked it up is told this by others."""
        if (watch := self._watches.find(ticket)) is not None:
            watch.hope_chunks, watch.hit_chunks, watch.promised_chunks = 0, hit, promised
            if promised == hit:
                self._end(ticket)

    def _refresh(self, watch: Watch, now: float) -> None:
        try:
            found = self._table.follow(watch.ticket, watch.keys, now=now)
        except _native.TicketUnknown:  # closed with its instance
            self._tell(watch, watch.hit_chunks, watch.hit_chunks)
            return
        except _native.TableError as refusal:
            self._log.warning("watch_ended", session=watch.session, reason=str(refusal))
            self._tell(watch, watch.hit_chunks, watch.hit_chunks)
            return
        promised = max(found.promised, watch.hope_chunks)
        if (found.hit, promised) != (watch.hit_chunks, watch.promised_chunks):
            self._tell(watch, found.hit, promised)

    def _tell(self, watch: Watch, hit: int, promised: int) -> None:
        shortfall = watch.shortfall if promised < len(watch.keys) // KEY_BYTES else Shortfall.NONE
        news = gateway.TicketMoved(watch.session, watch.ticket, hit, promised, shortfall)
        try:
            self._watchers[watch.ticket].tell_nowait(news)
        except MailboxFull:
            return
        except ActorStopped:
            pass  # the node is stopping from its edge inwards: nobody is left to be told
        watch.hit_chunks, watch.promised_chunks = hit, promised
        if promised == hit:
            self._end(watch.ticket)
