"""The simulation loop itself: time, order, sources, and the three ways in which a world may end
badly.
"""

from __future__ import annotations

import _thread
import asyncio
import multiprocessing
import os
import random
import secrets
import subprocess
import threading
import time
import uuid
from contextlib import suppress

import anyio
import numpy as np
import pytest

from penstock.runtime.sim_loop import (
    Deadlock,
    Livelock,
    Simulation,
    ThreadInSim,
    simulate,
)
from penstock.runtime.sim_sources import WALL_EPOCH_S, InsertionOrderedSet


def test_an_hour_of_virtual_time_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    begin = time.perf_counter()
    assert simulate(0, main) == 3600
    assert time.perf_counter() - begin < 5


def test_every_clock_is_the_virtual_one_and_comes_back_afterwards() -> None:
    async def main() -> tuple[float, float, float, int]:
        await anyio.sleep(2)
        return time.monotonic(), time.perf_counter(), time.time(), time.monotonic_ns()

    before = time.time
    assert simulate(0, main) == (2.0, 2.0, WALL_EPOCH_S + 2.0, 2_000_000_000)
    assert time.time is before


def test_every_other_word_for_now_is_the_virtual_one_too() -> None:
    """Seen to fail while only the clocks of `time` that the product uses were replaced."""

    async def main() -> list[object]:
        await anyio.sleep(2)
        return [
            time.clock_gettime(time.CLOCK_MONOTONIC),
            time.clock_gettime(time.CLOCK_REALTIME),
            time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            time.gmtime(),
            time.localtime(),
            time.ctime(),
            time.asctime(),
            time.strftime("%s"),
        ]

    there = WALL_EPOCH_S + 2
    local = time.localtime(there)
    expected = [2.0, there, 2_000_000_000, time.gmtime(there), local]
    assert simulate(0, main) == [*expected, *[time.asctime(local)] * 2, str(there)]
    assert time.gmtime().tm_year > local.tm_year


def test_time_that_is_given_and_time_of_the_processor_are_as_ever() -> None:
    async def main() -> list[object]:
        await anyio.sleep(2)
        own = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
        assert 0 < own <= time.thread_time()
        at = time.gmtime(86400)
        return [at.tm_mday, time.asctime(at), time.strftime("%F", at), time.localtime(5).tm_sec]

    assert simulate(0, main) == [2, "Fri Jan  2 00:00:00 1970", "1970-01-02", 5]


def _order(seed: int) -> list[int]:
    async def main() -> list[int]:
        order: list[int] = []

        async def step(number: int) -> None:
            order.append(number)

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(step, number)
        return order

    return simulate(seed, main)


def test_task_steps_come_in_every_order_and_each_seed_in_its_own() -> None:
    orders = [tuple(_order(seed)) for seed in range(300)]
    assert len(set(orders)) == 24
    assert orders == [tuple(_order(seed)) for seed in range(300)]


def test_a_step_may_be_overtaken_by_many_others() -> None:
    """A task with one step to go can be late behind one with five: held back, not only permuted."""

    async def main() -> str:
        order = ""

        async def steps(name: str, count: int) -> None:
            nonlocal order
            for _ in range(count):
                await asyncio.sleep(0)
            order += name

        async with anyio.create_task_group() as group:
            group.start_soon(steps, "s", 1)
            group.start_soon(steps, "l", 5)
        return order

    assert {simulate(seed, main) for seed in range(3000)} == {"sl", "ls"}


def test_plain_callbacks_keep_their_order() -> None:
    """asyncio's transports rely on it. Timers of one instant are callbacks, too."""

    async def main() -> list[int]:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(20):
            loop.call_soon(order.append, number)
        for number in range(20, 40):
            loop.call_at(1.0, order.append, number)
        await asyncio.sleep(2)
        return order

    for seed in range(20):
        assert simulate(seed, main) == list(range(40))


def test_a_cancelled_timer_never_runs_and_does_not_hold_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(5000):
            loop.call_later(50, pytest.fail).cancel()
            await asyncio.sleep(0)
        loop.call_later(3, lambda: None).cancel()
        await asyncio.sleep(4)
        return loop.time()

    assert simulate(0, main) == 4


class Crowd:
    """Tasks that wait until they are cancelled, and one that fails after a second."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.cancelled: list[int] = []

    async def wait(self, number: int) -> None:
        self.started.append(number)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self.cancelled.append(number))
        await future

    async def fail(self) -> None:
        await asyncio.sleep(1)
        raise KeyError


def test_cancelling_an_asyncio_group_reaches_its_tasks_in_order_of_birth() -> None:
    """asyncio keeps them in a set hashed by address, which differs in every process."""

    async def main() -> None:
        crowd = Crowd()
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for number in range(40):
                    group.create_task(crowd.wait(number))
                group.create_task(crowd.fail())
        assert crowd.cancelled == list(range(40))

    simulate(0, main)


def test_cancelling_an_anyio_group_reaches_its_tasks_in_order_of_their_first_step() -> None:
    """As above; anyio gives each task a scope of its own when it starts, and walks over those."""

    async def main() -> None:
        crowd = Crowd()
        with suppress(ExceptionGroup):
            async with anyio.create_task_group() as group:
                for number in range(40):
                    group.start_soon(crowd.wait, number)
                group.start_soon(crowd.fail)
        assert crowd.cancelled == crowd.started

    simulate(0, main)


def test_all_randomness_comes_from_the_seed() -> None:
    async def main() -> list[object]:
        return [
            random.random(),
            random.Random().random(),
            random.SystemRandom().random(),
            os.urandom(8),
            os.getrandom(8),
            secrets.token_hex(8),
            uuid.uuid4(),
            np.random.default_rng().random(),
            float(np.random.rand()),
        ]

    assert simulate(7, main) == simulate(7, main)
    for one, other in zip(simulate(7, main), simulate(8, main), strict=True):
        assert one != other


def test_shared_generators_are_put_back() -> None:
    async def main() -> None:
        random.random()

    state = random.getstate()
    simulate(1, main)
    assert random.getstate() == state
    assert os.urandom(16) != os.urandom(16)


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def wait_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_ever, name="the waiting one")

    with pytest.raises(
        Deadlock, match=r"the waiting one \(in .*wait_for_ever, line \d+\)"
    ) as caught:
        simulate(5, main)
    assert caught.value.__notes__ == ["seed=5 after 0.000000 virtual seconds"]


def test_a_livelock_names_who_keeps_busy() -> None:
    async def poll() -> None:
        while True:  # noqa: ASYNC110 - the very thing to be found
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.sleep(1)
        async with anyio.create_task_group() as group:
            group.start_soon(poll, name="the busy one")

    with pytest.raises(Livelock, match="1000 steps without time moving; busiest: the busy one"):
        Simulation(0, steps_still_max=1000).run(main)


def test_polling_with_time_moving_is_no_livelock() -> None:
    async def main() -> None:
        for _ in range(500):
            await asyncio.sleep(0.001)

    Simulation(0, steps_still_max=100).run(main)


def test_a_thread_or_process_is_refused_however_it_is_started() -> None:
    """Seen to fail for all but those of anyio, asyncio and `threading`."""

    async def by_anyio() -> None:
        await anyio.to_thread.run_sync(print)

    async def by_asyncio() -> None:
        await asyncio.to_thread(print)

    async def by_hand() -> None:
        threading.Thread(target=print).start()

    async def below_threading() -> None:
        _thread.start_new_thread(print, ())

    async def by_subprocess() -> None:
        subprocess.run(["true"], check=True)  # noqa: ASYNC221

    async def by_forking() -> None:
        if os.fork() == 0:
            os._exit(0)

    async def by_multiprocessing() -> None:
        multiprocessing.get_context("spawn").Process(target=print).start()

    threads = (by_anyio, by_asyncio, by_hand, below_threading)
    for main in (*threads, by_subprocess, by_forking, by_multiprocessing):
        with pytest.raises(ThreadInSim):
            simulate(0, main)
    subprocess.run(["true"], check=True)


def test_other_threads_may_start_what_they_want_meanwhile() -> None:
    async def main() -> None:
        begin.set()
        assert done.wait(10)

    begin, done = threading.Event(), threading.Event()

    def work() -> None:
        begin.wait(10)
        threading.Thread(target=done.set).start()

    other = threading.Thread(target=work)
    other.start()
    simulate(0, main)
    other.join()


def test_a_thread_from_outside_may_not_call_in() -> None:
    simulation, heard = Simulation(0), []

    def call_in() -> None:
        try:
            simulation.loop.call_soon_threadsafe(print)
        except ThreadInSim as error:
            heard.append(error)

    thread = threading.Thread(target=call_in)
    thread.start()
    thread.join()
    simulation.loop.close()
    assert len(heard) == 1


def test_what_is_left_running_is_cancelled_and_may_clean_up() -> None:
    log = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(5)
            log.append("cleaned up")

    async def main() -> str:
        left = asyncio.create_task(linger())
        await asyncio.sleep(1)
        return "done" if not left.done() else "early"

    assert simulate(0, main) == "done"
    assert log == ["cleaned up"]


def test_unnamed_tasks_are_numbered_per_simulation() -> None:
    async def main() -> str:
        async def child() -> str:
            task = asyncio.current_task()
            assert task is not None
            return task.get_name()

        return await asyncio.create_task(child())

    assert simulate(0, main) == simulate(0, main)


def test_the_transcript_is_bounded_and_its_digest_covers_all() -> None:
    async def main(steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0.1)

    short, long = Simulation(0), Simulation(0)
    short.run(lambda: main(3))
    long.run(lambda: main(5))
    assert short.transcript.lines() == long.transcript.lines()[: len(short.transcript.lines())]
    assert short.transcript.digest() != long.transcript.digest()
    assert long.transcript.dropped_total == 0
    assert long.transcript.text().splitlines()[-1].endswith(long.transcript.digest())


def test_an_insertion_ordered_set_is_a_set() -> None:
    ordered = InsertionOrderedSet([3, 1, 2, 1])
    ordered.add(0)
    ordered.discard(1)
    ordered.discard(99)
    assert list(ordered) == [3, 2, 0]
    assert ordered == {0, 2, 3}
    with pytest.raises(KeyError):
        ordered.remove(1)
