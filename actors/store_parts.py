"""What the parts of a store actor share while its store is open."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio

from penstock.actors.core.admission import AdmissionLimits
from penstock.actors.core.admission import Work as Admitted
from penstock.actors.core.breaker import Breaker, BreakerLimits
from penstock.actors.core.catalog import Catalog
from penstock.actors.core.retry import RetryLimits
from penstock.actors.core.speed import Speedometer
from penstock.actors.core.store_ledger import LedgerLimits, Shelf, StoreLedger
from penstock.actors.store_guard import Guard
from penstock.actors.store_metrics import Op, StoreMetrics
from penstock.actors.store_turns import ChangeTurns, Gate
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.digests import Digester
from penstock.actors.stores.routing import routing_of
from penstock.actors.stores.store import (
    EagerStore,
    KnowingStore,
    Ownership,
    QuickStore,
    Store,
    StoreRefused,
    places_of,
)
from penstock.runtime.log import Log
from penstock.runtime.telemetry import Telemetry

Job = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class StoreTools:
    """What a store actor is given by the composition root, beside its store and its configuration."""

    make_catalog: Callable[[int], Catalog]  # of a capacity in bytes
    quotas: Mapping[bytes, int]  # bytes by tenant digest
    draw: Callable[[], float]  # 0 to 1, for jitter
    digester: Digester


@dataclass(slots=True)
class Written:
    """What this node wrote to a store it shares, in this life: all that is known of its usage."""

    bytes: int = 0
    objects: int = 0

    def add(self, size_bytes: int, objects: int) -> None:
        self.bytes += size_bytes
        self.objects += objects


@dataclass(slots=True)
class Recovery:
    """How counting what is there goes on."""

    trouble: str = ""  # why it has to begin again


class Suspect(NamedTuple):
    """An object that could not be loaded."""

    key: bytes
    device: int
    header_bytes: int
    payload_bytes: int


UNUSABLE_MAX = 65536  # keys that are remembered


@dataclass(slots=True)
class Unusable:
    """Objects of ours that are there, and are not what was asked for. Saves do not keep them young, so that they go
    some day, if nobody else can use them."""

    keys: dict[bytes, None] = field(
        default_factory=dict
    )  # longest known first; len <= UNUSABLE_MAX

    def add(self, key: bytes) -> None:
        self.keys[key] = None
        if len(self.keys) > UNUSABLE_MAX:
            del self.keys[next(iter(self.keys))]


@dataclass(slots=True)
class Owed:
    """Objects that may be on the medium though their save failed, until they are deleted."""

    objects: Counter[int] = field(default_factory=Counter)  # by place; none is 0

    def add(self, place: int) -> None:
        self.objects[place] += 1

    def paid(self, place: int) -> None:
        self.objects[place] -= 1
        if not self.objects[place]:
            del self.objects[place]


@dataclass(slots=True)
class LastSuspect:
    """What a probe tries to load."""

    target: Suspect | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """All of it belongs to the loop thread."""

    config: StoreConfig
    store: Store
    quick: QuickStore | None  # the same, if it is one
    eager: EagerStore | None  # likewise
    knowing: KnowingStore | None  # likewise
    place_of: Callable[[bytes, int], int]  # of its medium
    owed: Owed
    ledger: StoreLedger | None  # None: the store is shared, its usage is not ours to keep
    written: Written  # to a shared one
    recovery: Recovery
    recovered: asyncio.Event  # set: the ledger has all that was there before
    unusable: Unusable
    gate: Gate
    turns: ChangeTurns
    room: anyio.Lock  # one at a time makes room
    reads: Guard
    writes: Guard
    metrics: StoreMetrics
    suspect: LastSuspect
    speed: Speedometer
    digester: Digester
    start_soon: Callable[[Job], None]
    log: Log

    @property
    def objects(self) -> int:
        return self.written.objects if self.ledger is None else self.ledger.objects

    @property
    def used_bytes(self) -> int:
        return self.written.bytes if self.ledger is None else self.ledger.used_bytes

    @property
    def capacity_bytes(self) -> int:
        return 0 if self.ledger is None else self.ledger.capacity_bytes

    @property
    def books(self) -> StoreLedger | None:
        """The ledger, when it tells all."""
        return self.ledger if self.recovered.is_set() else None


def open_parts(
    store: Store,
    *,
    config: StoreConfig,
    tools: StoreTools,
    telemetry: Telemetry,
    start_soon: Callable[[Job], None],
) -> Parts:
    """Around a store that has just been opened. Raises StoreRefused for an exclusive one of unknown capacity."""
    metrics = StoreMetrics(telemetry, config.name)
    given = config.breaker
    place_of = places_of(store).place_of
    open_s_max = max(given.open_for, given.open_for_max)
    limits = BreakerLimits(given.failures, given.window, given.open_for, open_s_max)

    def guard(side: str, op: Op) -> Guard:
        return Guard(
            f"store[{config.name}].{side}",
            Breaker(limits),
            RetryLimits(config.attempts_max),
            draw=tools.draw,
            on_retry=lambda: metrics.retried(op),
            place_of=place_of,
        )

    admission = AdmissionLimits(
        config.loads_max,
        config.saves_max,
        config.inflight_bytes_max,
        config.waiting_max,
        routing_of(config).places,
    )
    return Parts(
        config=config,
        store=store,
        quick=store if isinstance(store, QuickStore) else None,
        eager=store if isinstance(store, EagerStore) else None,
        knowing=store if isinstance(store, KnowingStore) else None,
        place_of=place_of,
        owed=Owed(),
        ledger=_ledger(store, config, tools) if store.ownership is Ownership.EXCLUSIVE else None,
        written=Written(),
        recovery=Recovery(),
        recovered=asyncio.Event(),
        unusable=Unusable(),
        gate=Gate(admission),
        turns=ChangeTurns(),
        room=anyio.Lock(),
        reads=guard("reads", Op.LOAD),
        writes=guard("writes", Op.SAVE),
        metrics=metrics,
        suspect=LastSuspect(),
        speed=Speedometer(),
        digester=tools.digester,
        start_soon=start_soon,
        log=Log(f"store[{config.name}]"),
    )


def _ledger(store: Store, config: StoreConfig, tools: StoreTools) -> StoreLedger:
    capacity = capacity_of(store, config)
    places = places_of(store)
    bounds = places.places_bytes or (capacity,)
    shares = [bound * capacity // max(capacity, sum(bounds)) for bound in bounds]
    limits = LedgerLimits(
        objects_max=config.objects_max,
        tenants_max=config.tenants_max,
        tenant_bytes_max=config.tenant_bytes_max,
        quotas=tools.quotas,
    )
    shelves = [Shelf(tools.make_catalog(share), share) for share in shares]
    return StoreLedger(shelves, limits, places.place_of)


def capacity_of(store: Store, config: StoreConfig) -> int:
    """Bytes it may hold now. Raises StoreRefused."""
    bounds = [int(bound) for bound in (config.capacity, store.capacity_bytes) if bound]
    if not bounds:
        problem = "nothing says how much it may hold: give a capacity, such as 100GiB"
        raise StoreRefused(f"stores.{config.name}.capacity", problem)
    return min(bounds)


def watch_levels(parts: Parts) -> None:
    """From now on metrics tell of these parts."""
    gate = parts.gate
    parts.metrics.watch(
        levels={
            "used_bytes": (
                "Bytes of the medium taken, headers included.",
                lambda: parts.used_bytes,
            ),
            "capacity_bytes": ("Bytes it may take; 0: not ours.", lambda: parts.capacity_bytes),
            "objects": ("Objects on it, as far as it is known.", lambda: parts.objects),
            "owed_objects": (
                "Objects to be deleted, as their save failed and may have been carried out.",
                parts.owed.objects.total,
            ),
        },
        waiting={
            Op.LOAD.value: lambda: gate.waiting(Admitted.LOAD),
            Op.SAVE.value: lambda: gate.waiting(Admitted.SAVE),
        },
        breakers={"reads": lambda: parts.reads.state, "writes": lambda: parts.writes.state},
    )
