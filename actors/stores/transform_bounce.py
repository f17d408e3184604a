"""Memory between arena and medium, for bytes that are on their way from one form to another."""

from __future__ import annotations

import asyncio
import mmap
from bisect import insort
from collections import deque
from contextlib import suppress

from penstock.actors.stores.header import whole_blocks

Extent = tuple[int, int]  # first byte, and the one after the last


class Room:
    """A part of it, whole blocks. It is given back when nobody refers to it any more, on whatever thread that is: a
    store may go on reading or writing what whoever waited has given up."""

    def __init__(self, pool: Bounce, extent: Extent, memory: memoryview) -> None:
        self.memory = memory
        self._pool = pool
        self._extent = extent

    def __del__(self) -> None:
        self._pool.returned(self._extent)


class Bounce:
    """`bytes_max` bytes, one mapping, given out in the order they are asked for. Belongs to the running loop."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = whole_blocks(bytes_max)
        self._memory: memoryview | None = None  # mapped at first use
        self._free: list[Extent] = [(0, self._bytes_max)]  # sorted, none next to another
        self._waiting: deque[tuple[int, asyncio.Future[Room]]] = deque()
        self._loop = asyncio.get_running_loop()

    @property
    def bytes_max(self) -> int:
        return self._bytes_max

    @property
    def free_bytes(self) -> int:
        return sum(end - start for start, end in self._free)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def take(self, size_bytes: int) -> Room:
        """So much of it, in one piece; whoever asked before comes first. At most `bytes_max`."""
        size = whole_blocks(size_bytes)
        assert size <= self._bytes_max, (size, self._bytes_max)
        if not self._waiting and (room := self._cut(size)) is not None:
            return room
        future: asyncio.Future[Room] = self._loop.create_future()
        entry = size, future
        self._waiting.append(entry)
        try:
            return await future
        finally:
            if entry in self._waiting:  # given up
                self._waiting.remove(entry)
                self._serve()

    def returned(self, extent: Extent) -> None:
        """By a room that nobody has any more. Any thread, and between any two steps of this one."""
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._give_back, extent)

    def release(self) -> None:
        """Unmap it, unless some of it is still in use: then it goes with the last room. May take milliseconds."""
        memory, self._memory = self._memory, None
        if memory is not None:
            mapped = memory.obj
            memory.release()
            assert isinstance(mapped, mmap.mmap)
            with suppress(BufferError):
                mapped.close()

    def _cut(self, size: int) -> Room | None:
        """The first piece that is large enough."""
        if self._memory is None:
            self._memory = memoryview(mmap.mmap(-1, self._bytes_max))
        for at, (start, end) in enumerate(self._free):
            if end - start >= size:
                if end - start == size:
                    del self._free[at]
                else:
                    self._free[at] = start + size, end
                return Room(self, (start, start + size), self._memory[start : start + size])
        return None

    def _give_back(self, extent: Extent) -> None:
        insort(self._free, extent)
        joined: list[Extent] = []
        for start, end in self._free:
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((start, end))
        self._free = joined
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size, future = self._waiting[0]
            if not future.done():
                room = self._cut(size)
                if room is None:
                    return
                future.set_result(room)
            self._waiting.popleft()
