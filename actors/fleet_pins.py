"""Prompts that whoever operates the cluster has this node hold: each by tickets of the node's own.

none --pin--> held, and fetched as for an engine --its time is over, or pin for 0--> none
               '-- pin anew: another ticket first, then the former one is closed
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass, replace

from penstock.actors.api import gateway, l1, prefetch
from penstock.actors.api.errors import InvalidField, TooManyPins
from penstock.actors.api.types import (
    KEY_BYTES,
    NODE_INSTANCE,
    NODE_SESSION,
    Afterwards,
    Shape,
    TicketId,
)
from penstock.actors.load_targets import whole_pages
from penstock.runtime.errors import StaleError
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

ID_BYTES = 16
NOTHING_HELD = l1.Hit(TicketId(b""), 0, 0)


@dataclass(frozen=True, slots=True)
class PinLimits:
    pins_max: int
    within_s: float  # that one may last
    bytes_max: int  # of all of them
    load_s: float
    ask_s: float


@dataclass(frozen=True, slots=True)
class Fetchers:
    """Who brings what is missing, and who hears how far that is."""

    watcher: Ref[
        gateway.Gateway
    ]  # knows no session of the node's own, and passes over what it hears of it
    loader: Ref[prefetch.Prefetcher]


@dataclass(frozen=True, slots=True)
class _Pin:
    tickets: tuple[TicketId, ...]  # the newest last; at most two
    bytes: int  # of the arena, once all of it is there
    ends_s: float


class Pins:
    """Of one node. What is given up half way, or refused, counts all the same until its time is over: L1 may have heard
    of it. Pinned for 0, it is let go."""

    def __init__(self, manager: Ref[l1.L1Manager], around: Fetchers, limits: PinLimits) -> None:
        self._l1 = manager
        self._around = around
        self._limits = limits
        self._pins: dict[bytes, _Pin] = {}  # by prompt; len <= pins_max
        self._log = Log("pins")

    @property
    def held_bytes(self) -> int:
        return sum([one.bytes for one in self._pins.values()])

    def check(self, for_s: float) -> None:
        """Raises InvalidField."""
        longest = self._limits.within_s
        if for_s > longest:
            raise InvalidField(
                "prompt.for_ms", f"at most {int(longest * 1000)} ms (cluster.pins.within)"
            )

    async def pin(self, shape: Shape, keys: bytes, salt: bytes, for_s: float) -> l1.Hit:
        """For `for_s` from now; 0: let go of it. Raises InvalidField, TooManyPins, and what L1 refuses."""
        self.check(for_s)
        now = asyncio.get_running_loop().time()
        self._pins = {name: one for name, one in self._pins.items() if one.ends_s > now}
        name = hashlib.sha256(shape.namespace + keys).digest()
        former = self._pins.get(name)
        if not for_s or not keys:
            if former is not None:
                del self._pins[name]
                await self._close(former.tickets)
            return NOTHING_HELD
        held = NOTHING_HELD if former is None else await self._look(former, shape, keys)
        if former is not None and held.ticket and former.ends_s >= now + for_s:
            return held
        return await self._pin_anew(name, shape, keys, salt, for_s, held=held)

    async def _pin_anew(
        self, name: bytes, shape: Shape, keys: bytes, salt: bytes, for_s: float, *, held: l1.Hit
    ) -> l1.Hit:
        """`held`: by the ticket that there is, which stays until its time is over: what it alone holds is shared with
        the new one when that has got to it."""
        former = self._pins.get(name)
        size = len(keys) // KEY_BYTES * sum([whole_pages(slot.bytes) for slot in shape.slots])
        self._check_room(size, former)
        ends_s = asyncio.get_running_loop().time() + for_s
        kept = () if former is None else former.tickets[-1:]
        mine = _Pin((*kept, TicketId(os.urandom(ID_BYTES))), size, ends_s)
        self._pins[name] = mine
        if former is not None:
            await self._close(former.tickets[:-1])
        hit = await self._hold(mine.tickets[-1], shape, keys, salt, for_s)
        if not hit.ticket:
            self._restore(name, mine, former)
        self._log.info("pinned", chunks=len(keys) // KEY_BYTES, held=hit.hit_chunks, for_s=for_s)
        best = max(hit.hit_chunks, held.hit_chunks)
        return replace(hit, hit_chunks=best, promised_chunks=max(best, hit.promised_chunks))

    async def _look(self, former: _Pin, shape: Shape, keys: bytes) -> l1.Hit:
        """What it holds now. Without a ticket: nothing any more."""
        again = l1.LookAgain(former.tickets[-1], keys, shape.geometry)
        try:
            return await self._l1.ask(again, within=self._limits.ask_s)
        except StaleError:
            return NOTHING_HELD

    def _check_room(self, size: int, former: _Pin | None) -> None:
        """Raises TooManyPins."""
        count = len(self._pins) - (former is not None)
        held = self.held_bytes - (0 if former is None else former.bytes)
        if count >= self._limits.pins_max:
            raise TooManyPins(f"{count} prompts are pinned, the bound is cluster.pins.pins_max")
        if held + size > self._limits.bytes_max:
            raise TooManyPins(
                f"{size} bytes beside {held} that are pinned, cluster.pins.bytes_max is"
                f" {self._limits.bytes_max}: let go of others, or raise it"
            )

    async def _hold(
        self, ticket: TicketId, shape: Shape, keys: bytes, salt: bytes, for_s: float
    ) -> l1.Hit:
        loader, limits = self._around.loader, self._limits
        lookup = l1.Lookup(
            ticket,
            keys,
            shape.geometry,
            NODE_SESSION,
            NODE_INSTANCE,
            1,
            for_s,
            self._around.watcher,
            loader,
            Afterwards.KEEP,
        )
        hit = await self._l1.ask(lookup, within=limits.ask_s)
        if hit.is_hoped:
            want = prefetch.Fetch(
                ticket=ticket,
                session=NODE_SESSION,
                instance=NODE_INSTANCE,
                shape=shape,
                keys=keys,
                salt=salt,
                hit_chunks=hit.hit_chunks,
                load_s=min(limits.load_s, for_s),
                ticket_s=for_s,
                chunk_tokens=1,  # which says nothing as long as nobody computes instead
                prefill_tokens_per_s=0,
                afterwards=Afterwards.KEEP,
            )
            await loader.ask(want, within=limits.ask_s)
        return hit

    def _restore(self, name: bytes, mine: _Pin, former: _Pin | None) -> None:
        """It holds nothing of its own; unless another one has taken its place."""
        if self._pins.get(name) is not mine:
            return
        del self._pins[name]
        if former is not None:
            self._pins[name] = replace(former, tickets=former.tickets[-1:])

    async def _close(self, tickets: tuple[TicketId, ...]) -> None:
        if tickets:
            close = l1.CloseTickets(tickets, NODE_INSTANCE, NODE_SESSION)
            await self._l1.ask(close, within=self._limits.ask_s)
