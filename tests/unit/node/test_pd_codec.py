"""Words of a push on the wire: what is said is what is heard, and nothing out of its bounds becomes a word."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Slice,
    State,
    TransferId,
    Word,
)
from penstock.actors.api.types import Epoch
from penstock.actors.pd_codec import NoWord, decoded, encoded
from penstock.protos import pd_pb2

TRANSFER = TransferId(b"t" * 16)
OFFER = Offer(TRANSFER, "r", Epoch(b"e" * 16), b"n" * 32, b"k" * 64, (0, 3), (4096, 100), 7, 1.5)
GRANT = Grant(TRANSFER, "r", Epoch(b"e" * 16), 5, b"\0\1", b"landing")
WORDS: list[Word] = [
    OFFER,
    replace(OFFER, slices=(Slice(1, 2, 3, 4, 5),)),
    GRANT,
    replace(GRANT, needs=b"\0\0", landing=b""),
    Data(TRANSFER, DIGEST_RECORD.pack(1 << 20, 2**64 - 1)),
    Commit(TRANSFER, 3, b"d" * 32, 4),
    Query(TRANSFER),
    *(Abort(TRANSFER, reason, "words") for reason in Reason),
    *(State(TRANSFER, phase, 1, 2) for phase in Phase),
]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
def test_what_is_said_is_heard(word: Word) -> None:
    assert decoded(encoded(word)) == word


BAD: list[tuple[str, Word]] = [
    ("transfer", replace(OFFER, transfer=TransferId(b"t"))),
    ("request_id", replace(OFFER, request_id="")),
    ("request_id", replace(GRANT, request_id="x" * 257)),
    ("offer.epoch", replace(OFFER, epoch=Epoch(b""))),
    ("offer.namespace_digest", replace(OFFER, namespace=b"n")),
    ("offer.chunk_keys", replace(OFFER, keys=b"")),
    ("offer.chunk_keys", replace(OFFER, keys=b"k" * 33)),
    ("offer.slots", replace(OFFER, slots=(), logical_bytes=())),
    ("offer.slots", replace(OFFER, slots=(3, 0))),
    ("offer.slots", replace(OFFER, slots=(0, 1 << 16))),
    ("offer.logical_bytes", replace(OFFER, logical_bytes=(4096,))),
    ("offer.priority", replace(OFFER, priority=1001)),
    ("at most 65536 objects", replace(OFFER, keys=b"k" * 32 * 40_000)),
    ("grant.epoch", replace(GRANT, epoch=Epoch(b"e" * 17))),
    ("grant.first_chunk", replace(GRANT, first_chunk=1 << 16)),
    ("grant.needs", replace(GRANT, needs=b"")),
    ("grant.needs", replace(GRANT, needs=b"\2")),
    ("grant.landing", replace(GRANT, landing=b"x" * (64 * 1024 + 1))),
    ("data.digests", Data(TRANSFER, b"torn")),
    ("data.digests", Data(TRANSFER, bytes(16 * (DIGESTS_MAX + 1)))),
    ("commit.digest", Commit(TRANSFER, 0, b"", 1)),
]


@pytest.mark.parametrize(("field", "word"), BAD)
def test_what_breaks_a_bound_is_no_word(field: str, word: Word) -> None:
    with pytest.raises(NoWord, match=field):
        decoded(encoded(word))


def test_a_message_without_a_body_of_this_version_is_no_word() -> None:
    with pytest.raises(NoWord, match="without a body"):
        decoded(pd_pb2.PdMessage(transfer=TRANSFER).SerializeToString())
    later = pd_pb2.PdMessage(transfer=TRANSFER)
    later.state.phase = 99  # type: ignore[assignment] - of a later version
    with pytest.raises(NoWord, match=r"state\.phase"):
        decoded(later.SerializeToString())


def test_a_reason_of_a_later_version_is_still_an_end() -> None:
    later = pd_pb2.PdMessage(transfer=TRANSFER)
    later.abort.reason = 99  # type: ignore[assignment]
    assert decoded(later.SerializeToString()) == Abort(TRANSFER, Reason.PROTOCOL)


def test_long_words_of_an_end_are_cut() -> None:
    heard = decoded(encoded(Abort(TRANSFER, Reason.BUSY, "é" * 1000)))
    assert isinstance(heard, Abort)
    assert heard.text == "é" * 256


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_garbage_is_no_word_or_a_word_within_its_bounds(data: bytes) -> None:
    try:
        word = decoded(data)
    except NoWord:
        return
    assert decoded(encoded(word)) == word
