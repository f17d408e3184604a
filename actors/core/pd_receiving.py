"""The receiving side of one push, as a pure state machine. See `pd_session` for both sides, `pd_parts` for a part.

    WAITING --granted--> FILLING --all chunks granted, all parts landed, Commit agrees--> COMMITTED
        '------------------'------------- Abort, silence, deadline -------------------> OVER

After OVER parts come to their end by themselves: each landing is closed, then what had arrived whole is verified and
lands, since that prefix is of use; unless nobody wants it any more (`dismiss`). `is_drained` when none is left.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Sequence

from penstock.actors.api.pd_wire import (
    DIGEST_RECORD,
    Abort,
    Commit,
    Data,
    Grant,
    Offer,
    Phase,
    Query,
    Reason,
    State,
    Word,
)
from penstock.actors.core.pd_parts import ForeignPiece, Part, PartStep, split_number
from penstock.actors.core.pd_session import (
    Close,
    Drop,
    Effect,
    Land,
    Layout,
    Over,
    Patience,
    PdBug,
    Say,
    Verify,
    commit_digest,
    soonest,
)

DRAINED = (PartStep.LANDED, PartStep.GONE)


class ReceivingStep(enum.Enum):
    WAITING = "for its turn at the budget"
    FILLING = "granted, as a whole or its first windows"
    COMMITTED = "all of it is there"
    OVER = "given up"


class Receiving:
    """One push, from the offer on that was accepted."""

    def __init__(self, offer: Offer, layout: Layout, patience: Patience, *, now: float) -> None:
        self.step = ReceivingStep.WAITING
        self.reason: Reason | None = None  # of OVER
        self.verified_objects = 0
        self.verified_bytes = 0  # of them; nothing else is ever counted
        self._offer = offer
        self._layout = layout
        self._patience = patience
        self._parts: dict[int, Part] = {}  # by first chunk, ascending, without gaps
        self._starts: list[int] = []  # the keys of _parts
        self._grants: list[Grant] = []  # as they were said
        self._granted_chunks = 0  # <= layout.chunks
        self._commit: Commit | None = None
        self._is_dismissed = False  # nobody wants what comes any more
        self._allocate_by = now + patience.allocation_s
        self._end_by = now + offer.within_s
        self._heard_at = now

    # What comes.

    def granted(self, first_chunk: int, needs: bytes, landing: bytes, now: float) -> list[Effect]:
        """There is memory for what is needed of these chunks, and a landing; empty: nothing is needed.

        Chunks are granted in order. Not after OVER."""
        chunks = len(needs) // self._layout.width
        if self.step not in (ReceivingStep.WAITING, ReceivingStep.FILLING):
            raise PdBug(f"granted in {self.step}")
        if first_chunk != self._granted_chunks:
            raise PdBug(f"chunk {first_chunk} granted after {self._granted_chunks}")
        first = first_chunk * self._layout.width
        needed = [first + at for at, is_needed in enumerate(needs) if is_needed]
        self._parts[first_chunk] = Part(first_chunk, chunks, needed, self._layout)
        self._starts.append(first_chunk)
        self._granted_chunks += chunks
        if self.step is ReceivingStep.WAITING:
            self.step = ReceivingStep.FILLING
            self._end_by = min(self._end_by, now + self._patience.transfer_s)
        offer = self._offer
        grant = Grant(offer.transfer, offer.request_id, offer.epoch, first_chunk, needs, landing)
        self._grants.append(grant)
        return [Say(grant), *self._complete()]

    def heard(self, word: Word, now: float) -> list[Effect]:
        """From the sender."""
        self._heard_at = now
        match word:
            case Offer() | Commit() | Query() if self.step is ReceivingStep.OVER:
                return [Say(Abort(self._offer.transfer, self.reason or Reason.STALE))]
            case Offer() | Commit() if self.step is ReceivingStep.COMMITTED:
                return [Say(self._state())]
            case Query():
                return [Say(self._state())]
            case _ if self.is_over:
                return []
            case Offer():
                return self._offered_again(word)
            case Data():
                return self._told(word)
            case Commit():
                return self._committed(word)
            case Abort():
                return self._end(word.reason, word.text)
            case _:
                return self._break(f"{type(word).__name__} is not for a receiver")

    def arrived(self, numbers: Sequence[int], now: float) -> list[Effect]:
        """Pieces are whole in their slots. What comes for a part that is closed has nothing written."""
        self._heard_at = now
        effects: list[Effect] = []
        try:
            for number in numbers:
                place, run = split_number(number)
                part = self._part_of(place)
                if part.step is PartStep.OPEN:
                    part.arrived(place, run)
                    effects += self._close(part) if part.has_arrived else []
        except ForeignPiece as problem:
            return [*effects, *self._break(str(problem))]
        return [*effects, *self._cut()]

    def closed(self, first_chunk: int) -> list[Effect]:
        """Its landing is closed: nobody writes there any more."""
        part = self._parts[first_chunk]
        if part.step is not PartStep.CLOSING:
            raise PdBug(f"closed in {part.step}")
        part.step = PartStep.SEALED
        return self._verify(part)

    def verified(self, first_chunk: int, bad: Sequence[int]) -> list[Effect]:
        """These of the objects that were to be verified are not what was sent."""
        part = self._parts[first_chunk]
        if not part.is_verifying:
            raise PdBug(f"verified in {part.step}")
        part.is_verifying = False
        good = tuple(one for one in part.whole() if one.place not in bad)
        part.good = tuple(one.place for one in good)
        self.verified_objects += len(good)
        self.verified_bytes += self._layout.bytes_of(part.good)
        if good and not self._is_dismissed:
            part.step = PartStep.LANDING
            effects: list[Effect] = [Land(first_chunk, good)]
        else:
            effects = self._drop(part)
        if bad:
            effects += self._give_up(Reason.DAMAGED, f"objects {list(bad)[:8]}")
        return effects

    def landed(self, first_chunk: int) -> list[Effect]:
        """L1 has been told, and gives these objects to those who wait for them."""
        part = self._parts[first_chunk]
        if part.step is not PartStep.LANDING:
            raise PdBug(f"landed in {part.step}")
        if self._is_dismissed:
            return self._drop(part)
        part.step = PartStep.LANDED
        return self._complete()

    def not_landed(self, first_chunk: int) -> list[Effect]:
        """L1 did not take it."""
        part = self._parts[first_chunk]
        if part.step is not PartStep.LANDING:
            raise PdBug(f"not landed in {part.step}")
        self.verified_objects -= len(part.good)
        self.verified_bytes -= self._layout.bytes_of(part.good)
        part.good = ()
        return [*self._drop(part), *self._give_up(Reason.BUSY, "L1 did not take what had arrived")]

    def give_up(self, reason: Reason, text: str = "") -> list[Effect]:
        """Ours, or the link is lost. What has arrived whole lands still."""
        return self._give_up(reason, text)

    def dismiss(self, reason: Reason, text: str = "") -> list[Effect]:
        """Nobody wants it any more: what has landed is dropped, too, and the rest as soon as it can be."""
        self._is_dismissed = True
        ended = self._give_up(reason, text)
        dropped: list[Effect] = []
        for part in self._parts.values():
            is_idle = part.step is PartStep.SEALED and not part.is_verifying
            if part.step is PartStep.LANDED or is_idle:
                dropped += self._drop(part)
        return [*ended, *dropped]

    @property
    def is_over(self) -> bool:
        return self.step in (ReceivingStep.COMMITTED, ReceivingStep.OVER)

    @property
    def is_drained(self) -> bool:
        """Over, and nobody writes, verifies or lands anything of it."""
        return self.is_over and all(part.step in DRAINED for part in self._parts.values())

    @property
    def until(self) -> float:
        """When to call `tick`."""
        if self.is_over:
            return soonest()
        by = [self._end_by, self._heard_at + self._patience.idle_s]
        if self.step is ReceivingStep.WAITING:
            by.append(self._allocate_by)
        return soonest(*by)

    def tick(self, now: float) -> list[Effect]:
        if self.is_over:
            return []
        if self.step is ReceivingStep.WAITING and now >= self._allocate_by:
            return self._give_up(Reason.NO_ROOM, "")
        if now >= self._end_by:
            return self._give_up(Reason.OUT_OF_TIME, "")
        if now >= self._heard_at + self._patience.idle_s:
            return self._give_up(Reason.IDLE, "the sender says nothing")
        return []

    # Inside.

    def _offered_again(self, offer: Offer) -> list[Effect]:
        if offer != self._offer:
            return self._break("the same transfer is offered in another way")
        if self.step is ReceivingStep.WAITING:
            return [Say(self._state())]
        return [Say(grant) for grant in self._grants]

    def _told(self, data: Data) -> list[Effect]:
        if len(data.digests) % DIGEST_RECORD.size:
            return self._break("torn digest records")
        touched: dict[int, Part] = {}
        try:
            for number, digest in DIGEST_RECORD.iter_unpack(data.digests):
                place, run = split_number(number)
                part = self._part_of(place)
                if part.step in (PartStep.OPEN, PartStep.CLOSING, PartStep.SEALED):
                    part.told(place, run, digest)
                    touched[part.first_chunk] = part
        except ForeignPiece as problem:
            return self._break(str(problem))
        sealed = [part for part in touched.values() if part.step is PartStep.SEALED]
        verify = [effect for part in sealed for effect in self._verify(part)]
        return [*verify, *self._cut()]

    def _committed(self, commit: Commit) -> list[Effect]:
        if self._commit is not None and self._commit != commit:
            return self._break("two different commits")
        if self._granted_chunks < min(commit.chunks, self._layout.chunks):
            return self._break("committed before it was granted")
        self._commit = commit
        return [*self._cut(), *self._complete()]

    def _cut(self) -> list[Effect]:
        """The sender has no more than so many chunks: what is needed of them is waited for, and nothing else."""
        commit, is_filling = self._commit, self.step is ReceivingStep.FILLING
        if commit is None or commit.chunks >= self._layout.chunks or not is_filling:
            return []
        below = commit.chunks * self._layout.width
        parts = [part for part in self._parts.values() if part.step not in DRAINED]
        if not all(part.is_whole_below(below) for part in parts):
            return []
        return self._give_up(Reason.SOURCE, f"it has {commit.chunks} chunks, and no more")

    def _complete(self) -> list[Effect]:
        """If all of it is there now."""
        if self.step is not ReceivingStep.FILLING or self._commit is None:
            return []
        if self._commit.chunks < self._layout.chunks:
            return []
        parts = self._parts.values()
        if not all(part.step in DRAINED for part in parts):
            return []
        digests = [digest for part in parts for digest in part.own_digests()]
        if (len(digests), commit_digest(digests)) != (self._commit.objects, self._commit.digest):
            return self._give_up(Reason.DAMAGED, "what was committed is not what has arrived")
        self.step = ReceivingStep.COMMITTED
        return [Say(self._state()), Over(None, "")]

    def _part_of(self, place: int) -> Part:
        """Raises ForeignPiece."""
        chunk = place // self._layout.width
        if chunk >= self._granted_chunks:
            raise ForeignPiece(f"object {place} was not granted")
        return self._parts[self._starts[bisect_right(self._starts, chunk) - 1]]

    def _close(self, part: Part) -> list[Effect]:
        part.step = PartStep.CLOSING
        return [Close(part.first_chunk)]

    def _verify(self, part: Part) -> list[Effect]:
        """Of a part that is sealed: all of it; what there is of it, if no more can come."""
        if part.is_verifying or not (part.is_told or self.is_over):
            return []
        whole = part.whole()
        if not whole or self._is_dismissed:
            return self._drop(part)
        part.is_verifying = True
        return [Verify(part.first_chunk, whole)]

    def _drop(self, part: Part) -> list[Effect]:
        part.step = PartStep.GONE
        return [Drop(part.first_chunk)] if part.needed else []

    def _give_up(self, reason: Reason, text: str) -> list[Effect]:
        """Unless it is over already."""
        if self.is_over:
            return []
        say: list[Effect] = []
        if reason is not Reason.PEER:
            say.append(Say(Abort(self._offer.transfer, reason, text)))
        return [*say, *self._end(reason, text)]

    def _end(self, reason: Reason, text: str) -> list[Effect]:
        self.step, self.reason = ReceivingStep.OVER, reason
        effects: list[Effect] = []
        for part in self._parts.values():
            if part.step is PartStep.OPEN:
                effects += self._close(part)
            elif part.step is PartStep.SEALED:
                effects += self._verify(part)
        return [*effects, Over(reason, text)]

    def _break(self, text: str) -> list[Effect]:
        return self._give_up(Reason.PROTOCOL, text)

    def _state(self) -> State:
        phase = _PHASES[self.step]
        return State(self._offer.transfer, phase, len(self._grants), self.verified_objects)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert 0 <= self._granted_chunks <= self._layout.chunks
        good = [place for part in self._parts.values() for place in part.good]
        assert self.verified_objects == len(good) == len(set(good))
        assert self.verified_bytes == self._layout.bytes_of(good)
        for part in self._parts.values():
            assert not part.is_verifying or part.step is PartStep.SEALED
            assert part.step is not PartStep.OPEN or not self.is_over, "open, and over"
            assert part.step is not PartStep.LANDED or part.good or not part.needed
        if self.step is ReceivingStep.COMMITTED:
            assert self._commit is not None
            assert not self._is_dismissed or self.is_drained


_PHASES = {
    ReceivingStep.WAITING: Phase.WAITING,
    ReceivingStep.FILLING: Phase.GRANTED,
    ReceivingStep.COMMITTED: Phase.COMMITTED,
    ReceivingStep.OVER: Phase.UNKNOWN,  # never said: an Abort is
}
