"""Who is a member, from what a registry of leases tells: against a dumb twin that remembers all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.member_book import MemberBook, farewell, read_entry, written
from penstock.runtime.membership import Member

A, B = Member("a", "10.0.0.1:7700", b"\x01"), Member("b", "10.0.0.2:7700", b"\x02")


def book_of(*members: Member) -> MemberBook:
    book = MemberBook(doubt_s=10, members_max=4)
    for one in members:
        book.put(one, has_left=False)
    return book


def test_what_is_written_is_read_again() -> None:
    assert read_entry("a", written(A)) == (A, False)
    assert read_entry("a", farewell(A)) == (A, True)


GARBAGE = [
    b"",
    b"{}",
    b"[1]",
    b"\xff\xfe",
    b'{"address": "nowhere"}',
    b'{"address": "unix:///run/x.sock"}',
    b'{"address": "h:1", "boot": "xy"}',
    b'{"address": "h:1", "boot": 1}',
    b'{"address": "h:1"}' + b" " * 2000,
]


@pytest.mark.parametrize("value", GARBAGE)
def test_what_no_node_writes_is_passed_over(value: bytes) -> None:
    assert read_entry("a", value) is None
    assert read_entry("../A", written(A)) is None


def test_whoever_leaves_in_order_is_gone_at_once_and_others_after_a_doubt() -> None:
    book = book_of(A, B)
    book.put(A, has_left=True)
    book.deleted("b", 100)
    assert (book.members, book.due) == ({"b": B}, 110)
    book.settle(109)
    assert book.members == {"b": B}
    book.settle(110)
    assert (book.members, book.due) == ({}, math.inf)


def test_a_wiped_registry_takes_nobody_away_who_writes_again() -> None:
    """C7: an empty list begins a doubt, and whoever writes in its time was never gone.

    Seen to fail with `listed` taking the list for all there is.
    """
    book = book_of(A, B)
    book.listed({}, 100)
    again = Member("a", A.address, b"\x03")
    book.put(again, has_left=False)
    assert book.members == {"a": again, "b": B}
    book.settle(110)
    assert book.members == {"a": again}


def test_a_doubt_begins_anew_with_each_list() -> None:
    """C7: nobody could write while the registry was away."""
    book = book_of(A)
    book.deleted("a", 100)
    book.listed({}, 109)
    book.settle(110)
    assert (book.members, book.due) == ({"a": A}, 119)


def test_members_are_bounded() -> None:
    """C10. Seen to fail with the bound taken out of `put`."""
    book = MemberBook(doubt_s=10, members_max=2)
    for name in "abc":
        book.put(Member(name, "h:1"), has_left=False)
    assert set(book.members) == {"a", "b"}
    book.put(Member("b", "h:2"), has_left=False)
    assert book.members["b"].address == "h:2"


STEPS = st.tuples(
    st.sampled_from(["put", "leave", "delete", "settle"]), st.sampled_from("abc"), st.floats(0, 8)
)


@given(st.lists(STEPS, max_size=30))
def test_it_agrees_with_a_twin_that_looks_at_all_that_was(
    steps: list[tuple[str, str, float]],
) -> None:
    book = MemberBook(doubt_s=10, members_max=4)
    last: dict[str, tuple[str, float]] = {}  # what happened last to each that is known, and when
    now = 0.0
    for what, name, passed in steps:
        now += passed
        if what == "settle":
            book.settle(now)
            last = {one: it for one, it in last.items() if it[0] == "put" or it[1] + 10 > now}
        elif what == "delete":
            book.deleted(name, now)
            if last.get(name, ("", 0))[0] == "put":
                last[name] = ("delete", now)
        elif what == "put":
            book.put(Member(name, "h:1"), has_left=False)
            last[name] = ("put", now)
        else:
            book.put(Member(name, "h:1"), has_left=True)
            last.pop(name, None)
        assert set(book.members) == set(last)
        assert book.doubted.keys() <= book.members.keys()
