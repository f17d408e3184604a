"""Two nodes' insides on virtual time, and a network between them: real tables, L1 managers, senders and receivers.

An engine at `a` prefills and pushes, one at `b` expects and decodes; each of them may do both.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import anyio
from support.fake_actors import Fake, fake_eviction, fake_gateway
from support.fake_store import payload
from support.pd_links import SimLink
from support.prefetch_world import FULL, NAMESPACE, PAGE, ArenaBytes, Watched, _soon

from penstock import _native
from penstock.actors.api import gateway, l1, pd, peers
from penstock.actors.api.types import (
    Epoch,
    GeometryId,
    GroupGeometry,
    InstanceId,
    Pool,
    SessionId,
    Shape,
    TicketId,
)
from penstock.actors.core.quota import Tenants
from penstock.actors.core.watches import Watches
from penstock.actors.l1_manager import L1Manager
from penstock.actors.object_keys import object_keys
from penstock.actors.pd_config import PdConfig
from penstock.actors.pd_receiver import PdReceiver
from penstock.actors.pd_sender import PdSender
from penstock.actors.stores.digests import Digester
from penstock.runtime.hazard import Hazards
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import Simulation
from penstock.runtime.sim_net import SimNet, Weather
from penstock.runtime.supervisor import ChildSpec, supervise
from penstock.runtime.telemetry import Telemetry
from penstock.runtime.units import ByteSize, Seconds

_EXTENT = struct.Struct("<QQQ")
SESSION, INSTANCE = SessionId(1), InstanceId(1)


def config(**changed: Any) -> PdConfig:
    """Small bounds, short waits."""
    given: dict[str, Any] = {
        "receive": ByteSize(16 * PAGE),
        "part": ByteSize(2 * PAGE),
        "offer_within": Seconds(2),
        "allocation": Seconds(3),
        "transfer": Seconds(8),
        "idle": Seconds(2),
        "query": Seconds(0.25),
        "batch": ByteSize(2 * PAGE),
        "batches_max": 2,
        "inflight": ByteSize(4 * PAGE),
    }
    return PdConfig(**(given | changed))


@dataclass(frozen=True)
class PdWorldConfig:
    groups: tuple[GroupGeometry, ...] = FULL
    pages: int = 32  # of each cache
    pd: PdConfig = field(default_factory=config)
    weather: Weather = field(default_factory=Weather)
    nodes: tuple[str, ...] = ("a", "b")


class Node:
    """One node. Session 1 of instance 1 is its engine."""

    def __init__(
        self, name: str, given: PdWorldConfig, links: dict[tuple[str, str], SimLink]
    ) -> None:
        self.name = name
        self.given = given
        self.epoch = Epoch(name.encode() * 16)
        self.shape = Shape.of(GeometryId(0), NAMESPACE, given.groups)
        pd_bytes = given.pd.receive
        self.memory = ArenaBytes(given.pages * PAGE + pd_bytes)
        self.table = _native.Table(
            arena_bytes=given.pages * PAGE,
            pd_bytes=pd_bytes,
            pd_objects_max=4096 if pd_bytes else 0,
            objects_max=4096,
            policy=_native.Policy.LRU,
            quarantine_bytes_max=given.pages * PAGE,
            leases_max=4096,
        )
        self.telemetry = Telemetry()
        self.gateway = fake_gateway(messages_max=4096)
        self.gateway.answers[gateway.TicketMoved] = self._hear
        self.eviction = fake_eviction()
        self.peers = Fake(peers.Peers, f"peers {name}", {peers.FindLink: self._find_link})
        self.l1: Ref[l1.L1Manager] = Ref.to(l1.L1Manager, f"l1 {name}", messages_max=256)
        self.sender: Ref[pd.PdSender] = Ref.to(pd.PdSender, f"sender {name}", messages_max=256)
        self.receiver: Ref[pd.PdReceiver] = Ref.to(
            pd.PdReceiver, f"receiver {name}", messages_max=256
        )
        self.actor: PdReceiver | None = None  # the receiver's present life
        self.sending: PdSender | None = None
        self.watched: dict[TicketId, Watched] = {}
        self._links = links
        self._numbers = itertools.count(1)

    def specs(self) -> tuple[ChildSpec, ...]:
        return (
            self.gateway.spec,
            self.eviction.spec,
            self.peers.spec,
            ChildSpec(self.l1, self._make_l1, restarts_max=0),
            ChildSpec(self.receiver, self._make_receiver, restarts_max=50, drain_s=0.1),
            ChildSpec(self.sender, self._make_sender, drain_s=0.1),
        )

    def _make_l1(self) -> L1Manager:
        return L1Manager(
            self.table,
            arena_bytes=self.given.pages * PAGE,
            high_water_bytes=self.given.pages * PAGE,
            watches=Watches(watches_max=64, chunks_max=4096),
            tenants=Tenants(
                tenants_max=8, default_bytes_max=0, bytes_max={}, bytes_of=self.table.bytes_of
            ),
            telemetry=self.telemetry,
            eviction_controller=self.eviction.ref,
        )

    def _make_receiver(self) -> PdReceiver:
        self.actor = PdReceiver(
            self.given.pd,
            epoch=self.epoch,
            ask_s=1.0,
            manager=self.l1,
            memory=self.memory,
            digester=Digester(),
            telemetry=self.telemetry,
        )
        return self.actor

    def _make_sender(self) -> PdSender:
        self.sending = PdSender(
            self.given.pd,
            ref=self.sender,
            ask_s=1.0,
            manager=self.l1,
            peers=self.peers.ref,
            memory=self.memory,
            telemetry=self.telemetry,
        )
        return self.sending

    async def begin(self) -> None:
        await self.l1.ask(l1.AddGeometry(self.given.groups, NAMESPACE), within=1)
        await self.l1.ask(l1.Attach(SESSION, INSTANCE), within=1)

    def _find_link(self, msg: peers.FindLink) -> SimLink:
        link = self._links.get((self.name, msg.node_id))
        if link is None or link.is_lost:
            raise peers.PeerAway(f"no link to {msg.node_id}")
        return link

    def _hear(self, news: gateway.TicketMoved) -> None:
        watched = self.watched.get(news.ticket)
        if watched is not None:
            assert news.hit_chunks >= watched.hit, "a watermark went back"
            watched.hit, watched.promised = news.hit_chunks, news.promised_chunks
            watched.shortfall = news.shortfall
            watched.hits.append(news.hit_chunks)

    # What its engine does.

    async def write(self, prompt: bytes, chunks: range) -> None:
        """Prefill: reserve, write, commit."""
        slots = tuple(range(len(self.shape.slots)))
        part = prompt[chunks.start * 32 : chunks.stop * 32]
        parent = prompt[max(0, chunks.start - 1) * 32 : chunks.start * 32]
        reserve = l1.Reserve(part, parent, self.shape.geometry, slots, b"", SESSION, 60.0)
        lease = await self.l1.ask(reserve, within=1)
        assert set(lease.answers) <= {0, 1, 2}, "no room"
        digests = runs = b""
        names = [*object_keys(self.shape, part, slots)]
        extents = [*_EXTENT.iter_unpack(lease.extents.packed)]
        for number, answer in enumerate(lease.answers):
            if answer:
                continue
            name, (offset, size, _) = names[number], extents[number]
            held = payload(name, size)
            self.memory.view(offset, size)[:] = held
            digests += _native.crc64(held).to_bytes(8, "little")
            runs += run_digests(held, self.shape.slots[slots[number % len(slots)]].runs)
        if digests:
            done = l1.Commit(lease.lease, SESSION, (), digests, runs)
            assert set((await self.l1.ask(done, within=1)).outcomes) == {0}

    async def send(self, prompt: bytes, to: str, request: str = "r", **more: Any) -> pd.TransferId:
        slots = more.pop("slots", tuple(range(len(self.shape.slots))))
        within_s = more.pop("within_s", 20.0)
        send = pd.Send(request, to, self.shape, prompt, slots, SESSION, within_s, **more)
        return await self.sender.ask(send, within=1)

    async def sent(self, transfer: pd.TransferId, *, within_s: float = 30.0) -> pd.Sent:
        ask = pd.WaitSent(transfer, SESSION, within_s)
        return await self.sender.ask(ask, within=within_s + 1)

    async def expect(
        self, prompt: bytes, request: str = "r", *, within_s: float = 20.0, ticket_s: float = 60.0
    ) -> Watched:
        """Decode: as the gateway does for PdExpect."""
        ticket = TicketId(next(self._numbers).to_bytes(16, "big"))
        lookup = l1.Lookup(
            ticket,
            prompt,
            self.shape.geometry,
            SESSION,
            INSTANCE,
            4,
            ticket_s,
            self.gateway.ref,
            self.receiver,
            pool=Pool.PD,
        )
        watched = self.watched[ticket] = Watched(ticket, prompt, 0, len(prompt) // 32)
        hit = await self.l1.ask(lookup, within=1)
        watched.hit, watched.promised = max(watched.hit, hit.hit_chunks), hit.promised_chunks
        if hit.is_hoped:
            expect = pd.Expect(
                request,
                ticket,
                SESSION,
                INSTANCE,
                self.shape,
                prompt,
                hit.hit_chunks,
                within_s,
                ticket_s,
            )
            await self.receiver.tell(expect, within=1)
        return watched

    async def wait_final(self, watched: Watched, *, within: float = 40.0) -> int:
        with anyio.fail_after(within):
            while not watched.is_final:  # noqa: ASYNC110 - virtual time
                await anyio.sleep(0.001)
        return watched.hit

    async def read(self, watched: Watched) -> int:
        """Acquire all that is hit and look at every byte. Gives how many objects there were."""
        slots = tuple(range(len(self.shape.slots)))
        acquire = l1.Acquire(watched.ticket, SESSION, 0, slots, 0, 5.0)
        lease = await self.l1.ask(acquire, within=1)
        assert lease.chunks >= watched.hit
        names = object_keys(self.shape, watched.keys[: lease.chunks * 32], slots)
        extents = [*_EXTENT.iter_unpack(lease.extents.packed)]
        for name, (offset, size, digest) in zip(names, extents, strict=True):
            assert bytes(self.memory.view(offset, size)) == payload(name, size), "wrong bytes"
            assert digest == _native.crc64(payload(name, size))
        assert await self.l1.ask(l1.Release(lease.lease, SESSION, ()), within=1)
        return len(extents)

    async def close(self, watched: Watched) -> None:
        close = l1.CloseTickets((watched.ticket,), INSTANCE, SESSION)
        await self.l1.ask(close, within=1)
        self.watched.pop(watched.ticket, None)

    # Oracles.

    def validate(self) -> None:
        self.table.validate()
        if self.actor is not None:
            self.actor.validate()
        statistics = self.table.statistics()
        taken = statistics.pd_bytes_total - statistics.pd_bytes_free
        assert taken <= self.given.pd.receive

    async def assert_nothing_is_held(self) -> None:
        """No push, no lease, no pin, no memory of the receive budget."""
        await anyio.sleep(0.5)
        self.table.drain()
        self.validate()
        statistics = self.table.statistics()
        taken = statistics.pd_bytes_total - statistics.pd_bytes_free
        assert taken == 0, (self.name, taken)
        usage = await self.l1.ask(l1.Measure(), within=1)
        held = (usage.leases, usage.overdue_leases, usage.tickets)
        assert held == (0, 0, 0), (self.name, held)
        assert (usage.reserved_bytes, usage.loaded_bytes, usage.quarantined_bytes) == (0, 0, 0)
        received = await self.receiver.ask(pd.MeasureReceived(), within=1)
        sent = await self.sender.ask(pd.MeasureSent(), within=1)
        assert (received.transfers, received.waiting, received.bytes_held) == (0, 0, 0)
        assert (sent.transfers, sent.bytes_held) == (0, 0)


def run_digests(held: bytes, runs: int) -> bytes:
    """Packed, of runs of equal size."""
    size = len(held) // runs
    parts = [held[start : start + size] for start in range(0, len(held), size)]
    return b"".join(_native.crc64(part).to_bytes(8, "little") for part in parts)


class PdWorld:
    """Nodes, and a link from each to each other."""

    def __init__(
        self, given: PdWorldConfig, draw: random.Random, tasks: anyio.abc.TaskGroup
    ) -> None:
        self.draw = draw
        self.net = SimNet(draw, given.weather)
        self.links: dict[tuple[str, str], SimLink] = {}
        self.nodes: dict[str, Node] = {}
        self._given = given
        self._tasks = tasks

    async def begin(self, stack: AsyncExitStack) -> None:
        """All nodes, which live until `stack` is left. A step for each: their tables take a millisecond or two."""
        for name in self._given.nodes:
            node = self.nodes[name] = Node(name, self._given, self.links)
            await stack.enter_async_context(supervise(*node.specs(), name=name))
            await node.begin()
        for near, far in itertools.permutations(self._given.nodes, 2):
            self.link(near, far)

    def link(self, near: str, far: str) -> SimLink:
        """A new one, in the place of one that was lost."""
        link = self.links[near, far] = SimLink(self.net, near, self.nodes[far], self._tasks)
        return link

    @property
    def a(self) -> Node:
        return self.nodes["a"]

    @property
    def b(self) -> Node:
        return self.nodes["b"]

    async def crash_receiver(self, name: str) -> None:
        """Its actor dies of a bug, and its supervisor begins another life."""
        node = self.nodes[name]
        life = node.actor
        assert life is not None
        life.start_soon(_die, name="bug")
        while node.actor is life:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.001)

    def validate(self) -> None:
        for node in self.nodes.values():
            node.validate()

    async def assert_nothing_is_held(self) -> None:
        for node in self.nodes.values():
            await node.assert_nothing_is_held()
        for link in self.links.values():
            assert link.connection.open_landings == link.far_connection.open_landings == 0


def play(
    seed: int,
    scene: Callable[[PdWorld], Awaitable[None]],
    given: PdWorldConfig | None = None,
    *,
    hazards: Hazards | None = None,
) -> str:
    """Run a scene in a world of its own, on virtual time. Its transcript."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            stack.enter_context(mock.patch("penstock.actors.l1_manager.wait_readable", _soon))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            world = PdWorld(given or PdWorldConfig(), random.Random(seed), tasks)
            await world.begin(stack)
            await scene(world)
            for link in world.links.values():
                link.lose()
            tasks.cancel_scope.cancel()

    simulation = Simulation(seed, hazards=hazards)
    simulation.run(main)
    return simulation.transcript.text()


async def _die() -> None:
    raise RuntimeError("a bug")
