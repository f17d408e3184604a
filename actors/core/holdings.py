"""What one session holds: leases and tickets, counted against its bounds, and its requests by name.

The table is the truth; here is only what the bounds and the idempotence of requests need. What expires by itself is
forgotten when room is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.actors.api.errors import TooManyInFlight
from penstock.actors.api.types import LeaseId, TicketId


@dataclass(frozen=True, slots=True)
class Request:
    """A named request: what tells its prompt from others (a digest: the prompt is long), and the ticket it got."""

    prompt: bytes
    ticket: TicketId


@dataclass(slots=True)
class _Lease:
    expires: float
    objects: (
        int  # of a reservation: neither committed nor aborted, > 0; of a read lease: 1, the whole
    )


@dataclass(frozen=True, slots=True)
class _Ticket:
    expires: float
    request_id: str  # empty: unnamed


class Holdings:
    def __init__(self, *, leases_max: int, tickets_max: int) -> None:
        self._leases_max = leases_max
        self._tickets_max = tickets_max
        self._claimed = 0  # leases asked for, of which nobody knows yet whether they will be
        self._leases: dict[LeaseId, _Lease] = {}  # len <= leases_max
        self._tickets: dict[TicketId, _Ticket] = {}  # len <= tickets_max
        self._opening: TicketId | None = None  # the reply that names it is still to come
        self._requests: dict[str, Request] = {}  # their tickets are in _tickets

    # Leases.

    def check_lease_room(self, now: float) -> None:
        """Raises TooManyInFlight."""
        if len(self._leases) + self._claimed >= self._leases_max:
            self._leases = {one: held for one, held in self._leases.items() if held.expires > now}
        if len(self._leases) + self._claimed >= self._leases_max:
            raise TooManyInFlight(
                f"{self._leases_max} leases are alive in this session: release or abort some first"
            )

    def claim_lease(self) -> None:
        """Keep room for one more, until `unclaim_lease`: for what is asked beside others."""
        self._claimed += 1

    def unclaim_lease(self) -> None:
        self._claimed -= 1

    def add_lease(self, lease: LeaseId, expires: float, *, objects: int = 1) -> None:
        self._leases[lease] = _Lease(expires, objects)

    def drop_objects(self, lease: LeaseId, count: int) -> None:
        """So many objects of a reservation were committed; with the last one it is over."""
        if (held := self._leases.get(lease)) is not None:
            held.objects -= count
            if held.objects <= 0:
                del self._leases[lease]

    def drop_lease(self, lease: LeaseId) -> None:
        self._leases.pop(lease, None)

    # Tickets.

    def check_ticket_room(self, now: float) -> None:
        """Raises TooManyInFlight."""
        if len(self._tickets) >= self._tickets_max:
            for ticket in [one for one, held in self._tickets.items() if held.expires <= now]:
                self.drop_ticket(ticket)
        if len(self._tickets) >= self._tickets_max:
            raise TooManyInFlight(
                f"{self._tickets_max} tickets are alive in this session: cancel some first"
            )

    def add_ticket(self, ticket: TicketId, expires: float, request_id: str, prompt: bytes) -> None:
        """Its owner knows it from the reply on, see `opened`."""
        self._opening = ticket
        self._tickets[ticket] = _Ticket(expires, request_id)
        if request_id:
            self._requests[request_id] = Request(prompt, ticket)

    def drop_ticket(self, ticket: TicketId) -> None:
        held = self._tickets.pop(ticket, None)
        if held is not None and held.request_id:
            known = self._requests.get(held.request_id)
            if (
                known is not None and known.ticket == ticket
            ):  # or the name is another ticket's by now
                del self._requests[held.request_id]

    def opened(self) -> None:
        """The reply to the request at hand goes before whatever is told from now on."""
        self._opening = None

    def knows_ticket(self, ticket: TicketId) -> bool:
        """Whether it lives, and the owner can make something of its news."""
        return ticket in self._tickets and ticket != self._opening

    def request(self, request_id: str, now: float) -> Request | None:
        """The living request of this name."""
        known = self._requests.get(request_id)
        if known is not None and self._tickets[known.ticket].expires <= now:
            self.drop_ticket(known.ticket)
            return None
        return known

    def tickets(self) -> tuple[TicketId, ...]:
        return tuple(self._tickets)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert self._claimed >= 0
        assert len(self._leases) + self._claimed <= self._leases_max
        assert len(self._tickets) <= self._tickets_max
        assert all(held.objects > 0 for held in self._leases.values())
        for name, made in self._requests.items():
            assert self._tickets[made.ticket].request_id == name
