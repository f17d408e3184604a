"""A scripted node for the client's tests: the real contract over a real Unix socket and a real arena, a toy table.

It runs in the test's own event loop and can hold back replies, drop streams, restart and fall silent on command.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from anyio.abc import SocketStream, UNIXSocketStream
from support import small_model
from support.node_thread import NodeThread
from support.paged_cache import Engine

from penstock._native import Arena, crc64
from penstock.actors.engine.blocking import BlockingClient
from penstock.actors.engine.client import Client, ClientConfig, EngineSpec
from penstock.protos import common_pb2, engine_pb2

CHUNK_TOKENS = 16
RECORD = struct.Struct("<3Q")
PAGE = 4096
Request = engine_pb2.SessionRequest
Reply = engine_pb2.SessionReply


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Stream:
    """One attached session, as the node sees it."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.secret = os.urandom(32)
        self.scope = anyio.CancelScope()
        self._writing = anyio.Lock()

    async def send(self, reply: Reply) -> None:
        async with self._writing:
            await self.context.write(reply.SerializeToString())


class FakeNode:
    """Objects by chunk key; nothing expires, nothing is evicted; every request is remembered."""

    def __init__(self, directory: Path, spec: EngineSpec) -> None:
        self.spec = spec
        self.address = f"unix://{directory / 'node.sock'}"
        self.arena_path = str(directory / "arena.sock")
        self.chunk_tokens = CHUNK_TOKENS
        self.digest: bytes | None = None  # None: the right one
        self.limits = engine_pb2.Limits(
            message_bytes_max=1 << 20,
            chunks_max=64,
            inflight_max=8,
            leases_max=8,
            tickets_max=8,
            lease_ms_default=10_000,
            lease_ms_max=60_000,
            heartbeat_ms=0,
            deadline_ms_default=1_000,
            deadline_ms_max=10_000,
        )
        self.hellos: list[engine_pb2.Hello] = []
        self.requests: list[tuple[str, Request]] = []
        self.streams: list[Stream] = []
        self.refusals: dict[str, common_pb2.Error] = {}  # by request kind
        self.overrides: dict[str, Callable[[Request, Reply], Awaitable[None]]] = {}
        self.held: dict[str, list[tuple[Stream, Reply]]] = {}
        self._news = anyio.Event()
        self._restart()

    def _restart(self) -> None:
        self.epoch = os.urandom(16)
        self.arena = Arena(bytes=1 << 20)
        self.objects: dict[bytes, list[bytes]] = {}  # chunk key -> extent record per group
        self.tickets: dict[bytes, bytes] = {}  # ticket -> keys
        self.leases: dict[bytes, list[bytes]] = {}  # write: keys; read: nothing
        self.pushes: dict[bytes, engine_pb2.PdSent] = {}  # by transfer
        self.visitors: list[SocketStream] = []
        self._next_offset = 0

    # Life.

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = grpc.aio.server()
        handlers = {
            "Session": grpc.stream_stream_rpc_method_handler(self._session),
            "Health": grpc.unary_unary_rpc_method_handler(
                self._health, response_serializer=engine_pb2.HealthReply.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("penstock.v1.Engine", handlers),)
        )
        server.add_insecure_port(self.address.replace("unix://", "unix:"))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await anyio.Path(self.arena_path).unlink(missing_ok=True)
        async with (
            await anyio.create_unix_listener(self.arena_path) as door,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(door.serve, self._let_in)
            await server.start()
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await server.stop(0)
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def restarted(self) -> AsyncIterator[None]:
        """The node again, with another epoch and nothing in its memory."""
        self._restart()
        async with self.serving():
            yield

    async def drop_streams(self) -> None:
        """End every stream from the node's side."""
        for stream in self.streams:
            stream.scope.cancel()
        self.streams.clear()

    async def _let_in(self, visitor: SocketStream) -> None:
        assert isinstance(visitor, UNIXSocketStream)
        async with visitor:
            secret = await visitor.receive(32)
            if secret not in {stream.secret for stream in self.streams}:
                return
            self.visitors.append(visitor)
            if self.hellos[-1].own_shards:
                await visitor.send_fds(b"\x01", [self.arena.fd])
            else:
                await visitor.send(b"\x00")
            await anyio.sleep_forever()

    # Watching.

    def count(self, kind: str) -> int:
        return sum(one == kind for one, _ in self.requests)

    def last(self, kind: str) -> Request:
        return [request for one, request in self.requests if one == kind][-1]

    async def wait_for(self, kind: str, count: int = 1) -> Request:
        """Wait until `count` requests of this kind have come."""
        return await self.wait_until(lambda: self.count(kind) >= count) or self.last(kind)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(5):
            while not condition():
                await self._news.wait()

    def tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    # Serving.

    def hold(self, kind: str) -> None:
        """Keep back the replies to this kind of request from now on; what they do is done."""
        self.held[kind] = []

    async def let_go(self, kind: str) -> None:
        for stream, reply in self.held.pop(kind):
            await stream.send(reply)

    async def _health(self, _: bytes, context: Any) -> engine_pb2.HealthReply:
        return engine_pb2.HealthReply(state=engine_pb2.HEALTH_STATE_SERVING)

    async def _session(self, _: object, context: Any) -> None:
        stream = Stream(context)
        with stream.scope:
            while isinstance(raw := await context.read(), bytes):
                request = Request.FromString(raw)
                kind = request.WhichOneof("body") or ""
                reply = Reply(correlation_id=request.correlation_id)
                if kind == "hello":
                    self.streams.append(stream)
                    self.hellos.append(request.hello)
                await self._answer(kind, request, reply, stream)
        if stream in self.streams:
            self.streams.remove(stream)
        self.tell()

    async def _answer(self, kind: str, request: Request, reply: Reply, stream: Stream) -> None:
        if kind in self.refusals:
            reply.error.CopyFrom(self.refusals[kind])
        elif kind in self.overrides:
            await self.overrides[kind](request, reply)
        elif kind == "hello":
            self._welcome(reply.welcome, stream)
        else:
            getattr(self, f"_{kind}")(request, reply)
        self.requests.append((kind, request))
        self.tell()
        if kind in self.held:
            self.held[kind].append((stream, reply))
        else:
            await stream.send(reply)

    def _welcome(self, welcome: engine_pb2.Welcome, stream: Stream) -> None:
        welcome.protocol_version = 1
        welcome.epoch = self.epoch
        welcome.session_secret = stream.secret
        welcome.chunk_tokens = self.chunk_tokens
        welcome.namespace_digest = self.digest or self.spec.keyspace(self.chunk_tokens).digest
        welcome.arena_socket = self.arena_path
        welcome.arena_bytes = self.arena.bytes
        welcome.limits.CopyFrom(self.limits)

    def _keys(self, prompt: engine_pb2.Prompt) -> list[bytes]:
        packed = prompt.keys
        if prompt.HasField("delta"):
            base = self.prompts[prompt.delta.base]
            packed = base[: prompt.delta.base_chunks * 32] + prompt.delta.keys
        return [packed[at : at + 32] for at in range(0, len(packed), 32)]

    prompts: dict[int, bytes] = defaultdict(bytes)

    def _lookup(self, request: Request, reply: Reply) -> None:
        keys = self._keys(request.lookup.prompt)
        hit = next((n for n, key in enumerate(keys) if key not in self.objects), len(keys))
        found = reply.lookup
        found.total_chunks, found.hit_chunks, found.promised_chunks = len(keys), hit, hit
        found.final = True
        found.prompt_id = len(self.prompts) + 1
        self.prompts[found.prompt_id] = b"".join(keys)
        if hit:
            found.ticket = os.urandom(16)
            self.tickets[found.ticket] = b"".join(keys[:hit])

    def _acquire(self, request: Request, reply: Reply) -> None:
        packed = self.tickets[request.acquire.ticket][request.acquire.first_chunk * 32 :]
        keys = [packed[at : at + 32] for at in range(0, len(packed), 32)]
        reply.acquired.lease = os.urandom(16)
        reply.acquired.chunks = len(keys)
        reply.acquired.extents = b"".join(record for key in keys for record in self.objects[key])
        self.leases[reply.acquired.lease] = []

    def _release(self, request: Request, reply: Reply) -> None:
        reply.released.ok = self.leases.pop(request.release.lease, None) is not None

    def _reserve(self, request: Request, reply: Reply) -> None:
        keys = self._keys(request.reserve.prompt)
        lease, granted = os.urandom(16), []
        for key in keys:
            is_new = key not in self.objects
            reply.reserved.answers += bytes([0 if is_new else 1])
            offset = self._next_offset
            size = self.spec.objects(self.chunk_tokens)[0].object_bytes if is_new else 0
            self._next_offset += -(-size // PAGE) * PAGE
            reply.reserved.extents += RECORD.pack(offset, size, 0)
            if is_new:
                granted.append(key + RECORD.pack(offset, size, 0))
        if granted:
            reply.reserved.lease = lease
            self.leases[lease] = granted

    def _commit(self, request: Request, reply: Reply) -> None:
        granted = self.leases.get(request.commit.lease)
        indices = list(request.commit.indices)
        count = len(request.commit.digests) // 8
        if granted is None:
            reply.committed.outcomes = bytes([1]) * count
            return
        digests = struct.unpack(f"<{count}Q", request.commit.digests)
        chosen = [granted[index] for index in indices] if indices else granted
        for one, digest in zip(chosen, digests, strict=True):
            offset, size, _ = RECORD.unpack(one[32:])
            assert crc64(self.arena.view(offset, size)) == digest
            self.objects[one[:32]] = [RECORD.pack(offset, size, digest)]
        if not indices:
            del self.leases[request.commit.lease]
        reply.committed.outcomes = bytes(count)

    def _abort(self, request: Request, reply: Reply) -> None:
        reply.aborted.ok = self.leases.pop(request.abort.lease, None) is not None

    def _cancel(self, request: Request, reply: Reply) -> None:
        reply.cancelled.ok = self.tickets.pop(request.cancel.ticket, None) is not None

    def _prefetch(self, request: Request, reply: Reply) -> None:
        keys = self._keys(request.prefetch.prompt)
        reply.prefetched.total_chunks = len(keys)

    def _touch(self, request: Request, reply: Reply) -> None:
        reply.touched.chunks = len(self._keys(request.touch.prompt))

    def _wait_stored(self, request: Request, reply: Reply) -> None:
        reply.stored.SetInParent()

    def _pd_send(self, _: Request, reply: Reply) -> None:
        reply.pd_send.transfer = os.urandom(16)
        self.pushes[reply.pd_send.transfer] = engine_pb2.PdSent()

    def _pd_wait(self, request: Request, reply: Reply) -> None:
        reply.pd_wait.CopyFrom(self.pushes[request.pd_wait.transfer])

    def _pd_layers(self, request: Request, reply: Reply) -> None:
        """All of them, of a push and a reservation that there are; each digest is that of what lies there."""
        layers = request.pd_layers
        assert layers.transfer in self.pushes
        runs = len(layers.digests) // 8 // len(layers.indices)
        digests = iter(struct.unpack(f"<{len(layers.digests) // 8}Q", layers.digests))
        for index in layers.indices:
            offset, size, _ = RECORD.unpack(self.leases[layers.lease][index][32:])
            run_bytes = size // self.spec.objects(self.chunk_tokens)[0].runs
            for run in range(layers.first_run, layers.first_run + runs):
                start = offset + run * run_bytes
                assert crc64(self.arena.view(start, run_bytes)) == next(digests)
        reply.pd_layers.runs = len(layers.digests) // 8

    def _pd_cancel(self, request: Request, reply: Reply) -> None:
        reply.pd_cancel.ok = self.pushes.pop(request.pd_cancel.transfer, None) is not None

    def _pd_expect(self, request: Request, reply: Reply) -> None:
        """Of what is there the watermark begins, and everything is promised."""
        keys = self._keys(request.pd_expect.prompt)
        hit = next((n for n, key in enumerate(keys) if key not in self.objects), len(keys))
        found = reply.lookup
        found.total_chunks, found.hit_chunks, found.promised_chunks = len(keys), hit, len(keys)
        found.ticket = os.urandom(16)
        self.tickets[found.ticket] = b"".join(keys)

    def _stat(self, request: Request, reply: Reply) -> None:
        reply.stat.epoch = self.epoch

    def _heartbeat(self, request: Request, reply: Reply) -> None:
        reply.heartbeat.SetInParent()


@pytest.fixture
def spec() -> EngineSpec:
    return small_model.spec()


@pytest.fixture
def node(tmp_path: Path, spec: EngineSpec) -> FakeNode:
    node = FakeNode(tmp_path, spec)
    node.prompts = {}
    return node


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def config(node: FakeNode) -> ClientConfig:
    return ClientConfig(address=node.address, attach_within_s=5.0)


@pytest.fixture
async def client(node: FakeNode, config: ClientConfig) -> AsyncIterator[Client]:
    """A client attached to `node`."""
    async with node.serving(), Client.connect(config, node.spec) as client:
        yield client


@pytest.fixture
def other_engine() -> Engine:
    return Engine(seed=1)


@pytest.fixture
def nodes(node: FakeNode) -> Iterator[NodeThread]:
    """`node`, serving on a thread of its own."""
    with NodeThread(node) as thread:
        yield thread


@pytest.fixture
def blocking(nodes: NodeThread, config: ClientConfig, spec: EngineSpec) -> Iterator[BlockingClient]:
    """A client for threads, attached to `nodes`."""
    with BlockingClient.connect(config, spec) as client:
        yield client
