"""What a folder's disk gives who reads objects from it with nothing around: past the page cache, whole files."""

from __future__ import annotations

import mmap
import os
import select
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock._native import Caching, IoEngine
from penstock.actors.stores.store import BLOCK_BYTES

DEPTH = 64  # as a file store has it unless it is told otherwise


class BareReader:
    """Of these files below `folder`, one after the other: no disk has the next one at hand."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Raises OSError."""
        self._folder, self._next = os.open(folder, os.O_RDONLY), cycle(names)
        size = (folder / names[0]).stat().st_size
        memory = mmap.mmap(-1, -(-size // BLOCK_BYTES) * BLOCK_BYTES)
        memory.write(bytes(len(memory)))  # its pages are there
        self._memory = memoryview(memory)
        self._engine = (
            IoEngine()
        )  # with the depth that a file store has unless it is told otherwise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.close()
        os.close(self._folder)

    def one_us(self) -> float:
        """Opening and reading the next one, nothing else under way."""
        begin = time.perf_counter()
        fd = os.open(next(self._next), os.O_RDONLY | os.O_DIRECT, dir_fd=self._folder)
        moved = os.preadv(fd, [self._memory], 0)
        os.close(fd)
        seconds = time.perf_counter() - begin
        assert moved == len(self._memory), moved
        return seconds * 1e6

    def first_of_all_us(self) -> float:
        """As many as the engine has under way asked for at once: until the first one asked for is there."""
        begin = time.perf_counter()
        files = [
            (self._folder, name, Caching.DIRECT, [self._memory])
            for name in islice(self._next, DEPTH)
        ]
        jobs = [self._engine.read_files([one], None) for one in files]
        left, first_us = set(jobs), 0.0
        while left:
            select.select([self._engine.event_fd], [], [])
            for job, moved in self._engine.completed(len(jobs)):
                assert moved == [len(self._memory)], moved
                left.discard(job)
            if jobs[0] not in left:
                first_us = first_us or (time.perf_counter() - begin) * 1e6
        return first_us
