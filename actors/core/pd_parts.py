"""One part of a push at its receiver: consecutive chunks with one landing and one lease of L1.

    OPEN --all has arrived, or the push is over--> CLOSING --closed--> SEALED --verified--> LANDING --landed--> LANDED
                                                      |                  |                     |
                                                      '------ nothing of it is good -----------'--> GONE

From SEALED on nobody writes its memory any more: what was verified stays what it is. So a piece that comes late, or
twice, is never part of what somebody reads.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from penstock.actors.api.pd_wire import RUN_BITS, WHOLE
from penstock.actors.core.pd_session import RUN_DIGEST, Layout, ObjectDigests


class PartStep(enum.Enum):
    OPEN = "pieces may be written"
    CLOSING = "nothing more is to be written, but somebody may be at it"
    SEALED = "nobody writes; some digests are not told yet, or it is being verified"
    LANDING = "L1 is told"
    LANDED = "its objects are readable"
    GONE = "its memory was let go of"


class ForeignPiece(Exception):
    """Theirs: a piece or digest of what is not of this part, or a digest that contradicts an earlier one."""


class Part:
    """Book of what has come of one part. `needed` are its places, ascending; one that needs nothing has landed."""

    def __init__(
        self, first_chunk: int, chunks: int, needed: Sequence[int], layout: Layout
    ) -> None:
        self.first_chunk = first_chunk
        self.chunks = chunks
        self.needed = tuple(needed)
        self.step = PartStep.OPEN if needed else PartStep.LANDED
        self.good: tuple[int, ...] = ()  # verified; of LANDING and LANDED
        self.is_verifying = False  # only while SEALED
        self._layout = layout
        self._missing = {place: self._all_runs(place) for place in needed}  # bits of runs; 0: whole
        self._open_places = len(self.needed)  # of _missing that are not 0
        self._digests: dict[int, dict[int, int]] = {place: {} for place in needed}  # run: digest
        self._untold = len(self.needed)  # whose own digest is not known

    def _all_runs(self, place: int) -> int:
        return (1 << self._layout.runs_of(place)) - 1

    @property
    def has_arrived(self) -> bool:
        """All bytes of all objects."""
        return self._open_places == 0

    @property
    def is_told(self) -> bool:
        """All digests of all objects."""
        return self._untold == 0

    def arrived(self, place: int, run: int) -> None:
        """A piece of it is in its memory. Raises ForeignPiece."""
        missing = self._missing.get(place)
        if missing is None or (run != WHOLE and run >= self._layout.runs_of(place)):
            raise ForeignPiece(f"a piece of object {place}, run {run}, which was not granted")
        left = 0 if run == WHOLE else missing & ~(1 << run)
        self._missing[place] = left
        self._open_places -= missing != 0 and left == 0

    def told(self, place: int, run: int, digest: int) -> None:
        """Raises ForeignPiece."""
        known = self._digests.get(place)
        if known is None or (run != WHOLE and run >= self._layout.runs_of(place)):
            raise ForeignPiece(f"a digest of object {place}, run {run}, which was not granted")
        if run in known:
            if known[run] != digest:
                raise ForeignPiece(f"object {place}, run {run} has two different digests")
            return
        if WHOLE in known:
            raise ForeignPiece(f"object {place} has more runs than were told with its own digest")
        known[run] = digest
        if run == WHOLE:
            if len(known) not in (1, 1 + self._layout.runs_of(place)):
                raise ForeignPiece(f"object {place} has {len(known) - 1} run digests: all, or none")
            self._untold -= 1

    def whole(self) -> tuple[ObjectDigests, ...]:
        """The objects that have arrived and whose digests are all told."""
        return tuple(
            self._object(place)
            for place in self.needed
            if not self._missing[place] and WHOLE in self._digests[place]
        )

    def is_whole_below(self, place: int) -> bool:
        """All of its objects before that place have arrived, and their digests are told."""
        return all(
            not self._missing[one] and WHOLE in self._digests[one]
            for one in self.needed
            if one < place
        )

    def own_digests(self) -> list[int]:
        """Of its objects, in order. All are told."""
        return [self._digests[place][WHOLE] for place in self.needed]

    def _object(self, place: int) -> ObjectDigests:
        known = self._digests[place]
        runs = b"".join(RUN_DIGEST.pack(known[run]) for run in sorted(known) if run != WHOLE)
        return ObjectDigests(place, known[WHOLE], runs)


def split_number(number: int) -> tuple[int, int]:
    """Place and run of a piece."""
    return number >> RUN_BITS, number & WHOLE
