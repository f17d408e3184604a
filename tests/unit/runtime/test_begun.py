"""A coroutine begun in one task and carried on in another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from penstock.runtime.begun import Begun, BegunForAnother, TurnShare
from penstock.runtime.sim_loop import simulate

Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=range(5))
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    return lambda scenario: simulate(request.param, scenario)


def test_the_first_steps_are_done_at_once_and_the_rest_in_the_awaiting_task(
    play: Callable[[Scenario], None],
) -> None:
    seen: list[str] = []

    async def work(gate: asyncio.Event) -> None:
        seen.append("first")
        await gate.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(1)
        seen.append("last")

    async def scenario() -> None:
        gate = asyncio.Event()
        begun = Begun(work(gate))
        assert seen == ["first"]

        async def finish() -> None:
            await begun

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finish)
            await anyio.sleep(1)
            assert seen == ["first"]
            gate.set()
        assert seen == ["first", "last"]
        seen.clear()

    play(scenario)


def test_what_it_waits_for_may_come_before_anybody_awaits_it(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def work() -> None:
            await gate.wait()

        begun = Begun(work())
        gate.set()
        await anyio.sleep(1)
        with anyio.fail_after(1):
            await begun

    play(scenario)


def test_one_that_never_waits_is_over_at_once(play: Callable[[Scenario], None]) -> None:
    async def work() -> None:
        return None

    async def scenario() -> None:
        await Begun(work())

    play(scenario)


def test_an_error_is_raised_where_it_happens(play: Callable[[Scenario], None]) -> None:
    async def work(pause_s: float | None) -> None:
        if pause_s is not None:
            await anyio.sleep(pause_s)
        raise ValueError(f"after {pause_s}")

    async def scenario() -> None:
        with pytest.raises(ValueError, match="after None"):
            Begun(work(None))
        begun = Begun(work(1))
        with pytest.raises(ValueError, match="after 1"):
            await begun

    play(scenario)


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_an_error_of_one_begun_for_another_waits_for_that_one(
    play: Callable[[Scenario], None], error: type[BaseException]
) -> None:
    """Seen to fail as plain `Begun`: whoever began it heard of it."""

    async def work() -> None:
        raise error("at once")

    async def scenario() -> None:
        begun = BegunForAnother(work())
        await anyio.sleep(1)
        with pytest.raises(error, match="at once"):
            await begun

    play(scenario)


def test_who_awaits_it_can_be_cancelled_and_it_is_told(play: Callable[[Scenario], None]) -> None:
    """Seen to fail without `throw`: the coroutine never heard of it."""
    ends: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def scenario() -> None:
        begun = Begun(work())
        with anyio.move_on_after(1) as scope:
            await begun
        assert scope.cancelled_caught
        assert ends == ["cancelled"]
        ends.clear()

    play(scenario)


def test_one_that_nobody_takes_over_is_closed(play: Callable[[Scenario], None]) -> None:
    ends: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ends.append("closed")

    async def scenario() -> None:
        begun = Begun(work())
        begun.close()
        begun.close()
        assert ends == ["closed"]
        ends.clear()

    play(scenario)


def test_a_turn_has_its_share_and_the_next_one_another(play: Callable[[Scenario], None]) -> None:
    """Seen to fail with a share that is never renewed, and with one that has no end."""

    async def scenario() -> None:
        share = TurnShare(2)
        for _ in range(3):
            assert [share.take() for _ in range(4)] == [True, True, False, False]
            await anyio.sleep(1)
        assert share.take()
        await anyio.sleep(1)
        assert [share.take() for _ in range(3)] == [True, True, False]

    play(scenario)
