"""Room is made of what was saved before, and never of what cannot be; staging keeps nothing that is saved."""

from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest
from support.saving_world import PAGE, SavingConfig, SavingWorld, play, prompt

from penstock.actors.api import eviction, l1, store
from penstock.actors.api.types import InstanceId, SessionId, TicketId
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Moment
from penstock.runtime.errors import ActorCrashed, PenstockError
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(8))
SAVED, FAILED, NOT_WANTED = ObjectState.SAVED, ObjectState.FAILED, ObjectState.NOT_WANTED


def unsaved(world: SavingWorld) -> int:
    return int(world.telemetry.value("penstock_evicted_unsaved_chunks_total") or 0)


@SEEDS
def test_what_leaves_is_saved_first(seed: int) -> None:
    """B17: NO_ROOM wakes eviction at once, and what it takes was saved before. The oldest goes first."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        old, new = prompt(32, "old"), prompt(32, "new")
        await world.put(old)
        await world.put(new)
        assert world.stores[0].saves == 0
        began = anyio.current_time()
        assert await world.put(prompt(10, "more")) >= 0
        assert anyio.current_time() - began < 0.5
        assert world.has(0, old[22 * 32 :])
        assert len(world.stores[0].objects) == 10
        assert (world.resident(old), world.resident(new)) == (22, 32)
        assert await world.stored(old[31 * 32 :]) == [[SAVED]]
        assert unsaved(world) == 0
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


@SEEDS
def test_when_room_is_needed_now_a_store_that_hangs_does_not_stop_it(seed: int) -> None:
    """B17, B15: after `urgent_s` others are evicted unsaved, which is counted. What the store still reads is not given
    to anybody (the store checks every byte)."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        await world.put(prompt(64, "old"))
        began = anyio.current_time()
        for number in range(8):
            assert await world.put(prompt(4, f"more{number}")) >= 0
        assert anyio.current_time() - began < 8 * 1.2
        assert 32 <= unsaved(world) <= 64, "those the store still reads, and those that made room"
        world.stores[0].released.set()
        await anyio.sleep(6)
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


@SEEDS
@pytest.mark.parametrize("within_s", [0.2, 1.0, 2.0])
def test_a_store_that_hangs_leaves_whoever_waits_the_time_to_get_room(
    seed: int, within_s: float
) -> None:
    """B15, B17: whatever time they give, at most half of it goes to saving.

    Seen to fail with all of it given to a save: of 20 asks none had room, each was out of time.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        for number in range(64):
            await world.put(prompt(1, f"p{number}"))
        for _ in range(20):
            began = anyio.current_time()
            assert await world.make_room(PAGE, within=within_s) == PAGE
            assert anyio.current_time() - began < within_s * 0.75
        world.stores[0].released.set()
        await anyio.sleep(6)
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,), inflight_pages=64))


@SEEDS
@pytest.mark.parametrize("wanted", [10 * PAGE, 100])
def test_what_is_spared_for_its_tenants_sake_does_not_let_others_go_unsaved(
    seed: int, wanted: int
) -> None:
    """A6, B17: the first 100 that could go are of a tenant within its share; a step looks at 64.

    Seen to fail while a step in which all were spared was taken for the last one: ten went unsaved, though the store
    was well. And while less than a page was no victim at all.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        for number in range(100):
            await world.put(prompt(1, f"small{number}"), salt=b"small")
        for number in range(300):
            await world.put(prompt(1, f"big{number}"), salt=b"big")
        for turn in (1, 2):
            freed = await world.make_room(wanted)
            assert freed == max(PAGE, wanted)
            assert len(world.stores[0].objects) == turn * freed // PAGE
        assert unsaved(world) == 0
        assert all(world.resident(prompt(1, f"small{number}")) for number in range(100))

    config = SavingConfig(moments=(Moment.LEAVING,), pages=400, fair_share=True)
    play(seed, scene, config)


@SEEDS
def test_room_is_made_though_no_lease_is_left_to_save_under(seed: int) -> None:
    """B17. Seen to fail: whoever needed room was refused instead."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        await world.put(prompt(64, "old"))
        with world.refusing_victims():
            assert await world.make_room(4 * PAGE) == 4 * PAGE
        assert unsaved(world) == 4

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


@SEEDS
def test_what_finally_failed_to_be_saved_may_go(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.fails = True
        await world.put(prompt(64, "old"))
        assert await world.put(prompt(4, "more")) >= 0
        assert world.count(0, "failed") == 4
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


@SEEDS
def test_pressure_saves_down_to_low_water_and_keeps_what_cannot_be_saved_yet(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        old = prompt(52, "old")
        await world.put(old)
        await anyio.sleep(4)
        assert world.resident(old) == 52, "there was room left: nothing had to go unsaved"
        world.stores[0].plan.hangs = False
        world.stores[0].released.set()
        await anyio.sleep(6)
        await world.put(prompt(1, "more"))
        await anyio.sleep(2)
        usage = await world.assert_nothing_is_held()
        assert usage.taken_bytes == 32 * PAGE
        assert world.has(0, old[32 * 32 :])
        assert unsaved(world) == 0

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,), high=0.8, low=0.5))


@SEEDS
def test_a_victim_that_is_hit_while_it_is_saved_stays(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.save_s = 0.5
        used, unused = prompt(4, "used"), prompt(60, "unused")
        await world.put(used)
        await world.put(unused)
        ticket = TicketId(b"t" * 16)
        async with anyio.create_task_group() as group:
            group.start_soon(world.put, prompt(4, "more"))
            await anyio.sleep(0.2)
            asked = l1.Lookup(
                ticket, used, world.shape.geometry, SessionId(1), InstanceId(1), 1, 1e6, None, None
            )
            assert (await world.l1.ask(asked, within=1)).hit_chunks == 4
        assert world.resident(used) == 4
        assert world.has(0, used)
        assert world.resident(prompt(4, "more")) == 4, "others went in their place"
        close = l1.CloseTickets((ticket,), InstanceId(1), SessionId(1))
        await world.l1.ask(close, within=1)
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


@SEEDS
def test_eviction_that_crashes_is_restarted_and_goes_on(seed: int) -> None:
    """B12: its end is seen in health, and the next who needs room gets it, saved down as before."""

    async def scene(world: SavingWorld, supervisor: Supervisor) -> None:
        await world.put(prompt(64, "old"))
        bug = eviction.MakeRoom("many")  # type: ignore[arg-type]
        with pytest.raises(PenstockError, match="died"):
            await world.eviction.ask(bug, within=5)
        assert await world.put(prompt(4, "more")) >= 0
        assert len(world.stores[0].objects) == 4
        health = {one.name: one for one in supervisor.health()}
        assert health["eviction_controller"].restarts_total == 1
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


# Staging.


@SEEDS
def test_in_staging_a_saved_object_goes_and_an_unsaved_one_does_not(seed: int) -> None:
    """It goes when every store has confirmed or finally failed; until then Reserve says NO_ROOM."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        world.stores[1].plan.outcome = store.SaveOutcome.FAILED
        first = prompt(60, "first")
        await world.put(first)
        await anyio.sleep(1)
        assert await world.put(prompt(10, "second")) == -1 or world.resident(first) == 60
        refused = await world.reserve(prompt(10, "third"))
        assert b"\x03" in refused.answers
        world.stores[0].plan.hangs = False
        world.stores[0].released.set()
        await anyio.sleep(30)
        usage = await world.l1.ask(l1.Measure(), within=1)
        assert usage.resident_bytes == 0
        states = await world.stored(first)
        assert set(states[1]) == {FAILED}
        assert set(states[0]) <= {SAVED, FAILED}
        assert states[0].count(SAVED) >= 40

    config = SavingConfig(moments=(Moment.COMMITTED, Moment.COMMITTED), is_staging=True)
    play(seed, scene, config)


@SEEDS
def test_in_staging_what_no_store_wants_goes_at_once(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(5)
        await world.put(one)
        await anyio.sleep(1)
        assert (await world.assert_nothing_is_held()).resident_bytes == 0
        assert await world.stored(one) == [[NOT_WANTED] * 5]

    play(seed, scene, SavingConfig(moments=(None,), is_staging=True))


@pytest.mark.parametrize("seed", [*range(8), 2024, 2046, 2049])
def test_in_staging_what_a_crashed_writer_had_begun_goes_too(seed: int) -> None:
    """Seen to fail without the sweep at start: the room of lost saves was never free again; and, by late seeds, where
    what was idle was dropped after the sweep for it: parents were no leaves yet."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.save_s = 1.0
        await world.put(prompt(30, "lost"))
        await anyio.sleep(0.2)
        world.lens.bug_next = True
        await world.put(prompt(1, "bug"))
        await anyio.sleep(20)
        assert (await world.assert_nothing_is_held()).resident_bytes == 0
        one = prompt(5, "late")
        await world.put(one)
        assert await world.stored(one, within=10) == [[SAVED] * 5]

    play(seed, scene, SavingConfig(is_staging=True))


# Everything at once.


@pytest.mark.parametrize("seed", range(24))
def test_whatever_is_drawn_nothing_leaks_and_everybody_is_answered(seed: int) -> None:
    """Moments, loads, faults, crashes and questions from one seed; then all heals."""
    drawn = random.Random(seed)
    moments = tuple(drawn.choice([*Moment, None]) for _ in range(3))
    is_staging = drawn.random() < 0.3

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        for one in world.stores:
            one.plan.draw, one.plan.fault_chance = drawn, drawn.choice([0.0, 0.3])
            one.plan.save_s = drawn.choice([0.001, 0.05, 1.0])

        async def engine(number: int) -> None:
            for turn in range(12):
                name = f"p{drawn.randrange(12)}"
                await world.put(prompt(drawn.randrange(1, 9), name))
                await world.lookup(prompt(8, name))
                world.table.validate()
                if drawn.random() < 0.2:
                    with suppress(ActorCrashed):  # which is an answer, too
                        await world.stored(prompt(8, name), within=drawn.random())
                if number == 0 and turn in (4, 8):
                    world.lens.bug_next = drawn.random() < 0.5
                await anyio.sleep(drawn.random() / 4)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(engine, number)
        world.lens.bug_next = False
        await anyio.sleep(60)
        usage = await world.assert_nothing_is_held()
        begun = sum(world.count(place, fate) for place in range(3) for fate in FATES)
        assert begun >= sum(len(side.objects) for side in world.stores)
        assert not is_staging or usage.resident_bytes == 0
        for side in world.stores:
            assert side.given_bytes_most <= 16 * PAGE

    config = SavingConfig(moments=moments, is_staging=is_staging, high=0.9, low=0.7)
    play(seed, scene, config)


FATES = ("saved", "present", "failed", "no_room", "gone", "overflow", "lost")
