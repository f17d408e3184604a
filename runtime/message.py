"""Messages: frozen values, addressed to an actor class and answered with a type.

    @dataclass(frozen=True, slots=True)
    class Pin(Msg["L1Manager", Leases]):
        keys: Keys

A message carries names and batches, never the bytes of an object. Commands are imperative (`Pin`),
events are in the past tense (`Evicted`) and have the reply type None.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any, Generic, TypeVar

from anyio import CancelScope

from penstock.runtime.errors import PenstockError

To_contra = TypeVar("To_contra", contravariant=True)  # who takes all of a kind takes one kind of it
R = TypeVar("R")


class NotAtOnce(enum.Enum):
    """In the place of an answer."""

    NOT_AT_ONCE = "that needs waiting: ask"


NOT_AT_ONCE = NotAtOnce.NOT_AT_ONCE


class Msg(Generic[To_contra, R]):
    """Base of all messages: addressed to actor class `To`, answered with an `R` (None: nothing to
    say).
    """

    __slots__ = ()


def answer(msg: Msg[Any, R], value: R) -> R:
    """Return `value`; the use of it is that mypy rejects a reply of the wrong type for `msg`."""
    return value


class Envelope:
    """A message on its way: who waits for it, and how to call it off.

    `reply` is None for a tell. `room` is set while a tell waits for room. `scope` is set only while
    a handler that can be cancelled serves the message. All of it belongs to the loop thread.
    """

    __slots__ = ("deadline", "msg", "reply", "room", "scope")

    def __init__(
        self, msg: Msg[Any, Any], deadline: float, reply: asyncio.Future[Any] | None
    ) -> None:
        self.msg = msg
        self.deadline = deadline  # loop time; inf for a tell, whose handler begins on its own clock
        self.reply = reply
        self.room: asyncio.Future[None] | None = None
        self.scope: CancelScope | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether whoever asked has stopped waiting (gave up, ran out of time, or was told of a
        crash).
        """
        return self.reply is not None and self.reply.done()

    def settle(self, result: object) -> None:
        """Answer the asker, if there is one and it still waits."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(result)

    def fail(self, error: PenstockError) -> bool:
        """Answer with an error; False if nobody waits for it.

        The traceback is dropped: its frames would keep alive what the handler held, leases among
        it.
        """
        if self.reply is None or self.reply.done():
            return False
        self.reply.set_exception(error.with_traceback(None))
        return True
