"""Several nodes' insides on virtual time: each has a real L1; one asks, through a real prefetcher, store actor and peer
store; the others answer by real reads over a channel that a test can slow down, hold up, or cut."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import anyio
from anyio import create_task_group
from anyio.abc import TaskGroup
from support.fake_store import payload
from support.prefetch_world import Watched, World, WorldConfig, _soon
from support.sim_channel import SimConnection, Wire, sim_channel
from support.store_world import StoreTools

from penstock._native import Catalog, Policy, crc64
from penstock.actors.api import directory, l1, peers, store
from penstock.actors.api.peers import LinkLimits, PeerAway, Reach, ReadAsk, ReadTold
from penstock.actors.api.types import Epoch, SessionId
from penstock.actors.core.link_words import Me
from penstock.actors.object_keys import object_keys
from penstock.actors.peer_metrics import ServedMetrics
from penstock.actors.peer_reads import PeerReads, ReadLimits
from penstock.actors.peer_served import ServedPeer
from penstock.actors.store_actor import StoreActor
from penstock.actors.stores.digests import Digester
from penstock.actors.stores.peer import PeerStore
from penstock.actors.stores.peer_config import PeerStoreConfig
from penstock.runtime.errors import DeadlineExceeded, PenstockError
from penstock.runtime.hazard import Hazards
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import Simulation
from penstock.runtime.supervisor import ChildSpec, supervise
from penstock.runtime.units import MIB

_EXTENT = struct.Struct("<QQQ")
LINK = LinkLimits(8, 64, 1 << 20, 1 << 20)
READS = ReadLimits(8, 64, 1 << 20, 1 << 21, 4.0, 1.0)


class WholeWorld(World):
    """A node whose objects have the digests that a load checks."""

    async def write(self, prompt: bytes, chunks: range, lease: l1.WriteLease) -> None:
        slots = tuple(range(len(self.shape.slots)))
        names = object_keys(self.shape, prompt[chunks.start * 32 : chunks.stop * 32], slots)
        digests, runs = b"", b""
        extents = [*_EXTENT.iter_unpack(lease.extents.packed)]
        for at, (name, (offset, size, _)) in enumerate(zip(names, extents, strict=True)):
            body = payload(name, size)
            self.memory.view(offset, size)[:] = body
            digests += struct.pack("<Q", crc64(body))
            runs += runs_of(body, self.shape.slots[at % len(slots)].runs)
        done = l1.Commit(lease.lease, SessionId(1), (), digests, runs)
        assert set((await self.l1.ask(done, within=1)).outcomes) == {0}

    async def read(self, watched: Watched, *, rank: int = 0) -> int:
        slots = tuple(range(len(self.shape.slots)))
        acquire = l1.Acquire(watched.ticket, SessionId(1), rank, slots, 0, 5.0)
        lease = await self.l1.ask(acquire, within=1)
        names = object_keys(self.shape, watched.keys[: lease.chunks * 32], slots)
        count = 0
        extents = _EXTENT.iter_unpack(lease.extents.packed)
        for name, (offset, size, digest) in zip(names, extents, strict=True):
            if size:
                count += 1
                body = bytes(self.memory.view(offset, size))
                assert body == payload(name, size), "wrong bytes"
                assert digest == crc64(body)
        assert await self.l1.ask(l1.Release(lease.lease, SessionId(1), ()), within=1)
        return count


def runs_of(body: bytes, runs: int) -> bytes:
    """Digests of equal runs, the last of which has the rest."""
    step = len(body) // runs
    bounds = [*range(0, step * runs, step), len(body)]
    parts = [body[bounds[at] : bounds[at + 1]] for at in range(runs)]
    return b"".join(struct.pack("<Q", crc64(one)) for one in parts)


class SimLink:
    """A link without a network: reads are calls."""

    def __init__(self, peer: Peer, epoch: Epoch) -> None:
        self.node_id = peer.name
        self.epoch = epoch
        self.limits = LINK
        self.served = ServedPeer(Me("asker", Epoch(b"a" * 16)), b"l" * 16)
        self.connection, theirs = sim_channel(peer.wire)
        self.served.made(theirs)
        self.asked: list[ReadAsk] = []
        self._peer = peer
        self._lost = asyncio.Event()
        self._why = ""

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return self._why

    def lose(self, why: str) -> None:
        if not self.is_lost:
            self._why = why
            self._lost.set()
            self.connection.lose(why)
            self.served.lose(why)

    def stream(self, method: str) -> Any:
        raise NotImplementedError

    async def read(self, ask: ReadAsk, *, within: float) -> ReadTold:
        """As over a network: who gives up is told of nothing more, and the other side hears of it later."""
        self.asked.append(ask)
        if self.is_lost:
            raise PeerAway(self._why)
        call = _Call()
        assert self._peer.tasks is not None
        self._peer.tasks.start_soon(self._serve, ask, call)
        try:
            with anyio.move_on_after(within):
                async with create_task_group() as either:
                    either.start_soon(self._watch, either.cancel_scope)
                    await call.over.wait()
                    either.cancel_scope.cancel()
        finally:
            call.scope.cancel()
        if self.is_lost:
            raise PeerAway(self._why)
        match call.answer:
            case ReadTold() as told:
                return self._peer.says(told)
            case PenstockError() as refusal:
                raise refusal
            case _:
                raise DeadlineExceeded("no answer")

    async def _serve(self, ask: ReadAsk, call: _Call) -> None:
        with call.scope:
            await anyio.sleep(self._peer.delay_s)
            try:
                with self.served.call():
                    call.answer = await self._peer.reads.serve(self.served, ask)
            except PenstockError as refusal:
                call.answer = refusal.with_traceback(None)
            if call.answer is not None:
                await anyio.sleep(self._peer.delay_s)
                await self._peer.answers.wait()
                call.over.set()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        await self.wait_lost()
        scope.cancel()


@dataclass
class _Call:
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answer: ReadTold | PenstockError | None = None


@dataclass
class Peer:
    """A node that is asked."""

    name: str
    world: WholeWorld
    reads: PeerReads
    digester: Digester  # of its reads
    wire: Wire = field(default_factory=Wire)
    delay_s: float = 0.0002  # of a message, each way
    answers: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: no reply gets through
    promised: set[bytes] = field(default_factory=set)  # chunk keys, that the asker believes it has
    lives: list[SimLink] = field(default_factory=list)
    tasks: TaskGroup | None = None  # what it serves
    says: Callable[[ReadTold], ReadTold] = lambda told: told  # in the place of what it has done

    @property
    def link(self) -> SimLink:
        return self.lives[-1]

    @property
    def theirs(self) -> SimConnection:
        """Its end of the data connection."""
        return self.link.connection.other

    def begin(self, epoch: bytes = b"1" * 16) -> None:
        """A new link."""
        self.answers.set()
        self.lives.append(SimLink(self, Epoch(epoch)))

    async def has(self, prompt: bytes, chunks: range) -> None:
        await self.world.store(prompt, chunks)
        self.promises(prompt, chunks)

    def promises(self, prompt: bytes, chunks: range) -> None:
        self.promised |= {prompt[at * 32 : at * 32 + 32] for at in chunks}

    def dies(self) -> None:
        """kill -9: its links are lost, its directory is forgotten."""
        self.link.lose("it died")
        self.promised.clear()


class PeerStores:
    """The asker's one tier, as the prefetcher's world wants its stores to be."""

    def __init__(self, config: PeerStoreConfig, reach: Reach) -> None:
        self.ref: Ref[store.StoreActor] = Ref.to(store.StoreActor, "store[peers]", messages_max=256)
        self.actors: list[StoreActor] = []
        tools = StoreTools(
            make_catalog=lambda size: Catalog(
                objects_max=64, capacity_bytes=size, policy=Policy.LRU
            ),
            quotas={},
            draw=lambda: 0.5,
            digester=Digester(inline_bytes_max=64 * MIB),
        )

        async def open_store() -> PeerStore:
            return PeerStore(config, reach)

        def make() -> StoreActor:
            actor = StoreActor(open_store, config=config, tools=tools, telemetry=reach.telemetry)
            self.actors.append(actor)
            return actor

        self.spec = ChildSpec(self.ref, make, drain_s=0.1)


class Cluster:
    """An asker, and peers by name."""

    def __init__(self, names: Sequence[str], config: WorldConfig, given: PeerStoreConfig) -> None:
        self.asker = WholeWorld(config)
        self.directory: Ref[directory.Directory] = Ref.to(
            directory.Directory, "directory", messages_max=256
        )
        self.links: Ref[peers.Peers] = Ref.to(peers.Peers, "peers", messages_max=256)
        reach = Reach(self.directory, self.links, self.asker.telemetry)
        self.stores = PeerStores(given, reach)
        self.asker.stores = [self.stores]  # type: ignore[list-item]
        self.peers = {name: _peer(name, config) for name in names}

    def specs(self) -> Sequence[ChildSpec]:
        return (
            ChildSpec(self.directory, lambda: _Directory(self.peers)),
            ChildSpec(self.links, lambda: _Peers(self.peers)),
        )

    def value(self, sample: str, **labels: str) -> float:
        return self.asker.telemetry.value(sample, **labels) or 0.0

    async def assert_nothing_is_held(self) -> None:
        """No lease and no load anywhere, and nothing of a read."""
        await self.asker.assert_nothing_is_held()
        for peer in self.peers.values():
            await peer.world.assert_nothing_is_held()
            assert peer.reads.under_way == peer.reads.held_bytes == peer.theirs.sending == 0


def _peer(name: str, config: WorldConfig) -> Peer:
    world = WholeWorld(WorldConfig(groups=config.groups, pages=config.pages))
    metrics = ServedMetrics(world.telemetry)
    digester = Digester(inline_bytes_max=64 * MIB)
    return Peer(name, world, PeerReads(world.l1, world.memory, READS, metrics, digester), digester)


class _Directory(directory.Directory):
    """Promises what the peers are believed to have."""

    inflight_max = 64

    def __init__(self, known: dict[str, Peer]) -> None:
        self._peers = known

    async def receive(self, msg: Any) -> object:
        return self.receive_at_once(msg)

    def receive_at_once(self, msg: Any) -> object:
        assert isinstance(msg, directory.Promised)
        keys = [msg.keys[at : at + 32] for at in range(0, len(msg.keys), 32)][msg.first_chunk :]
        runs = []
        for peer in self._peers.values():
            count = next((at for at, key in enumerate(keys) if key not in peer.promised), len(keys))
            if count:
                runs.append(directory.Promise(peer.name, count))
        return tuple(sorted(runs, key=lambda one: -one.chunks))


class _Peers(peers.Peers):
    def __init__(self, known: dict[str, Peer]) -> None:
        self._peers = known

    def receive(self, msg: Any) -> object:
        assert isinstance(msg, peers.FindLink)
        link = self._peers[msg.node_id].link
        if link.is_lost:
            raise PeerAway("there is no link")
        return link


def play(
    seed: int,
    scene: Callable[[Cluster], Awaitable[None]],
    *names: str,
    config: WorldConfig | None = None,
    hazards: Hazards | None = None,
    **given: Any,
) -> None:
    """Run a scene with these peers, on virtual time. `given`: of the store's configuration."""

    async def main() -> None:
        world = config or WorldConfig(kept=(False,), batch_bytes=1 << 20)
        cluster = Cluster(names, world, PeerStoreConfig(name="peers", **given))
        with mock.patch("penstock.actors.l1_manager.wait_readable", _soon):
            async with AsyncExitStack() as nodes:
                tasks = await nodes.enter_async_context(create_task_group())
                for peer in cluster.peers.values():
                    peer.tasks = tasks
                    specs = peer.world.specs()
                    under = await nodes.enter_async_context(supervise(*specs, name=peer.name))
                    await under.start(peer.world.gateway.spec)
                    await peer.world.begin()
                    peer.begin()
                specs = (*cluster.specs(), *cluster.asker.specs())
                under = await nodes.enter_async_context(supervise(*specs, name="asker"))
                await under.start(cluster.asker.gateway.spec)
                await cluster.asker.begin()
                await scene(cluster)
                tasks.cancel_scope.cancel()

    simulation = Simulation(seed, hazards=hazards)
    simulation.loop.permutes_steps = not (config or WorldConfig()).is_at_hand
    simulation.run(main)
