"""From a node's configuration to what its parts are made of: addresses, credentials, limits, watermarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from penstock.actors.api import gateway
from penstock.actors.arena_door import DoorLimits
from penstock.actors.call_kinds import PERMISSIONS
from penstock.actors.config import ListenConfig, NodeConfig
from penstock.actors.gateway_limits import GatewayLimits
from penstock.runtime.errors import ConfigError
from penstock.runtime.grpc_transport import ListenSpec
from penstock.runtime.identity import LOCAL, Identities, Identity
from penstock.runtime.ref import Ref
from penstock.runtime.security import (
    Address,
    Secret,
    TcpAddress,
    TlsFiles,
    UnixAddress,
    parse_address,
)
from penstock.runtime.supervisor import ChildSpec

ENGINE_SOCKET = "penstock.sock"
STOP_MARGIN_S = (
    30.0  # of the gateway's end beyond what its streams get; then the node stops without it
)


def address_text(address: Address) -> str:
    return f"unix://{address.path}" if isinstance(address, UnixAddress) else address.target()


def listen_spec(listen: ListenConfig, config: NodeConfig) -> ListenSpec:
    """Raises ConfigError for a token file that cannot be read or is empty, and for one token of two identities."""
    address = parse_address(listen.address or f"unix://{config.state_dir / ENGINE_SOCKET}")
    tls = None
    if listen.tls_certificate is not None and listen.tls_key is not None:
        tls = TlsFiles(listen.tls_certificate, listen.tls_key, listen.tls_ca)
    return ListenSpec(
        address,
        tls,
        _identities(listen),
        PERMISSIONS,
        message_bytes_max=config.gateway.transport_message_max,
        keepalive_s=config.gateway.keepalive,
        calls_max=_calls_max(config),
    )


def gateway_spec(
    config: NodeConfig, ref: Ref[gateway.Gateway], make: Callable[[], gateway.Gateway]
) -> ChildSpec[gateway.Gateway]:
    """Waited for as long as its servers, which stop one after the other, may take."""
    stopping_s = config.gateway.stop_within * len(config.gateway.listen)
    return ChildSpec(ref, make, end_s=stopping_s + STOP_MARGIN_S)


def _calls_max(config: NodeConfig) -> int:
    """Of one connection: everything that could be served, and as much again as may just be getting its refusal. What
    is beyond waits in the client, with no word from us."""
    given = config.gateway
    calls = given.unary_max + given.probes_max + given.watches_max + given.reflections_max
    return given.streams_max + calls + config.control.calls_max + given.refusals_max


def gateway_limits(config: NodeConfig) -> GatewayLimits:
    given = config.gateway
    return GatewayLimits(
        message_bytes_max=int(given.message_max),
        chunks_max=given.chunks_max,
        objects_max=given.objects_max,
        inflight_max=given.inflight_max,
        leases_max=given.leases_max,
        tickets_max=given.tickets_max,
        lease_ms_default=int(given.lease * 1000),
        lease_ms_max=int(given.lease_max * 1000),
        heartbeat_ms=int(given.heartbeat * 1000),
        deadline_ms_default=int(given.deadline * 1000),
        deadline_ms_max=int(given.deadline_max * 1000),
        outgoing_max=given.outgoing_max,
        outgoing_bytes_max=given.outgoing_bytes,
        stall_s=given.stall,
        hello_within_s=given.hello_within,
        streams_max=given.streams_max,
        kept_prompt_bytes_max=given.kept_prompts,
        load_ms_default=int(config.prefetch.load_within * 1000),
    )


def door_limits(config: NodeConfig) -> DoorLimits:
    return DoorLimits(
        connections_max=config.sessions.sessions_max,
        secret_within_s=config.sessions.secret_within,
        ask_s=config.ask_within,
    )


def _identities(listen: ListenConfig) -> Identities | None:
    """Raises ConfigError."""
    known: list[tuple[Secret, Identity]] = []
    if listen.token_file is not None:
        key = "gateway.listen.token_file"
        known.append((read_token(key, listen.token_file), replace(LOCAL, name="token_file")))
    for position, one in enumerate(listen.identities):
        key = f"gateway.listen.identities.{position}.token_file"
        token = read_token(key, one.token_file)
        if any(token == other for other, _ in known):
            raise ConfigError(key, f"{one.name} has the token of another identity: make it its own")
        tenants = None if one.tenants is None else frozenset(map(str.encode, one.tenants))
        known.append((token, Identity(one.name, frozenset(one.permissions), tenants)))
    return Identities(known) if known else None


def read_token(key: str, path: Path) -> Secret:
    """The first line of a file. Raises ConfigError of `key` where it cannot be read, or is empty."""
    try:
        token = path.read_text().partition("\n")[0].strip()
    except OSError as unreadable:
        raise ConfigError(key, f"{path}: {unreadable.strerror}") from None
    if not token:
        raise ConfigError(key, f"{path}: the first line is empty")
    return Secret(token)


def metrics_endpoint(text: str) -> TcpAddress:
    """Raises ConfigError."""
    address = parse_address(text)
    if not isinstance(address, TcpAddress):
        raise ConfigError("metrics_address", f"{text!r} is not host:port")
    return address
