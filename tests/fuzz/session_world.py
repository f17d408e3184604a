"""The node as the product composes it, on a simulated loop, without gRPC, sockets and pidfds.

`Node` makes its actors itself; only the ends that touch the machine are replaced: the listening servers (there are
none), the arena door (nobody knocks; the input says who enters) and the return queue's descriptor.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio
from session_input import Profile
from session_pushes import stand_ins

from penstock import _native
from penstock.actors.api import control, session
from penstock.actors.api.types import Epoch
from penstock.actors.arena_door import ArenaDoor, DoorLimits
from penstock.actors.call_kinds import call_places
from penstock.actors.config import GatewayConfig, L1Config, NodeConfig, SessionsConfig
from penstock.actors.gateway import Gateway, Streams
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.l1_manager import L1Manager
from penstock.actors.node import Node
from penstock.actors.node_settings import gateway_limits
from penstock.actors.sessions import Sessions
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import SimLoop
from penstock.runtime.supervisor import ChildSpec, Supervisor, supervise
from penstock.runtime.telemetry import Telemetry
from penstock.runtime.units import KIB, MIB, ByteSize, Seconds

CONFIGS = {
    Profile.SMALL: NodeConfig(
        chunk_tokens=4,
        l1=L1Config(
            bytes=ByteSize(256 * KIB),
            prefault_threads=0,
            high_water=0.8,
            low_water=0.5,
            evict_batch=ByteSize(16 * KIB),
            quarantine_max=0.5,
            leases_max=24,
            tickets_max=24,
            watches_max=4,
            watched_chunks_max=12,
            tenants_max=4,
            tenant_bytes_max=ByteSize(128 * KIB),
        ),
        gateway=GatewayConfig(
            message_max=ByteSize(16 * KIB),
            chunks_max=64,
            inflight_max=3,
            leases_max=6,
            tickets_max=6,
            outgoing_max=4,
            streams_max=5,
            kept_prompts=ByteSize(2 * KIB),
            stall=Seconds(2),
        ),
        sessions=SessionsConfig(sessions_max=6, namespaces_max=6),
        mailbox_max=64,
    ),
    Profile.SHIPPED: NodeConfig(l1=L1Config(bytes=ByteSize(64 * MIB), prefault_threads=0)),
}


class NoDoor(ArenaDoor):
    """Nobody comes; whoever is told to leave does."""

    async def open(self) -> None:
        """There is nothing to listen on."""

    async def serve(self, sessions: Ref[session.Sessions]) -> None:
        await anyio.sleep_forever()


@dataclass(slots=True)
class World:
    """A running node with its inside laid open for checks."""

    config: NodeConfig
    limits: GatewayLimits
    node: Node
    supervisor: Supervisor
    streams: Streams
    manager: L1Manager
    table: _native.Table
    keeper: Sessions

    @property
    def sessions(self) -> Ref[session.Sessions]:
        return self.node._refs.sessions

    @property
    def control(self) -> Ref[control.Control]:
        return self.node._refs.control


@dataclass(frozen=True, slots=True)
class _NoArena:
    """What the composition asks of an arena. There is no memory behind it: extents are numbers to the whole node."""

    bytes: int


@asynccontextmanager
async def running(profile: Profile) -> AsyncIterator[World]:
    """A node of `profile`, started and stopped as the product does it. Raises Escalated when an actor died."""
    config = CONFIGS[profile]
    limits = gateway_limits(config)
    node = Node(config, Epoch(os.urandom(16)), Telemetry())
    arena = cast(_native.Arena, _NoArena(config.l1.bytes))
    streams = node._streams(arena, limits)
    door = NoDoor(Path("nowhere"), arena_fd=-1, limits=DoorLimits(1, 1.0, 1.0))
    made: list[L1Manager | Sessions] = []

    def make_manager() -> L1Manager:
        made.append(manager := node._make_l1(arena))
        return manager

    def make_keeper() -> Sessions:
        made.append(keeper := node._make_sessions(door))
        return keeper

    async with supervise(name="node") as supervisor:
        refs = node._refs
        await supervisor.start(ChildSpec(refs.l1, make_manager, restarts_max=0))
        await supervisor.start(ChildSpec(refs.eviction, node._make_eviction))
        await supervisor.start(ChildSpec(refs.sessions, make_keeper, restarts_max=0))
        await supervisor.start(ChildSpec(refs.control, lambda: node._make_control(supervisor)))
        streams._pushes, children = stand_ins(refs.l1)
        for child in children:
            await supervisor.start(child)
        await supervisor.start(ChildSpec(refs.gateway, lambda: _gateway(config, streams)))
        manager, keeper = made
        assert isinstance(manager, L1Manager)
        assert isinstance(keeper, Sessions)
        yield World(config, limits, node, supervisor, streams, manager, manager._table, keeper)


def _gateway(config: NodeConfig, streams: Streams) -> Gateway:
    places = call_places(config)
    return Gateway(
        listen=(),
        handlers=(),
        service_names=(),
        streams=streams,
        places=places,
        stop_within_s=1.0,
    )


def deafen(loop: SimLoop) -> None:
    """Let the loop accept descriptors to watch, none of which is ever readable.

    The only one is the return queue's, for handles that die on other threads, and there are no other threads.
    """
    loop.add_reader = lambda *_: None  # type: ignore[method-assign]
    loop.remove_reader = lambda fd: True  # type: ignore[method-assign]
