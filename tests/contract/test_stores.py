"""One suite over all stores: alone, and with the actor around them. A store joins by a file in `contract/stores/`.

Such a file has `SUBJECTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Subject]]]`, by name; each gets an
empty directory of its own. One that needs what is not here calls `pytest.skip` and says what is missing.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.store_world import StoreWorld, config, source, store_world, target

from penstock.actors.api import store as api
from penstock.actors.api.store import LoadOutcome, SaveOutcome
from penstock.actors.stores.checking import CHECKS, Check, Subject, returns_what_was_saved
from penstock.actors.stores.config import BreakerConfig, FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Store
from penstock.runtime.errors import ActorCrashed
from penstock.runtime.units import KIB, MIB, ByteSize, Seconds

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def subjects() -> dict[str, Make]:
    found: dict[str, Make] = {}
    for path in sorted((Path(__file__).parent / "stores").glob("[a-z]*.py")):
        found |= importlib.import_module(f"contract.stores.{path.stem}").SUBJECTS
    return found


def _marked(check: Check) -> Any:
    # It gives 32 MiB of its own back to the system at once, which no store does.
    is_large = check is returns_what_was_saved
    return pytest.param(check, marks=pytest.mark.loop_step_ms(30) if is_large else ())


@pytest.mark.parametrize("check", [*map(_marked, CHECKS)], ids=[one.__name__ for one in CHECKS])
@pytest.mark.parametrize("make", [*subjects().values()], ids=[*subjects()])
def test_a_store(make: Make, check: Check, tmp_path: Path) -> None:
    """A2, A6, A11, C2: what every store must do; see the check's own words."""

    async def run() -> None:
        async with make(tmp_path) as subject:
            await check(subject)

    anyio.run(run)


# With the actor around it.

Scene = Callable[[StoreWorld, FaultyStore], Awaitable[None]]


def play(make: Make, directory: Path, scene: Scene, **given: Any) -> None:
    """`scene` with an actor around the store, whose faults it may set; digests are taken in threads."""

    async def run() -> None:
        async with make(directory) as subject:
            opened: list[FaultyStore] = []

            async def open_store() -> Store:
                if opened:
                    await opened[-1].aclose()
                opened.append(FaultyStore(await subject.open(), FaultsConfig(seed=7)))
                return opened[-1]

            settings = config(**{"capacity": ByteSize(64 * MIB), **given})
            async with store_world(open_store, settings, inline_bytes_max=64 * KIB) as world:
                await world.wait_recovered()
                await scene(world, opened[-1])
                world.check_books()

    anyio.run(run)


ALL = pytest.mark.parametrize("make", [*subjects().values()], ids=[*subjects()])


async def some_samples(count: int = 6, size: int = 40_000) -> list[Sample]:
    return [await make_sample(n, size + 5000 * n, device=n % 3) for n in range(count)]


@ALL
def test_objects_come_back_through_the_actor(make: Make, tmp_path: Path) -> None:
    """Saved, located, loaded, deleted, counted."""

    async def scene(world: StoreWorld, _: FaultyStore) -> None:
        some = await some_samples()
        saved = await world.save(*[source(one) for one in (*some, some[2])])
        assert {one.outcome for one in saved} == {SaveOutcome.SAVED}
        assert await world.ref.ask(api.Locate(keys_of(some)), within=5) == b"\1" * len(some)
        assert set(await world.fetch(*some, some[1])) == {LoadOutcome.LOADED}
        before = (await world.measure()).used_bytes
        assert before > sum(len(one.header) for one in some)  # payloads may be made smaller
        await world.ref.ask(api.Delete(keys_of(some)), within=5)
        assert await world.fetch(*some) == [LoadOutcome.MISSING] * len(some)

    play(make, tmp_path, scene)


@ALL
def test_what_is_not_the_object_asked_for_is_never_loaded(make: Make, tmp_path: Path) -> None:
    """A7, A8, A9: another object under this name, a bit flipped, a part cut off: DAMAGED, then gone.

    What is larger than asked for may be good to others: it may be a miss, and stay."""

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        some = await some_samples(4)
        await world.save(*[source(one) for one in some])
        await faulty.save(
            [
                replace(some[1].given(), key=some[0].key, device=some[0].device),
                replace(some[2].given(), key=some[3].key, device=some[3].device),
            ]
        )
        larger, smaller = await world.fetch(some[0], some[3])
        assert larger in {LoadOutcome.MISSING, LoadOutcome.DAMAGED}
        assert smaller is LoadOutcome.DAMAGED
        faulty.faults = FaultsConfig(flip=1.0)
        # A bit of the padding behind the last byte of an object means nothing.
        allowed = {larger, LoadOutcome.DAMAGED, LoadOutcome.LOADED}
        assert set(await world.fetch(*some[1:3])) <= allowed
        faulty.faults = FaultsConfig(truncate=1.0)
        await world.ref.ask(api.Delete(keys_of(some)), within=5)
        await world.save(*[source(one) for one in some])
        faulty.faults = FaultsConfig()
        assert await world.fetch(*some) == [LoadOutcome.DAMAGED] * 4
        assert await world.fetch(*some) == [LoadOutcome.MISSING] * 4

    play(make, tmp_path, scene)


@ALL
@pytest.mark.parametrize("seed", range(3))
def test_no_fault_makes_a_wrong_byte(make: Make, tmp_path: Path, seed: int) -> None:
    """Errors, lost and cut objects, flipped bits, slowness and askers who go away: what is loaded is what was saved."""
    rehearsed = {"error": 0.1, "fault": 0.1, "flip": 0.1, "truncate": 0.1, "drop": 0.1}

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        draw = random.Random(seed)
        pool = await some_samples(12)
        faulty.faults = FaultsConfig(slow=0.1, slow_for=Seconds(0.005), **rehearsed)

        async def user() -> None:
            for _ in range(10):
                chosen = draw.sample(pool, 3)
                with anyio.move_on_after(draw.choice((0.002, 10))):
                    if draw.random() < 0.5:
                        await world.save(*[source(one) for one in chosen])
                    else:
                        await world.fetch(*chosen)  # asserts

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(user)
        faulty.faults = FaultsConfig()
        await world.ref.ask(api.Delete(keys_of(pool)), within=10)
        await world.save(*[source(one) for one in pool])
        assert set(await world.fetch(*pool)) == {LoadOutcome.LOADED}

    play(make, tmp_path, scene, breaker=BreakerConfig(failures=10_000))


@ALL
def test_a_bug_costs_one_life_of_the_actor_and_nothing_of_the_store(
    make: Make, tmp_path: Path
) -> None:
    """The supervisor starts it again, it opens the store again, and counts what is there."""

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        some = await some_samples()
        await world.save(*[source(one) for one in some])
        before = await world.measure()
        cut_short = replace(target(some[0]), payload=fresh_pages([4096])[0])
        faulty.faults = FaultsConfig(flip="a bug")  # type: ignore[arg-type]
        with pytest.raises(ActorCrashed):
            await world.load(cut_short, target(some[1]))
        assert await world.ref.ask(api.Locate(keys_of(some)), within=5) == b"\1" * len(some)
        assert len(world.lives) == 2
        await world.wait_recovered()
        after = await world.measure()
        assert after.capacity_bytes == before.capacity_bytes
        if after.capacity_bytes:
            assert (after.objects, after.used_bytes) == (before.objects, before.used_bytes)
        assert set(await world.fetch(*some)) == {LoadOutcome.LOADED}

    play(make, tmp_path, scene)
