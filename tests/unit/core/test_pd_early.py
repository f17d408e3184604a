"""Runs of objects that are pushed before they are committed: the transfer overlaps the prefill within a chunk."""

from __future__ import annotations

import pytest
from support.pd_pair import Pair, digest, digests_of

from penstock.actors.api.pd_wire import DIGEST_RECORD, Commit, Data, Reason, piece_number
from penstock.actors.core.pd_receiving import ReceivingStep
from penstock.actors.core.pd_sending import SendingStep


def granted(**how: object) -> Pair:
    """Nothing of the prompt is committed yet; each even place has two runs of 50 bytes, each odd one is one of 50."""
    pair = Pair(**how)  # type: ignore[arg-type]
    pair.hear_at_receiver(pair.to_receiver.popleft())
    while len(pair._needs) * pair.part_chunks < pair.chunks:
        pair.grant_next()
    while pair.to_sender:
        pair.hear_at_sender(pair.to_sender.popleft())
    return pair


def sent_runs(pair: Pair) -> list[tuple[int, int]]:
    return [(place, run) for _, place, run in pair.pieces]


def commit(pair: Pair, chunks: int) -> None:
    pair.by_sender(pair.sender.ready(chunks))
    pair.settle()


def test_runs_go_as_they_are_written_and_count_when_they_are_committed() -> None:
    pair = granted(chunks=1)
    assert pair.write(0, range(1)) == 1
    assert pair.send_runs()
    assert sent_runs(pair) == [(0, 0)]
    pair.settle()
    assert pair.receiver is not None
    assert pair.receiver.verified_objects == 0
    assert pair.write(0, range(1, 2)) + pair.write(1, range(1)) == 2
    pair.settle()
    assert not pair.landed, "nothing is read before it is committed"
    assert pair.sender.step is SendingStep.SENDING
    pair.by_sender(pair.sender.ready(1))
    pair.send_batch(8)
    assert sent_runs(pair) == [], "all of it was there"
    pair.settle()
    assert pair.receiver.step is ReceivingStep.COMMITTED
    assert pair.sender.reason is None
    assert pair.sender.sent_bytes == pair.sender.early_bytes == 150


def test_what_was_not_written_early_goes_with_the_commit() -> None:
    pair = granted(chunks=2)
    pair.write(0, range(1))
    pair.settle()
    pair.by_sender(pair.sender.ready(1))
    pair.send_batch(8)
    assert sent_runs(pair) == [(0, 1), (1, 0)]
    commit(pair, 2)
    assert pair.sender.reason is None
    assert (pair.sender.sent_bytes, pair.sender.early_bytes) == (300, 50)


def test_what_was_written_before_the_grant_goes_with_it() -> None:
    pair = Pair(chunks=1)
    assert pair.write(0, range(2)) == 2
    assert not pair.send_runs()
    pair.hear_at_receiver(pair.to_receiver.popleft())
    pair.grant_next()
    pair.hear_at_sender(pair.to_sender.popleft())
    assert pair.send_runs()
    commit(pair, 1)
    assert pair.sender.early_bytes == 100


def test_what_the_receiver_holds_is_not_pushed_early() -> None:
    pair = granted(chunks=2, held=frozenset({0, 1}))
    pair.write(0, range(2))
    pair.write(2, range(2))
    assert pair.send_runs()
    assert sent_runs(pair) == [(2, 0), (2, 1)]
    commit(pair, 2)
    assert (pair.sender.reason, pair.sender.held_bytes) == (None, 150)


def test_a_batch_of_runs_is_bounded_and_no_commit_overtakes_it() -> None:
    pair = granted(chunks=1)
    pair.write(0, range(2))
    assert pair.send_runs(bytes_max=60)
    assert sent_runs(pair) == [(0, 0)]
    pair.by_sender(pair.sender.ready(1))
    pair.send_batch(8)
    pair.end_batch()
    assert pair.sender.step is SendingStep.SENDING, "memory of a run is still read"
    pair.end_runs()
    assert pair.sender.step is SendingStep.COMMITTING


@pytest.mark.parametrize("committed", ["otherwise", "without runs"])
def test_a_commit_of_other_bytes_ends_the_push(committed: str) -> None:
    pair = granted(chunks=1)
    pair.write(0, range(1))
    pair.settle()
    pair.by_sender(pair.sender.ready(1))
    batch = pair.sender.take(8, 10_000)
    assert batch is not None
    digests = [digests_of(pair.layout, place) for place in batch.places]
    runs = (1).to_bytes(8, "little") + digests[0].runs[8:] if committed == "otherwise" else b""
    digests[0] = type(digests[0])(0, digests[0].digest, runs)
    pair.by_sender(pair.sender.pushing(digests))
    assert pair.sender.reason is Reason.DAMAGED
    pair.settle()
    assert not pair.landed
    assert pair.receiver is not None
    assert pair.receiver.reason is Reason.DAMAGED


def test_a_run_that_was_pushed_cannot_become_another() -> None:
    """A writer gave up, and another one writes the object in another way."""
    pair = granted(chunks=1)
    pair.write(0, range(1))
    assert pair.write(0, range(1)) == 0, "known already"
    assert pair.write(0, range(1), value=7) == 0, "not told yet: the newest counts"
    pair.write(0, range(1))
    pair.send_runs()
    assert pair.write(0, range(1), value=7) == 0
    assert pair.sender.reason is Reason.DAMAGED


def test_too_many_runs_are_left_to_their_commit() -> None:
    pair = granted(chunks=2, early_runs_max=3)
    assert [pair.write(place, range(pair.layout.runs_of(place))) for place in range(4)] == [
        2,
        1,
        0,
        0,
    ]
    pair.sender.validate()
    pair.settle()
    commit(pair, 2)
    assert (pair.sender.reason, pair.sender.early_bytes) == (None, 150)


def test_a_new_stream_hears_again_what_was_told_early() -> None:
    pair = granted(chunks=1)
    pair.write(0, range(1))
    pair.send_runs()
    pair.lose_stream()
    told = [word for word in pair.to_receiver if isinstance(word, Data)]
    assert [DIGEST_RECORD.unpack(word.digests) for word in told] == [
        (piece_number(0, 0), digest(0, 0))
    ]
    commit(pair, 1)
    assert pair.sender.reason is None


def test_a_source_that_ends_is_committed_without_what_was_never_whole() -> None:
    """The worker dies in the middle of a chunk."""
    pair = granted(chunks=2, part_chunks=1)
    commit(pair, 1)
    pair.write(2, range(2))
    pair.settle()
    pair.by_sender(pair.sender.source_over())
    said = [word for is_sender, word in pair.said if is_sender and isinstance(word, Commit)]
    assert [word.chunks for word in said] == [1]
    pair.settle()
    assert sorted(pair.landed) == [0]
    assert pair.sender.reason is Reason.SOURCE
    assert pair.receiver is not None
    assert pair.receiver.is_drained
