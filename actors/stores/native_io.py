"""The native I/O engine on an event loop: what is asked for together is one future of what became of each.

    io = NativeIo(depth=64, threads=4, jobs_max=4096)
    (moved,) = await io.read(fd, [(0, [buffer])], hold)         # bytes, or -errno
    answers = await io.read_files([(folder, name, caching, [header, payload]), ...], holds)

A future that is given up changes nothing for its jobs: buffers and `hold` live until the system is done with them.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVarTuple

from typing_extensions import Buffer

from penstock._native import Caching, Durability, IoBackend, IoEngine, IoEngineClosed
from penstock.runtime.log import Log

Asked = TypeVarTuple("Asked")
Moved: TypeAlias = "asyncio.Future[int]"
"""Bytes, or -errno."""
Moves: TypeAlias = "asyncio.Future[list[int]]"
"""Of each, in order, bytes or -errno: one that failed must not hide the others."""
Piece: TypeAlias = tuple[int, Sequence[Buffer]]
"""Offset, and what lies there one after the other."""
Name: TypeAlias = tuple[int, str]
"""Below an open folder."""
FileToRead: TypeAlias = tuple[int, str, Caching, Sequence[Buffer]]
FileToWrite: TypeAlias = tuple[int, str, str, Caching, int, Sequence[Buffer]]
"""Folder, temporary, name, caching, how many bytes of the buffers."""

SETTLED_MAX = 512  # outcomes in one step of the loop, and those of one batch more


class NativeIo:
    """One engine, its batches answered on the loop it was made on."""

    def __init__(
        self,
        *,
        depth: int,
        threads: int,
        jobs_max: int,
        backend: IoBackend = IoBackend.AUTO,
        log: Log | None = None,
    ) -> None:
        """See `IoEngine`. Where io_uring is refused, `log` is told so, once for all that share it."""
        self._engine = IoEngine(depth=depth, threads=threads, jobs_max=jobs_max, backend=backend)
        self._jobs_max = jobs_max
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Moves] = {}  # by batch; at most jobs_max, and empty ones
        self._idle: asyncio.Future[None] | None = None  # of closing: set when no batch is left
        self._loop.add_reader(self._engine.event_fd, self._settle)
        if self._engine.backend_reason and log is not None:
            reason = self._engine.backend_reason
            log.warning_once("io_by_threads", reason, reason=reason, threads=threads)

    @property
    def backend(self) -> IoBackend:
        return self._engine.backend

    @property
    def backend_reason(self) -> str:
        """Why it is not io_uring; empty when it is, or was not wanted."""
        return self._engine.backend_reason

    @property
    def jobs(self) -> int:
        """Under way and waiting."""
        return self._engine.jobs

    # What is one too many is answered by -ENOBUFS, everything by -ECANCELED once this is closed.

    def read(self, fd: int, pieces: Sequence[Piece], hold: object) -> Moves:
        """Each into all of its buffers, or up to the end of the file."""
        return self._follow(len(pieces), self._engine.read, fd, pieces, hold)

    def write(self, fd: int, pieces: Sequence[Piece], hold: object) -> Moves:
        return self._follow(len(pieces), self._engine.write, fd, pieces, hold)

    def sync(self, fd: int) -> Moves:
        return self._follow(1, self._engine.sync, fd)

    def read_files(self, files: Sequence[FileToRead], hold: object) -> Moves:
        return self._follow(len(files), self._engine.read_files, files, hold)

    def write_files(
        self, files: Sequence[FileToWrite], durability: Durability, hold: object
    ) -> Moves:
        return self._follow(len(files), self._engine.write_files, files, durability, hold)

    def remove_files(self, names: Sequence[Name]) -> Moves:
        return self._follow(len(names), self._engine.remove_files, names)

    def stat_files(self, names: Sequence[Name]) -> Moves:
        """Their sizes."""
        return self._follow(len(names), self._engine.stat_files, names)

    def why(self, outcome: int) -> str:
        """What an outcome below zero says."""
        if outcome != -errno.ENOBUFS:
            return os.strerror(-outcome)
        return f"jobs_max = {self._jobs_max} are under way and waiting: ask for less at a time, or raise it"

    async def aclose(self) -> None:
        """Take no more jobs, cancel those under way, and wait until the last is over. Idempotent.

        Given up, it leaves the rest to a second call, or to the engine's end, which waits for a second and no longer:
        what is still under way then keeps its memory until the process ends.
        """
        self._engine.stop()
        while self._waiting:
            self._idle = self._idle or self._loop.create_future()
            await asyncio.shield(self._idle)
        self._loop.remove_reader(self._engine.event_fd)
        self._engine.close()

    def _follow(self, jobs: int, submit: Callable[[*Asked], int], *asked: *Asked) -> Moves:
        moved: Moves = self._loop.create_future()
        try:
            self._waiting[submit(*asked)] = moved
        except IoEngineClosed:
            moved.set_result([-errno.ECANCELED] * jobs)
        return moved

    def _settle(self) -> None:
        for batch, outcomes in self._engine.completed(SETTLED_MAX):
            moved = self._waiting.pop(batch)
            if not moved.done():  # else given up
                moved.set_result(outcomes)
        if self._idle is not None and not self._waiting:
            self._idle.set_result(None)
            self._idle = None
