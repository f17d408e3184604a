"""The native I/O engine on an event loop: each job is a future of the bytes it moved.

    io = NativeIo(depth=64, threads=4, jobs_max=4096)
    moved = await io.read(fd, 0, [buffer], hold)         # bytes, or -errno
    answers = await all_of([io.read_file(...), io.read_file(...)])

A future that is given up changes nothing for its job: buffers and `hold` live until the system is done with them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from typing_extensions import Buffer

from penstock._native import Caching, Durability, IoBackend, IoEngine, IoEngineClosed, IoEngineFull
from penstock.runtime.errors import CapacityError, UnavailableError
from penstock.runtime.log import Log

Moved: TypeAlias = "asyncio.Future[int]"
"""Bytes, or -errno: many are waited for together, and one that failed must not hide the others."""
Submit: TypeAlias = Callable[[], int]


SETTLED_MAX = 512  # jobs in one step of the loop


class IoBusy(CapacityError):
    """Nobody's: as many jobs are under way and waiting as `jobs_max` allows."""


class IoClosed(UnavailableError):
    """Ours: the engine was closed."""


class NativeIo:
    """One engine, its jobs answered on the loop it was made on."""

    def __init__(
        self,
        *,
        depth: int,
        threads: int,
        jobs_max: int,
        backend: IoBackend = IoBackend.AUTO,
        log: Log | None = None,
    ) -> None:
        """See `IoEngine`. Where io_uring is refused, `log` is told so, once."""
        self._engine = IoEngine(depth=depth, threads=threads, jobs_max=jobs_max, backend=backend)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Moved] = {}  # by job; at most jobs_max
        self._idle: asyncio.Future[None] | None = None  # of closing: set when no job is left
        self._loop.add_reader(self._engine.event_fd, self._settle)
        if self._engine.backend_reason and log is not None:
            log.warning("io_by_threads", reason=self._engine.backend_reason, threads=threads)

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

    # All of these raise IoBusy and IoClosed.

    def read(self, fd: int, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved:
        """Into all of `buffers`, or up to the end of the file."""
        return self._follow(lambda: self._engine.read(fd, offset, buffers, hold))

    def write(self, fd: int, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved:
        return self._follow(lambda: self._engine.write(fd, offset, buffers, hold))

    def sync(self, fd: int) -> Moved:
        return self._follow(lambda: self._engine.sync(fd))

    def read_file(
        self,
        directory: int,
        name: str,
        buffers: Sequence[Buffer],
        *,
        caching: Caching,
        hold: object,
    ) -> Moved:
        return self._follow(
            lambda: self._engine.read_file(directory, name, buffers, caching=caching, hold=hold)
        )

    def write_file(
        self,
        directory: int,
        temporary: str,
        name: str,
        buffers: Sequence[Buffer],
        *,
        size_bytes: int,
        caching: Caching,
        durability: Durability,
        hold: object,
    ) -> Moved:
        return self._follow(
            lambda: self._engine.write_file(
                directory,
                temporary,
                name,
                buffers,
                bytes=size_bytes,
                caching=caching,
                durability=durability,
                hold=hold,
            )
        )

    def remove_file(self, directory: int, name: str) -> Moved:
        return self._follow(lambda: self._engine.remove_file(directory, name))

    def stat_file(self, directory: int, name: str) -> Moved:
        """Its size."""
        return self._follow(lambda: self._engine.stat_file(directory, name))

    async def aclose(self) -> None:
        """Take no more jobs, cancel those under way, and wait until the last is over. Idempotent.

        Given up, it leaves the rest to a second call, or to the engine's end, which waits for a second and no longer:
        what is still under way then keeps its memory until the process ends.
        """
        self._engine.stop()
        while self._engine.jobs:
            self._idle = self._idle or self._loop.create_future()
            await asyncio.shield(self._idle)
        self._loop.remove_reader(self._engine.event_fd)
        self._engine.close()

    def _follow(self, submit: Submit) -> Moved:
        try:
            job = submit()
        except IoEngineFull as refusal:
            raise IoBusy(str(refusal)) from None
        except IoEngineClosed as refusal:
            raise IoClosed(str(refusal)) from None
        moved: Moved = self._loop.create_future()
        self._waiting[job] = moved
        return moved

    def _settle(self) -> None:
        for job, outcome in self._engine.completed(SETTLED_MAX):
            moved = self._waiting.pop(job)
            if not moved.done():  # else given up
                moved.set_result(outcome)
        if self._idle is not None and not self._engine.jobs:
            self._idle.set_result(None)
            self._idle = None


async def all_of(moved: Sequence[Moved]) -> list[int]:
    """The outcomes of all, in order."""
    return [await one for one in moved]


def checked(outcome: int) -> int:
    """`outcome`, or the OSError it stands for."""
    if outcome < 0:
        raise OSError(-outcome, os.strerror(-outcome))
    return outcome
