"""The gateway: the engine's gRPC service. The actor keeps the servers and hears news for streams; each stream is served
in the task gRPC made for it, by an `EngineSession`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, assert_never

import anyio
import grpc
from anyio import move_on_after
from google.protobuf.message import DecodeError

from penstock.actors.api import control, gateway, session
from penstock.actors.api.errors import Draining, TooLarge
from penstock.actors.api.types import Epoch, SessionId, Shape
from penstock.actors.arena_door import SECRET_BYTES
from penstock.actors.engine_codec import malformed, oversized, refusal, refused_unparsed
from penstock.actors.engine_loads import SessionLoads
from penstock.actors.engine_pd import Asker, Pushes, PushRequests
from penstock.actors.engine_requests import EngineRequests, Neighbours
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.gateway_session import SESSION_REQUEST, EngineSession, Liveness
from penstock.actors.hello import PROTOCOL_VERSION, HelloReader, ReadHello
from penstock.actors.prompts import Prompts
from penstock.actors.wire_scan import parse
from penstock.protos import common_pb2, engine_pb2
from penstock.runtime.begun import TurnShare
from penstock.runtime.call_places import CallPlaces
from penstock.runtime.deadline import deadline_within
from penstock.runtime.errors import MailboxFull, PenstockError
from penstock.runtime.grpc_health import Serving, ServingHealth
from penstock.runtime.grpc_transport import ListenSpec, serving
from penstock.runtime.hazard import hazard
from penstock.runtime.identity import calling
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.security import Address

Context = grpc.aio.ServicerContext[object, bytes]

BEGUN_A_TURN = 4  # writes of watermarks, in the steps that move them: up to 100 us each; one commit may move many


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What Welcome tells of the node."""

    epoch: Epoch
    arena_bytes: int  # of the mapping
    cache_bytes: int  # of what engines write into
    arena_socket: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached session with the secret that only its process may know."""

    session: session.Attached
    secret: bytes = field(repr=False)


class Gateway(gateway.Gateway):
    def __init__(
        self,
        *,
        listen: Sequence[ListenSpec],
        handlers: Sequence[grpc.GenericRpcHandler],
        service_names: Sequence[str],
        streams: Streams,
        places: CallPlaces,
        stop_within_s: float,
    ) -> None:
        self._listen = listen
        self._handlers = handlers
        self._streams = streams
        self._places = places
        self._stop_within_s = stop_within_s
        self._begun = TurnShare(BEGUN_A_TURN)
        # Of this life: a drain goes on when the gateway died meanwhile.
        serves = Serving.YES if streams.is_admitting else Serving.NO
        self._health = ServingHealth(service_names, serves)

    async def on_start(self) -> None:
        bound = anyio.Event()
        self.start_soon(self._keep_servers, bound, name="gateway servers")
        await bound.wait()

    async def _keep_servers(self, bound: anyio.Event) -> None:
        async with AsyncExitStack() as servers:
            addresses = [
                await servers.enter_async_context(
                    serving(
                        spec,
                        self._handlers,
                        self._health,
                        self._places,
                        stop_within_s=self._stop_within_s,
                    )
                )
                for spec in self._listen
            ]
            self._streams.addresses = tuple(addresses)
            bound.set()
            await anyio.sleep_forever()

    def receive(self, msg: gateway.Message) -> object:
        match msg:
            case gateway.TicketMoved():
                if (stream := self._streams.attached.get(msg.session)) is not None:
                    (stream.move_now if self._begun.take() else stream.move)(msg)
                return answer(msg, None)
            case gateway.EndSession():
                if (stream := self._streams.attached.get(msg.session)) is not None:
                    stream.end(msg.reason)
                return answer(msg, None)
            case gateway.StopAdmitting():
                self._streams.is_admitting = False
                self._health.say(Serving.NO)
                return answer(msg, len(self._streams.attached))
            case _:
                assert_never(msg)


class Streams:
    """All engine streams of the node, attached or not yet; `serve` is the rpc Engine.Session."""

    def __init__(
        self,
        *,
        facts: NodeFacts,
        limits: GatewayLimits,
        hello: HelloReader,
        neighbours: Neighbours,
        news: Ref[control.Control],
        pushes: Pushes | None = None,
    ) -> None:
        """`pushes`: None without `cluster.pd`."""
        self.addresses: tuple[Address, ...] = ()
        self.attached: dict[SessionId, EngineSession] = {}  # len <= limits.streams_max
        self.is_admitting = True
        self._facts = facts
        self._limits = limits
        self._hello = hello
        self._to = neighbours
        self._news = news
        self._pushes = pushes
        self._open = 0  # streams, <= limits.streams_max
        self._log = Log("gateway")

    async def serve(self, _: object, context: Context) -> None:
        if self._open >= self._limits.streams_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._open} streams are open, the bound is gateway.streams_max",
            )
        self._open += 1
        try:
            await self._serve(context)
        finally:
            self._open -= 1

    async def _serve(self, context: Context) -> None:
        is_local = _is_local(context.peer())
        greeted: tuple[Attachment, ReadHello] | None = None
        with move_on_after(self._limits.hello_within_s):
            greeted = await self._greet(context)
        if greeted is None:
            context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            context.set_details("no acceptable Hello in time")
            return
        attachment, read = greeted
        attached = attachment.session
        await hazard("gateway.after_attach")
        limits = self._limits.for_groups(len(read.declaration.groups))
        liveness = Liveness.PROCESS if is_local else Liveness.HEARTBEATS
        requests = self._requests(attached, read, limits, is_local=is_local)
        pushing = self._pushing(attached, read, limits, requests)
        requests.handlers.update(pushing.handlers)
        stream = EngineSession(_Raw(context), attached, requests, limits, liveness)
        self.attached[attached.session] = stream
        self._tell_count()
        try:
            await stream.run(self._welcome(attachment, read, limits, is_local=is_local))
        finally:
            try:
                await pushing.end(self._limits.hello_within_s)
            finally:
                await self._end(attached, requests)
        if stream.end_reason:
            context.set_code(grpc.StatusCode.ABORTED)
            context.set_details(stream.end_reason)

    async def _greet(self, context: Context) -> tuple[Attachment, ReadHello] | None:
        """The session opened by the first acceptable Hello; anything before it is refused in words."""
        bytes_max = self._limits.message_bytes_max
        while isinstance(raw := await context.read(), bytes):
            if len(raw) > bytes_max:
                await context.write(oversized(raw, bytes_max=bytes_max).SerializeToString())
                continue
            try:
                request = await parse(
                    raw, engine_pb2.SessionRequest, SESSION_REQUEST, self._limits.scan_bounds
                )
            except TooLarge as error:
                await context.write(refused_unparsed(raw, error).SerializeToString())
                continue
            except DecodeError:
                await context.write(malformed(raw).SerializeToString())
                continue
            reply = engine_pb2.SessionReply(correlation_id=request.correlation_id)
            try:
                if not self.is_admitting:
                    raise Draining("the node is stopping: attach to another, or to its successor")
                if request.WhichOneof("body") != "hello":
                    reply.error.code = common_pb2.ERROR_CODE_NOT_ATTACHED
                    reply.error.message = "the first message of a stream must be Hello"
                else:
                    number = request.correlation_id
                    read = await self._hello.read(request.hello, correlation_id=number)
                    return await self._attach(read.declaration), read
            except PenstockError as error:
                reply.error.CopyFrom(refusal(error))
            await context.write(reply.SerializeToString())
        return None

    async def _attach(self, declaration: session.Declaration) -> Attachment:
        """Given up at any moment, it leaves no session that nobody knows of."""
        secret = os.urandom(SECRET_BYTES)
        attached: session.Attached | None = None
        try:
            with deadline_within(self._limits.hello_within_s):
                attached = await self._to.sessions.ask(session.Attach(declaration, secret))
        finally:
            if attached is None:
                self._abandon(secret)
        return Attachment(attached, secret)

    def _abandon(self, secret: bytes) -> None:
        try:
            self._to.sessions.tell_nowait(session.Abandoned(secret))
        except PenstockError as error:  # a flood, or the node is going down
            self._log.warning("abandoned_not_told", error=str(error))

    def _requests(
        self,
        attached: session.Attached,
        read: ReadHello,
        limits: GatewayLimits,
        *,
        is_local: bool,
    ) -> EngineRequests:
        prompts = Prompts(
            read.roots,
            chunk_tokens=read.declaration.chunk_tokens,
            chunks_max=limits.chunks_max,
            kept_bytes_max=limits.kept_prompt_bytes_max,
            tenants=calling().tenants,
        )
        slots = read.declaration.slots if is_local else ()
        sizes = [size for group in read.declaration.groups for size in group.shard_bytes]
        chunk_bytes = sum(sizes[slot] for slot in slots) if slots else sum(sizes)
        if chunk_bytes > self._facts.cache_bytes:
            self._tell_too_small(read, chunk_bytes)
        return EngineRequests(
            attached,
            slots,
            prompts,
            self._to,
            limits,
            epoch=self._facts.epoch,
            fits=not slots or chunk_bytes <= self._facts.cache_bytes,
            loads=self._loads(attached, read),
        )

    def _tell_too_small(self, read: ReadHello, chunk_bytes: int) -> None:
        """Nothing of this engine will ever be kept: of those that move no bytes, if all its shards are on this node."""
        self._log.warning_once(
            "l1_too_small",
            read.declaration.namespace_digest,
            chunk_bytes,
            client=read.declaration.client,
            chunk_tokens=read.declaration.chunk_tokens,
            chunk_bytes=chunk_bytes,
            l1_bytes=int(self._facts.cache_bytes),
            advice="not even one chunk of this engine fits: raise l1.bytes, or lower chunk_tokens",
        )

    def _loads(self, attached: session.Attached, read: ReadHello) -> SessionLoads | None:
        if self._to.prefetcher is None:
            return None
        chunk_tokens = read.declaration.chunk_tokens
        shape = _shape(attached, read)
        return SessionLoads(self._to.prefetcher, self._to.l1, attached, shape, chunk_tokens)

    def _pushing(
        self,
        attached: session.Attached,
        read: ReadHello,
        limits: GatewayLimits,
        requests: EngineRequests,
    ) -> PushRequests:
        asker = Asker(
            attached=attached,
            slots=requests.slots,
            shape=_shape(attached, read),
            chunk_tokens=read.declaration.chunk_tokens,
            prompts=requests.prompts,
            holdings=requests.holdings,
            limits=limits,
        )
        return PushRequests(asker, self._pushes, manager=self._to.l1, watcher=self._to.own)

    def _welcome(
        self, attachment: Attachment, read: ReadHello, limits: GatewayLimits, *, is_local: bool
    ) -> engine_pb2.SessionReply:
        welcome = engine_pb2.Welcome(
            protocol_version=PROTOCOL_VERSION,
            epoch=self._facts.epoch,
            session_secret=attachment.secret,
            chunk_tokens=read.declaration.chunk_tokens,
            namespace_digest=read.declaration.namespace_digest,
            arena_socket=self._facts.arena_socket if is_local else "",
            arena_bytes=self._facts.arena_bytes,
            limits=limits.wire(),
            gave_up=attachment.session.gave_up,
        )
        return engine_pb2.SessionReply(correlation_id=read.correlation_id, welcome=welcome)

    async def _end(self, attached: session.Attached, requests: EngineRequests) -> None:
        """Tell it without waiting, if that can be: gRPC may cancel this very task, and no scope shields from that."""
        del self.attached[attached.session]
        self._tell_count()
        ended = session.StreamEnded(attached.session, attached.instance, requests.tickets())
        try:
            try:
                self._to.sessions.tell_nowait(ended)
            except MailboxFull:
                await self._to.sessions.tell(ended, within=self._limits.hello_within_s)
        except PenstockError as error:
            # The node is going down: the table goes with it.
            self._log.warning("stream_end_not_told", session=attached.session, error=str(error))

    def _tell_count(self) -> None:
        try:
            self._news.tell_nowait(control.SessionsLeft(len(self.attached)))
        except (MailboxFull, PenstockError):
            return  # level-triggered; the next change tells it


class _Raw:
    """A gRPC context that speaks bytes."""

    def __init__(self, context: Context) -> None:
        self.read: Callable[[], Awaitable[object]] = context.read
        self.write: Callable[[bytes], Coroutine[Any, Any, None]] = context.write


def _shape(attached: session.Attached, read: ReadHello) -> Shape:
    declared = read.declaration
    return Shape.of(attached.geometry, declared.namespace_digest, declared.groups)


def _is_local(peer: str) -> bool:
    """Whether the peer of a gRPC context shares this machine's memory.

    An address of loopback proves nothing: tunnels and port forwards of other machines come from there.
    """
    return peer.startswith("unix:")
