"""Saves behind commits: what is wanted is saved, what hangs keeps its own part, and every question is answered."""

from __future__ import annotations

import hashlib

import anyio
import pytest
from support.saving_world import (
    PAGE,
    SALT,
    SHARDED,
    SavingConfig,
    SavingWorld,
    object_keys,
    play,
    prompt,
)

from penstock.actors.api import eviction, l1, store
from penstock.actors.api.errors import TooManyInFlight
from penstock.actors.api.writer import ObjectState, WaitStored
from penstock.actors.core.write_policy import Moment
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(8))
SAVED, FAILED = ObjectState.SAVED, ObjectState.FAILED
PENDING, NOT_WANTED = ObjectState.PENDING, ObjectState.NOT_WANTED


@SEEDS
def test_what_is_committed_is_saved_whole_under_its_own_name(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(20)
        await world.put(one)
        assert await world.stored(one, within=5.0) == [[SAVED] * 40]
        names = object_keys(world.shape, one, world.slots)
        assert set(world.stores[0].objects) == set(names)
        for place, name in enumerate(names):
            saved = world.stores[0].objects[name]
            assert saved.device == place % 2
            assert saved.logical_bytes == (PAGE, PAGE - 100)[place % 2]
            assert saved.tenant == hashlib.sha256(SALT).digest()
            assert saved.run_digests == saved.digest.to_bytes(8, "little")
        assert world.count(0, "saved") == 40
        moved = world.telemetry.value("penstock_writer_bytes_total", store="s0")
        assert moved == 20 * (2 * PAGE - 100)
        await world.assert_nothing_is_held()
        assert world.resident(one) == 20

    play(seed, scene, SavingConfig(groups=SHARDED))


@SEEDS
def test_a_store_that_hangs_keeps_its_part_and_no_more(seed: int) -> None:
    """B15: the other store gets everything, engines write on, and the hint tells of what waits.

    Seen to fail with one budget for all stores: the first kept up to 14 pages of the 16.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        hints = [await world.put(prompt(1, f"p{number}")) for number in range(40)]
        everything = b"".join(prompt(1, f"p{number}") for number in range(40))
        await anyio.sleep(2.0)
        assert world.has(1, everything)
        assert world.stores[0].given_bytes_most <= 8 * PAGE
        assert world.stores[1].given_bytes_most <= 8 * PAGE
        assert hints[0] == PAGE
        assert hints[-1] >= 30 * PAGE
        hung, other = await world.stored(everything, within=0.5)
        assert (set(hung), set(other)) == ({PENDING}, {SAVED})
        world.stores[0].plan.hangs = False
        world.stores[0].released.set()
        hung, _ = await world.stored(everything, within=30.0)
        assert set(hung) == {SAVED}, "those that were out of time were tried again"
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.COMMITTED, Moment.COMMITTED)))


@SEEDS
@pytest.mark.parametrize("outcome", [store.SaveOutcome.FAILED, store.SaveOutcome.NO_ROOM])
def test_a_save_that_fails_is_counted_and_dropped(seed: int, outcome: store.SaveOutcome) -> None:
    """A6: nothing of it is there, and who asks is told so."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.outcome = outcome
        world.stores[1].plan.fails = True
        one = prompt(3)
        await world.put(one)
        assert await world.stored(one, within=9.0) == [[FAILED] * 3, [FAILED] * 3, [SAVED] * 3]
        assert not world.stores[0].objects
        assert not world.stores[1].objects
        assert world.count(0, outcome.name.lower()) == 3
        assert world.count(1, "failed") == 3
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.COMMITTED,) * 3, retry_s=2.0))


@SEEDS
def test_what_the_store_has_is_not_saved_again(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(4)
        await world.put(one)
        await world.stored(one, within=5.0)
        await world.l1.ask(l1.Evict(64 * PAGE, 64), within=1)
        await world.put(one)
        assert await world.stored(one, within=5.0) == [[SAVED] * 4]
        assert (world.count(0, "saved"), world.count(0, "present")) == (4, 4)

    play(seed, scene)


@SEEDS
def test_only_what_is_hit_twice_is_saved_where_that_is_wanted(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        often, once = prompt(3, "often"), prompt(3, "once")
        for one in (often, once):
            await world.put(one)
            assert await world.lookup(one) == 3
        await anyio.sleep(1)
        assert await world.stored(often) == [[NOT_WANTED] * 3, [NOT_WANTED] * 3]
        assert await world.lookup(often) == 3
        await anyio.sleep(1)
        assert await world.stored(often) == [[SAVED] * 3, [NOT_WANTED] * 3]
        assert len(world.stores[0].objects) == 3
        assert world.stores[1].saves == 0
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.HIT_TWICE, None)))


@SEEDS
def test_too_many_that_wait_are_given_up_and_those_that_left_are_counted(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        everything = b"".join(prompt(1, f"p{number}") for number in range(20))
        for number in range(20):
            await world.put(prompt(1, f"p{number}"))
        await anyio.sleep(0.5)
        (states,) = await world.stored(everything)
        assert (states.count(PENDING), states.count(FAILED)) == (9, 11)
        assert world.count(0, "overflow") == 11
        await world.l1.ask(l1.Evict(64 * PAGE, 64), within=1)
        world.stores[0].released.set()
        world.stores[0].plan.hangs = False
        (states,) = await world.stored(everything, within=20.0)
        assert (states.count(FAILED), states.count(SAVED)) == (16, 4), (
            "the four were read, and so stayed"
        )
        assert (world.count(0, "failed"), world.count(0, "gone")) == (0, 5)
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(inflight_pages=4, queued_objects_max=5))


@SEEDS
def test_a_writer_that_crashes_loses_saves_and_nothing_else(seed: int) -> None:
    """Counted, no lease is left, and what is committed afterwards is saved."""

    async def scene(world: SavingWorld, supervisor: Supervisor) -> None:
        world.stores[0].plan.save_s = 0.5
        early, late = prompt(6, "early"), prompt(3, "late")
        await world.put(early)
        await anyio.sleep(0.1)
        world.lens.bug_next = True
        await world.put(prompt(1, "bug"))
        await anyio.sleep(2.0)
        assert world.count(0, "lost") == 7
        health = {one.name: one for one in supervisor.health()}
        assert health["store_writer"].restarts_total == 1
        await world.put(late)
        assert await world.stored(late, within=5.0) == [[SAVED] * 3]
        await world.assert_nothing_is_held()
        assert await world.stored(early) == [[ObjectState.UNKNOWN] * 6]

    play(seed, scene)


@SEEDS
def test_outcomes_are_forgotten_in_order_and_then_asked_of_the_stores(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one, two = prompt(3, "one"), prompt(3, "two")
        for each in (one, two):
            await world.put(each)
            await world.stored(each, within=5.0)
        located = object_keys(world.shape, one, world.slots)[0]
        del world.stores[0].objects[located]
        (states,) = await world.stored(one + two)
        assert states == [ObjectState.UNKNOWN, SAVED, SAVED, SAVED, SAVED, SAVED]

    play(seed, scene, SavingConfig(settled_objects_max=3))


@SEEDS
def test_what_has_left_the_store_since_is_not_said_to_be_there(seed: int) -> None:
    """A6: SAVED means whole and visible there, now. Evicted, expired, or deleted by another node, it is not.

    Seen to fail while what was remembered was told: SAVED, as long as the writer lived.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(3)
        await world.put(one)
        assert await world.stored(one, within=5.0) == [[SAVED] * 3, [NOT_WANTED] * 3]
        names = [*object_keys(world.shape, one, world.slots)]
        del world.stores[0].objects[names[1]]
        world.stores[1].keep(names[:2])
        states = await world.stored(one)
        assert states == [[SAVED, ObjectState.UNKNOWN, SAVED], [SAVED, SAVED, NOT_WANTED]]

    play(seed, scene, SavingConfig(moments=(Moment.COMMITTED, None)))


@SEEDS
def test_a_store_that_does_not_answer_leaves_what_is_remembered(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(3)
        await world.put(one)
        assert await world.stored(one, within=5.0) == [[SAVED] * 3]
        world.stores[0].plan.hangs_at_locate = True
        assert await world.stored(one) == [[SAVED] * 3]

    play(seed, scene)


@SEEDS
@pytest.mark.parametrize("within_s", [5.0, 6.0, 100.0])
def test_waiting_as_long_as_the_deadline_or_longer_is_answered_in_time(
    seed: int, within_s: float
) -> None:
    """Seen to fail: whoever gave both the same time was told that it was over, and not what was pending."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        world.stores[0].plan.hangs_at_locate = True
        await world.put(prompt(3))
        ask = WaitStored(prompt(3), world.shape.geometry, world.slots, within_s)
        answer = await world.writer.ask(ask, within=5.0)
        assert answer.states == bytes([PENDING] * 3)

    play(seed, scene, SavingConfig(save_s=50.0))


@SEEDS
def test_those_who_wait_are_bounded_and_all_are_answered(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.save_s = 1.0
        many = prompt(40)
        await world.put(many)
        answers: list[list[list[ObjectState]]] = []

        async def ask(within: float) -> None:
            answers.append(await world.stored(many, within=within))

        async with anyio.create_task_group() as group:
            for within in (0.0, 0.5, 20.0, 20.0):
                group.start_soon(ask, within)
        assert [set(one[0]) for one in answers[2:]] == [{SAVED}, {SAVED}]
        assert await world.stored(prompt(1, "another"), within=1.0) == [[ObjectState.UNKNOWN]]

    play(seed, scene)


@SEEDS
def test_a_question_about_too_much_is_refused(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        many = prompt(40)
        await world.put(many)
        with pytest.raises(TooManyInFlight, match="waited_objects_max"):
            await world.stored(many, within=1.0)
        world.stores[0].released.set()

    play(seed, scene, SavingConfig(waited_objects_max=10))


@SEEDS
def test_purge_asks_no_store(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        await world.put(prompt(5))
        room = await world.eviction.ask(eviction.Purge(), within=1)
        assert (room.chunks_evicted, world.stores[0].saves) == (5, 0)

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))
