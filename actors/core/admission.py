"""Who may use a store now: loads before saves, and never more at once than was configured.

    enter() -> WAITING --its turn--> RUNNING --leave()--> gone
                  '------leave(): it waits no more-------'

- Loads start in the order they came in, at most `loads_max` at a time.
- Saves start only while no load waits, at most `saves_max` at a time; but one save always may, so that a store that
  is read all the time is written, too.
- All that run have at most `bytes_max`. The first load and the first save go beyond it: neither waits for ever for
  room that the other takes, and a batch that is larger than the bound goes alone.

Pure: it says who starts, its shell wakes them.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from penstock.actors.api.errors import StoreBusy


class Work(enum.Enum):
    LOAD = "load"
    SAVE = "save"


class Phase(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    loads_max: int
    saves_max: int
    bytes_max: int
    waiting_max: int  # of each kind


@dataclass(slots=True, eq=False)
class Entry:
    """One batch. Changed by `Admission` alone."""

    work: Work
    bytes: int
    phase: Phase = Phase.WAITING


class Admission:
    def __init__(self, limits: AdmissionLimits) -> None:
        assert min(limits.loads_max, limits.saves_max, limits.bytes_max, limits.waiting_max) >= 1
        self._limits = limits
        self._queues: dict[Work, deque[Entry]] = {work: deque() for work in Work}
        self._running: dict[Work, dict[Entry, None]] = {work: {} for work in Work}
        self._running_bytes = 0
        self._waiting_bytes = dict.fromkeys(Work, 0)

    def enter(self, work: Work, size_bytes: int) -> Entry:
        """One more batch; it may be RUNNING at once. Raises StoreBusy, and it has not entered."""
        queue = self._queues[work]
        if len(queue) >= self._limits.waiting_max:
            raise StoreBusy(
                f"{len(queue)} {work.value}s wait for this store already: send less, or raise"
                " waiting_max"
            )
        entry = Entry(work, size_bytes)
        queue.append(entry)
        self._waiting_bytes[work] += size_bytes
        self._start()
        return entry

    def leave(self, entry: Entry) -> list[Entry]:
        """It is done, or waits no more. Returns those that may start now."""
        if entry.phase is Phase.RUNNING:
            del self._running[entry.work][entry]
            self._running_bytes -= entry.bytes
        elif entry.phase is Phase.WAITING:
            self._queues[entry.work].remove(entry)
            self._waiting_bytes[entry.work] -= entry.bytes
        entry.phase = Phase.GONE
        return self._start()

    def waiting(self, work: Work) -> int:
        return len(self._queues[work])

    def running(self, work: Work) -> int:
        return len(self._running[work])

    def load_bytes(self) -> int:
        """Bytes of all loads, waiting and running."""
        running = sum(entry.bytes for entry in self._running[Work.LOAD])
        return running + self._waiting_bytes[Work.LOAD]

    def _start(self) -> list[Entry]:
        started = []
        for work, may_start in (
            (Work.LOAD, self._load_may_start),
            (Work.SAVE, self._save_may_start),
        ):
            queue = self._queues[work]
            while queue and may_start(queue[0]):
                entry = queue.popleft()
                entry.phase = Phase.RUNNING
                self._running[work][entry] = None
                self._running_bytes += entry.bytes
                self._waiting_bytes[work] -= entry.bytes
                started.append(entry)
        return started

    def _load_may_start(self, entry: Entry) -> bool:
        running = len(self._running[Work.LOAD])
        return running == 0 or (running < self._limits.loads_max and self._fits(entry))

    def _save_may_start(self, entry: Entry) -> bool:
        running = len(self._running[Work.SAVE])
        if running == 0:
            return True
        may_more = running < self._limits.saves_max and not self._queues[Work.LOAD]
        return may_more and self._fits(entry)

    def _fits(self, entry: Entry) -> bool:
        return self._running_bytes + entry.bytes <= self._limits.bytes_max

    def validate(self) -> None:
        """Raises AssertionError if an invariant does not hold."""
        limits = self._limits
        assert len(self._running[Work.LOAD]) <= limits.loads_max
        assert len(self._running[Work.SAVE]) <= limits.saves_max
        running = [entry for kind in self._running.values() for entry in kind]
        assert self._running_bytes == sum(entry.bytes for entry in running)
        assert all(entry.phase is Phase.RUNNING for entry in running)
        for work, queue in self._queues.items():
            assert len(queue) <= limits.waiting_max
            assert self._waiting_bytes[work] == sum(entry.bytes for entry in queue)
            assert all(entry.phase is Phase.WAITING for entry in queue)
            assert not queue or self._running[work], "somebody waits for nobody"
