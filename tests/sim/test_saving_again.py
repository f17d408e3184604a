"""Saves that a store could not take at first: tried again, within a budget, and without holding L1 any longer."""

from __future__ import annotations

import anyio
import pytest
from support.saving_world import PAGE, SavingConfig, SavingWorld, object_keys, play, prompt

from penstock.actors.api import l1, writer
from penstock.actors.api.types import GeometryId, SessionId
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Moment
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(8))
SAVED, FAILED, PENDING = ObjectState.SAVED, ObjectState.FAILED, ObjectState.PENDING


def retries(world: SavingWorld) -> int:
    return int(world.telemetry.value("penstock_writer_retries_total", store="s0") or 0)


@SEEDS
@pytest.mark.parametrize("is_staging", [False, True])
@pytest.mark.parametrize("how", ["fails", "left_alone"])
def test_what_is_committed_while_a_store_is_away_is_saved_when_it_is_back(
    seed: int, how: str, *, is_staging: bool
) -> None:
    """A6: an outage of seconds loses nothing, and in staging nothing leaves L1 before it is saved.

    Seen to fail without tries after the first: nothing of it was ever saved, and staging had dropped it.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(20)
        setattr(world.stores[0].plan, how, True)
        await world.put(one)
        await anyio.sleep(20)
        assert await world.stored(one) == [[PENDING] * 20]
        assert world.resident(one) == 20
        usage = await world.writer.ask(writer.Measure(), within=1)
        assert usage.inflight_bytes + usage.queued_bytes == 20 * PAGE, "the hint tells of all of it"
        assert world.stores[0].saves <= 5 + 7, "it is not asked all the time"
        setattr(world.stores[0].plan, how, False)
        assert await world.stored(one, within=12) == [[SAVED] * 20]
        assert (world.count(0, "saved"), world.count(0, "failed")) == (20, 0)
        assert retries(world) >= 20
        usage = await world.assert_nothing_is_held()
        assert usage.resident_bytes == (0 if is_staging else 20 * PAGE)

    play(seed, scene, SavingConfig(is_staging=is_staging))


@SEEDS
def test_a_store_that_stays_away_has_finally_failed_in_time(seed: int) -> None:
    """The budget's age. What waits behind has its own time, and the room of staging comes back."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.fails = True
        one, two = prompt(20, "one"), prompt(5, "two")
        await world.put(one)
        await anyio.sleep(30)
        await world.put(two)
        began = anyio.current_time()
        assert await world.stored(one, within=100) == [[FAILED] * 20]
        assert anyio.current_time() - began < 31, "60 s after it failed first"
        assert await world.stored(two) == [[PENDING] * 5]
        assert await world.stored(two, within=100) == [[FAILED] * 5]
        assert (await world.assert_nothing_is_held()).resident_bytes == 0
        assert not world.stores[0].objects

    play(seed, scene, SavingConfig(is_staging=True, retry_s=60.0))


@SEEDS
@pytest.mark.parametrize("bound", ["retry_objects_max", "retry_pages"])
def test_no_more_waits_for_another_try_than_its_budget_has_room_for(seed: int, bound: str) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.fails = True
        one = prompt(20)
        await world.put(one)
        await anyio.sleep(5)
        (states,) = await world.stored(one)
        assert (states.count(PENDING), states.count(FAILED)) == (6, 14)
        world.stores[0].plan.fails = False
        (states,) = await world.stored(one, within=10)
        assert states.count(SAVED) == 6

    play(seed, scene, SavingConfig(**{bound: 6}))  # type: ignore[arg-type]


@SEEDS
def test_a_save_that_ends_after_its_time_is_not_said_to_have_failed(seed: int) -> None:
    """The store goes on with it, and has it in the end: pending until that is known, and never saved twice.

    Seen to fail: it was FAILED from the moment on at which nobody waited for it any more.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(4)
        world.stores[0].plan.hangs = True
        await world.put(one)
        await anyio.sleep(5.2)
        assert await world.stored(one) == [[PENDING] * 4]
        world.stores[0].keep([*object_keys(world.shape, one, world.slots)])
        world.stores[0].released.set()
        assert await world.stored(one, within=10) == [[SAVED] * 4]
        assert (world.stores[0].saves, world.count(0, "present")) == (1, 4)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_a_store_that_has_after_all_what_it_gave_no_answer_for_is_asked_without_pauses(
    seed: int,
) -> None:
    """Four saves ran out of time and were carried out: what the first try finds tells that the store is back.

    Seen to fail: each of the four had to wait for its own pause, twice as long as the one before.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(16)
        world.stores[0].plan.hangs = True
        await world.put(one)
        await anyio.sleep(5.2)
        world.stores[0].keep([*object_keys(world.shape, one, world.slots)])
        world.stores[0].released.set()
        assert await world.stored(one, within=1) == [[SAVED] * 16]
        assert (world.stores[0].saves, world.count(0, "present")) == (4, 16)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_what_waits_behind_a_store_that_hangs_for_good_is_given_up_in_time(seed: int) -> None:
    """B15: it holds its part of L1 as long as it reads it, and is given no more."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        one = prompt(40)
        await world.put(one)
        await anyio.sleep(50)
        assert world.stores[0].given_bytes_most == 16 * PAGE
        assert await world.stored(one) == [[PENDING] * 40]
        assert await world.stored(one, within=100) == [[FAILED] * 40]
        assert world.stores[0].given_bytes_most == 16 * PAGE
        usage = await world.writer.ask(writer.Measure(), within=1)
        assert usage == writer.WriterUsage(16 * PAGE, 0, 0)
        world.stores[0].released.set()
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(retry_s=60.0))


@SEEDS
def test_what_fails_while_it_leaves_is_not_waited_for(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.left_alone = True
        await world.put(prompt(64))
        began = anyio.current_time()
        assert await world.make_room(4 * PAGE) == 4 * PAGE
        assert anyio.current_time() - began < 0.5
        assert (retries(world), world.count(0, "failed")) == (0, 4)
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


# What is being saved, and room.


async def with_its_end_hanging(world: SavingWorld) -> bytes:
    """A prompt of 60 chunks, of which all but the last are saved; the store hangs in that one."""
    whole = prompt(60)
    await world.put(whole[: 59 * 32])
    await world.stored(whole[: 59 * 32], within=5)
    world.stores[0].plan.hangs = True
    want = l1.Reserve(
        whole[59 * 32 :], whole[58 * 32 : 59 * 32], GeometryId(0), (0,), b"", SessionId(1), 1e6
    )
    await world.commit(whole[59 * 32 :], await world.l1.ask(want, within=1))
    await anyio.sleep(0.1)
    return whole


@SEEDS
@pytest.mark.parametrize("waits_s", [0.0, 6.0])
def test_what_a_save_rests_on_is_not_kept_by_a_disk_that_hangs(seed: int, waits_s: float) -> None:
    """B15, B17: whether the save is out of time or not, room is made of the 59 chunks before it.

    Seen to fail while its lease lasted as long as the disk hung: not one of them could go, for an hour.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        whole = await with_its_end_hanging(world)
        await anyio.sleep(waits_s)
        assert await world.make_room(10 * PAGE) == 10 * PAGE
        assert world.resident(whole) == 49
        usage = await world.l1.ask(l1.Measure(), within=1)
        assert usage.quarantined_bytes == PAGE, "the store checks every byte it reads"
        world.stores[0].plan.hangs = False
        world.stores[0].released.set()
        await anyio.sleep(10)
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(inflight_pages=4))


@SEEDS
def test_pressure_can_wait_for_what_is_being_saved(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        whole = await with_its_end_hanging(world)
        await world.put(prompt(1, "more"))
        await anyio.sleep(3)
        assert world.resident(whole) == 60, "above high water, and the end is in its time"
        await anyio.sleep(3)  # it is tried again by now, and hangs again
        await world.put(prompt(1, "another"))
        await anyio.sleep(1)
        assert world.resident(whole) < 60
        world.stores[0].released.set()

    play(seed, scene, SavingConfig(inflight_pages=4, high=0.95, low=0.8))
