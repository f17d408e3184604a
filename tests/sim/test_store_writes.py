"""A store that was full, read-only or half broken is written again when it can be."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest
from support.failing_disk import WRITE, FailingDisk, opened
from support.store_scenes import SEEDS, samples
from support.store_world import StoreWorld, config, source, store_world

from penstock.actors.api import store as api
from penstock.actors.api.store import Keys, LoadOutcome, SaveOutcome, StoreState
from penstock.actors.stores.config import BreakerConfig
from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Given, Outcome, Store, StoreFault
from penstock.runtime.errors import PenstockError
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import ByteSize

OBJECT_BYTES = 12288  # of the medium, of a sample of 8 KiB


class Medium(MemoryStore):
    """Has room for fewer objects than it was said to have, breaks, and has some that do not go."""

    def __init__(self, shelf: Shelf | None = None, *, room: int = 1 << 30) -> None:
        self.shelf: Shelf = {} if shelf is None else shelf
        super().__init__(self.shelf)
        self.room = room
        self.is_broken = False
        self.keeps_all = False
        self.stuck: set[bytes] = set()

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        if self.is_broken:
            return [Outcome(Fate.FAULT, 0, "EIO")] * len(given)
        if len(self.shelf) + len(given) > self.room:
            return [Outcome(Fate.FULL, 0, "ENOSPC")] * len(given)
        return await super().save(given)

    async def delete(self, keys: Keys) -> None:
        if self.keeps_all:
            raise StoreFault("EIO")
        await super().delete(Keys.of([(key, 0) for key in keys if key not in self.stuck]))
        if not self.stuck.isdisjoint(keys):
            raise StoreFault("an object could not be deleted: EISDIR")


async def save_one(world: StoreWorld, number: int) -> SaveOutcome:
    (saved,) = await world.save(source(await make_sample(number, 8192)))
    return saved.outcome


@SEEDS
def test_a_full_store_that_was_broken_is_written_again(seed: int) -> None:
    """B14, C1: the probe finds the medium full, against the books: room is made as a part of it.

    Seen to fail with an eviction that asked the same breaker for leave: it never closed again, and its reason, which
    named itself, grew."""

    async def main() -> None:
        medium = Medium(room=10)

        async def open_store() -> Store:
            return medium

        async with store_world(open_store, config()) as world:
            for number in range(12):
                assert await save_one(world, number) is SaveOutcome.SAVED
            medium.is_broken = True
            for number in range(20, 30):
                assert await save_one(world, number) is SaveOutcome.FAILED
            assert (await world.measure()).state is StoreState.BROKEN
            medium.is_broken = False
            parts = world.actor._parts
            assert parts is not None
            await anyio.sleep(parts.writes.probe_in_s())  # and so this is the probe
            assert await save_one(world, 40) is SaveOutcome.SAVED
            assert (await world.measure()).state is StoreState.OPEN
            assert len(parts.writes.reason) < 100
            assert len(medium.shelf) == (await world.measure()).objects == 10

    simulate(seed, main)


@SEEDS
def test_a_store_that_nobody_writes_to_is_tried_all_the_same(seed: int) -> None:
    """B14: health shows that it works again. Seen to fail with a background probe of reads alone."""

    async def main() -> None:
        medium = Medium()

        async def open_store() -> Store:
            return medium

        async with store_world(open_store, config()) as world:
            medium.is_broken = True
            for number in range(5):
                await save_one(world, number)
            assert (await world.measure()).state is StoreState.BROKEN
            medium.is_broken = False
            await anyio.sleep(6)
            assert (await world.measure()).state is StoreState.OPEN

    simulate(seed, main)


@SEEDS
def test_an_object_that_cannot_be_deleted_keeps_nothing_else_from_going(seed: int) -> None:
    """C1, C6: of a batch that fails the rest goes, and eviction goes on with others; the books count what is there.

    Seen to fail with deletions that fail as a whole: the same victims were chosen for ever, and nothing was saved."""
    capacity = 20 * OBJECT_BYTES

    async def main() -> None:
        old = await samples(20)
        medium = Medium()
        await medium.save([one.given() for one in old])
        medium.stuck = {one.key for one in old[:3]}  # recovered first: the next to go

        async def open_store() -> Store:
            return medium

        async with store_world(open_store, config(capacity=ByteSize(capacity))) as world:
            for number in range(100, 160):
                assert await save_one(world, number) is SaveOutcome.SAVED
            usage = await world.measure()
            assert usage.state is StoreState.OPEN
            assert usage.objects == len(medium.shelf) == 20
            assert medium.stuck < set(medium.shelf)

    simulate(seed, main)


@SEEDS
def test_who_deletes_hears_of_what_stays(seed: int) -> None:
    async def main() -> None:
        medium = Medium()

        async def open_store() -> Store:
            return medium

        async with store_world(open_store, config()) as world:
            some = await samples(4)
            await world.save(*[source(one) for one in some])
            medium.stuck = {some[1].key}
            with pytest.raises(PenstockError, match="1 objects could not be deleted"):
                await world.ref.ask(api.Delete(keys_of(some)), within=5)
            usage = await world.measure()
            assert (usage.objects, usage.used_bytes) == (1, OBJECT_BYTES)
            found = await world.ref.ask(api.Locate(keys_of(some)), within=1)
            assert found == b"\0\1\0\0"

    simulate(seed, main)


@SEEDS
def test_a_store_that_deletes_nothing_is_left_alone_soon(seed: int) -> None:
    """One by one has a bound, too."""

    class Counting(Medium):
        deletions = 0

        async def delete(self, keys: Keys) -> None:
            self.deletions += 1
            await super().delete(keys)

    async def main() -> None:
        medium = Counting()

        async def open_store() -> Store:
            return medium

        settings = config(capacity=ByteSize(200 * OBJECT_BYTES))
        async with store_world(open_store, settings) as world:
            old = await samples(200)
            await world.save(*[source(one) for one in old])
            medium.keeps_all = True
            large = await make_sample(999, 100 * OBJECT_BYTES)
            for _ in range(10):
                saved = await world.save(source(large))
                assert saved[0].outcome is SaveOutcome.FAILED
            assert medium.deletions < 100
            assert (await world.measure()).state is StoreState.BROKEN

    simulate(seed, main)


class TwoFolders(MemoryStore):
    """One of them may become read-only: nothing is written or deleted there, and nobody can be sure of what was."""

    places_bytes = ()  # they share one capacity

    def __init__(self) -> None:
        super().__init__()
        self.is_read_only = False

    def place_of(self, key: bytes, _device: int) -> int:
        return key[0] % 2

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        unsure = Outcome(Fate.FAULT, reason="read-only", may_be_there=True)
        return [
            unsure if self._refuses(one.key) else (await super(TwoFolders, self).save([one]))[0]
            for one in given
        ]

    async def delete(self, keys: Keys) -> None:
        if any(map(self._refuses, keys)):
            raise StoreFault("read-only")
        await super().delete(keys)

    def _refuses(self, key: bytes) -> bool:
        return self.is_read_only and self.place_of(key, 0) == 1


def play_two_folders(
    seed: int, scene: Callable[[StoreWorld, TwoFolders], Awaitable[None]], **given: object
) -> None:
    async def main() -> None:
        store = TwoFolders()

        async def open_store() -> Store:
            return store

        async with store_world(open_store, config(**given)) as world:
            await world.wait_recovered()
            await scene(world, store)
            world.check_books()

    simulate(seed, main)


@SEEDS
@pytest.mark.parametrize("batch", [1, 8])
def test_a_folder_that_became_read_only_costs_its_own_objects_and_no_others(
    seed: int, batch: int
) -> None:
    """C5: what is saved elsewhere is saved at once, though what may have been left there cannot be deleted.

    Seen to fail while each such save kept its place until it was taken back: after four of them nothing was saved
    any more; and, with single saves, while the errors of the one opened the breaker for both."""

    async def scene(world: StoreWorld, store: TwoFolders) -> None:
        pool = await samples(160)
        before, rest = pool[:16], pool[16:]
        await world.save(*map(source, before))
        store.is_read_only = True
        outcomes = dict[bytes, SaveOutcome]()
        for start in range(0, len(rest), batch):
            some = rest[start : start + batch]
            saved = await world.save(*map(source, some), within=5)
            outcomes |= {one.key: told.outcome for one, told in zip(some, saved, strict=True)}
        good = {key for key in outcomes if store.place_of(key, 0) == 0}
        assert {outcomes[key] for key in good} == {SaveOutcome.SAVED}
        assert {outcomes[key] for key in outcomes.keys() - good} == {SaveOutcome.FAILED}
        usage = await world.measure()
        assert usage.state is StoreState.OPEN
        owed = world.metric("owed_objects")
        assert 8 <= owed <= 8 + 4 * batch, "further ones were refused at once"
        assert usage.detail == f"{owed:.0f} objects of failed saves are to be deleted"
        assert set(await world.fetch(*before)) == {LoadOutcome.LOADED}
        store.is_read_only = False
        await anyio.sleep(31)
        usage = await world.measure()
        assert (usage.detail, world.metric("owed_objects")) == ("", 0)
        assert usage.objects == len(good) + len(before)
        assert usage.used_bytes == usage.objects * (4096 + 8192)
        saved = await world.save(*map(source, rest))
        assert {one.outcome for one in saved} == {SaveOutcome.SAVED}

    play_two_folders(seed, scene, owed_max=8)


@SEEDS
def test_objects_that_can_be_neither_saved_nor_deleted_keep_no_others_waiting(seed: int) -> None:
    """Of one folder: as many saves as there are places for them. Seen to fail as above."""

    async def scene(world: StoreWorld, store: TwoFolders) -> None:
        pool = await samples(40)
        bad = [one for one in pool if one.key[0] % 2][:6]
        store.is_read_only = True
        for one in bad:
            assert (await world.save(source(one)))[0].outcome is SaveOutcome.FAILED
        good = [one for one in pool if not one.key[0] % 2]
        saved = await world.save(*map(source, good), within=1)
        assert {one.outcome for one in saved} == {SaveOutcome.SAVED}

    play_two_folders(seed, scene, saves_max=2, breaker=BreakerConfig(failures=1000))


@SEEDS
def test_what_cannot_be_taken_back_is_told_of_and_keeps_none_of_its_batch_waiting(
    seed: int,
) -> None:
    """C5: who saves an object that an earlier save may have left on the medium hears at once that it cannot be now, as
    does who waited for that already; what else they save is saved.

    Seen to fail while they waited until it was deleted, and their whole batch with it: a writer's retry did for its
    `save_within`, and the object was pending long after its `retry_within`."""

    async def scene(world: StoreWorld, store: TwoFolders) -> None:
        pool = await samples(40)
        bad = next(one for one in pool if one.key[0] % 2)
        good, other = [one for one in pool if not one.key[0] % 2][:2]
        store.is_read_only = True
        told: list[SaveOutcome] = []

        async def save(*some: Sample) -> None:
            answers = await world.save(*map(source, some), within=5)
            told.extend(one.outcome for one in answers)

        async with anyio.create_task_group() as users:
            users.start_soon(save, bad)
            users.start_soon(save, bad)
        await save(bad, good)
        await save(bad)
        assert sorted(one.name for one in told) == ["FAILED"] * 4 + ["SAVED"]
        assert world.metric("owed_objects") == 1
        store.is_read_only = False
        await anyio.sleep(31)
        told.clear()
        await save(bad, good, other)
        assert told == [SaveOutcome.SAVED] * 3

    play_two_folders(seed, scene)


@SEEDS
def test_a_dead_device_of_a_raw_store_is_left_alone_until_it_works(seed: int) -> None:
    """B14: nobody saves meanwhile. Seen to fail: a probe that asked nothing of the device said that it worked again."""
    disk = FailingDisk()

    async def open_raw() -> Store:
        return await opened(disk)

    async def main() -> None:
        settings = config(breaker=BreakerConfig(failures=1), attempts_max=1)
        async with store_world(open_raw, settings) as world:
            await world.wait_recovered()
            disk.failing = {WRITE: errno.EIO}
            assert await save_one(world, 1) is SaveOutcome.FAILED
            for _ in range(60):
                assert (await world.measure()).state is StoreState.BROKEN
                await anyio.sleep(1)
            disk.failing = {}
            await anyio.sleep(120)
            assert (await world.measure()).state is StoreState.OPEN
            assert await save_one(world, 1) is SaveOutcome.SAVED

    simulate(seed, main)
