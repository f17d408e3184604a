"""Keeps one session attached: connects, says Hello, waits for the stream's end, does it again.

    AWAY --attempt--> ATTACHED --stream ended--> RETIRING (copies end, arena unmapped) --> AWAY
      ^---- refused or failed: wait (backoff, jitter) ----'

The first attempt after a loss is immediate. While AWAY every request is refused with NodeAway at once, which the
client turns into a miss (scenarios B10, C1, C11).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from anyio import Event, create_task_group, move_on_after
from grpc import aio

from penstock.actors.engine.arena import ArenaLink, enter_arena
from penstock.actors.engine.config import ClientConfig, ClientTls
from penstock.actors.engine.errors import NamespaceMismatch, NodeAway, ProtocolBroken
from penstock.actors.engine.mover import Mover
from penstock.actors.engine.session import Session
from penstock.actors.engine.spec import PROTOCOL_VERSION, EngineSpec
from penstock.actors.engine.stream import SessionStream, failure_of, opened
from penstock.protos import engine_pb2, engine_pb2_grpc
from penstock.runtime.errors import CallerError, ConfigError, PenstockError
from penstock.runtime.log import Log


class Link:
    """One client's attachment to its node. Belongs to one event loop."""

    def __init__(self, config: ClientConfig, spec: EngineSpec, mover: Mover, log: Log) -> None:
        self._config = config
        self._spec = spec
        self._mover = mover
        self._log = log
        self._session: Session | None = None
        self._channel: aio.Channel | None = None  # open while there is a session
        self._failure: PenstockError = NodeAway("no attempt to attach has ended yet")
        self._news = Event()  # set and replaced when _session or _failure changes
        self._closing = Event()
        self._credentials = None if config.tls is None else _credentials(config.tls)
        self._resume = (b"", b"")  # secret and epoch of the last session, until another begins
        self.attachments = 0  # sessions that were attached, so far

    def current(self) -> Session:
        """The attached session. Raises NodeAway when there is none."""
        if self._session is None or not self._session.is_open:
            raise NodeAway(f"no node at {self._config.address} just now: {self._failure}")
        return self._session

    @property
    def is_attached(self) -> bool:
        return self._session is not None and self._session.is_open

    async def health(self, *, within: float) -> engine_pb2.HealthReply:
        """Ask over the attached session's connection. Raises NodeAway, AccessDenied, DeadlineExceeded."""
        self.current()
        assert self._channel is not None
        stub = engine_pb2_grpc.EngineStub(self._channel)
        try:
            return await stub.Health(
                engine_pb2.HealthRequest(), timeout=within, metadata=_metadata(self._config)
            )
        except aio.AioRpcError as error:
            raise failure_of(error) from error

    async def wait_attached(self, *, within: float) -> Session:
        """Wait for a session. Raises NodeAway after `within` seconds, or at once what no retry can cure."""
        with move_on_after(within):
            while not self.is_attached:
                if isinstance(self._failure, CallerError):
                    raise self._failure
                await self._news.wait()
        return self.current()

    async def run(self) -> None:
        """Stay attached until `close`. One task for the client's life."""
        attempt = 0
        loop = asyncio.get_running_loop()
        while not self._closing.is_set():
            with move_on_after(self._config.backoff.wait_s(attempt, random.random())):
                await self._closing.wait()
            began = loop.time()
            await self._attend()
            # A session that ends at once must not make a busy loop of the immediate first attempt.
            lasted_s = loop.time() - began
            attempt = 0 if lasted_s > self._config.backoff.max_s else attempt + 1

    async def close(self) -> None:
        """Leave in order: give up what is held, end the stream, wait until no copy touches the arena."""
        self._closing.set()
        if (session := self._session) is not None:
            await session.close(within=self._config.close_within_s)

    async def _attend(self) -> None:
        """One attempt, and the life of the session that comes of it."""
        if self._closing.is_set():
            return
        async with (
            _channel(self._config, self._credentials) as channel,
            opened(
                channel,
                metadata=_metadata(self._config),
                outgoing_max=self._config.outgoing_max,
                log=self._log,
            ) as stream,
        ):
            session = await self._try_attach(stream)
            if session is None:
                return
            self._session, self._channel = session, channel
            self.attachments += 1
            self._log.info("attached", address=self._config.address, epoch=session.epoch.hex())
            self._tell()
            try:
                await self._live(stream, session.limits.heartbeat_ms / 1000)
            finally:
                session.lose()
                self._session = self._channel = None
                self._fail(stream.loss)
        # Only now may this process declare that it touches nothing any more: what Hello.resume says.
        await session.arena.wait_unmapped()

    async def _live(self, stream: SessionStream, heartbeat_s: float) -> None:
        async with create_task_group() as beats:
            if heartbeat_s > 0:
                beats.start_soon(self._keep_alive, stream, heartbeat_s)
            await stream.wait_ended()
            beats.cancel_scope.cancel()

    async def _keep_alive(self, stream: SessionStream, heartbeat_s: float) -> None:
        await stream.keep_alive(
            heartbeat_s=heartbeat_s,
            missed_max=self._config.heartbeats_missed_max,
            is_local=self._config.is_local,
        )

    async def _try_attach(self, stream: SessionStream) -> Session | None:
        try:
            return await self._attach(stream)
        except PenstockError as failure:
            self._fail(failure)
            return None

    async def _attach(self, stream: SessionStream) -> Session:
        secret, epoch = self._resume
        welcome = await stream.ask(
            engine_pb2.SessionRequest(hello=self._spec.hello(resume=secret, epoch=epoch)),
            within=self._config.attempt_within_s,
            accept=_welcome,
        )
        self._resume = (welcome.session_secret, welcome.epoch)
        keyspace = self._spec.keyspace(welcome.chunk_tokens)
        if keyspace.digest != welcome.namespace_digest:
            raise NamespaceMismatch(
                "node and client make different keys of one declaration; they are of different"
                " versions: run the same one on both sides (`penstock doctor keys` shows where)"
            )
        limits = welcome.limits
        stream.inflight_max = min(self._config.inflight_max, limits.inflight_max or 1)
        stream.deadline_ms_max = limits.deadline_ms_max
        stream.message_bytes_max = limits.message_bytes_max or stream.message_bytes_max
        return Session(
            stream,
            welcome,
            await self._enter(welcome),
            keyspace,
            groups=self._spec.objects(welcome.chunk_tokens),
            mover=self._mover,
            config=self._config,
        )

    async def _enter(self, welcome: engine_pb2.Welcome) -> ArenaLink:
        if not welcome.arena_socket:
            return ArenaLink(None, None)
        return await enter_arena(
            welcome.arena_socket,
            welcome.session_secret,
            arena_bytes=welcome.arena_bytes,
            prefault_threads=self._config.prefault_threads,
            within=self._config.attempt_within_s,
        )

    def _fail(self, failure: PenstockError) -> None:
        is_news = str(failure) != str(self._failure)  # said once, not at every attempt
        if is_news and not self._closing.is_set():
            self._log.warning("node_away", address=self._config.address, reason=str(failure))
        self._failure = failure
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, Event()
        news.set()


def _welcome(reply: engine_pb2.SessionReply) -> engine_pb2.Welcome:
    if not reply.HasField("welcome"):
        raise ProtocolBroken(f"the node answers Hello with {reply.WhichOneof('body')}")
    welcome = reply.welcome
    if welcome.protocol_version != PROTOCOL_VERSION or welcome.chunk_tokens == 0:
        raise ProtocolBroken(f"the node speaks protocol {welcome.protocol_version}")
    return welcome


def _metadata(config: ClientConfig) -> tuple[tuple[str, str], ...]:
    if config.token is None:
        return ()
    return (("authorization", f"Bearer {config.token.reveal()}"),)


@asynccontextmanager
async def _channel(
    config: ClientConfig, credentials: grpc.ChannelCredentials | None
) -> AsyncIterator[aio.Channel]:
    """A connection of its own for each attempt: gRPC's shared ones would keep their own, slower, backoff."""
    options = (
        ("grpc.max_receive_message_length", config.message_bytes_max),
        ("grpc.max_send_message_length", -1),  # bounded by the stream, with a better message
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    )
    if credentials is None:
        channel = aio.insecure_channel(config.target, options)
    else:
        channel = aio.secure_channel(config.target, credentials, options)
    try:
        yield channel
    finally:
        await channel.close(None)


def _credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    try:
        ca, key, certificate = (
            None if path is None else path.read_bytes()
            for path in (tls.ca, tls.key, tls.certificate)
        )
    except OSError as unreadable:
        raise ConfigError("tls", f"{unreadable.filename}: {unreadable.strerror}") from unreadable
    return grpc.ssl_channel_credentials(ca, key, certificate)
