"""Two sides of a pair: a store as the node runs it, and what its medium gives without us.

Ours is the whole store actor: turns, books, headers, digests, the store's own methods. The objects lie in an arena.
A turn has a given time and not a given number of bytes: slow media take no longer, and fast ones are not over before
they have begun. `store_fio.py` has the sides that are fio.

Loads are asked for as many at a time as the medium is, two batches under way. Saves to disks come as the store writer
sends them where much was committed: batches of SAVED objects or SAVED_BYTES (it takes up to 64 MiB), as many under way
as a store takes (`saves_max`). In both the engine gives the medium no more at a time than fio does (`depth`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import NamedTuple, Protocol

from support.store_world import StoreWorld

from penstock._native import Arena, Copier, crc64
from penstock.actors.api.store import Delete, Keys, LoadOutcome, SaveOutcome, Source, Target
from penstock.runtime.units import GIB, KIB, MIB

ONES_MAX, ONES_S = 40, 0.1  # loads of single objects
ASKS = 2  # batches of loads under way at a time
SAVED, SAVED_BYTES = (
    256,
    16 * MIB,
)  # in one batch: as `writer.batch_objects`, and less than `writer.batch`
SAVES, SAVES_BYTES = (
    4,
    64 * MIB,
)  # batches under way: as `saves_max`, in no more memory than that, or two
NAMESPACE = bytes(32)
FAR_BYTES = 64 * MIB  # memory copied to and from: more than caches hold
DELETE_WITHIN_S = 30.0


class Pipeline(NamedTuple):
    """Batches that are asked for."""

    objects: int  # of one
    under_way: int  # at a time


@dataclass(frozen=True, slots=True)
class Shape:
    """What is moved in one turn."""

    object_bytes: int
    depth: int  # objects of a batch of loads, and what the medium is asked for at a time
    half_s: float  # saving takes as long, and loading
    objects_max: int  # that are saved in it: then it takes less
    is_saved_by_writer: bool = False  # in batches as it makes them; else as loads are asked for

    @property
    def words(self) -> str:
        size = self.object_bytes
        return f"{size // MIB}mib" if size >= MIB else f"{size // KIB}kib"

    @property
    def loads(self) -> Pipeline:
        return Pipeline(self.depth, ASKS)

    @property
    def saves(self) -> Pipeline:
        if not self.is_saved_by_writer:
            return self.loads
        objects = max(self.depth, min(SAVED, SAVED_BYTES // self.object_bytes))
        under_way = SAVES_BYTES // (objects * self.object_bytes)
        return Pipeline(objects, max(ASKS, min(SAVES, under_way)))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of one side gave."""

    save_gib_s: float
    load_gib_s: float
    core_s_per_gib: float = 0.0  # of this process, loading


class TurnFailed(Exception):
    """Not everything was saved or loaded: there is no speed to tell."""


class Side(Protocol):
    async def turn(self, number: int) -> None:
        """Save objects nobody saved before, then load them."""

    def turns(self) -> list[Turn]:
        """What all of them gave, after the last."""


class Slots:
    """Arena memory for the objects under way, all of one content. Used in turn: `near_bytes` of it, if that is more."""

    def __init__(self, shape: Shape, *, near_bytes: int = 0) -> None:
        self.shape = shape
        size = shape.object_bytes
        batch = max(one.objects * one.under_way for one in (shape.saves, shape.loads))
        count = max(1, -(-near_bytes // (batch * size))) * batch
        self.arena = Arena(bytes=count * size)
        self.views = [self.arena.view(at * size, size) for at in range(count)]
        self._content = os.urandom(size)
        self.digest = crc64(self._content)
        self.fill()

    def fill(self) -> None:
        for view in self.views:
            view[:] = self._content

    def clear(self) -> None:
        """So that what was not loaded is not there."""
        nothing = bytes(self.shape.object_bytes)
        for view in self.views:
            view[:] = nothing

    def batches(self, which: int, pipeline: Pipeline) -> Iterator[list[memoryview]]:
        """For one of those that are under way: its own memory, in turn."""
        objects = pipeline.objects
        starts = range(which * objects, len(self.views), objects * pipeline.under_way)
        return cycle([self.views[start : start + objects] for start in starts])


class _Half(NamedTuple):
    """Saving, or loading."""

    keys: list[bytes]
    gib_s: float
    core_s_per_gib: float


class Medium(Protocol):
    """What a turn must know of where the objects are."""

    def forget(self) -> bool:
        """Drop what a cache has of the objects. False: there is none."""

    @property
    def is_emptied(self) -> bool:
        """The objects of a turn are deleted before the next one, which has their room."""

    @property
    def pace(self) -> float:
        """How much of the time of the others in its group it is given."""


class OurSide:
    def __init__(self, world: StoreWorld, slots: Slots, medium: Medium) -> None:
        self._world, self._slots, self._shape, self._medium = world, slots, slots.shape, medium
        self._half_s = slots.shape.half_s * medium.pace
        self._saved: list[bytes] = []
        self._turns: list[Turn] = []

    def turns(self) -> list[Turn]:
        return self._turns

    async def warm_up(self) -> None:
        """Files are there, threads run, and memory that is emptied and used again has been touched."""
        count = self._shape.objects_max
        if not self._medium.is_emptied:
            count = min(count, len(self._slots.views))
        keys = [_key(-1, index) for index in range(count)]
        saving = await self._half(self._save, keys, self._shape.saves, half_s=60.0)
        self._saved = saving.keys
        await self._half(self._load, self._saved, self._shape.loads, half_s=60.0)

    async def turn(self, number: int) -> None:
        if self._medium.is_emptied:
            for batch in _cut(self._saved, self._shape.depth):
                keys = Keys.of([(key, 0) for key in batch])
                await self._world.ref.ask(Delete(keys), within=DELETE_WITHIN_S)
        self._slots.fill()
        new = [_key(number, index) for index in range(self._shape.objects_max)]
        saving = await self._half(self._save, new, self._shape.saves, half_s=self._half_s)
        self._saved = saving.keys
        is_cached = self._medium.forget()
        self._slots.clear()
        loading = await self._half(
            self._load, self._saved, self._shape.loads, half_s=self._half_s, again=not is_cached
        )
        self._turns.append(Turn(saving.gib_s, loading.gib_s, loading.core_s_per_gib))

    async def one_us(self) -> dict[str, float]:
        """The median of loads of single objects of the last turn, each another one and nothing else under way.

        And the same again, with what a cache has, if there is one.
        """
        is_cached = self._medium.forget()
        found = {"load_one_us_p50": await self._one_us()}
        if is_cached:
            found["load_one_again_us_p50"] = await self._one_us()
        return found

    async def _one_us(self) -> float:
        seen, views = [], self._slots.views
        end = time.perf_counter() + ONES_S
        for key in self._saved[:ONES_MAX]:
            begin = time.perf_counter()
            await self._load([key], views)
            seen.append((time.perf_counter() - begin) * 1e6)
            if time.perf_counter() > end:
                break
        return statistics.median(seen)

    async def _half(
        self,
        move: Callable[[list[bytes], Sequence[memoryview]], Awaitable[None]],
        keys: list[bytes],
        pipeline: Pipeline,
        *,
        half_s: float,
        again: bool = False,
    ) -> _Half:
        """Until the time is over or the keys are; with `again` they never are."""
        batches = _cut(keys, pipeline.objects)
        left, moved = cycle(batches) if again else iter(batches), list[bytes]()

        async def ask(which: int) -> None:
            for views in self._slots.batches(which, pipeline):
                if time.perf_counter() >= end or (batch := next(left, None)) is None:
                    return
                await move(batch, views)
                moved.extend(batch)

        core_s, begin = _core_s(), time.perf_counter()
        end = begin + half_s
        async with asyncio.TaskGroup() as asks:
            for which in range(pipeline.under_way):
                asks.create_task(ask(which))
        seconds, core_s = time.perf_counter() - begin, _core_s() - core_s
        gib = len(moved) * self._shape.object_bytes / GIB
        return _Half(moved, gib / seconds, core_s / gib)

    async def _save(self, keys: list[bytes], views: Sequence[memoryview]) -> None:
        digest, size = self._slots.digest, self._shape.object_bytes
        runs = digest.to_bytes(8, "little")
        sources = [
            Source(key, 0, NAMESPACE, size, digest, runs, b"", view, None)
            for key, view in zip(keys, views, strict=False)
        ]
        for saved in await self._world.save(*sources):
            if saved.outcome is not SaveOutcome.SAVED:
                raise TurnFailed(str(saved))

    async def _load(self, keys: list[bytes], views: Sequence[memoryview]) -> None:
        size = self._shape.object_bytes
        targets = [
            Target(key, 0, NAMESPACE, size, 1, view, None)
            for key, view in zip(keys, views, strict=False)
        ]
        for loaded in await self._world.load(*targets):
            if loaded.outcome is not LoadOutcome.LOADED:
                raise TurnFailed(str(loaded))


class MemcpySide:
    """memcpy by one thread, between the arena and memory that is there; neither fits into a cache."""

    def __init__(self, slots: Slots) -> None:
        self._slots, self._shape = slots, slots.shape
        self._copier = Copier(threads=1)
        self._far = memoryview(bytearray(b"\1") * FAR_BYTES)
        self._turns: list[Turn] = []

    def turns(self) -> list[Turn]:
        return self._turns

    async def turn(self, number: int) -> None:
        del number
        self._turns.append(Turn(self._timed(self.save), self._timed(self.load)))

    def save(self, near: memoryview, far: memoryview) -> None:
        self._copier.baseline_memcpy(destination=far, source=near)

    def load(self, near: memoryview, far: memoryview) -> None:
        self._copier.baseline_memcpy(destination=near, source=far)

    def _timed(self, move: Callable[[memoryview, memoryview], None]) -> float:
        """GiB/s."""
        size, views = self._shape.object_bytes, cycle(self._slots.views)
        starts, moved = cycle(range(0, FAR_BYTES, size)), 0
        begin = time.perf_counter()
        end = begin + self._shape.half_s
        while time.perf_counter() < end:
            start = next(starts)
            move(next(views), self._far[start : start + size])
            moved += size
        return moved / GIB / (time.perf_counter() - begin)


class DigestedMemcpySide(MemcpySide):
    """The same, and what was loaded is digested, as a node must before it shows it to anybody."""

    def load(self, near: memoryview, far: memoryview) -> None:
        super().load(near, far)
        crc64(near)


@dataclass(slots=True)
class LoopSide:
    """A loop over the bare client: `put` and `get` of one object by its number, `at_once` at a time."""

    shape: Shape
    at_once: int
    put: Callable[[int], Awaitable[None]]
    get: Callable[[int], Awaitable[None]]
    seen: list[Turn] = field(default_factory=list)

    def turns(self) -> list[Turn]:
        return self.seen

    async def turn(self, number: int) -> None:
        first = number * self.shape.objects_max
        saved, save_gib_s = await self._all(self.put, range(first, first + self.shape.objects_max))
        _, load_gib_s = await self._all(self.get, cycle(range(first, first + saved)))
        self.seen.append(Turn(save_gib_s, load_gib_s))

    async def _all(
        self, move: Callable[[int], Awaitable[None]], numbers: Iterable[int]
    ) -> tuple[int, float]:
        """(objects moved, GiB/s)."""
        left, moved = iter(numbers), 0

        async def some() -> None:
            nonlocal moved
            while time.perf_counter() < end and (number := next(left, None)) is not None:
                await move(number)
                moved += 1

        begin = time.perf_counter()
        end = begin + self.shape.half_s
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.at_once):
                tasks.create_task(some())
        seconds = time.perf_counter() - begin
        return moved, moved * self.shape.object_bytes / GIB / seconds


class ChildSide:
    """A process that answers the number of a turn with the GiB/s of its saves and of its loads."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self._turns: list[Turn] = []

    def turns(self) -> list[Turn]:
        return self._turns

    async def turn(self, number: int) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{number}\n")
        self._child.stdin.flush()
        save_gib_s, load_gib_s = map(float, self._child.stdout.readline().split())
        self._turns.append(Turn(save_gib_s, load_gib_s))


def drop_page_cache(folder: Path) -> None:
    """Of every file below `folder`, once it is on the disk."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def _cut(keys: list[bytes], objects: int) -> list[list[bytes]]:
    return [keys[start : start + objects] for start in range(0, len(keys), objects)]


def _key(turn: int, index: int) -> bytes:
    return hashlib.sha256(f"{turn}/{index}".encode()).digest()


def _core_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
