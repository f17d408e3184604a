"""Faults rehearsed on purpose around any store, drawn from a seed: for tests, simulations and game days."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import anyio

from penstock.actors.api.store import Keys
from penstock.actors.stores.config import FaultsConfig
from penstock.actors.stores.header import FIXED_BYTES
from penstock.actors.stores.store import (
    BLOCK_BYTES,
    DONE,
    Around,
    Fate,
    Given,
    Outcome,
    Store,
    StoreFault,
    Wanted,
)


class FaultyStore(Around):
    """`store`, and now and then what `faults` says; they may be changed while it is used."""

    def __init__(self, store: Store, faults: FaultsConfig) -> None:
        super().__init__(store)
        self.faults = faults
        self._draw = random.Random(faults.seed)

    async def locate(self, keys: Keys) -> bytes:
        await self._come_between("locate")
        return await self.below.locate(keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        await self._come_between("load")
        outcomes = await self.below.load(wanted)
        return [self._spoil(one, out) for one, out in zip(wanted, outcomes, strict=True)]

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        """What goes wrong with all of them does so before they are written, or after, and nobody hears of it."""
        is_lost_after = self._happens(0.5)
        if not is_lost_after:
            await self._come_between("save")
        outcomes = await self._save(given)
        if is_lost_after:
            await self._come_between("save")
        return outcomes

    async def _save(self, given: Sequence[Given]) -> list[Outcome]:
        outcomes = [DONE] * len(given)
        kept: list[tuple[int, Given]] = []
        for at, one in enumerate(given):
            if self._happens(self.faults.fault):
                outcomes[at] = Outcome(Fate.FAULT, 0, "rehearsed: this object fails")
            elif not self._happens(self.faults.drop):
                kept.append((at, self._cut(one)))
        saved = await self.below.save([one for _, one in kept])
        for (at, _), outcome in zip(kept, saved, strict=True):
            outcomes[at] = outcome
        return outcomes

    async def delete(self, keys: Keys) -> None:
        await self._come_between("delete")
        await self.below.delete(keys)

    def _happens(self, chance: float) -> bool:
        return self._draw.random() < chance

    async def _come_between(self, what: str) -> None:
        if self._happens(self.faults.hang):
            await anyio.sleep_forever()
        if self._happens(self.faults.slow):
            await anyio.sleep(self.faults.slow_for)
        if self._happens(self.faults.error):
            raise StoreFault(f"rehearsed: this {what} fails")

    def _spoil(self, wanted: Wanted, outcome: Outcome) -> Outcome:
        if outcome.fate is not Fate.DONE:
            return outcome
        if self._happens(self.faults.fault):
            return Outcome(Fate.FAULT, 0, "rehearsed: this object fails")
        if self._happens(self.faults.flip):
            # Of a header a part that means something.
            view = wanted.payload if self._happens(0.5) else wanted.header[:FIXED_BYTES]
            bit = self._draw.randrange(8 * len(view))
            view[bit // 8] ^= 1 << (bit % 8)
        return outcome

    def _cut(self, given: Given) -> Given:
        blocks = given.payload_bytes // BLOCK_BYTES
        if not blocks or not self._happens(self.faults.truncate):
            return given
        return replace(given, payload_bytes=self._draw.randrange(blocks) * BLOCK_BYTES)
