"""`penstock serve` as its users meet it: starting, refusing to start, being operated, stopping."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from support.declarations import hello, keys
from support.eventually import eventually, eventually_sync
from support.nodes import local_node, serve_command, served_node
from support.raw_engine import attached, channel_to, open_stream

from penstock.actors.config import NodeConfig
from penstock.actors.node import Node
from penstock.protos import control_pb2, control_pb2_grpc, engine_pb2, engine_pb2_grpc
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError, StartFailed

anyio_test = pytest.mark.anyio


def refused(tmp_path: Path, **overrides: object) -> str:
    """What `penstock serve` says when it does not start: one sentence, status 2."""
    command = serve_command(tmp_path / "state", **overrides)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    assert ended.returncode == 2, ended
    lines = ended.stderr.strip().splitlines()
    assert lines[-1].startswith("penstock: "), ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return lines[-1]


# Starting.


def test_a_served_node_is_private_ready_and_stops_on_sigterm(tmp_path: Path) -> None:
    with served_node(tmp_path / "state") as node:
        assert node.address == f"unix://{tmp_path}/state/penstock.sock"
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        for name in ("penstock.sock", "arena.sock"):
            assert stat.S_IMODE((tmp_path / "state" / name).stat().st_mode) == 0o600
        health = node.health()
        assert health.state == engine_pb2.HEALTH_STATE_SERVING
        names = [part.name for part in health.parts]
        assert names == ["l1_manager", "eviction_controller", "sessions", "control", "gateway"]
        assert node.stat().arena_bytes == 4 << 20
        assert node.terminate() == 0
        assert "Traceback" not in node.log, node.log
        assert not list((tmp_path / "state").glob("*.sock"))


def test_a_killed_nodes_leavings_do_not_hinder_the_next(tmp_path: Path) -> None:
    with served_node(tmp_path / "state") as first:
        first.kill()
        assert (tmp_path / "state" / "penstock.sock").exists()
        with served_node(tmp_path / "state") as second:
            assert second.health().state == engine_pb2.HEALTH_STATE_SERVING


def test_a_second_node_on_the_same_state_is_refused_and_hurts_nobody(tmp_path: Path) -> None:
    """Seen to fail while only the gRPC socket was locked: the second node had replaced and removed the arena socket
    of the first before it was refused.
    """
    with served_node(tmp_path / "state") as node:
        said = refused(tmp_path)
        assert "another node" in said
        assert str(tmp_path / "state") in said
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(tmp_path / "state" / "arena.sock"))
        assert node.health().state == engine_pb2.HEALTH_STATE_SERVING


def test_two_nodes_do_not_share_a_socket(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/engines.sock"
    listen = f"[{{address: '{address}'}}]"
    with served_node(tmp_path / "one", gateway__listen=listen) as node:
        said = refused(tmp_path, gateway__listen=listen)
        assert "another node listens on this socket" in said
        assert node.health().state == engine_pb2.HEALTH_STATE_SERVING


def test_a_state_directory_others_can_write_is_refused(tmp_path: Path) -> None:
    """D1's kin: whoever can write the directory can put a socket of his own there, and be the node.

    Seen to fail while a directory that was there was taken as it was.
    """
    (tmp_path / "state").mkdir(mode=0o777)
    (tmp_path / "state").chmod(0o777)
    assert "others" in refused(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"l1__byts": "1GiB"}, "l1.byts: there is no such key"),
        ({"l1__bytes": "4097"}, "multiple of 4096"),
        ({"l1__bytes": "1000TiB", "l1__memory_within": "0.01"}, "l1.bytes"),
        ({"gateway__listen": "[{address: '0.0.0.0:0'}]"}, "listen.tls and listen.token_file"),
        ({"gateway__listen": "[{address: '127.0.0.1:0', token_file: /nowhere}]"}, "/nowhere"),
        (
            {"gateway__listen": "[{address: 'h:0', tls_key: /no, tls_certificate: /no}]"},
            "token_file",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence(
    tmp_path: Path, overrides: dict[str, object], said: str
) -> None:
    """E4, D4: a node that cannot be what its configuration says does not start."""
    assert said in refused(tmp_path, **overrides)


def test_a_metrics_port_that_is_taken_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Seen to fail with an OSError out of a task group: a traceback of forty lines."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(tmp_path, metrics_address=f"127.0.0.1:{port}")


@anyio_test
async def test_exposure_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    """D4: refused before the arena, by the path of the key."""
    overrides = {
        "state_dir": str(tmp_path / "s"),
        "l1.bytes": 1 << 20,
        "gateway.listen": [{"address": "0.0.0.0:0"}],
    }
    config = load_config(NodeConfig, overrides=overrides)
    with pytest.raises(ConfigError, match=r"listen\.tls and listen\.token_file"):
        async with Node.run(config):
            pass


@anyio_test
async def test_what_the_body_raises_passes_as_it_is() -> None:
    """Seen to fail with a task group around the body: it came as an ExceptionGroup."""
    with pytest.raises(KeyError, match="mine"):
        async with local_node():
            raise KeyError("mine")


@anyio_test
async def test_a_second_node_in_this_process_is_refused_too() -> None:
    async with local_node() as node:
        with pytest.raises(StartFailed, match="another node"):
            async with Node.run(node.config):
                pass
        async with attached(node.address, hello()) as engine:
            await engine.put(keys(1))


# TCP.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, node.pem, node.key and token, readable files in a directory."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued.private_key_pem.write_to_path(str(directory / "node.key"))
    issued.cert_chain_pems[0].write_to_path(str(directory / "node.pem"))
    (directory / "token").write_text("correct horse\nsecond line\n")
    return directory


def listening_on(address: str, directory: Path) -> dict[str, object]:
    return {
        "address": address,
        "tls_certificate": str(directory / "node.pem"),
        "tls_key": str(directory / "node.key"),
        "token_file": str(directory / "token"),
    }


@anyio_test
async def test_tcp_with_tls_and_token_serves_who_has_both(certificates: Path) -> None:
    """D4: without the token, or without TLS, not one method answers, health and reflection included.

    Seen to fail with TokenGuard passing every call on.
    """
    listen = [listening_on("0.0.0.0:0", certificates)]
    async with local_node(gateway__listen=listen) as node:
        port = node.address.rpartition(":")[2]
        address = f"localhost:{port}"
        trusted = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
        right = [("authorization", "Bearer correct horse")]
        async with attached(address, hello(), metadata=right, credentials=trusted) as engine:
            assert (await engine.stat()).sessions == 1
            assert engine.welcome.arena_socket  # over loopback memory can be shared
        for wrong in ([], [("authorization", "Bearer wrong")], [("authorization", "correct hors")]):
            async with open_stream(address, metadata=wrong, credentials=trusted) as stream:
                code, said = await stream.status()
                assert code == grpc.StatusCode.UNAUTHENTICATED
                assert "correct" not in said
            async with channel_to(address, credentials=trusted) as channel:
                for call, request in (
                    (engine_pb2_grpc.EngineStub(channel).Stat, engine_pb2.StatRequest()),
                    (
                        control_pb2_grpc.ControlStub(channel).Drain,
                        control_pb2.DrainRequest(within_ms=1),
                    ),
                    (
                        health_pb2_grpc.HealthStub(channel).Check,
                        health_pb2.HealthCheckRequest(),
                    ),
                ):
                    with pytest.raises(grpc.aio.AioRpcError) as refusal:
                        await call(request, metadata=wrong)
                    assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
        async with channel_to(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                stub = engine_pb2_grpc.EngineStub(channel)
                await stub.Stat(engine_pb2.StatRequest(), metadata=right, timeout=5)
            assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE


@anyio_test
async def test_a_silent_tcp_client_is_ended_and_a_unix_one_is_not() -> None:
    """DESIGN 8: three missed heartbeats end a stream behind which no process can be seen."""
    overrides = {
        "gateway__listen": [{}, {"address": "127.0.0.1:0"}],
        "gateway__heartbeat": "100ms",
    }
    async with local_node(**overrides) as node:
        unix, tcp = node.addresses
        async with (
            attached(unix, hello()) as local,
            attached(tcp, hello(), enter=False) as silent,
        ):
            code, said = await silent.status()
            assert code == grpc.StatusCode.ABORTED
            assert "nothing heard for 0.3 s" in said
            assert (await local.stat()).sessions == 1


# Being operated.


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
