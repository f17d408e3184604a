"""Which slots of a raw device are free, and which object is where.

Both are made so that no single call takes long, however many slots and objects there are: free slots are found by a
search of bytes, and the index is in parts, so that none of them is ever rehashed or listed at length.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from penstock.actors.core.slot_format import RUNS_MAX, Run, key_of, sequence_of

_FREE, _TAKEN = b"\0", b"\1"
PARTS = 256


class SlotSpace:
    """The slots of one device. Taken from where the latest were taken on, so that writes go round the device."""

    def __init__(self, slots: int) -> None:
        assert slots >= 1, slots
        self._map = bytearray(slots)  # 0: free, 1: taken
        self._next = 0
        self.free = slots

    @property
    def slots(self) -> int:
        return len(self._map)

    def take(self, count: int) -> tuple[Run, ...] | None:
        """So many slots in as few runs as are found quickly; None: there are not so many, or in too many pieces."""
        assert count >= 1, count
        if count > self.free:
            return None
        runs: list[Run] = []
        piece = count
        while count and len(runs) < RUNS_MAX:
            piece = min(piece, count)
            first = self._find(piece)
            if first is None:
                piece = (piece + 1) // 2
                continue
            run = Run(first, piece)
            self._set(run, _TAKEN)
            runs.append(run)
            self._next = first + piece
            count -= piece
        if count:
            self.release(runs)
            return None
        return tuple(_joined(runs))

    def claim(self, runs: Sequence[Run]) -> bool:
        """Take these; False, having changed nothing, when one of them is taken or there is no such slot."""
        for number, (first, slots) in enumerate(runs):
            end = first + slots
            is_free = end <= len(self._map) and self._map.find(_TAKEN, first, end) < 0
            if not is_free or not slots:
                self.release(runs[:number])
                return False
            self._set(Run(first, slots), _TAKEN)
        return True

    def release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            assert self._map.find(_FREE, run.first, run.first + run.slots) < 0, run
            self._set(run, _FREE)

    def _find(self, count: int) -> int | None:
        wanted = _FREE * count
        first = self._map.find(wanted, self._next)
        if first < 0:
            first = self._map.find(wanted)
        return None if first < 0 else first

    def _set(self, run: Run, value: bytes) -> None:
        self._map[run.first : run.first + run.slots] = value * run.slots
        self.free += run.slots if value == _FREE else -run.slots


class SlotIndex:
    """Records of puts by key. A record is kept as it stands in the log, which the garbage collector never visits."""

    def __init__(self) -> None:
        self._parts: tuple[dict[bytes, bytes], ...] = tuple({} for _ in range(PARTS))
        self.objects = 0

    def get(self, key: bytes) -> bytes | None:
        return self._parts[key[0]].get(key)

    def put(self, record: bytes) -> bytes | None:
        """Returns the one it replaces."""
        key = key_of(record)
        part = self._parts[key[0]]
        before = part.get(key)
        part[key] = record
        self.objects += before is None
        return before

    def remove(self, key: bytes) -> bytes | None:
        """Returns what was there."""
        before = self._parts[key[0]].pop(key, None)
        self.objects -= before is not None
        return before

    def parts(self) -> Iterator[list[bytes]]:
        """All records as they are when each list is made."""
        for part in self._parts:
            yield [*part.values()]


def oldest_first(parts: Sequence[list[bytes]]) -> Iterator[bytes]:
    """Records by their sequence, of lists that are so each; every step of it is short."""
    return heapq.merge(*parts, key=sequence_of)


def _joined(runs: list[Run]) -> list[Run]:
    """In order, neighbours made one."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].first + joined[-1].slots == run.first:
            run = Run(joined[-1].first, joined[-1].slots + run.slots)  # noqa: PLW2901
            joined.pop()
        joined.append(run)
    return joined
