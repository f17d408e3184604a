"""The event-loop watchdog: a step of the loop that takes longer than 5 ms is counted and named.

    with Watchdog(clock=time.perf_counter, on_slow=report).watching():
        asyncio.run(main())

While it watches, every callback of every asyncio loop in the process is timed, which costs two
looks at the clock each. A program that is ours (`penstock serve`) watches wall time; tests watch
CPU time of the thread, so that a busy machine does not fail them. A node embedded in another
program does not watch: the loop is not ours.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STEP_MS_MAX = 5.0
REMEMBERED_MAX = 64


@dataclass(frozen=True, slots=True)
class SlowStep:
    """One step that took too long."""

    name: str  # the task and its coroutine, or the callback
    took_ms: float

    def __str__(self) -> str:
        return f"{self.name} held the loop for {self.took_ms:.1f} ms"


class Watchdog:
    """Counts and names slow steps while `watching()`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        step_ms_max: float = STEP_MS_MAX,
        on_slow: Callable[[SlowStep], None] | None = None,
    ) -> None:
        self.slow_total = 0
        self.slow: deque[SlowStep] = deque(maxlen=REMEMBERED_MAX)  # the latest
        self._clock = clock  # seconds
        self._step_ms_max = step_ms_max
        self._on_slow = on_slow

    @contextmanager
    def watching(self) -> Iterator[Watchdog]:
        """Time every step of every loop of this process inside the block."""
        run_as_usual = asyncio.Handle._run  # noqa: SLF001 - the one place where asyncio runs anything
        clock, limit_s = self._clock, self._step_ms_max / 1000

        def run(handle: asyncio.Handle) -> None:
            callback = getattr(handle, "_callback", None)
            begin = clock()
            run_as_usual(handle)
            took_s = clock() - begin
            if took_s > limit_s:
                self._note(SlowStep(_name_of(callback), took_s * 1000))
            # An error keeps the frames that stepped its task, from Python 3.12 on: from this one it would hold the
            # task, and so itself and all that its own frames hold, until the cycle collector comes by.
            del handle, callback

        asyncio.Handle._run = run  # type: ignore[assignment,method-assign]  # noqa: SLF001
        try:
            yield self
        finally:
            asyncio.Handle._run = run_as_usual  # type: ignore[method-assign]  # noqa: SLF001

    def _note(self, step: SlowStep) -> None:
        self.slow_total += 1
        self.slow.append(step)
        if self._on_slow is not None:
            self._on_slow(step)


@contextmanager
def own_cpu_clock() -> Iterator[Callable[[], float]]:
    """A clock of the CPU seconds this thread spent, without those of the cycle collector.

    The collector's moment depends on what ran before, in a test on all other tests.
    """
    collecting_s = 0.0
    began = 0.0
    thread = threading.get_ident()

    def on_collection(phase: str, _info: dict[str, int]) -> None:
        nonlocal collecting_s, began
        if threading.get_ident() != thread:
            return
        if phase == "start":
            began = time.thread_time()
        else:
            collecting_s += time.thread_time() - began

    gc.callbacks.append(on_collection)
    try:
        yield lambda: time.thread_time() - collecting_s
    finally:
        gc.callbacks.remove(on_collection)


def _name_of(callback: object) -> str:
    """A task's name and coroutine; a callback's qualified name."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine = getattr(owner.get_coro(), "__qualname__", "")
        return f"task {owner.get_name()} ({coroutine})"
    if isinstance(callback, functools.partial):
        return _name_of(callback.func)
    return f"callback {getattr(callback, '__qualname__', type(callback).__qualname__)}"
