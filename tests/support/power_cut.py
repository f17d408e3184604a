"""A disk in memory that records what was asked of it, and shows what a power cut at any moment may leave.

    disk = RecordingDisk(bytes(size), draw)
    ... a store over it ...
    for at in disk.moments():
        image = disk.image(at, Leaving.SECTORS)      # another RecordingDisk is made of it

The model. A write that has ended is in a volatile cache: it is read at once, and durable once a sync that began after
its end has ended, or at its own end if it was written through (FUA). Of all other writes that had begun a cut leaves
any, in any order, and of each any of its sectors of 512 bytes: a sector is never torn. A moment is a beginning or an
end of a transfer, so there is one on both sides of every boundary between writes.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from typing_extensions import Buffer

from penstock.actors.stores.discards import Span
from penstock.actors.stores.native_io import Moved, Moves, Piece

SECTOR_BYTES = 512
HOPS_MAX = 4  # turns of the loop that a transfer takes
NEVER = 1 << 62


class Leaving(enum.Enum):
    """What a cut leaves of writes that are not durable."""

    NOTHING = "none of them"
    ALL = "all of them"
    WRITES = "some, whole, in any order"
    SECTORS = "some sectors of each, in any order"


@dataclass(slots=True)
class Write:
    offset: int
    data: bytes
    begun: int
    is_through: bool = False
    ended: int = NEVER


@dataclass(slots=True)
class Sync:
    begun: int
    ended: int = NEVER


class RecordingDisk:
    """A `Device`. Transfers take a random number of turns of the loop, and so overtake each other."""

    def __init__(self, image: bytes, draw: random.Random, *, name: str = "disk") -> None:
        self.name = name
        self.size_bytes = len(image)
        self.clock = 0
        self.writes: list[Write] = []
        self.syncs: list[Sync] = []
        self.discards: list[Span] = []
        self._first = image
        self._now = bytearray(image)
        self._draw = draw
        self._moving: list[tuple[int, int]] = []  # from where to where, of transfers under way
        self._discarding: list[tuple[int, int]] = []

    def read(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return asyncio.gather(*(self.read_one(*piece) for piece in pieces))

    def write(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return asyncio.gather(*(self.write_one(*piece) for piece in pieces))

    def write_first(self, pieces: Sequence[Piece], hold: object) -> Moves:
        return self.write(pieces, hold)

    def sync(self) -> Moves:
        return asyncio.gather(self.sync_all())

    def read_one(self, offset: int, buffers: Sequence[Buffer]) -> Moved:
        def end() -> int:
            at = offset
            for view in map(memoryview, buffers):
                part = self._now[at : at + len(view)]
                view[: len(part)] = part
                at += len(view)
            return min(at, self.size_bytes) - offset

        return self._moved(offset, sum(len(memoryview(one)) for one in buffers), end)

    def write_one(self, offset: int, buffers: Sequence[Buffer]) -> Moved:
        return self._write(offset, buffers, is_through=False)

    def write_through(self, offset: int, buffers: Sequence[Buffer]) -> Moved:
        """As FUA: durable when it ends."""
        return self._write(offset, buffers, is_through=True)

    def sync_all(self) -> Moved:
        made = Sync(self._tick())
        self.syncs.append(made)

        def end() -> int:
            made.ended = self._tick()
            return 0

        return self._later(end)

    def discard(self, spans: Sequence[Span]) -> Moved:
        """As writes of other bytes. Raises AssertionError where something is transferred, as transfers do where
        something is discarded."""
        ranges = [(offset, offset + size) for offset, size in spans]
        assert not self._discarding, "one at a time"
        assert not any(_meet(one, other) for one in ranges for other in self._moving)
        self._discarding = ranges
        self.discards += spans
        made = [Write(at, b"\xdd" * (end - at), self._tick()) for at, end in ranges]
        self.writes += made

        def end() -> int:
            for write in made:
                write.ended = self._tick()
                self._now[write.offset : write.offset + len(write.data)] = write.data
            self._discarding = []
            return 0

        return self._later(end)

    def close(self) -> None:
        """There is nothing to let go of."""

    # After the cut.

    def moments(self) -> range:
        """At which the power may be cut."""
        return range(self.clock + 1)

    def image(self, at: int, leaving: Leaving, draw: random.Random | None = None) -> bytes:
        """What the disk may have on it when it has power again."""
        draw = draw or self._draw
        flushed = max((sync.begun for sync in self.syncs if sync.ended <= at), default=-1)
        image = bytearray(self._first)
        volatile: list[Write] = []
        for write in sorted(self.writes, key=lambda one: min(one.ended, at + 1)):
            if write.begun > at:
                continue
            if write.ended <= flushed or (write.is_through and write.ended <= at):
                image[write.offset : write.offset + len(write.data)] = write.data
            else:
                volatile.append(write)
        match leaving:
            case Leaving.NOTHING:
                volatile = []
            case Leaving.WRITES:
                volatile = [write for write in volatile if draw.random() < 0.5]
                draw.shuffle(volatile)
            case Leaving.SECTORS:
                draw.shuffle(volatile)
        for write in volatile:
            for start in range(0, len(write.data), SECTOR_BYTES):
                if leaving is not Leaving.SECTORS or draw.random() < 0.5:
                    part = write.data[start : start + SECTOR_BYTES]
                    image[write.offset + start : write.offset + start + len(part)] = part
        return bytes(image)

    def now(self) -> bytes:
        """What it would have if it were only the process that ended."""
        return bytes(self._now)

    def _write(self, offset: int, buffers: Sequence[Buffer], *, is_through: bool) -> Moved:
        data = b"".join(bytes(memoryview(one)) for one in buffers)
        assert offset % SECTOR_BYTES == 0
        assert len(data) % SECTOR_BYTES == 0
        assert 0 <= offset <= offset + len(data) <= self.size_bytes, (offset, len(data))
        made = Write(offset, data, self._tick(), is_through)
        self.writes.append(made)

        def end() -> int:
            made.ended = self._tick()
            self._now[offset : offset + len(data)] = data
            return len(data)

        return self._moved(offset, len(data), end)

    def _moved(self, offset: int, size: int, end: Callable[[], int]) -> Moved:
        place = offset, offset + size
        assert not any(_meet(place, other) for other in self._discarding)
        self._moving.append(place)

        def over() -> int:
            self._moving.remove(place)
            return end()

        return self._later(over)

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def _later(self, end: Callable[[], int]) -> Moved:
        loop = asyncio.get_running_loop()
        moved: Moved = loop.create_future()

        def hop(left: int) -> None:
            if left:
                loop.call_soon(hop, left - 1)
                return
            outcome = end()
            if not moved.done():
                moved.set_result(outcome)

        loop.call_soon(hop, self._draw.randrange(HOPS_MAX))
        return moved


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]
