"""Nodes reach each other by mutual TLS and by name: everybody else is refused, counted, and told of once."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import grpc
import pytest
from support.eventually import eventually
from support.peer_pki import LONG_AGO, Authority, replace

from penstock.runtime.certificates import Certificates
from penstock.runtime.errors import ConfigError, StartFailed
from penstock.runtime.peer_gate import Context, PeerRefused, identity_of
from penstock.runtime.peer_transport import (
    PeerDoor,
    PeerLimits,
    PeerListenSpec,
    PeerUnreachable,
    dial_peer,
    serving_peers,
    why_unreachable,
)
from penstock.runtime.security import TcpAddress
from penstock.runtime.telemetry import Telemetry

pytestmark = pytest.mark.anyio
HERE = TcpAddress("127.0.0.1", 0)


def limits(**changed: float) -> PeerLimits:
    given: dict[str, float] = {
        "message_bytes_max": 1 << 20,
        "keepalive_s": 10,
        "calls_max": 8,
        "calls_per_s_max": 1000,
        "connections_max": 16,
        "handshake_s": 5,
    }
    return PeerLimits(**{**given, **changed})  # type: ignore[arg-type]


class Names(grpc.GenericRpcHandler):
    """`/t/claim`: may the caller call itself so? `/t/count` is a stream, `/t/wait` does not end."""

    def __init__(self) -> None:
        self.waiting = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        match details.method:
            case "/t/claim":
                return grpc.unary_unary_rpc_method_handler(self._claim)
            case "/t/count":
                return grpc.stream_stream_rpc_method_handler(self._count)
            case "/t/wait":
                return grpc.unary_unary_rpc_method_handler(self._wait)
        return None

    async def _claim(self, claimed: bytes, context: Context) -> bytes:
        try:
            identity_of(context).check(claimed.decode())
        except PeerRefused as refused:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(refused))
        return b"welcome"

    async def _count(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request * 2

    async def _wait(self, _: bytes, context: Context) -> bytes:
        self.waiting += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.waiting -= 1
        raise AssertionError


@asynccontextmanager
async def serving(
    certificates: Certificates | None, handler: Names | None = None, **changed: float
) -> AsyncIterator[PeerDoor]:
    spec = PeerListenSpec(HERE, limits(**changed), stop_s=0.1)
    async with serving_peers(spec, [handler or Names()], certificates) as door:
        yield door


async def claim(
    door: PeerDoor, certificates: Certificates | None, *, me: str, at: str = "a"
) -> bytes:
    """Raises PeerUnreachable, or grpc.aio.AioRpcError where a call was answered by a refusal."""
    address = door.address.target()
    async with await dial_peer(address, at, certificates, limits()) as channel:
        try:
            answer: bytes = await channel.unary_unary("/t/claim")(me.encode(), timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise why_unreachable(error, at, address) from error
            raise
        return answer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def a(authority: Authority) -> Certificates:
    return Certificates(authority.issue("a"), "a", every_s=0.001)


@pytest.fixture
def b(authority: Authority) -> Certificates:
    return Certificates(authority.issue("b"), "b", every_s=0.001)


async def test_two_nodes_know_each_other_by_their_certificates(
    a: Certificates, b: Certificates
) -> None:
    """D4: who says another node's name is told whose certificate it showed.

    Seen to fail with `may_be` answering for any name.
    """
    async with serving(a) as door:
        assert await claim(door, b, me="b") == b"welcome"
        with pytest.raises(
            grpc.aio.AioRpcError, match="calls itself c, but its certificate is for b"
        ):
            await claim(door, b, me="c")
        assert (door.gate.strangers.refused, door.gate.calls_refused) == (0, 0)


async def test_whoever_is_not_of_the_cluster_is_refused_on_either_side(
    a: Certificates, b: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """D4: a wrong authority on either side, another node's place, a client without a certificate, garbage, and a port
    scan; counted each, told of once. Seen to fail with require_client_authentication False."""
    foreign = Certificates(Authority(tmp_path / "other").issue("b"), "b")
    async with serving(a, handshake_s=0.3) as door, serving(foreign) as elsewhere:
        with pytest.raises(PeerUnreachable, match="another node answers there: .* not for c"):
            await claim(door, b, me="b", at="c")
        with pytest.raises(PeerUnreachable, match=r"b at 127.*is not of our cluster.tls_ca"):
            await claim(elsewhere, b, me="b", at="b")
        with pytest.raises(PeerUnreachable):
            await claim(door, foreign, me="b")
        address = (door.address.host, door.address.port)
        ca = grpc.ssl_channel_credentials(a.current().ca)
        named = [("grpc.ssl_target_name_override", "a")]
        async with grpc.aio.secure_channel(door.address.target(), ca, options=named) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="closed"):
                await channel.unary_unary("/t/claim")(b"b", timeout=5)
        with caplog.at_level(logging.WARNING):
            for said in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(4096)):
                with socket.create_connection(address) as stranger:
                    stranger.sendall(said)
            strangers = door.gate.strangers

            async def counted() -> bool:
                return strangers.refused == strangers.handshakes

            await eventually(counted, within=5, what="all are counted as refused")
        assert strangers.refused >= 6  # gRPC may have tried again
        told = [
            one.getMessage() for one in caplog.records if "strangers_refused" in one.getMessage()
        ]
        assert len(told) == 1
        telemetry = Telemetry()
        door.watch(telemetry)
        assert telemetry.value("penstock_peer_strangers") == strangers.refused
        assert telemetry.value("penstock_certificate_expires_seconds") == a.current().expires
        assert await claim(door, b, me="b") == b"welcome"


async def test_an_expired_certificate_is_refused_on_either_side(
    authority: Authority, a: Certificates, b: Certificates
) -> None:
    """D4. A node does not start with one; this one expired under it."""
    expired = authority.issue("b", file="expired", not_after=LONG_AGO)
    credentials = grpc.ssl_channel_credentials(
        authority.ca.read_bytes(), expired.key.read_bytes(), expired.certificate.read_bytes()
    )
    async with serving(a) as door:
        named = [("grpc.ssl_target_name_override", "a")]
        target = door.address.target()
        async with grpc.aio.secure_channel(target, credentials, options=named) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="closed"):
                await channel.unary_unary("/t/claim")(b"b", timeout=5)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Names(),))
    pair = (expired.key.read_bytes(), expired.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    door = PeerDoor(TcpAddress("127.0.0.1", port), door.gate, None)
    with pytest.raises(PeerUnreachable, match="its certificate has expired"):
        await claim(door, b, me="b", at="b")
    await server.stop(None)


async def test_renewed_certificates_are_used_by_the_next_connection_and_broken_ones_never(
    authority: Authority, a: Certificates, b: Certificates, tmp_path: Path
) -> None:
    """DESIGN 8: no restart to renew. Both nodes move to another authority under an open connection, which lives on.

    Seen to fail with the fetcher answering None.
    """
    pki = tmp_path / "pki"
    async with serving(a) as door:
        address = door.address.target()
        async with await dial_peer(address, "a", b, limits()) as old:
            assert await old.unary_unary("/t/claim")(b"b", timeout=5) == b"welcome"
            replace(pki / "a.key", b"garbage")
            assert await claim(door, b, me="b") == b"welcome"
            assert (a.refusals, a.reloads) == (1, 0)
            renewed = Authority(tmp_path / "renewed")
            for name in ("a", "b"):
                files = renewed.issue(name)
                for path in (files.key, files.certificate):
                    replace(pki / path.name, path.read_bytes())
            replace(authority.ca, renewed.ca.read_bytes())
            assert await claim(door, b, me="b") == b"welcome"
            assert (a.reloads, b.reloads) == (1, 1)
            assert await old.unary_unary("/t/claim")(b"b", timeout=5) == b"welcome"


async def test_one_peer_has_so_many_calls_at_once_and_a_second_and_no_more(
    authority: Authority, a: Certificates, b: Certificates
) -> None:
    """C10: another peer is served on. Seen to fail with one account for all."""
    c = Certificates(authority.issue("c"), "c")
    handler = Names()
    async with serving(a, handler, calls_max=2) as door:
        address = door.address.target()
        async with (
            await dial_peer(address, "a", b, limits()) as channel,
            await dial_peer(address, "a", b, limits()) as second,
        ):
            waiting = [one.unary_unary("/t/wait")(b"", timeout=10) for one in (channel, second)]

            async def both() -> bool:
                return handler.waiting == 2

            await eventually(both, within=5, what="both calls have come")
            with pytest.raises(grpc.aio.AioRpcError, match="cluster.calls_max") as refused:
                await channel.unary_unary("/t/claim")(b"b", timeout=5)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await claim(door, c, me="c") == b"welcome"
            for one in waiting:
                one.cancel()

            async def none() -> bool:
                return handler.waiting == 0

            await eventually(none, within=5, what="calls given up are cancelled")
            assert await claim(door, b, me="b") == b"welcome"
    async with serving(a, calls_per_s_max=1) as door:
        assert await claim(door, b, me="b") == b"welcome"
        with pytest.raises(grpc.aio.AioRpcError, match="cluster.calls_per_s_max"):
            await claim(door, b, me="b")
        assert await claim(door, c, me="c") == b"welcome"
        assert door.gate.calls_refused == 1


async def test_connections_and_messages_are_bounded(a: Certificates, b: Certificates) -> None:
    """C10: connections that say nothing take no more places than there are, and lose them; who is linked lives on."""
    async with serving(a, connections_max=3, handshake_s=0.3) as door:
        address = door.address.target()
        async with await dial_peer(address, "a", b, limits()) as linked:
            assert await linked.unary_unary("/t/claim")(b"b", timeout=5) == b"welcome"
            loris = [
                socket.create_connection((door.address.host, door.address.port)) for _ in range(6)
            ]
            for one in loris:
                one.settimeout(5)
                assert await anyio.to_thread.run_sync(one.recv, 1) == b""
                one.close()
            assert await linked.unary_unary("/t/claim")(b"b", timeout=5) == b"welcome"
        async with await dial_peer(address, "a", b, limits(message_bytes_max=8 << 20)) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as refused:
                await channel.unary_unary("/t/claim")(bytes(2 << 20), timeout=5)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_go_through_the_gate(a: Certificates, b: Certificates) -> None:
    async with serving(a) as door:
        async with await dial_peer(door.address.target(), "a", b, limits()) as channel:
            call = channel.stream_stream("/t/count")(timeout=5)
            for sent in (b"x", b"y"):
                await call.write(sent)
                assert await call.read() == sent * 2
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF


async def test_in_the_clear_there_is_loopback_only() -> None:
    """D4. Seen to fail with the check of exposure taken out."""
    async with serving(None) as door:
        assert await claim(door, None, me="b") == b"welcome"
        taken = PeerListenSpec(door.address, limits(), stop_s=0.1)
        with pytest.raises(StartFailed, match=r"name another in cluster.listen"):
            async with serving_peers(taken, [Names()], None):
                pass
    far = PeerListenSpec(TcpAddress("0.0.0.0", 0), limits(), stop_s=0.1)
    with pytest.raises(ConfigError, match=r"cluster.tls_certificate"):
        async with serving_peers(far, [Names()], None):
            pass
    with pytest.raises(ConfigError, match="is another machine"):
        await dial_peer("10.0.0.1:7700", "b", None, limits())
