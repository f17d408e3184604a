"""A sender's and a receiver's session, and a network between them that loses, repeats and damages; all of it pure."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field

from penstock.actors.api.pd_wire import Abort, Offer, Phase, Reason, State, TransferId, Word
from penstock.actors.api.types import Epoch
from penstock.actors.core.pd_early import EarlyRuns, RunBatch
from penstock.actors.core.pd_granted import Batch
from penstock.actors.core.pd_receiving import Receiving
from penstock.actors.core.pd_sending import Sending
from penstock.actors.core.pd_session import (
    RUN_DIGEST,
    Close,
    Drop,
    Effect,
    Land,
    Layout,
    ObjectDigests,
    Over,
    Patience,
    Say,
    Verify,
)

TRANSFER = TransferId(b"t" * 16)
EPOCH = Epoch(b"e" * 16)
PATIENCE = Patience(allocation_s=5.0, transfer_s=20.0, idle_s=4.0, query_s=1.0)
RUNS = (2, 1)
WITHIN_S = 30.0


def offer_of(chunks: int, *, slots: int = 2) -> Offer:
    keys = b"".join(bytes([chunk]) * 32 for chunk in range(chunks))
    own = tuple(range(slots))
    return Offer(TRANSFER, "r", EPOCH, b"n" * 32, keys, own, (100, 50)[:slots], 0, WITHIN_S)


def layout_of(offer: Offer) -> Layout:
    return Layout.of(offer, RUNS[: len(offer.slots)])


def digest(place: int, run: int | None = None) -> int:
    """Of what an object holds; the tests' memory holds digests in the place of bytes."""
    words = f"{place} {run}".encode()
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "little")


def digests_of(layout: Layout, place: int) -> ObjectDigests:
    runs = range(layout.runs_of(place))
    packed = b"".join(RUN_DIGEST.pack(digest(place, run)) for run in runs)
    return ObjectDigests(place, digest(place), packed)


@dataclass
class Pair:
    """One push. `memory`: what was written of each object's runs; a landing takes pieces until it is closed."""

    chunks: int = 4
    part_chunks: int = 2
    held: frozenset[int] = frozenset()  # places that the receiver has
    now: float = 0.0
    to_receiver: deque[Word] = field(default_factory=deque)
    to_sender: deque[Word] = field(default_factory=deque)
    pieces: list[tuple[bytes, int, int]] = field(default_factory=list)  # landing, place, run
    memory: dict[tuple[int, int], int] = field(default_factory=dict)
    open_landings: set[int] = field(default_factory=set)  # by first chunk
    todo: deque[Effect] = field(default_factory=deque)  # of the receiver: what takes time
    batches: deque[Batch] = field(default_factory=deque)  # whose memory is read
    run_batches: deque[RunBatch] = field(default_factory=deque)  # the same
    early_runs_max: int = 100
    landed: dict[int, tuple[ObjectDigests, ...]] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    overs: list[Over] = field(default_factory=list)
    said: list[tuple[bool, Word]] = field(
        default_factory=list
    )  # to the receiver?, all that was said
    is_linked: bool = True

    def __post_init__(self) -> None:
        self.offer = offer_of(self.chunks)
        self.layout = layout_of(self.offer)
        self.sender = Sending(
            self.offer,
            self.layout,
            PATIENCE,
            now=self.now,
            early=EarlyRuns(self.layout, runs_max=self.early_runs_max),
        )
        self.receiver: Receiving | None = None
        self.by_sender(self.sender.begin())

    # What sides want done.

    def by_sender(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Say):
                self.said.append((True, effect.word))
                if self.is_linked:
                    self.to_receiver.append(effect.word)
            else:
                assert isinstance(effect, Over)

    def by_receiver(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Say():
                    self.said.append((False, effect.word))
                    if self.is_linked:
                        self.to_sender.append(effect.word)
                case Over():
                    self.overs.append(effect)
                    assert len(self.overs) == 1, "it ended twice"
                case Drop():
                    assert effect.first_chunk not in self.open_landings, "dropped, and open"
                    assert effect.first_chunk not in self.dropped, "dropped twice"
                    self.dropped.add(effect.first_chunk)
                case _:
                    self.todo.append(effect)

    # The network.

    def hear_at_receiver(self, word: Word) -> None:
        if self.receiver is None:
            if isinstance(word, Offer):
                self.receiver = Receiving(word, self.layout, PATIENCE, now=self.now)
            elif not isinstance(word, Abort):
                self.to_sender.append(State(TRANSFER, Phase.UNKNOWN))
            return
        self.by_receiver(self.receiver.heard(word, self.now))

    def hear_at_sender(self, word: Word) -> None:
        self.by_sender(self.sender.heard(word, self.now))

    def lose_stream(self) -> None:
        """All that is under way is lost, and there is another one."""
        self.to_receiver.clear()
        self.to_sender.clear()
        self.by_sender(self.sender.stream_back(self.now))

    def lose_link(self) -> None:
        self.is_linked = False
        self.to_receiver.clear()
        self.to_sender.clear()
        self.pieces.clear()
        self.by_sender(self.sender.fail(Reason.PEER))
        if self.receiver is not None:
            self.by_receiver(self.receiver.give_up(Reason.PEER))

    # Work.

    def grant_next(self) -> None:
        """The receiver has memory for one part more."""
        assert self.receiver is not None
        granted = sum(len(needs) for needs in self._needs.values()) // self.layout.width
        if granted >= self.chunks or self.receiver.is_over:
            return
        width = self.layout.width
        places = range(granted * width, min(self.chunks, granted + self.part_chunks) * width)
        needs = bytes(place not in self.held for place in places)
        self._needs[granted] = needs
        landing = f"landing {granted}".encode() if any(needs) else b""
        if landing:
            self.open_landings.add(granted)
        self.by_receiver(self.receiver.granted(granted, needs, landing, self.now))

    @property
    def _needs(self) -> dict[int, bytes]:
        return self.__dict__.setdefault("_needs_of", {})

    def send_batch(self, objects_max: int) -> None:
        batch = self.sender.take(objects_max, 10_000)
        if batch is None:
            return
        self.batches.append(batch)
        self.by_sender(self.sender.pushing([digests_of(self.layout, at) for at in batch.places]))
        for place in batch.places:
            rest = self.sender.rest_of(place)
            runs = range(self.layout.runs_of(place)) if rest is None else rest
            self.pieces += [(batch.landing, place, run) for run in runs]

    def end_batch(self) -> None:
        """Its memory is read no more; its pieces may still be under way."""
        if self.batches:
            self.by_sender(self.sender.pushed(self.batches.popleft()))

    def write(self, place: int, runs: range, *, value: int | None = None) -> int:
        """The engine has written these runs. `value`: and says what is not so."""
        said = [digest(place, run) if value is None else value for run in runs]
        taken, effects = self.sender.written(place, runs.start, said, "here")
        self.by_sender(effects)
        return taken

    def send_runs(self, bytes_max: int = 10_000) -> bool:
        batch, effects = self.sender.take_runs(bytes_max)
        self.by_sender(effects)
        if batch is not None:
            self.run_batches.append(batch)
            self.pieces += [(batch.landing, one.place, one.run) for one in batch.pieces]
        return batch is not None

    def end_runs(self) -> None:
        if self.run_batches:
            self.by_sender(self.sender.runs_pushed(self.run_batches.popleft()))

    def bring_piece(self, at: int, *, value: int | None = None) -> None:
        """Written, if its landing is open. `value`: something else than was sent."""
        landing, place, run = self.pieces.pop(at % len(self.pieces))
        first = int(landing.split()[1])
        if first not in self.open_landings or self.receiver is None:
            return  # refused
        self.memory[place, run] = digest(place, run) if value is None else value
        self.by_receiver(self.receiver.arrived([place << 20 | run], self.now))

    def work(self) -> None:
        """The next thing that takes the receiver time is done."""
        assert self.receiver is not None
        if not self.todo:
            return
        match effect := self.todo.popleft():
            case Close():
                self.open_landings.discard(effect.first_chunk)
                self.by_receiver(self.receiver.closed(effect.first_chunk))
            case Verify():
                bad = [one.place for one in effect.objects if not self.is_right(one.place)]
                self.by_receiver(self.receiver.verified(effect.first_chunk, bad))
            case Land():
                assert all(self.is_right(one.place) for one in effect.objects), "a wrong byte"
                assert effect.first_chunk not in self.open_landings, "landed while it is written"
                self.landed[effect.first_chunk] = effect.objects
                self.by_receiver(self.receiver.landed(effect.first_chunk))
            case _:
                raise AssertionError(effect)

    def is_right(self, place: int) -> bool:
        runs = range(self.layout.runs_of(place))
        return all(self.memory.get((place, run)) == digest(place, run) for run in runs)

    # Time.

    def pass_time(self, seconds: float) -> None:
        """Each side ticks when it wants to."""
        until = self.now + seconds
        while True:
            wanted = [self.sender.until]
            if self.receiver is not None:
                wanted.append(self.receiver.until)
            if min(wanted) > until:
                break
            self.now = max(self.now, min(wanted))
            if self.sender.until <= self.now:
                self.by_sender(self.sender.tick(self.now))
            if self.receiver is not None and self.receiver.until <= self.now:
                self.by_receiver(self.receiver.tick(self.now))
        self.now = until

    def settle(self) -> None:
        """Carry out and deliver everything, without time passing and without faults."""
        for _ in range(10_000):
            if self.to_receiver:
                self.hear_at_receiver(self.to_receiver.popleft())
            elif self.to_sender:
                self.hear_at_sender(self.to_sender.popleft())
            elif self.todo:
                self.work()
            elif self.pieces:
                self.bring_piece(0)
            elif self.batches:
                self.end_batch()
            elif self.run_batches:
                self.end_runs()
            else:
                self.send_batch(8)
                if not self.batches and not self.send_runs():
                    return
        raise AssertionError("they never come to rest")

    def validate(self) -> None:
        self.sender.validate()
        if self.receiver is not None:
            self.receiver.validate()
            landed = sum(len(objects) for objects in self.landed.values())
            assert landed <= self.receiver.verified_objects
