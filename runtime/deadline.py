"""The deadline travels: set once at the outermost ask, inherited by every ask made on its behalf.

A deadline is a point on the running loop's monotonic clock, in seconds. Inside a handler it is the
deadline of the message being served. Where a request enters the process (a gRPC call, a command
line), `deadline_within` sets it.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token

from penstock.runtime.errors import DeadlineExceeded

INHERITED: ContextVar[float] = ContextVar("penstock_deadline", default=math.inf)


class MissingDeadline(RuntimeError):
    """Your bug: an outermost ask was made without `within=`. Every wait has a deadline."""


def deadline_within(seconds: float | None) -> AbstractContextManager[None]:
    """Give every ask made inside the block at most `seconds` from now.

    `seconds` is what a gRPC context calls `time_remaining()`: None means that the client set no
    deadline, and changes nothing. A deadline that is already inherited is never moved further away.
    """
    if seconds is None:
        return nullcontext()
    return deadline_at(asyncio.get_running_loop().time() + seconds)


def deadline_at(deadline: float) -> AbstractContextManager[None]:
    """As `deadline_within`, from a point on the loop's clock."""
    return _Inheriting(deadline)


class _Inheriting:
    """A class: every request enters one, and as a generator it would cost several times as much."""

    __slots__ = ("_deadline", "_token")

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._token: Token[float] = INHERITED.set(min(INHERITED.get(), self._deadline))

    def __exit__(self, *_: object) -> None:
        INHERITED.reset(self._token)


def time_left(*, at_most: float = math.inf) -> float:
    """Seconds until the inherited deadline, not below 0 and not above `at_most`; inf if there is
    none.

    This is the `timeout=` of an outgoing gRPC call, so that the next process inherits it too.
    """
    inherited = INHERITED.get()
    if inherited == math.inf:
        return at_most
    return max(0.0, min(inherited - asyncio.get_running_loop().time(), at_most))


def deadline_of(now: float, within: float) -> float:
    """The earlier of the inherited deadline and `within` seconds from `now`.

    Raises MissingDeadline if there is neither, DeadlineExceeded if it has passed already.
    """
    deadline = min(INHERITED.get(), now + within)
    if deadline == math.inf:
        raise MissingDeadline("every wait has a deadline: say within= or set deadline_within()")
    if deadline <= now:
        raise DeadlineExceeded("the time was up before the message was sent")
    return deadline
