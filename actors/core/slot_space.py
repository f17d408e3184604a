"""Which slots of a raw device are free, and which object is where.

Both are made so that no single call takes long, however many slots and objects there are: free slots are found by a
search of few bytes, where a longer one would be in vain, and the index is in parts, so that none of them is ever
rehashed or listed at length.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator, Sequence

from penstock.actors.core.slot_format import RUNS_MAX, Run, key_of, sequence_of

_FREE, _TAKEN = b"\0", b"\1"
PARTS = 256
ZONE_SLOTS = 4096  # at least; there are at most ZONES_MAX of them
ZONES_MAX = 2048
SEARCHED_MAX = 32  # zones searched for one piece, before a smaller one will do


class SlotSpace:
    """The slots of one device. Taken from where the latest were taken on, so that writes go round the device.

    Of each zone is known how many of its slots are free, and how long a free run that begins in it may be at most: what
    was looked for in vain is not looked for again before something was released there.
    """

    def __init__(self, slots: int) -> None:
        assert slots >= 1, slots
        self._map = bytearray(slots)  # 0: free, 1: taken
        self._next = 0
        self.free = slots
        self._zone_slots = max(ZONE_SLOTS, -(-slots // ZONES_MAX))
        zones = -(-slots // self._zone_slots)
        self._free_in = array("q", [self._zone_slots]) * zones
        self._free_in[-1] -= zones * self._zone_slots - slots
        self._longest_in = array("q", [slots]) * zones

    @property
    def slots(self) -> int:
        return len(self._map)

    def take(self, count: int) -> tuple[Run, ...] | None:
        """So many slots in as few runs as are found quickly; None: there are not so many, or, for all that was found
        out until now, in too many pieces."""
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
        return tuple(_joined(runs)) if len(runs) > 1 else tuple(runs)

    def take_row(self, count: int) -> int | None:
        """The first of so many slots that stand one after the other; None: no such row was found quickly."""
        assert count >= 1, count
        first = self._find(count) if count <= self.free else None
        if first is not None:
            self._set(Run(first, count), _TAKEN)
            self._next = first + count
        return first

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
        zones = len(self._free_in)
        here = min(self._next // self._zone_slots, zones - 1)
        searched = 0
        for step in range(zones + 1):
            zone = (here + step) % zones
            if self._longest_in[zone] < count or not self._free_in[zone]:
                continue
            begin = zone * self._zone_slots
            start = begin if step else max(begin, self._next)
            first = self._map.find(wanted, start, begin + self._zone_slots + count - 1)
            if first >= 0:
                return first
            if start == begin:
                self._longest_in[zone] = count - 1
            searched += 1
            if searched == SEARCHED_MAX:
                break
        return None

    def _set(self, run: Run, value: bytes) -> None:
        first, end = run.first, run.first + run.slots
        self._map[first:end] = value * run.slots
        sign = 1 if value == _FREE else -1
        self.free += sign * run.slots
        for zone in range(first // self._zone_slots, (end - 1) // self._zone_slots + 1):
            begin = zone * self._zone_slots
            part = min(end, begin + self._zone_slots) - max(first, begin)
            self._free_in[zone] += sign * part
            if sign > 0:
                self._longest_in[zone] = len(self._map)
        if sign > 0:
            self._may_be_longer_before(first // self._zone_slots)

    def _may_be_longer_before(self, zone: int) -> None:
        """Runs that begin in zones before it may reach into it."""
        while zone > 0:
            zone -= 1
            self._longest_in[zone] = len(self._map)
            if self._free_in[zone] < self._zone_slots:
                return


class SlotIndex:
    """Records of puts by key. A record is kept as it stands in the log, which the garbage collector never visits."""

    def __init__(self) -> None:
        self._parts: tuple[dict[bytes, bytes], ...] = tuple({} for _ in range(PARTS))
        self.objects = 0

    def get(self, key: bytes) -> bytes | None:
        return self._parts[key[0]].get(key)

    def get_all(self, keys: Sequence[bytes]) -> list[bytes | None]:
        parts = self._parts
        return [parts[key[0]].get(key) for key in keys]

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
