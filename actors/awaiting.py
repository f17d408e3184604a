"""What a ticket needs and others write, with no load of the prefetcher's: engines, and loads just given up."""

from __future__ import annotations

import enum

from penstock.actors.api import l1, l1_loading, prefetch
from penstock.actors.api.types import KEY_BYTES
from penstock.runtime.ref import Ref

_ABSENT, _COMING = 0, 2  # of _native.Presence


class Others(enum.Enum):
    """What they are at."""

    NOTHING = "nothing is needed of anybody"
    WRITING = "the ticket's fetching hears when something of it is there, or given up"
    GAVE_UP = "something has to come from elsewhere"


class Awaiting:
    """Of one ticket."""

    def __init__(self, want: prefetch.Fetch, manager: Ref[l1.L1Manager], *, ask_s: float) -> None:
        self._want = want
        self._l1 = manager
        self._ask_s = ask_s
        self._places: dict[tuple[int, int], None] = {}  # (chunk, slot), as they were met

    def add(self, chunk: int, slot: int) -> None:
        """Somebody writes this object."""
        self._places[chunk, slot] = None

    async def look(self) -> Others:
        """Of the first object that is not there yet; those that are there are forgotten. Raises what L1 refuses."""
        while self._places:
            chunk, slot = next(iter(self._places))
            key = self._want.keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES]
            wait = l1_loading.Await(self._want.ticket, key, self._want.shape.geometry, slot)
            presence = await self._l1.ask(wait, within=self._ask_s)
            if presence == _COMING:
                return Others.WRITING
            del self._places[chunk, slot]
            if presence == _ABSENT:
                return Others.GAVE_UP
        return Others.NOTHING
