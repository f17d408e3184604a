"""A client that keeps book: of every message it sent and what may answer it, of every extent it was given.

It stands where gRPC does: `Context` is the part of a `grpc.aio.ServicerContext` that the gateway uses.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio
from google.protobuf.message import DecodeError

from penstock.actors.engine_codec import correlation_of
from penstock.protos import common_pb2, engine_pb2

# What answers each request; `error` may answer any of them.
REPLIES = {
    "hello": "welcome",
    "lookup": "lookup",
    "acquire": "acquired",
    "release": "released",
    "reserve": "reserved",
    "commit": "committed",
    "abort": "aborted",
    "cancel": "cancelled",
    "prefetch": "prefetched",
    "touch": "touched",
    "wait_stored": "stored",
    "pd_send": "pd_send",
    "pd_wait": "pd_wait",
    "pd_cancel": "pd_cancel",
    "pd_expect": "lookup",
    "pd_layers": "pd_layers",
    "stat": "stat",
    "heartbeat": "heartbeat",
}


class Violation(AssertionError):
    """The node broke its contract; the text says how."""


class Aborted(Exception):
    """What `context.abort` raises; the call is over."""


IDS_GIVEN_FROM = 1 << 50
END_OF_STREAM = object()  # as grpc.aio.EOF: anything that is not bytes


@dataclass(slots=True)
class Sent:
    """A message that is not answered yet."""

    raw: bytes
    request: engine_pb2.SessionRequest | None  # None: the bytes are none
    correlation_ids: frozenset[int]
    bodies: frozenset[str]

    @staticmethod
    def of(raw: bytes) -> Sent:
        try:
            request = engine_pb2.SessionRequest.FromString(raw)
        except DecodeError:
            return Sent(raw, None, frozenset({correlation_of(raw)}), frozenset({"error"}))
        bodies = {"error"}
        if (body := request.WhichOneof("body")) is not None:
            bodies.add(REPLIES[body])
        return Sent(raw, request, frozenset({request.correlation_id}), frozenset(bodies))

    def accepts(self, reply: engine_pb2.SessionReply) -> bool:
        # What was refused before it was parsed has the correlation id that comes first in its bytes, or none.
        is_unparsed = reply.error.code == common_pb2.ERROR_CODE_TOO_LARGE
        is_ours = reply.correlation_id in self.correlation_ids
        if is_unparsed:
            is_ours = is_ours or reply.correlation_id == correlation_of(self.raw)
        return is_ours and reply.WhichOneof("body") in self.bodies


class Book(Protocol):
    """Who hears of everything that is sent and answered."""

    def note_sent(self, sent: Sent) -> None: ...
    def put(self, context: Context, reply: bytes) -> None: ...
    def deliver(self) -> None: ...
    def take(self, context: Context, sent: Sent | None, reply: engine_pb2.SessionReply) -> None: ...


@dataclass(eq=False, slots=True)
class Context:
    """One call of Engine.Session, seen from both sides."""

    peer_name: str
    book: Book
    _inbox: deque[object] = field(default_factory=deque)
    _arrived: anyio.Event = field(default_factory=anyio.Event)
    _reads: anyio.Event = field(default_factory=anyio.Event)  # set while the client reads
    pulse: anyio.Event = field(default_factory=anyio.Event)  # set at every reply, and at the end
    unanswered: list[Sent] = field(default_factory=list)
    # Answered with an error while others were under way.
    _refused: list[tuple[Sent, engine_pb2.SessionReply]] = field(default_factory=list)
    welcome: engine_pb2.Welcome | None = None
    refusal: common_pb2.Error | None = None  # the latest
    has_hung_up: bool = False
    is_cancelled: bool = False
    is_over: bool = False  # the node has ended the call
    end_details: str = ""
    _ids_given: int = 0
    had_stalled: bool = False  # the client has ever stopped reading
    is_forgotten: bool = False  # what it held counts for nothing any more
    _task: asyncio.Task[object] | None = None  # the node's handler

    def __post_init__(self) -> None:
        self._reads.set()

    # The node's side.

    def peer(self) -> str:
        return self.peer_name

    async def read(self) -> object:
        while not self._inbox:
            await self._arrived.wait()
            self._arrived = anyio.Event()
        message = self._inbox[0]
        if message is not END_OF_STREAM:
            self._inbox.popleft()
        return message

    async def write(self, message: bytes) -> None:
        await self._reads.wait()
        self.book.put(self, message)
        self.pulse.set()

    async def abort(self, code: object, details: str) -> None:
        self.end_details = details
        raise Aborted(f"{code}: {details}")

    def set_code(self, code: object) -> None:
        """The details say it all."""

    def set_details(self, details: str) -> None:
        self.end_details = details

    @contextmanager
    def cancellable(self) -> Iterator[None]:
        """Around the handler: the client may cancel the task it runs in, and that ends here."""
        task = self._task = asyncio.current_task()
        assert task is not None
        try:
            yield
        except asyncio.CancelledError:
            if not self.has_hung_up or task.uncancel():
                raise
        finally:
            self._task = None

    # The client's side.

    @property
    def is_live(self) -> bool:
        """Whether an answer may still be expected."""
        return not (self.is_over or self.has_hung_up)

    @property
    def is_reading(self) -> bool:
        return self._reads.is_set()

    def send(self, raw: bytes) -> None:
        """Of two messages under way with one correlation id, nobody could tell the replies apart: ours gets another."""
        sent = Sent.of(raw)
        taken = {known for one in self.unanswered for known in one.correlation_ids}
        if sent.request is not None and sent.request.correlation_id in taken - {0}:
            self._ids_given += 1
            other = engine_pb2.SessionRequest(correlation_id=IDS_GIVEN_FROM + self._ids_given)
            raw += other.SerializeToString()  # of a field that is there twice, the last counts
            sent = Sent.of(raw)
        self.unanswered.append(sent)
        self.book.note_sent(sent)
        self._put(raw)

    def hang_up(self) -> None:
        self.has_hung_up = True
        self._put(END_OF_STREAM)

    def cancel(self) -> None:
        """gRPC cancels the handler's task once, wherever it is; no shield of a scope keeps that out."""
        self.has_hung_up = self.is_cancelled = True
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()

    def stop_reading(self) -> None:
        self.had_stalled = True
        self._reads = anyio.Event()

    def read_on(self) -> None:
        self._reads.set()

    def end(self) -> None:
        """The handler has returned."""
        self.is_over = True
        self.pulse.set()

    async def wait_answered(self) -> None:
        """Until nothing is unanswered, or nothing can be answered any more."""
        self.book.deliver()
        while self.unanswered and self.is_live and self.is_reading:
            self.pulse = anyio.Event()
            await self.pulse.wait()
            self.book.deliver()

    async def wait_over(self) -> None:
        """Until the node's handler has returned."""
        while not self.is_over:
            self.pulse = anyio.Event()
            await self.pulse.wait()

    def take_reply(self, reply: engine_pb2.SessionReply) -> None:
        body = reply.WhichOneof("body")
        if body == "progress" and reply.correlation_id == 0:
            self.book.take(self, None, reply)
            return
        sent = self._answered_by(reply)
        if body == "error":
            _check_error(reply.error)
            self.refusal = reply.error
        if body == "welcome":
            self.welcome = reply.welcome
        self.book.take(self, sent, reply)

    def _answered_by(self, reply: engine_pb2.SessionReply) -> Sent:
        """The message that `reply` answers.

        Bytes that are no message may have the correlation id of one under way: then their error may have been put
        down to that one, and is put down to them when it is answered itself.
        """
        sent = next((one for one in self.unanswered if one.accepts(reply)), None)
        if sent is None:
            for mistaken, error in self._refused:
                other = next((one for one in self.unanswered if one.accepts(error)), None)
                if mistaken.accepts(reply) and other is not None:
                    self._refused.remove((mistaken, error))
                    self._refused.append((other, error))
                    self.unanswered.remove(other)
                    return mistaken
            what = reply.WhichOneof("body")
            raise Violation(
                f"{what} with correlation id {reply.correlation_id} answers nothing sent"
            )
        self.unanswered.remove(sent)
        if not self.unanswered:
            self._refused.clear()
        elif reply.HasField("error"):
            self._refused.append((sent, reply))
        return sent

    def _put(self, message: object) -> None:
        self._inbox.append(message)
        self._arrived.set()


def _check_error(error: common_pb2.Error) -> None:
    if error.code not in common_pb2.ErrorCode.values() or not error.code:
        raise Violation(f"an error of code {error.code}")
    if error.code == common_pb2.ERROR_CODE_INTERNAL:
        raise Violation(f"a bug of the node: {error.message}")
    if not error.message:
        raise Violation(f"an error that says nothing: {error}")
