"""One data connection over gRPC, whichever side dialled: the stream, and who reads and writes it.

    stream      open ──(an end, an error, aclose)──► over: lost, its landings closed, its sends told

Everything happens in steps of one loop, so that what is over touches no memory from that step on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from penstock.runtime.begun import Begun, BegunForAnother
from penstock.runtime.channel import (
    Arrived,
    ChannelKind,
    ChannelLost,
    ChannelStatistics,
    Landing,
    LandingRefused,
    LandingSlot,
    Piece,
)
from penstock.runtime.channel_landings import Landings
from penstock.runtime.grpc_frames import (
    TOKEN_BYTES,
    Malformed,
    Pieces,
    Word,
    gone,
    parts_of,
    token_of,
)

GONE_MAX = 64  # refusals that wait to be told; more are counted only


class RawStream:
    """The two ends of a gRPC call, in bytes. Raises ChannelLost for all that gRPC raises when a call is over."""

    def __init__(
        self,
        read: Callable[[], Awaitable[object]],
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._read = read
        self._write = write

    async def read(self) -> bytes:
        """Empty at the end, too: no message of ours is."""
        try:
            raw = await self._read()
        except _OVER as error:
            raise _lost(error) from None
        return raw if isinstance(raw, bytes) else b""

    async def write(self, raw: bytes) -> None:
        try:
            await self._write(raw)
        except _OVER as error:
            raise _lost(error) from None


_OVER = (
    grpc.RpcError,
    grpc.aio.BaseError,
    asyncio.InvalidStateError,
    asyncio.CancelledError,
)


def _lost(error: BaseException) -> BaseException:
    """What `error` means: gRPC cancels whoever uses a call that was cancelled, which is no cancel of ours."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return error
        return ChannelLost("the call was cancelled")
    if isinstance(error, grpc.aio.AioRpcError):
        return ChannelLost(f"{error.code().name}: {error.details()}")
    return ChannelLost(f"{error}")


class _Send:
    """What is left of one send."""

    def __init__(self, token: bytes, pieces: Pieces) -> None:
        self.token = token
        self.pieces = pieces
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: ChannelLost | LandingRefused) -> None:
        self.pieces.forget()
        if not self.over.done():
            self.over.set_exception(error)


@dataclass(slots=True)
class _Message:
    """To be written."""

    raw: bytes
    pieces: int = 0  # that are whole with it
    bytes: int = 0  # of them
    ends: _Send | None = None  # what is written whole with it


class GrpcConnection:
    """See `runtime.channel.Connection`."""

    kind = ChannelKind.GRPC

    def __init__(self, stream: RawStream, chunk_bytes: int) -> None:
        self.statistics = ChannelStatistics()
        self._stream = stream
        self._chunk_bytes = chunk_bytes
        self._landings = Landings(self.statistics)
        self._sends: set[_Send] = set()  # each waited for by its caller
        self._turns: deque[_Send] = deque()  # of them, those with more to write; the first is next
        self._words: deque[bytes] = deque()  # short messages that go first; len <= GONE_MAX + 1
        self._raw = b""  # what came last
        self._work = asyncio.Event()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._tell_over: Callable[[GrpcConnection], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        self._halves: tuple[asyncio.Task[None], ...] = ()

    @property
    def is_lost(self) -> bool:
        return self._lost.done()

    def open_landing(self, slots: Sequence[LandingSlot], arrived: Arrived) -> Landing:
        self._check_open()
        return self._landings.open(slots, arrived)

    async def send(self, grant: bytes, pieces: Sequence[Piece]) -> None:
        self._check_open()
        if len(grant) != TOKEN_BYTES:
            raise LandingRefused("this grant was not given over this channel")
        if not pieces:
            return
        sending = _Send(grant, Pieces(grant, pieces, self._chunk_bytes))
        del pieces  # an error that passes here keeps this frame
        self._sends.add(sending)
        self._turns.append(sending)
        self._work.set()
        try:
            await sending.over
        finally:
            sending.pieces.forget()
            self._sends.discard(sending)

    async def wait_lost(self) -> str:
        return await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        self._end("it was closed here")
        for half in self._halves:
            half.cancel()
        if self._halves or self._task is not None:
            await self._over.wait()

    # Its life.

    def when_over(self, tell: Callable[[GrpcConnection], None]) -> None:
        self._tell_over = tell

    def say_taken(self) -> None:
        self._words.append(bytes((Word.TAKEN,)))
        self._work.set()

    def begin(self, cancel: Callable[[], Any]) -> None:
        """Run in a task of its own; `cancel` ends the call."""
        self._task = asyncio.create_task(self._run_and(cancel), name="grpc channel")
        self._task.add_done_callback(_raise_bug)

    async def _run_and(self, cancel: Callable[[], Any]) -> None:
        try:
            await self.run()
        finally:
            cancel()

    async def run(self) -> None:
        """Until it is lost. Given up, it ends."""
        if self.is_lost:  # closed by who was handed it
            self._be_over()
            return
        reader = asyncio.create_task(self._read_all(), name="grpc channel reader")
        writer = asyncio.create_task(self._write_all(), name="grpc channel writer")
        self._halves = reader, writer
        try:
            await asyncio.wait(self._halves, return_when=asyncio.FIRST_COMPLETED)
            self._hear(self._halves)
        finally:
            self._end("the stream was given up")
            for half in self._halves:
                half.cancel()
            try:
                await asyncio.wait(self._halves)
            finally:
                self._be_over()
        self._hear(self._halves)

    def _hear(self, halves: Sequence[asyncio.Task[None]]) -> None:
        """What ended those that have ended. Raises their bugs."""
        for half in halves:
            error = half.exception() if half.done() and not half.cancelled() else None
            if isinstance(error, ChannelLost):
                self._end(str(error))
            elif error is not None:
                raise error

    def _end(self, reason: str) -> None:
        """The first reason counts. From here on no memory is touched."""
        if self._lost.done():
            return
        self._lost.set_result(reason)
        self._landings.close_all()
        self._turns.clear()
        for sending in self._sends:
            sending.fail(ChannelLost(reason))

    def _be_over(self) -> None:
        self._over.set()
        self._tell_over(self)

    def _check_open(self) -> None:
        if self._lost.done():
            raise ChannelLost(self._lost.result())

    # The reader.

    async def _read_all(self) -> None:
        """The next message is on its way while this one is copied."""
        reading = BegunForAnother(self._read_next())
        try:
            while True:
                await reading
                raw = self._raw
                if not raw:
                    raise ChannelLost("the peer ended it")
                reading = BegunForAnother(self._read_next())
                if self._lost.done():
                    return
                self._take(raw)
        except Malformed as malformed:
            raise ChannelLost(f"the peer broke the protocol: {malformed}") from None
        finally:
            reading.close()

    async def _read_next(self) -> None:
        self._raw = await self._stream.read()

    def _take(self, raw: bytes) -> None:
        match raw[0]:
            case Word.PIECES:
                token, parts = token_of(raw), parts_of(raw)
                landing = self._landings.find(token)
                if landing is not None:
                    self._landings.write(landing, parts)
                    return
                self._landings.refuse(parts)
                if len(self._words) < GONE_MAX and (word := gone(token)) not in self._words:
                    self._words.append(word)
                    self._work.set()
            case Word.GONE:
                token = token_of(raw)
                for sending in [one for one in self._sends if one.token == token]:
                    sending.fail(LandingRefused("the landing is closed, or never was"))
            case _:
                raise Malformed("a message of no known kind")

    # The writer.

    async def _write_all(self) -> None:
        """The next message is put together while gRPC and the kernel are at work on the one before."""
        message = None
        while True:
            if message is None:
                await self._work.wait()
                self._work.clear()
                message = self._take_next()
                continue
            writing = Begun(self._stream.write(message.raw))
            following = self._take_next()
            await writing
            self._account(message)
            message = following

    def _take_next(self) -> _Message | None:
        """Of the send whose turn it is; short words go first."""
        if self._words:
            return _Message(self._words.popleft())
        while self._turns:
            sending = self._turns.popleft()
            if sending.pieces.is_empty():  # given up, or failed
                continue
            raw, pieces, size = sending.pieces.take()
            if sending.pieces.is_empty():
                return _Message(raw, pieces, size, sending)
            self._turns.append(sending)
            return _Message(raw, pieces, size)
        return None

    def _account(self, message: _Message) -> None:
        self.statistics.pieces_sent += message.pieces
        self.statistics.bytes_sent += message.bytes
        if message.ends is not None and not message.ends.over.done():
            message.ends.over.set_result(None)


def _raise_bug(task: asyncio.Task[None]) -> None:
    """A bug in here is told as asyncio tells of those in tasks that nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": "a data channel died of a bug", "exception": error, "task": task}
        task.get_loop().call_exception_handler(context)
