"""A node on TCP: TLS, tokens, heartbeats."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.declarations import hello, keys
from support.eventually import eventually
from support.nodes import local_node
from support.peer_pki import Authority, replace
from support.raw_engine import attached, channel_to, open_stream

from penstock.protos import control_pb2, control_pb2_grpc, engine_pb2, engine_pb2_grpc
from penstock.runtime.errors import StartFailed

anyio_test = pytest.mark.anyio


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


def trusting(ca: Path) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(ca.read_bytes())


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
            assert not engine.welcome.arena_socket  # loopback may be the near end of a tunnel
            refused = (await engine.reserve(keys(1))).error
            assert "is not on this machine" in refused.message
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
async def test_renewed_files_are_shown_to_the_next_client(tmp_path: Path) -> None:
    """No restart to renew, and what does not go together is never shown. Seen to fail with credentials read once."""
    authority = Authority(tmp_path)
    authority.issue("localhost", file="node")
    (tmp_path / "token").write_text("correct horse")
    right = [("authorization", "Bearer correct horse")]
    async with local_node(gateway__listen=[listening_on("127.0.0.1:0", tmp_path)]) as node:
        address = f"localhost:{node.address.rpartition(':')[2]}"

        async def is_served(ca: Path) -> bool:
            async with channel_to(address, credentials=trusting(ca)) as channel:
                stub = engine_pb2_grpc.EngineStub(channel)
                try:
                    await stub.Stat(engine_pb2.StatRequest(), metadata=right, timeout=5)
                except grpc.aio.AioRpcError as refusal:
                    return refusal.code() != grpc.StatusCode.UNAVAILABLE
                return True

        assert await is_served(authority.ca)
        renewed = Authority(tmp_path / "renewed")
        files = renewed.issue("localhost", file="node")
        replace(tmp_path / "node.key", files.key.read_bytes())
        assert await is_served(authority.ca)
        replace(tmp_path / "node.pem", files.certificate.read_bytes())

        async def is_renewed() -> bool:
            return await is_served(renewed.ca)

        await eventually(is_renewed, within=10, what="the renewed certificate is shown")


@anyio_test
async def test_a_port_that_another_process_has_is_named_with_its_key(certificates: Path) -> None:
    """E4. Seen to fail: the refusal was gRPC's, and advised to set GRPC_VERBOSITY."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartFailed, match=f"{address}: another process .* gateway.listen"):
            async with local_node(gateway__listen=[listening_on(address, certificates)]):
                pass


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
