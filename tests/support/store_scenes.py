"""What simulations of the actor around a store begin with: a memory store, faults, samples."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest
from support.store_world import StoreWorld, config, store_world

from penstock.actors.stores.config import FaultsConfig, StoreConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.samples import Sample, make_sample
from penstock.actors.stores.store import Given, Outcome, Store, Wanted
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import KIB

SEEDS = pytest.mark.parametrize("seed", range(6))
NO_FAULTS = FaultsConfig()
Scene = Callable[[StoreWorld, FaultyStore], Awaitable[None]]


def play(
    seed: int, scene: Scene, settings: StoreConfig | None = None, shelf: Shelf | None = None
) -> None:
    """`scene` with an actor over a memory store whose faults it may set."""

    async def main() -> None:
        faulty = FaultyStore(MemoryStore({} if shelf is None else shelf), FaultsConfig(seed=seed))

        async def open_store() -> Store:
            return faulty

        async with store_world(open_store, settings or config()) as world:
            await scene(world, faulty)
            world.check_books()

    simulate(seed, main)


async def samples(count: int, size: int = 8 * KIB, *, first: int = 0) -> list[Sample]:
    return [await make_sample(first + n, size, device=n % 4) for n in range(count)]


class Slow(MemoryStore):
    """Every batch takes a second; notes who began when."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.now = 0
        self.most = 0

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        self.begun.append("load")
        await self._take_long()
        return await super().load(wanted)

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        self.begun.append("save")
        await self._take_long()
        return await super().save(given)

    async def _take_long(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await anyio.sleep(1)
        finally:
            self.now -= 1
