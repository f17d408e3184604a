"""An engine process reduced to the wire: what the contract says, and nothing the real client would do for us."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import grpc
from grpc import aio

from penstock._native import ArenaMapping, crc64
from penstock.protos import engine_pb2
from penstock.protos.engine_pb2 import SessionReply, SessionRequest

METHOD = "/penstock.v1.Engine/Session"
WITHIN_S = 10.0
RUNS = 2  # of an object of `declarations.group`
_EXTENT = struct.Struct("<QQQ")

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Extent:
    offset: int
    bytes: int
    digest: int


def extents_of(packed: bytes) -> list[Extent]:
    return [Extent(*fields) for fields in _EXTENT.iter_unpack(packed)]


def digests_of(fill: int, sizes: Sequence[int]) -> tuple[bytes, bytes]:
    """Of objects of so many bytes, all `fill`: their digests, and those of their two runs, packed."""
    whole = {size: crc64(bytes([fill]) * size) for size in {*sizes}}
    half = {size: crc64(bytes([fill]) * (size // RUNS)) for size in {*sizes}}
    digests = b"".join(struct.pack("<Q", whole[size]) for size in sizes)
    return digests, b"".join(struct.pack("<Q", half[size]) * RUNS for size in sizes)


def target_of(address: str) -> str:
    """A node's address as gRPC takes it."""
    return address.replace("unix://", "unix:") if address.startswith("unix:") else address


class StreamOver(Exception):
    """The stream ended while an answer was awaited."""


class RawStream:
    """One `Engine.Session` stream, message by message."""

    def __init__(self, channel: aio.Channel, *, metadata: Metadata = ()) -> None:
        method = channel.stream_stream(METHOD)
        self.call: aio.StreamStreamCall[bytes, bytes] = method(metadata=tuple(metadata))
        self.progress: list[engine_pb2.Progress] = []
        self.news: list[SessionReply] = []  # unasked for, and no progress
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[SessionReply]] = {}
        self._heard = asyncio.Condition()
        self.over: BaseException | None = None

    async def read_all(self) -> None:
        """Sort what comes; its own task."""
        try:
            while isinstance(raw := await self.call.read(), bytes):
                await self._hear(SessionReply.FromString(raw))
            self.over = StreamOver(f"{await self.call.code()} {await self.call.details()}")
        except (aio.AioRpcError, asyncio.CancelledError) as error:
            self.over = error
            if isinstance(error, asyncio.CancelledError) and not self.call.done():
                raise
        finally:
            over = StreamOver(str(self.over))
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(over)
                    waiting.exception()  # some of them nobody awaits any more

    async def _hear(self, reply: SessionReply) -> None:
        async with self._heard:
            if reply.WhichOneof("body") == "progress":
                self.progress.append(reply.progress)
            elif (waiting := self._waiting.pop(reply.correlation_id, None)) is not None:
                if not waiting.done():
                    waiting.set_result(reply)
            else:
                self.news.append(reply)
            self._heard.notify_all()

    async def wait_progress(self, count: int) -> list[engine_pb2.Progress]:
        """Until `count` Progress have come in all."""
        with anyio.fail_after(WITHIN_S):
            async with self._heard:
                await self._heard.wait_for(lambda: len(self.progress) >= count)
        return self.progress

    async def wait_news(self, count: int) -> list[SessionReply]:
        with anyio.fail_after(WITHIN_S):
            async with self._heard:
                await self._heard.wait_for(lambda: len(self.news) >= count)
        return self.news

    async def send(self, raw: bytes) -> None:
        await self.call.write(raw)

    async def begin(self, *, deadline_ms: int = 0, **body: Any) -> asyncio.Future[SessionReply]:
        """Send a request; the reply comes into the future. `body` is one field of SessionRequest."""
        number = next(self._numbers)
        reply: asyncio.Future[SessionReply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        request = SessionRequest(correlation_id=number, deadline_ms=deadline_ms, **body)
        if self.over is not None:
            raise StreamOver(str(self.over))
        try:
            await self.send(request.SerializeToString())
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise StreamOver(str(error)) from error
        return reply

    async def ask(self, *, deadline_ms: int = 0, **body: Any) -> SessionReply:
        reply = await self.begin(deadline_ms=deadline_ms, **body)
        with anyio.fail_after(WITHIN_S):
            return await reply

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended; waits for it."""
        with anyio.fail_after(WITHIN_S):
            return await self.call.code(), await self.call.details() or ""


class RawEngine(RawStream):
    """A stream that said Hello and was welcomed, with its arena mapped when it moves bytes."""

    welcome: engine_pb2.Welcome
    door: socket.socket | None = None
    arena: ArenaMapping | None = None

    async def attach(self, hello: engine_pb2.Hello, *, enter: bool = True) -> None:
        reply = await self.ask(hello=hello)
        assert reply.HasField("welcome"), reply
        self.welcome = reply.welcome
        if enter and self.welcome.arena_socket:
            self.door, fd = await anyio.to_thread.run_sync(
                enter_door, self.welcome.arena_socket, self.welcome.session_secret
            )
            if fd is not None:
                self.arena = ArenaMapping(fd=fd, bytes=self.welcome.arena_bytes)
                os.close(fd)

    def leave(self) -> None:
        """Let go of arena and door, as a process does when it ends."""
        if self.arena is not None:
            self.arena.close()
        if self.door is not None:
            self.door.close()

    # What most tests say.

    async def lookup(
        self, keys: bytes, *, readers: int = 1, request_id: str = "", ticket_ms: int = 0
    ) -> SessionReply:
        prompt = engine_pb2.Prompt(keys=keys)
        return await self.ask(
            lookup=engine_pb2.Lookup(
                prompt=prompt, readers=readers, request_id=request_id, ticket_ms=ticket_ms
            )
        )

    async def saved(self, keys: bytes) -> None:
        """Wait until what there is of these is saved to all stores below, if there are any."""
        prompt = engine_pb2.Prompt(keys=keys)
        wait = engine_pb2.WaitStored(prompt=prompt, within_ms=int(WITHIN_S * 1000) // 2)
        stored = (await self.ask(wait_stored=wait)).stored
        assert engine_pb2.SAVE_STATE_PENDING not in stored.states, stored

    async def final_hit(self, keys: bytes) -> int:
        """Chunks that a lookup finds in the end, what comes from stores included."""
        return await self.final_hit_of(engine_pb2.Prompt(keys=keys))

    async def final_hit_of(self, prompt: engine_pb2.Prompt) -> int:
        found = (await self.ask(lookup=engine_pb2.Lookup(prompt=prompt, readers=1))).lookup
        if found.final:
            return found.hit_chunks
        return (await self.last_progress(found.ticket)).hit_chunks

    async def last_progress(self, ticket: bytes) -> engine_pb2.Progress:
        """The final Progress of a ticket; waits for it."""
        with anyio.fail_after(WITHIN_S):
            async with self._heard:
                await self._heard.wait_for(lambda: self._last(ticket) is not None)
        last = self._last(ticket)
        assert last is not None
        return last

    def _last(self, ticket: bytes) -> engine_pb2.Progress | None:
        """The final Progress of a ticket, when it has come."""
        return next((one for one in self.progress if one.ticket == ticket and one.final), None)

    async def acquire(self, ticket: bytes, *, rank: int = 0, lease_ms: int = 0) -> SessionReply:
        return await self.ask(
            acquire=engine_pb2.Acquire(ticket=ticket, rank=rank, lease_ms=lease_ms)
        )

    async def release(self, lease: bytes, *, damaged: Sequence[int] = ()) -> SessionReply:
        return await self.ask(release=engine_pb2.Release(lease=lease, damaged=damaged))

    async def reserve(
        self, keys: bytes, *, salt: bytes = b"", lease_ms: int = 0, parent: bytes = b""
    ) -> SessionReply:
        prompt = engine_pb2.Prompt(keys=keys, salt=salt)
        return await self.ask(
            reserve=engine_pb2.Reserve(prompt=prompt, lease_ms=lease_ms, parent=parent)
        )

    async def commit(self, lease: bytes, digests: Sequence[int]) -> SessionReply:
        packed = struct.pack(f"<{len(digests)}Q", *digests)
        return await self.ask(commit=engine_pb2.Commit(lease=lease, digests=packed))

    async def put(self, keys: bytes, *, salt: bytes = b"", fill: int = 7) -> None:
        await self.put_prompt(engine_pb2.Prompt(keys=keys, salt=salt), fill=fill)

    async def put_prompt(self, prompt: engine_pb2.Prompt, *, fill: int = 7) -> None:
        """Reserve, write `fill` into what was granted, commit. Everything must be granted.

        Told with the digests of two runs, as `declarations.hello` has them, so that stores below save it."""
        reserved = (await self.ask(reserve=engine_pb2.Reserve(prompt=prompt))).reserved
        extents = extents_of(reserved.extents)
        assert extents, reserved
        assert set(reserved.answers) == {engine_pb2.ANSWER_GRANTED}, reserved.answers
        assert self.arena is not None
        for extent in extents:
            self.arena.view(extent.offset, extent.bytes)[:] = bytes([fill]) * extent.bytes
        digests, runs = digests_of(fill, [extent.bytes for extent in extents])
        commit = engine_pb2.Commit(lease=reserved.lease, digests=digests, runs=runs)
        committed = (await self.ask(commit=commit)).committed
        assert not any(committed.outcomes), committed

    async def stat(self) -> engine_pb2.StatReply:
        return (await self.ask(stat=engine_pb2.StatRequest())).stat


def enter_door(path: str, secret: bytes) -> tuple[socket.socket, int | None]:
    """Show the secret at the arena socket. The connection stays open; the descriptor, if there is one."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.settimeout(WITHIN_S)
    door.connect(path)
    door.sendall(secret)
    said, fds, _, _ = socket.recv_fds(door, 1, 1)
    if said not in {b"\x00", b"\x01"}:
        door.close()
        raise ConnectionRefusedError(f"the door says {said!r}")
    return door, fds[0] if fds else None


@asynccontextmanager
async def channel_to(
    address: str, *, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[aio.Channel]:
    """A connection of its own, so that its end is one process's end."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    options += [("grpc.max_send_message_length", -1)]
    target = target_of(address)
    if credentials is None:
        channel = aio.insecure_channel(target, options=options)
    else:
        channel = aio.secure_channel(target, credentials, options=options)
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def open_stream(
    address: str,
    *,
    metadata: Metadata = (),
    credentials: grpc.ChannelCredentials | None = None,
) -> AsyncIterator[RawEngine]:
    """A stream on which nothing has been said."""
    async with channel_to(address, credentials=credentials) as channel:
        stream = RawEngine(channel, metadata=metadata)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.read_all)
            try:
                yield stream
            finally:
                stream.leave()
                stream.call.cancel()
                with suppress(asyncio.CancelledError):
                    tasks.cancel_scope.cancel()


@asynccontextmanager
async def attached(
    address: str,
    hello: engine_pb2.Hello,
    *,
    enter: bool = True,
    metadata: Metadata = (),
    credentials: grpc.ChannelCredentials | None = None,
) -> AsyncIterator[RawEngine]:
    """An attached engine while the body runs; its stream is cut at the end."""
    async with open_stream(address, metadata=metadata, credentials=credentials) as engine:
        await engine.attach(hello, enter=enter)
        yield engine
