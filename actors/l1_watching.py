"""Tickets that can still grow, followed in the table: who is told when a watermark moves.

Every commit looks at all of them, at what is new of each; and a loss or an expiry, of those that hope for writers, at
all that is on its way. So their number and their chunks are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from penstock import _native
from penstock.actors.api import gateway
from penstock.actors.api.types import KEY_BYTES, SessionId, Shortfall, TicketId
from penstock.actors.core.watches import Watch, Watches
from penstock.runtime.errors import ActorCrashed, ActorStopped, MailboxFull
from penstock.runtime.log import Log
from penstock.runtime.message import NOT_AT_ONCE
from penstock.runtime.ref import Ref


class _Look(Protocol):
    def __call__(self, ticket: bytes, keys: bytes, *, now: float) -> _native.Hit: ...


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
        return otherwise if watch is None else watch.reaches(otherwise, by_writers)

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
        """Something was committed: move the watermarks that can move, and say so.

        A watcher whose mailbox is full hears at the next such event: the watch is only moved when it was told.
        Never raises: this is done in the step of whoever comes next, who has no part in the watched tickets.
        """
        for watch in self._living(now):
            self._refresh(watch, now)

    def look_again(self, now: float) -> None:
        """The same when something was given up, lost or expired: who hoped for it hears so, too."""
        for watch in self._living(now):
            if watch.hope_chunks > watch.hit_chunks:
                self._refresh(watch, now)  # what is hoped is for the prefetcher to say
            else:
                self._refresh_far(watch, now)

    def _living(self, now: float) -> Iterator[Watch]:
        for watch in self._watches.expired(now):
            self._tell(watch, watch.hit_chunks, watch.hit_chunks)
        return self._watches.living(now)

    def refresh(self, ticket: TicketId, now: float) -> None:
        """The same of one ticket, if it is watched."""
        if (watch := self._watches.find(ticket)) is not None:
            self._refresh(watch, now)

    def hope(self, ticket: TicketId, chunks: int, shortfall: Shortfall, now: float) -> None:
        """The prefetcher promises so much of this ticket from now on."""
        if (watch := self._watches.find(ticket)) is not None:
            watch.hope_chunks, watch.shortfall = chunks, shortfall
            self._refresh_far(watch, now)

    def settle(self, ticket: TicketId, hit: int, promised: int) -> None:
        """The prefetcher promises no more, and whoever looked it up is told this by others."""
        if (watch := self._watches.find(ticket)) is not None:
            watch.hope_chunks, watch.hit_chunks, watch.promised_chunks = 0, hit, promised
            if promised == hit:
                self._end(ticket)

    def _refresh(self, watch: Watch, now: float) -> None:
        """At the cost of what is new. What was promised stays so as long as what comes next is on its way."""
        found = self._find(watch, now, self._table.step)
        if found is None:
            return
        if found.promised > watch.promised_chunks:
            self._refresh_far(watch, now)
            return
        by_writers = watch.promised_chunks if found.promised > found.hit else found.hit
        self._move(watch, found.hit, by_writers)

    def _refresh_far(self, watch: Watch, now: float) -> None:
        """At the cost of all that is on its way: what is promised is what can still come."""
        if (found := self._find(watch, now, self._table.follow)) is not None:
            self._move(watch, found.hit, found.promised)

    def _find(self, watch: Watch, now: float, look: _Look) -> _native.Hit | None:
        try:
            return look(watch.ticket, watch.keys, now=now)
        except _native.TicketUnknown:  # closed with its instance
            self._tell(watch, watch.hit_chunks, watch.hit_chunks)
        except _native.TableError as refusal:
            self._log.warning("watch_ended", session=watch.session, reason=str(refusal))
            self._tell(watch, watch.hit_chunks, watch.hit_chunks)
        return None

    def _move(self, watch: Watch, hit: int, by_writers: int) -> None:
        promised = watch.reaches(hit, by_writers)
        if (hit, promised) != (watch.hit_chunks, watch.promised_chunks):
            self._tell(watch, hit, promised)

    def _tell(self, watch: Watch, hit: int, promised: int) -> None:
        shortfall = watch.shortfall if promised < len(watch.keys) // KEY_BYTES else Shortfall.NONE
        news = gateway.TicketMoved(watch.session, watch.ticket, hit, promised, shortfall)
        watcher = self._watchers[watch.ticket]
        try:
            if watcher.ask_now(news) is NOT_AT_ONCE:
                watcher.tell_nowait(news)
        except MailboxFull:
            return
        except (ActorStopped, ActorCrashed):
            pass  # the node is stopping from its edge inwards: nobody is left to be told
        watch.hit_chunks, watch.promised_chunks = hit, promised
        if promised == hit:
            self._end(watch.ticket)
