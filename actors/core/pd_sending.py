"""The sending side of one push, as a pure state machine. See `pd_session` for both sides.

    OFFERING --first Grant--> SENDING --all there is was sent--> COMMITTING --State(COMMITTED), or Abort--> OVER
        '-------------------------'------------- Abort, silence, deadline -----------'----------------> OVER

What is granted and `ready` is taken in batches; what was taken is `pushing` until the data channel reads its memory no
more. Runs of what is granted and not ready yet may be `written`: they are taken early (`pd_early`). After OVER nothing
is taken and nothing is said.
"""

from __future__ import annotations

import enum
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from operator import attrgetter

from penstock.actors.api.pd_wire import (
    Abort,
    Commit,
    Grant,
    Offer,
    Phase,
    Query,
    Reason,
    State,
    Word,
    piece_number,
)
from penstock.actors.core.pd_early import Contradiction, EarlyRuns, RunBatch
from penstock.actors.core.pd_granted import Batch, Granted
from penstock.actors.core.pd_session import (
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
from penstock.actors.core.pd_telling import told_objects, told_runs

_first_chunk = attrgetter("first_chunk")


class SendingStep(enum.Enum):
    OFFERING = "nothing is granted yet"
    SENDING = "what is granted is sent as it is ready"
    COMMITTING = "all was sent; the receiver has not said that it is complete"
    OVER = "done, or given up"


class Sending:
    """One push, from its offer on."""

    def __init__(
        self,
        offer: Offer,
        layout: Layout,
        patience: Patience,
        *,
        now: float,
        early: EarlyRuns | None = None,
    ) -> None:
        """`early`: what was announced before there was a link to offer it on."""
        self.step = SendingStep.OFFERING
        self.reason: Reason | None = None  # of OVER; None: committed
        self.sent_bytes = 0  # of objects whose memory is read no more
        self.early_bytes = 0  # of runs that were sent before their objects were committed
        self.held_bytes = 0  # of objects that the receiver did not need
        self._offer = offer
        self._layout = layout
        self._patience = patience
        self._ready = 0  # chunks whose objects are here, from the start
        self._is_source_over = False  # `_ready` grows no more
        self._parts: list[Granted] = []  # by first_chunk
        self._granted_chunks = 0  # of all parts, <= layout.chunks
        self._pushing: set[int] = set()  # places that were taken, and are not sent
        self._early = early or EarlyRuns(layout, runs_max=0)
        self._run_batches = 0  # that were taken, and are not sent
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
                self._early.close(places)
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
        """These are about to be sent: what was taken, unless this ends the push."""
        if self.step is SendingStep.OVER:
            return []
        try:
            for one in objects:
                if one.place not in self._pushing:
                    raise PdBug(f"object {one.place} was not taken")
                self._early.check(one)
                self._told[one.place] = one
        except Contradiction as problem:
            return self.fail(Reason.DAMAGED, str(problem))
        return told_objects(self._offer.transfer, objects)

    def pushed(self, batch: Batch) -> list[Effect]:
        """The memory of these is read no more."""
        if self.step is SendingStep.OVER:
            return []
        self._pushing.difference_update(batch.places)
        self._early.sent(batch.places)
        self.sent_bytes += self._layout.bytes_of(batch.places)
        return self._go_on()

    # Before it is committed.

    def written(
        self, place: int, first_run: int, digests: Sequence[int], source: object
    ) -> tuple[int, list[Effect]]:
        """These runs of an object are whole, though it is not committed. How many of them will be sent before it is."""
        if self.step not in (SendingStep.OFFERING, SendingStep.SENDING) or self._is_taken(place):
            return 0, []
        try:
            return self._early.announce(place, first_run, digests, source), []
        except Contradiction as problem:
            return 0, self.fail(Reason.DAMAGED, str(problem))

    def take_runs(self, bytes_max: int) -> tuple[RunBatch | None, list[Effect]]:
        """What is to be sent early, if there is any, and what is to be said before it is."""
        if self.step is not SendingStep.SENDING:
            return None, []
        batch = self._early.take(self._slot_of, bytes_max=bytes_max)
        if batch is None:
            return None, []
        self._run_batches += 1
        numbers = [piece_number(one.place, one.run) for one in batch.pieces]
        digests = [one.digest for one in batch.pieces]
        return batch, told_runs(self._offer.transfer, numbers, digests)

    def runs_pushed(self, batch: RunBatch) -> list[Effect]:
        """The memory of these is read no more."""
        self._run_batches -= 1
        self.early_bytes += batch.bytes
        return self._go_on()

    def rest_of(self, place: int) -> tuple[int, ...] | None:
        """The runs of an object of a batch which are to be sent with it; None: it is to be sent whole."""
        return self._early.rest(place)

    def run_bytes(self, place: int) -> int:
        return self._early.run_bytes(place)

    def _is_taken(self, place: int) -> bool:
        return place in self._pushing or place in self._told

    def _slot_of(self, place: int) -> tuple[bytes, int] | None:
        """Of the landing that is granted for it; -1: it is not needed."""
        at = bisect_right(self._parts, place // self._layout.width, key=_first_chunk) - 1
        if at < 0:
            return None
        part = self._parts[at]
        is_of_it = place // self._layout.width < part.first_chunk + part.chunks
        return (part.landing, part.slot_of(place)) if is_of_it else None

    def stream_back(self, now: float) -> list[Effect]:
        """There is a new stream: what the former one may have lost is said again."""
        if self.step is SendingStep.OVER:
            return []
        self._query_at = now + self._patience.query_s
        if not self._parts:
            return [Say(self._offer)]
        again = told_runs(self._offer.transfer, *self._early.told())
        again += told_objects(
            self._offer.transfer, [self._told[place] for place in sorted(self._told)]
        )
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
            key=_first_chunk,
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
        if self.step is not SendingStep.SENDING or self._pushing or self._run_batches:
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

    def _break(self, text: str) -> list[Effect]:
        return self.fail(Reason.PROTOCOL, text)

    def _end(self, reason: Reason | None, text: str) -> list[Effect]:
        self.step, self.reason = SendingStep.OVER, reason
        self._parts.clear()
        self._pushing.clear()
        self._told.clear()
        self._early.clear()
        return [Over(reason, text)]

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert self._granted_chunks <= self._layout.chunks
        assert 0 <= self._ready <= self._layout.chunks
        assert self.sent_bytes + self.held_bytes <= self._layout.bytes_of(
            range(self._layout.objects)
        )
        self._early.validate()
        taken = {place for part in self._parts for place in part.needed[: part.taken]}
        assert self._pushing <= taken, "sent without having been taken"
        assert self._told.keys() <= taken, "told without having been taken"
        for part, after in zip(self._parts, self._parts[1:], strict=False):
            assert part.first_chunk + part.chunks <= after.first_chunk, "parts overlap"
        if self.step is SendingStep.COMMITTING:
            assert not self._pushing
            assert not self._run_batches
            assert taken == self._told.keys(), "committed what was not told"
            assert self._is_source_over or self._granted_chunks == self._layout.chunks
        if self.step is SendingStep.OVER:
            assert not self._parts, "it holds on to what is over"
