"""Watched tickets: whatever the table says to one of them is that one's end, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_actors import fake_gateway

from penstock import _native
from penstock.actors.api import gateway
from penstock.actors.api.types import GeometryId, SessionId, TicketId
from penstock.actors.core.watches import Watch, Watches
from penstock.actors.l1_watching import Watching

REFUSALS = (
    _native.TicketUnknown,
    _native.GeometryUnknown,
    _native.TableFull,
    _native.BadKeys,
    _native.SessionUnknown,
)


class Table(_native.Table):
    """Every ticket has grown to 2 of 3 chunks; those in `refuses` are refused."""

    def __init__(self) -> None:
        super().__init__(
            arena_bytes=4096,
            objects_max=64,
            policy=_native.Policy.LRU,
            quarantine_bytes_max=4096,
        )
        self.refuses: dict[bytes, type[_native.TableError]] = {}

    def follow(self, ticket: bytes, keys: bytes, *, now: float) -> Any:
        if (refusal := self.refuses.get(ticket)) is not None:
            raise refusal("no")
        return SimpleNamespace(hit=2, promised=3)

    step = follow


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize(("event", "promised"), [(Watching.advance, 4), (Watching.look_again, 3)])
def test_a_watch_the_table_refuses_ends_alone_and_hears_so(
    refusal: type[_native.TableError], event: Callable[[Watching, float], None], promised: int
) -> None:
    """A8, B11: an innocent's step moves the watermarks. What goes wrong with one is told to its own watcher.

    Seen to fail with only TicketUnknown caught: the refusal came out of somebody else's Commit.
    """
    table = Table()
    watching = Watching(table, Watches(watches_max=4, chunks_max=64))
    watcher = fake_gateway()
    tickets = [TicketId(bytes([number]) * 16) for number in range(3)]
    for number, ticket in enumerate(tickets):
        watch = Watch(ticket, SessionId(number), bytes(4 * 32), GeometryId(0), 1, 4, expires=9.0)
        watching.begin(watch, watcher.ref)
    table.refuses[tickets[1]] = refusal
    event(watching, 1.0)  # a commit costs what is new: what is promised stays
    news = [envelope.msg for envelope in watcher.ref.mailbox.queue]
    assert [(one.session, one.hit_chunks, one.promised_chunks) for one in news] == [
        (0, 2, promised),
        (1, 1, 1),
        (2, 2, promised),
    ]
    assert all(isinstance(one, gateway.TicketMoved) for one in news)
    assert [watching.has(ticket) for ticket in tickets] == [True, False, True]
