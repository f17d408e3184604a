"""One request at its receiver: the tickets that expect it, and the pushes that bring it, of one or several senders.

    an offer or Expect, whichever is first -> filling -> settled: each ticket's watermark is final
       -> its tickets are over, or nobody expected it for too long -> its pushes are dismissed, their memory goes

A ticket is final when all of its prompt is readable; when its pushes are over and one of them has failed; or by time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from anyio import CancelScope
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1_loading, pd
from penstock.actors.api.pd_wire import Reason, TransferId
from penstock.actors.api.types import KEY_BYTES, Shortfall, TicketId
from penstock.actors.core.pd_session import soonest
from penstock.actors.locating import News
from penstock.actors.pd_memory import PartMemory
from penstock.actors.pd_surroundings import ReceiverAround, tell_moved
from penstock.runtime.errors import PenstockError

NOT_SERVED = -1


class Push(Protocol):
    """One push, as its request sees it."""

    @property
    def is_drained(self) -> bool: ...

    @property
    def is_whole(self) -> bool: ...

    def dismiss(self, reason: Reason) -> None: ...

    def forget(self, memory: PartMemory) -> None: ...


@dataclass(slots=True)
class Awaited:
    """A ticket that expects the request."""

    chunks: int  # of its prompt
    hit_chunks: int
    until: float  # it is final then
    offer_by: float  # the same, while nothing was offered
    over_by: float  # it is over then, if nobody says so before
    is_settled: bool = False


class Request:
    """`run` is its coroutine."""

    def __init__(self, request_id: str, keys: bytes, around: ReceiverAround) -> None:
        self.request_id = request_id
        self.keys = keys  # of the longest prompt known of it
        self.pushes: dict[TransferId, Push] = {}
        self._around = around
        self._awaited: dict[TicketId, Awaited] = {}
        self._news = News()
        self._must_move = False  # L1 is to be asked what its tickets hit
        self._has_failed = False  # something of it will not come
        self.was_expected = False
        self._idle_by = soonest()  # nobody expects it, and nothing more comes
        self.is_over = False

    # What comes.

    def agrees(self, keys: bytes) -> bool:
        """Whether this is the same prompt, as far as both go."""
        shorter = min(len(keys), len(self.keys))
        return keys[:shorter] == self.keys[:shorter]

    def expect(self, msg: pd.Expect) -> None:
        now = _now()
        self.keys = max(self.keys, msg.keys, key=len)
        self.was_expected = True
        self._awaited[msg.ticket] = Awaited(
            len(msg.keys) // KEY_BYTES,
            msg.hit_chunks,
            now + msg.within_s,
            now + min(msg.within_s, self._around.limits.offer_within),
            now + msg.ticket_s,
        )
        self.look_again()

    def add(self, transfer: TransferId, push: Push, keys: bytes) -> None:
        """Another sender brings some of it."""
        self.keys = max(self.keys, keys, key=len)
        self.pushes[transfer] = push
        self._news.tell()

    def leave(self, ticket: TicketId) -> bool:
        """That ticket is over. False: it is none of this request's."""
        if self._awaited.pop(ticket, None) is None:
            return False
        self._news.tell()
        return True

    def stir(self) -> None:
        self._news.tell()

    def look_again(self) -> None:
        self._must_move = True
        self._news.tell()

    def lost(self, memory: PartMemory) -> None:
        self._has_failed = True
        for push in self.pushes.values():
            push.forget(memory)
        self._news.tell()

    def tickets(self) -> tuple[tuple[TicketId, int], ...]:
        return tuple((ticket, one.chunks) for ticket, one in self._awaited.items())

    def moved(self, hits: Mapping[TicketId, int]) -> None:
        for ticket in [one for one in self._awaited if one in hits]:
            if hits[ticket] == NOT_SERVED:
                del self._awaited[ticket]
            else:
                self._awaited[ticket].hit_chunks = hits[ticket]

    # The coroutine.

    async def run(self) -> None:
        """Until nobody wants anything of it any more."""
        while True:
            seen = self._news.count
            if self._must_move:
                await self._move()
            self._look(_now())
            if self.is_over:
                break
            with CancelScope(deadline=self._until()):
                await (checkpoint() if self._news.count != seen else self._news.wait())
        for push in [*self.pushes.values()]:
            push.dismiss(Reason.CANCELLED if self.was_expected else Reason.IDLE)

    async def _move(self) -> None:
        """What has landed before they came is theirs, too."""
        self._must_move, tickets = False, self.tickets()
        try:
            hits = await self._around.l1.ask(l1_loading.Move(tickets), within=self._around.ask_s)
        except PenstockError as refusal:
            self._around.log.warning("pd_move_refused", reason=str(refusal))
            return
        tell_moved((self,), tickets, hits)

    def _look(self, now: float) -> None:
        is_drained = all(push.is_drained for push in self.pushes.values())
        for ticket, one in [*self._awaited.items()]:
            if not one.is_settled:
                self._judge(ticket, one, now, is_drained=is_drained)
            elif now >= one.over_by:
                del self._awaited[ticket]
        if self._awaited:
            return
        if self.was_expected:
            self.is_over = True
        elif not is_drained:
            self._idle_by = soonest()
        elif self._idle_by == soonest():
            self._idle_by = now + self._around.limits.idle
        elif now >= self._idle_by:
            self.is_over = True

    def _judge(self, ticket: TicketId, one: Awaited, now: float, *, is_drained: bool) -> None:
        """Whether nothing more comes for a ticket."""
        has_failed = self._has_failed or any(
            push.is_drained and not push.is_whole for push in self.pushes.values()
        )
        if one.hit_chunks >= one.chunks:
            self._settle(ticket, one, Shortfall.NONE)
        elif now >= one.until or (is_drained and now >= one.offer_by):
            self._settle(ticket, one, Shortfall.OUT_OF_TIME)
        elif self.pushes and is_drained and has_failed:
            self._settle(ticket, one, Shortfall.FAILED)
        elif not is_drained:
            one.offer_by = min(one.until, now + self._around.limits.offer_within)

    def _settle(self, ticket: TicketId, one: Awaited, shortfall: Shortfall) -> None:
        """Its watermark is final; what it reads is held until it is over."""
        one.is_settled = True
        self._around.metrics.final(shortfall)
        self._around.telling.tell_now(ticket, l1_loading.Hope(ticket, 0, shortfall))

    def _until(self) -> float:
        times = [self._idle_by] if not self._awaited else []
        for one in self._awaited.values():
            times += [one.over_by] if one.is_settled else [one.until, one.offer_by]
        return soonest(*times)


def _now() -> float:
    return asyncio.get_running_loop().time()
