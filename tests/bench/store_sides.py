"""Two sides of a pair: a store as the node runs it, and what its medium gives without us.

Ours is the whole store actor: turns, books, headers, digests, the store's own methods. The objects lie in an arena.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from support.store_world import StoreWorld

from penstock._native import Arena, Copier, crc64
from penstock.actors.api.store import LoadOutcome, SaveOutcome, Source, Target
from penstock.runtime.units import GIB, KIB, MIB

ASKS = 2  # batches under way at a time
NAMESPACE = bytes(32)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is moved in one turn."""

    object_bytes: int
    objects: int
    depth: int  # objects of a batch, and what the medium is asked for at a time

    @property
    def total_bytes(self) -> int:
        return self.object_bytes * self.objects

    @property
    def words(self) -> str:
        size = self.object_bytes
        return f"{size // MIB}mib" if size >= MIB else f"{size // KIB}kib"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of one side gave."""

    save_gib_s: float
    load_gib_s: float
    core_s_per_gib: float = 0.0  # of this process, loading


class Side(Protocol):
    async def turn(self, number: int) -> Turn:
        """Save objects nobody saved before, then load them."""


class Slots:
    """Arena memory for the objects under way, all of one content."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        count = ASKS * shape.depth
        self.arena = Arena(bytes=count * shape.object_bytes)
        self.views = [
            self.arena.view(at * shape.object_bytes, shape.object_bytes) for at in range(count)
        ]
        self._content = os.urandom(shape.object_bytes)
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


class OurSide:
    def __init__(self, world: StoreWorld, slots: Slots, forget: Callable[[], None]) -> None:
        """`forget` drops what a cache has of the objects saved."""
        self._world, self._slots, self._shape, self._forget = world, slots, slots.shape, forget

    async def turn(self, number: int) -> Turn:
        self._slots.fill()
        save_s, _ = await self._timed(number, self._save)
        self._forget()
        self._slots.clear()
        load_s, core_s = await self._timed(number, self._load)
        gib = self._shape.total_bytes / GIB
        return Turn(gib / save_s, gib / load_s, core_s / gib)

    async def one_us(self, number: int, loads: int) -> float:
        """The median of loads of one object of that turn, nothing else under way."""
        seen = []
        for index in range(loads):
            begin = time.perf_counter()
            await self._load([_key(number, index % self._shape.objects)], self._slots.views)
            seen.append((time.perf_counter() - begin) * 1e6)
        return statistics.median(seen)

    async def _timed(
        self, number: int, move: Callable[[list[bytes], Sequence[memoryview]], Awaitable[None]]
    ) -> tuple[float, float]:
        """(seconds, seconds of processor time of this process)."""
        depth = self._shape.depth
        keys = [_key(number, index) for index in range(self._shape.objects)]

        async def ask(which: int) -> None:
            views = self._slots.views[which * depth : (which + 1) * depth]
            for start in range(which * depth, len(keys), ASKS * depth):
                await move(keys[start : start + depth], views)

        core_s, begin = _core_s(), time.perf_counter()
        async with asyncio.TaskGroup() as asks:
            for which in range(ASKS):
                asks.create_task(ask(which))
        return time.perf_counter() - begin, _core_s() - core_s

    async def _save(self, keys: list[bytes], views: Sequence[memoryview]) -> None:
        digest, size = self._slots.digest, self._shape.object_bytes
        runs = digest.to_bytes(8, "little")
        sources = [
            Source(key, 0, NAMESPACE, size, digest, runs, b"", view, None)
            for key, view in zip(keys, views, strict=False)
        ]
        for saved in await self._world.save(*sources):
            assert saved.outcome is SaveOutcome.SAVED, saved

    async def _load(self, keys: list[bytes], views: Sequence[memoryview]) -> None:
        size = self._shape.object_bytes
        targets = [
            Target(key, 0, NAMESPACE, size, 1, view, None)
            for key, view in zip(keys, views, strict=False)
        ]
        for loaded in await self._world.load(*targets):
            assert loaded.outcome is LoadOutcome.LOADED, loaded


class FioSide:
    """fio with io_uring: the same block size, depth and folder; it reads one file at random and writes another."""

    def __init__(self, folder: Path, shape: Shape, *, direct: int) -> None:
        self._shape = shape
        self._common = [
            "fio",
            f"--directory={folder}",
            f"--bs={shape.object_bytes}",
            f"--size={shape.total_bytes}",
            f"--iodepth={shape.depth}",
            f"--direct={direct}",
            "--ioengine=io_uring",
            "--output-format=json",
            "--randrepeat=0",
            "--invalidate=1",
            "--thread",
        ]
        _run([*self._common, "--name=lay", "--rw=write", "--filename=read", "--end_fsync=1"])

    async def turn(self, number: int) -> Turn:
        del number
        reading = ["--name=read", "--rw=randread", "--filename=read"]
        writing = ["--name=write", "--stonewall", "--rw=write", "--filename=written"]
        words = [*self._common, *reading, *writing, "--unlink=1", "--fallocate=posix"]
        read, written = json.loads(_run(words))["jobs"]
        return Turn(written["write"]["bw_bytes"] / GIB, read["read"]["bw_bytes"] / GIB)


class MemcpySide:
    """memcpy of the same bytes, one thread, to memory that is there."""

    def __init__(self, slots: Slots) -> None:
        self._slots, self._shape = slots, slots.shape
        self._copier = Copier(threads=1)
        self._target = memoryview(bytearray(b"\1") * self._shape.total_bytes)

    async def turn(self, number: int) -> Turn:
        del number
        gib = self._shape.total_bytes / GIB
        return Turn(gib / self._copy(is_save=True), gib / self._copy(is_save=False))

    def _copy(self, *, is_save: bool) -> float:
        size, views = self._shape.object_bytes, self._slots.views
        begin = time.perf_counter()
        for index in range(self._shape.objects):
            far, near = self._target[index * size : (index + 1) * size], views[index % len(views)]
            source, destination = (near, far) if is_save else (far, near)
            self._copier.baseline_memcpy(destination=destination, source=source)
        return time.perf_counter() - begin


@dataclass(slots=True)
class LoopSide:
    """A loop over the bare client: `put` and `get` of one object by its number, `at_once` at a time."""

    shape: Shape
    at_once: int
    put: Callable[[int], Awaitable[None]]
    get: Callable[[int], Awaitable[None]]

    async def turn(self, number: int) -> Turn:
        gib, first = self.shape.total_bytes / GIB, number * self.shape.objects
        save_s = await self._all(self.put, first)
        return Turn(gib / save_s, gib / await self._all(self.get, first))

    async def _all(self, move: Callable[[int], Awaitable[None]], first: int) -> float:
        async def some(which: int) -> None:
            for index in range(which, self.shape.objects, self.at_once):
                await move(first + index)

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for which in range(self.at_once):
                tasks.create_task(some(which))
        return time.perf_counter() - begin


class ChildSide:
    """A process that answers the number of a turn with the seconds of its saves and of its loads."""

    def __init__(self, shape: Shape, child: subprocess.Popen[str]) -> None:
        self._shape, self._child = shape, child

    async def turn(self, number: int) -> Turn:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{number}\n")
        self._child.stdin.flush()
        save_s, load_s = map(float, self._child.stdout.readline().split())
        gib = self._shape.total_bytes / GIB
        return Turn(gib / save_s, gib / load_s)


def drop_page_cache(folder: Path) -> None:
    """Of every file below `folder`, once it is on the disk."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def _run(command: Sequence[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def _key(turn: int, index: int) -> bytes:
    return hashlib.sha256(f"{turn}/{index}".encode()).digest()


def _core_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
