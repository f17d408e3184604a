"""The node: the composition root, and the only file that knows all actors.

node
 |- l1_manager           no restart: its death ends the epoch and the node
 |- store[NAME] ...      in the order of their tiers; one that breaks disturbs no other
 |- store_writer         if there are stores
 |- eviction_controller
 |- prefetcher           if there are stores
 |- sessions             no restart: it alone knows whose memory is quarantined
 |- control
 '- gateway              last to start and first to stop: nobody is served by half a node
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from penstock import _native
from penstock.actors.api import control, eviction, gateway, l1, prefetch, session, store, writer
from penstock.actors.api.types import Epoch
from penstock.actors.arena_door import ArenaDoor
from penstock.actors.call_kinds import call_places
from penstock.actors.config import L1Mode, NodeConfig
from penstock.actors.control import Control, ControlLimits
from penstock.actors.core.lossy import LossyNamespaces
from penstock.actors.core.quota import Tenants
from penstock.actors.engine_requests import Neighbours
from penstock.actors.eviction_controller import EvictionController, SavesDown, Watermarks
from penstock.actors.gateway import Gateway, NodeFacts, Streams
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.hello import HelloReader
from penstock.actors.l1_geometries import longest_hit
from penstock.actors.l1_making import arena_bytes, l1_table, write_bound
from penstock.actors.l1_manager import L1Manager
from penstock.actors.metrics_http import MetricsLimits, MetricsServer
from penstock.actors.node_cluster import Cluster, Surrounding, clustered
from penstock.actors.node_memory import tell_prefault, wait_for_memory
from penstock.actors.node_settings import (
    address_text,
    door_limits,
    gateway_limits,
    gateway_spec,
    listen_spec,
    metrics_endpoint,
)
from penstock.actors.node_stores import (
    StoreOpener,
    prefetch_limits,
    store_child,
    store_spec,
    store_tools,
    tier,
    watches,
)
from penstock.actors.node_writing import hits_max, saved_tier, saves_what_leaves, writer_limits
from penstock.actors.prefetcher import Prefetcher
from penstock.actors.services import SERVICE_NAMES, NodeServices
from penstock.actors.sessions import SessionLimits, Sessions
from penstock.actors.store_actor import StoreActor
from penstock.actors.store_writer import StoreWriter
from penstock.actors.stores.catalogs import make_catalog
from penstock.actors.stores.digests import Digester
from penstock.actors.stores.opening import AnyStoreConfig
from penstock.actors.stores.store import StoreContext
from penstock.actors.writer_loans import Loans
from penstock.actors.writer_metrics import WriterMetrics
from penstock.runtime.actor_metrics import ActorMetrics
from penstock.runtime.claim import claimed
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError, mapped
from penstock.runtime.grpc_transport import private_directory
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref
from penstock.runtime.security import Address, check_exposure
from penstock.runtime.supervisor import ChildSpec, Supervisor, supervise
from penstock.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from penstock.actors.engine.client import Client
    from penstock.actors.engine.spec import EngineSpec

ARENA_SOCKET = "arena.sock"


class Node:
    """A running node. Made by `Node.run` or `Node.local`."""

    def __init__(self, config: NodeConfig, epoch: Epoch, telemetry: Telemetry) -> None:
        self.config = config
        self.epoch = epoch
        self.telemetry = telemetry
        self._addresses: tuple[Address, ...] = ()
        self.is_draining = False
        self._stopping = asyncio.Event()
        refs = self._refs = _Refs(config)
        self._cluster = Cluster(
            Surrounding(config, epoch, telemetry, refs.l1, refs.control),
            (refs.gateway, refs.prefetcher),
        )
        self._digester = Digester()
        self._lossy = LossyNamespaces()  # learned by the gateway, asked by stores

    @property
    def address(self) -> str:
        """Where engines attach: the first listening address, as clients write it."""
        return address_text(self._addresses[0])

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(address_text(one) for one in self._addresses)

    def stop(self) -> None:
        """Stop in order. `wait_stopping` returns; whoever runs the node leaves its context."""
        self._stopping.set()

    async def wait_stopping(self) -> None:
        await self._stopping.wait()

    async def drain(self, *, within: float) -> int:
        """Admit no more sessions, wait for those attached, then stop. Returns the sessions left."""
        self.is_draining = True
        return await self._refs.control.ask(control.Drain(within), within=within + 5.0)

    async def usage(self, *, within: float = 5.0) -> l1.Usage:
        return await self._refs.l1.ask(l1.Measure(), within=within)

    def attach(self, spec: EngineSpec) -> AbstractAsyncContextManager[Client]:
        """A client of this node, over its own socket: `async with node.attach(spec) as client`."""
        from penstock.actors.engine.client import Client, ClientConfig

        return Client.connect(ClientConfig(address=self.address), spec)

    @staticmethod
    @asynccontextmanager
    async def run(config: NodeConfig) -> AsyncIterator[Node]:
        """Run a node while the body runs.

        Raises ConfigError, StartFailed (no memory, address taken), and Escalated when an
        actor that may not be restarted died.
        """
        config = clustered(config)
        for one in config.gateway.listen:
            spec = listen_spec(one, config)
            check_exposure(spec.address, tls=spec.tls, tokens=spec.identities)
        directory = private_directory(config.state_dir)
        otherwise = "another node keeps its sockets here; stop it, or choose another state_dir"
        with claimed(directory / "node.lock", otherwise=otherwise):
            await wait_for_memory(config)
            with mapped({_native.ArenaRefused: lambda problem: ConfigError("l1.bytes", problem)}):
                arena = _native.Arena(bytes=arena_bytes(config))
            node = Node(config, Epoch(os.urandom(16)), Telemetry())
            try:
                if config.l1.prefault_threads:
                    arena.start_prefault(threads=config.l1.prefault_threads)
                async with supervise(name="node") as supervisor:
                    await node._start(supervisor, arena)
                    yield node
            finally:
                arena.close()

    @staticmethod
    @asynccontextmanager
    async def local(
        *, l1_bytes: str | int = "1GiB", overrides: Mapping[str, object] | None = None
    ) -> AsyncIterator[Node]:
        """A node in this process, on a socket nobody else knows: for tests, tools and first steps."""
        with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
            given = {"state_dir": directory, "l1.bytes": l1_bytes, **(overrides or {})}
            async with Node.run(load_config(NodeConfig, overrides=given)) as node:
                yield node

    async def _start(self, supervisor: Supervisor, arena: _native.Arena) -> None:
        config, refs = self.config, self._refs
        self.telemetry.collect_from(ActorMetrics(supervisor))
        door = ArenaDoor(
            config.state_dir / ARENA_SOCKET, arena_fd=arena.fd, limits=door_limits(config)
        )
        limits = gateway_limits(config)
        streams = self._streams(arena, limits)
        services = NodeServices(
            serve_stream=streams.serve,
            manager=refs.l1,
            sessions=refs.sessions,
            operator=refs.control,
            stores=tuple(refs.stores.values()),
            reach=self._cluster.reach,
            fleet=self._cluster.fleet,
            epoch=self.epoch,
            chunks_max=limits.chunks_max,
            message_bytes_max=limits.message_bytes_max,
            scan_bounds=limits.scan_bounds,
            ask_s=config.ask_within,
            drain_s=config.drain,
        )
        await supervisor.start(ChildSpec(refs.l1, lambda: self._make_l1(arena), restarts_max=0))
        for one in config.stores:
            await supervisor.start(self._store_child(one, arena.view(0, arena.bytes)))
        if config.stores:
            await supervisor.start(self._writer_child(arena))
        await supervisor.start(ChildSpec(refs.eviction, self._make_eviction))
        if config.stores:
            await supervisor.start(ChildSpec(refs.prefetcher, lambda: self._make_prefetcher(arena)))
        await supervisor.start(
            ChildSpec(refs.sessions, lambda: self._make_sessions(door), restarts_max=0)
        )
        await supervisor.start(ChildSpec(refs.control, lambda: self._make_control(supervisor)))
        await self._cluster.start(supervisor, arena)

        def make_gateway() -> Gateway:
            return Gateway(
                listen=[listen_spec(one, config) for one in config.gateway.listen],
                handlers=[services],
                service_names=SERVICE_NAMES,
                streams=streams,
                places=call_places(config),
                stop_within_s=config.gateway.stop_within,
            )

        await supervisor.start(gateway_spec(config, refs.gateway, make_gateway))
        if config.metrics_address:
            await supervisor.start(ChildSpec(refs.metrics, self._make_metrics))
        self._addresses = streams.addresses
        Log("node").info(
            "ready",
            address=" ".join(self.addresses),
            arena_bytes=arena.bytes,
            pages=arena.pages.name.lower(),
            pages_reason=arena.huge_page_reason,
            numa=arena.numa_reason,
        )

    def _streams(self, arena: _native.Arena, limits: GatewayLimits) -> Streams:
        refs = self._refs
        below = (refs.prefetcher, refs.writer) if self.config.stores else (None, None)
        socket_path = str(self.config.state_dir / ARENA_SOCKET)
        return Streams(
            facts=NodeFacts(self.epoch, arena.bytes, self.config.l1.bytes, socket_path),
            limits=limits,
            hello=HelloReader(chunk_tokens=self.config.chunk_tokens, lossy=self._lossy),
            neighbours=Neighbours(refs.gateway, refs.l1, refs.sessions, refs.eviction, *below),
            news=refs.control,
            pushes=self._cluster.pushes,
        )

    def _make_l1(self, arena: _native.Arena) -> L1Manager:
        config = self.config.l1
        table = l1_table(self.config)
        return L1Manager(
            table,
            arena_bytes=config.bytes,
            high_water_bytes=int(config.bytes * config.high_water),
            watches=watches(self.config),
            tenants=Tenants(
                tenants_max=config.tenants_max,
                default_bytes_max=config.tenant_bytes_max,
                bytes_max={one.salt.encode(): one.bytes for one in config.quotas},
                bytes_of=table.bytes_of,
                weights={one.salt.encode(): one.weight for one in config.quotas},
            ),
            telemetry=self.telemetry,
            eviction_controller=self._refs.eviction,
            beside=partial(tell_prefault, arena) if config.prefault_threads else None,
            store_writer=self._refs.writer if self.config.stores else None,
            hits_max=hits_max(self.config),
            bound=write_bound(self.config, table),
            told=self._cluster.directory,
        )

    def _store_child(self, config: AnyStoreConfig, all_: memoryview) -> ChildSpec[store.StoreActor]:
        context = StoreContext(
            config.name, self.epoch, self._lossy, all_, reach=self._cluster.reach
        )
        opener = StoreOpener(config, context)
        tools = store_tools(config, partial(make_catalog, config), self._digester)
        return store_spec(
            config,
            self._refs.stores[config.name],
            lambda: StoreActor(opener, config=config, tools=tools, telemetry=self.telemetry),
        )

    def _make_prefetcher(self, arena: _native.Arena) -> Prefetcher:
        refs = self._refs
        return Prefetcher(
            tiers=[
                tier(one, refs.stores[one.name], self.config.l1.mode) for one in self.config.stores
            ],
            manager=refs.l1,
            evictor=refs.eviction,
            memory=arena,
            longest=longest_hit,
            limits=prefetch_limits(self.config),
            telemetry=self.telemetry,
        )

    @property
    def _is_staging(self) -> bool:
        return self.config.l1.mode is L1Mode.STAGING

    def _writer_child(self, arena: _native.Arena) -> ChildSpec[writer.StoreWriter]:
        refs, stores = self._refs, self.config.stores
        names = [one.name for one in stores]
        metrics = WriterMetrics(self.telemetry, names)
        loans = Loans(refs.l1, ask_s=self.config.ask_within)
        return ChildSpec(
            refs.writer,
            lambda: StoreWriter(
                [saved_tier(one, refs.stores[one.name]) for one in stores],
                manager=refs.l1,
                memory=arena,
                limits=writer_limits(self.config),
                metrics=metrics,
                loans=loans,
                is_staging=self._is_staging,
                draw=random.random,
            ),
        )

    def _make_eviction(self) -> EvictionController:
        config = self.config.l1
        watermarks = Watermarks.of(
            config.bytes,
            low=config.low_water,
            high=config.high_water,
            batch_bytes=config.evict_batch,
            batch_chunks=config.evict_batch_chunks,
            ask_s=self.config.ask_within,
        )
        saves_down = SavesDown(
            self._refs.writer, config.save_urgent_within, config.save_relaxed_within, self.telemetry
        )
        return EvictionController(
            self._refs.l1,
            watermarks,
            store_writer=self._refs.writer if self.config.stores else None,
            saves_down=saves_down if saves_what_leaves(self.config) else None,
            is_staging=self._is_staging,
        )

    def _make_sessions(self, door: ArenaDoor) -> Sessions:
        config = self.config
        limits = SessionLimits(
            config.sessions.sessions_max, config.sessions.namespaces_max, config.ask_within
        )
        return Sessions(
            epoch=self.epoch,
            limits=limits,
            own=self._refs.sessions,
            manager=self._refs.l1,
            service=self._refs.gateway,
            door=door,
        )

    def _make_control(self, supervisor: Supervisor) -> Control:
        config = self.config
        return Control(
            evictor=self._refs.eviction,
            engines=self._refs.gateway,
            stores=tuple(self._refs.stores.values()),
            peers=self._cluster.peers,
            children=supervisor.health,
            telemetry=self.telemetry,
            stop=self.stop,
            limits=ControlLimits(config.ask_within, config.drain_max, config.control.waiting_max),
        )

    def _make_metrics(self) -> MetricsServer:
        config = self.config
        address = metrics_endpoint(config.metrics_address)
        limits = MetricsLimits(config.metrics_connections_max, config.metrics_within)
        return MetricsServer(address, self.telemetry.exposition, limits)


class _Refs:
    """The mailboxes of a node; made first, so that neighbours can be named before they live."""

    def __init__(self, config: NodeConfig) -> None:
        messages_max = config.mailbox_max
        self.l1 = Ref.to(l1.L1Manager, "l1_manager", messages_max=messages_max)
        self.stores = {
            one.name: Ref.to(store.StoreActor, store_child(one.name), messages_max=messages_max)
            for one in config.stores
        }
        self.eviction = Ref.to(
            eviction.EvictionController, "eviction_controller", messages_max=messages_max
        )
        self.prefetcher = Ref.to(prefetch.Prefetcher, "prefetcher", messages_max=messages_max)
        self.writer = Ref.to(writer.StoreWriter, "store_writer", messages_max=messages_max)
        self.sessions = Ref.to(session.Sessions, "sessions", messages_max=messages_max)
        self.control = Ref.to(control.Control, "control", messages_max=messages_max)
        self.gateway = Ref.to(gateway.Gateway, "gateway", messages_max=messages_max)
        self.metrics = Ref.to(MetricsServer, "metrics", messages_max=1)
