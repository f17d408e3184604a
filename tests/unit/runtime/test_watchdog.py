"""The watchdog names the step that held the loop."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from penstock.runtime.watchdog import Watchdog, own_cpu_clock

TESTS = Path(__file__).resolve().parents[2]


class Clock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_slow_step_is_counted_and_named() -> None:
    clock, heard = Clock(), []

    async def slow() -> None:
        clock.now += 0.020

    async def main() -> None:
        await asyncio.create_task(slow(), name="prefetcher")
        clock.now += 0.004

    watchdog = Watchdog(clock=clock, on_slow=heard.append)
    with watchdog.watching():
        asyncio.run(main())
    assert watchdog.slow_total == 1
    [step] = watchdog.slow
    assert step.name.startswith("task prefetcher (")
    assert str(step).endswith("held the loop for 20.0 ms")
    assert heard == [step]


def test_a_task_that_failed_under_the_watchdog_is_gone_as_soon_as_nobody_holds_it() -> None:
    """What it held was leases, say, that go back when nobody holds them any more.

    Seen to fail on Python 3.12 and 3.13, where an error keeps the frames that stepped its task, while the watchdog's
    frame held on to the task: it went with the collector.
    """

    async def fail() -> None:
        raise ZeroDivisionError

    async def main() -> bool:
        task = asyncio.create_task(fail())
        await asyncio.wait({task})
        assert isinstance(task.exception(), ZeroDivisionError)
        gone = weakref.ref(task)
        del task
        await asyncio.sleep(0)
        return gone() is None

    gc.disable()
    try:
        with Watchdog(clock=Clock()).watching():
            assert asyncio.run(main())
    finally:
        gc.enable()


def test_a_slow_callback_is_named_too() -> None:
    clock = Clock()

    def hold() -> None:
        clock.now += 1

    async def main() -> None:
        asyncio.get_running_loop().call_soon(hold)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    watchdog = Watchdog(clock=clock)
    with watchdog.watching():
        asyncio.run(main())
    assert [step.name.rpartition(".")[2] for step in watchdog.slow] == ["hold"]


def test_nothing_is_timed_outside_the_block() -> None:
    before = asyncio.Handle._run
    with Watchdog(clock=Clock()).watching():
        assert asyncio.Handle._run is not before
    assert asyncio.Handle._run is before


def test_the_test_clock_counts_work_and_not_the_cycle_collector() -> None:
    with own_cpu_clock() as clock:
        begin, collecting = clock(), time.thread_time()
        for _ in range(3):
            gc.collect()
        collecting = time.thread_time() - collecting
        assert clock() - begin < collecting / 2
        begin = clock()
        while clock() - begin < 0.002:
            pass


@pytest.mark.loop_step_ms(1000)  # the test's own watchdog is the one that must speak
def test_a_step_that_computes_for_5_ms_is_seen_by_the_clock_that_tests_use() -> None:
    async def hog(seconds: float) -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < seconds:
            pass

    async def main() -> None:
        await asyncio.create_task(hog(0.0005), name="modest")
        await asyncio.create_task(hog(0.008), name="hog")

    with own_cpu_clock() as clock:
        watchdog = Watchdog(clock=clock)
        with watchdog.watching():
            asyncio.run(main())
    assert [step.name.partition(" (")[0] for step in watchdog.slow] == ["task hog"]


FAILING = """
import asyncio, time

async def hog():
    begin = time.thread_time()
    while time.thread_time() - begin < 0.008:
        pass

def test_hog():
    asyncio.run(hog())
"""


def test_a_slow_step_fails_the_test_it_happens_in(tmp_path: Path) -> None:
    """Runs a test that hogs its loop under the conftest of this suite."""
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_hog.py").write_text(FAILING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 steps over 5 ms: task Task-1 (hog) held the loop for" in done.stdout
