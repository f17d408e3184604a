"""Calls of `pd.proto` on either end: words on one side, bytes of a stream on the other; one reader, one writer.

What does not fit into an outbox ends its call: words are said again on the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from anyio import create_task_group

from penstock.actors.api import pd, pd_streams
from penstock.actors.api.pd_wire import Word
from penstock.actors.api.peers import ByteStream, PeerLink, ServedLink, StreamHandler
from penstock.actors.pd_codec import decoded, encoded
from penstock.runtime.channel import Connection
from penstock.runtime.errors import ActorStopped, MailboxFull, PenstockError
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref
from penstock.runtime.units import MIB

METHOD = "/penstock.v1.Pd/Transfer"
OUTBOX_BYTES_MAX = 16 * MIB  # words that wait for one call to take them


class Outbox:
    """What one call is still to say."""

    def __init__(self, *, bytes_max: int = OUTBOX_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of all that wait, <= bytes_max
        self._changed = asyncio.Event()
        self.is_over = False

    def say(self, word: Word) -> None:
        """Unless the call is over, or takes too little of what it is told: then it is."""
        if self.is_over:
            return
        data = encoded(word)
        if self._bytes + len(data) > self._bytes_max:
            self.end()
            return
        self._waiting.append(data)
        self._bytes += len(data)
        self._changed.set()

    def end(self) -> None:
        """Nothing more is said."""
        self.is_over = True
        self._waiting.clear()
        self._bytes = 0
        self._changed.set()

    async def write_all(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Until it has ended. Raises what `write` raises."""
        while not self.is_over:
            while self._waiting:
                data = self._waiting.popleft()
                self._bytes -= len(data)
                await write(data)
            self._changed.clear()
            if not self.is_over and not self._waiting:
                await self._changed.wait()


class ServedStream:
    """One call, as the receiver sees it."""

    def __init__(self, node_id: str, connection: Connection) -> None:
        self._node_id = node_id
        self._connection = connection
        self.outbox = Outbox()

    @property
    def node_id(self) -> str:
        return self._node_id

    @property
    def connection(self) -> Connection:
        return self._connection

    def say(self, word: Word) -> None:
        self.outbox.say(word)


def transfer_handler(receiver: Ref[pd.PdReceiver], *, within_s: float) -> StreamHandler:
    """Serves METHOD. `within_s`: for the link's data connection to be there, and for room in the receiver's mailbox."""

    async def serve(link: ServedLink, calls: ByteStream) -> None:
        stream = ServedStream(link.node_id, await link.connection(within=within_s))
        refused: Exception | None = None
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(_write, stream.outbox, calls, tasks.cancel_scope.cancel)
                while (data := await calls.read()) is not None:
                    heard = pd_streams.Heard(stream, decoded(data))
                    await receiver.tell(heard, within=within_s)
                tasks.cancel_scope.cancel()
        except* PenstockError as refusals:
            refused = refusals.exceptions[0]
        finally:
            stream.outbox.end()
            with suppress(MailboxFull, ActorStopped):
                receiver.tell_nowait(pd_streams.StreamOver(stream))
        if refused is not None:
            raise refused

    return serve


async def _write(outbox: Outbox, calls: ByteStream, cancel: Callable[[], None]) -> None:
    await outbox.write_all(calls.write)
    cancel()  # it has ended by itself


class LinkStream:
    """The call that a sender makes on one link. Made anew as often as it is lost while the link lives."""

    def __init__(self, link: PeerLink, heard: Callable[[Word], None]) -> None:
        """`heard` is called in steps of the loop."""
        self._link = link
        self._heard = heard
        self._outbox: Outbox | None = None  # while there is a call
        self._log = Log("pd_sender")

    def say(self, word: Word) -> None:
        """Nothing, while there is no call: it is said again when there is."""
        if self._outbox is not None:
            self._outbox.say(word)

    async def serve(self, began: Callable[[], None]) -> None:
        """One call, until it is lost. `began` is called once it takes words."""
        outbox = Outbox()
        try:
            call = self._link.stream(METHOD)
            try:
                async with create_task_group() as tasks:
                    self._outbox = outbox
                    tasks.start_soon(_write, outbox, call, tasks.cancel_scope.cancel)
                    began()
                    while (data := await call.read()) is not None:
                        self._heard(decoded(data))
                    tasks.cancel_scope.cancel()
            finally:
                self._outbox = None
                call.cancel()
        except* PenstockError as refusals:
            reason = str(refusals.exceptions[0])
            self._log.info("pd_stream_lost", node=self._link.node_id, reason=reason)
