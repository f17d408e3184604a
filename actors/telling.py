"""What L1 has to hear of a ticket at its end, if not now then later: until then its watermark is not final."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.actors.api import l1, l1_loading
from penstock.actors.api.types import TicketId
from penstock.runtime.errors import DeadlineExceeded, MailboxFull, PenstockError
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

Last = l1_loading.Settle | l1_loading.Hope


class Telling:
    """Of one prefetcher. Level-triggered: what L1 has no time or room for is told again, oldest first."""

    def __init__(
        self, manager: Ref[l1.L1Manager], *, ask_s: float, start_soon: Callable[..., None]
    ) -> None:
        self._l1 = manager
        self._ask_s = ask_s
        self._start_soon = start_soon
        self._owed: dict[TicketId, Last] = {}  # len <= L1's tickets
        self._log = Log("prefetcher")

    def tell_now(self, ticket: TicketId, last: Last) -> None:
        """In this step, or as soon as there is room."""
        try:
            self._l1.tell_nowait(last)
        except MailboxFull:
            self._owe(ticket, last)
        except PenstockError:
            return  # L1 is gone, and its tickets with it

    async def tell(self, ticket: TicketId, last: Last) -> None:
        """And wait until it is heard, for the time of one ask."""
        try:
            await self._l1.ask(last, within=self._ask_s)
        except (DeadlineExceeded, asyncio.CancelledError) as given_up:
            self._owe(ticket, last)
            if isinstance(given_up, asyncio.CancelledError):
                raise
        except PenstockError:
            return

    def _owe(self, ticket: TicketId, last: Last) -> None:
        is_first = not self._owed
        self._owed[ticket] = last
        if is_first:
            self._start_soon(self._pay, name="tell the last")

    async def _pay(self) -> None:
        """An ask waits for room itself: there is no pause to be made between two."""
        while self._owed:
            ticket, last = next(iter(self._owed.items()))
            try:
                await self._l1.ask(last, within=self._ask_s)
            except DeadlineExceeded:
                self._log.warning_once("last_not_told", "l1")
                continue
            except PenstockError:
                self._owed.clear()
                return
            if self._owed.get(ticket) is last:
                del self._owed[ticket]
