"""A session with one etcd server: the calls that membership needs, each with a bound, over grpc.aio.

The messages are of protos/etcd.proto, which has what is used here of the API of etcd (docs/adr).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import grpc
from google.protobuf.message import Message

from penstock.protos import etcd_pb2
from penstock.runtime.errors import ConfigError
from penstock.runtime.membership import MembershipFailed
from penstock.runtime.membership_config import EtcdConfig

Reply = TypeVar("Reply", bound=Message)

MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # of a list of all members


class EtcdSession:
    """One connection, logged in if that is asked for. Every failure is a MembershipFailed, and ends its use."""

    def __init__(self, channel: grpc.aio.Channel, endpoint: str, within_s: float) -> None:
        self._channel = channel
        self._endpoint = endpoint
        self._within_s = within_s
        # A server cut off from the others refuses, rather than to keep a watch of which nothing will come.
        self._metadata: tuple[tuple[str, str], ...] = (("hasleader", "true"),)

    async def log_in(self, user: str, password: str) -> None:
        request = etcd_pb2.AuthenticateRequest(name=user, password=password)
        answer = await self._ask("Auth/Authenticate", request, etcd_pb2.AuthenticateResponse)
        self._metadata = (*self._metadata, ("token", answer.token))

    async def list(self, prefix: bytes, limit: int) -> tuple[int, Sequence[etcd_pb2.KeyValue]]:
        """All keys that begin with `prefix`, up to `limit`, at which revision."""
        request = etcd_pb2.RangeRequest(key=prefix, range_end=after(prefix), limit=limit)
        answer = await self._ask("KV/Range", request, etcd_pb2.RangeResponse)
        return answer.header.revision, answer.kvs

    async def put(self, key: bytes, value: bytes, lease: int) -> None:
        request = etcd_pb2.PutRequest(key=key, value=value, lease=lease)
        await self._ask("KV/Put", request, etcd_pb2.PutResponse)

    async def grant(self, ttl_s: int) -> int:
        request = etcd_pb2.LeaseGrantRequest(ttl_s=ttl_s)
        granted = await self._ask("Lease/LeaseGrant", request, etcd_pb2.LeaseGrantResponse)
        return granted.id

    async def revoke(self, lease: int) -> None:
        request = etcd_pb2.LeaseRevokeRequest(id=lease)
        await self._ask("Lease/LeaseRevoke", request, etcd_pb2.LeaseRevokeResponse)

    async def keep_alive(self, lease: int) -> bool:
        """Whether there is still such a lease. It lives its whole time from now on, if so."""
        call = self._stream(
            "Lease/LeaseKeepAlive", etcd_pb2.LeaseKeepAliveResponse, timeout=self._within_s
        )
        try:
            with self._translated():
                await call.write(etcd_pb2.LeaseKeepAliveRequest(id=lease))
                answer = await call.read()
                if answer is grpc.aio.EOF:
                    raise MembershipFailed(f"etcd at {self._endpoint} answered nothing")
                alive: bool = answer.ttl_s > 0
                return alive
        finally:
            call.cancel()

    async def watch(self, prefix: bytes, revision: int) -> AsyncIterator[Sequence[etcd_pb2.Event]]:
        """What changes from `revision` on, until it is given up or fails."""
        call = self._stream("Watch/Watch", etcd_pb2.WatchResponse, timeout=None)
        create = etcd_pb2.WatchCreateRequest(
            key=prefix, range_end=after(prefix), start_revision=revision
        )
        try:
            with self._translated():
                # Of asyncio: gRPC raises a CancelledError of its own, which no scope of anyio takes for its.
                async with asyncio.timeout(self._within_s):
                    await call.write(etcd_pb2.WatchRequest(create=create))
                    self._check(await call.read())
            while True:
                with self._translated():
                    answer = await call.read()
                self._check(answer)
                yield answer.events
        finally:
            call.cancel()

    def _check(self, answer: Any) -> None:
        """Raises MembershipFailed unless the watch goes on after `answer`."""
        if answer is grpc.aio.EOF:
            raise MembershipFailed(f"etcd at {self._endpoint} ended the watch")
        if answer.canceled:
            why = answer.cancel_reason or f"compacted up to {answer.compact_revision}"
            raise MembershipFailed(f"etcd at {self._endpoint} ended the watch: {why}")

    async def _ask(self, path: str, request: Message, kind: type[Reply]) -> Reply:
        call = self._channel.unary_unary(
            f"/etcdserverpb.{path}",
            request_serializer=_serialized,
            response_deserializer=kind.FromString,
        )
        with self._translated():
            reply: Reply = await call(
                request, timeout=self._within_s, metadata=self._metadata, wait_for_ready=False
            )
            return reply

    def _stream(self, path: str, kind: type[Message], *, timeout: float | None) -> Any:
        call: Any = self._channel.stream_stream(
            f"/etcdserverpb.{path}",
            request_serializer=_serialized,
            response_deserializer=kind.FromString,
        )
        return call(metadata=self._metadata, timeout=timeout)

    def _translated(self) -> _Translated:
        return _Translated(self._endpoint, self._within_s)


class _Translated:
    """Around calls: gRPC's errors become ours."""

    def __init__(self, endpoint: str, within_s: float) -> None:
        self._endpoint = endpoint
        self._within_s = within_s

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        late = f"etcd at {self._endpoint}: no answer within {self._within_s:g} s"
        if isinstance(error, TimeoutError):
            raise MembershipFailed(late) from error
        if isinstance(error, grpc.aio.AioRpcError):
            told = error.details() or error.code().name
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise MembershipFailed(late) from error
            if error.code() is grpc.StatusCode.UNAVAILABLE and "SSL" not in told:
                told = "cannot be reached"  # gRPC says it in other words each time
            raise MembershipFailed(f"etcd at {self._endpoint}: {told}") from error


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def after(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, which ends with a byte below 255."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@asynccontextmanager
async def etcd_session(config: EtcdConfig, endpoint: str) -> AsyncIterator[EtcdSession]:
    """A session with `endpoint`. Raises MembershipFailed; a file that cannot be read is one, too: it may be mended."""
    options: list[tuple[str, int]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_retries", 0),
    ]
    try:
        credentials, password = await anyio.to_thread.run_sync(_secrets, config)
    except OSError as unreadable:
        raise MembershipFailed(f"{unreadable.filename}: {unreadable.strerror}") from unreadable
    if credentials is None:
        channel = grpc.aio.insecure_channel(endpoint, options=options)
    else:
        channel = grpc.aio.secure_channel(endpoint, credentials, options=options)
    async with channel:
        session = EtcdSession(channel, endpoint, config.within)
        if config.user:
            await session.log_in(config.user, password)
        yield session


def _secrets(config: EtcdConfig) -> tuple[grpc.ChannelCredentials | None, str]:
    """Read anew for each session, so that they can be renewed under a running node. Raises OSError."""
    password = ""
    if config.password_file is not None:
        password = config.password_file.read_text().partition("\n")[0].strip()
    if config.tls_ca is None:
        return None, password
    pair = [
        None if path is None else path.read_bytes()
        for path in (config.tls_key, config.tls_certificate)
    ]
    return grpc.ssl_channel_credentials(config.tls_ca.read_bytes(), *pair), password


def check_files(config: EtcdConfig) -> None:
    """What a node refuses to start with. Raises ConfigError."""
    given = (config.password_file, config.tls_ca, config.tls_certificate, config.tls_key)
    for path in given:
        try:
            if path is not None and not path.read_bytes():
                raise ConfigError("cluster.membership", f"{path} is empty")
        except OSError as unreadable:
            raise ConfigError("cluster.membership", f"{path}: {unreadable.strerror}") from None
    if config.tls_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(config.tls_ca)
        except ssl.SSLError as refused:
            raise ConfigError(
                "cluster.membership.tls_ca", f"{config.tls_ca} is no PEM: {refused.reason}"
            ) from None
