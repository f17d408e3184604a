"""Both sides of a push over a network that loses, repeats and damages, with ends at any point, drawn by Hypothesis."""

from __future__ import annotations

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.pd_pair import PATIENCE, WITHIN_S, Pair

from penstock.actors.api.pd_wire import Offer, Reason
from penstock.actors.core.pd_receiving import ReceivingStep
from penstock.actors.core.pd_sending import SendingStep

REASONS = strategies.sampled_from([Reason.CANCELLED, Reason.STOPPING, Reason.SOURCE])


class Pushing(RuleBasedStateMachine):
    """One push. `Pair` refuses a wrong byte that lands, memory let go of while it is written, and two ends."""

    @initialize(
        chunks=strategies.integers(1, 5),
        part_chunks=strategies.integers(1, 3),
        held=strategies.frozensets(strategies.integers(0, 9)),
    )
    def begin(self, chunks: int, part_chunks: int, held: frozenset[int]) -> None:
        self.pair = Pair(chunks, part_chunks, held)
        self.ready = 0
        self.was_damaged = False

    # The streams: in order, each word at least once unless the stream is lost.

    @precondition(lambda self: self.pair.to_receiver)
    @rule(times=strategies.integers(1, 2))
    def deliver_to_receiver(self, times: int) -> None:
        word = self.pair.to_receiver.popleft()
        for _ in range(times):
            self.pair.hear_at_receiver(word)

    @precondition(lambda self: self.pair.to_sender)
    @rule(times=strategies.integers(1, 2))
    def deliver_to_sender(self, times: int) -> None:
        word = self.pair.to_sender.popleft()
        for _ in range(times):
            self.pair.hear_at_sender(word)

    @precondition(lambda self: self.pair.is_linked)
    @rule(at=strategies.integers(0, 1000))
    def say_something_old_again(self, at: int) -> None:
        """Of what the sender has said of this life: a stream that comes back repeats what is long over."""
        old = [word for is_sender, word in self.pair.said if is_sender]
        self.pair.hear_at_receiver(old[at % len(old)])

    @precondition(lambda self: self.pair.is_linked)
    @rule()
    def lose_stream(self) -> None:
        self.pair.lose_stream()

    @rule()
    def lose_link(self) -> None:
        if self.pair.is_linked:
            self.pair.lose_link()

    # The data channel: pieces in any order.

    @precondition(lambda self: self.pair.pieces)
    @rule(at=strategies.integers(0, 1000))
    def bring_piece(self, at: int) -> None:
        self.pair.bring_piece(at)

    @precondition(lambda self: self.pair.pieces)
    @rule(at=strategies.integers(0, 1000))
    def bring_piece_twice(self, at: int) -> None:
        piece = self.pair.pieces[at % len(self.pair.pieces)]
        self.pair.bring_piece(at)
        if self.pair.is_linked:
            self.pair.pieces.append(piece)

    @precondition(lambda self: self.pair.pieces)
    @rule(at=strategies.integers(0, 1000))
    def bring_damage(self, at: int) -> None:
        self.was_damaged = True
        self.pair.bring_piece(at, value=1)

    # Work of the two nodes.

    @rule(chunks=strategies.integers(0, 5))
    def compute(self, chunks: int) -> None:
        self.ready = max(self.ready, chunks)
        self.pair.by_sender(self.pair.sender.ready(chunks))

    @rule()
    def lose_source(self) -> None:
        self.pair.by_sender(self.pair.sender.source_over())

    @rule(objects=strategies.integers(1, 4))
    def send(self, objects: int) -> None:
        self.pair.send_batch(objects)

    @rule()
    def end_send(self) -> None:
        self.pair.end_batch()

    @rule(place=strategies.integers(0, 9), first=strategies.integers(0, 1))
    def write(self, place: int, first: int) -> None:
        """Early, late, or for nothing."""
        if place < self.pair.layout.objects:
            self.pair.write(place, range(first, self.pair.layout.runs_of(place)))

    @precondition(lambda self: self.pair.sender.step is not SendingStep.OVER)
    @rule(place=strategies.integers(0, 9))
    def write_otherwise(self, place: int) -> None:
        if place < self.pair.layout.objects:
            self.was_damaged = True
            self.pair.write(place, range(1), value=1)

    @rule(bytes_max=strategies.sampled_from([1, 60, 10_000]))
    def send_runs(self, bytes_max: int) -> None:
        self.pair.send_runs(bytes_max)

    @rule()
    def end_runs(self) -> None:
        self.pair.end_runs()

    @precondition(lambda self: self.pair.receiver is not None)
    @rule()
    def grant(self) -> None:
        self.pair.grant_next()

    @precondition(lambda self: self.pair.receiver is not None)
    @rule()
    def work(self) -> None:
        self.pair.work()

    # Ends.

    @rule(reason=REASONS)
    def give_up_at_sender(self, reason: Reason) -> None:
        self.pair.by_sender(self.pair.sender.fail(reason))

    @precondition(lambda self: self.pair.receiver is not None)
    @rule(reason=REASONS)
    def dismiss_at_receiver(self, reason: Reason) -> None:
        assert self.pair.receiver is not None
        self.pair.by_receiver(self.pair.receiver.dismiss(reason))

    @rule(seconds=strategies.sampled_from([0.5, 1.0, 3.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.pair.pass_time(seconds)

    @invariant()
    def is_sound(self) -> None:
        if not hasattr(self, "pair"):
            return
        pair = self.pair
        pair.validate()
        if pair.receiver is not None and pair.receiver.step is ReceivingStep.COMMITTED:
            places = {one.place for objects in pair.landed.values() for one in objects}
            assert places | pair.held >= set(range(pair.layout.objects)), "committed with a hole"
        if pair.sender.step is SendingStep.OVER and pair.sender.reason is None:
            assert pair.receiver is not None
            assert pair.receiver.step is ReceivingStep.COMMITTED

    def teardown(self) -> None:
        """Both end within their deadlines, and nothing of the receiver's is left open, whoever died."""
        if not hasattr(self, "pair"):
            return
        pair = self.pair
        begun = pair.now
        while pair.sender.step is not SendingStep.OVER or not self._receiver_is_over():
            assert pair.now - begun <= WITHIN_S + PATIENCE.transfer_s, "it never ends"
            pair.pass_time(PATIENCE.query_s)
        while pair.todo:
            pair.work()
        if pair.receiver is not None:
            pair.receiver.validate()
            assert pair.receiver.is_drained
            assert not pair.open_landings
            kept = set(pair.landed) - pair.dropped
            needing = {first for first, needs in pair._needs.items() if any(needs)}
            assert kept | pair.dropped == needing, "a part is neither dropped nor readable"

    def _receiver_is_over(self) -> bool:
        return self.pair.receiver is None or self.pair.receiver.is_over


class Healing(Pushing):
    """As Pushing, and what was not given up comes whole once the network is well."""

    def teardown(self) -> None:
        if hasattr(self, "pair") and self._is_alive():
            pair = self.pair
            pair.lose_stream()
            pair.sender.ready(pair.chunks)
            for _ in range(3):
                pair.settle()
                while pair.receiver is not None and self._ungranted():
                    pair.grant_next()
                pair.pass_time(PATIENCE.query_s if self._is_alive() else 0)
            pair.settle()
            if self._is_alive() or pair.sender.reason is not None:
                assert self.was_damaged or pair.sender.reason in (
                    Reason.SOURCE,  # it was lost before
                    Reason.OUT_OF_TIME,
                    Reason.NO_ROOM,
                    Reason.IDLE,
                ), (pair.sender.step, pair.sender.reason)
        super().teardown()

    def _is_alive(self) -> bool:
        pair = self.pair
        return pair.sender.step is not SendingStep.OVER and not (
            pair.receiver is not None and pair.receiver.step is ReceivingStep.OVER
        )

    def _ungranted(self) -> bool:
        pair = self.pair
        assert pair.receiver is not None
        granted = sum(len(needs) for needs in pair._needs.values())
        return granted < pair.layout.objects and not pair.receiver.is_over


TestPushing = Pushing.TestCase
TestPushing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHealing = Healing.TestCase
TestHealing.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def test_a_repeated_offer_after_the_end_is_answered_by_its_reason() -> None:
    pair = Pair()
    assert isinstance(pair.to_receiver[0], Offer)
    pair.hear_at_receiver(pair.to_receiver[0])
    assert pair.receiver is not None
    pair.by_receiver(pair.receiver.dismiss(Reason.CANCELLED))
    pair.hear_at_receiver(pair.to_receiver[0])
    pair.settle()
    assert pair.sender.reason is Reason.CANCELLED
