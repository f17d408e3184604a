"""Waiting for one's turn at a store: for its places (`core/admission.py` decides), and for a key others change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from penstock.actors.core.admission import Admission, AdmissionLimits, Entry, Phase, Work


class Gate:
    """Places at a store."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._admission = Admission(limits)
        self._waiting: dict[Entry, asyncio.Event] = {}

    async def enter(self, work: Work, size_bytes: int) -> Entry:
        """Wait for a place, to be given back by `leave`. Raises StoreBusy."""
        entry = self._admission.enter(work, size_bytes)
        if entry.phase is Phase.RUNNING:
            return entry
        event = self._waiting[entry] = asyncio.Event()
        has_place = False
        try:
            await event.wait()
            has_place = True
        finally:
            del self._waiting[entry]
            if not has_place:
                self.leave(entry)
        return entry

    def leave(self, entry: Entry) -> None:
        for started in self._admission.leave(entry):
            self._waiting[started].set()

    @asynccontextmanager
    async def place(self, work: Work, size_bytes: int) -> AsyncIterator[None]:
        """A place for as long as the body runs."""
        entry = await self.enter(work, size_bytes)
        try:
            yield
        finally:
            self.leave(entry)

    def waiting(self, work: Work) -> int:
        return self._admission.waiting(work)

    def running(self, work: Work) -> int:
        return self._admission.running(work)

    def load_bytes(self) -> int:
        return self._admission.load_bytes()


class KeyTurns:
    """Changes of one key come one after the other, so that the books tell what is on the medium."""

    def __init__(self) -> None:
        self.taken: set[bytes] = set()
        self._freed = asyncio.Event()  # replaced whenever it is set

    async def take(self, keys: Collection[bytes]) -> None:
        """Wait until nobody changes any of `keys`, then be the one who does; to be given back by `free`."""
        while not self.taken.isdisjoint(keys):
            await self._freed.wait()
        self.taken.update(keys)

    def free(self, keys: Collection[bytes]) -> None:
        assert self.taken.issuperset(keys)
        self.taken.difference_update(keys)
        self._freed.set()
        self._freed = asyncio.Event()
