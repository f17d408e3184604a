"""A handle on an actor: tell it something, or ask it something under a deadline.

    leases = await l1.ask(Pin(keys), within=0.5)

An ask crosses the loop once each way: the handler runs in the actor's own task, and giving up the
ask at any moment (cancellation or deadline) cancels that handler. Only an actor whose handler cannot
wait and that has nothing to do is served from where the ask stands: a plain call, with the same
outcome two turns of the loop earlier.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anyio import create_task_group

from penstock.runtime.deadline import deadline_of
from penstock.runtime.errors import DeadlineExceeded, PenstockError
from penstock.runtime.mailbox import Mailbox, MailboxStatistics
from penstock.runtime.message import NOT_AT_ONCE, Envelope, Msg, NotAtOnce

To_co = TypeVar("To_co", covariant=True)
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Ref(Generic[To_co]):
    """A handle on an actor of class `To`.

    It names the mailbox, not the object behind it, and so survives restarts.
    """

    mailbox: Mailbox

    @classmethod
    def to(cls, actor: type[To_co], name: str, *, messages_max: int) -> Ref[To_co]:
        """A new mailbox for an `actor`; the composition root makes one for each of its actors."""
        return Ref(Mailbox(name, messages_max=messages_max))

    @property
    def name(self) -> str:
        return self.mailbox.name

    def statistics(self) -> MailboxStatistics:
        return self.mailbox.statistics()

    def tell_nowait(self, msg: Msg[To_co, None]) -> None:
        """Leave a message, now. Raises MailboxFull or ActorStopped."""
        self.mailbox.put_nowait(Envelope(msg, math.inf, None))

    async def tell(self, msg: Msg[To_co, None], *, within: float = math.inf) -> None:
        """Leave a message: wait for room, not for the work.

        Raises DeadlineExceeded, ActorStopped, and MissingDeadline as `ask` does.
        """
        loop = asyncio.get_running_loop()
        deadline = deadline_of(loop.time(), within)
        envelope = Envelope(msg, math.inf, None)
        if not self.mailbox.put(envelope):
            envelope.room = loop.create_future()
            await self._wait(envelope.room, envelope, deadline)

    async def ask(self, msg: Msg[To_co, R], *, within: float = math.inf) -> R:
        """Wait for room, then for the answer.

        At most `within` seconds, and never past the inherited deadline. Raises whatever
        PenstockError the actor answers with; DeadlineExceeded; ActorCrashed if it dies of a bug
        meanwhile; ActorStopped. MissingDeadline, if neither `within` nor an inherited deadline
        bounds the wait, is the caller's bug.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = deadline_of(now, within)
        if now < deadline:
            answered: R | NotAtOnce = self.mailbox.serve_at_once(msg)
            if answered is not NOT_AT_ONCE:
                return answered
        reply: asyncio.Future[R] = loop.create_future()
        envelope = Envelope(msg, deadline, reply)
        self.mailbox.put(envelope)
        try:
            return await self._wait(reply, envelope, deadline)
        finally:
            # An error knows this frame, and the reply knows the error: a circle that would keep the message, and
            # whatever lease it holds, until the collector comes by.
            del msg, reply, envelope

    def ask_now(self, msg: Msg[To_co, R]) -> R | NotAtOnce:
        """The answer in this very step, from an actor that has nothing to do and need not wait for anything.

        NOT_AT_ONCE otherwise: then nothing has happened, and `ask` is the way. Raises what the actor answers with of
        PenstockErrors, and ActorCrashed.
        """
        answered: R | NotAtOnce = self.mailbox.serve_at_once(msg)
        return answered

    async def _wait(self, future: asyncio.Future[R], envelope: Envelope, deadline: float) -> R:
        """Wait for the actor's side to settle `future`; leave nothing behind however the wait ends."""
        timer = future.get_loop().call_at(deadline, self._expire, future, envelope)
        try:
            return await future
        finally:
            timer.cancel()
            self.mailbox.withdraw(envelope)
            del future, envelope  # as in `ask`

    def _expire(self, future: asyncio.Future[Any], envelope: Envelope) -> None:
        if not future.done():
            what, where = type(envelope.msg).__name__, self.mailbox.place_of(envelope)
            future.set_exception(DeadlineExceeded(f"{self.name}: {what} out of time, {where}"))


async def gather_asks(asks: Iterable[Awaitable[R]]) -> list[R | PenstockError]:
    """Await all of `asks` concurrently; each entry is the answer or the PenstockError it got, in
    their order.

    One that fails does not disturb the others. Giving up cancels them all.
    """
    waiting = list(asks)
    answers: list[R | PenstockError] = [PenstockError("not answered")] * len(waiting)

    async def settle(index: int, ask: Awaitable[R]) -> None:
        try:
            answers[index] = await ask
        except PenstockError as error:
            answers[index] = error

    async with create_task_group() as group:
        for index, ask in enumerate(waiting):
            group.start_soon(settle, index, ask, name=f"ask {index}")
    return answers
