"""Reads begun in the very step that plans a load: the disk is at work while the load is on its way to its store.

    ReadAhead -> a place, reads asked for -> Ahead -> Load -> what was read, if all of it is whole
                                               '-> nobody asks: the reads end in vain, and give the place back

Of what was not read whole nothing counts: it is loaded as if nothing had been begun. What a former life of the store
has begun ends before anything else is written where it writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import anyio

from penstock.actors.api import store as api
from penstock.actors.store_parts import Parts
from penstock.actors.store_turns import Taken, User
from penstock.actors.stores.header import header_bytes
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.store import Fate, Outcome, Reading, StoreFault, Wanted

OBJECTS_MAX = 32  # asked for in one step of the loop: some microseconds each


class Ahead(api.Ahead):
    """Of one load. Owns its place at the store, until that load takes it over."""

    __slots__ = ("_parts", "_reading", "_targets", "_wanted", "headers", "taken", "timing")

    def __init__(self, parts: Parts, targets: tuple[api.Target, ...], taken: Taken) -> None:
        """Raises StoreFault."""
        assert parts.eager is not None
        self.taken = taken
        self.timing = parts.speed.began(asyncio.get_running_loop().time())
        self.headers = fresh_pages([header_bytes(one.runs) for one in targets])
        self._parts = parts
        self._targets = targets
        self._wanted = wanted_of(targets, self.headers, taken.user())
        self._reading: Reading | None = parts.eager.begin_load(self._wanted)

    def is_for(self, msg: api.Load, parts: Parts) -> bool:
        """Whether it was begun for this, and in this life of the store."""
        return self._parts is parts and self._targets is msg.targets

    def take_wanted(self) -> list[Wanted]:
        """With the user of its place. Once."""
        wanted, self._wanted = self._wanted, []
        return wanted

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """As that of the store."""
        reading, self._reading = self._reading, None
        if reading is not None:
            outcomes = await reading.outcomes()
            if all(one.fate is Fate.DONE for one in outcomes):
                return outcomes
        return await self._parts.store.load(wanted)

    async def let_end(self, within_s: float) -> bool:
        """Whether its reads are known to write no more, in that time. Once, instead of `load`."""
        reading, self._reading = self._reading, None
        if reading is not None:
            with anyio.move_on_after(within_s), suppress(StoreFault):
                await reading.outcomes()
                return True
        return False


def wanted_of(
    targets: Sequence[api.Target], headers: Sequence[memoryview], user: User
) -> list[Wanted]:
    """What a store is asked for. Whatever may still write it keeps `user`."""
    return [
        Wanted(one.key, one.device, header, one.payload, (user, one.hold), one)
        for one, header in zip(targets, headers, strict=True)
    ]


def ahead_of(msg: api.Load, parts: Parts) -> Ahead | None:
    """What was begun for it."""
    ahead = msg.ahead
    return ahead if isinstance(ahead, Ahead) and ahead.is_for(msg, parts) else None


async def is_clear(msg: api.Load, parts: Parts) -> bool:
    """Whether nothing begun for it that is not to be taken may write where it is loaded to. Waits for that."""
    ahead = msg.ahead
    if not isinstance(ahead, Ahead) or ahead.is_for(msg, parts):
        return True
    return await ahead.let_end(parts.config.load_within)


def read_ahead(parts: Parts, targets: tuple[api.Target, ...]) -> Ahead | None:
    """None: nothing has been begun."""
    if parts.eager is None or parts.books is None or not parts.reads.is_closed:
        return None
    if len(targets) > OBJECTS_MAX or 0 in parts.books.has(b"".join([one.key for one in targets])):
        return None
    headers = sum([header_bytes(one.runs) for one in targets])
    taken = parts.gate.take_now(headers + sum([len(one.payload) for one in targets]))
    return None if taken is None else Ahead(parts, targets, taken)
