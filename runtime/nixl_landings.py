"""Memory that a peer may write to by NIXL, and which of the peer's landings are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from penstock.runtime.channel import Arrived, LandingSlot
from penstock.runtime.errors import CapacityError
from penstock.runtime.nixl_agent import NixlAgent, Region
from penstock.runtime.nixl_words import Grant


class NixlLanding:
    """Open until `close` begins; its memory is held until the sender's last write to it is over."""

    def __init__(
        self,
        number: int,
        slots: tuple[LandingSlot, ...],
        arrived: Arrived,
        closing: Callable[[NixlLanding], None],
    ) -> None:
        self.number = number
        self.arrived = arrived
        self.is_closed = False
        self.drained = asyncio.Event()  # nothing of it is under way any more
        self.grant = b""
        self._slots = slots
        self._closing = closing
        self._told: Any = None  # what NIXL was told for it alone
        self._let_go = asyncio.Event()

    def prepare(self, connection: bytes, agent: NixlAgent) -> None:
        """Make its grant. Raises NixlFailed; CapacityError for more slots than a grant holds."""
        regions = [region_of(one.memory) for one in self._slots]
        foreign = {one for one in regions if one[1] and not agent.covers(one)}
        metadata = b""
        if foreign:
            self._told, metadata = agent.register(sorted(foreign))
        try:
            self.grant = Grant(connection, self.number, tuple(regions), metadata).encoded()
        except ValueError as full:
            self.let_go(agent)
            raise CapacityError(str(full)) from None

    async def close(self) -> None:
        self.close_now()
        await self._let_go.wait()

    def close_now(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._closing(self)

    def let_go(self, agent: NixlAgent) -> None:
        """Its memory is nobody's any more."""
        self._slots = ()
        if self._told is not None:
            agent.forget(self._told)
        self._let_go.set()


class ClosedLandings:
    """Numbers of landings that are closed; each is added once, roughly in order. What is below all open ones is one
    number."""

    def __init__(self) -> None:
        self._below = 0  # all of these are closed
        self._beyond: set[int] = (
            set()
        )  # as many as were closed since the oldest open one was opened

    def add(self, number: int) -> None:
        self._beyond.add(number)
        while self._below in self._beyond:
            self._beyond.discard(self._below)
            self._below += 1

    def __contains__(self, number: int) -> bool:
        return number < self._below or number in self._beyond


def region_of(memory: memoryview) -> Region:
    """Address and size, of memory that may be read-only. It may be moved nowhere meanwhile: its holder sees to that."""
    import numpy  # what NIXL needs, too

    if not memory.nbytes:
        return 0, 0
    flat = numpy.frombuffer(memory, numpy.uint8)
    return int(flat.__array_interface__["data"][0]), memory.nbytes
