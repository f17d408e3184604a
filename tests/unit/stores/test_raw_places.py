"""Several devices of one store fill up each by itself, and room is made where it is short."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from support.store_world import StoreWorld, source, store_world

from penstock.actors.api.store import LoadOutcome, SaveOutcome
from penstock.actors.api.types import Epoch
from penstock.actors.stores.raw_block import RawBlockStore, open_raw_block_store
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import make_sample
from penstock.actors.stores.store import Store, StoreContext
from penstock.runtime.units import KIB, MIB, ByteSize

SLOT = 64 * KIB


def settings(**places: object) -> RawBlockConfig:
    return RawBlockConfig(
        name="tested",
        capacity=ByteSize(8 * MIB),
        slot_bytes=ByteSize(SLOT),
        preallocate=False,
        **places,  # type: ignore[arg-type]
    )


def play(
    given: RawBlockConfig, scene: Callable[[StoreWorld, RawBlockStore], Awaitable[None]]
) -> None:
    async def run() -> None:
        opened: list[RawBlockStore] = []

        async def open_store() -> Store:
            store = await open_raw_block_store(given, StoreContext("tested", Epoch(b"e" * 16)))
            opened.append(store)
            return store

        async with store_world(open_store, given) as world:
            await world.wait_recovered()
            await scene(world, opened[-1])
            world.check_books()
            usage = await world.measure()
            volumes = opened[-1]._volumes
            taken = sum(one._space.slots - one._space.free for one in volumes)
            assert usage.used_bytes == taken * SLOT
            assert usage.capacity_bytes == sum(one.told_bytes for one in volumes)

    anyio.run(run)


def test_all_is_saved_for_as_long_as_something_may_go(tmp_path: Path) -> None:
    """C6: keys are spread by chance, so one device is full while the other has room still.

    Seen to fail with one sum over all devices: one save in six was refused."""

    async def scene(world: StoreWorld, _: RawBlockStore) -> None:
        for number in range(300):
            (saved,) = await world.save(source(await make_sample(number, 50_000)))
            assert saved.outcome is SaveOutcome.SAVED, saved

    play(settings(paths=(f"{tmp_path}/a", f"{tmp_path}/b")), scene)


def test_what_is_on_another_device_makes_no_room_and_stays(tmp_path: Path) -> None:
    """C6: each rank has its own. Seen to fail with the least recently used of all devices evicted: in vain."""

    async def scene(world: StoreWorld, _: RawBlockStore) -> None:
        others = [await make_sample(n, 50_000, device=1) for n in range(30)]
        await world.save(*map(source, others))
        for number in range(100, 200):
            (saved,) = await world.save(source(await make_sample(number, 50_000, device=0)))
            assert saved.outcome is SaveOutcome.SAVED, saved
        assert set(await world.fetch(*others)) == {LoadOutcome.LOADED}

    play(settings(per_rank_device_paths={0: f"{tmp_path}/a", 1: f"{tmp_path}/b"}), scene)
