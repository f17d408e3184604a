"""Who may use a store now: loads before saves, and never more at once than was configured.

    enter() -> WAITING --its turn--> RUNNING --give_up()--> GIVEN_UP --leave()--> gone
                  |                     '----------leave()------------------------'
                  '------leave(): it waits no more--------------------------------'

- Loads start in the order they came in, at most `loads_max` at a time.
- Saves start only while no load waits, at most `saves_max` at a time; but one save always may, so that a store that
  is read all the time is written, too.
- Of several places of a medium, which may hang each by itself, each may have one save, whatever waits or runs, and has
  an equal part of `saves_max`, `bytes_max` and `waiting_max` for its saves. What has to wait for its own place keeps no
  other from starting.
- All that run have at most `bytes_max`. The first load, and the first save to each place, go beyond it: none waits for
  ever for room that another takes, and a batch that is larger than the bound goes alone.
- What was given up has no place any more, but its bytes until it leaves: a store that hangs may still touch them.
  Loads that do not fit beside them are refused, so that a store that hangs is not given ever more memory.

Pure: it says who starts, its shell wakes them.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

from penstock.actors.api.errors import StoreBusy, StoreClogged


class Work(enum.Enum):
    LOAD = "load"
    SAVE = "save"

    __hash__ = (
        object.__hash__
    )  # each is one object; by its name, in Python, takes four times as long


class Phase(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    GIVEN_UP = "given up"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    loads_max: int
    saves_max: int
    bytes_max: int
    waiting_max: int  # of each kind
    places: int = 1  # of the medium

    @property
    def places_at_most(self) -> int:
        """What goes to several at once counts as one more."""
        return self.places + (self.places > 1)

    @property
    def all_saves_max(self) -> int:
        """Of all places together. One more may run that goes to several."""
        return max(self.saves_max, self.places)

    @property
    def place_saves_max(self) -> int:
        return max(1, self.saves_max // self.places)

    @property
    def place_bytes_max(self) -> int:
        return self.bytes_max // self.places

    @property
    def place_waiting_max(self) -> int:
        return max(1, self.waiting_max // self.places)


@dataclass(slots=True, eq=False)
class Entry:
    """One batch. Changed by `Admission` alone."""

    work: Work
    bytes: int
    place: int = 0  # of a save: where it goes
    phase: Phase = Phase.WAITING


class Admission:
    def __init__(self, limits: AdmissionLimits) -> None:
        assert min(limits.loads_max, limits.saves_max, limits.bytes_max, limits.waiting_max) >= 1
        self._limits = limits
        self._queues: dict[Work, deque[Entry]] = {work: deque() for work in Work}
        self._running: dict[Work, dict[Entry, None]] = {work: {} for work in Work}
        self._running_bytes = 0
        self._given_up: dict[Entry, None] = {}
        self._given_up_bytes = 0
        self._waiting_bytes = dict.fromkeys(Work, 0)
        self._waiting_at = Counter[int]()  # saves, by place
        self._saving_at: dict[int, dict[Entry, None]] = defaultdict(dict)  # of those that run

    def enter(self, work: Work, size_bytes: int, place: int = 0) -> Entry:
        """One more batch; it may be RUNNING at once. Raises StoreBusy, StoreClogged, and it has not entered."""
        queue = self._queues[work]
        if len(queue) >= self._limits.waiting_max:
            raise StoreBusy(
                f"{len(queue)} {work.value}s wait for this store already: send less, or raise"
                " waiting_max"
            )
        if work is Work.SAVE and self._waiting_at[place] >= self._limits.place_waiting_max:
            raise StoreBusy(
                f"{self._waiting_at[place]} saves wait for one path or device already: send less, or"
                " raise waiting_max"
            )
        if work is Work.LOAD and self._is_clogged(size_bytes):
            raise StoreClogged(
                f"{self._given_up_bytes} bytes of loads that were given up are still with this store,"
                f" {size_bytes} more are over inflight_bytes_max: wait until it answers"
            )
        entry = Entry(work, size_bytes, place)
        queue.append(entry)
        self._waiting_bytes[work] += size_bytes
        if work is Work.SAVE:
            self._waiting_at[place] += 1
        self._start()
        return entry

    def leave(self, entry: Entry) -> list[Entry]:
        """It is done, or waits no more. Returns those that may start now."""
        if entry.phase is Phase.RUNNING:
            self._stop(entry)
        elif entry.phase is Phase.GIVEN_UP:
            del self._given_up[entry]
            self._given_up_bytes -= entry.bytes
        elif entry.phase is Phase.WAITING:
            self._unqueue(entry)
        entry.phase = Phase.GONE
        return self._start()

    def give_up(self, entry: Entry) -> list[Entry]:
        """It runs, and nobody waits for it any more; it is to leave once its bytes are free. Returns those that may
        start now."""
        assert entry.phase is Phase.RUNNING, entry
        self._stop(entry)
        entry.phase = Phase.GIVEN_UP
        self._given_up[entry] = None
        self._given_up_bytes += entry.bytes
        return self._start()

    def is_open(self, size_bytes: int) -> bool:
        """Whether a load of so many bytes would start at once."""
        entry = Entry(Work.LOAD, size_bytes)
        return not self._queues[Work.LOAD] and self._load_may_start(entry)

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
        loads = self._queues[Work.LOAD]
        while loads and self._load_may_start(loads[0]):
            started.append(self._run(loads[0]))
        while (save := self._next_save()) is not None:
            started.append(self._run(save))
        return started

    def _run(self, entry: Entry) -> Entry:
        self._unqueue(entry)
        entry.phase = Phase.RUNNING
        self._running[entry.work][entry] = None
        self._running_bytes += entry.bytes
        if entry.work is Work.SAVE:
            self._saving_at[entry.place][entry] = None
        return entry

    def _unqueue(self, entry: Entry) -> None:
        self._queues[entry.work].remove(entry)
        self._waiting_bytes[entry.work] -= entry.bytes
        if entry.work is Work.SAVE:
            self._waiting_at[entry.place] -= 1

    def _stop(self, entry: Entry) -> None:
        del self._running[entry.work][entry]
        self._running_bytes -= entry.bytes
        if entry.work is Work.SAVE:
            del self._saving_at[entry.place][entry]

    def _load_may_start(self, entry: Entry) -> bool:
        running = len(self._running[Work.LOAD])
        if self._is_clogged(entry.bytes):
            return False
        return running == 0 or (running < self._limits.loads_max and self._fits(entry))

    def _next_save(self) -> Entry | None:
        """The first that may start. One that waits for its own place is passed by what goes to others, and by nothing
        that goes there, too."""
        may_be_more = len(self._running[Work.SAVE]) < self._limits.all_saves_max
        passed = set[int]()
        for entry in self._queues[Work.SAVE]:
            if not self._saving_at[entry.place]:
                return entry
            if entry.place in passed:
                continue
            if may_be_more and not self._place_is_full(entry):
                if self._fits(entry):
                    return entry
                may_be_more = False  # it is next, once there is room
            passed.add(entry.place)
            if len(passed) == self._limits.places_at_most:
                return None
        return None

    def _place_is_full(self, entry: Entry) -> bool:
        """Whether other saves of its place, of which there are some, are all that may run there now."""
        there = self._saving_at[entry.place]
        if self._queues[Work.LOAD] or len(there) >= self._limits.place_saves_max:
            return True
        return sum(one.bytes for one in there) + entry.bytes > self._limits.place_bytes_max

    def _fits(self, entry: Entry) -> bool:
        taken = self._running_bytes + self._given_up_bytes
        return taken + entry.bytes <= self._limits.bytes_max

    def _is_clogged(self, size_bytes: int) -> bool:
        given_up = self._given_up_bytes
        return given_up > 0 and given_up + size_bytes > self._limits.bytes_max

    def validate(self) -> None:
        """Raises AssertionError if an invariant does not hold."""
        limits = self._limits
        assert len(self._running[Work.LOAD]) <= limits.loads_max
        mixed = limits.places_at_most - limits.places
        assert len(self._running[Work.SAVE]) <= limits.all_saves_max + mixed
        for place, there in self._saving_at.items():
            assert len(there) <= limits.place_saves_max
            assert all(entry.place == place for entry in there)
        assert sum(map(len, self._saving_at.values())) == len(self._running[Work.SAVE])
        assert self._waiting_at.total() == len(self._queues[Work.SAVE])
        running = [entry for kind in self._running.values() for entry in kind]
        assert self._running_bytes == sum(entry.bytes for entry in running)
        assert all(entry.phase is Phase.RUNNING for entry in running)
        assert self._given_up_bytes == sum(entry.bytes for entry in self._given_up)
        assert all(entry.phase is Phase.GIVEN_UP for entry in self._given_up)
        for work, queue in self._queues.items():
            assert len(queue) <= limits.waiting_max
            assert self._waiting_bytes[work] == sum(entry.bytes for entry in queue)
            assert all(entry.phase is Phase.WAITING for entry in queue)
            assert not queue or self._running[work] or self._given_up, "somebody waits for nobody"
