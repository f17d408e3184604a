"""Runs that are sent by themselves: where they lie, and who keeps their memory."""

from __future__ import annotations

from penstock.actors.api.pd_wire import piece_number
from penstock.actors.api.types import LeaseId
from penstock.actors.pd_layers import Lies, packed_indices, run_pieces


def test_each_run_is_a_piece_of_its_own_that_keeps_the_memory_of_its_object() -> None:
    """A14: whoever may still read it has the hold, also when the push has been given up."""
    hold = object()
    lies = Lies(LeaseId(b"l" * 16), 4096, memoryview(b"aaaabbbbcccc"), hold)
    pieces = run_pieces(2, 5, (0, 2), 4, lies)
    assert [(one.number, one.slot, one.offset) for one in pieces] == [
        (piece_number(2, 0), 5, 0),
        (piece_number(2, 2), 5, 8),
    ]
    assert [bytes(one.payload) for one in pieces] == [b"aaaa", b"cccc"]
    assert all(one.hold is hold for one in pieces)


def test_a_place_is_the_same_under_the_same_lease_alone() -> None:
    """Else what is announced again would keep a second lease of the same memory."""
    lies = Lies(LeaseId(b"l" * 16), 4096, memoryview(b"a"), object())
    assert lies == Lies(lies.lease, 4096, memoryview(b"b"), object())
    assert lies != Lies(LeaseId(b"m" * 16), 4096, lies.view, lies.hold)
    assert lies != Lies(lies.lease, 8192, lies.view, lies.hold)


def test_indices_are_packed_words() -> None:
    assert packed_indices((1, 258)) == b"\x01\0\0\0\x02\x01\0\0"
