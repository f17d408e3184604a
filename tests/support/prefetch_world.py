"""A node's inside on virtual time: a real table, L1 manager, eviction controller and prefetcher, and fake stores."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from unittest import mock

import anyio
from support.declarations import keys
from support.fake_actors import fake_gateway
from support.fake_store import StoreWorld, digest_of, payload

from penstock import _native
from penstock.actors.api import eviction, gateway, l1, prefetch
from penstock.actors.api.types import (
    Afterwards,
    GeometryId,
    GroupGeometry,
    HitRule,
    InstanceId,
    SessionId,
    Shape,
    Shortfall,
    TicketId,
)
from penstock.actors.core.quota import Tenants
from penstock.actors.core.watches import Watches
from penstock.actors.eviction_controller import EvictionController, Watermarks
from penstock.actors.l1_geometries import longest_hit
from penstock.actors.l1_manager import L1Manager
from penstock.actors.loads import Tier
from penstock.actors.object_keys import object_keys
from penstock.actors.prefetcher import Prefetcher
from penstock.actors.surroundings import FetchLimits, PrefetchLimits
from penstock.runtime.hazard import Hazards
from penstock.runtime.message import NOT_AT_ONCE
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import Simulation
from penstock.runtime.supervisor import ChildSpec, Supervisor, supervise
from penstock.runtime.telemetry import Telemetry

PAGE = 4096
NAMESPACE = b"n" * 32
SMALL = b"small"  # a salt
FULL = (GroupGeometry(HitRule.FULL, 0, (PAGE,), (2,)),)
SHARDED = (GroupGeometry(HitRule.FULL, 0, (PAGE, PAGE - 100), (2, 2)),)
HYBRID = (
    GroupGeometry(HitRule.FULL, 0, (PAGE,), (2,)),
    GroupGeometry(HitRule.WINDOW, 2, (PAGE - 8,), (1,)),
    GroupGeometry(HitRule.STATE, 0, (100,), (1,)),
)
LARGE = (GroupGeometry(HitRule.FULL, 0, (33 * PAGE,), (2,)),)  # one chunk is not at hand
HYBRID_SHARDED = (
    GroupGeometry(HitRule.FULL, 0, (PAGE, PAGE), (2, 2)),
    GroupGeometry(HitRule.WINDOW, 2, (PAGE - 8, PAGE - 16), (1, 1)),
    GroupGeometry(HitRule.STATE, 0, (100, 200), (1, 1)),
)
_EXTENT = struct.Struct("<QQQ")


class ArenaBytes:
    """Memory of an arena, that a test looks into."""

    def __init__(self, count: int) -> None:
        self._bytes = bytearray(count)

    def view(self, offset: int, bytes: int) -> memoryview:  # noqa: A002 - as `_native.Arena` has it
        assert offset + bytes <= len(self._bytes)
        return memoryview(self._bytes)[offset : offset + bytes]


@dataclass
class Watched:
    """A lookup, as the engine that made it sees it."""

    ticket: TicketId
    keys: bytes
    hit: int
    promised: int
    shortfall: Shortfall = Shortfall.NONE
    hits: list[int] = field(default_factory=list)  # every one that was told, in order

    @property
    def is_final(self) -> bool:
        return self.hit == self.promised


@dataclass(frozen=True)
class WorldConfig:
    groups: tuple[GroupGeometry, ...] = FULL
    pages: int = 64
    tiers: int = 1
    kept: tuple[bool, ...] = (True, True, True)
    tickets_max: int = 16
    inflight_bytes_max: int = 1 << 20
    batch_bytes: int = 4 * PAGE
    locate_s: float = 0.5
    load_s: float = 5.0
    slice_chunks: int = 4
    leases_max: int = 4096
    quota_pages: int = 0  # of the tenant SMALL; 0: none
    is_at_hand: bool = False  # lookups are brought in their own step where that is possible


class World:
    """Session 1 of instance 1 looks up; everything else is the node's."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.shape = Shape.of(GeometryId(0), NAMESPACE, config.groups)
        self.stores = [StoreWorld(f"s{number}") for number in range(config.tiers)]
        self.memory = ArenaBytes(config.pages * PAGE)
        self.telemetry = Telemetry()
        self.gateway = fake_gateway(messages_max=4096)
        self.l1: Ref[l1.L1Manager] = Ref.to(l1.L1Manager, "l1_manager", messages_max=256)
        self.eviction: Ref[eviction.EvictionController] = Ref.to(
            eviction.EvictionController, "eviction_controller", messages_max=64
        )
        self.prefetcher: Ref[prefetch.Prefetcher] = Ref.to(
            prefetch.Prefetcher, "prefetcher", messages_max=64
        )
        self.table = _native.Table(
            arena_bytes=config.pages * PAGE,
            objects_max=4096,
            policy=_native.Policy.LRU,
            quarantine_bytes_max=config.pages * PAGE,
            leases_max=config.leases_max,
        )
        self.actor: Prefetcher | None = None  # its present life
        self.watched: dict[TicketId, Watched] = {}
        self.geometry = GeometryId(0)
        self._numbers = itertools.count(1)

    def specs(self) -> Sequence[ChildSpec]:
        config = self.config
        arena_bytes = config.pages * PAGE
        marks = Watermarks.of(
            arena_bytes, low=1.0, high=1.0, batch_bytes=1 << 20, batch_chunks=64, ask_s=1.0
        )
        return (
            ChildSpec(self.l1, self._make_l1, restarts_max=0),
            ChildSpec(self.eviction, lambda: EvictionController(self.l1, marks)),
            *(one.spec for one in self.stores),
            ChildSpec(self.prefetcher, self._make_prefetcher, drain_s=0.1),
        )

    def _make_l1(self) -> L1Manager:
        return L1Manager(
            self.table,
            arena_bytes=self.config.pages * PAGE,
            high_water_bytes=self.config.pages * PAGE,
            watches=Watches(watches_max=64, chunks_max=4096),
            tenants=Tenants(
                tenants_max=8,
                default_bytes_max=0,
                bytes_max={SMALL: self.config.quota_pages * PAGE},
                bytes_of=self.table.bytes_of,
            ),
            telemetry=self.telemetry,
            eviction_controller=self.eviction,
        )

    def _make_prefetcher(self) -> Prefetcher:
        config = self.config
        self.actor = Prefetcher(
            tiers=[
                Tier(one.ref.name, one.ref, kept, config.locate_s, config.load_s)
                for one, kept in zip(self.stores, config.kept, strict=False)
            ],
            manager=self.l1,
            evictor=self.eviction,
            memory=self.memory,
            longest=longest_hit,
            limits=PrefetchLimits(
                config.tickets_max,
                config.inflight_bytes_max,
                FetchLimits(config.slice_chunks, config.batch_bytes, 2, 1.0, 1.0),
            ),
            telemetry=self.telemetry,
        )
        return self.actor

    async def begin(self) -> None:
        add = l1.AddGeometry(self.config.groups, NAMESPACE)
        self.geometry = await self.l1.ask(add, within=1)
        await self.l1.ask(l1.Attach(SessionId(1), InstanceId(1)), within=1)
        self.gateway.answers[gateway.TicketMoved] = self._hear

    def _hear(self, news: gateway.TicketMoved) -> None:
        watched = self.watched.get(news.ticket)
        if watched is not None:
            assert news.hit_chunks >= watched.hit, "a watermark went back"
            assert not watched.is_final, "a final watermark moved"
            watched.hit, watched.promised = news.hit_chunks, news.promised_chunks
            watched.shortfall = news.shortfall
            watched.hits.append(news.hit_chunks)

    # What engines do.

    async def lookup(
        self,
        prompt: bytes,
        *,
        load_s: float = 10.0,
        ticket_s: float = 60.0,
        prefill_tokens_per_s: int = 0,
        afterwards: Afterwards = Afterwards.KEEP,
        salt: bytes = b"",
    ) -> Watched:
        """As the gateway: ask L1, and tell the prefetcher what is missing."""
        ticket = TicketId(next(self._numbers).to_bytes(16, "big"))
        asked = l1.Lookup(
            ticket,
            prompt,
            self.geometry,
            SessionId(1),
            InstanceId(1),
            4,
            ticket_s,
            self.gateway.ref,
            self.prefetcher,
            afterwards,
        )
        watched = self.watched[ticket] = Watched(ticket, prompt, 0, len(prompt) // 32)
        hit = await self.l1.ask(asked, within=1)
        watched.hit, watched.promised = max(watched.hit, hit.hit_chunks), hit.promised_chunks
        if hit.is_hoped:
            want = self.fetch_of(
                watched,
                prompt,
                hit_chunks=hit.hit_chunks,
                load_s=load_s,
                ticket_s=ticket_s,
                prefill_tokens_per_s=prefill_tokens_per_s,
                afterwards=afterwards,
                salt=salt,
            )
            finished = self.prefetcher.ask_now(prefetch.FetchNow(want))
            if finished is NOT_AT_ONCE:
                self.prefetcher.tell_nowait(want)
            elif finished is not None:
                watched.hit, watched.promised = finished.hit_chunks, finished.promised_chunks
        return watched

    def fetch_of(
        self,
        watched: Watched,
        prompt: bytes,
        *,
        hit_chunks: int,
        load_s: float = 10.0,
        ticket_s: float = 60.0,
        prefill_tokens_per_s: int = 0,
        afterwards: Afterwards = Afterwards.KEEP,
        salt: bytes = b"",
    ) -> prefetch.Fetch:
        """What the gateway tells the prefetcher of a lookup."""
        return prefetch.Fetch(
            ticket=watched.ticket,
            session=SessionId(1),
            instance=InstanceId(1),
            shape=self.shape,
            keys=prompt,
            salt=salt,
            hit_chunks=hit_chunks,
            load_s=load_s,
            ticket_s=ticket_s,
            chunk_tokens=16,
            prefill_tokens_per_s=prefill_tokens_per_s,
            afterwards=afterwards,
        )

    async def wait_final(self, watched: Watched, *, within: float = 20.0) -> int:
        with anyio.fail_after(within):
            while not watched.is_final:  # noqa: ASYNC110 - virtual time
                await anyio.sleep(0.001)
        return watched.hit

    async def read(self, watched: Watched, *, rank: int = 0) -> int:
        """Acquire all that is hit and look at every byte. Gives how many objects there were."""
        slots = tuple(range(len(self.shape.slots)))
        acquire = l1.Acquire(watched.ticket, SessionId(1), rank, slots, 0, 5.0)
        lease = await self.l1.ask(acquire, within=1)
        assert lease.chunks >= watched.hit
        count = 0
        names = object_keys(self.shape, watched.keys[: lease.chunks * 32], slots)
        for name, (offset, size, digest) in zip(
            names, _EXTENT.iter_unpack(lease.extents.packed), strict=True
        ):
            if size == 0:
                continue
            count += 1
            assert bytes(self.memory.view(offset, size)) == payload(name, size), "wrong bytes"
            assert digest == digest_of(name)
        assert await self.l1.ask(l1.Release(lease.lease, SessionId(1), ()), within=1)
        return count

    async def close(self, watched: Watched) -> None:
        close = l1.CloseTickets((watched.ticket,), InstanceId(1), SessionId(1))
        await self.l1.ask(close, within=1)
        del self.watched[watched.ticket]

    async def store(self, prompt: bytes, chunks: range) -> None:
        """An engine writes these chunks, as whole as a store would load them."""
        await self.write(prompt, chunks, await self.reserve(prompt, chunks))

    async def reserve(
        self, prompt: bytes, chunks: range, *, lease_s: float = 10.0
    ) -> l1.WriteLease:
        """It is going to write these chunks."""
        slots = tuple(range(len(self.shape.slots)))
        part = prompt[chunks.start * 32 : chunks.stop * 32]
        parent = prompt[max(0, chunks.start - 1) * 32 : chunks.start * 32]
        reserve = l1.Reserve(part, parent, self.geometry, slots, b"", SessionId(1), lease_s)
        lease = await self.l1.ask(reserve, within=1)
        assert set(lease.answers) == {0}
        return lease

    async def write(self, prompt: bytes, chunks: range, lease: l1.WriteLease) -> None:
        """It has written them."""
        slots = tuple(range(len(self.shape.slots)))
        digests = b""
        names = object_keys(self.shape, prompt[chunks.start * 32 : chunks.stop * 32], slots)
        for name, (offset, size, _) in zip(
            names, _EXTENT.iter_unpack(lease.extents.packed), strict=True
        ):
            self.memory.view(offset, size)[:] = payload(name, size)
            digests += digest_of(name).to_bytes(8, "little")
        done = l1.Commit(lease.lease, SessionId(1), (), digests, b"")
        assert set((await self.l1.ask(done, within=1)).outcomes) == {0}

    # Oracles.

    async def usage(self) -> l1.Usage:
        self.table.validate()
        if self.actor is not None:
            self.actor.validate()
        return await self.l1.ask(l1.Measure(), within=1)

    async def assert_nothing_is_held(self) -> l1.Usage:
        """No load, no lease, no memory that is neither free nor resident."""
        await anyio.sleep(0.1)
        usage = await self.usage()
        assert (usage.reserved_bytes, usage.loaded_bytes, usage.quarantined_bytes) == (0, 0, 0)
        assert (usage.leases, usage.overdue_leases) == (0, 0)
        return usage


def play(
    seed: int,
    scene: Callable[[World, Supervisor], Awaitable[None]],
    config: WorldConfig | None = None,
    *,
    hazards: Hazards | None = None,
) -> None:
    """Run a scene in a world of its own, on virtual time."""

    async def main() -> None:
        world = World(config or WorldConfig())
        with mock.patch("penstock.actors.l1_manager.wait_readable", _soon):
            async with supervise(*world.specs()) as supervisor:
                await supervisor.start(world.gateway.spec)
                await world.begin()
                await scene(world, supervisor)

    simulation = Simulation(seed, hazards=hazards)
    simulation.loop.permutes_steps = not (config or WorldConfig()).is_at_hand
    simulation.run(main)


async def _soon(*_: object) -> None:
    """In the place of a descriptor that becomes readable: there are none on virtual time."""
    await anyio.sleep(0.01)


def prompt(chunks: int, name: str = "prompt") -> bytes:
    return keys(chunks, prompt=name)


def now() -> float:
    return asyncio.get_running_loop().time()
