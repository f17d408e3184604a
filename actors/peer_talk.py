"""The stream of one link, from either end: one task reads it, one writes it, and one watches the clock for it.

None of them belongs to a request: gRPC ends a call whose read is given up. What is to be written waits in a short
queue; a peer that does not even read heartbeats has lost the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
from anyio import create_task_group

from penstock.actors.core.link_session import DialerSession, ListenerSession
from penstock.actors.core.link_words import Over, Refusal
from penstock.actors.peer_codec import NotOurs
from penstock.runtime.errors import PenstockError

WAITING_MAX = 8  # messages


class Talk:
    """`heard` takes each message, and may `say` something; it raises NotOurs for one that is none."""

    def __init__(
        self,
        session: DialerSession | ListenerSession,
        *,
        read: Callable[[], Awaitable[bytes | None]],
        write: Callable[[bytes], Awaitable[None]],
        heard: Callable[[bytes], None],
        beat: Callable[[int], bytes],
    ) -> None:
        """`read` gives None at the stream's end; it and `write` raise PenstockError when it broke."""
        self._session = session
        self._read_next = read
        self._write_next = write
        self._heard = heard
        self._beat = beat
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)
        self._news = asyncio.Event()

    def say(self, raw: bytes) -> None:
        try:
            self._waiting.put_nowait(raw)
        except asyncio.QueueFull:
            self.end(Refusal.SILENT, "it does not read what it is sent")

    def end(self, refusal: Refusal, reason: str) -> None:
        self._session.end(refusal, reason)
        self._news.set()

    async def run(self) -> Over:
        """Until the session is over; what was said by then has been written, if the other side reads it soon."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._read, name="read link")
            tasks.start_soon(self._write, name="write link")
            await self._watch_clock()
            tasks.cancel_scope.cancel()
        assert self._session.over is not None
        return self._session.over

    async def _watch_clock(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            number = self._session.tick(loop.time())
            if number is not None:
                self.say(self._beat(number))
            if self._session.over is not None:
                return
            self._news.clear()
            with anyio.move_on_after(max(0.0, self._session.wakes_s - loop.time())):
                await self._news.wait()

    async def _read(self) -> None:
        while True:
            try:
                raw = await self._read_next()
                if raw is None:
                    self.end(Refusal.ENDED, "the other side has ended it")
                    return
                self._heard(raw)
                self._news.set()  # what was heard may be due to be followed sooner than was known
            except NotOurs as strange:
                self.end(Refusal.MALFORMED, str(strange))
            except PenstockError as broken:
                self.end(Refusal.ENDED, str(broken))
            if self._session.over is not None:
                self._news.set()
                return

    async def _write(self) -> None:
        try:
            while True:
                await self._write_next(await self._waiting.get())
        except PenstockError as broken:
            self.end(Refusal.ENDED, str(broken))
