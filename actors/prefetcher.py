"""The prefetcher: brings what lookups miss from the tiers below L1, as far as its prefix is whole.

Each ticket has one linear coroutine (`fetching.py`); loads are shared between them (`loads.py`). What one life has
promised is void when the next begins: its tickets became final at what they had hit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import assert_never

from anyio.lowlevel import checkpoint

from penstock.actors.api import eviction, l1, l1_loading, prefetch
from penstock.actors.api.types import Memory, Shortfall, TicketId
from penstock.actors.at_hand import AtHand
from penstock.actors.core.load_plan import LongestHit
from penstock.actors.core.probing import Probes
from penstock.actors.fetching import Fetching
from penstock.actors.loads import Loads, Tier
from penstock.actors.locating import Glance
from penstock.actors.prefetch_metrics import PrefetchMetrics
from penstock.actors.surroundings import PrefetchLimits, Surroundings
from penstock.actors.telling import Telling
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry

FORSAKEN_OBJECTS_A_STEP = 256  # of loads that a life left behind, and chunks of its tickets


class Prefetcher(prefetch.Prefetcher):
    def __init__(
        self,
        *,
        tiers: Sequence[Tier],
        manager: Ref[l1.L1Manager],
        evictor: Ref[eviction.EvictionController],
        memory: Memory,
        longest: LongestHit,
        limits: PrefetchLimits,
        telemetry: Telemetry,
    ) -> None:
        """`longest`: the hit rule over columns. `tiers` in the order in which they are preferred."""
        self._l1 = manager
        self._limits = limits
        # All that are not over: at most tickets_max that load, and those that rest, which are tickets of L1.
        self._fetchings: dict[TicketId, Fetching] = {}
        self._resting: set[TicketId] = set()
        metrics = PrefetchMetrics(
            telemetry,
            tickets=lambda: float(len(self._fetchings)),
            inflight=lambda: float(loads.inflight_bytes),
        )
        loads = Loads(
            tiers,
            manager,
            inflight_bytes_max=limits.inflight_bytes_max,
            ask_s=limits.fetch.ask_s,
            head_start_s=limits.fetch.head_start_s,
            start_soon=self.start_soon,
            metrics=metrics,
        )
        self._telling = Telling(manager, ask_s=limits.fetch.ask_s, start_soon=self.start_soon)
        self._around = Surroundings(
            tiers=tiers,
            l1=manager,
            evictor=evictor,
            loads=loads,
            telling=self._telling,
            memory=memory,
            longest=longest,
            limits=limits.fetch,
            metrics=metrics,
            probes=Probes(limits.fetch.probe_every_s),
            admission=asyncio.Lock(),
            reserving=asyncio.Lock(),
        )
        self._at_hand = AtHand(self._around)
        self._log = Log("prefetcher")

    async def on_start(self) -> None:
        tickets, is_over = 0, False
        while not is_over:
            forsake = l1_loading.Forsake(FORSAKEN_OBJECTS_A_STEP)
            step = await self._l1.ask(forsake, within=self._limits.fetch.ask_s)
            tickets, is_over = tickets + step.tickets, step.is_over
            await checkpoint()
        if tickets:
            self._log.warning("tickets_forsaken", tickets=tickets)

    def receive(self, msg: prefetch.Message) -> object:
        match msg:
            case prefetch.Fetch():
                self._fetch(msg, None)
                return answer(msg, None)
            case prefetch.FetchNow():
                brought = self._at_hand.bring(msg.fetch)
                if isinstance(brought, l1_loading.Finished):
                    return answer(msg, brought)
                self._fetch(msg.fetch, brought)
                return answer(msg, None)
            case prefetch.Leave():
                if (fetching := self._fetchings.get(msg.ticket)) is not None:
                    fetching.end(msg.hit_chunks)
                return answer(msg, None)
            case prefetch.Stirred():
                if (fetching := self._fetchings.get(msg.ticket)) is not None:
                    fetching.stirred()
                return answer(msg, None)
            case _:
                assert_never(msg)

    def _fetch(self, want: prefetch.Fetch, seen: Glance | None) -> None:
        if self._loading >= self._limits.tickets_max or want.ticket in self._fetchings:
            self._telling.tell_now(want.ticket, l1_loading.Settle(want.ticket, Shortfall.BUSY))
            return
        glance = None if seen is None else self._at_hand.begin(want, seen)
        rests = partial(self._resting.add, want.ticket)
        fetching = Fetching(want, self._around, rests=rests)
        self._fetchings[want.ticket] = fetching
        fetching.begin(glance)
        self.start_soon(self._run, want.ticket, fetching, name="fetching")

    @property
    def _loading(self) -> int:
        return len(self._fetchings) - len(self._resting)

    async def _run(self, ticket: TicketId, fetching: Fetching) -> None:
        try:
            await fetching.run()
        finally:
            del self._fetchings[ticket]
            self._resting.discard(ticket)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        self._around.loads.validate()
        assert self._loading <= self._limits.tickets_max
        assert self._resting <= self._fetchings.keys()
