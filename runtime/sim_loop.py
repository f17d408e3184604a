"""An event loop on virtual time, in an order drawn from a seed; the product's own code runs on it
unchanged.

    result = simulate(seed, main)

- Time stands still while anything is ready, then jumps to the next timer.
- The seed permutes *task steps* among those that are ready, and holds some back for later rounds.
  Plain callbacks (timers, transports, futures) keep asyncio's order, on which transports rely.
- All other randomness comes from the seed as well, see `sim_sources`.
- Nothing ready and no timer: `Deadlock`. Steps without end while time stands still: `Livelock`.
  A thread: `ThreadInSim`. There are no sockets either: this loop has no selector.

A failure says its seed; the same seed does the same again, in any process.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import inspect
import itertools
import logging
import random
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, TypeVarTuple

from penstock.runtime.hazard import Hazards, SeededHazards, hazards_in_force
from penstock.runtime.log import ROOT as LOG_ROOT
from penstock.runtime.sim_sources import ThreadInSim, seeded_sources
from penstock.runtime.transcript import Transcript, TranscriptHandler

__all__ = ["Deadlock", "Livelock", "SimLoop", "Simulation", "ThreadInSim", "simulate"]

T = TypeVar("T")
Args = TypeVarTuple("Args")

STEPS_STILL_MAX = (
    100_000  # callbacks run at one instant of virtual time before it counts as a livelock
)
HOLD_CHANCE = 0.125  # of a ready step being held back for a round
COLLECT_EVERY_STEPS = 100_000  # cycle collections happen here and nowhere else
FAREWELL_ROUNDS = 1_000  # rounds given to cancelled tasks at the end of a simulation


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: everyone waits for somebody else."""


class Livelock(RuntimeError):
    """Steps go on and on while time stands still: somebody polls, or two keep waking each other."""


class UnheardError(RuntimeError):
    """An exception reached the loop because nobody awaited what raised it."""


class SimLoop(asyncio.BaseEventLoop):
    """The loop alone; `Simulation` puts the rest of the simulated world around it."""

    permutes_steps = True  # actors take every hop, so that every order of them can be drawn

    # These belong to BaseEventLoop, whose `run_forever` calls `_run_once` until `_stopping`.
    _ready: deque[asyncio.Handle]  # what runs in the next round
    _stopping: bool

    def __init__(self, draw: random.Random, *, steps_still_max: int = STEPS_STILL_MAX) -> None:
        super().__init__()
        self.transcript = Transcript(self.time)
        self.unheard: list[str] = []
        self._draw = draw
        self._now = 0.0
        self._timers: list[
            tuple[float, int, asyncio.TimerHandle]
        ] = []  # a heap; first come at equal times
        self._timer_numbers = itertools.count()
        self._task_numbers = itertools.count(1)
        self._born: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._thread = threading.get_ident()
        self._steps_total = 0
        self._steps_still = 0  # since time last moved, <= steps_still_max
        self._steps_still_max = steps_still_max
        self._lately: Counter[str] = (
            Counter()
        )  # who ran since time last moved, once that looks suspicious
        self.set_exception_handler(self._on_unheard)

    # Time and order.

    def time(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if self.is_closed():
            raise RuntimeError("the simulation has ended")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def create_task(self, coro: Any, *, name: Any = None, **kwargs: Any) -> asyncio.Task[Any]:
        """As asyncio's, but an unnamed task is numbered per loop and not per process."""
        if name is None:
            name = f"{getattr(coro, '__qualname__', 'task')}#{next(self._task_numbers)}"
        task = super().create_task(coro, name=name, **kwargs)
        self._born.add(task)
        return task

    def _run_once(self) -> None:
        """One round: what is ready now, steps permuted; what becomes ready meanwhile waits for the
        next.
        """
        self._drop_cancelled_timers()
        if not self._ready and not self._stopping:
            if not self._timers:
                raise Deadlock(f"nothing can happen any more; waiting: {self._who_waits()}")
            self._move_time(self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(self._timers)[2])
        for _ in range(self._permute()):
            self._run_step(self._ready.popleft())

    def _permute(self) -> int:
        """Reorder the ready steps and move those held back behind the round; the round's length."""
        batch = list(self._ready)
        steps = [handle for handle in batch if _task_of(handle) is not None]
        self._draw.shuffle(steps)
        drawn = iter(steps)
        now: list[asyncio.Handle] = []
        held: list[asyncio.Handle] = []
        for handle in batch:
            if _task_of(handle) is None:
                now.append(handle)
            else:
                chosen = held if self._draw.random() < HOLD_CHANCE else now
                chosen.append(next(drawn))
        self._ready.clear()
        self._ready.extend(now + held)
        return len(now)

    def _run_step(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        self._note_step(_task_of(handle))
        handle._run()  # noqa: SLF001 - as BaseEventLoop does
        # What a task raises keeps the frames that stepped it: from them the error would hold its own task alive.
        del handle

    def _note_step(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self.transcript.note(f"step {task.get_name()}")
        self._count_step(task)

    def _count_step(self, task: asyncio.Task[Any] | None) -> None:
        self._steps_total += 1
        if self._steps_total % COLLECT_EVERY_STEPS == 0:
            gc.collect()
        self._steps_still += 1
        if self._steps_still > self._steps_still_max // 2:
            self._lately["a callback" if task is None else task.get_name()] += 1
        if self._steps_still > self._steps_still_max:
            busiest = ", ".join(name for name, _ in self._lately.most_common(8))
            raise Livelock(f"{self._steps_still_max} steps without time moving; busiest: {busiest}")

    def _move_time(self, when: float) -> None:
        self._now = max(self._now, when)
        self._steps_still = 0
        self._lately.clear()

    def _drop_cancelled_timers(self) -> None:
        """Keep the heap small: every ask leaves a cancelled timer behind."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if self._steps_total % 1024 == 0 and len(timers) > 1024:
            self._timers = [entry for entry in timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)

    # What a simulated world has not.

    def _write_to_self(self) -> None:
        self._check_thread()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise ThreadInSim("a thread called into a simulated loop")

    def run_in_executor(
        self, executor: object, func: Callable[[*Args], T], *args: *Args
    ) -> asyncio.Future[T]:
        raise ThreadInSim(f"a simulated world has no threads to run {func!r} in")

    def _process_events(self, event_list: object) -> None:
        """There is no selector, and so there are no events."""

    # The end.

    def cancel_all(self) -> None:
        """Cancel whatever is left, in order of name, and let it end."""
        for task in self._unfinished():
            task.cancel()
        for _ in range(FAREWELL_ROUNDS):
            if not self._unfinished() or not (self._ready or self._timers):
                return
            self.call_at(self._now if self._ready else self._timers[0][0], self.stop)
            self.run_forever()

    def hear_failed(self) -> None:
        """Report the tasks whose error nobody has asked for and that are still held, be it in a circle with that error.

        asyncio reports such a task when it goes, which in a circle waits for the cycle collector.
        """
        for task in sorted(self._born, key=lambda task: task.get_name()):
            if task._log_traceback:  # noqa: SLF001 - `exception()` cannot tell whether it is the first to ask
                message = f"the exception of task {task.get_name()} was never retrieved"
                self.call_exception_handler({"message": message, "exception": task.exception()})

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())

    def _who_waits(self) -> str:
        return ", ".join(_whereabouts(task) for task in self._unfinished()) or "no task"

    def _on_unheard(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.unheard.append(f"{context['message']}: {error!r}" if error else context["message"])
        self.transcript.note(f"unheard {self.unheard[-1]}")


class Simulation:
    """One simulated world, run once.

    `hazards` decides at the named pause points; without it pauses are drawn from the seed.
    """

    def __init__(
        self, seed: int, *, hazards: Hazards | None = None, steps_still_max: int = STEPS_STILL_MAX
    ) -> None:
        self.seed = seed
        self._draw = random.Random(seed)
        self.loop = SimLoop(self._stream(), steps_still_max=steps_still_max)
        self.transcript = self.loop.transcript
        self._hazards = hazards or SeededHazards(
            self._stream(), on_reach=lambda name: self.transcript.note(f"hazard {name}")
        )

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main()` to its end and return its result.

        Raises what `main` raises, Deadlock, Livelock, ThreadInSim, or UnheardError if an exception
        was raised where nobody awaited it; all of them carry the seed as a note.
        """
        with self._signed(), seeded_sources(self._stream(), self.loop.time), self._logs():
            try:
                with hazards_in_force(self._hazards):
                    result = self.loop.run_until_complete(main())
            finally:
                self.loop.cancel_all()
                self.loop.hear_failed()
                self.loop.close()
            if self.loop.unheard:
                raise UnheardError("; ".join(self.loop.unheard))
        return result

    def _signed(self) -> ExitStack:
        """Writes the seed on whatever is raised."""

        def sign(_kind: object, failure: BaseException | None, _traceback: object) -> bool:
            if failure is not None:
                now = self.loop.time()
                failure.add_note(f"seed={self.seed} after {now:.6f} virtual seconds")
            return False

        stack = ExitStack()
        stack.push(sign)
        return stack

    def _stream(self) -> random.Random:
        """An independent stream: drawing more from one does not shift another."""
        return random.Random(self._draw.getrandbits(64))

    @contextmanager
    def _logs(self) -> Iterator[None]:
        logger, handler = logging.getLogger(LOG_ROOT), TranscriptHandler(self.transcript)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def simulate(seed: int, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main()` in a simulated world of its own and return its result; see `Simulation`."""
    return Simulation(seed).run(main)


def _task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    """The task of which `handle` is a step; None for a plain callback.

    Steps are bound to their task, but so is `task.cancel`: it is told apart by being a public
    method.
    """
    callback = getattr(handle, "_callback", None)  # None once it is cancelled
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task) and not hasattr(task, getattr(callback, "__name__", "")):
        return task
    return None


def _whereabouts(task: asyncio.Task[Any]) -> str:
    """A task's name, and the innermost function and line in which it waits."""
    innermost: Any = task.get_coro()
    while inspect.iscoroutine(getattr(innermost, "cr_await", None)):
        innermost = innermost.cr_await
    frame = getattr(innermost, "cr_frame", None)
    if frame is None:
        return task.get_name()
    return f"{task.get_name()} (in {frame.f_code.co_qualname}, line {frame.f_lineno})"
