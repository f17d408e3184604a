"""What a store writer that crashes leaves with a store that hangs: lent until the store is done, known to its
next life, and in nobody's way meanwhile."""

from __future__ import annotations

import anyio
import pytest
from support.saving_world import PAGE, SavingConfig, SavingWorld, play, prompt

from penstock.actors.api import l1, writer
from penstock.actors.api.types import GeometryId, SessionId
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Moment
from penstock.runtime.errors import ActorCrashed
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(8))


async def crash(world: SavingWorld) -> None:
    """The writer dies of what it is asked, and lives again."""
    with pytest.raises(ActorCrashed):
        await world.writer.ask(writer.SaveDown(None, 0.0), within=1)  # type: ignore[arg-type]
    await anyio.sleep(0.5)


async def inflight(world: SavingWorld) -> int:
    return (await world.writer.ask(writer.Measure(), within=1)).inflight_bytes


async def release(world: SavingWorld) -> None:
    world.stores[0].plan.hangs = False
    world.stores[0].released.set()
    await anyio.sleep(1)


@SEEDS
@pytest.mark.parametrize("moment", [Moment.COMMITTED, Moment.HIT_TWICE])
def test_a_store_that_hangs_keeps_its_part_and_no_more_over_all_lives_of_the_writer(
    seed: int, moment: Moment
) -> None:
    """A2, B15: what it still reads is its part of L1, whoever lent it.

    Seen to fail: each life began with nothing lent, and the store held its part once more after every crash.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        for life in range(3):
            if life:
                await crash(world)
            for number in range(8):
                one = prompt(1, f"{life} {number}")
                await world.put(one)
                for _again in range(2):
                    await world.lookup(one)
            await anyio.sleep(0.1)
            assert world.stores[0].given_bytes_most == 8 * PAGE
            assert await inflight(world) == 8 * PAGE
        await release(world)
        await anyio.sleep(10)
        assert world.stores[0].given_bytes == 0
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(moment,), inflight_pages=8))


@SEEDS
def test_what_a_crashed_writer_lent_keeps_nothing_else_in_l1(seed: int) -> None:
    """A2, B15, B17: its memory waits for the store, which checks every byte to the end; what it rests on does not.

    Seen to fail: nobody knew of the lease any more, and the 59 chunks before it could not go while the disk hung.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        whole = prompt(50)
        await world.put(whole[: 49 * 32])
        await world.stored(whole[: 49 * 32], within=5)
        world.stores[0].plan.hangs = True
        parent = whole[48 * 32 : 49 * 32]
        want = l1.Reserve(whole[49 * 32 :], parent, GeometryId(0), (0,), b"", SessionId(1), 1e6)
        await world.commit(whole[49 * 32 :], await world.l1.ask(want, within=1))
        await anyio.sleep(0.1)
        await crash(world)
        assert await world.make_room(49 * PAGE) == 49 * PAGE
        usage = await world.l1.ask(l1.Measure(), within=1)
        assert usage.quarantined_bytes == PAGE, "the store still reads it"
        assert world.resident(whole) == 0
        assert await inflight(world) == PAGE
        await release(world)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_what_l1_could_not_let_go_at_the_restart_goes_when_room_is_needed(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        one = prompt(8)
        await world.put(one)
        await anyio.sleep(0.1)
        with world.refusing_to_let_go():
            await crash(world)
            assert await world.stored(one) == [[ObjectState.UNKNOWN] * 8]
        assert world.resident(one) == 8
        await world.make_room(64 * PAGE)
        assert world.resident(one) == 0
        assert await inflight(world) == 8 * PAGE
        await release(world)
        await world.assert_nothing_is_held()

    play(seed, scene)
