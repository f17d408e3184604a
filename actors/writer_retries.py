"""What one store could not take, and waits to be tried again: by name only, and within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from penstock.actors.api.types import Shape
from penstock.actors.core.backoff import Backoff
from penstock.actors.load_targets import whole_pages
from penstock.actors.writer_books import name_of
from penstock.actors.writer_queue import Waiting


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Of one store. What exceeds any of them has finally failed."""

    objects_max: int  # that wait for it
    bytes_max: (
        int  # of L1, theirs; only staging keeps them there. One larger waits alone; 0: none does
    )
    within_s: float  # since it failed first
    pause_s: float  # before the first try; doubled each time
    pause_s_max: float


@dataclass(frozen=True, slots=True)
class _Failing:
    shape: Shape
    key: bytes
    slot: int
    ends_s: float


class Retries:
    """Belongs to a lane. Times are those of the loop."""

    def __init__(self, limits: RetryLimits, *, draw: Callable[[], float]) -> None:
        self.queue = Waiting()
        self._limits = limits
        self._failing: dict[bytes, _Failing] = {}  # by name, oldest first: waits, or is tried now
        self._last: set[bytes] = set()  # tried for the last time: their time is over
        self._backoff = Backoff(pause_s=limits.pause_s, pause_s_max=limits.pause_s_max, draw=draw)

    def add(self, shape: Shape, key: bytes, slot: int, now: float) -> bool:
        """It could not be saved. False: that is final."""
        name, queue = name_of(key, slot), self.queue
        if name in self._last or not self._has_room(whole_pages(shape.slots[slot].bytes)):
            return False
        ends_s = now + self._limits.within_s
        self._failing.setdefault(name, _Failing(shape, key, slot, ends_s))
        queue.add(shape, key, slot, now)
        self._backoff.failed(now)
        return True

    def _has_room(self, more_bytes: int) -> bool:
        """A place of many has a small part of the budget: less than an object, but one may wait for it."""
        queue, limits = self.queue, self._limits
        if not queue.objects:
            return limits.objects_max > 0 and limits.bytes_max > 0
        return (
            queue.objects < limits.objects_max and queue.size_bytes + more_bytes <= limits.bytes_max
        )

    def knows(self, name: bytes) -> bool:
        """Whether it has failed before."""
        return name in self._failing or name in self._last

    def forget(self, name: bytes) -> None:
        """It is settled."""
        self._failing.pop(name, None)
        self._last.discard(name)

    def is_due(self, now: float) -> bool:
        """Whether the first of them may be tried."""
        return bool(self.queue.objects) and now >= self._backoff.until_s

    def tried(self, now: float) -> None:
        """Some of them are, now; until that works the others wait for a pause."""
        self._backoff.tried(now)

    def worked(self, names: Iterable[bytes], now: float) -> None:
        """These were saved."""
        if any(map(self.knows, names)):
            self._backoff.over()
        else:
            self._backoff.eased(now)

    def pop_old(self, now: float, *, objects_max: int) -> list[_Failing]:
        """Take out those that wait, and whose time is over."""
        old: list[_Failing] = []
        while self._failing and len(old) < objects_max:
            name, first = next(iter(self._failing.items()))
            if first.ends_s > now:
                break
            del self._failing[name]
            if self.queue.remove(first.shape, first.key, first.slot):
                old.append(first)
            else:
                self._last.add(name)
        return old

    def wakes_s(self, now: float) -> float:
        """How long until some may be tried, or have to be given up."""
        times = [one.ends_s for one in islice(self._failing.values(), 1)]
        if self.queue.objects and self._backoff.until_s > now:
            times.append(self._backoff.until_s)
        return max(0.0, min(times, default=math.inf) - now)
