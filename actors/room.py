"""Bytes of the loads of one tier under way: bounded, and shared out between the tickets, one load each in turn.

A prompt of a hundred loads has a hundred turns, and one of a single load need not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from penstock.actors.api.types import TicketId


@dataclass(slots=True, eq=False)
class _Turn:
    count: int  # bytes
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class Room:
    """Of one tier. A load that is larger than all of it has it alone."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._taken = 0
        self._waiting: OrderedDict[TicketId, deque[_Turn]] = OrderedDict()  # no deque is empty

    @property
    def taken_bytes(self) -> int:
        return self._taken

    def take_now(self, count: int) -> bool:
        """So many bytes, if they are free and nobody waits for them."""
        if self._waiting or not self._fits(count):
            return False
        self._taken += count
        return True

    async def take(self, count: int, ticket: TicketId) -> None:
        """Wait for so many bytes, in the name of a ticket."""
        if self.take_now(count):
            return
        turn = _Turn(count)
        self._waiting.setdefault(ticket, deque()).append(turn)
        try:
            await turn.granted.wait()
        except asyncio.CancelledError:
            if turn.granted.is_set():  # in the step in which it was given up
                self.give_back(count)
            else:
                self._give_up(ticket, turn)
            raise

    def give_back(self, count: int) -> None:
        self._taken -= count
        self._share_out()

    def _fits(self, count: int) -> bool:
        return not self._taken or self._taken + count <= self._bytes_max

    def _give_up(self, ticket: TicketId, turn: _Turn) -> None:
        turns = self._waiting[ticket]
        turns.remove(turn)
        if not turns:
            del self._waiting[ticket]
        self._share_out()  # it may have been what the others waited behind

    def _share_out(self) -> None:
        """The ticket whose turn it is waits until its load fits; then it is the next one's turn."""
        while self._waiting:
            ticket, turns = next(iter(self._waiting.items()))
            if not self._fits(turns[0].count):
                return
            turn = turns.popleft()
            self._taken += turn.count
            turn.granted.set()
            if turns:
                self._waiting.move_to_end(ticket)
            else:
                del self._waiting[ticket]
