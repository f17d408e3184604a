"""gRPC between nodes: mutual TLS beyond loopback, one name per node, bounds per peer.

    async with serving_peers(spec, handlers, certificates) as bound: ...
    channel = await dial_peer(member.address, member.node_id, certificates, spec.limits)

**Who is there.** The dialer asks for the certificate of `node_id`: nobody else's can answer, whatever the address leads
to. The listener asks for a certificate of the same authority; which node it is for is in `identity_of(context)` of
`runtime/peer_gate.py`, in any handler: `identity_of(context).check(hello.node_id)` raises PeerRefused, to be answered
with PERMISSION_DENIED. A later call that belongs to a link is checked against that link's node in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import grpc
from anyio import CancelScope

from penstock.runtime.certificates import Bundle, Certificates
from penstock.runtime.errors import ConfigError, StartFailed, UnavailableError
from penstock.runtime.grpc_channel import LOOKAHEAD_BYTES
from penstock.runtime.peer_gate import PeerGate
from penstock.runtime.security import TcpAddress, parse_address
from penstock.runtime.strangers import Strangers
from penstock.runtime.telemetry import Telemetry

_CONNECTIONS = "grpc.max_allowed_incoming_connections"


class PeerUnreachable(UnavailableError):
    """Theirs: there is no connection to that node; the words say whose certificate, or what, is in the way."""


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Of connections to peers and from them."""

    message_bytes_max: int  # larger ones end their call
    keepalive_s: float  # a silent connection is probed this often
    calls_max: int  # of one peer at once
    calls_per_s_max: int  # of one peer
    connections_max: int  # at once, of all
    handshake_s: float  # for a connection to show its certificate


@dataclass(frozen=True, slots=True)
class PeerListenSpec:
    """Where peers reach this node."""

    address: TcpAddress
    limits: PeerLimits
    stop_s: float  # calls that are open at the end get this long


@dataclass(frozen=True, slots=True)
class PeerDoor:
    """The service for peers, while it is served."""

    address: TcpAddress  # with the real port, where 0 was asked
    gate: PeerGate
    certificates: Certificates | None

    def watch(self, telemetry: Telemetry) -> None:
        """Read what it counts whenever metrics are collected."""
        gate, strangers, files = self.gate, self.gate.strangers, self.certificates

        def gauge(name: str, text: str, read: Callable[[], float]) -> None:
            telemetry.gauge(name, text).read_from(read)

        gauge("peer_handshakes", "Begun at the peers' address.", lambda: strangers.handshakes)
        gauge("peer_strangers", "Of them, those without a call.", lambda: strangers.refused)
        gauge("peer_calls_refused", "Of peers, beyond their bounds.", lambda: gate.calls_refused)
        if files is not None:
            gauge("certificate_expires_seconds", "Since 1970.", lambda: files.expires)
            gauge("certificate_reloads", "TLS files taken up anew.", lambda: files.reloads)
            gauge("certificate_refusals", "Changes of no use.", lambda: files.refusals)


@asynccontextmanager
async def serving_peers(
    spec: PeerListenSpec,
    handlers: Sequence[grpc.GenericRpcHandler],
    certificates: Certificates | None,
) -> AsyncIterator[PeerDoor]:
    """Serve `handlers` to peers while the body runs; no health, no reflection.

    A handler learns who calls by `identity_of(context)` (runtime/peer_gate.py); no call without a verified certificate
    that names a node reaches it. Without `certificates` (loopback only) identities are not verified.
    Raises ConfigError for an address beyond loopback without certificates, StartFailed when the address is taken.
    """
    _check_exposure(spec.address, certificates, "cluster.listen")
    limits = spec.limits
    strangers = Strangers(within_s=limits.handshake_s, connections_max=limits.connections_max)
    gate = PeerGate(strangers, calls_max=limits.calls_max, calls_per_s_max=limits.calls_per_s_max)
    handshake_ms = max(1, int(limits.handshake_s * 1000))
    options = [
        *_options(limits),
        ("grpc.max_concurrent_streams", limits.calls_max + 1),  # the one that hears of the bound
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),  # two nodes on one port must not both start
        ("grpc.server_handshake_timeout_ms", handshake_ms),
        (_CONNECTIONS, limits.connections_max),
    ]
    server = grpc.aio.server(interceptors=[gate], options=options)
    server.add_generic_rpc_handlers(tuple(handlers))
    port = _bind(server, spec.address, certificates, strangers)
    await server.start()
    try:
        yield PeerDoor(TcpAddress(spec.address.host, port), gate, certificates)
    finally:
        with CancelScope(shield=True):
            await server.stop(spec.stop_s)


async def dial_peer(
    address: str, node_id: str, certificates: Certificates | None, limits: PeerLimits
) -> grpc.aio.Channel:
    """A channel to `node_id` at `address` ("host:port"), with the certificates of this moment; whoever dials closes it.

    It connects at its first call, which fails with UNAVAILABLE when that cannot be done: `why_unreachable` translates.
    Dial anew after a link is lost, rather than to use the channel on: it keeps the certificates it was made with.
    Raises ConfigError for an address beyond loopback without certificates.
    """
    target = parse_address(address)
    if not isinstance(target, TcpAddress):
        raise ConfigError("cluster.membership", f"{address!r} is not host:port")
    _check_exposure(target, certificates, "cluster.membership")
    options: list[tuple[str, int | str]] = [
        *_options(limits),
        ("grpc.enable_http_proxy", 0),  # http_proxy is not for what stands beside this node
        ("grpc.use_local_subchannel_pool", 1),  # a new dial is a new connection
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ]
    if certificates is None:
        return grpc.aio.insecure_channel(target.target(), options=options)
    bundle = await anyio.to_thread.run_sync(certificates.current)
    credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)
    options.append(("grpc.ssl_target_name_override", node_id))
    return grpc.aio.secure_channel(target.target(), credentials, options=options)


_REASONS = (
    ("Hostname Verification", "another node answers there: its certificate is not for {node}"),
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate is not valid yet: compare the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not of our cluster.tls_ca"),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS there"),
    (
        "Socket closed",
        "it closed the connection: if it is a node, it may not accept our certificate; its log says so",
    ),
)


def why_unreachable(error: grpc.aio.AioRpcError, node_id: str, address: str) -> PeerUnreachable:
    """What kept the first call of a channel from `node_id`, in words of whoever operates both nodes."""
    told = error.details() or error.code().name
    for mark, words in _REASONS:
        if mark in told:
            told = words.format(node=node_id)
            break
    return PeerUnreachable(f"{node_id} at {address}: {told}")


def _check_exposure(address: TcpAddress, certificates: Certificates | None, key: str) -> None:
    if certificates is None and not address.is_loopback:
        raise ConfigError(
            key,
            f"{address.target()} is another machine, or can be reached from one, which needs"
            " cluster.tls_certificate, tls_key and tls_ca",
        )


def _options(limits: PeerLimits) -> list[tuple[str, int]]:
    keepalive_ms = int(limits.keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", limits.message_bytes_max),
        ("grpc.max_send_message_length", limits.message_bytes_max),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _bind(
    server: grpc.aio.Server,
    address: TcpAddress,
    certificates: Certificates | None,
    strangers: Strangers,
) -> int:
    try:
        if certificates is None:
            return server.add_insecure_port(address.target())
        credentials = _reloading(certificates, strangers)
        return server.add_secure_port(address.target(), credentials)
    except RuntimeError as taken:
        raise StartFailed(
            f"cannot listen on {address.target()}: another process has that port, or the address is"
            " none of this machine's: name another in cluster.listen"
        ) from taken


def _reloading(certificates: Certificates, strangers: Strangers) -> grpc.ServerCredentials:
    """Credentials that each handshake takes anew. gRPC asks for them on a thread of its own."""
    loop = asyncio.get_running_loop()
    used = certificates.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        if strangers.handshake_begun(loop.time()):
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody counts
                loop.call_soon_threadsafe(settle)
        newest = certificates.current()
        if newest is used:
            return None
        used = newest
        return _configuration(newest)

    def settle() -> None:
        due = strangers.settle(loop.time())
        if due is not None:
            loop.call_at(due, settle)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        fetch,  # type: ignore[arg-type]  # None is no change, says its documentation
        require_client_authentication=True,
    )


def _configuration(bundle: Bundle) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(bundle.key, bundle.certificate)], bundle.ca)
