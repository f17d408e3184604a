"""Nodes that are several: in this process, or each in one of its own, on loopback ports of this machine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpc import aio
from support.declarations import hello
from support.eventually import eventually
from support.nodes import ServedNode, local_node, served_node
from support.raw_engine import RawEngine, attached, target_of

from penstock.actors import node_peers  # loaded by a node when it starts: that is no step of ours
from penstock.actors.api import directory, peers
from penstock.actors.node import Node
from penstock.protos import engine_pb2, engine_pb2_grpc

LINK_WITHIN_S = 10.0
assert node_peers


def free_ports(count: int) -> list[int]:
    """That nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(frozen=True)
class Plan:
    """Who is to be in a cluster, and where."""

    ports: dict[str, int]

    @staticmethod
    def of(*names: str) -> Plan:
        return Plan(dict(zip(names, free_ports(len(names)), strict=True)))

    def cluster(self, name: str, **given: object) -> dict[str, object]:
        """The `cluster` of one node's configuration. `given`: more of its keys."""
        others = [
            {"id": other, "address": f"127.0.0.1:{port}"} for other, port in self.ports.items()
        ]
        return {
            "node_id": name,
            "listen": f"127.0.0.1:{self.ports[name]}",
            "membership": {"type": "static", "peers": others},
            "heartbeat": "300ms",
            "directory": {"pace": "10ms"},
            "stop_within": "300ms",
            "operators": list(self.ports),
            **given,
        }


@dataclass(frozen=True)
class Member:
    """One node in this process, with an engine attached."""

    name: str
    node: Node
    engine: RawEngine

    async def usage(self) -> peers.ClusterUsage:
        ref = self.node._cluster.peers
        assert ref is not None
        return await ref.ask(peers.Measure(), within=5)

    async def linked(self) -> set[str]:
        told = (await self.usage()).peers
        return {one.node_id for one in told if one.state is peers.PeerState.LINKED}

    async def promises(self, keys: bytes) -> dict[str, int]:
        """Chunks that each peer promises of these."""
        ref = self.node._cluster.directory
        assert ref is not None
        told = await ref.ask(directory.Promised(keys), within=5)
        return {one.node_id: one.chunks for one in told}

    async def knows(self, keys: bytes, *, of: str) -> None:
        """Wait until the directory promises all of these by that peer."""

        async def does() -> bool:
            return (await self.promises(keys)).get(of) == len(keys) // 32

        await eventually(does, within=LINK_WITHIN_S, what=f"{self.name} knows what {of} has")

    async def health(self) -> engine_pb2.HealthReply:
        async with aio.insecure_channel(target_of(self.node.address)) as channel:
            stub = engine_pb2_grpc.EngineStub(channel)
            return await stub.Health(engine_pb2.HealthRequest(), timeout=10)

    def value(self, sample: str, **labels: str) -> float:
        return self.node.telemetry.value(sample, **labels) or 0.0


@asynccontextmanager
async def member(plan: Plan, name: str, **overrides: object) -> AsyncIterator[Member]:
    """One node of the plan. `overrides`: of its configuration, `cluster` among it as a dictionary of more keys."""
    given = overrides.pop("cluster", {})
    assert isinstance(given, dict)
    config = plan.cluster(name, **given)
    async with (
        local_node(cluster=config, **overrides) as node,
        attached(node.address, hello()) as engine,
    ):
        yield Member(name, node, engine)


async def all_linked(members: Sequence[Member]) -> None:
    """Wait until each has a link to every other one."""

    async def are() -> bool:
        return all([len(await one.linked()) == len(members) - 1 for one in members])

    await eventually(are, within=LINK_WITHIN_S, what="all are linked")


@asynccontextmanager
async def cluster(*names: str, **overrides: object) -> AsyncIterator[list[Member]]:
    """All linked."""
    plan = Plan.of(*names)
    async with AsyncExitStack() as stack:
        members = [
            await stack.enter_async_context(member(plan, name, **overrides)) for name in names
        ]
        await all_linked(members)
        yield members


@contextmanager
def served_member(
    plan: Plan, name: str, state_dir: Path, **overrides: object
) -> Iterator[ServedNode]:
    """One node of the plan in a process of its own."""
    given = overrides.pop("cluster", {})
    assert isinstance(given, dict)
    config = plan.cluster(name, **given)
    with served_node(state_dir, cluster=config, **overrides) as node:
        yield node
