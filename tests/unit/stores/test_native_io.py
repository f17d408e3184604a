"""The native I/O engine on a loop: futures, holds, bounds, closing."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from penstock._native import Caching, Durability, IoBackend, IoEngine
from penstock.actors.stores import native_io
from penstock.actors.stores.device import begin_device_io
from penstock.actors.stores.file import _engines
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.native_io import (
    SETTLED_MAX,
    Moves,
    NativeIo,
)
from penstock.runtime.log import Log
from penstock.runtime.units import GIB, ByteSize

BACKENDS = [IoBackend.IO_URING, IoBackend.THREADS]
Work = Callable[[NativeIo, int, Path], Coroutine[None, None, None]]


class Hold:
    """What a job keeps; its death is seen."""


@asynccontextmanager
async def an_io(backend: IoBackend, *, jobs_max: int = 4096) -> AsyncIterator[NativeIo]:
    try:
        io = NativeIo(depth=16, threads=3, jobs_max=jobs_max, backend=backend)
    except OSError as refusal:
        pytest.skip(f"io_uring is refused here ({refusal}): see kernel.io_uring_disabled")
    try:
        yield io
    finally:
        await io.aclose()
        await io.aclose()


def run(work: Work, backend: IoBackend, folder: Path, *, jobs_max: int = 4096) -> None:
    async def main() -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            async with an_io(backend, jobs_max=jobs_max) as io:
                await work(io, fd, folder)
        finally:
            os.close(fd)

    anyio.run(main)


class SlowDisk:
    """A named pipe, reading from which waits until somebody writes, as a slow disk would make one wait.

    io_uring waits for a pipe's bytes, a thread already for its other end: it may not read a pipe at an offset.
    """

    def __init__(self, io: NativeIo, folder: int, path: Path) -> None:
        self._io, self._folder = io, folder
        os.mkfifo(path / "pipe")
        self._pipe = path / "pipe"
        self._fd = -1

    def read(self, memory: bytearray, hold: object) -> Moves:
        if self._io.backend is IoBackend.IO_URING:
            self._fd = os.open(self._pipe, os.O_RDWR)
            return self._io.read(self._fd, [(0, [memory])], hold)
        return self._io.read_files([(self._folder, "pipe", Caching.BUFFERED, [memory])], hold)

    def answer(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self._pipe, os.O_RDWR)
        os.write(self._fd, b"late")

    def close(self) -> None:
        os.close(self._fd)


async def gone(reference: weakref.ref[Hold]) -> None:
    """Wait, in turns of the loop, until nobody holds it."""
    with anyio.fail_after(10):
        while reference() is not None:
            gc.collect()
            await checkpoint()


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_are_written_read_measured_and_removed(backend: IoBackend, tmp_path: Path) -> None:
    async def work(io: NativeIo, folder: int, path: Path) -> None:
        data = bytes(range(256)) * 33
        name, size = (folder, "a/b/name"), len(data)
        asked = (folder, "aside", "a/b/name", Caching.BUFFERED, size, [data[:100], data[100:]])
        assert await io.write_files([asked], Durability.FDATASYNC, None) == [size]
        assert await io.stat_files([name]) == [size]
        assert os.listdir(folder) == ["a"]
        into = bytearray(size)
        views = [memoryview(into)[:7], memoryview(into)[7:]]
        assert await io.read_files([(*name, Caching.BUFFERED, views)], None) == [size]
        assert into == data
        absent = (folder, "absent")
        assert await io.remove_files([absent, name]) == [-errno.ENOENT, 0]
        assert await io.stat_files([name]) == [-errno.ENOENT]
        assert io.why(-errno.ENOENT) == "No such file or directory"
        assert io.backend is backend
        assert not io.backend_reason

    run(work, backend, tmp_path)


async def _device_engines(folder: Path, log: Log) -> None:
    begin = partial(NativeIo, depth=2, threads=2, jobs_max=4)
    await (await begin_device_io(begin, log)).aclose()


async def _folder_engines(folder: Path, log: Log) -> None:
    paths = (str(folder / "a"), str(folder / "b"))
    engines = await _engines(FileConfig(name="files", paths=paths, capacity=ByteSize(GIB)), log)
    for one in (engines.reads, *engines.changes):
        await one.aclose()


@pytest.mark.parametrize("begin", [_device_engines, _folder_engines])
def test_a_later_engine_of_a_store_that_is_refused_io_uring_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    begin: Callable[[Path, Log], Coroutine[None, None, None]],
) -> None:
    """Seen to fail: only the first one was given the log, and that of folders told each engine's."""
    told = iter(["", "no memory may be locked", "no memory may be locked"])

    class Refused:
        def __init__(self, **given: Any) -> None:
            self._engine = IoEngine(**given)
            self.backend_reason = next(told)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

    monkeypatch.setattr(native_io, "IoEngine", Refused)

    asyncio.run(begin(tmp_path, Log("store")))
    (said,) = [one for one in caplog.messages if "io_by_threads" in one]
    assert "no memory may be locked" in said


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_open_file_is_written_synced_and_read(backend: IoBackend, tmp_path: Path) -> None:
    """A20: at an offset that 32 bits do not hold."""

    async def work(io: NativeIo, _folder: int, path: Path) -> None:
        fd = os.open(path / "sparse", os.O_RDWR | os.O_CREAT)
        far = 6 << 30
        into = bytearray(9)
        try:
            assert await io.write(fd, [(far, [b"far ", b"away"]), (0, [b"near"])], None) == [8, 4]
            assert await io.sync(fd) == [0]
            assert await io.read(fd, [(far, [into])], None) == [8]
        finally:
            os.close(fd)
        assert into == b"far away\0"

    run(work, backend, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_given_up_keeps_its_memory_until_the_system_is_done(
    backend: IoBackend, tmp_path: Path
) -> None:
    """A2. Method: a named pipe is a slow disk; the reader is cancelled meanwhile."""

    async def work(io: NativeIo, folder: int, path: Path) -> None:
        disk = SlowDisk(io, folder, path)
        hold = Hold()
        seen = weakref.ref(hold)
        memory = bytearray(16)
        async with anyio.create_task_group() as group:

            async def read(hold: Hold) -> None:
                await disk.read(memory, hold)

            group.start_soon(read, hold)
            del hold
            await checkpoint()
            group.cancel_scope.cancel()
        assert io.jobs == 1
        gc.collect()
        assert seen() is not None
        with pytest.raises(BufferError):  # exported, still
            memory.clear()
        disk.answer()
        await gone(seen)
        disk.close()
        memory.clear()
        assert io.jobs == 0

    run(work, backend, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_more_jobs_wait_than_allowed(backend: IoBackend, tmp_path: Path) -> None:
    async def work(io: NativeIo, folder: int, _path: Path) -> None:
        absent, full = [(folder, "absent")], -errno.ENOBUFS
        looks = io.stat_files(absent * 10)
        more = io.stat_files(absent * 10)
        assert await io.stat_files(absent) == [full]
        assert "jobs_max = 16" in io.why(full)
        assert await looks == [-errno.ENOENT] * 10
        assert await more == [-errno.ENOENT] * 6 + [full] * 4
        assert await io.stat_files(absent * 16) == [-errno.ENOENT] * 16
        assert await io.stat_files([]) == []
        assert io.jobs == 0

    run(work, backend, tmp_path, jobs_max=16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [16, 17, 1000])
def test_more_files_than_go_at_a_time_are_removed(
    backend: IoBackend, count: int, tmp_path: Path
) -> None:
    """Seen to fail: what is carried out in place leaves nothing to wait for, and those that waited for room were never
    begun."""

    async def work(io: NativeIo, folder: int, _path: Path) -> None:
        with anyio.fail_after(10):
            assert await io.remove_files([(folder, "absent")] * count) == [-errno.ENOENT] * count
        assert io.jobs == 0

    run(work, backend, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flood_is_settled_in_short_steps(backend: IoBackend, tmp_path: Path) -> None:
    """More jobs than are settled in one step, under the watchdog of all tests."""

    async def work(io: NativeIo, folder: int, _path: Path) -> None:
        looks = []
        for _ in range(3 * SETTLED_MAX // 100):
            looks += [io.stat_files([(folder, "absent")] * 10) for _ in range(10)]
            await checkpoint()
        for look in looks:
            assert await look == [-errno.ENOENT] * 10

    run(work, backend, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_answers_everybody_and_takes_no_more(backend: IoBackend, tmp_path: Path) -> None:
    async def work(io: NativeIo, folder: int, path: Path) -> None:
        writes = io.write_files(
            [
                (folder, f"aside{n}", f"file{n}", Caching.BUFFERED, 5000, [bytes(5000)])
                for n in range(100)
            ],
            Durability.NONE,
            None,
        )
        await io.aclose()
        outcomes = await writes
        assert set(outcomes) <= {5000, -errno.ECANCELED}
        names = set(os.listdir(folder))
        assert names == {f"file{n}" for n, outcome in enumerate(outcomes) if outcome == 5000}
        assert await io.stat_files([(folder, "file0")] * 2) == [-errno.ECANCELED] * 2

    run(work, backend, tmp_path)


def test_closing_gives_up_what_would_wait_for_ever(tmp_path: Path) -> None:
    async def work(io: NativeIo, folder: int, path: Path) -> None:
        disk = SlowDisk(io, folder, path)
        read = disk.read(bytearray(4), None)
        # Begun, since one that came later is over; so that it is not merely never begun.
        assert await io.stat_files([(folder, "absent")]) == [-errno.ENOENT]
        with anyio.fail_after(10):
            await io.aclose()
        assert await read == [-errno.ECANCELED]
        disk.close()

    run(work, IoBackend.IO_URING, tmp_path)


def test_memory_that_may_not_be_written_is_refused_before_a_job_begins(tmp_path: Path) -> None:
    async def work(io: NativeIo, folder: int, _path: Path) -> None:
        with pytest.raises((BufferError, TypeError)):
            io.read_files([(folder, "x", Caching.BUFFERED, [b"constant"])], None)
        assert io.jobs == 0
        assert not asyncio.get_running_loop().is_closed()

    run(work, IoBackend.THREADS, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_process_ends_though_a_read_does_not(backend: IoBackend, tmp_path: Path) -> None:
    """B1: a call into a dead disk is given up with the process. Seen to fail, by threads, while the engine's end waited
    for its threads."""
    os.mkfifo(tmp_path / "pipe")
    script = f"""
import asyncio, os, sys
import anyio
from penstock._native import Caching, IoBackend
from penstock.actors.stores.native_io import NativeIo

async def main():
    folder = os.open(sys.argv[1], os.O_RDONLY)
    io = NativeIo(depth=2, threads=2, jobs_max=4, backend=IoBackend.{backend.name})
    io.read_files([(folder, "pipe", Caching.BUFFERED, [bytearray(4096)])], None)
    await io.stat_files([(folder, "pipe")])
    with anyio.move_on_after(0.1):
        await io.aclose()

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=15, check=False)
    assert ended.returncode == 0
