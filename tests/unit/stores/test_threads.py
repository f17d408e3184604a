"""Blocking calls: bounded, heard in order, and waited for by nobody who has given up."""

from __future__ import annotations

import threading

import anyio
import pytest

from penstock.actors.stores.threads import Threads


def test_answers_are_in_order_and_no_more_calls_run_than_there_are_places() -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(3, timeout=10)

    def work(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()
        with lock:
            now -= 1
        return number * number

    async def main() -> None:
        assert await Threads("t", 3).each(work, range(9)) == [n * n for n in range(9)]

    anyio.run(main)
    assert most == 3


def test_what_a_call_raises_is_raised() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await Threads("t", 1).run(lambda: 1 / 0)

    anyio.run(main)


def test_a_call_that_finds_no_thread_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        threads = Threads("t", 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(RuntimeError, match="can't start"):
                await threads.run(lambda: 1)
        with anyio.fail_after(10):
            assert await threads.run(lambda: 7) == 7

    anyio.run(main)


def test_a_call_that_was_given_up_keeps_its_place_until_it_returns() -> None:
    let_go = threading.Event()

    async def main() -> None:
        threads = Threads("t", 1)
        with anyio.move_on_after(0.05) as scope:
            await threads.run(let_go.wait)
        assert scope.cancelled_caught
        with anyio.move_on_after(0.05) as scope:
            await threads.run(lambda: None)
        assert scope.cancelled_caught, "two calls in one place"
        let_go.set()
        with anyio.fail_after(10):
            assert await threads.run(lambda: 7) == 7

    anyio.run(main)


def test_a_loop_that_is_closed_is_no_trouble_to_a_late_call() -> None:
    let_go = threading.Event()

    async def main() -> None:
        with anyio.move_on_after(0.01):
            await Threads("late", 1).run(let_go.wait)

    anyio.run(main)
    late = [one for one in threading.enumerate() if one.name == "late"]
    assert late
    let_go.set()
    late[0].join(10)
    assert not late[0].is_alive()
