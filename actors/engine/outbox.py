"""What a session still has to send, in which order, and how much of it may be unanswered.

Three lanes, served in this order:

    heartbeat   at most one; does not count as unanswered
    last word   Release, Abort, Cancel: each ends one ticket or lease and has its place from the moment that was
                granted, so it never waits for room: giving up at any line leaks nothing. Bound: the node's
                leases_max + tickets_max, plus the requests given up while under way (<= inflight_max).
    ordinary    everything else; bounded by outgoing_max, callers wait for room under their deadline
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from anyio import Semaphore, WouldBlock, move_on_after

from penstock.protos import engine_pb2
from penstock.runtime.errors import DeadlineExceeded

Accept = Callable[[engine_pb2.SessionReply], Any]
Undo = Callable[[Any], None]


class Lane(Enum):
    LAST_WORD = "ends a ticket or a lease; never waits for room"
    ORDINARY = "waits for room under its deadline"


class Request:
    """One request on its way.

    QUEUED --taken by the writer--> SENT --reply--> settled
      | given up: never sent          | given up: the reply is accepted and undone when it comes
    """

    __slots__ = ("accept", "correlation_id", "lane", "payload", "reply", "undo")

    def __init__(
        self,
        correlation_id: int,
        payload: bytes,
        lane: Lane,
        *,
        accept: Accept | None = None,
        undo: Undo | None = None,
        reply: asyncio.Future[Any] | None = None,
    ) -> None:
        self.correlation_id = correlation_id
        self.payload: bytes | None = payload  # None once it was taken, or given up before that
        self.lane = lane
        self.accept = accept  # makes the result out of the reply, in the reader's own step
        self.undo = undo  # takes back a result that nobody waits for any more
        self.reply = reply  # None: nobody waits

    @property
    def is_queued(self) -> bool:
        return self.payload is not None


class Outbox:
    """The queue between those who ask and the one task that writes."""

    def __init__(self, *, outgoing_max: int) -> None:
        self._outgoing_max = outgoing_max
        self._room = Semaphore(outgoing_max, fast_acquire=True)
        self._heartbeat: bytes | None = None
        self._lanes: dict[Lane, deque[Request]] = {lane: deque() for lane in Lane}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Requests that wait to be sent, those given up meanwhile included."""
        return sum(len(lane) for lane in self._lanes.values())

    async def wait_room(self, *, within: float) -> None:
        """Take a place in the ordinary lane; `put` or `leave_room` gives it meaning or back.

        Raises DeadlineExceeded after `within` seconds.
        """
        try:
            self._room.acquire_nowait()
        except WouldBlock:
            with move_on_after(within) as scope:
                await self._room.acquire()
            if scope.cancelled_caught:
                raise DeadlineExceeded(
                    f"{self._outgoing_max} requests wait to be sent and none left within {within:.3f} s"
                ) from None

    def leave_room(self) -> None:
        """Give back a place that was taken and not used."""
        self._room.release()

    def put(self, request: Request) -> None:
        """Queue `request`; the caller of an ordinary one holds a place."""
        self._lanes[request.lane].append(request)
        self._changed.set()

    def put_heartbeat(self, payload: bytes) -> None:
        """Send `payload` before anything else. One that still waits is replaced."""
        self._heartbeat = payload
        self._changed.set()

    def take_heartbeat(self) -> bytes | None:
        payload, self._heartbeat = self._heartbeat, None
        return payload

    def take(self) -> Request | None:
        """The next request to send, or None. Skips what was given up."""
        for lane, queue in self._lanes.items():
            while queue:
                request = queue.popleft()
                if lane is Lane.ORDINARY:
                    self._room.release()
                if request.is_queued:
                    return request
        return None

    def wake(self) -> None:
        """Have the writer look again: something else than the queue has changed."""
        self._changed.set()

    async def wait_changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()
