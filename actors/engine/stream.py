"""One `Engine.Session` stream: correlation, deadlines, heartbeats; knows nothing of what is said on it.

Exactly one task reads and one writes for the life of the stream, and neither is ever inside a request's scope:
in grpc.aio a cancelled read or write kills the whole RPC. Messages cross gRPC as bytes and are parsed here, so that
one which cannot be serialised or is too long is the fault of its request and not of the stream.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
from anyio import Event, create_task_group, move_on_after, sleep
from google.protobuf.message import DecodeError
from grpc import aio

from penstock.actors.engine.arguments import UINT32_MAX
from penstock.actors.engine.errors import (
    AccessDenied,
    NodeAway,
    NodeSilent,
    ProtocolBroken,
    RequestTooLarge,
    StreamLost,
    refusal_of,
)
from penstock.actors.engine.outbox import Lane, Outbox, Request
from penstock.protos import engine_pb2
from penstock.runtime.errors import DeadlineExceeded, PenstockError
from penstock.runtime.log import Log

T = TypeVar("T")
Call = aio.StreamStreamCall[bytes, bytes]

METHOD = f"/{engine_pb2.DESCRIPTOR.services_by_name['Engine'].full_name}/Session"
HELLO_BYTES_MAX = 4 << 20  # bound of a request before Welcome has told the node's own


class SessionStream:
    """A stream that is up until it has `ended`; after that every request raises StreamLost, at once."""

    def __init__(self, call: Call, *, outgoing_max: int, log: Log) -> None:
        self._open_call: Call | None = call  # None: the two tasks have ended
        self._log = log
        self._outbox = Outbox(outgoing_max=outgoing_max)
        self._unanswered: dict[int, Request] = {}  # sent, not answered; len <= inflight_max
        self._correlation_ids = itertools.count(1)
        self._ended = Event()
        self._loss: PenstockError | None = None  # set once, before _ended
        self._is_finishing = False
        self._has_heard = self._has_said = False  # since the last tick of keep_alive
        self._is_silent = False
        self.inflight_max = 1  # Hello; then what Welcome and the configuration allow
        self.deadline_ms_max = 0  # 0: not yet told
        self.message_bytes_max = HELLO_BYTES_MAX
        self.on_progress: Callable[[engine_pb2.Progress], None] = _ignore

    # Asking.

    async def ask(
        self,
        request: engine_pb2.SessionRequest,
        *,
        within: float,
        accept: Callable[[engine_pb2.SessionReply], T],
        undo: Callable[[T], None] | None = None,
        lane: Lane = Lane.ORDINARY,
    ) -> T:
        """Send `request` and give what `accept` makes of the reply.

        `accept` runs in the step that reads the reply, so news that follow it find what it made. If the caller
        gives up, or `within` seconds pass, a request not yet sent never is, and the result of one that was sent
        is handed to `undo` when it comes.

        Raises DeadlineExceeded, StreamLost, NodeSilent, RequestTooLarge, or what the node's refusal stands for.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + within
        if lane is Lane.ORDINARY:
            self._check_open()
            await self._outbox.wait_room(within=within)
        entry: Request | None = None
        try:
            entry = self._enter(request, lane, ends - loop.time())
        finally:
            if entry is None and lane is Lane.ORDINARY:
                self._outbox.leave_room()
        reply: asyncio.Future[T] = loop.create_future()
        entry.accept, entry.undo, entry.reply = accept, undo, reply
        self._outbox.put(entry)
        timer = loop.call_at(ends, self._expire, entry, within)
        try:
            return await reply
        except asyncio.CancelledError:
            self._give_up(entry)
            raise
        finally:
            timer.cancel()

    def tell_last_word(self, request: engine_pb2.SessionRequest) -> None:
        """End a ticket or lease. Never waits, never fails; after the stream's end there is nothing to say."""
        if self._loss is None:
            self._outbox.put(self._enter(request, Lane.LAST_WORD, None))

    def _check_open(self) -> None:
        if self._loss is not None:
            raise StreamLost(str(self._loss))
        if self._is_silent:
            raise NodeSilent("the node has missed its heartbeats: it is stopped or overloaded")

    def _enter(
        self, request: engine_pb2.SessionRequest, lane: Lane, within: float | None
    ) -> Request:
        if self._loss is not None:  # it may have ended while the caller waited for room
            raise StreamLost(str(self._loss))
        request.correlation_id = next(self._correlation_ids)
        request.deadline_ms = 0 if within is None else self._deadline_ms(within)
        payload = request.SerializeToString()
        if len(payload) > self.message_bytes_max:
            raise RequestTooLarge(
                f"the request takes {len(payload)} bytes, the node allows {self.message_bytes_max}:"
                " cut the prompt, or raise the node's limit"
            )
        return Request(request.correlation_id, payload, lane)

    def _deadline_ms(self, within: float) -> int:
        """`within` for the wire. At least 1: there, 0 is the node's default, and not a time that has passed."""
        at_most = self.deadline_ms_max or UINT32_MAX
        return max(1, math.ceil(min(within * 1000, at_most)))

    def _expire(self, entry: Request, within: float) -> None:
        if entry.reply is not None and not entry.reply.done():
            entry.reply.set_exception(DeadlineExceeded(f"no answer within {within:.3f} s"))
            self._give_up(entry)

    def _give_up(self, entry: Request) -> None:
        """Nobody waits for `entry` any more: forget it, or see to it that what it brings is undone.

        A last word is sent all the same: it is what gives something back.
        """
        reply, entry.reply = entry.reply, None
        if entry.is_queued:
            if entry.lane is Lane.ORDINARY:
                entry.payload = None
        elif reply is not None and _has_result(reply) and entry.undo is not None:
            # The reply came in the very step in which the caller was cancelled.
            entry.undo(reply.result())

    # The two tasks.

    async def read(self) -> None:
        """Read until the stream ends. Its own task; cancelling it ends the RPC."""
        try:
            while isinstance(raw := await self._call.read(), bytes):  # else aio.EOF
                self._has_heard, self._is_silent = True, False
                self._hear(engine_pb2.SessionReply.FromString(raw))
            self._end(NodeAway("the node ended the session"))
        except aio.AioRpcError as error:
            self._end(failure_of(error))
        except DecodeError as error:
            self._end(
                ProtocolBroken(f"a reply of the node is not a message of this contract: {error}")
            )
        except asyncio.CancelledError as cancelled:
            _reraise_if_ours(cancelled)
            self._end(NodeAway("the call was cancelled below us"))
        finally:
            self._end(NodeAway("the client closed the session"))

    async def write(self) -> None:
        """Write until the stream ends, or until `finish` and all is said and answered. Its own task."""
        try:
            while not (self._is_finishing and not self._unanswered and not self._outbox):
                if (heartbeat := self._outbox.take_heartbeat()) is not None:
                    await self._call.write(heartbeat)
                elif (entry := self._next()) is not None:
                    assert entry.payload is not None
                    payload, entry.payload = entry.payload, None
                    self._unanswered[entry.correlation_id] = entry
                    self._has_said = True
                    await self._call.write(payload)
                else:
                    await self._outbox.wait_changed()
            await self._call.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over, and the reader is told why
        except asyncio.CancelledError as cancelled:
            _reraise_if_ours(cancelled)

    def _next(self) -> Request | None:
        return self._outbox.take() if len(self._unanswered) < self.inflight_max else None

    def _hear(self, reply: engine_pb2.SessionReply) -> None:
        if reply.correlation_id == 0:
            self._hear_news(reply)
            return
        entry = self._unanswered.pop(reply.correlation_id, None)
        if entry is None:
            return  # a heartbeat's echo
        self._outbox.wake()
        if entry.accept is None:
            return
        try:
            if reply.HasField("error"):
                raise refusal_of(reply.error)
            result = entry.accept(reply)
        except PenstockError as error:
            if entry.reply is not None and not entry.reply.done():
                entry.reply.set_exception(error)
        else:
            if entry.reply is not None and not entry.reply.done():
                entry.reply.set_result(result)
            elif entry.undo is not None:
                entry.undo(result)

    def _hear_news(self, reply: engine_pb2.SessionReply) -> None:
        if reply.HasField("progress"):
            self.on_progress(reply.progress)
        elif reply.HasField("error"):
            self._log.warning("request_unreadable", problem=reply.error.message)

    # Life.

    async def keep_alive(self, *, heartbeat_s: float, missed_max: int, is_local: bool) -> None:
        """Say something in each interval, and notice when the node does not. Its own task.

        A silent node at the other end of a Unix socket is stopped or overloaded: requests are refused at once until
        it speaks. Over TCP the connection may be half open, so the stream is ended. Counted in ticks, so that a
        pause of this very process is not mistaken for one of the node.
        """
        ticks_silent = 0
        while True:
            await sleep(heartbeat_s)
            ticks_silent = 0 if self._has_heard else ticks_silent + 1
            if not self._has_said:
                self._send_heartbeat()
            self._has_heard = self._has_said = False
            if ticks_silent >= missed_max:
                self._is_silent = True
                if not is_local:
                    self._end(NodeSilent(f"no word from the node in {ticks_silent} heartbeats"))

    def _send_heartbeat(self) -> None:
        beat = engine_pb2.SessionRequest(
            correlation_id=next(self._correlation_ids), heartbeat=engine_pb2.Heartbeat()
        )
        self._outbox.put_heartbeat(beat.SerializeToString())

    async def finish(self, *, within: float) -> None:
        """Say what is left to say, close the sending side, and wait for the node to end the stream."""
        self._is_finishing = True
        self._outbox.wake()
        with move_on_after(within):
            await self._ended.wait()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    @property
    def is_open(self) -> bool:
        return self._loss is None

    @property
    def loss(self) -> PenstockError:
        """Why it ended."""
        return self._loss or NodeAway("the session has not ended")

    @property
    def _call(self) -> Call:
        assert self._open_call is not None, "only the two tasks speak to gRPC"
        return self._open_call

    def disconnect(self) -> None:
        """End the RPC, after the two tasks, and forget it.

        gRPC keeps its connection until the last reference to the call goes. The errors of cancelled tasks are kept in
        cycles, with all frames of their tracebacks: what those refer to goes when the garbage collector finds it, and
        in an engine that has it off or frozen, never. So no such frame may hold the call.
        """
        call, self._open_call = self._open_call, None
        if call is not None:
            call.cancel()
        self.on_progress = _ignore

    def end(self, reason: PenstockError) -> None:
        """End the stream from this side, at once. All who wait are told."""
        self._end(reason)

    def _end(self, reason: PenstockError) -> None:
        if self._loss is not None:
            return
        self._loss = reason
        self._ended.set()
        while (entry := self._outbox.take()) is not None:
            _lose(entry, reason)
        for entry in self._unanswered.values():
            _lose(entry, reason)
        self._unanswered.clear()


def _ignore(_: engine_pb2.Progress) -> None:
    """News that nobody is there for (yet, or any more)."""


def _reraise_if_ours(cancelled: asyncio.CancelledError) -> None:
    """Raise it again when it was this task that was cancelled, without gRPC's frames: see `disconnect`.

    grpc.aio raises the same error into a read or write of a call that was cancelled by anybody else.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise cancelled.with_traceback(None)


def _has_result(reply: asyncio.Future[Any]) -> bool:
    return reply.done() and not reply.cancelled() and reply.exception() is None


def _lose(entry: Request, reason: PenstockError) -> None:
    # Each gets an exception of its own: one raised in many tasks would collect all their tracebacks.
    if entry.reply is not None and not entry.reply.done():
        entry.reply.set_exception(StreamLost(str(reason)))


_FAILURES: Mapping[grpc.StatusCode, type[PenstockError]] = MappingProxyType(
    {
        grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
        grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    }
)


def failure_of(error: aio.AioRpcError) -> PenstockError:
    """What the end of an RPC means to us."""
    kind = _FAILURES.get(error.code(), NodeAway)
    return kind(f"{error.code().name}: {error.details() or 'no details'}")


@asynccontextmanager
async def opened(
    channel: aio.Channel,
    *,
    metadata: tuple[tuple[str, str], ...],
    outgoing_max: int,
    log: Log,
) -> AsyncIterator[SessionStream]:
    """A stream on `channel`, with its two tasks. Whatever happens inside, the RPC is over afterwards."""
    stream = SessionStream(
        channel.stream_stream(METHOD)(metadata=metadata), outgoing_max=outgoing_max, log=log
    )
    try:
        async with create_task_group() as tasks:
            tasks.start_soon(stream.read)
            tasks.start_soon(stream.write)
            try:
                yield stream
            finally:
                stream.end(NodeAway("the client closed the session"))
                tasks.cancel_scope.cancel()
    finally:
        stream.disconnect()
