"""A store that hangs is found out, is given no more memory than it may have, and is taken back when it works again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel
import pytest
from support.store_scenes import SEEDS, samples
from support.store_world import StoreWorld, config, source, store_world, target

from penstock.actors.api import store as api
from penstock.actors.api.store import LoadOutcome, StoreState
from penstock.actors.stores.config import BreakerConfig, StoreConfig
from penstock.actors.stores.memory import MemoryStore
from penstock.actors.stores.samples import Sample, keys_of
from penstock.actors.stores.store import Outcome, Ownership, Store, Wanted
from penstock.runtime.errors import DeadlineExceeded, PenstockError
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import KIB, ByteSize, Seconds


class Hanging(MemoryStore):
    """Says what it has; whoever loads waits until it `works`. What was given to be read into is touched until then,
    as by a disk."""

    def __init__(self, ownership: Ownership) -> None:
        super().__init__()
        self.ownership = ownership
        self.works = anyio.Event()
        self.works.set()
        self.touched: list[Wanted] = []
        self.loads = 0
        self.takes_s = 0.0  # a load

    def hang(self) -> None:
        self.works = anyio.Event()

    def work(self) -> None:
        self.touched.clear()
        self.works.set()

    def touched_bytes(self) -> int:
        return sum(len(one.header) + len(one.payload) for one in self.touched)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        self.loads += 1
        if not self.works.is_set():
            self.touched += wanted
            await self.works.wait()
        await anyio.sleep(self.takes_s)
        return await super().load(wanted)


def play(
    seed: int,
    scene: Callable[[StoreWorld, Hanging], Awaitable[None]],
    settings: StoreConfig,
    ownership: Ownership = Ownership.EXCLUSIVE,
) -> None:
    async def main() -> None:
        store = Hanging(ownership)

        async def open_store() -> Store:
            return store

        async with store_world(open_store, settings) as world:
            await world.wait_recovered()
            await scene(world, store)
            world.check_books()
            store.work()

    simulate(seed, main)


async def load_in_vain(world: StoreWorld, sample: Sample, within: float) -> None:
    with pytest.raises(PenstockError):
        await world.load(target(sample), within=within)


@SEEDS
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_loads_that_hang_are_found_out_though_locates_answer(seed: int, share: float) -> None:
    """B1: askers that give the store exactly its time, or a good part of it, and a store that answers all else.

    Seen to fail while an asker's deadline, an instant before the store's own, counted for nothing."""

    async def scene(world: StoreWorld, store: Hanging) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        store.hang()
        for _ in range(5):
            async with anyio.create_task_group() as group:
                group.start_soon(load_in_vain, world, one, 5.0 * share)
                for _ in range(20):
                    assert await world.ref.ask(api.Locate(keys_of([one])), within=1) == b"\1"
                    await anyio.sleep(0.1)
        usage = await world.measure()
        assert usage.state is StoreState.BROKEN
        assert "reads fail: no answer within" in usage.detail

    play(seed, scene, config(load_within=Seconds(5)), Ownership.SHARED)


@SEEDS
def test_an_impatient_asker_says_nothing_of_a_slow_store(seed: int) -> None:
    async def scene(world: StoreWorld, store: Hanging) -> None:
        one, other = await samples(2)
        await world.save(source(one), source(other))
        for _ in range(20):
            store.hang()
            async with anyio.create_task_group() as group:
                group.start_soon(load_in_vain, world, one, 0.5)
                await anyio.sleep(0.1)
                store.works = anyio.Event()
                store.works.set()
                assert await world.fetch(other) == [LoadOutcome.LOADED]
        assert (await world.measure()).state is StoreState.OPEN

    play(seed, scene, config(load_within=Seconds(5)))


@SEEDS
@pytest.mark.parametrize("is_known", [True, False])
def test_askers_with_no_time_shut_a_store_for_nobody(seed: int, is_known: bool) -> None:
    """B1: a healthy store that needs longer than some are willing to wait serves all others; one attempt with all the
    time tells. Seen to fail while five such askers opened the breaker: nothing was found there by anybody."""

    async def scene(world: StoreWorld, store: Hanging) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        store.takes_s = 0.5
        if is_known:
            assert await world.fetch(one) == [LoadOutcome.LOADED]
        for _ in range(50):
            await load_in_vain(world, one, 0.3 if is_known else 0.1)
            assert (await world.measure()).state is StoreState.OPEN
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    play(seed, scene, config(load_within=Seconds(5)))


@SEEDS
def test_a_store_that_hangs_is_left_alone_though_nobody_has_the_time_to_tell(seed: int) -> None:
    """B1: the attempt that decides is the actor's own. Seen to fail with doubts that nobody looks into."""

    async def scene(world: StoreWorld, store: Hanging) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        store.hang()
        for _ in range(10):
            await load_in_vain(world, one, 0.01)
        await anyio.sleep(5.2)
        assert (await world.measure()).state is StoreState.BROKEN
        store.work()
        await anyio.sleep(6)
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    play(seed, scene, config(load_within=Seconds(5)))


@SEEDS
def test_only_a_load_proves_that_loads_work_again(seed: int) -> None:
    """B14: the probe loads what could not be loaded. It comes less and less often while it hangs, and nobody but it
    waits. Seen to fail with a probe that only asked what is there: closed and open again, every few seconds."""

    async def scene(world: StoreWorld, store: Hanging) -> None:
        one = (await samples(1))[0]
        await world.save(source(one))
        store.hang()
        for _ in range(5):
            await load_in_vain(world, one, 5.0)
        loads = store.loads
        for _ in range(600):
            assert (await world.measure()).state is StoreState.BROKEN
            began = anyio.current_time()
            assert await world.fetch(one) in ([LoadOutcome.FAILED], [LoadOutcome.MISSING])
            assert anyio.current_time() - began < 5.1
            await anyio.sleep(1)
        assert store.loads - loads < 40
        store.work()
        await anyio.sleep(36)
        assert (await world.measure()).state is StoreState.OPEN
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    play(seed, scene, config(load_within=Seconds(5)))


@SEEDS
def test_a_store_that_hangs_is_given_no_more_memory_than_it_may_have(seed: int) -> None:
    """A2, B13: what was given up counts until nobody touches it any more; loads beyond are refused at once.

    Seen to fail while a load's bytes were free when its asker had gone: memory without a bound."""
    bound = 512 * KIB

    async def scene(world: StoreWorld, store: Hanging) -> None:
        one = (await samples(1, 128 * KIB))[0]
        await world.save(source(one))
        store.hang()
        for _ in range(100):
            with pytest.raises(PenstockError):
                await world.load(target(one), within=0.2)
            assert store.touched_bytes() <= bound
        assert store.touched_bytes() > bound // 2
        began = anyio.current_time()
        with pytest.raises(PenstockError, match="wait until it answers"):
            await world.load(target(one), within=5)
        assert anyio.current_time() == began
        store.work()
        await anyio.lowlevel.checkpoint()
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    never = BreakerConfig(failures=10_000)
    play(seed, scene, config(inflight_bytes_max=ByteSize(bound), breaker=never))


@SEEDS
def test_a_store_that_has_all_the_memory_it_may_have_is_left_alone(seed: int) -> None:
    """B1: what is refused for that counts as failed, and nothing is found there until it answers."""

    async def scene(world: StoreWorld, store: Hanging) -> None:
        one = (await samples(1, 128 * KIB))[0]
        await world.save(source(one))
        store.hang()
        for _ in range(5):
            with pytest.raises(PenstockError):
                await world.load(target(one), within=1)
        usage = await world.measure()
        assert usage.state is StoreState.BROKEN
        assert "wait until it answers" in usage.detail
        assert await world.ref.ask(api.Locate(keys_of([one])), within=1) == b"\0"
        await anyio.sleep(600)
        assert (await world.measure()).state is StoreState.BROKEN
        assert store.loads == 1
        store.work()
        await anyio.sleep(31)
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    play(seed, scene, config(inflight_bytes_max=ByteSize(256 * KIB)))


@SEEDS
def test_loads_that_wait_behind_one_that_hangs_go_on_when_it_comes_back(seed: int) -> None:
    async def scene(world: StoreWorld, store: Hanging) -> None:
        one, other = await samples(2, 128 * KIB)
        await world.save(source(one), source(other))
        store.hang()
        async with anyio.create_task_group() as group:
            group.start_soon(_out_of_time, world, one, 0.5)
            await anyio.sleep(0.1)
            group.start_soon(_loads, world, other)
            await anyio.sleep(2)
            assert store.loads == 1
            store.work()

    never = BreakerConfig(failures=10_000)
    play(seed, scene, config(inflight_bytes_max=ByteSize(192 * KIB), breaker=never))


async def _out_of_time(world: StoreWorld, sample: Sample, within: float) -> None:
    with pytest.raises(DeadlineExceeded):
        await world.load(target(sample), within=within)


async def _loads(world: StoreWorld, sample: Sample) -> None:
    assert await world.fetch(sample, within=5) == [LoadOutcome.LOADED]
