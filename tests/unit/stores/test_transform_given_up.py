"""Transforms: who gives up, and what cannot be read as a store is configured."""

from __future__ import annotations

import os
import threading

import anyio
import anyio.to_thread
import pytest
from support.store_world import config, source, store_world
from support.transform_rig import come_back, seal, settled, transformed
from support.transforms import KEYS_B

from penstock.actors.api.store import LoadOutcome
from penstock.actors.api.types import Epoch
from penstock.actors.stores.header import Header, decode
from penstock.actors.stores.memory import MemoryConfig, Shelf
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.samples import make_sample
from penstock.actors.stores.store import Fate, StoreContext
from penstock.actors.stores.transform import Abandoned, Effort
from penstock.actors.stores.transform_config import ZstdConfig
from penstock.actors.stores.transform_keys import parse_keys
from penstock.actors.stores.transform_seal import SealStep
from penstock.actors.stores.transform_store import TransformedStore
from penstock.actors.stores.transform_zstd import ZstdStep
from penstock.runtime.units import KIB, MIB, ByteSize


class Gated(ZstdStep):
    """Says when it has begun, and waits until it may go on."""

    def __init__(self) -> None:
        super().__init__(ZstdConfig())
        self.has_begun = threading.Semaphore(0)
        self.may_go = threading.Event()
        self.efforts: list[Effort] = []

    def apply(
        self, header: Header, source: memoryview, room: memoryview, effort: Effort, /
    ) -> tuple[Header, memoryview] | None:
        self.efforts.append(effort)
        self.has_begun.release()
        assert self.may_go.wait(10)
        return super().apply(header, source, room, effort)


def test_who_gives_up_leaves_at_once_and_the_work_ends_soon() -> None:
    """A deadline is kept, whatever a step is at; the room stays taken until that is over."""

    async def run() -> None:
        gated = Gated()
        store = transformed([gated], bounce_bytes_max=2 * MIB)
        samples = [await make_sample(n, 128 * KIB) for n in range(3)]

        async def give_up(scope: anyio.CancelScope) -> None:
            assert await anyio.to_thread.run_sync(gated.has_begun.acquire, True, 10)
            scope.cancel()

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(give_up, scope)
                await store.save([one.given() for one in samples])
        assert store._bounce.free_bytes < 2 * MIB, "it may be written still"
        with pytest.raises(Abandoned):
            gated.efforts[0].check()
        gated.may_go.set()
        await store._threads.close()
        assert len(gated.efforts) == 1, "the others were not begun"
        await settled()
        assert store._bounce.free_bytes == 2 * MIB

    anyio.run(run)


def test_compressing_ends_between_two_steps_when_nobody_waits() -> None:
    """32 MiB at level 19 would take half a minute."""
    step = ZstdStep(ZstdConfig(level=19))
    effort = Effort()
    source = memoryview(os.urandom(MIB) * 4)
    room = memoryview(bytearray(len(source)))
    effort.give_up()

    async def run() -> None:
        header = decode((await make_sample(1, 4 * MIB)).header)
        with pytest.raises(Abandoned):
            step.apply(header, source, room, effort)

    anyio.run(run)


def test_slow_levels_never_run_in_the_loops_thread() -> None:
    async def run() -> None:
        for level, expected in ((9, 64 * KIB), (10, 0)):
            made = MemoryConfig(
                name="m", capacity=ByteSize(MIB), transforms=(ZstdConfig(level=level),)
            )
            store = await open_store(made, StoreContext("m", Epoch(bytes(16))))
            assert isinstance(store, TransformedStore)
            assert store._limits.inline_saved_bytes_max == expected
            await store.aclose()
            await store.aclose()

    anyio.run(run)


def test_what_a_missing_key_or_too_little_memory_locks_is_no_damage() -> None:
    """It stays: a node whose keys file was cut short must not empty its disks."""

    async def run() -> None:
        shelf = Shelf()
        sample = await make_sample(1, 40_000)
        await transformed([seal()], shelf).save([sample.given()])
        other = SealStep(parse_keys(KEYS_B, "keys"))
        (outcome,) = await transformed([other], shelf).load([sample.wanted()])
        assert outcome.fate is Fate.LOCKED
        assert "master key 7, which is not given" in outcome.reason
        small = transformed([seal()], shelf, bounce_bytes_max=16 * KIB)
        assert (await small.load([sample.wanted()]))[0].fate is Fate.LOCKED
        await come_back(transformed([seal()], shelf), [sample])

    anyio.run(run)


def test_what_is_locked_is_missing_and_stays_in_the_books() -> None:
    """Of an exclusive store, which drops what is damaged."""

    async def run() -> None:
        shelf = Shelf()
        sample = await make_sample(1, 40_000)

        async def ours() -> TransformedStore:
            return transformed([seal()], shelf)

        async def without_the_key() -> TransformedStore:
            return transformed([SealStep(parse_keys(KEYS_B, "keys"))], shelf)

        async with store_world(ours, config()) as world:
            await world.wait_recovered()
            await world.save(source(sample))
        async with store_world(without_the_key, config()) as world:
            await world.wait_recovered()
            for _ in range(2):
                assert await world.fetch(sample) == [LoadOutcome.MISSING]
            assert (await world.measure()).objects == 1
            assert not world.metric("damaged_total")
        async with store_world(ours, config()) as world:
            await world.wait_recovered()
            assert await world.fetch(sample) == [LoadOutcome.LOADED]

    anyio.run(run)
