"""What the pushes that a receiver takes in have in common: its budget, its shelf, whom it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from penstock.actors.api import l1
from penstock.actors.api.gateway import Gateway
from penstock.actors.api.loader import Loader
from penstock.actors.api.pd_wire import Offer, Reason, TransferId
from penstock.actors.api.peers import PeerLink, Peers
from penstock.actors.api.types import Epoch, Memory, TicketId
from penstock.actors.core.pd_budget import ReceiveBudget
from penstock.actors.core.pd_session import Patience
from penstock.actors.locating import News
from penstock.actors.pd_config import PdConfig
from penstock.actors.pd_lane import Lane
from penstock.actors.pd_memory import PartMemory, Shelf
from penstock.actors.pd_metrics import ReceivedMetrics, SentMetrics
from penstock.actors.room import Room
from penstock.actors.stores.digests import Digester
from penstock.actors.telling import Telling
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref


class Waiter(Protocol):
    """A request, as those see it who bring something for it."""

    def tickets(self) -> tuple[tuple[TicketId, int], ...]:
        """Of whom L1 is to be told, each up to so many chunks."""

    def moved(self, hits: Mapping[TicketId, int]) -> None:
        """Watermarks of tickets, some of them its own, as they are now; -1: it is over."""

    def stir(self) -> None:
        """Something it may wait for has come, or ended."""

    def look_again(self) -> None:
        """What it waits for of another push has landed, and L1 was not told of its tickets."""

    def lost(self, memory: PartMemory) -> None:
        """What it waited for of another push will not come."""


def tickets_of(waiters: Iterable[Waiter]) -> tuple[tuple[TicketId, int], ...]:
    """Whom L1 is to be told of."""
    return tuple(dict.fromkeys(one for waiter in waiters for one in waiter.tickets()))


def tell_moved(
    waiters: Iterable[Waiter], tickets: Iterable[tuple[TicketId, int]], hits: Iterable[int]
) -> None:
    """What L1 has answered, parallel to `tickets`."""
    by_ticket = dict(zip((ticket for ticket, _ in tickets), hits, strict=True))
    for waiter in waiters:
        waiter.moved(by_ticket)


@dataclass(slots=True)
class Counters:
    """Of pushes that are over, and their objects."""

    committed: int = 0
    failed: int = 0
    bytes_verified: int = 0


@dataclass(slots=True)
class ReceiverAround:
    """Belongs to one life of the receiver."""

    limits: PdConfig
    patience: Patience
    epoch: Epoch
    ask_s: float  # how long L1 may take for a step
    l1: Ref[l1.L1Manager]
    memory: Memory
    digester: Digester
    telling: Telling
    log: Log
    metrics: ReceivedMetrics
    admitted: Callable[[TransferId, int], None]  # tells a push that it is its turn
    budget: ReceiveBudget[TransferId] = field(init=False)
    room: News = field(default_factory=News)  # something of the budget's memory was let go of
    reserving: asyncio.Lock = field(default_factory=asyncio.Lock)  # until it is on the shelf
    counters: Counters = field(default_factory=Counters)
    shelf: Shelf = field(default_factory=WeakValueDictionary)
    _waiting: WeakKeyDictionary[PartMemory, dict[Waiter, None]] = field(
        default_factory=WeakKeyDictionary
    )  # for parts that other pushes bring

    def __post_init__(self) -> None:
        self.budget = ReceiveBudget(self.limits.receive, ageing_s=self.limits.ageing)

    # The budget.

    def ask_budget(self, offer: Offer, size_bytes: int) -> None:
        """Raises OverBudget."""
        self.budget.ask(offer.transfer, size_bytes, priority=offer.priority, now=_now())

    def pump(self) -> None:
        """Admit whose turn it is."""
        for one in self.budget.admit(_now()):
            self.admitted(one.name, one.bytes)

    def give_back(self, transfer: TransferId, size_bytes: int) -> None:
        """Memory that nobody writes or reads any more, but whom L1 knows of."""
        if size_bytes:
            self.budget.give_back(transfer, size_bytes)
            self.room.tell()
            self.pump()

    def withdraw(self, transfer: TransferId) -> None:
        self.budget.withdraw(transfer)
        self.pump()

    # Requests that wait for the same.

    def wait_for(self, memory: PartMemory, waiter: Waiter) -> None:
        self._waiting.setdefault(memory, {})[waiter] = None

    def waiters_of(self, memory: PartMemory, own: Waiter) -> tuple[Waiter, ...]:
        """The request that a part is for, and those that wait for it."""
        return (*({own: None} | self._waiting.get(memory, {})),)

    def lost(self, memory: PartMemory) -> None:
        """It will not come."""
        for waiter in self._waiting.pop(memory, {}):
            waiter.lost(memory)

    def ended(self, reason: Reason | None) -> None:
        """A push is over."""
        self.metrics.over(reason)
        if reason is None:
            self.counters.committed += 1
        else:
            self.counters.failed += 1


@dataclass(frozen=True, slots=True)
class SenderAround:
    """What the pushes of a sender have in common."""

    limits: PdConfig
    patience: Patience
    ask_s: float  # how long another actor may take for a step
    l1: Ref[l1.L1Manager]
    peers: Ref[Peers]
    memory: Memory
    room: Room  # of what is being sent
    loader: Ref[Loader]
    watcher: Ref[Gateway]
    lane_of: Callable[[PeerLink], Lane]
    metrics: SentMetrics
    log: Log


def patience_of(limits: PdConfig) -> Patience:
    """What the sessions of both sides are given."""
    return Patience(limits.allocation, limits.transfer, limits.idle, limits.query)


def _now() -> float:
    return asyncio.get_running_loop().time()
