"""What the table refuses, in our words: whose deed it was, and which field of the request."""

from __future__ import annotations

from collections.abc import Callable

from penstock import _native
from penstock.actors.api import errors, l1
from penstock.runtime.errors import PenstockError


def _of(make: Callable[[str], PenstockError]) -> Callable[[str], PenstockError]:
    """The table's sentence without the name of its class, which `mapped` puts before it: it is complete as it is."""
    return lambda said: make(said.partition(": ")[2] or said)


REFUSALS: dict[type[BaseException], Callable[[str], PenstockError]] = {
    _native.TicketUnknown: _of(errors.TicketOver),
    _native.RankTaken: _of(errors.RankTaken),
    _native.QuarantineFull: _of(errors.QuarantineFull),
    _native.SessionUnknown: _of(errors.SessionOver),
    _native.GeometryUnknown: _of(errors.UnknownNamespace),
    _native.TableFull: _of(errors.TooManyInFlight),
    _native.BadKeys: _of(lambda problem: errors.InvalidField("prompt", problem)),
    _native.BadArgument: _of(lambda problem: errors.InvalidField("request", problem)),
}


def bad_acquire(
    msg: l1.Acquire, *, ticket_chunks: int, refused: _native.BadArgument
) -> errors.InvalidField:
    """Which of the two that the caller chose it was."""
    if msg.first_chunk > ticket_chunks:
        problem = f"at most {ticket_chunks}, the ticket's chunks, not {msg.first_chunk}"
        return errors.InvalidField("acquire.first_chunk", problem)
    return errors.InvalidField("acquire.rank", f"{refused}: give one below Lookup.readers")


def bad_release(refused: _native.BadArgument) -> errors.InvalidField:
    return errors.InvalidField("release.damaged", str(refused))


def bad_commit(refused: _native.BadArgument) -> errors.InvalidField:
    """Its indices, digests and runs must fit each other, and the reservation."""
    return errors.InvalidField("commit", str(refused))
