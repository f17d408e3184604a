"""What NIXL endpoints tell each other: read as it was said, and refused when it is none of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from penstock.runtime import nixl_words as words
from penstock.runtime.nixl_landings import ClosedLandings
from penstock.runtime.nixl_words import Grant, Heard, Unreadable, Word

NAME = bytes(range(16))
U64 = some.integers(0, 2**64 - 1)
PAIRS = some.lists(some.tuples(U64, U64), max_size=words.PIECES_MAX)


@given(landing=U64, pieces=PAIRS)
def test_what_arrived_is_heard_as_it_was_said(landing: int, pieces: list[tuple[int, int]]) -> None:
    raw = words.arrived(NAME, landing, pieces)
    assert words.heard(raw) == Heard(Word.ARRIVED, NAME, landing, tuple(pieces))


@pytest.mark.parametrize("word", [Word.CLOSE, Word.CLOSED])
def test_words_about_a_landing(word: Word) -> None:
    assert words.heard(words.say(word, NAME, 7)) == Heard(word, NAME, 7)


@pytest.mark.parametrize("word", [Word.TAKEN, Word.END])
def test_words_about_a_connection(word: Word) -> None:
    assert words.heard(words.say(word, NAME)) == Heard(word, NAME)


def test_a_secret_is_shown_and_never_printed() -> None:
    """D6"""
    said = words.heard(words.show(NAME, b"s" * 32, b"metadata"))
    assert (said.word, said.secret, said.metadata) == (Word.SHOW, b"s" * 32, b"metadata")
    assert "ssss" not in repr(said)


@given(raw=some.binary(max_size=80))
def test_garbage_is_unreadable_or_a_word(raw: bytes) -> None:
    """A15: whatever a stranger says, nothing else is raised."""
    try:
        words.heard(raw)
    except Unreadable:
        return
    assert raw[0] in {*Word}


@given(
    landing=U64, slots=some.lists(some.tuples(U64, U64), max_size=50), more=some.binary(max_size=99)
)
def test_a_grant_is_read_as_it_was_made(
    landing: int, slots: list[tuple[int, int]], more: bytes
) -> None:
    grant = Grant(NAME, landing, tuple(slots), more)
    raw = grant.encoded()
    assert Grant.decoded(raw) == grant
    for wrong in (raw[:-1], raw + b"x"):
        with pytest.raises(Unreadable):
            Grant.decoded(wrong)


def test_a_grant_has_a_bound() -> None:
    """C10"""
    with pytest.raises(ValueError, match="too many"):
        Grant(NAME, 0, ((0, 0),) * 5000).encoded()


def test_what_is_no_offer_never_comes_to_the_library() -> None:
    """A15"""
    offer = words.offer_of(b"metadata")
    assert words.metadata_of(offer) == b"metadata"
    for wrong in (b"", offer[:-1], offer + b"x", b"PNX1" + bytes(8) + b"metadata"):
        with pytest.raises(Unreadable):
            words.metadata_of(wrong)


@given(order=some.permutations(range(12)), asked=some.integers(0, 14))
def test_closed_landings_are_a_set_of_numbers(order: list[int], asked: int) -> None:
    closed, twin = ClosedLandings(), set[int]()
    for number in order:
        closed.add(number)
        twin.add(number)
        assert (asked in closed) == (asked in twin)
    assert not closed._beyond, "what is contiguous is one number"
