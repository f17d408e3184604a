"""One engine stream: exactly one task reads, one writes, and neither is inside a request's scope.

    reader: bytes -> request -> asks -> reply -> outgoing (bounded: a full one holds up reading)
    writer: replies in order, then the newest watermark of each ticket that moved; a client that does not read for
            `stall_s` loses its stream

There is one write at a time, the writer's. While it has none, the write of a reply, or of a watermark, is begun in the
very step that made it, and the writer waits for its end: two turns of the loop, and the next read, would else come
before it.

A request that may have to wait for others (a reservation that found no room) is carried on beside the reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine
from enum import Enum
from typing import Any, Protocol

from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup
from google.protobuf.message import DecodeError

from penstock.actors.api import gateway, session
from penstock.actors.api.errors import InvalidField, TooLarge, TooManyInFlight
from penstock.actors.api.types import TicketId
from penstock.actors.engine_codec import (
    SHORTFALLS,
    duration_s,
    malformed,
    oversized,
    refusal,
    refused_unparsed,
)
from penstock.actors.engine_requests import EngineRequests, Later
from penstock.actors.gateway_limits import GatewayLimits
from penstock.actors.wire_scan import UNSCANNED_BYTES_MAX, parse, shape_of
from penstock.protos import engine_pb2
from penstock.runtime.begun import Begun, BegunForAnother
from penstock.runtime.deadline import deadline_at
from penstock.runtime.errors import PenstockError
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log

Reply = engine_pb2.SessionReply
SESSION_REQUEST = shape_of(engine_pb2.SessionRequest.DESCRIPTOR)


class Liveness(Enum):
    """What tells that the client is gone, when it does not say so itself."""

    PROCESS = "the end of its process"
    HEARTBEATS = "its silence"


class Stream(Protocol):
    """The part of a gRPC context that a session uses. `read` gives bytes, or something else at the end."""

    def read(self) -> Awaitable[object]: ...
    def write(self, message: bytes) -> Coroutine[Any, Any, None]: ...


class EngineSession:
    """Serves one attached stream until its end; `run` returns when nothing of it is left."""

    def __init__(
        self,
        stream: Stream,
        attached: session.Attached,
        requests: EngineRequests,
        limits: GatewayLimits,
        liveness: Liveness,
    ) -> None:
        self._stream = stream
        self._attached = attached
        self._requests = requests
        self._knows = requests.holdings.knows_ticket
        self._limits = limits
        self._liveness = liveness
        self._scan_bounds = limits.scan_bounds
        self._outgoing: deque[bytes] = deque()  # len <= outgoing_max
        self._outgoing_bytes = 0  # in _outgoing
        self._moved: dict[TicketId, engine_pb2.Progress] = {}  # newest watermark not yet written
        self._begun: Begun | None = None  # a write that the writer has not taken over yet
        self._is_idle = False  # the writer has nothing to do, and has not been woken
        self._is_answering = False  # the reader is: what a ticket comes to is told after its reply
        self._work = asyncio.Event()  # something to write
        self._room = asyncio.Event()  # outgoing has room
        self._carried_on = 0  # requests beside the reader, <= inflight_max
        self._writing_since: float | None = None
        self._stall_check: asyncio.TimerHandle | None = None  # while a write may be under way
        self._scope = CancelScope()
        self.end_reason = ""  # why we gave the stream up; empty while we did not
        self._clock = asyncio.get_running_loop().time  # monotonic seconds
        self._heard_at = self._clock()
        self._log = Log("gateway")

    async def run(self, welcome: engine_pb2.SessionReply) -> None:
        with self._scope:
            try:
                await self._wait_written(self._stream.write(welcome.SerializeToString()))
                async with create_task_group() as tasks:
                    tasks.start_soon(self._write_all, name="session writer")
                    if self._liveness is Liveness.HEARTBEATS:
                        tasks.start_soon(self._expect_heartbeats, name="session heartbeats")
                    await self._read_all(tasks)
                    tasks.cancel_scope.cancel()
            finally:
                if self._begun is not None:
                    self._begun.close()
                if self._stall_check is not None:
                    self._stall_check.cancel()

    def end(self, reason: str) -> None:
        """Give the stream up from our side."""
        self._log.warning("stream_ended", session=self._attached.session, reason=reason)
        self.end_reason = reason
        self._scope.cancel(reason)

    def move(self, news: gateway.TicketMoved) -> None:
        """The watermark of a ticket moved; written after the reply that names it, which wakes the writer again."""
        if len(self._moved) >= self._limits.tickets_max and news.ticket not in self._moved:
            return  # news of tickets that are not ours any more
        self._moved[news.ticket] = _progress(news)
        self._wake_writer()

    def move_now(self, news: gateway.TicketMoved) -> None:
        """The same; its write is begun in this step, if the writer has none. Never raises: it is the step of whoever
        moved the ticket."""
        if not self._is_idle or self._is_answering or not self._knows(news.ticket):
            self.move(news)
            return
        self._moved.pop(news.ticket, None)
        raw = Reply(progress=_progress(news)).SerializeToString()
        self._begun = BegunForAnother(self._stream.write(raw))
        self._wake_writer()

    # The reader.

    async def _read_all(self, tasks: TaskGroup) -> None:
        while isinstance(raw := await self._stream.read(), bytes):
            self._heard_at = self._clock()
            while self._is_full():
                self._room.clear()
                await self._room.wait()
            self._is_answering = True  # an error ends the session
            await self._take(raw, tasks)
            self._is_answering = False
            self._requests.holdings.opened()
            if self._moved:
                self._forget_strangers()

    async def _take(self, raw: bytes, tasks: TaskGroup) -> None:
        """Answer one message: every request gets a reply, whatever it is."""
        if len(raw) > self._limits.message_bytes_max:
            self._put(oversized(raw, bytes_max=self._limits.message_bytes_max))
            return
        try:
            if len(raw) > UNSCANNED_BYTES_MAX:
                kind = engine_pb2.SessionRequest
                request = await parse(raw, kind, SESSION_REQUEST, self._scan_bounds)
            else:
                request = engine_pb2.SessionRequest.FromString(raw)
        except TooLarge as error:
            self._put(refused_unparsed(raw, error))
            return
        except DecodeError:
            self._put(malformed(raw))
            return
        reply = Reply(correlation_id=request.correlation_id)
        try:
            await self._answer(request, reply, tasks)
        except PenstockError as error:
            reply.error.CopyFrom(refusal(error))
            self._put(reply)

    async def _answer(
        self, request: engine_pb2.SessionRequest, reply: Reply, tasks: TaskGroup
    ) -> None:
        body = request.WhichOneof("body")
        if body == "heartbeat":
            reply.heartbeat.SetInParent()
            self._put_first(reply)
            return
        handler = None if body is None else self._requests.handlers.get(body)
        if handler is None:
            raise InvalidField("body", "no request this node knows: check the protocol version")
        if request.correlation_id == 0:
            raise InvalidField("correlation_id", "must not be 0: replies could not be told apart")
        if self._carried_on >= self._limits.inflight_max:
            raise TooManyInFlight(f"{self._carried_on} requests wait already: await some first")
        within = duration_s(
            "deadline_ms",
            request.deadline_ms,
            default_ms=self._limits.deadline_ms_default,
            max_ms=self._limits.deadline_ms_max,
        )
        ends = self._clock() + within
        with deadline_at(ends):
            later = await handler(getattr(request, body or ""), reply)
        if later is None:
            await hazard("gateway.before_reply")
            self._put(reply)
            return
        # The rest of the request waits beside the reader.
        self._carried_on += 1
        tasks.start_soon(self._finish, later, reply, ends, name="session request")

    async def _finish(self, later: Later, reply: Reply, ends: float) -> None:
        try:
            with deadline_at(ends):
                await later
        except PenstockError as error:
            reply.error.CopyFrom(refusal(error))
        finally:
            self._carried_on -= 1
        await hazard("gateway.before_reply")
        self._put(reply)

    def _forget_strangers(self) -> None:
        """Between two messages, what is no ticket of ours is over: its news must not crowd out the others'."""
        for ticket in [one for one in self._moved if not self._knows(one)]:
            del self._moved[ticket]

    # The writer.

    def _is_full(self) -> bool:
        limits = self._limits
        return (
            len(self._outgoing) >= limits.outgoing_max
            or self._outgoing_bytes >= limits.outgoing_bytes_max
        )

    def _put(self, reply: Reply) -> None:
        raw = reply.SerializeToString()
        if self._is_idle:
            self._begun = Begun(self._stream.write(raw))
        else:
            self._outgoing.append(raw)
            self._outgoing_bytes += len(raw)
        self._wake_writer()

    def _put_first(self, reply: Reply) -> None:
        """Before all that waits: whoever asks for a sign of life gets it at once."""
        raw = reply.SerializeToString()
        self._outgoing.appendleft(raw)
        self._outgoing_bytes += len(raw)
        self._wake_writer()

    def _wake_writer(self) -> None:
        self._is_idle = False
        self._work.set()

    async def _write_all(self) -> None:
        while True:
            self._is_idle = not self._work.is_set()
            await self._work.wait()
            self._work.clear()
            if self._begun is not None:
                begun, self._begun = self._begun, None
                await self._wait_written(begun)
            while self._outgoing:
                raw = self._outgoing.popleft()
                self._outgoing_bytes -= len(raw)
                await self._wait_written(self._stream.write(raw))
                self._room.set()
            for ticket in [one for one in self._moved if self._knows(one)]:
                # A write waits for the client; meanwhile a ticket may be over, and its news gone.
                if (progress := self._moved.pop(ticket, None)) is not None:
                    moved = Reply(progress=progress)
                    await self._wait_written(self._stream.write(moved.SerializeToString()))

    async def _wait_written(self, write: Awaitable[None]) -> None:
        """Wait while the client does not read; not for ever, see `_check_stall`."""
        self._writing_since = self._clock()
        if self._stall_check is None:
            self._check_stall_in(self._limits.stall_s)
        try:
            await write
        finally:
            self._writing_since = None

    def _check_stall_in(self, wait_s: float) -> None:
        self._stall_check = asyncio.get_running_loop().call_later(wait_s, self._check_stall)

    def _check_stall(self) -> None:
        """One timer for many writes: one for each, or a cancel scope, would cost as much as a lookup."""
        self._stall_check = None
        if self._writing_since is None:
            return  # the next write begins another
        left_s = self._writing_since + self._limits.stall_s - self._clock()
        if left_s > 0:
            self._check_stall_in(left_s)
        else:
            self.end(f"the client read nothing for {self._limits.stall_s:g} s")

    # Liveness of a stream that has no process to watch.

    async def _expect_heartbeats(self) -> None:
        silence_s = 3 * self._limits.heartbeat_ms / 1000
        # Sleeps until the earliest moment at which the silence can have lasted long enough.
        while (left_s := self._heard_at + silence_s - self._clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)
        self.end(f"nothing heard for {silence_s:g} s")


def _progress(news: gateway.TicketMoved) -> engine_pb2.Progress:
    return engine_pb2.Progress(
        ticket=news.ticket,
        hit_chunks=news.hit_chunks,
        promised_chunks=news.promised_chunks,
        final=news.hit_chunks == news.promised_chunks,
        shortfall=SHORTFALLS[news.shortfall],
    )
