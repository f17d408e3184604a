"""The L1 manager between two loaders: each has its part of the arena, its tickets, and its own beginning."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from struct import iter_unpack
from unittest import mock

import pytest
from support.declarations import OBJECT_BYTES, declaration, keys
from support.fake_actors import Fake, fake_eviction, fake_gateway, never

from penstock import _native
from penstock.actors.api import eviction, gateway, l1, l1_loading, loader, pd, prefetch
from penstock.actors.api.types import GeometryId, InstanceId, Pool, SessionId, TicketId
from penstock.actors.core.quota import Tenants
from penstock.actors.core.watches import Watches
from penstock.actors.l1_manager import L1Manager
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import ChildSpec, supervise
from penstock.runtime.telemetry import Telemetry

SEEDS = pytest.mark.parametrize("seed", range(4))
PAGES, PD_PAGES = 8, 4
BORDER = PAGES * OBJECT_BYTES
OURS, THEIRS = TicketId(b"o" * 16), TicketId(b"t" * 16)


class World:
    def __init__(self) -> None:
        self.gateway, self.eviction = fake_gateway(), fake_eviction()
        self.prefetcher = Fake(prefetch.Prefetcher, "prefetcher", {})
        self.receiver = Fake(pd.PdReceiver, "pd_receiver", {})
        self.ref: Ref[l1.L1Manager] = Ref.to(l1.L1Manager, "l1_manager", messages_max=64)
        self.telemetry = Telemetry()
        self.table = _native.Table(
            arena_bytes=BORDER,
            pd_bytes=PD_PAGES * OBJECT_BYTES,
            objects_max=64,
            pd_objects_max=64,
            policy=_native.Policy.LRU,
            quarantine_bytes_max=BORDER,
        )
        self.actor = L1Manager(
            self.table,
            arena_bytes=BORDER,
            high_water_bytes=BORDER // 2,
            watches=Watches(watches_max=8, chunks_max=64),
            tenants=Tenants(
                tenants_max=4,
                default_bytes_max=OBJECT_BYTES,
                bytes_max={},
                bytes_of=self.table.bytes_of,
            ),
            telemetry=self.telemetry,
            eviction_controller=self.eviction.ref,
        )
        fakes = (self.eviction, self.gateway, self.prefetcher, self.receiver)
        self.specs = [ChildSpec(self.ref, lambda: self.actor, restarts_max=0)]
        self.specs += [one.spec for one in fakes]

    async def begin(self) -> None:
        groups = declaration().groups
        assert await self.ref.ask(l1.AddGeometry(groups, b"n" * 32), within=1) == 0
        await self.ref.ask(l1.Attach(SessionId(1), InstanceId(1)), within=1)

    async def reserve(self, chunks: int, pool: Pool, *, prompt: str = "p") -> l1_loading.LoadLease:
        packed = keys(chunks, prompt=prompt)
        want = l1_loading.ReserveLoad(packed, b"", GeometryId(0), (0,), b"salt", pool)
        lease = await self.ref.ask(want, within=1)
        self.table.validate()
        return lease

    async def land(self, lease: l1_loading.LoadLease, ticket: TicketId, chunks: int) -> int:
        land = l1_loading.Land(
            lease.lease, tuple(range(chunks)), bytes(8 * chunks), b"", 0, ((ticket, chunks),)
        )
        landed = await self.ref.ask(land, within=1)
        self.table.validate()
        return landed.hits[0]

    async def lookup(self, ticket: TicketId, by: Fake, pool: Pool, *, prompt: str = "p") -> l1.Hit:
        asked = l1.Lookup(
            ticket,
            keys(2, prompt=prompt),
            GeometryId(0),
            SessionId(1),
            InstanceId(1),
            1,
            10.0,
            self.gateway.ref,
            by.ref,
            pool=pool,
        )
        return await self.ref.ask(asked, within=1)

    async def usage(self) -> l1.Usage:
        return await self.ref.ask(l1.Measure(), within=1)

    async def forsake(self, pool: Pool) -> l1_loading.Forsaken:
        return await self.ref.ask(l1_loading.Forsake(64, pool), within=1)

    async def close(self, ticket: TicketId) -> None:
        await self.ref.ask(l1.CloseTickets((ticket,), InstanceId(1), SessionId(1)), within=1)


def play(seed: int, scene: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        with mock.patch("penstock.actors.l1_manager.wait_readable", never):
            async with supervise(*world.specs):
                await world.begin()
                await scene(world)

    simulate(seed, main)


def offsets(lease: l1_loading.LoadLease) -> list[int]:
    return [offset for offset, size, _ in iter_unpack("<QQQ", lease.extents.packed) if size]


@SEEDS
def test_a_push_takes_its_own_part_and_presses_nobody(seed: int) -> None:
    """B13: no quota and no high water count it, and no eviction is asked for."""

    async def scene(world: World) -> None:
        lease = await world.reserve(6, Pool.PD)
        assert offsets(lease) == [BORDER + page * OBJECT_BYTES for page in range(PD_PAGES)]
        assert lease.answers[PD_PAGES:] == bytes([_native.Answer.NO_ROOM]) * 2
        cached = await world.reserve(2, Pool.CACHE, prompt="q")
        assert offsets(cached) == [0]  # the tenant's quota is one object
        usage = await world.usage()
        assert (usage.pd_bytes, usage.pd_reserved_bytes) == (PD_PAGES * OBJECT_BYTES,) * 2
        assert (usage.arena_bytes, usage.reserved_bytes) == (BORDER, OBJECT_BYTES)
        assert not world.eviction.of(eviction.Pressure)
        del lease
        assert (await world.usage()).pd_free_bytes == PD_PAGES * OBJECT_BYTES
        world.table.validate()

    play(seed, scene)


@SEEDS
def test_a_ticket_reads_what_landed_for_it_until_it_is_over(seed: int) -> None:
    async def scene(world: World) -> None:
        hit = await world.lookup(OURS, world.receiver, Pool.PD)
        assert (hit.promised_chunks, hit.is_hoped) == (2, True)
        lease = await world.reserve(2, Pool.PD)
        assert await world.land(lease, OURS, 2) == 2
        other = await world.lookup(THEIRS, world.prefetcher, Pool.CACHE)
        assert other.hit_chunks == 0
        moved = [one for one in world.gateway.of(gateway.TicketMoved) if one.ticket == OURS]
        assert moved[-1].hit_chunks == 2
        await world.close(OURS)
        await world.receiver.ref.ask(pd.MeasureReceived(), within=1)
        assert [one.ticket for one in world.receiver.of(loader.Leave)] == [OURS]
        del lease
        assert (await world.usage()).pd_free_bytes == PD_PAGES * OBJECT_BYTES

    play(seed, scene)


@SEEDS
def test_a_loader_that_begins_anew_leaves_the_other_ones_alone(seed: int) -> None:
    """B12: the death of one part is not felt by the tickets of another."""

    async def scene(world: World) -> None:
        await world.lookup(OURS, world.receiver, Pool.PD, prompt="o")
        await world.lookup(THEIRS, world.prefetcher, Pool.CACHE, prompt="t")
        pushed = await world.reserve(2, Pool.PD, prompt="o")
        loading = await world.reserve(1, Pool.CACHE, prompt="t")
        assert await world.forsake(Pool.CACHE) == l1_loading.Forsaken(1, is_over=True)
        usage = await world.usage()
        assert (usage.quarantined_bytes, usage.pd_quarantined_bytes) == (OBJECT_BYTES, 0)
        assert await world.land(pushed, OURS, 2) == 2
        assert await world.forsake(Pool.PD) == l1_loading.Forsaken(1, is_over=True)
        assert await world.forsake(Pool.PD) == l1_loading.Forsaken(0, is_over=True)
        ended = {one.ticket: one.hit_chunks for one in world.gateway.of(gateway.TicketMoved)}
        assert ended == {THEIRS: 0, OURS: 2}
        del pushed, loading
        world.table.validate()

    play(seed, scene)
