"""Tickets that can still grow."""

from __future__ import annotations

import pytest

from penstock.actors.api.types import GeometryId, SessionId, TicketId
from penstock.actors.core.watches import Watch, Watches


def watch(number: int, *, expires: float = 10.0) -> Watch:
    ticket = TicketId(number.to_bytes(16, "big"))
    return Watch(ticket, SessionId(1), b"k" * 64, GeometryId(1), 0, 2, expires)


def test_watches_are_bounded() -> None:
    watches = Watches(watches_max=2, chunks_max=64)
    watches.add(watch(1))
    assert watches.has_room(b"k" * 64)
    watches.add(watch(2))
    assert not watches.has_room(b"k" * 64)
    with pytest.raises(AssertionError):
        watches.add(watch(3))
    watches.validate()


def test_the_chunks_of_all_watches_are_bounded_too() -> None:
    """Every commit looks at all of them; seen to fail when only their number was bounded."""
    watches = Watches(watches_max=10, chunks_max=5)
    watches.add(watch(1))
    watches.add(watch(2))
    assert not watches.has_room(b"k" * 64)
    assert watches.has_room(b"k" * 32)
    watches.remove(watch(1).ticket)
    assert watches.has_room(b"k" * 64)
    watches.validate()


def test_they_are_told_apart_by_time_oldest_first_and_may_end_meanwhile() -> None:
    watches = Watches(watches_max=4, chunks_max=64)
    for number, expires in ((1, 10.0), (2, 20.0), (3, 10.0)):
        watches.add(watch(number, expires=expires))
    assert [one.ticket[-1] for one in watches.living(now=10)] == [2]
    for one in watches.expired(now=10):
        watches.remove(one.ticket)
    assert len(watches) == 1
    assert not watches.has(watch(1).ticket)
    watches.remove(watch(1).ticket)
    watches.validate()


def test_a_watch_that_cannot_grow_is_no_watch() -> None:
    watches = Watches(watches_max=1, chunks_max=64)
    done = watch(1)
    done.hit_chunks = 2
    watches.add(done)
    with pytest.raises(AssertionError):
        watches.validate()
