"""Arenas through the actor: the books follow what comes and goes."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support.dax_rig import context
from support.store_world import StoreWorld, config, source, store_world

from penstock.actors.api import store as api
from penstock.actors.api.errors import NoArenas
from penstock.actors.api.store import ArenaMessage, ArenaUsage, LoadOutcome, SaveOutcome
from penstock.actors.stores.config import FaultsConfig
from penstock.actors.stores.dax import open_dax_store
from penstock.actors.stores.dax_config import ArenaConfig, DaxConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.memory import MemoryStore
from penstock.actors.stores.samples import make_sample
from penstock.actors.stores.store import Store, StoreRefused
from penstock.runtime.units import KIB, MIB, ByteSize

SLOT = 64 * KIB


def settings(directory: Path) -> DaxConfig:
    arena = ArenaConfig(path=directory / "one", bytes=ByteSize(MIB))
    return DaxConfig(name="tested", arenas=(arena,), slot_bytes=ByteSize(SLOT))


async def change(world: StoreWorld, msg: ArenaMessage) -> tuple[ArenaUsage, ...]:
    return await world.ref.ask(msg, within=10)


def test_capacity_and_objects_follow_the_arenas(tmp_path: Path) -> None:
    """Twice as much is kept with a second arena; half of it is evicted, by policy, when the first one goes."""
    given = settings(tmp_path)

    async def open_store() -> Store:
        return FaultyStore(
            await open_dax_store(given, context()), FaultsConfig()
        )  # reached through it

    async def run() -> None:
        async with store_world(open_store, given) as world:
            await world.wait_recovered()
            (only,) = await change(world, api.ListArenas())
            slots = only.slots
            with pytest.raises(StoreRefused, match="is the only one"):
                await change(world, api.DrainArena(only.path))
            added = await change(world, api.AddArena(str(tmp_path / "two"), MIB))
            assert [one.slots for one in added] == [slots, slots]
            assert (await world.measure()).capacity_bytes == 2 * slots * SLOT
            samples = [await make_sample(n, 20_000) for n in range(2 * slots)]
            saved = await world.save(*[source(one) for one in samples])
            assert {one.outcome for one in saved} == {SaveOutcome.SAVED}
            await world.fetch(*samples[:slots])  # these were used last
            drained = await change(world, api.DrainArena(str(tmp_path / "one")))
            assert [(one.taken, one.is_draining) for one in drained] == [(0, True), (slots, False)]
            usage = await world.measure()
            assert (usage.objects, usage.used_bytes) == (slots, slots * SLOT)
            assert usage.capacity_bytes == slots * SLOT
            (left,) = await change(world, api.RemoveArena(str(tmp_path / "one")))
            assert left.path == str(tmp_path / "two")
            expected = [LoadOutcome.LOADED] * slots + [LoadOutcome.MISSING] * slots
            assert await world.fetch(*samples) == expected
            world.check_books()

    anyio.run(run)


def test_what_an_arena_brings_with_it_is_found(tmp_path: Path) -> None:
    given = settings(tmp_path)
    sample_count = 3

    async def run() -> None:
        samples = [await make_sample(n, 20_000) for n in range(sample_count)]
        other = tmp_path / "other"
        elsewhere = settings(other)
        other.mkdir()
        store = await open_dax_store(elsewhere, context())
        await store.save([one.given() for one in samples])
        await store.aclose()
        async with store_world(lambda: open_dax_store(given, context()), given) as world:
            await world.wait_recovered()
            assert set(await world.fetch(*samples)) == {LoadOutcome.MISSING}
            await change(world, api.AddArena(str(other / "one"), 0))
            assert (await world.measure()).objects == sample_count
            assert set(await world.fetch(*samples)) == {LoadOutcome.LOADED}
            world.check_books()

    anyio.run(run)


def test_a_store_without_arenas_says_so() -> None:
    async def open_store() -> Store:
        return MemoryStore(capacity_bytes=MIB)

    async def run() -> None:
        async with store_world(open_store, config()) as world:
            await world.wait_recovered()
            with pytest.raises(NoArenas, match="they are what dax stores consist of"):
                await change(world, api.ListArenas())

    anyio.run(run)
