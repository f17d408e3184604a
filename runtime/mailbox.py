"""A bounded mailbox: what waits for one actor, and who waits for room in it.

It outlives the actor behind it. A message is in exactly one place:

    line ----room----> queue ----take()----> serving ----done()----> gone
      |                  |                      |
      '- gave up: gone   '- gave up: skipped    '- gave up: handler cancelled

`line` holds one entry per suspended caller, so it is bounded by the callers; `queue` is bounded by
`messages_max`. Everything here is synchronous and belongs to the loop thread.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from penstock.runtime.errors import ActorCrashed, ActorStopped, MailboxFull, PenstockError
from penstock.runtime.log import Log
from penstock.runtime.message import NOT_AT_ONCE, Envelope

Receive: TypeAlias = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """A snapshot of one mailbox.

    Counts are since the mailbox was made, restarts of the actor included.
    """

    queued: int  # <= queued_max
    queued_max: int
    queued_peak: int
    waiting: int  # callers suspended until there is room
    serving: int  # taken by the actor and not finished
    accepted_total: int
    refused_total: int  # MailboxFull and ActorStopped
    abandoned_total: int  # given up by the asker before the answer


class Mailbox:
    """The bounded queue of one actor; its name is the actor's name in errors, logs and metrics."""

    def __init__(self, name: str, *, messages_max: int) -> None:
        if messages_max < 1:
            raise ValueError(f"{name}: messages_max must be at least 1, not {messages_max}")
        self.name = name
        self.log = Log(name)
        self.messages_max = messages_max
        self.queue: deque[Envelope] = deque()  # len(queue) <= messages_max
        self.serving: dict[
            Envelope, None
        ] = {}  # insertion order, so that crashes are told in order
        self._line: dict[Envelope, None] = {}  # not empty only while the queue is full
        self._getter: asyncio.Future[None] | None = None
        self._at_once: Receive | None = None  # set while the actor is idle
        self._is_closed = False
        self._queued_peak = 0
        self._accepted_total = 0
        self._refused_total = 0
        self._abandoned_total = 0

    @property
    def is_closed(self) -> bool:
        """Whether new messages are refused."""
        return self._is_closed

    def statistics(self) -> MailboxStatistics:
        return MailboxStatistics(
            queued=len(self.queue),
            queued_max=self.messages_max,
            queued_peak=self._queued_peak,
            waiting=len(self._line),
            serving=len(self.serving),
            accepted_total=self._accepted_total,
            refused_total=self._refused_total,
            abandoned_total=self._abandoned_total,
        )

    # The sending side, used by Ref.

    def put_nowait(self, envelope: Envelope) -> None:
        """Queue the message now. Raises MailboxFull or ActorStopped."""
        if self._is_closed:
            raise self._refusal()
        if len(self.queue) >= self.messages_max:
            self._refused_total += 1
            raise MailboxFull(f"{self.name}: {self.messages_max} messages are waiting already")
        self._accept(envelope)

    def put(self, envelope: Envelope) -> bool:
        """Queue the message (True), or stand it in line until there is room.

        Raises ActorStopped.
        """
        if self._is_closed:
            raise self._refusal()
        if len(self.queue) < self.messages_max:
            self._accept(envelope)
            return True
        self._line[envelope] = None
        return False

    def withdraw(self, envelope: Envelope) -> None:
        """The caller stopped waiting: out of the line, skipped in the queue, cancelled if served."""
        if envelope in self._line:
            del self._line[envelope]
            self._abandoned_total += 1
        elif envelope.scope is not None:
            envelope.scope.cancel("the asker gave up")
            self._abandoned_total += 1

    def place_of(self, envelope: Envelope) -> str:
        """Where the message is, in words: for the text of DeadlineExceeded."""
        if envelope in self._line:
            return f"waiting for room behind {len(self.queue)} messages"
        if envelope in self.serving:
            return "being served"
        return f"queued, {len(self.queue)} messages in the mailbox"

    # The receiving side, used by the actor.

    async def wait_message(self, at_once: Receive | None = None) -> bool:
        """Wait until a message is queued; False when the mailbox is closed and empty.

        Meanwhile `at_once` serves asks in the asker's own step (see `serve_at_once`); what is no
        PenstockError there is raised here.
        """
        while not self.queue:
            if self._is_closed:
                return False
            assert self._getter is None, f"{self.name}: two readers on one mailbox"
            self._getter = asyncio.get_running_loop().create_future()
            self._at_once = at_once
            try:
                await self._getter
            finally:
                self._getter = self._at_once = None
        return True

    def serve_at_once(self, msg: Any) -> Any:
        """Serve an ask here and now, if the actor waits for a message and could have served this one by now: the same
        outcome, two turns of the loop earlier.

        NOT_AT_ONCE if it does not, or its handler would have to wait for something; then nothing has happened.

        Raises what the handler raises of PenstockErrors. Anything else is the actor's death, as ever: it is raised in
        the actor's task, and the asker hears ActorCrashed.
        """
        receive = self._at_once
        if receive is None or self.queue or self._is_closed:
            return NOT_AT_ONCE
        self._at_once = None  # its handler may not ask itself
        is_alive = False
        try:
            result = receive(msg)
            is_alive = True
        except PenstockError:
            is_alive = True
            raise
        finally:  # a context manager would cost as much as the rest of this
            if is_alive:
                self._at_once = receive
            else:
                self._died_at_once(sys.exception())
        self._accepted_total += result is not NOT_AT_ONCE
        return result

    def take(self) -> Envelope | None:
        """Take the next message that somebody still wants; None if there is none."""
        while self.queue:
            envelope = self.queue.popleft()
            if self._line:
                self._admit_next()
            if envelope.is_abandoned:
                self._abandoned_total += 1
                continue
            self.serving[envelope] = None
            return envelope
        return None

    def done(self, envelope: Envelope) -> None:
        """The handler of `envelope` has finished: maybe after its asker was told that the actor was left behind."""
        self.serving.pop(envelope, None)

    def _died_at_once(self, bug: BaseException | None) -> None:
        """Of a handler that was called in its asker's step."""
        assert bug is not None
        assert self._getter is not None, f"{self.name}: nobody waits for messages"
        if not self._getter.done():
            self._getter.set_exception(bug)
        if isinstance(bug, Exception):
            raise ActorCrashed(f"{self.name} died of {bug!r}") from bug

    # The life of the actor, used by actor.py and the supervisor.

    def close(self) -> None:
        """Take no more messages; what is queued is still served. Idempotent."""
        self._is_closed = True
        for envelope in self._line:
            self._turn_away(envelope, self._stopped())
        self._line.clear()
        self._wake_getter()

    def fail_asks(self, error: Callable[[], PenstockError]) -> None:
        """The actor died: whoever asked, served or queued, hears of it. Tells stay for the next
        one.

        Everyone gets an `error()` of their own, since raising one writes into it.
        """
        wounded = [*self.serving, *self.queue]
        self.serving.clear()
        self.queue = deque(envelope for envelope in self.queue if envelope.reply is None)
        for envelope in wounded:
            envelope.scope = None  # its handler has ended
            envelope.fail(error())
        while self._line and len(self.queue) < self.messages_max:
            self._admit_next()

    def discard(self) -> None:
        """Close, and tell everyone who still waits that the actor is gone for good."""
        self.close()
        self.fail_asks(self._stopped)
        self.queue.clear()

    # Inside.

    def _accept(self, envelope: Envelope) -> None:
        self.queue.append(envelope)
        self._accepted_total += 1
        self._queued_peak = max(self._queued_peak, len(self.queue))
        if self._getter is not None:
            self._wake_getter()

    def _wake_getter(self) -> None:
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)

    def _admit_next(self) -> None:
        """Move the first in line into the queue; the caller has made sure of room."""
        envelope = next(iter(self._line))
        del self._line[envelope]
        self._accept(envelope)
        if envelope.room is not None and not envelope.room.done():
            envelope.room.set_result(None)

    def _turn_away(self, envelope: Envelope, error: PenstockError) -> None:
        self._refused_total += 1
        if envelope.room is not None and not envelope.room.done():
            envelope.room.set_exception(error)
        envelope.fail(error)

    def _refusal(self) -> ActorStopped:
        self._refused_total += 1
        return self._stopped()

    def _stopped(self) -> ActorStopped:
        return ActorStopped(f"{self.name}: stopped, takes no messages")
