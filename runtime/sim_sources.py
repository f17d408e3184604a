"""Everything that would differ between two runs of one program, taken from a seed instead.

    source                                                        what takes its place
    `random`, unseeded `random.Random()`, `os.urandom` and so     one seeded stream
      `secrets` and `uuid4`, NumPy's generators
    `time.time`, `monotonic`, `perf_counter`, `clock_gettime`,    the loop's virtual time
      their `_ns` forms; "now" of `gmtime`, `localtime`,
      `ctime`, `asctime` and `strftime`
    the sets of tasks and scopes in anyio's and asyncio's task    insertion order
      groups, ordered by identity hash
    the cycle collector, whose moment depends on what ran before  off; the loop runs it at fixed steps
    threads, also those of `_thread`; processes                   `ThreadInSim`

Not covered, and so not allowed in code that is simulated:

- `now`, `today` and `utcnow` of `datetime` and `date`, which ask C for the time; `uuid1`; `ssl.RAND_bytes`; and any of
  the above that is imported by its own name, as in `from time import monotonic`: a test of the sources looks for these;
- the clocks of CPU time (`process_time`, `thread_time`), by which tests judge what a simulation costs;
- iteration over other sets of objects or of strings, `id()`, the process id, the environment, times of files;
- what native code asks for by itself: ours is given the time and the random numbers it needs.
"""

from __future__ import annotations

import _posixsubprocess
import _thread
import asyncio
import functools
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableSet
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest import mock

from anyio._backends import _asyncio as anyio_asyncio

T = TypeVar("T")

STARTERS: tuple[tuple[Any, str], ...] = (
    (threading.Thread, "start"),
    (_thread, "start_new_thread"),
    (_thread, "start_new"),
    (_thread, "start_joinable_thread"),  # from Python 3.13 on
    (os, "fork"),
    (os, "forkpty"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (os, "system"),
    (subprocess.Popen, "__init__"),
    (_posixsubprocess, "fork_exec"),
)
WALL_CLOCKS = (time.CLOCK_REALTIME, time.CLOCK_TAI)
STEADY_CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW, time.CLOCK_BOOTTIME)
WALL_EPOCH_S = 1_600_000_000  # what time.time() says when virtual time is 0


class ThreadInSim(RuntimeError):
    """Your bug: simulated code started a thread or a process, whose steps no seed can order."""


class InsertionOrderedSet(MutableSet[T]):
    """A set that iterates in the order of insertion, whatever the hashes are."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: T) -> None:
        self._items[value] = None

    def discard(self, value: T) -> None:
        self._items.pop(value, None)


@contextmanager
def seeded_sources(draw: random.Random, now: Callable[[], float]) -> Iterator[None]:
    """Put the table above in force for this process, and undo it. One simulation at a time."""
    with ExitStack() as undo:
        for patch in (*_random_patches(draw), *_time_patches(now), *_set_patches()):
            undo.enter_context(patch)
        undo.enter_context(_seeded_globals(draw))
        for patch in _refusals(threading.get_ident()):
            undo.enter_context(patch)
        undo.enter_context(_without_cycle_collector())
        yield


def _random_patches(draw: random.Random) -> Iterator[Any]:
    def urandom(count: int, _flags: int = 0) -> bytes:
        return draw.randbytes(count)

    seed_as_asked = random.Random.seed

    def seed(self: random.Random, value: Any = None, version: int = 2) -> None:
        seed_as_asked(self, draw.getrandbits(64) if value is None else value, version)

    yield mock.patch.object(os, "urandom", urandom)
    yield mock.patch.object(os, "getrandom", urandom)
    yield mock.patch.object(random, "_urandom", urandom)  # what SystemRandom and secrets use
    yield mock.patch.object(random.Random, "seed", seed)


@contextmanager
def _seeded_globals(draw: random.Random) -> Iterator[None]:
    """The generators that are shared by the whole process: seeded, and put back afterwards."""
    numpy = sys.modules.get("numpy")
    before = random.getstate()
    numpy_before = numpy.random.get_state() if numpy else None
    random.seed(draw.getrandbits(64))
    if numpy:
        numpy.random.seed(draw.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(before)
        if numpy:
            numpy.random.set_state(numpy_before)


def _time_patches(now: Callable[[], float]) -> Iterator[Any]:
    def now_ns() -> int:
        return round(now() * 1e9)

    def wall() -> float:
        return WALL_EPOCH_S + now()

    def wall_ns() -> int:
        return WALL_EPOCH_S * 1_000_000_000 + now_ns()

    virtual = {"monotonic": now, "perf_counter": now, "time": wall, "time_ns": wall_ns}
    for name, clock in {**virtual, "monotonic_ns": now_ns, "perf_counter_ns": now_ns}.items():
        yield mock.patch.object(time, name, clock)
    yield from _clock_patches(now, wall)
    yield from _calendar_patches(wall)


def _clock_patches(now: Callable[[], float], wall: Callable[[], float]) -> Iterator[Any]:
    as_usual, as_usual_ns = time.clock_gettime, time.clock_gettime_ns
    virtual = dict.fromkeys(WALL_CLOCKS, wall) | dict.fromkeys(STEADY_CLOCKS, now)

    def read(clock: int) -> float:
        return virtual[clock]() if clock in virtual else as_usual(clock)

    def read_ns(clock: int) -> int:
        return round(virtual[clock]() * 1e9) if clock in virtual else as_usual_ns(clock)

    yield mock.patch.object(time, "clock_gettime", read)
    yield mock.patch.object(time, "clock_gettime_ns", read_ns)


def _calendar_patches(wall: Callable[[], float]) -> Iterator[Any]:
    """Those that take the time as it is when they are given none."""
    gmtime, localtime, ctime = time.gmtime, time.localtime, time.ctime
    asctime, strftime = time.asctime, time.strftime

    def of_seconds(as_usual: Callable[[float], Any]) -> Callable[..., Any]:
        return lambda seconds=None: as_usual(wall() if seconds is None else seconds)

    yield mock.patch.object(time, "gmtime", of_seconds(gmtime))
    yield mock.patch.object(time, "localtime", of_seconds(localtime))
    yield mock.patch.object(time, "ctime", of_seconds(ctime))
    yield mock.patch.object(time, "asctime", lambda *at: asctime(*at or [localtime(wall())]))
    yield mock.patch.object(
        time, "strftime", lambda form, *at: strftime(form, *at or [localtime(wall())])
    )


def _set_patches() -> Iterator[Any]:
    """Every set in which a task group or a cancel scope walks over its tasks."""
    yield _with_ordered(asyncio.TaskGroup, "_tasks")
    yield _with_ordered(anyio_asyncio.TaskGroup, "_tasks")
    yield _with_ordered(anyio_asyncio.CancelScope, "_tasks", "_child_scopes")


def _with_ordered(owner: type[Any], *names: str) -> Any:
    made_as_usual = owner.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made_as_usual(self, *args, **kwargs)
        for name in names:
            assert not getattr(self, name), f"{owner.__qualname__}.{name} is not a new, empty set"
            setattr(self, name, InsertionOrderedSet())

    return mock.patch.object(owner, "__init__", init)


def _refusals(simulated: int) -> Iterator[Any]:
    """Whatever starts a thread or a process: refused to the thread with the identity `simulated` alone."""
    for owner, name in STARTERS:
        if (as_usual := getattr(owner, name, None)) is not None:
            yield mock.patch.object(owner, name, _refused(as_usual, simulated))


def _refused(as_usual: Callable[..., Any], simulated: int) -> Callable[..., Any]:
    @functools.wraps(as_usual)
    def start(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == simulated:
            raise ThreadInSim(
                f"a simulated world has no threads and no processes: {as_usual.__qualname__}"
            )
        return as_usual(*args, **kwargs)

    return start


@contextmanager
def _without_cycle_collector() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
