"""What waits to be saved to one store: by name only, chunk by chunk, oldest first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import compress

from penstock.actors.api.types import GeometryId, Shape
from penstock.actors.load_targets import whole_pages
from penstock.actors.writer_routes import Row


@dataclass(slots=True)
class Queued:
    """Objects of one chunk that wait. `slots` None: whatever is resident of those of `row` when it is borrowed."""

    shape: Shape
    slots: set[int] | None
    since_s: float  # since when the first of them waits
    row: Row = b""  # of a whole chunk

    @property
    def objects(self) -> int:
        """One, of an unknown number."""
        return 1 if self.slots is None else len(self.slots)

    def size_bytes(self) -> int:
        """Of the arena."""
        slots = self.shape.slots
        if self.slots is None:
            return sum(whole_pages(one.bytes) for one in compress(slots, self.row))
        return sum(whole_pages(slots[slot].bytes) for slot in self.slots)

    def wanted(self) -> Row:
        """Which slots of it to borrow."""
        if self.slots is None:
            return self.row
        return bytes([slot in self.slots for slot in range(len(self.shape.slots))])


class Waiting:
    """Bounded by whoever adds to it. A queue has single objects or whole chunks, never both of one chunk."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[tuple[GeometryId, bytes], Queued] = OrderedDict()
        self.objects = 0
        self.size_bytes = 0  # of the arena

    def add(self, shape: Shape, key: bytes, slot: int, since_s: float) -> None:
        """One object, which is not in it."""
        queued = self._chunks.setdefault((shape.geometry, key), Queued(shape, set(), since_s))
        assert queued.slots is not None
        queued.slots.add(slot)
        self.objects += 1
        self.size_bytes += whole_pages(shape.slots[slot].bytes)

    def add_chunk(self, shape: Shape, key: bytes, row: Row, since_s: float) -> None:
        """All of these slots of a chunk, unless any of it is in it."""
        if (shape.geometry, key) not in self._chunks:
            queued = self._chunks[shape.geometry, key] = Queued(shape, None, since_s, row)
            self.objects += queued.objects
            self.size_bytes += queued.size_bytes()

    def has(self, shape: Shape, key: bytes, slot: int) -> bool:
        queued = self._chunks.get((shape.geometry, key))
        return queued is not None and (queued.slots is None or slot in queued.slots)

    def remove(self, shape: Shape, key: bytes, slot: int) -> bool:
        """Whether it was in it by its own name."""
        queued = self._chunks.get((shape.geometry, key))
        if queued is None or queued.slots is None or slot not in queued.slots:
            return False
        queued.slots.remove(slot)
        self.objects -= 1
        self.size_bytes -= whole_pages(shape.slots[slot].bytes)
        if not queued.slots:
            del self._chunks[shape.geometry, key]
        return True

    def first(self) -> tuple[bytes, Queued] | None:
        """A chunk's key, and what waits of it."""
        for (_, key), queued in self._chunks.items():
            return key, queued
        return None

    def pop(self) -> None:
        """Take the first one out."""
        _, queued = self._chunks.popitem(last=False)
        self.objects -= queued.objects
        self.size_bytes -= queued.size_bytes()

    def pop_old(
        self, now: float, *, within_s: float, chunks_max: int
    ) -> list[tuple[bytes, Queued]]:
        """Take out those at the front that have waited for so long."""
        old: list[tuple[bytes, Queued]] = []
        while len(old) < chunks_max:
            first = self.first()
            if first is None or first[1].since_s + within_s > now:
                break
            old.append(first)
            self.pop()
        return old
