"""Loads of prefixes from a raw device: one call for the objects of a prompt, of use up to the first that is missing."""

from __future__ import annotations

import errno
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from support.failing_disk import READ, SIZE, SLOTS, FailingDisk, opened, samples
from support.store_world import StoreWorld, config, source, store_world, target

from penstock.actors.api.store import (
    Keys,
    Load,
    Loaded,
    LoadOutcome,
    LoadPrefix,
    Locate,
    SaveOutcome,
    Target,
)
from penstock.actors.stores.samples import Hold, Sample
from penstock.runtime.units import ByteSize

COUNT, HOLE = 8, 3
LOADED, MISSING, SKIPPED = LoadOutcome.LOADED, LoadOutcome.MISSING, LoadOutcome.SKIPPED


@dataclass(frozen=True)
class Prompt:
    """A store over a disk, and the objects of one prompt."""

    world: StoreWorld
    disk: FailingDisk
    objects: Sequence[Sample]

    async def save(self, some: Sequence[Sample]) -> None:
        saved = await self.world.save(*map(source, some))
        assert {one.outcome for one in saved} == {SaveOutcome.SAVED}

    async def load(self, ask: type[Load], targets: Sequence[Target]) -> tuple[Loaded, ...]:
        """What was read of the device is in `disk.asked`."""
        self.disk.asked.clear()
        return await self.world.ref.ask(ask(tuple(targets)), within=10.0)

    def assert_nothing_is_held(self) -> None:
        gate = self.world.actor._parts.gate  # type: ignore[union-attr]
        assert gate.load_bytes() == 0
        self.world.check_books()


@asynccontextmanager
async def prompt() -> AsyncIterator[Prompt]:
    disk = FailingDisk(bytes(SIZE))
    settings = config(capacity=ByteSize(SIZE), attempts_max=1)
    async with store_world(lambda: opened(disk), settings) as world:
        await world.wait_recovered()
        yield Prompt(world, disk, await samples(COUNT))


def outcomes(answers: Sequence[Loaded]) -> list[LoadOutcome]:
    return [one.outcome for one in answers]


def test_a_batched_prefix_read_stops_at_the_first_miss() -> None:
    """Nothing behind it is read from the device, and none of its memory is written to or kept.

    Seen to fail when a prefix was loaded as objects that have nothing to do with each other: all 7 were read."""

    async def scene() -> None:
        async with prompt() as one:
            await one.save([*one.objects[:HOLE], *one.objects[HOLE + 1 :]])
            holds = [Hold() for _ in one.objects]
            targets = [
                target(sample, hold=hold) for sample, hold in zip(one.objects, holds, strict=True)
            ]
            died = [weakref.ref(hold) for hold in holds]
            answers = await one.load(LoadPrefix, targets)
            behind = COUNT - HOLE - 1
            assert outcomes(answers) == [LOADED] * HOLE + [MISSING] + [SKIPPED] * behind
            assert one.disk.count(READ) == HOLE
            for sample, into in zip(one.objects, targets, strict=True):
                is_read = sample in one.objects[:HOLE]
                whole = sample.payload if is_read else bytes(len(into.payload))
                assert bytes(into.payload) == bytes(whole)
            del holds, targets, into
            gc.collect()
            assert [ref() for ref in died] == [None] * COUNT
            one.assert_nothing_is_held()
            assert one.world.metric("operations_total", op="load", outcome="skipped") == behind

    anyio.run(scene)


def test_objects_that_are_no_prefix_are_all_loaded() -> None:
    """Of a window of attention, say: each is of use by itself."""

    async def scene() -> None:
        async with prompt() as one:
            await one.save([*one.objects[:HOLE], *one.objects[HOLE + 1 :]])
            answers = await one.load(Load, [target(sample) for sample in one.objects])
            others = [LOADED] * (COUNT - HOLE - 1)
            assert outcomes(answers) == [LOADED] * HOLE + [MISSING] + others
            assert one.disk.count(READ) == COUNT - 1

    anyio.run(scene)


def test_an_error_of_a_prefix_read_is_told_and_everything_given_back() -> None:
    """With its reason, of each object that could not be read; what could is loaded, behind it, too."""

    async def scene() -> None:
        async with prompt() as one:
            await one.save(one.objects)
            holds = [Hold() for _ in one.objects]
            died = [weakref.ref(hold) for hold in holds]
            await one.load(LoadPrefix, [target(sample) for sample in one.objects])
            places = [at for what, at in one.disk.asked if what == READ]
            one.disk.spared_bytes = sorted(places)[HOLE]
            one.disk.failing[READ] = errno.EIO
            targets = [
                target(sample, hold=hold) for sample, hold in zip(one.objects, holds, strict=True)
            ]
            answers = await one.load(LoadPrefix, targets)
            is_failing = [at >= one.disk.spared_bytes for at in places]
            assert sum(is_failing) == COUNT - HOLE
            expected = [LoadOutcome.FAILED if fails else LOADED for fails in is_failing]
            assert outcomes(answers) == expected
            assert all("Input/output error" in a.reason for a in answers if a.reason)
            assert sum(bool(a.reason) for a in answers) == COUNT - HOLE
            del holds, targets
            gc.collect()
            assert [ref() for ref in died] == [None] * COUNT
            one.assert_nothing_is_held()

    anyio.run(scene)


def test_what_a_prefix_read_has_loaded_is_used_in_the_eyes_of_the_policy() -> None:
    """What was saved first goes last, once it was read; what was skipped was not."""

    async def scene() -> None:
        async with prompt() as one:
            await one.save([*one.objects[:HOLE], *one.objects[HOLE + 1 :]])
            await one.load(LoadPrefix, [target(sample) for sample in one.objects])
            used = one.world.metric("used_bytes")
            room = one.world.metric("capacity_bytes")
            count = int((room - used) * (COUNT - 1) / used) + COUNT - 1 - HOLE
            assert count < SLOTS
            for other in await samples(count, first=100):
                await one.save([other])
            keys = Keys.of([(sample.key, 0) for sample in one.objects])
            there = await one.world.ref.ask(Locate(keys), within=10.0)
            assert [*there] == [1] * HOLE + [0] * (COUNT - HOLE)

    anyio.run(scene)
