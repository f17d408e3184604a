"""Scenario C10: reflection has places of its own, and none for who neither asks nor reads."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as wire
from grpc_reflection.v1alpha import reflection_pb2_grpc
from support.eventually import eventually
from support.nodes import local_node
from support.raw_engine import channel_to

pytestmark = pytest.mark.anyio

LIST = wire.ServerReflectionRequest(list_services="")
LONGEST = wire.ServerReflectionRequest(file_by_filename="penstock/protos/engine.proto")


async def test_silent_reflection_calls_take_no_watch_its_place_and_lose_their_own() -> None:
    """Seen to fail while reflection shared the places of watches (the watch was refused), and while a call whose client
    sends nothing kept its place (nothing ended)."""
    async with (
        local_node(
            gateway__reflections_max=2, gateway__watches_max=2, gateway__hello_within=0.5
        ) as node,
        channel_to(node.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        silent = [stub.ServerReflectionInfo() for _ in range(3)]
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with anyio.fail_after(5):
            ends = [(await call.code(), await call.details()) for call in silent]
        (refused,) = [words for code, words in ends if code == grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert "gateway.reflections_max" in refused
        ended = [words for code, words in ends if code == grpc.StatusCode.DEADLINE_EXCEEDED]
        assert len(ended) == 2
        assert all("neither sends nor reads for 0.5 s" in words for words in ended)
        again = stub.ServerReflectionInfo()
        await again.write(LIST)
        assert (await again.read()).list_services_response.service
        await again.done_writing()
        assert await again.code() == grpc.StatusCode.OK
        watch.cancel()


async def test_who_asks_for_ever_and_reads_nothing_loses_its_place() -> None:
    """Seen to fail while only the requests were waited for with a bound: the call went on."""
    async with (
        local_node(gateway__reflections_max=1, gateway__hello_within=0.5) as node,
        channel_to(node.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        def many() -> Iterator[wire.ServerReflectionRequest]:
            yield from (LONGEST for _ in range(100_000))

        call = stub.ServerReflectionInfo(many())

        async def has_room() -> bool:
            again = stub.ServerReflectionInfo(iter([LIST]))
            try:
                return hasattr(await again.read(), "list_services_response")
            except aio.AioRpcError:
                return False
            finally:
                again.cancel()

        await eventually(has_room, within=10, what="the place is free")
        call.cancel()
