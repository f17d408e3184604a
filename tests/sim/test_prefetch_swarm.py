"""Prompts by chance, under faults: at every step what is read is right, and in the end nothing is left behind."""

from __future__ import annotations

import random

import anyio
import pytest
from support.prefetch_world import (
    FULL,
    HYBRID,
    PAGE,
    SHARDED,
    Watched,
    World,
    WorldConfig,
    play,
    prompt,
)

from penstock.actors.api.types import GroupGeometry
from penstock.runtime.supervisor import Supervisor

SWARM = [(seed, groups) for seed in range(12) for groups in (FULL, SHARDED, HYBRID)]
TAKEN_OVER = [
    (7008, HYBRID),
    (7152, HYBRID),
]  # an object is granted anew before its loss is heard of


@pytest.mark.parametrize("is_at_hand", [False, True])
@pytest.mark.parametrize(("seed", "groups"), [*SWARM, *TAKEN_OVER])
def test_swarm_of_lookups_under_faults_then_healed(
    seed: int, groups: tuple[GroupGeometry, ...], is_at_hand: bool
) -> None:
    """DESIGN 10: seeds draw prompts, tiers and faults. Safety at every step: bytes are right, the table is whole, a
    watermark never goes back. Healed, every ticket becomes final and nothing is left behind."""
    draw = random.Random(seed)
    config = WorldConfig(
        groups=groups,
        pages=draw.choice([24, 48, 96]),
        tiers=draw.choice([1, 2, 3]),
        kept=tuple(draw.random() < 0.6 for _ in range(3)),
        inflight_bytes_max=draw.choice([2, 8, 64]) * PAGE,
        batch_bytes=draw.choice([2, 8]) * PAGE,
        is_at_hand=is_at_hand,
        locate_s=0.2,
        load_s=1.0,
    )

    async def scene(world: World, _: Supervisor) -> None:
        for one_store in world.stores:
            one_store.plan.draw, one_store.plan.fault_chance = draw, 0.15
            for family in range(3):
                head = prompt(4, f"family{family}")
                for tail in range(4):
                    whole = head + prompt(8, f"tail{tail}")
                    one_store.put(world.shape, whole, range(draw.randint(0, 12)))
        async with anyio.create_task_group() as engines:
            for _ in range(6):
                engines.start_soon(one_engine, world, draw)
        for one_store in world.stores:
            one_store.plan.fault_chance = 0.0
            one_store.released.set()
        whole = prompt(4, "family0") + prompt(8, "tail0")
        last = await world.lookup(whole)
        await world.wait_final(last)
        assert await world.read(last) >= 0
        await world.close(last)
        await anyio.sleep(6.0)
        usage = await world.assert_nothing_is_held()
        assert (usage.tickets, usage.pinned_bytes) == (0, 0)
        assert world.actor is not None
        world.actor.validate()

    play(seed, scene, config)


async def one_engine(world: World, draw: random.Random) -> None:
    """Three lookups in a row: some are given up, the others read to the last byte."""
    for _ in range(3):
        await anyio.sleep(draw.random() * 0.5)
        family = prompt(4, f"family{draw.randint(0, 2)}")
        asked = family + prompt(draw.randint(0, 8), f"tail{draw.randint(0, 3)}")
        watched = await world.lookup(
            asked,
            load_s=draw.choice([0.3, 3.0]),
            ticket_s=draw.choice([0.4, 5.0]),
            prefill_tokens_per_s=draw.choice([0, 1000]),
        )
        if draw.random() < 0.3:
            await anyio.sleep(draw.random() * 0.3)
        else:
            await until_final_or_over(world, watched)
            if watched.hit and watched.ticket in world.watched:
                await read_if_alive(world, watched)
        await world.close(watched)
        await world.usage()


async def until_final_or_over(world: World, watched: Watched) -> None:
    with anyio.move_on_after(6.0):
        while not watched.is_final:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.01)
    assert watched.is_final, "liveness: a ticket never became final"


async def read_if_alive(world: World, watched: Watched) -> None:
    from penstock.actors.api.errors import TicketOver

    try:
        await world.read(watched)
    except TicketOver:
        return  # it had expired
