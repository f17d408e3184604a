"""An error that nobody awaited fails the simulation in which it was raised."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from penstock.runtime.sim_loop import UnheardError, simulate


def test_an_exception_that_nobody_awaited_fails_the_simulation() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(UnheardError, match="ZeroDivisionError"):
        simulate(0, main)


async def _fail_at_once() -> None:
    raise ZeroDivisionError


async def _fail_later() -> None:
    await asyncio.sleep(0.5)
    raise ZeroDivisionError


async def _fail_and_hold_the_own_task() -> None:
    here = asyncio.current_task()
    raise ZeroDivisionError(here)


async def _fail_while_cleaning_up() -> None:
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError as given_up:
        reason = given_up
        raise ZeroDivisionError(reason) from given_up


@pytest.mark.parametrize(
    "fail", [_fail_at_once, _fail_later, _fail_and_hold_the_own_task, _fail_while_cleaning_up]
)
@pytest.mark.parametrize("kept_max", [0, 1])
def test_an_error_in_a_task_that_nobody_awaited_fails_the_simulation(
    fail: Callable[[], Coroutine[Any, Any, None]], kept_max: int
) -> None:
    """asyncio tells of it when the task goes; one that is kept, or in a circle with its own error, is heard, too.

    Seen to fail on Python 3.12 and 3.13, where an error keeps the frames that stepped its task: all but those that
    are kept were silent because `_run_step` held the task; and on 3.11, for those that are kept or hold themselves.
    """

    kept: deque[object] = deque(maxlen=kept_max)

    async def main() -> None:
        kept.append(asyncio.create_task(fail()))
        await asyncio.sleep(1)

    with pytest.raises(UnheardError, match="never retrieved: ZeroDivisionError") as caught:
        simulate(0, main)
    assert str(caught.value).count("never retrieved") == 1


def test_an_error_that_somebody_asked_for_is_heard_however_long_its_task_is_kept() -> None:
    kept: list[object] = []

    async def main() -> None:
        task = asyncio.create_task(_fail_later())
        kept.append(task)
        await asyncio.wait({task})
        assert isinstance(task.exception(), ZeroDivisionError)

    simulate(0, main)


def test_a_task_that_failed_is_gone_as_soon_as_nobody_holds_it() -> None:
    """Seen to fail on Python 3.12 and 3.13 while `_run_step` held on to what it ran: it went with the collector."""

    async def main() -> bool:
        task = asyncio.create_task(_fail_later())
        with suppress(ZeroDivisionError):
            await task
        gone = weakref.ref(task)
        del task
        await asyncio.sleep(1)
        return gone() is None

    assert simulate(0, main)
