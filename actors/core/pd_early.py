"""What of a push is sent before it is committed: runs of objects that their writer says are whole. Pure.

    announced --taken--> told, and sent      of each run, while its object is not committed
        '---- the object is taken: its other runs go with it, and what was told must be what was committed

A run that was told early is nothing by itself: the receiver gives no object to anybody before it knows the object's own
digest, which comes after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from struct import iter_unpack

from penstock.actors.api.pd_wire import piece_number
from penstock.actors.core.pd_session import Layout, ObjectDigests

PIECES_MAX = 1024  # of a batch: what is done for each of them fits into a step of the loop


class Contradiction(Exception):
    """Theirs: a run that was told is not what was announced later, or committed."""


@dataclass(frozen=True, slots=True)
class RunPiece:
    """One run to be sent to a slot of a landing. `source`: where its object lies, as it was announced."""

    place: int
    slot: int
    run: int
    digest: int
    source: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Runs of one part that are to be sent now."""

    landing: bytes = field(repr=False)
    pieces: tuple[RunPiece, ...]
    bytes: int


@dataclass(slots=True)
class _Object:
    """One that is not taken yet."""

    source: object = field(repr=False)  # of the newest of those that wait; None: none does
    digests: dict[int, int] = field(default_factory=dict)  # by run: announced
    waiting: dict[int, object] = field(
        default_factory=dict
    )  # of them: to be taken, with its source
    # The others are told.


class EarlyRuns:
    """Book of one push. At most `runs_max` runs are remembered; more are left to their commit."""

    def __init__(self, layout: Layout, *, runs_max: int) -> None:
        self._layout = layout
        self._runs_max = runs_max
        self._runs = 0  # of _objects and _rests, <= runs_max
        self._objects: dict[int, _Object] = {}  # by place, in the order of their announcement
        self._waiting: dict[
            int, None
        ] = {}  # those of them that have runs to be taken, in that order
        self._rests: dict[int, dict[int, int]] = {}  # by place that is taken: what was told before

    def announce(self, place: int, first_run: int, digests: Sequence[int], source: object) -> int:
        """These runs of an object that is not taken are whole. How many of them are new, and will be sent early.

        `source` is kept as long as runs wait, and not where the object lies as it did for those before. Raises
        Contradiction."""
        layout = self._layout
        runs = layout.runs_of(place)
        if layout.bytes_of((place,)) % runs or self._runs + len(digests) > self._runs_max:
            return 0
        one = self._objects.setdefault(place, _Object(source))
        if one.source != source:
            one.source = source  # it is written anew, after a writer that gave up
        new = 0
        for run, digest in enumerate(digests, first_run):
            known = one.digests.get(run)
            if known is not None and run not in one.waiting:
                if known != digest:
                    raise Contradiction(f"object {place}, run {run} was pushed, and is another now")
                continue
            new += known is None
            one.digests[run] = digest
            one.waiting[run] = one.source
            self._waiting[place] = None
        self._runs += new
        return new

    def take(
        self, slot_of: Callable[[int], tuple[bytes, int] | None], *, bytes_max: int
    ) -> RunBatch | None:
        """What may be sent: of one landing, at least one run. `slot_of`: landing and slot of a place, if it is granted;
        slot -1: it is not needed."""
        landing: bytes | None = None
        pieces: list[RunPiece] = []
        taken_bytes = 0
        for place in [*self._waiting]:
            one, found = self._objects[place], slot_of(place)
            if found is None or (landing is not None and found[0] != landing):
                continue
            if found[1] < 0:
                self._forget(place)
                continue
            landing, size = found[0], self.run_bytes(place)
            while one.waiting and self._fits(len(pieces), taken_bytes + size, bytes_max):
                run = next(iter(one.waiting))
                source = one.waiting.pop(run)
                pieces.append(RunPiece(place, found[1], run, one.digests[run], source))
                taken_bytes += size
            if one.waiting:
                break
            one.source = None
            del self._waiting[place]
        return (
            None if landing is None or not pieces else RunBatch(landing, tuple(pieces), taken_bytes)
        )

    def close(self, places: Iterable[int]) -> None:
        """These are committed, and taken."""
        for place in places:
            one = self._objects.pop(place, None)
            if one is None:
                continue
            self._waiting.pop(place, None)
            told = {run: digest for run, digest in one.digests.items() if run not in one.waiting}
            self._runs -= len(one.waiting)
            if told:
                self._rests[place] = told

    def rest(self, place: int) -> tuple[int, ...] | None:
        """The runs of an object that was taken which are still to be sent; None: it is to be sent whole."""
        told = self._rests.get(place)
        if told is None:
            return None
        return tuple(run for run in range(self._layout.runs_of(place)) if run not in told)

    def check(self, committed: ObjectDigests) -> None:
        """That what was told is what was committed. Raises Contradiction."""
        told = self._rests.get(committed.place)
        if told is None:
            return
        runs = [digest for (digest,) in iter_unpack("<Q", committed.runs)]
        if not runs and self._layout.runs_of(committed.place) == 1:
            runs = [committed.digest]
        for run, digest in told.items():
            if run >= len(runs) or runs[run] != digest:
                raise Contradiction(
                    f"object {committed.place}, run {run} was pushed, and was not so committed"
                )

    def sent(self, places: Iterable[int]) -> None:
        """All of these was sent."""
        for place in places:
            self._runs -= len(self._rests.pop(place, ()))

    def told(self) -> tuple[list[int], list[int]]:
        """What was told of objects that are not taken: piece numbers, and their digests."""
        numbers: list[int] = []
        digests: list[int] = []
        for place, one in self._objects.items():
            runs = [run for run in one.digests if run not in one.waiting]
            numbers += [piece_number(place, run) for run in runs]
            digests += [one.digests[run] for run in runs]
        return numbers, digests

    def clear(self) -> None:
        self._objects.clear()
        self._waiting.clear()
        self._rests.clear()
        self._runs = 0

    def run_bytes(self, place: int) -> int:
        """Of each run of an object."""
        return self._layout.bytes_of((place,)) // self._layout.runs_of(place)

    @staticmethod
    def _fits(count: int, size_bytes: int, bytes_max: int) -> bool:
        """One more run after so many, so large together."""
        return not count or (count < PIECES_MAX and size_bytes <= bytes_max)

    def _forget(self, place: int) -> None:
        self._runs -= len(self._objects.pop(place).digests)
        del self._waiting[place]

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        announced = sum(len(one.digests) for one in self._objects.values())
        rests = sum(len(one) for one in self._rests.values())
        assert self._runs == announced + rests <= self._runs_max
        assert not self._objects.keys() & self._rests.keys(), "taken, and not taken"
        assert self._waiting.keys() == {at for at, one in self._objects.items() if one.waiting}
        for place, one in self._objects.items():
            assert one.waiting.keys() <= one.digests.keys()
            assert all(0 <= run < self._layout.runs_of(place) for run in one.digests)
