"""A store actor from its opening to its end, and what it tells about itself."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import anyio
import pytest
from support.store_scenes import SEEDS, Slow, play, samples
from support.store_world import StoreWorld, config, source, store_world

from penstock.actors.api import store as api
from penstock.actors.api.store import Keys, LoadOutcome, SaveOutcome, StoreState
from penstock.actors.stores.config import BreakerConfig, FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.header import decode, encode_into
from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.actors.stores.samples import keys_of
from penstock.actors.stores.store import (
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    Store,
    StoreFault,
    Wanted,
)
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import ByteSize, Seconds


@SEEDS
def test_a_store_that_cannot_be_reached_is_opened_later(seed: int) -> None:
    """A node starts without it; nothing is found on it; then it is there."""
    tries = 0

    async def open_store() -> Store:
        nonlocal tries
        tries += 1
        if tries == 1:
            await anyio.sleep_forever()
        if tries < 4:
            raise StoreFault("connection refused")
        return MemoryStore()

    async def main() -> None:
        async with store_world(open_store, config()) as world:
            one = (await samples(1))[0]
            assert (await world.measure()).state is StoreState.BROKEN
            assert await world.fetch(one) == [LoadOutcome.FAILED]
            assert await world.ref.ask(api.Locate(Keys.of([(one.key, 0)])), within=1) == b"\0"
            assert (await world.save(source(one)))[0].outcome is SaveOutcome.FAILED
            await anyio.sleep(30)
            assert (await world.measure()).state is StoreState.OPEN
            assert (await world.save(source(one)))[0].outcome is SaveOutcome.SAVED

    simulate(seed, main)


@SEEDS
def test_a_save_nobody_waits_for_any_more_is_whole_and_in_the_books(seed: int) -> None:
    async def main() -> None:
        store = Slow()

        async def open_store() -> Store:
            return store

        async with store_world(open_store, config()) as world:
            some = await samples(3)
            with anyio.move_on_after(0.5):
                await world.save(*[source(one) for one in some])
            assert (await world.measure()).objects == 0
            await anyio.sleep(2)
            assert (await world.measure()).objects == 3
            assert set(await world.fetch(*some)) == {LoadOutcome.LOADED}

    simulate(seed, main)


@SEEDS
def test_what_is_counted_is_what_happened(seed: int) -> None:
    """E3: every metric against what the test asked for and was told."""

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        faulty.faults = FaultsConfig(seed=seed, fault=0.2)
        some = await samples(20)
        said: dict[tuple[str, str], int] = {}
        moved = dict.fromkeys(("load", "save"), 0)

        def note(op: str, outcomes: list[str]) -> None:
            for one in outcomes:
                said[op, one] = said.get((op, one), 0) + 1

        draw = random.Random(seed)
        for _ in range(20):
            chosen = draw.sample(some, 5)
            saved = await world.save(*[source(one) for one in chosen])
            note("save", [one.outcome.name.lower() for one in saved])
            chosen = draw.sample(some, 5)
            loaded = await world.fetch(*chosen)
            note("load", [one.name.lower() for one in loaded])
            moved["load"] += 8192 * loaded.count(LoadOutcome.LOADED)
            found = await world.ref.ask(api.Locate(keys_of(chosen)), within=1)
            note("locate", ["found" if one else "missing" for one in found])
        usage = await world.measure()
        moved["save"] = 8192 * usage.objects  # nothing was saved twice, deleted or evicted
        for (op, outcome), objects in said.items():
            assert world.metric("operations_total", op=op, outcome=outcome) == objects, (
                op,
                outcome,
            )
        for op, size in moved.items():
            assert world.metric("bytes_total", op=op) == size
        assert world.metric("used_bytes") == usage.used_bytes == usage.objects * 12288
        assert world.metric("objects") == usage.objects
        assert world.metric("capacity_bytes") == usage.capacity_bytes
        assert world.metric("seconds_count", op="load") > 0
        assert world.metric("waiting", op="load") == 0

    play(seed, scene, config(breaker=BreakerConfig(failures=1000)))


def test_headers_of_samples_are_what_the_actor_writes() -> None:
    """The checks of stores and the actor around them speak of the same header."""
    shelf: Shelf = {}

    async def scene(world: StoreWorld, _: FaultyStore) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        assert shelf[one.key].header == bytes(one.header)

    play(1, scene, shelf=shelf)


class Shared(MemoryStore):
    """One that others write too."""

    ownership = Ownership.SHARED
    is_closed = False

    async def recover(self) -> AsyncIterator[list[Entry]]:
        nothing: list[list[Entry]] = []
        for batch in nothing:
            yield batch

    async def aclose(self) -> None:
        self.is_closed = True


@SEEDS
def test_of_a_shared_store_only_what_we_wrote_is_known(seed: int) -> None:
    """DESIGN 7: others' objects are found, own writes are counted, nothing is evicted by us."""

    async def main() -> None:
        store = Shared()

        async def open_store() -> Store:
            return store

        async with store_world(open_store, config(capacity=ByteSize(12288))) as world:
            ours, theirs = await samples(3), await samples(2, first=50)
            await store.save([one.given() for one in theirs])
            saved = await world.save(*[source(one) for one in ours])
            assert {one.outcome for one in saved} == {SaveOutcome.SAVED}
            usage = await world.measure()
            assert (usage.objects, usage.used_bytes, usage.capacity_bytes) == (3, 3 * 12288, 0)
            assert set(await world.fetch(*ours, *theirs)) == {LoadOutcome.LOADED}
            assert await world.ref.ask(api.Locate(keys_of(theirs)), within=1) == b"\1\1"
            assert world.metric("evicted_total") == 0
        assert store.is_closed

    simulate(seed, main)


class Refusing(Shared):
    """Has what it cannot put into the memory there is for it."""

    refused: frozenset[bytes] = frozenset()

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        refusal = Outcome(Fate.REFUSED, 0, "more than there is room for")
        outcomes = await super().load(wanted)
        pairs = zip(wanted, outcomes, strict=True)
        return [refusal if one.key in self.refused else outcome for one, outcome in pairs]


@SEEDS
def test_of_a_shared_store_only_what_is_damaged_is_dropped(seed: int) -> None:
    """A1: what another node saved with other transforms, sizes or versions is a miss to us, and good to that node.

    Seen to fail while everything we could not use was deleted: two nodes with different transforms kept nothing."""

    async def main() -> None:
        store = Refusing()

        async def open_store() -> Store:
            return store

        async with store_world(open_store, config()) as world:
            some = await samples(4)
            other, large, torn, _ = some
            _made_with(other.header, b"zstd")
            torn.header[60] ^= 1
            await store.save([one.given() for one in some])
            store.refused = frozenset({large.key})
            assert await world.fetch(*some) == [
                LoadOutcome.MISSING,
                LoadOutcome.MISSING,
                LoadOutcome.DAMAGED,
                LoadOutcome.LOADED,
            ]
            assert await store.locate(keys_of(some)) == b"\1\1\0\1"
            assert world.metric("damaged_total") == 1

    simulate(seed, main)


def _made_with(header: memoryview, transform: bytes) -> None:
    encode_into(replace(decode(header), transform=transform), header)


@SEEDS
def test_a_store_is_closed_when_its_last_save_is_whole(seed: int) -> None:
    """Stopping in order: what has its place at the store ends, whoever has gone away meanwhile."""

    class Closing(Slow):
        whole_when_closed = -1

        async def aclose(self) -> None:
            assert self.now == 0, "closed while something was under way"
            self.whole_when_closed = len(self._shelf)

    store = Closing()

    async def main() -> None:
        async def open_store() -> Store:
            return store

        async with store_world(open_store, config()) as world:
            some = await samples(3)
            with anyio.move_on_after(0.5):
                await world.save(*[source(one) for one in some])

    simulate(seed, main)
    assert store.whole_when_closed == 3


@SEEDS
def test_a_store_is_closed_though_its_saves_never_end(seed: int) -> None:
    """Stopping has its bound: what is under way when it is over is given up, and then the store is closed.

    Seen to fail with `aclose` called by an orderly stop alone: locks and temporaries were left behind."""

    class Hanging(Shared):
        async def save(self, given: Sequence[Given]) -> list[Outcome]:
            await anyio.sleep_forever()

    store = Hanging()

    async def main() -> None:
        async def open_store() -> Store:
            return store

        settings = config(save_within=Seconds(3600))
        async with store_world(open_store, settings, drain_s=5) as world:
            with anyio.move_on_after(0.5):
                await world.save(source((await samples(1))[0]))
            began = anyio.current_time()
        assert anyio.current_time() - began == pytest.approx(5.0, abs=0.1)

    simulate(seed, main)
    assert store.is_closed


@SEEDS
def test_a_planner_is_told_what_a_load_costs_now(seed: int) -> None:
    async def main() -> None:
        store = Slow()

        async def open_store() -> Store:
            return store

        async with store_world(open_store, config()) as world:
            assert await world.ref.ask(api.MeasureSpeed(), within=1) == api.Speed(0.0, 0.0, 0)
            some = await samples(8)
            await world.save(*[source(one) for one in some])
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(world.fetch, *some[:4])
                await anyio.sleep(0.9)
                speed = await world.ref.ask(api.MeasureSpeed(), within=1)
                assert speed.queued_bytes == 16 * 12288
            speed = await world.ref.ask(api.MeasureSpeed(), within=1)
            assert speed.latency_s == pytest.approx(1.0, abs=0.1)
            # Four loads of 32 KiB side by side, each a second.
            assert speed.bytes_per_s == pytest.approx(2.5 * 4 * 8192, rel=0.7)
            assert speed.queued_bytes == 0

    simulate(seed, main)
