"""grpc.health.v1 as load balancers and service managers ask it: it says no as soon as a node takes no newcomers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest import mock

import anyio
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.declarations import hello
from support.eventually import eventually
from support.nodes import local_node
from support.raw_engine import attached, channel_to, open_stream

from penstock.actors.api.control import GetHealth, HealthState
from penstock.actors.eviction_controller import EvictionController
from penstock.actors.node import Node
from penstock.runtime.mailbox import Envelope

pytestmark = pytest.mark.anyio

NAMES = ("", "penstock.v1.Engine", "penstock.v1.Control", "grpc.health.v1.Health")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def check(channel: aio.Channel, name: str) -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    status: int = reply.status
    return status


async def next_told(watch: aio.UnaryStreamCall) -> object:
    with anyio.fail_after(5):
        said = await watch.read()
    return said if said is aio.EOF else said.status


@asynccontextmanager
async def draining(node: Node) -> AsyncIterator[None]:
    """A drain that waits for somebody attached, until the body is over."""
    async with attached(node.address, hello()), anyio.create_task_group() as tasks:

        async def drain() -> None:
            await node.drain(within=10)

        tasks.start_soon(drain)

        async def has_begun() -> bool:
            async with open_stream(node.address) as newcomer:
                return "the node is stopping" in (await newcomer.ask(hello=hello())).error.message

        await eventually(has_begun, within=5, what="nobody is admitted any more")
        yield
        tasks.cancel_scope.cancel()


async def test_every_service_says_no_while_the_node_drains_and_watchers_are_told() -> None:
    """DESIGN 9: from the moment nobody is admitted, Check says NOT_SERVING and Watch tells it, for "" and each service.

    Seen to fail while the status was set at the start and at the end of the servers only: SERVING through the drain.
    """
    async with local_node() as node, channel_to(node.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=one)) for one in NAMES]
        assert [await next_told(one) for one in watches] == [SERVING] * len(NAMES)
        async with draining(node):
            assert [await check(channel, one) for one in NAMES] == [NOT_SERVING] * len(NAMES)
            assert [await next_told(one) for one in watches] == [NOT_SERVING] * len(NAMES)
            listed = (await stub.List(health_pb2.HealthListRequest())).statuses
            assert {*NAMES} <= {*listed}
            assert {one.status for one in listed.values()} == {NOT_SERVING}


async def test_a_degraded_node_serves() -> None:
    """B12: a part that is being restarted, or a store that is left alone, sends nobody elsewhere."""
    async with local_node() as node, channel_to(node.address) as channel:
        may_start = anyio.Event()

        async def wait(_: EvictionController) -> None:
            await may_start.wait()

        with mock.patch.object(EvictionController, "on_start", wait):
            node._refs.eviction.mailbox.put_nowait(Envelope(GetHealth(), math.inf, None))

            async def is_degraded() -> bool:
                health = await node._refs.control.ask(GetHealth(), within=5)
                return health.state is HealthState.DEGRADED

            await eventually(is_degraded, within=5, what="eviction is being restarted")
            assert [await check(channel, one) for one in NAMES] == [SERVING] * len(NAMES)
            may_start.set()


async def test_a_gateway_that_is_back_during_a_drain_says_no_from_the_start() -> None:
    """B12: a restart of the gateway admits nobody either, and its health service knows.

    Seen to fail with each life of the gateway beginning with SERVING."""
    async with local_node() as node:
        async with draining(node):
            node._refs.gateway.mailbox.put_nowait(Envelope(GetHealth(), math.inf, None))

            async def is_back() -> bool:
                health = await node._refs.control.ask(GetHealth(), within=5)
                part = next(one for one in health.parts if one.name == "gateway")
                return part.restarts == 1 and part.state is HealthState.SERVING

            await eventually(is_back, within=5, what="the gateway has been restarted")
            async with channel_to(node.address) as channel:
                assert [await check(channel, one) for one in NAMES] == [NOT_SERVING] * len(NAMES)


async def test_a_watcher_hears_of_the_end_and_does_not_hold_it_up() -> None:
    """C1: a node that stops tells its watchers, and ends their calls itself.

    Seen to fail with watches that only the end of the node's patience (here 30 s) ended."""
    async with channel_to_a_node_that_stops() as (channel, stop):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        unknown = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="nobody")
        )
        assert await next_told(watch) == SERVING
        assert await next_told(unknown) == SERVICE_UNKNOWN
        stop.set()
        assert await next_told(watch) == NOT_SERVING
        assert await next_told(watch) is aio.EOF
        assert await next_told(unknown) is aio.EOF


@asynccontextmanager
async def channel_to_a_node_that_stops() -> AsyncIterator[tuple[aio.Channel, anyio.Event]]:
    stop = anyio.Event()
    address: list[str] = []
    ready = anyio.Event()

    async def live() -> None:
        async with local_node(gateway__stop_within="30s") as node:
            address.append(node.address)
            ready.set()
            await stop.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await ready.wait()
        async with channel_to(address[0]) as channel:
            yield channel, stop
        stop.set()
