"""gRPC at the edge of the process: where a server listens, with which limits, and who may call it."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from anyio import CancelScope
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from penstock.runtime.call_places import CallPlaces
from penstock.runtime.claim import check_nobody_listens, claimed
from penstock.runtime.errors import ConfigError, StartFailed
from penstock.runtime.grpc_health import ServingHealth
from penstock.runtime.identity import Identities, IdentityGuard, Needs
from penstock.runtime.log import Log
from penstock.runtime.security import (
    Address,
    TlsFiles,
    UnixAddress,
    check_exposure,
)
from penstock.runtime.watched_files import WatchedFiles


@dataclass(frozen=True, slots=True)
class ListenSpec:
    """One listening address and what is asked of callers there."""

    address: Address
    tls: TlsFiles | None
    identities: Identities | None  # asked on TCP; a Unix socket is guarded by its file mode
    needs: Needs  # which permission of an identity a call needs
    message_bytes_max: int  # larger ones end their call; contracts set a smaller bound of their own
    keepalive_s: float  # a silent connection is probed this often
    calls_max: int  # at once on one connection, of all kinds; more wait in the client


@asynccontextmanager
async def serving(
    spec: ListenSpec,
    handlers: Sequence[grpc.GenericRpcHandler],
    health: ServingHealth,
    places: CallPlaces,
    *,
    stop_within_s: float,
) -> AsyncIterator[Address]:
    """Serve `handlers`, with `health` and reflection of the services it names, in `places`, while the body runs.

    Yields the address bound, which has the real port where 0 was asked. Closes `health` at the end. Raises
    ConfigError for an exposed address without TLS and token, StartFailed when the address is taken.
    """
    check_exposure(spec.address, tls=spec.tls, tokens=spec.identities)
    guards: list[grpc.aio.ServerInterceptor] = [places]
    if spec.identities is not None and not isinstance(spec.address, UnixAddress):
        guards.insert(0, IdentityGuard(spec.identities, spec.needs))  # strangers take no place
    server = grpc.aio.server(interceptors=guards, options=_options(spec))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(health.service_names, server)
    server.add_generic_rpc_handlers(tuple(handlers))
    with _claimed(spec.address):
        bound = _bind(server, spec)
        await server.start()
        try:
            yield bound
        finally:
            with CancelScope(shield=True):
                health.close()
                await server.stop(stop_within_s)
            if isinstance(bound, UnixAddress):
                bound.path.unlink(missing_ok=True)


def _options(spec: ListenSpec) -> list[tuple[str, int]]:
    keepalive_ms = int(spec.keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", spec.message_bytes_max),
        ("grpc.max_send_message_length", spec.message_bytes_max),
        ("grpc.max_concurrent_streams", spec.calls_max),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),  # two nodes on one port must not both start
    ]


def _bind(server: grpc.aio.Server, spec: ListenSpec) -> Address:
    target = spec.address.target()
    credentials = None if spec.tls is None else _server_credentials(spec.tls)
    earlier = os.umask(0o177)  # a Unix socket is born 0600, with no moment at which it is not
    try:
        if credentials is None or isinstance(spec.address, UnixAddress):
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, credentials)
    except RuntimeError as taken:
        raise StartFailed(f"cannot listen on {target}: {_in_the_way(spec.address)}") from taken
    finally:
        os.umask(earlier)
    if isinstance(spec.address, UnixAddress):
        return spec.address
    return type(spec.address)(spec.address.host, port)


def _in_the_way(address: Address) -> str:
    if isinstance(address, UnixAddress):
        return "what lies there cannot be replaced: remove it, or name another state_dir"
    return (
        "another process has that port, or the address is none of this machine's: name another in"
        " gateway.listen"
    )


def _server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Read again when the files change, at the next connection. gRPC asks for them on a thread of its own.

    Raises ConfigError.
    """
    paths = [tls.certificate, tls.key, *([] if tls.ca is None else [tls.ca])]
    watched = WatchedFiles(paths, lambda: _certificate_configuration(tls), Log("certificates"))
    used = watched.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        newest = watched.current()
        if newest is used:
            return None
        used = newest
        return newest

    return grpc.dynamic_ssl_server_credentials(
        used,
        fetch,  # type: ignore[arg-type]  # None is no change, says its documentation
        require_client_authentication=tls.ca is not None,
    )


def _certificate_configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Raises ConfigError for files that gRPC would refuse in each handshake: it does not say so before."""
    check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        check.load_cert_chain(tls.certificate, tls.key, password=_refuse_password)
        if tls.ca is not None:
            check.load_verify_locations(tls.ca)
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        ca = None if tls.ca is None else tls.ca.read_bytes()
    except ssl.SSLError as refused:
        files = ", ".join(str(path) for path in (tls.certificate, tls.key, tls.ca) if path)
        words = f"{files} do not go together, or are no PEM: {refused.reason or refused}"
        raise ConfigError("gateway.listen", words) from refused
    except OSError as unreadable:
        given = (tls.certificate, tls.key, tls.ca)
        missing = next((path for path in given if path and not path.exists()), tls.certificate)
        raise ConfigError(
            "gateway.listen", f"{unreadable.filename or missing}: {unreadable.strerror}"
        ) from unreadable
    return grpc.ssl_server_certificate_configuration([pair], ca)


def _refuse_password() -> str:
    """OpenSSL would ask for it at the terminal."""
    raise ConfigError("gateway.listen", "tls_key has a password: give a key without one")


@contextmanager
def _claimed(address: Address) -> Iterator[None]:
    """Hold a lock beside a Unix socket: gRPC would silently take the path away from whoever listens there."""
    if not isinstance(address, UnixAddress):
        yield
        return
    address.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    otherwise = (
        "another node listens on this socket; stop it, or choose another address in gateway.listen"
    )
    with claimed(address.path.with_name(address.path.name + ".lock"), otherwise=otherwise):
        otherwise = "stop it, or choose another address in gateway.listen, or another state_dir"
        check_nobody_listens(address.path, otherwise=otherwise)
        yield


def private_directory(path: Path) -> Path:
    """Make `path` a directory of this user alone (0700), if it is not there.

    Raises ConfigError for one that others own or may write: they could put their own sockets there.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as refused:
        raise ConfigError("state_dir", f"{path}: {refused.strerror}") from refused
    known = path.stat()
    if known.st_uid != os.getuid() or known.st_mode & 0o022:
        raise ConfigError(
            "state_dir",
            f"others own {path} or may write there, and could answer in the node's place:"
            " choose another directory, or chmod it to 0700",
        )
    return path
