"""Saves that meet other things at a bad moment: commits, crashes, stores that hang, and crowds that ask."""

from __future__ import annotations

from unittest import mock

import anyio
import pytest
from support.saving_world import PAGE, SHARDED, SavingConfig, SavingWorld, play, prompt

from penstock.actors.api import l1, l1_saving
from penstock.actors.api.errors import TooManyInFlight
from penstock.actors.api.types import GeometryId
from penstock.actors.api.writer import ObjectState, Stored, WaitStored
from penstock.actors.core.write_policy import Moment
from penstock.actors.l1_saving import Saving
from penstock.actors.writer_answers import Answers
from penstock.runtime.errors import MailboxFull, PenstockError, UnavailableError
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(8))
SAVED, NOT_WANTED = ObjectState.SAVED, ObjectState.NOT_WANTED


def unsaved(world: SavingWorld) -> int:
    return int(world.telemetry.value("penstock_evicted_unsaved_chunks_total") or 0)


@SEEDS
def test_in_staging_what_was_lost_from_the_news_goes_too(seed: int) -> None:
    """Nobody hears of it, so nobody saves it, and it must not keep its room for good."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        await anyio.sleep(10)
        await world.put(prompt(40))
        await anyio.sleep(20)
        assert world.telemetry.value("penstock_writer_news_lost_total") == 32
        assert (await world.assert_nothing_is_held()).resident_bytes == 0

    play(seed, scene, SavingConfig(is_staging=True, news_max=8))


@SEEDS
def test_what_is_committed_while_its_chunk_is_saved_down_is_saved_too(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.save_s = 0.3
        one = prompt(1)
        await world.put_slots(one, (0,))
        async with anyio.create_task_group() as group:
            group.start_soon(world.make_room, PAGE)
            await anyio.sleep(0.1)
            await world.put_slots(one, (1,))
        assert world.resident(one) == 0
        assert world.has(0, one)
        assert unsaved(world) == 0
        await world.assert_nothing_is_held()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,), groups=SHARDED))


@SEEDS
def test_of_two_that_want_what_leaves_one_that_hangs_takes_nothing_from_the_other(
    seed: int,
) -> None:
    """B15. The first keeps its own part of L1, and no more; the second gets all that leaves after that.

    Seen to fail while what waited for room in a lane was held until the lane had it: all of L1 was quarantined.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        old = prompt(32, "old")
        await world.put(old)
        for _ in range(3):
            await world.make_room(8 * PAGE)
        assert len(world.stores[1].objects) == 3 * 8, "all but what went in the place of its part"
        usage = await world.l1.ask(l1.Measure(), within=1)
        assert usage.quarantined_bytes == 8 * PAGE
        assert unsaved(world) == 4 * 8
        world.stores[0].released.set()
        await anyio.sleep(6)
        await world.assert_nothing_is_held()

    config = SavingConfig(moments=(Moment.LEAVING, Moment.LEAVING), urgent_s=0.5)
    play(seed, scene, config)


@SEEDS
def test_many_who_wait_for_a_store_that_hangs_do_not_stop_the_others(seed: int) -> None:
    """One more than may wait is refused by name, and what is committed meanwhile is saved where it can be."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        one, two = prompt(1, "one"), prompt(2, "two")
        await world.put(one)
        await anyio.sleep(0.1)
        refused: list[PenstockError] = []

        async def wait() -> None:
            ask = WaitStored(one, GeometryId(0), world.slots, 3000.0)
            try:
                await world.writer.ask(ask, within=4000)
            except PenstockError as refusal:
                refused.append(refusal)

        async with anyio.create_task_group() as group:
            for _ in range(24):
                for _ in range(50):
                    group.start_soon(wait)
                await anyio.sleep(0.01)
            await world.put(two)
            await anyio.sleep(1)
            assert world.has(1, two)
            assert len(refused) == 24 * 50 - world.config.waiters_max
            assert {type(refusal) for refusal in refused} == {TooManyInFlight}
            assert all("writer.waiters_max" in str(refusal) for refusal in refused)
            group.cancel_scope.cancel()
        world.stores[0].released.set()

    moments = (Moment.COMMITTED, Moment.COMMITTED)
    play(seed, scene, SavingConfig(moments=moments, save_s=120.0, waiters_max=100))


@pytest.mark.parametrize("seed", [*range(8), 2061])
def test_what_was_saved_when_it_left_is_known_to_be_when_it_is_written_anew(seed: int) -> None:
    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(1)
        await world.put(one)
        assert await world.stored(one) == [[NOT_WANTED]]
        await world.make_room(PAGE)
        assert await world.stored(one) == [[SAVED]]
        await world.put(one)
        await anyio.sleep(0.2)
        assert await world.stored(one) == [[SAVED]]

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


@SEEDS
def test_what_l1_does_not_lend_is_asked_for_again_and_is_not_gone(seed: int) -> None:
    """Seen to fail while it had finally failed the first time: four of eight were never saved."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.save_s = 0.5
        one = prompt(8)
        await world.put(one)
        await anyio.sleep(0.1)
        with world.refusing_borrows():
            await anyio.sleep(5)
            assert (world.count(0, "saved"), world.count(0, "failed")) == (4, 0)
        assert await world.stored(one, within=10) == [[SAVED] * 8]
        assert (world.count(0, "saved"), world.count(0, "gone")) == (8, 0)
        assert world.resident(one) == 8

    play(seed, scene, SavingConfig(inflight_pages=4))


@SEEDS
def test_news_that_l1_did_not_give_are_asked_for_again(seed: int) -> None:
    """A6: what is committed while L1 has no lease left is saved when it has some again, though nothing else is told.

    Seen to fail while a refused take was made again only with the next commit: there was none in an hour.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        one = prompt(4)
        with world.refusing_takes():
            await world.put(one)
            await anyio.sleep(20)
            assert world.table.news_waiting == 4
        await anyio.sleep(6)
        assert world.has(0, one)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_a_mailbox_that_was_full_hears_of_the_news_later(seed: int) -> None:
    """Seen to fail: the last commit before a pause of hours was told to nobody."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.save_s = 0.5
        one, two = prompt(1, "one"), prompt(1, "two")
        await world.put(one)
        await anyio.sleep(0.2)
        with mock.patch.object(world.writer.mailbox, "put_nowait", side_effect=MailboxFull("it")):
            await world.put(two)
            await anyio.sleep(0.1)
        await anyio.sleep(5)
        assert world.has(0, one + two)

    play(seed, scene)


@SEEDS
def test_a_long_question_is_taken_in_steps(seed: int) -> None:
    """Others get their turns between its steps: here a commit that is asked about while the question is prepared."""
    many = b"".join(number.to_bytes(32, "big") for number in range(16384))

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        turns: list[int] = []
        is_over = anyio.Event()

        async def count_turns() -> None:
            while not is_over.is_set():
                await anyio.lowlevel.checkpoint()
                turns.append(1)

        async with anyio.create_task_group() as group:
            group.start_soon(count_turns)
            assert await world.stored(many) == [[ObjectState.UNKNOWN] * 16384]
            is_over.set()
        assert len(turns) >= 2 * 16384 // 1024

    play(seed, scene)


@SEEDS
def test_who_stops_asking_for_outcomes_takes_no_news_away(seed: int) -> None:
    """What was committed is saved, even if they leave in the moment in which L1 gives its news out.

    Seen to fail: whoever asked took the news themselves, and those were forgotten.
    """
    take, wait_stored = Saving._take_committed, Answers.wait_stored

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        asking = anyio.CancelScope()

        async def asked(answers: Answers, msg: WaitStored) -> Stored:
            with asking:
                return await wait_stored(answers, msg)
            raise UnavailableError("whoever asked has left")

        def giving_out(saving: Saving, msg: l1_saving.TakeCommitted) -> l1_saving.Taken:
            taken = take(saving, msg)
            if taken.borrowed is not None:
                asking.cancel()
            return taken

        with (
            mock.patch.object(Saving, "_take_committed", giving_out),
            mock.patch.object(Saving, "_tell"),  # as if the writer's mailbox were full
            mock.patch.object(Answers, "wait_stored", asked),
        ):
            await world.put(prompt(3))
            with pytest.raises(UnavailableError):
                await world.stored(prompt(3), within=2)
        await anyio.sleep(1)
        assert await world.stored(prompt(3), within=2) == [[SAVED] * 3]

    play(seed, scene)
