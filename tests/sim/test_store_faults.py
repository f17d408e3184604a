"""A store that fails, hangs, or is slow costs its askers no more than their time."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Sequence

import anyio
import pytest
from support.store_scenes import NO_FAULTS, SEEDS, Slow, play, samples
from support.store_world import StoreWorld, config, source, store_world, target

from penstock.actors.api import store as api
from penstock.actors.api.store import LoadOutcome, SaveOutcome, StoreState
from penstock.actors.stores.config import BreakerConfig, FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.memory import MemoryStore
from penstock.actors.stores.samples import Hold, keys_of
from penstock.actors.stores.store import Given, Outcome, Store, StoreFault
from penstock.runtime.errors import DeadlineExceeded
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import Seconds


@SEEDS
def test_a_failing_load_is_tried_so_often_and_no_more(seed: int) -> None:
    """B7: attempts are bounded, then it is a miss. Seen to fail with a retry loop without a bound."""

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        faulty.faults = FaultsConfig(error=1.0)
        assert await world.fetch(one) == [LoadOutcome.FAILED]
        assert world.metric("retries_total", op="load") == 2  # attempts_max is 3
        faulty.faults = NO_FAULTS
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    play(seed, scene, config(breaker=BreakerConfig(failures=100)))


@SEEDS
def test_a_load_ends_with_the_deadline_of_whoever_asked(seed: int) -> None:
    """B8: a deadline is inherited from the asker, and is none of the store's if shorter."""

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        faulty.faults = FaultsConfig(hang=1.0)
        began = anyio.current_time()
        with pytest.raises(DeadlineExceeded):
            await world.fetch(one, within=0.5)
        assert anyio.current_time() - began == pytest.approx(0.5)
        began = anyio.current_time()
        assert await world.fetch(one, within=60) == [LoadOutcome.FAILED]
        assert anyio.current_time() - began == pytest.approx(5.0, abs=0.1)  # load_within

    play(seed, scene)


@SEEDS
def test_a_store_that_never_answers_is_left_alone_and_taken_back_when_it_does(seed: int) -> None:
    """B1, B14: the breaker opens, everything is missing at once, and a probe closes it though nobody asks.

    Seen to fail without the background probe: BROKEN for ever."""

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        faulty.faults = FaultsConfig(hang=1.0)
        for _ in range(5):
            with pytest.raises(DeadlineExceeded):
                await world.fetch(one, within=0.2)
        usage = await world.measure()
        assert usage.state is StoreState.BROKEN
        assert "no answer" in usage.detail
        assert world.metric("breaker", side="reads", state="open") == 1
        began = anyio.current_time()
        assert await world.fetch(one) == [LoadOutcome.FAILED]
        assert await world.ref.ask(api.Locate(keys_of([one])), within=1) == b"\0"
        assert anyio.current_time() - began < 0.2
        await anyio.sleep(20)
        assert (await world.measure()).state is StoreState.BROKEN
        faulty.faults = NO_FAULTS
        await anyio.sleep(31)  # open_for_max, and a moment
        assert (await world.measure()).state is StoreState.OPEN
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    play(seed, scene)


@SEEDS
def test_a_store_that_cannot_be_written_is_still_read(seed: int) -> None:
    """C5: a disk that was remounted read-only: saves fail, loads go on, the node lives."""

    class ReadOnly(MemoryStore):
        is_read_only = False

        async def save(self, given: Sequence[Given]) -> list[Outcome]:
            if self.is_read_only:
                raise StoreFault("EROFS: read-only file system")
            return await super().save(given)

    async def main() -> None:
        store = ReadOnly()

        async def open_store() -> Store:
            return store

        async with store_world(open_store, config()) as world:
            old, new = await samples(2)
            await world.save(source(old))
            store.is_read_only = True
            for _ in range(3):
                saved = await world.save(source(new))
                assert saved[0].outcome is SaveOutcome.FAILED
            usage = await world.measure()
            assert usage.state is StoreState.BROKEN
            assert "writes fail: EROFS" in usage.detail
            assert await world.fetch(old, new) == [LoadOutcome.LOADED, LoadOutcome.MISSING]
            store.is_read_only = False
            await anyio.sleep(6)
            assert (await world.save(source(new)))[0].outcome is SaveOutcome.SAVED
            assert (await world.measure()).state is StoreState.OPEN

    simulate(seed, main)


@SEEDS
def test_loads_go_before_saves_and_saves_still_go_on(seed: int) -> None:
    """B15: a load waits behind no save that has not begun; one save always has its turn.

    Seen to fail with the saves' check for waiting loads taken out of `core/admission.py`."""

    async def main() -> None:
        store = Slow()

        async def open_store() -> Store:
            return store

        settings = config(loads_max=1, saves_max=4, save_within=Seconds(600))
        async with store_world(open_store, settings) as world:
            some, more = await samples(4), await samples(12, first=100)
            await world.save(*[source(one) for one in some])
            store.begun.clear()
            async with anyio.create_task_group() as group:
                for one in some:
                    group.start_soon(world.fetch, one)
                await anyio.sleep(0.1)
                for one in more:
                    group.start_soon(world.save, source(one))
            # While loads wait, one save goes beside each of them; then four at a time.
            first_saves = [n for n, what in enumerate(store.begun) if what == "save"]
            last_load = max(n for n, what in enumerate(store.begun) if what == "load")
            assert sum(n < last_load for n in first_saves) in {2, 3, 4}
            assert store.begun.count("save") == 12
            assert store.most <= 5

    simulate(seed, main)


@SEEDS
@pytest.mark.parametrize("is_hanging", [False, True])
def test_memory_is_let_go_of_when_nobody_uses_it_any_more(seed: int, is_hanging: bool) -> None:
    """A2: given up at any moment, a batch keeps its memory until the store is done with it, and no longer.

    Seen to fail with a save's sources kept while what it may have left is taken back."""
    alive: list[weakref.ref[Hold]] = []

    def hold() -> Hold:
        made = Hold()
        alive.append(weakref.ref(made))
        return made

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        some = await samples(4)
        draw = random.Random(seed)
        for _ in range(20):
            faulty.faults = FaultsConfig(slow=0.5, slow_for=Seconds(1), hang=float(is_hanging))
            with anyio.move_on_after(draw.uniform(0, 2)):
                if draw.random() < 0.5:
                    await world.save(*[source(one, hold=hold()) for one in some])
                else:
                    await world.load(*[target(one, hold=hold()) for one in some])
        await anyio.sleep(200)
        gc.collect()
        assert alive
        assert not [one for one in alive if one() is not None]

    play(seed, scene, config(save_within=Seconds(5), breaker=BreakerConfig(failures=1000)))
