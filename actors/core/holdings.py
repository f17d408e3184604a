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
    """A named request: the prompt it came with, and the ticket it got."""

    keys: bytes
    ticket: TicketId


class Holdings:
    def __init__(self, *, leases_max: int, tickets_max: int) -> None:
        self._leases_max = leases_max
        self._tickets_max = tickets_max
        self._leases: dict[LeaseId, float] = {}  # when it expires; len <= leases_max
        self._tickets: dict[TicketId, float] = {}  # when it expires; len <= tickets_max
        self._requests: dict[str, Request] = {}  # their tickets are in _tickets

    # Leases.

    def check_lease_room(self, now: float) -> None:
        """Raises TooManyInFlight."""
        if len(self._leases) >= self._leases_max:
            self._leases = {one: at for one, at in self._leases.items() if at > now}
        if len(self._leases) >= self._leases_max:
            raise TooManyInFlight(
                f"{self._leases_max} leases are alive in this session: release or abort some first"
            )

    def add_lease(self, lease: LeaseId, expires: float) -> None:
        self._leases[lease] = expires

    def drop_lease(self, lease: LeaseId) -> None:
        self._leases.pop(lease, None)

    # Tickets.

    def check_ticket_room(self, now: float) -> None:
        """Raises TooManyInFlight."""
        if len(self._tickets) >= self._tickets_max:
            for ticket in [one for one, at in self._tickets.items() if at <= now]:
                self.drop_ticket(ticket)
        if len(self._tickets) >= self._tickets_max:
            raise TooManyInFlight(
                f"{self._tickets_max} tickets are alive in this session: cancel some first"
            )

    def add_ticket(self, ticket: TicketId, expires: float, request_id: str, keys: bytes) -> None:
        self._tickets[ticket] = expires
        if request_id:
            self._requests[request_id] = Request(keys, ticket)

    def drop_ticket(self, ticket: TicketId) -> None:
        if self._tickets.pop(ticket, None) is not None:
            for name in [one for one, made in self._requests.items() if made.ticket == ticket]:
                del self._requests[name]

    def owns_ticket(self, ticket: TicketId) -> bool:
        return ticket in self._tickets

    def request(self, request_id: str, now: float) -> Request | None:
        """The living request of this name."""
        known = self._requests.get(request_id)
        if known is not None and self._tickets[known.ticket] <= now:
            self.drop_ticket(known.ticket)
            return None
        return known

    def tickets(self) -> tuple[TicketId, ...]:
        return tuple(self._tickets)

    def validate(self) -> None:
        """For tests: raise AssertionError when an invariant does not hold."""
        assert len(self._leases) <= self._leases_max
        assert len(self._tickets) <= self._tickets_max
        assert all(made.ticket in self._tickets for made in self._requests.values())
