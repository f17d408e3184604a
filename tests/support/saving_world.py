"""A node's inside on virtual time, seen from a save: a real table, L1 manager, store writer and eviction controller,
and stores that look at every byte they are given."""

from __future__ import annotations

import gc
import random
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from unittest import mock

import anyio
from support.declarations import keys
from support.saving_stores import StoreSide, payload

from penstock import _native
from penstock.actors.api import eviction, l1, writer
from penstock.actors.api.types import (
    GeometryId,
    GroupGeometry,
    HitRule,
    InstanceId,
    SessionId,
    Shape,
    TicketId,
)
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.quota import Tenants
from penstock.actors.core.routing import ONE_PLACE, Routing
from penstock.actors.core.watches import Watches
from penstock.actors.core.write_policy import Moment, Tier
from penstock.actors.eviction_controller import EvictionController, SavesDown, Watermarks
from penstock.actors.l1_manager import L1Manager
from penstock.actors.l1_saving import Saving
from penstock.actors.l1_staging import UNBOUNDED, StagedTable, StagingBound, WriteBound
from penstock.actors.object_keys import object_keys
from penstock.actors.store_writer import StoreWriter
from penstock.actors.writer_limits import WriterLimits
from penstock.actors.writer_loans import Loans
from penstock.actors.writer_metrics import WriterMetrics
from penstock.actors.writer_retries import RetryLimits
from penstock.runtime.errors import CapacityError, UnavailableError
from penstock.runtime.hazard import Hazards
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import Simulation
from penstock.runtime.supervisor import ChildSpec, Supervisor, supervise
from penstock.runtime.telemetry import Telemetry

PAGE = 4096
NAMESPACE = b"n" * 32
FULL = (GroupGeometry(HitRule.FULL, 0, (PAGE,), (1,)),)
SHARDED = (GroupGeometry(HitRule.FULL, 0, (PAGE, PAGE - 100), (1, 1)),)
SALT = b"a tenant"
STATES = {one.value: one for one in ObjectState}  # ten times as fast as to call the enum
_EXTENT = struct.Struct("<QQQ")


class ArenaBytes:
    def __init__(self, count: int) -> None:
        self._bytes = bytearray(count)

    def view(self, offset: int, size_bytes: int) -> memoryview:
        assert offset + size_bytes <= len(self._bytes)
        return memoryview(self._bytes)[offset : offset + size_bytes]


class Lens:
    """The same, as the node sees it."""

    def __init__(self, memory: ArenaBytes) -> None:
        self._memory = memory
        self.bug_next = False  # whoever looks next meets a bug

    def view(self, offset: int, size_bytes: int) -> memoryview:
        if self.bug_next:
            self.bug_next = False
            raise ZeroDivisionError("planned")
        return self._memory.view(offset, size_bytes)


@dataclass(frozen=True)
class SavingConfig:
    moments: tuple[Moment | None, ...] = (Moment.COMMITTED,)
    routing: Routing = ONE_PLACE  # of each store
    groups: tuple[GroupGeometry, ...] = FULL
    pages: int = 64
    high: float = 1.0
    low: float = 1.0
    inflight_pages: int = 16
    batch_pages: int = 4
    queued_objects_max: int = 4096
    settled_objects_max: int = 4096
    waited_objects_max: int = 4096
    waiters_max: int = 64
    is_staging: bool = False
    staging_pages: int = 64
    fair_share: bool = False
    retry_objects_max: int = 4096
    retry_pages: int = 4096
    retry_s: float = 60.0
    retry_pause_s: float = 0.5
    news_max: int = 4096
    save_s: float = 5.0
    urgent_s: float = 1.0
    relaxed_s: float = 3.0


class SavingWorld:
    """Session 1 of instance 1 writes and looks up."""

    def __init__(self, config: SavingConfig) -> None:
        self.config = config
        self.shape = Shape.of(GeometryId(0), NAMESPACE, config.groups)
        self.stores = [
            StoreSide(self.name(number), config.routing) for number in range(len(config.moments))
        ]
        self.memory = ArenaBytes(config.pages * PAGE)
        self.lens = Lens(self.memory)
        self.telemetry = Telemetry()
        self.l1: Ref[l1.L1Manager] = Ref.to(l1.L1Manager, "l1_manager", messages_max=256)
        self.eviction: Ref[eviction.EvictionController] = Ref.to(
            eviction.EvictionController, "eviction_controller", messages_max=64
        )
        self.writer: Ref[writer.StoreWriter] = Ref.to(
            writer.StoreWriter, "store_writer", messages_max=64
        )
        self.table = (StagedTable if config.is_staging else _native.Table)(
            arena_bytes=config.pages * PAGE,
            objects_max=4096,
            policy=_native.Policy.LRU,
            quarantine_bytes_max=config.pages * PAGE,
            news_max=config.news_max,
            fair_share=config.fair_share,
        )
        names = [self.name(at) for at in range(len(self.stores))]
        self._metrics = WriterMetrics(self.telemetry, names)
        self._loans = Loans(self.l1, ask_s=1.0)
        self._numbers = iter(range(1, 1 << 20))

    @staticmethod
    def name(place: int) -> str:
        return f"s{place}"

    def specs(self) -> Sequence[ChildSpec]:
        return (
            ChildSpec(self.l1, self._make_l1, restarts_max=0),
            *(one.spec for one in self.stores),
            ChildSpec(self.writer, self._make_writer, drain_s=0.1),
            ChildSpec(self.eviction, self._make_eviction),
        )

    def _make_l1(self) -> L1Manager:
        arena_bytes = self.config.pages * PAGE
        return L1Manager(
            self.table,
            arena_bytes=arena_bytes,
            high_water_bytes=int(arena_bytes * self.config.high),
            watches=Watches(watches_max=64, chunks_max=4096),
            tenants=Tenants(
                tenants_max=8, default_bytes_max=0, bytes_max={}, bytes_of=self.table.bytes_of
            ),
            telemetry=self.telemetry,
            eviction_controller=self.eviction,
            store_writer=self.writer,
            hits_max=1024,
            bound=self._write_bound(),
        )

    def _write_bound(self) -> WriteBound:
        if not self.config.is_staging:
            return UNBOUNDED
        return StagingBound(self.table, bytes_max=self.config.staging_pages * PAGE)

    def _make_writer(self) -> StoreWriter:
        config = self.config
        tiers = [
            (Tier(self.name(place), moment, config.routing), side.ref)
            for place, (moment, side) in enumerate(zip(config.moments, self.stores, strict=True))
        ]
        return StoreWriter(
            tiers,
            manager=self.l1,
            memory=self.lens,
            limits=WriterLimits(
                inflight_bytes_max=config.inflight_pages * PAGE,
                batch_bytes_max=config.batch_pages * PAGE,
                batch_objects_max=64,
                queued_objects_max=config.queued_objects_max,
                settled_objects_max=config.settled_objects_max,
                waited_objects_max=config.waited_objects_max,
                waiters_max=config.waiters_max,
                hits_max=1024,
                save_s=config.save_s,
                locate_s=1.0,
                ask_s=1.0,
                retries=RetryLimits(
                    objects_max=config.retry_objects_max,
                    bytes_max=config.retry_pages * PAGE,
                    within_s=config.retry_s,
                    pause_s=config.retry_pause_s,
                    pause_s_max=8.0,
                ),
            ),
            metrics=self._metrics,
            loans=self._loans,
            is_staging=config.is_staging,
            draw=random.random,
        )

    def _make_eviction(self) -> EvictionController:
        config = self.config
        marks = Watermarks.of(
            config.pages * PAGE,
            low=config.low,
            high=config.high,
            batch_bytes=8 * PAGE,
            batch_chunks=64,
            ask_s=1.0,
        )
        saves_down = SavesDown(self.writer, config.urgent_s, config.relaxed_s, self.telemetry)
        wanted = Moment.LEAVING in config.moments
        return EvictionController(
            self.l1,
            marks,
            store_writer=self.writer,
            saves_down=saves_down if wanted else None,
            is_staging=config.is_staging,
        )

    async def begin(self) -> None:
        await self.l1.ask(l1.AddGeometry(self.config.groups, NAMESPACE), within=1)
        await self.l1.ask(l1.Attach(SessionId(1), InstanceId(1)), within=1)

    # What engines do.

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple(range(len(self.shape.slots)))

    async def reserve(
        self, prompt: bytes, *, slots: tuple[int, ...] | None = None, salt: bytes = SALT
    ) -> l1.WriteLease:
        slots = slots or self.slots
        want = l1.Reserve(prompt, b"", GeometryId(0), slots, salt, SessionId(1), 1e6)
        return await self.l1.ask(want, within=1)

    async def commit(
        self, prompt: bytes, lease: l1.WriteLease, *, slots: tuple[int, ...] | None = None
    ) -> int:
        """Answers the backlog it was told."""
        digests = b""
        names = object_keys(self.shape, prompt, slots or self.slots)
        for name, (offset, size, _), granted in zip(
            names, _EXTENT.iter_unpack(lease.extents.packed), lease.answers, strict=True
        ):
            if granted:
                continue
            self.memory.view(offset, size)[:] = payload(name, size)
            digests += _native.crc64(payload(name, size)).to_bytes(8, "little")
        done = l1.Commit(lease.lease, SessionId(1), (), digests, b"")
        return (await self.l1.ask(done, within=1)).backlog_bytes

    async def put(self, prompt: bytes, *, salt: bytes = SALT) -> int:
        """As the gateway: reserve, make room if there is none, write, commit. Answers the backlog it was told."""
        lease = await self.reserve(prompt, salt=salt)
        if lease.bytes_missing and not lease.lease:
            await self.eviction.ask(eviction.MakeRoom(lease.bytes_missing), within=10)
            lease = await self.reserve(prompt, salt=salt)
        return await self.commit(prompt, lease) if lease.lease else -1

    async def put_slots(self, prompt: bytes, slots: tuple[int, ...]) -> None:
        """As one worker of several does. There has to be room."""
        await self.commit(prompt, await self.reserve(prompt, slots=slots), slots=slots)

    async def make_room(self, size_bytes: int, *, within: float = 10) -> int:
        return await self.eviction.ask(eviction.MakeRoom(size_bytes), within=within)

    async def lookup(self, prompt: bytes) -> int:
        ticket = TicketId(next(self._numbers).to_bytes(16, "big"))
        asked = l1.Lookup(
            ticket, prompt, GeometryId(0), SessionId(1), InstanceId(1), 1, 1e6, None, None
        )
        hit = await self.l1.ask(asked, within=1)
        if hit.ticket:
            close = l1.CloseTickets((hit.ticket,), InstanceId(1), SessionId(1))
            await self.l1.ask(close, within=1)
        return hit.hit_chunks

    async def stored(self, prompt: bytes, *, within: float = 0.0) -> list[list[ObjectState]]:
        """What became of the objects of this prompt, by store."""
        ask = writer.WaitStored(prompt, GeometryId(0), self.slots, within)
        answer = await self.writer.ask(ask, within=within + 5)
        assert answer.stores == tuple(self.name(at) for at in range(len(self.stores)))
        width = len(self.stores)
        assert len(answer.states) == len(prompt) // 32 * len(self.slots) * width
        return [[STATES[one] for one in answer.states[at::width]] for at in range(width)]

    def refusing_borrows(self) -> AbstractContextManager[object]:
        """While it is entered, L1 has no lease left for what waits to be saved."""
        refusal = UnavailableError("no lease is left")
        return mock.patch.object(Saving, "_borrow", side_effect=refusal)

    def refusing_to_let_go(self) -> AbstractContextManager[object]:
        """While it is entered, L1 lets nothing go that is lent."""
        refusal = UnavailableError("by the test")
        return mock.patch.object(_native.Table, "let_go", side_effect=refusal)

    def refusing_takes(self) -> AbstractContextManager[object]:
        """While it is entered, L1 has no lease left for what was committed."""
        refusal = CapacityError("no lease is left")
        return mock.patch.object(_native.Table, "take_committed", side_effect=refusal)

    def refusing_victims(self) -> AbstractContextManager[object]:
        """The same, for what is about to leave."""
        refusal = CapacityError("no lease is left")
        return mock.patch.object(_native.Table, "victims", side_effect=refusal)

    # Oracles.

    def has(self, place: int, prompt: bytes) -> bool:
        names = object_keys(self.shape, prompt, self.slots)
        return all(name in self.stores[place].objects for name in names)

    def count(self, place: int, outcome: str) -> int:
        name = "penstock_writer_objects_total"
        return int(self.telemetry.value(name, store=self.name(place), outcome=outcome) or 0)

    def resident(self, prompt: bytes) -> int:
        return _native.Table.peek(self.table, prompt, geometry=0)  # staged or not

    async def assert_nothing_is_held(self) -> l1.Usage:
        """No save under way, no lease, no memory that is neither free nor resident."""
        await anyio.sleep(0.1)
        self.table.validate()
        usage = await self.l1.ask(l1.Measure(), within=1)
        held = (usage.leases, usage.overdue_leases, usage.quarantined_bytes)
        assert held == (0, 0, 0), held
        own = await self.writer.ask(writer.Measure(), within=1)
        assert own == writer.WriterUsage(0, 0, 0)
        return usage


def play(
    seed: int,
    scene: Callable[[SavingWorld, Supervisor], Awaitable[None]],
    config: SavingConfig | None = None,
    *,
    hazards: Hazards | None = None,
) -> None:
    """Run a scene in a world of its own, on virtual time, and without the collector: what was held comes back by
    itself, or is seen to be held."""

    async def main() -> None:
        world = SavingWorld(config or SavingConfig())
        with mock.patch("penstock.actors.l1_manager.wait_readable", _soon):
            async with supervise(*world.specs()) as supervisor:
                await world.begin()
                await scene(world, supervisor)

    with _uncollected():
        Simulation(seed, hazards=hazards).run(main)


@contextmanager
def _uncollected() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _soon(*_: object) -> None:
    """In the place of a descriptor that becomes readable: there are none on virtual time."""
    await anyio.sleep(0.01)


def prompt(chunks: int, name: str = "prompt") -> bytes:
    return keys(chunks, prompt=name)
