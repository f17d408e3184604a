"""The books of saves: what is hit twice, what became of each object, and that all of it is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Fates, SecondHits

SAVED, FAILED = ObjectState.SAVED, ObjectState.FAILED
PENDING, NOT_WANTED = ObjectState.PENDING, ObjectState.NOT_WANTED


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_a_second_hit_is_told_once_and_then_counted_anew() -> None:
    hits = SecondHits(chunks_max=8)
    assert hits.hit(key(1) + key(2)) == b""
    assert hits.hit(key(2) + key(3)) == key(2)
    assert hits.hit(key(2)) == b""
    assert hits.hit(key(2) + key(1)) == key(2) + key(1)


@given(st.lists(st.integers(0, 12)))
def test_hits_are_bounded_and_equal_those_of_a_list(numbers: list[int]) -> None:
    hits, once = SecondHits(chunks_max=4), list[int]()
    for number in numbers:
        second = number in once
        assert hits.hit(key(number)) == (key(number) if second else b"")
        if second:
            once.remove(number)
        else:
            once = [*once, number][-4:]
        assert len(hits) == len(once)


def test_an_object_is_over_when_no_tier_has_it_pending() -> None:
    fates = Fates(3, settled_max=8)
    assert fates.begin(b"a", 0)
    assert not fates.begin(b"a", 0), "it is on its way"
    assert fates.begin(b"a", 2)
    assert not fates.settle(b"a", 0, SAVED)
    assert fates.states(b"a") == bytes([SAVED, NOT_WANTED, PENDING])
    assert fates.settle(b"a", 2, FAILED)
    assert fates.states(b"a") == bytes([SAVED, NOT_WANTED, FAILED])
    assert fates.begin(b"a", 2)
    assert fates.states(b"a") == bytes([SAVED, NOT_WANTED, PENDING])


def test_the_oldest_settled_are_forgotten_and_the_pending_never() -> None:
    fates = Fates(1, settled_max=2)
    fates.begin(b"pending", 0)
    for name in (b"a", b"b", b"c"):
        fates.begin(name, 0)
        fates.settle(name, 0, SAVED)
    fates.skip(b"d")
    assert [fates.states(name) for name in (b"a", b"b")] == [None, None]
    assert fates.states(b"c") == bytes([SAVED])
    assert fates.states(b"d") == bytes([NOT_WANTED])
    assert fates.states(b"pending") == bytes([PENDING])
    assert len(fates) == 3
