"""The store with transforms, and the memory its objects are transformed in."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.transform_rig import come_back, seal, settled, transformed, zstd
from support.transforms import lossy_of_samples

from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.header import HeaderRefused, decode
from penstock.actors.stores.memory import MemoryConfig, MemoryStore, Shelf
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import Sample, make_sample
from penstock.actors.stores.store import Fate, StoreContext, StoreFault, StoreRefused
from penstock.actors.stores.transform import Pipeline
from penstock.actors.stores.transform_bounce import Bounce, Room
from penstock.actors.stores.transform_config import AesGcmConfig, Fp8Config, ZstdConfig
from penstock.actors.stores.transform_fp8 import Fp8Step
from penstock.actors.stores.transform_store import TransformedStore, TransformLimits
from penstock.runtime.units import KIB, MIB, ByteSize

# The bounce buffer.


def test_room_is_given_in_the_order_it_is_asked_for() -> None:
    """A small one does not pass by a large one that waits."""

    async def run() -> None:
        bounce = Bounce(64 * KIB)
        held = [await bounce.take(24 * KIB), await bounce.take(40_000)]  # whole blocks: all of it
        order: list[int] = []

        async def ask(size: int) -> None:
            room = await bounce.take(size)
            order.append(size)
            assert len(room.memory) == size

        async with anyio.create_task_group() as group:
            for size in (48 * KIB, 4 * KIB, 8 * KIB):
                group.start_soon(ask, size)
                await checkpoint()
            assert bounce.waiting == 3
            del held[0]
            await settled()
            assert order == [], "24 KiB are free, and the first one asked for 48"
            held.clear()
        assert order == [48 * KIB, 4 * KIB, 8 * KIB]
        await settled()
        assert bounce.free_bytes == bounce.bytes_max

    anyio.run(run)


def test_who_gives_up_waiting_holds_up_nobody() -> None:
    async def run() -> None:
        bounce = Bounce(16 * KIB)
        held = [await bounce.take(8 * KIB)]
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def give_up() -> None:
                with scope:
                    await bounce.take(16 * KIB)

            async def small(into: list[Room]) -> None:
                into.append(await bounce.take(8 * KIB))

            group.start_soon(give_up)
            await checkpoint()
            group.start_soon(small, held)
            await settled()
            assert bounce.waiting == 2
            scope.cancel()
        assert len(held) == 2
        held.clear()
        await settled()
        assert bounce.free_bytes == bounce.bytes_max

    anyio.run(run)


def test_room_comes_back_when_the_last_one_lets_go_on_whatever_thread() -> None:
    """A2: a store below may read on for whoever gave up."""

    async def run() -> None:
        bounce = Bounce(8 * KIB)
        held = [await bounce.take(8 * KIB)]
        assert bounce.free_bytes == 0
        thread = threading.Thread(target=held.clear)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        await settled()
        assert bounce.free_bytes == 8 * KIB
        parts = [await bounce.take(4 * KIB) for _ in range(2)]
        assert parts[0].memory is not parts[1].memory
        del parts
        await settled()
        room = await bounce.take(8 * KIB)  # in one piece again
        bounce.release()
        room.memory[:4] = b"mine"  # unmapped with the last room, not before
        assert bytes(room.memory[:4]) == b"mine"

    anyio.run(run)


# The store.


@pytest.mark.parametrize(
    "steps",
    [lambda: [zstd()], lambda: [seal()], lambda: [Fp8Step(lossy_of_samples()), zstd(), seal()]],
    ids=["zstd", "seal", "all"],
)
def test_the_loop_goes_on_while_large_objects_are_transformed(steps: object) -> None:
    """B13: objects of 32 MiB under the watchdog of 5 ms; pages of the test's own are kept until it ends."""
    kept: list[object] = []

    async def run() -> None:
        assert callable(steps)
        store = transformed(steps(), bounce_bytes_max=128 * MIB)
        samples = [await make_sample(n, 32 * MIB - 8192 * n) for n in range(2)]
        noise = await make_sample(2, 8 * MIB)
        for start in range(0, 8 * MIB, MIB):
            await checkpoint()
            noise.payload[start : start + MIB] = os.urandom(MIB)
        kept.extend([store, samples, noise])
        outcomes = await store.save([one.given() for one in (*samples, noise)])
        assert {one.fate for one in outcomes} == {Fate.DONE}
        for one in (*samples, noise):
            wanted = one.wanted()
            kept.append(wanted)
            assert (await store.load([wanted]))[0].fate is Fate.DONE
            assert await one.is_in(wanted)
        kept.append(store._bounce._memory)
        await store.aclose()

    anyio.run(run)


def test_many_at_once_share_a_small_bounce_buffer() -> None:
    """B15: memory is bounded, whoever has to wait waits, and all come through."""

    async def run() -> None:
        store = transformed([zstd(), seal()], bounce_bytes_max=MIB)
        samples = [await make_sample(n, 4096 * (1 + n * 7 % 60)) for n in range(120)]
        least = store._bounce.bytes_max

        async def use(some: Sequence[Sample]) -> None:
            nonlocal least
            await store.save([one.given() for one in some])
            least = min(least, store._bounce.free_bytes)
            await come_back(store, some)

        async with anyio.create_task_group() as group:
            for start in range(0, 120, 12):
                group.start_soon(use, samples[start : start + 12])
        await settled()
        assert 0 <= least < MIB
        assert store._bounce.free_bytes == store._bounce.bytes_max
        assert store._bounce.waiting == 0

    anyio.run(run)


def test_an_object_that_does_not_fit_the_bounce_buffer_is_refused_alone() -> None:
    async def run() -> None:
        small, large = await make_sample(1, 8000), await make_sample(2, 300 * KIB)
        store = transformed([zstd(), seal()], bounce_bytes_max=512 * KIB)
        outcomes = await store.save([one.given() for one in (large, small)])
        assert [one.fate for one in outcomes] == [Fate.REFUSED, Fate.DONE]
        assert "bounce_bytes_max is 524288" in outcomes[0].reason
        assert (await store.load([large.wanted()]))[0].fate is Fate.LOCKED
        await come_back(store, [small])

    anyio.run(run)


def test_a_save_tells_what_it_took() -> None:
    async def run() -> None:
        shelf: Shelf = {}
        sample = await make_sample(1, 300 * KIB)
        compressed = (await transformed([zstd()], shelf).save([sample.given()]))[0]
        held = shelf[sample.key]
        assert compressed.taken_bytes == len(held.header) + held.payload_bytes
        assert compressed.taken_bytes < 64 * KIB
        sealed = (await transformed([seal()], shelf).save([sample.given()]))[0]
        assert sealed.taken_bytes == 0, "it took what Store.cost said"
        assert shelf[sample.key].payload_bytes == 300 * KIB

    anyio.run(run)


def test_nothing_of_another_object_comes_to_lie_behind_one() -> None:
    """The bounce buffer is used again: what is left in it behind the last byte would reach the disk in the clear."""

    async def run() -> None:
        shelf: Shelf = {}
        store = transformed([zstd(), seal()], shelf, bounce_bytes_max=MIB)
        secret = await make_sample(1, 64 * KIB)
        secret.payload[:] = b"secret! " * (8 * KIB)
        await store.save([secret.given()])
        await settled()
        for size in (1, 4095, 4097, 10_000):
            sample = await make_sample(size, size)
            await store.save([sample.given()])
            held = shelf[sample.key]
            stored = decode(held.header).stored_bytes
            padding = b"".join(held.slices)[stored:]
            assert padding == bytes(len(padding))
            await settled()

    anyio.run(run)


def test_what_goes_wrong_below_is_told_above() -> None:
    async def run() -> None:
        samples = [await make_sample(n, 20_000) for n in range(3)]
        faulty = FaultyStore(MemoryStore(), FaultsConfig())
        store = TransformedStore(faulty, Pipeline([zstd(), seal()]), TransformLimits(MIB, 2))
        faulty.faults = FaultsConfig(error=1.0)
        with pytest.raises(StoreFault, match="rehearsed"):
            await store.save([one.given() for one in samples])
        faulty.faults = FaultsConfig(fault=1.0)
        outcomes = await store.save([one.given() for one in samples])
        assert {one.fate for one in outcomes} == {Fate.FAULT}
        faulty.faults = FaultsConfig()
        await store.save([one.given() for one in samples])
        faulty.faults = FaultsConfig(flip=1.0)
        for _ in range(20):
            into = samples[0].wanted()
            outcome = (await store.load([into]))[0]
            # A bit of the padding behind what is stored means nothing; a header that is broken is told by the actor.
            if outcome.fate is Fate.DONE:
                assert await samples[0].is_in(into) or _is_broken(into.header)
        faulty.faults = FaultsConfig(truncate=1.0)
        large = await make_sample(9, 40_000)
        large.payload[:] = os.urandom(len(large.payload))
        await store.save([large.given()])
        assert (await store.load([large.wanted()]))[0].fate is Fate.DAMAGED

    anyio.run(run)


def _is_broken(header: memoryview) -> bool:
    try:
        decode(header)
    except HeaderRefused:
        return True
    return False


def test_another_object_under_a_name_is_refused_and_one_without_a_header_is_left_to_the_actor() -> (
    None
):
    """A7."""

    async def run() -> None:
        shelf: Shelf = {}
        store = transformed([seal()], shelf)
        one, other = await make_sample(1, 9000), await make_sample(2, 9000)
        await store.save([one.given(), other.given()])
        shelf[one.key] = shelf[other.key]
        told = (await store.load([one.wanted()]))[0]
        assert (told.fate, told.reason) == (
            Fate.DAMAGED,
            f"it is another object, {other.key.hex()}",
        )
        shelf[one.key] = replace(shelf[one.key], header=bytes(4096))
        wanted = one.wanted()
        wanted.header[:] = fresh_pages([4096])[0]
        assert (await store.load([wanted]))[0].fate is Fate.DONE
        assert bytes(wanted.header) == bytes(4096), "no header of ours: the actor says so"

    anyio.run(run)


def test_a_store_is_opened_with_its_transforms_or_refused() -> None:
    context = StoreContext("tested", Epoch(bytes(16)))

    def config(*transforms: object) -> MemoryConfig:
        given = {"capacity": ByteSize(MIB), "transforms": transforms}
        return MemoryConfig(name="tested", **given)  # type: ignore[arg-type]

    async def run() -> None:
        plain = await open_store(config(), context)
        assert isinstance(plain, MemoryStore)
        cast = await open_store(config(Fp8Config(), ZstdConfig()), context)
        assert isinstance(cast, TransformedStore)
        sample = await make_sample(1, 20_000)
        refused = (await cast.save([sample.given()]))[0]
        assert refused.fate is Fate.REFUSED, "nobody attached has a namespace that names the cast"
        assert "fp8_e4m3" in refused.reason
        with pytest.raises(StoreRefused, match=r"stores.tested.transforms.1.keys_variable"):
            await open_store(config(ZstdConfig(), AesGcmConfig(keys_variable="NOT_SET")), context)

    anyio.run(run)
