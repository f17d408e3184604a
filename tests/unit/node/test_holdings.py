"""What a session holds, against its bounds."""

from __future__ import annotations

import time

import pytest

from penstock.actors.api.errors import TooManyInFlight
from penstock.actors.api.types import LeaseId, TicketId
from penstock.actors.core.holdings import Holdings


def lease(number: int) -> LeaseId:
    return LeaseId(number.to_bytes(16, "big"))


def ticket(number: int) -> TicketId:
    return TicketId(number.to_bytes(16, "big"))


def test_living_leases_are_bounded_and_expired_ones_make_room() -> None:
    holdings = Holdings(leases_max=2, tickets_max=2)
    holdings.add_lease(lease(1), expires=10)
    holdings.add_lease(lease(2), expires=20)
    with pytest.raises(TooManyInFlight, match="2 leases"):
        holdings.check_lease_room(now=9.9)
    holdings.check_lease_room(now=10)
    holdings.add_lease(lease(3), expires=30)
    with pytest.raises(TooManyInFlight):
        holdings.check_lease_room(now=11)
    holdings.drop_lease(lease(2))
    holdings.drop_lease(lease(2))
    holdings.check_lease_room(now=11)
    holdings.validate()


def test_a_reservation_committed_bit_by_bit_is_over_with_its_last_object() -> None:
    """Naming the indices of a commit must not use up the session's leases.

    Seen to fail when only a commit without indices ended the reservation: after leases_max puts the
    session was refused, though it held nothing.
    """
    holdings = Holdings(leases_max=1, tickets_max=1)
    for number in range(5):
        holdings.check_lease_room(now=0)
        holdings.add_lease(lease(number), expires=10, objects=3)
        holdings.drop_objects(lease(number), 2)
        with pytest.raises(TooManyInFlight):
            holdings.check_lease_room(now=0)
        holdings.drop_objects(lease(number), 1)
    holdings.drop_objects(lease(99), 1)
    holdings.validate()


def test_living_tickets_are_bounded_and_expired_ones_take_their_request_along() -> None:
    holdings = Holdings(leases_max=1, tickets_max=2)
    holdings.add_ticket(ticket(1), 10, "r1", b"keys")
    holdings.add_ticket(ticket(2), 20, "", b"")
    with pytest.raises(TooManyInFlight, match="2 tickets"):
        holdings.check_ticket_room(now=9.9)
    holdings.check_ticket_room(now=10)
    assert not holdings.knows_ticket(ticket(1))
    assert holdings.request("r1", now=10) is None
    assert holdings.tickets() == (ticket(2),)
    holdings.validate()


def test_a_request_is_known_by_name_as_long_as_its_ticket_lives() -> None:
    holdings = Holdings(leases_max=1, tickets_max=4)
    holdings.add_ticket(ticket(1), 10, "r1", b"keys")
    known = holdings.request("r1", now=5)
    assert known is not None
    assert (known.prompt, known.ticket) == (b"keys", ticket(1))
    assert holdings.request("r2", now=5) is None
    assert holdings.request("r1", now=10) is None
    assert not holdings.knows_ticket(ticket(1))
    holdings.add_ticket(ticket(2), 20, "r1", b"others")
    holdings.drop_ticket(ticket(1))  # the old ticket's end is not the new one's
    assert holdings.request("r1", now=15) is not None
    holdings.drop_ticket(ticket(2))
    assert holdings.request("r1", now=15) is None
    holdings.validate()


def test_a_ticket_is_known_from_the_reply_on() -> None:
    """Seen to fail when a ticket was its owner's as soon as it was counted."""
    holdings = Holdings(leases_max=1, tickets_max=4)
    holdings.add_ticket(ticket(1), 10, "", b"")
    assert not holdings.knows_ticket(ticket(1))
    holdings.opened()
    holdings.add_ticket(ticket(2), 10, "", b"")
    assert holdings.knows_ticket(ticket(1))
    assert not holdings.knows_ticket(ticket(2))
    holdings.opened()
    assert holdings.knows_ticket(ticket(2))


def test_a_ticket_that_took_over_a_name_keeps_it_when_the_former_one_ends() -> None:
    holdings = Holdings(leases_max=1, tickets_max=4)
    holdings.add_ticket(ticket(1), 10, "r1", b"a")
    holdings.add_ticket(ticket(2), 20, "r1", b"b")
    holdings.drop_ticket(ticket(1))
    known = holdings.request("r1", now=1)
    assert known is not None
    assert known.ticket == ticket(2)
    holdings.validate()


def test_making_room_among_thousands_does_not_hold_the_loop() -> None:
    """Seen to fail (140 ms) while every ticket that ended looked through all named requests."""
    count = 4096
    holdings = Holdings(leases_max=1, tickets_max=count)
    for number in range(count):
        holdings.add_ticket(ticket(number), 10, f"request {number}", b"")
    begin = time.thread_time()
    holdings.check_ticket_room(now=10)
    assert time.thread_time() - begin < 0.03
    assert holdings.tickets() == ()


def test_a_lease_asked_for_beside_others_counts_before_it_is_granted() -> None:
    """C10: with room looked at on arrival only, 20 reservations that waited for eviction got 20 leases of one."""
    holdings = Holdings(leases_max=1, tickets_max=1)
    holdings.check_lease_room(now=0)
    holdings.claim_lease()
    with pytest.raises(TooManyInFlight):
        holdings.check_lease_room(now=0)
    holdings.unclaim_lease()
    holdings.check_lease_room(now=0)
    holdings.validate()
