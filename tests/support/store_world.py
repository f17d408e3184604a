"""One store actor under supervision, and what a test knows of what it asked of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from penstock._native import Catalog, Policy
from penstock.actors.api import store as api
from penstock.actors.api.store import Loaded, LoadOutcome, Saved, Source, Target
from penstock.actors.core.store_ledger import PUT_MAX
from penstock.actors.store_actor import StoreActor
from penstock.actors.store_parts import StoreTools
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.digests import Digester
from penstock.actors.stores.memory import MemoryConfig
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import NAMESPACE, Sample
from penstock.actors.stores.store import Store
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildSpec, Supervisor, supervise
from penstock.runtime.telemetry import Telemetry
from penstock.runtime.units import MIB, ByteSize

OpenStore = Callable[[], Awaitable[Store]]


def config(**given: Any) -> MemoryConfig:
    """Of a store called "tested"; 8 MiB unless told otherwise."""
    return MemoryConfig(**{"name": "tested", "capacity": ByteSize(8 * MIB), **given})


def source(sample: Sample, *, tenant: bytes = b"", hold: object = None) -> Source:
    return Source(
        key=sample.key,
        device=sample.device,
        namespace=NAMESPACE,
        logical_bytes=sample.logical_bytes,
        digest=sample.digest,
        run_digests=sample.digest.to_bytes(8, "little"),
        tenant=tenant,
        payload=sample.payload,
        hold=hold,
    )


def target(sample: Sample, *, hold: object = None, **changed: Any) -> Target:
    given: dict[str, Any] = {
        "key": sample.key,
        "device": sample.device,
        "namespace": NAMESPACE,
        "logical_bytes": sample.logical_bytes,
        "runs": 1,
        "payload": fresh_pages([len(sample.payload)])[0],
        "hold": hold,
    }
    return Target(**{**given, **changed})


@dataclass
class StoreWorld:
    ref: Ref[api.StoreActor]
    telemetry: Telemetry
    supervisor: Supervisor
    lives: list[StoreActor] = field(default_factory=list)

    @property
    def actor(self) -> StoreActor:
        """Of the present life."""
        return self.lives[-1]

    async def save(self, *sources: Source, within: float = 60.0) -> tuple[Saved, ...]:
        return await self.ref.ask(api.Save(sources), within=within)

    async def load(self, *targets: Target, within: float = 60.0) -> tuple[Loaded, ...]:
        return await self.ref.ask(api.Load(targets), within=within)

    async def measure(self) -> api.StoreUsage:
        return await self.ref.ask(api.Measure(), within=10.0)

    async def fetch(self, *samples: Sample, within: float = 60.0) -> list[LoadOutcome]:
        """Load them, and see for oneself that what is said to be loaded is what was saved."""
        targets = [target(one) for one in samples]
        loaded = await self.load(*targets, within=within)
        for one, into, answer in zip(samples, targets, loaded, strict=True):
            if answer.outcome is LoadOutcome.LOADED:
                assert bytes(into.payload[: one.logical_bytes]) == bytes(
                    one.payload[: one.logical_bytes]
                ), "wrong bytes were called loaded"
                assert answer.digest == one.digest
                assert answer.run_digests == one.digest.to_bytes(8, "little")
        return [answer.outcome for answer in loaded]

    async def wait_recovered(self) -> None:
        parts = self.actor._parts
        assert parts is not None
        await parts.recovered.wait()

    def metric(self, name: str, **labels: str) -> float:
        return self.telemetry.value(f"penstock_store_{name}", store="tested", **labels) or 0.0

    def check_books(self) -> None:
        """What the ledger says is sound and within the capacity."""
        parts = self.actor._parts
        if parts is not None and parts.ledger is not None:
            parts.ledger.validate()
            parts.gate._admission.validate()
            if parts.recovered.is_set():
                assert parts.ledger.used_bytes <= parts.ledger.capacity_bytes


@asynccontextmanager
async def store_world(
    open_store: OpenStore,
    settings: StoreConfig,
    *,
    quotas: dict[bytes, int] | None = None,
    telemetry: Telemetry | None = None,
    inline_bytes_max: int = 64 * MIB,
    drain_s: float = 5.0,
) -> AsyncIterator[StoreWorld]:
    """Digests are taken in the loop's own step unless told otherwise: a simulated world has no threads."""
    telemetry = telemetry or Telemetry()
    ref = Ref.to(api.StoreActor, f"store[{settings.name}]", messages_max=256)
    lives: list[StoreActor] = []
    tools = StoreTools(
        make_catalog=lambda capacity: Catalog(
            objects_max=settings.objects_max + PUT_MAX, capacity_bytes=capacity, policy=Policy.LRU
        ),
        quotas=quotas or {},
        draw=random.random,
        digester=Digester(inline_bytes_max=inline_bytes_max),
    )

    def make() -> StoreActor:
        actor = StoreActor(open_store, config=settings, tools=tools, telemetry=telemetry)
        lives.append(actor)
        return actor

    async with supervise(ChildSpec(ref, make, drain_s=drain_s), name="world") as supervisor:
        yield StoreWorld(ref, telemetry, supervisor, lives)
