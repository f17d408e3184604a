"""Everything that would differ between two runs of one program, taken from a seed instead.

| source | what takes its place | |---|---| | `random`, unseeded `random.Random()`, `os.urandom` and
so `secrets`, `uuid4`, NumPy's generators | one seeded stream | | `time.time`, `time.monotonic`,
`time.perf_counter` and their `_ns` forms | the loop's virtual time | | the sets of tasks and scopes
in anyio's and asyncio's task groups, ordered by identity hash | insertion order | | the cycle
collector, whose moment depends on what ran before | off; the loop runs it at fixed steps | |
threads | `ThreadInSim` |

Not covered, and so not allowed in code that is simulated: iteration over other sets of objects or
of strings, `id()`, the process id.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableSet
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest import mock

from anyio._backends import _asyncio as anyio_asyncio

T = TypeVar("T")

WALL_EPOCH_S = 1_600_000_000  # what time.time() says when virtual time is 0


class ThreadInSim(RuntimeError):
    """Your bug: simulated code started a thread, whose steps no seed can order."""


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
        undo.enter_context(mock.patch.object(threading.Thread, "start", _refuse_thread()))
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


def _refuse_thread() -> Callable[[threading.Thread], None]:
    simulated = threading.get_ident()
    start_as_usual = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if threading.get_ident() == simulated:
            raise ThreadInSim(f"a simulated world has no threads, but {thread.name!r} was started")
        start_as_usual(thread)

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
