"""The books of a store whose medium grows while it is used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
from support.store_scenes import SEEDS, samples
from support.store_world import StoreWorld, config, source, store_world

from penstock.actors.api import store as api
from penstock.actors.api.store import ArenaUsage, Keys, LoadOutcome, SaveOutcome
from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import Entry, Given, Store
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import ByteSize

TENANT = bytes(range(32))
OBJECT = 4096 + 8192  # bytes of one, with its header


class Arena(MemoryStore):
    """A medium that grows: what is there is told late, and by then some of it may have gone."""

    def __init__(self) -> None:
        self.shelf: Shelf = {}
        super().__init__(self.shelf, capacity_bytes=10 * OBJECT)
        self.brought: list[Given] = []
        self.is_told = anyio.Event()

    def arenas(self) -> tuple[ArenaUsage, ...]:
        return ()

    async def add_arena(self, path: Path, size_bytes: int) -> None:
        await self.save(self.brought)

    def close_arena(self, path: Path) -> None:
        raise AssertionError

    async def drain_arena(self, path: Path) -> set[bytes]:
        raise AssertionError

    async def remove_arena(self, path: Path) -> None:
        raise AssertionError

    async def recover(self) -> AsyncIterator[list[Entry]]:
        seen = [batch async for batch in super().recover()]
        if self.brought:
            await self.is_told.wait()
        for batch in seen:
            yield batch


def play_arena(seed: int, scene: Callable[[StoreWorld, Arena], Awaitable[None]]) -> None:
    async def main() -> None:
        store = Arena()

        async def open_store() -> Store:
            return store

        settings = config(capacity=ByteSize(10 * OBJECT))
        async with store_world(open_store, settings, quotas={TENANT[:16]: 5 * OBJECT}) as world:
            await world.wait_recovered()
            await scene(world, store)
            world.check_books()
            usage = await world.measure()
            assert (usage.objects, usage.used_bytes) == (
                len(store.shelf),
                OBJECT * len(store.shelf),
            )

    simulate(seed, main)


@SEEDS
def test_what_goes_while_an_arena_is_counted_stays_out_of_the_books(seed: int) -> None:
    """C2: what was seen, and is deleted, evicted or replaced before it is told.

    Seen to fail with all that was seen put into the books: a save of what had been deleted was said to be SAVED, and
    was nowhere."""

    async def scene(world: StoreWorld, store: Arena) -> None:
        old, brought, more = (
            await samples(6),
            await samples(2, first=20),
            await samples(3, first=40),
        )
        await world.save(*[source(one) for one in old])
        store.brought = [one.given() for one in brought]
        async with anyio.create_task_group() as group:
            group.start_soon(partial(world.ref.ask, api.AddArena("b", 1), within=60))
            await anyio.sleep(1)
            await world.ref.ask(api.Delete(keys_of([old[0], old[1], brought[0]])), within=1)
            await world.save(*[source(one) for one in (*more, old[1])])
            store.is_told.set()
        again = await world.save(source(old[0]), source(brought[0]))
        assert {one.outcome for one in again} == {SaveOutcome.SAVED}
        assert await world.fetch(old[0], brought[0]) == [LoadOutcome.LOADED] * 2

    play_arena(seed, scene)


@SEEDS
def test_a_tenant_whose_objects_are_found_while_it_saves_is_over_its_quota(seed: int) -> None:
    """D6. Seen to fail with its quota asked about only before room was made: the actor died of an assertion."""

    async def scene(world: StoreWorld, store: Arena) -> None:
        await world.save(*[source(one) for one in await samples(10)])
        store.brought = [
            replace(one.given(), tenant=TENANT[:16]) for one in await samples(5, first=20)
        ]
        slow = store.delete

        async def delete(keys: Keys) -> None:
            store.is_told.set()
            await anyio.sleep(1)
            await slow(keys)

        async with anyio.create_task_group() as group:
            group.start_soon(partial(world.ref.ask, api.AddArena("b", 1), within=60))
            await anyio.sleep(1)
            store.delete = delete  # type: ignore[method-assign]
            saved = await world.save(source(await make_sample(40, 8192), tenant=TENANT))
        assert saved[0].outcome is SaveOutcome.NO_ROOM
        assert "the tenant has" in saved[0].reason
        assert len(world.lives) == 1

    play_arena(seed, scene)
