"""C2: when two causes hit together, the books of a store of our own equal what is on the medium, to the byte."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import anyio
import pytest
from contract.test_stores import ALL, Make, play, some_samples
from support.eventually import eventually
from support.store_world import StoreWorld, source

from penstock.actors.api import store as api
from penstock.actors.stores.config import BreakerConfig, FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.samples import Sample, keys_of
from penstock.runtime.errors import PenstockError
from penstock.runtime.units import KIB, ByteSize, Seconds

CAUSES: dict[str, dict[str, Any]] = {
    "batches fail": {"error": 0.3},
    "objects fail": {"fault": 0.3},
    "batches are slow": {"slow": 0.5, "slow_for": Seconds(0.01)},
}
PAIRS = [*combinations(CAUSES, 2)]


@ALL
@pytest.mark.parametrize("pair", PAIRS, ids=[" and ".join(pair) for pair in PAIRS])
def test_the_books_are_what_the_medium_holds_whatever_went_wrong(
    make: Make, pair: tuple[str, str], tmp_path: Path
) -> None:
    """C2, C6: of objects that were saved, evicted and deleted by many who do not wait for the end, while two things go
    wrong. What counts is what the store says when it is opened again. Batches that hang are simulated, elsewhere.

    Seen to fail while deletions that were given up halfway counted for nothing: what had gone stayed in the books, and
    a save of it was said to be SAVED."""

    async def scene(world: StoreWorld, faulty: FaultyStore) -> None:
        if not (await world.measure()).capacity_bytes:
            pytest.skip("what others write to is not in our books")
        draw = random.Random(7)
        pool = await some_samples(24, 20_000)
        faulty.faults = FaultsConfig(**(CAUSES[pair[0]] | CAUSES[pair[1]]))
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(_use, world, pool, random.Random(draw.random()))
        faulty.faults = FaultsConfig()
        await _settled(world)
        before = await world.measure()
        assert before.used_bytes <= before.capacity_bytes
        await _crash(world, faulty, pool[0])
        after = await world.measure()
        assert (after.objects, after.used_bytes) == (before.objects, before.used_bytes)

    never = BreakerConfig(failures=100_000)
    play(make, tmp_path, scene, capacity=ByteSize(800 * KIB), breaker=never, owed_max=10_000)


async def _settled(world: StoreWorld) -> None:
    """Until nothing is being written or deleted, though whoever asked has gone, and nothing is owed."""
    assert world.actor._saver is not None
    assert world.actor._parts is not None
    await world.actor._saver.wait_idle()
    changed = world.actor._parts.turns.taken

    async def is_over() -> bool:
        return not changed and not world.metric("owed_objects")

    await eventually(is_over, within=10, what="all is deleted or taken back")


async def _use(world: StoreWorld, pool: list[Sample], draw: random.Random) -> None:
    for _ in range(12):
        some = draw.sample(pool, 3)
        with anyio.move_on_after(draw.choice((0.003, 10))):
            try:
                match draw.randrange(5):
                    case 0:
                        await world.fetch(*some)
                    case 1:
                        await world.ref.ask(api.Delete(keys_of(some)), within=5)
                    case _:
                        await world.save(*map(source, some))
            except PenstockError:
                pass


async def _crash(world: StoreWorld, faulty: FaultyStore, sample: Sample) -> None:
    """By a bug, so that it is opened and counted again."""
    lives = len(world.lives)
    faulty.faults = FaultsConfig(error="a bug")  # type: ignore[arg-type]
    with pytest.raises(PenstockError):
        await world.ref.ask(api.Delete(keys_of([sample])), within=5)

    async def is_back() -> bool:
        return len(world.lives) > lives and world.actor._parts is not None

    await eventually(is_back, within=10, what="another life")
    await world.wait_recovered()
