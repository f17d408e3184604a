"""Operating errors of the node's actors. Names tell whose deed it was; branches are those of `runtime.errors`."""

from __future__ import annotations

from penstock.runtime.errors import CallerError, CapacityError, StaleError, UnavailableError


class InvalidField(CallerError):
    """Yours: a field of a request is out of its bound. `field` is its path."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class TooLarge(CallerError):
    """Yours: the request is over a limit that Welcome told."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class UnknownStore(CallerError):
    """Yours: the node has no store of this name."""


class StandsAlone(CallerError):
    """Yours: this is asked of nodes that are several."""


class HeldUnbound(CallerError):
    """Yours: a tenant without a quota is to get one, and holds something already."""


class NoArenas(CallerError):
    """Yours: this store's medium has no parts that come and go."""


class InstanceMismatch(CallerError):
    """Yours: two processes of one engine instance declare different groups."""


class UnknownSecret(CallerError):
    """Yours: no session has this secret. It may have ended; attach again."""


class Denied(CallerError):
    """Yours: the token that you came with, or the node that you are, does not stand for that."""


class UnknownNamespace(CallerError):
    """Yours: no session has declared this namespace to this node."""


class MovesNoBytes(CallerError):
    """Yours: this session declared no shard of its own, so it can neither read nor write objects."""


class NoPushes(CallerError):
    """Theirs: the node is not configured to push prompts to other nodes, or to take them in. Says what to configure."""


class RankTaken(CallerError):
    """Theirs: another living session holds the reader slot of this rank."""


class TooManySessions(CapacityError):
    """Nobody's: the node is at its bound of attached and lost sessions."""


class TooManyNamespaces(CapacityError):
    """Nobody's: the node is at its bound of namespaces that sessions are attached for, or of their geometries."""


class TooManyInFlight(CapacityError):
    """Nobody's: the session is at its bound of leases, tickets or unanswered requests."""


class TooManyPins(CapacityError):
    """Nobody's: as much is pinned for operators as may be. Says which bound, and by how much."""


class QuarantineFull(CapacityError):
    """Nobody's: so much memory of this engine waits for proof that nobody writes it, that it gets no new lease."""


class TicketOver(StaleError):
    """History: the ticket was cancelled, expired or never existed."""


class WriteOver(StaleError):
    """History: the reservation was committed, aborted or expired, or is another session's."""


class PromptForgotten(StaleError):
    """History: the prompt a delta builds on is not remembered any more. Send it whole."""


class Draining(UnavailableError):
    """Ours: the node is stopping and admits no new sessions."""


class TooManyTenants(CapacityError):
    """Nobody's: the node is at its bound of tenants of whom something is in L1."""


class SessionOver(StaleError):
    """History: the session was ended while its request was under way."""


class VersionMismatch(CallerError):
    """Theirs: client and node speak no common version of the protocol."""


class StoreBusy(CapacityError):
    """Nobody's: as many batches wait for this store as may."""


class StoreClogged(StoreBusy):
    """Theirs: loads that nobody waits for any more are still with the store, which does not answer."""


class MediumRefused(UnavailableError):
    """Theirs: what a disk holds is not for us to use. The branches say why."""
