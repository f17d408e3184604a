"""A running node as its operators meet it: health, drain, purge, peek, the command line."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from support.declarations import hello, keys
from support.eventually import eventually, eventually_sync
from support.nodes import local_node, served_node
from support.raw_engine import attached, channel_to, open_stream

from penstock.protos import control_pb2, control_pb2_grpc, engine_pb2, engine_pb2_grpc

anyio_test = pytest.mark.anyio


@anyio_test
async def test_reflection_and_the_standard_health_service_are_there() -> None:
    async with local_node() as node, channel_to(node.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", "penstock.v1.Engine", "penstock.v1.Control"):
            reply = await check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await check(health_pb2.HealthCheckRequest(service="nobody"))
        assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_tells_the_services_to_tools(tmp_path: Path) -> None:
    with served_node(tmp_path / "state") as node, node.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {"penstock.v1.Engine", "penstock.v1.Control", "grpc.health.v1.Health"} <= services
        file = database.FindFileContainingSymbol("penstock.v1.Engine")
        assert "Session" in {method.name for method in file.service[0].method}


@anyio_test
async def test_drain_waits_for_the_attached_longer_than_an_ask_may_take() -> None:
    """DESIGN 9: a drain takes as long as it was told to, admits nobody meanwhile, and answers.

    Seen to fail while Drain had the 5 s (here 0.2 s) of every other unary call: it gave up and left a node
    that admitted nobody and did not stop.
    """
    async with (
        local_node(ask_within="200ms") as node,
        channel_to(node.address) as channel,
        attached(node.address, hello()) as engine,
    ):
        drain = control_pb2_grpc.ControlStub(channel).Drain
        draining = drain(control_pb2.DrainRequest(within_ms=10_000))
        health = engine_pb2_grpc.EngineStub(channel).Health

        async def is_draining() -> bool:
            state = (await health(engine_pb2.HealthRequest())).state
            return state == engine_pb2.HEALTH_STATE_DRAINING

        await eventually(is_draining, within=1, what="it drains")
        async with open_stream(node.address) as late:
            reply = await late.ask(hello=hello())
            assert "the node is stopping" in reply.error.message
        for _ in range(3):
            await engine.stat()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(node.wait_stopping())
        await engine.call.done_writing()
        assert (await draining).sessions_left == 0
        await node.wait_stopping()


@anyio_test
async def test_a_drain_that_runs_out_of_time_says_who_was_left() -> None:
    async with (
        local_node() as node,
        channel_to(node.address) as channel,
        attached(node.address, hello()),
        attached(node.address, hello()),
    ):
        drain = control_pb2_grpc.ControlStub(channel).Drain
        assert (await drain(control_pb2.DrainRequest(within_ms=50))).sessions_left == 2
        await node.wait_stopping()


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with served_node(tmp_path / "state") as node, node.channel() as channel:
        session = channel.stream_stream("/penstock.v1.Engine/Session")
        first = engine_pb2.SessionRequest(correlation_id=1, hello=hello()).SerializeToString()
        waits = threading.Event()

        def requests() -> Iterator[bytes]:
            yield first
            waits.wait(15)

        replies = session(requests())
        next(replies)
        node.process.send_signal(signal.SIGTERM)
        eventually_sync(lambda: "draining" in node.log, within=5, what="it drains")
        assert node.process.poll() is None
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(10) == 0
        waits.set()


@anyio_test
async def test_purge_empties_what_nobody_holds() -> None:
    async with (
        local_node() as node,
        channel_to(node.address) as channel,
        attached(node.address, hello()) as engine,
    ):
        await engine.put(keys(2, prompt="kept"))
        await engine.put(keys(3))
        await engine.lookup(keys(2, prompt="kept"))
        purged = await control_pb2_grpc.ControlStub(channel).Purge(control_pb2.PurgeRequest())
        assert (purged.chunks, purged.bytes) == (3, 3 * 4096)
        assert (await engine.stat()).chunks == 2


@anyio_test
async def test_a_peek_by_tokens_does_not_forget_the_salt() -> None:
    """A13: a unary Lookup has no session to salt its tokens with: it refuses rather than answer for another tenant.

    Seen to fail while salt, adapter and extras of a peek by tokens were not looked at.
    """
    async with (
        local_node() as node,
        channel_to(node.address) as channel,
        attached(node.address, hello()) as engine,
    ):
        peek = engine_pb2_grpc.EngineStub(channel).Lookup
        digest = engine.welcome.namespace_digest
        body = bytes(4 * 32)
        reserve = engine_pb2.Reserve(prompt=engine_pb2.Prompt(tokens=body))
        lease = (await engine.ask(reserve=reserve)).reserved.lease
        await engine.commit(lease, [1, 2])

        def request(**fields: object) -> engine_pb2.PeekRequest:
            prompt = engine_pb2.Prompt(tokens=body, **fields)  # type: ignore[arg-type]
            return engine_pb2.PeekRequest(prompt=prompt, namespace_digest=digest)

        assert (await peek(request())).hit_chunks == 2
        extras = [engine_pb2.ChunkExtra(chunk=0, extra=b"image")]
        for name, value in (("salt", b"B"), ("adapter", b"a"), ("extras", extras)):
            with pytest.raises(grpc.aio.AioRpcError, match=f"prompt.{name}") as refusal:
                await peek(request(**{name: value}))
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        for wrong, said in (
            (engine_pb2.PeekRequest(namespace_digest=digest), "keys or tokens"),
            (engine_pb2.PeekRequest(namespace_digest=b"d"), "32 bytes"),
            (engine_pb2.PeekRequest(namespace_digest=b"d" * 32), "no session has declared"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=said):
                await peek(wrong)


def test_status_drain_and_purge_of_the_command_line(tmp_path: Path) -> None:
    def penstock(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "penstock.actors.cli.main", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)

    address = f"unix://{tmp_path}/state/penstock.sock"
    with served_node(tmp_path / "state") as node:
        shown = penstock("status", "--address", address)
        assert shown.returncode == 0, shown
        assert "serving" in shown.stdout
        assert (
            "penstock_l1_arena_bytes"
            in penstock("status", "--metrics", "--address", address).stdout
        )
        assert penstock("purge", "--address", address).stdout == "removed 0 chunks, 0 bytes\n"
        drained = penstock("drain", "--address", address)
        assert (drained.returncode, drained.stdout) == (0, "stopped, 0 sessions were left\n")
        assert node.process.wait(10) == 0
    gone = penstock("status", "--address", address)
    assert gone.returncode == 2
    assert "Traceback" not in gone.stderr
