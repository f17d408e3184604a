"""What a sender was granted of one push, and what it takes of that at a time."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(slots=True)
class Granted:
    """One part. `taken` of its needed objects were taken; `needed` are their places, ascending."""

    first_chunk: int
    chunks: int
    needed: tuple[int, ...]
    landing: bytes = field(repr=False)
    taken: int = 0  # <= len(needed)

    def slot_of(self, place: int) -> int:
        """Of the landing; -1: the object is not needed."""
        slot = bisect_left(self.needed, place)
        return slot if self.needed[slot : slot + 1] == (place,) else -1


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects of one part that are to be sent now. `slots`: of the landing, parallel to `places`."""

    landing: bytes = field(repr=False)
    places: tuple[int, ...]
    slots: tuple[int, ...]
