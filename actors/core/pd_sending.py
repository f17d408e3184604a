"""The sending side of one push, as a pure state machine. See `pd_session` for both sides.

    OFFERING --first Grant--> SENDING --all there is was sent--> COMMITTING --State(COMMITTED), or Abort--> OVER
        '-------------------------'------------- Abort, silence, deadline -----------'----------------> OVER

What is granted and `ready` is taken in batches; what was taken is `pushing` until the data channel reads its memory no
more. After OVER nothing is taken and nothing is said.
"""

from __future__ import annotations

import enum
import sys
from array import array
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from penstock.actors.api.pd_wire import (
    DIGEST_RECORD,
    DIGESTS_MAX,
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
    piece_number,
)
from penstock.actors.core.pd_session import (
    RUN_DIGEST,
    Effect,
    Layout,
    ObjectDigests,
    Over,
    Patience,
    PdBug,
    Say,
    commit_digest,
    soonest,
)


class SendingStep(enum.Enum):
    OFFERING = "nothing is granted yet"
    SENDING = "what is granted is sent as it is ready"
    COMMITTING = "all was sent; the receiver has not said that it is complete"
    OVER = "done, or given up"


@dataclass(slots=True)
class Granted:
    """One part. `taken` of its needed objects were taken; `needed` are their places, ascending."""

    first_chunk: int
    chunks: int
    needed: tuple[int, ...]
    landing: bytes = field(repr=False)
    taken: int = 0  # <= len(needed)


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects of one part that are to be sent now. `slots`: of the landing, parallel to `places`."""

    landing: bytes = field(repr=False)
    places: tuple[int, ...]
    slots: tuple[int, ...]


class Sending:
    """One push, from its offer on."""

    def __init__(self, offer: Offer, layout: Layout, patience: Patience, *, now: float) -> None:
        self.step = SendingStep.OFFERING
        self.reason: Reason | None = None  # of OVER; None: committed
        self.sent_bytes = 0  # of objects whose memory is read no more
        self.held_bytes = 0  # of objects that the receiver did not need
        self._offer = offer
        self._layout = layout
        self._patience = patience
        self._ready = 0  # chunks whose objects are here, from the start
        self._is_source_over = False  # `_ready` grows no more
        self._parts: list[Granted] = []  # by first_chunk
        self._granted_chunks = 0  # of all parts, <= layout.chunks
        self._pushing: set[int] = set()  # places that were taken, and are not sent
        self._told: dict[
            int, ObjectDigests
        ] = {}  # by place: of what was taken, told or about to be
        self._said: Commit | None = None  # of COMMITTING
        self._end_by = now + offer.within_s
        self._heard_at = now
        self._query_at = now + patience.query_s

    # What comes.

    def begin(self) -> list[Effect]:
        return [Say(self._offer)]

    def heard(self, word: Word, now: float) -> list[Effect]:
        """From the receiver."""
        if self.step is SendingStep.OVER:
            return []
        self._heard_at = now
        match word:
            case Grant():
                return self._granted(word, now)
            case State():
                return self._learned(word)
            case Abort():
                return self._end(word.reason, word.text)
            case _:
                return self._break(f"{type(word).__name__} is not for a sender")

    def ready(self, chunks: int) -> list[Effect]:
        """So many chunks of the prompt are here; never fewer than before."""
        self._ready = max(self._ready, min(chunks, self._layout.chunks))
        return []

    def source_over(self) -> list[Effect]:
        """No more chunks will be ready."""
        self._is_source_over = True
        return self._go_on()

    def take(self, objects_max: int, bytes_max: int) -> Batch | None:
        """What is to be sent next: at least one object, if any is granted and ready, all of one part."""
        if self.step not in (SendingStep.OFFERING, SendingStep.SENDING):
            return None
        for part in self._parts:
            places = tuple(self._takeable(part, objects_max, bytes_max))
            if places:
                slots = tuple(range(part.taken, part.taken + len(places)))
                part.taken += len(places)
                self._pushing.update(places)
                return Batch(part.landing, places, slots)
        return None

    def _takeable(self, part: Granted, objects_max: int, bytes_max: int) -> Iterator[int]:
        width, taken_bytes = self._layout.width, 0
        for place in part.needed[part.taken : part.taken + objects_max]:
            taken_bytes += self._layout.bytes_of((place,))
            is_first = place == part.needed[part.taken]
            if place // width >= self._ready or (taken_bytes > bytes_max and not is_first):
                return
            yield place

    def pushing(self, objects: Sequence[ObjectDigests]) -> list[Effect]:
        """These are about to be sent: what was taken."""
        if self.step is SendingStep.OVER:
            return []
        for one in objects:
            if one.place not in self._pushing:
                raise PdBug(f"object {one.place} was not taken")
            self._told[one.place] = one
        return self._tell(objects)

    def pushed(self, batch: Batch) -> list[Effect]:
        """The memory of these is read no more."""
        if self.step is SendingStep.OVER:
            return []
        self._pushing.difference_update(batch.places)
        self.sent_bytes += self._layout.bytes_of(batch.places)
        return self._go_on()

    def stream_back(self, now: float) -> list[Effect]:
        """There is a new stream: what the former one may have lost is said again."""
        if self.step is SendingStep.OVER:
            return []
        self._query_at = now + self._patience.query_s
        if not self._parts:
            return [Say(self._offer)]
        again = self._tell([self._told[place] for place in sorted(self._told)])
        if self._said is not None:
            again.append(Say(self._said))
        return [*again, Say(Query(self._offer.transfer))]

    def fail(self, reason: Reason, text: str = "") -> list[Effect]:
        """Ours: cancelled, an object is lost, the link is lost."""
        if self.step is SendingStep.OVER:
            return []
        say = [] if reason is Reason.PEER else [Say(Abort(self._offer.transfer, reason, text))]
        return [*say, *self._end(reason, text)]

    @property
    def until(self) -> float:
        """When to call `tick`."""
        if self.step is SendingStep.OVER:
            return soonest()
        return soonest(self._end_by, self._heard_at + self._patience.idle_s, self._query_at)

    def tick(self, now: float) -> list[Effect]:
        if self.step is SendingStep.OVER:
            return []
        if now >= self._end_by:
            return self.fail(Reason.OUT_OF_TIME)
        if now >= self._heard_at + self._patience.idle_s:
            return self.fail(Reason.IDLE, "the receiver does not answer")
        if now >= self._query_at:
            self._query_at = now + self._patience.query_s
            return [Say(Query(self._offer.transfer))]
        return []

    # Inside.

    def _granted(self, grant: Grant, now: float) -> list[Effect]:
        offer, width = self._offer, self._layout.width
        if (grant.request_id, grant.epoch) != (offer.request_id, offer.epoch):
            return self._break("the grant is for another request or life")
        if any(part.first_chunk == grant.first_chunk for part in self._parts):
            return []  # again
        chunks, torn = divmod(len(grant.needs), width)
        start, end = grant.first_chunk, grant.first_chunk + chunks
        if torn or not chunks or end > self._layout.chunks or self._overlaps(start, end):
            return self._break(f"the grant of chunks {start} to {end} is not of this offer")
        first = start * width
        needed = tuple(first + at for at, is_needed in enumerate(grant.needs) if is_needed)
        if bool(needed) != bool(grant.landing):
            return self._break("a grant has a landing where something is needed, and only there")
        if not self._parts:
            self._end_by = min(self._end_by, now + self._patience.transfer_s)
            self.step = SendingStep.SENDING
        insort(
            self._parts,
            Granted(start, chunks, needed, grant.landing),
            key=lambda part: part.first_chunk,
        )
        self._granted_chunks += chunks
        every = range(first, end * width)
        self.held_bytes += self._layout.bytes_of(every) - self._layout.bytes_of(needed)
        return self._go_on()

    def _overlaps(self, start: int, end: int) -> bool:
        return any(
            part.first_chunk < end and start < part.first_chunk + part.chunks
            for part in self._parts
        )

    def _learned(self, state: State) -> list[Effect]:
        match state.phase:
            case Phase.COMMITTED if self.step is SendingStep.COMMITTING:
                return self._end(None, "")
            case Phase.COMMITTED:
                return self._break("it says that all is there before all was sent")
            case Phase.UNKNOWN if self._parts:
                return self._end(Reason.STALE, "the receiver knows this transfer no more")
            case Phase.UNKNOWN:
                return [Say(self._offer)]
            case Phase.GRANTED if state.grants > len(self._parts):
                return [Say(self._offer)]
            case _:
                return []

    def _go_on(self) -> list[Effect]:
        """All may be sent now, or all that ever will be."""
        if self.step is not SendingStep.SENDING or self._pushing:
            return []
        untaken = [part.needed[part.taken] for part in self._parts if part.taken < len(part.needed)]
        if self._granted_chunks == self._layout.chunks and not untaken:
            return self._commit(self._layout.chunks)
        rest = [place for place in untaken if place // self._layout.width < self._ready]
        is_all_granted = self._granted_below(self._ready) == self._ready
        if (
            self._is_source_over
            and self._ready < self._layout.chunks
            and is_all_granted
            and not rest
        ):
            if not self._ready:
                return self.fail(Reason.SOURCE, "nothing is here, and nothing will be")
            return self._commit(self._ready)
        return []

    def _granted_below(self, chunks: int) -> int:
        """How many of the first chunks."""
        return sum(
            min(part.first_chunk + part.chunks, chunks) - part.first_chunk
            for part in self._parts
            if part.first_chunk < chunks
        )

    def _commit(self, chunks: int) -> list[Effect]:
        """All that is needed of so many chunks was sent."""
        digests = [self._told[place].digest for place in sorted(self._told)]
        self.step = SendingStep.COMMITTING
        self._said = Commit(self._offer.transfer, len(digests), commit_digest(digests), chunks)
        return [Say(self._said)]

    def _tell(self, objects: Sequence[ObjectDigests]) -> list[Effect]:
        """An object's own digest comes last: then the receiver knows them all."""
        records = b"".join([_records(one) for one in objects])
        most = DIGESTS_MAX * DIGEST_RECORD.size
        return [
            Say(Data(self._offer.transfer, records[start : start + most]))
            for start in range(0, len(records), most)
        ]

    def _break(self, text: str) -> list[Effect]:
        return self.fail(Reason.PROTOCOL, text)

    def _end(self, reason: Reason | None, text: str) -> list[Effect]:
        self.step, self.reason = SendingStep.OVER, reason
        self._parts.clear()
        self._pushing.clear()
        self._told.clear()
        return [Over(reason, text)]

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert self._granted_chunks <= self._layout.chunks
        assert 0 <= self._ready <= self._layout.chunks
        assert self.sent_bytes + self.held_bytes <= self._layout.bytes_of(
            range(self._layout.objects)
        )
        taken = {place for part in self._parts for place in part.needed[: part.taken]}
        assert self._pushing <= taken, "sent without having been taken"
        assert self._told.keys() <= taken, "told without having been taken"
        for part, after in zip(self._parts, self._parts[1:], strict=False):
            assert part.first_chunk + part.chunks <= after.first_chunk, "parts overlap"
        if self.step is SendingStep.COMMITTING:
            assert not self._pushing
            assert taken == self._told.keys(), "committed what was not told"
            assert self._is_source_over or self._granted_chunks == self._layout.chunks
        if self.step is SendingStep.OVER:
            assert not self._parts, "it holds on to what is over"


def _records(one: ObjectDigests) -> bytes:
    """Packed. Columns, for there are many: told again after a call was lost, all of a push are packed in one step."""
    runs = len(one.runs) // RUN_DIGEST.size
    first = piece_number(one.place, 0)
    words = array("Q", bytes((runs + 1) * DIGEST_RECORD.size))
    words[0::2] = array("Q", [*range(first, first + runs), piece_number(one.place)])
    digests = array("Q", one.runs)
    if sys.byteorder == "big":
        digests.byteswap()
    digests.append(one.digest)
    words[1::2] = digests
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
