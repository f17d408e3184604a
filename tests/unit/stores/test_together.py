"""The same work on many objects: a few at a time, in short steps, and nothing of what was given up stays."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import anyio
import pytest

from penstock.actors.stores.samples import Hold
from penstock.actors.stores.threads import Threads
from penstock.actors.stores.together import in_time, together
from penstock.runtime.sim_loop import simulate

MANY = 16_384


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is let go of is let go of at once: a node that serves collects rarely."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("turns", [0, 1])
def test_many_are_done_a_few_at_a_time_and_no_step_is_long(turns: int) -> None:
    """B3. Seen to fail, by the watchdog of all tests: a task for each, all begun in one step of 400 ms."""
    now = most = 0

    async def work(item: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(turns):
            await asyncio.sleep(0)
        now -= 1
        return item + 1

    async def run() -> None:
        answers = await together(work, range(MANY), at_once=100)
        assert answers == [*range(1, MANY + 1)]

    anyio.run(run)
    assert most == (100 if turns else 1)


@pytest.mark.parametrize("count", [1, 200])
def test_the_first_error_is_raised_as_it_is_and_ends_the_others(count: int) -> None:
    """Whatever it is. Seen to fail: in a group, which nobody looks for what he expects in."""
    begun = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ZeroDivisionError
        await anyio.sleep_forever()

    async def run() -> None:
        with pytest.raises(ZeroDivisionError), anyio.fail_after(10):
            await together(work, range(count), at_once=4)

    anyio.run(run)
    assert len(begun) <= 4


def test_the_first_error_of_threads_is_raised_as_it_is() -> None:
    """Seen to fail: what blocks raised OSErrors, and whoever mapped those was given a group."""

    def work(item: int) -> None:
        raise OSError(item, "no")

    async def run() -> None:
        with pytest.raises(OSError, match="no"):
            await Threads("t", 2).each(work, range(8))

    anyio.run(run)


def cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    """By nobody's task, which might hold something itself."""
    if turns:
        asyncio.get_running_loop().call_soon(cancel_after, turns - 1, scope)
    else:
        scope.cancel()


def test_what_was_given_up_is_held_by_nobody() -> None:
    """A2. Seen to fail: what anyio keeps of tasks that were cancelled leads to their frames, in a circle; and a frame
    that was cleared still leads to what its function closes over."""

    async def run() -> None:
        threads = Threads("t", 2)
        held: list[weakref.ref[Hold]] = []

        def items() -> list[Hold]:
            made = [Hold() for _ in range(8)]
            held.extend(map(weakref.ref, made))
            return made

        async def wait_for(mine: list[Hold]) -> None:
            async def wait(_: Hold) -> None:
                await anyio.sleep_forever()
                mine.clear()

            await together(wait, mine, at_once=3)

        for turns in range(6):
            with anyio.CancelScope() as scope:
                cancel_after(turns, scope)
                await wait_for(items())
            with anyio.CancelScope() as scope:
                cancel_after(turns, scope)
                await threads.each(lambda _: None, items())
        await threads.close()
        await anyio.wait_all_tasks_blocked()
        assert [one() for one in held] == [None] * len(held)

    anyio.run(run)


@pytest.mark.parametrize("count", [1, 8])
def test_what_failed_is_held_by_nobody(count: int) -> None:
    """A2. Seen to fail: an error leads to the frames it came through, and one of them kept it."""

    async def run() -> None:
        threads = Threads("t", 2)
        held: list[weakref.ref[Hold]] = []

        def fail(_: Hold) -> None:
            raise ZeroDivisionError

        async def fail_too(hold: Hold) -> None:
            fail(hold)

        def items() -> list[Hold]:
            made = [Hold() for _ in range(count)]
            held.extend(map(weakref.ref, made))
            return made

        with pytest.raises(ZeroDivisionError) as error:
            await together(fail_too, items())
        del error
        with pytest.raises(ZeroDivisionError) as error:
            await threads.each(fail, items())
        del error
        await threads.close()
        await anyio.wait_all_tasks_blocked()
        assert [one() for one in held] == [None] * len(held)

    anyio.run(run)


def test_when_time_is_over_it_tells_what_it_knows() -> None:
    async def work(item: int) -> int:
        if item >= 10:
            await anyio.sleep_forever()
        return item

    async def run() -> None:
        assert await in_time(work, range(10), within_s=60) == {n: n for n in range(10)}
        assert await in_time(work, range(MANY), within_s=0.05) == {n: n for n in range(10)}
        assert await in_time(work, [], within_s=0.05) == {}

    anyio.run(run)


def test_who_has_nothing_to_tell_is_waited_for() -> None:
    """Whoever asks knows how long; a store that hangs is to be seen to hang."""

    async def work(item: int) -> int:
        await anyio.sleep(0.1)
        return item

    async def run() -> None:
        assert await in_time(work, range(4), within_s=0.01, at_once=2) == {0: 0, 1: 1}

    simulate(1, run)
