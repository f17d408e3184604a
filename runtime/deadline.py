"""The deadline travels: set once at the outermost ask, inherited by every ask made on its behalf.

A deadline is a point on the running loop's monotonic clock, in seconds. Inside a handler it is the
deadline of the message being served. Where a request enters the process (a gRPC call, a command
line), `deadline_within` sets it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from penstock.runtime.errors import DeadlineExceeded

INHERITED: ContextVar[float] = ContextVar("penstock_deadline", default=math.inf)


class MissingDeadline(RuntimeError):
    """Your bug: an outermost ask was made without `within=`. Every wait has a deadline."""


@contextmanager
def deadline_within(seconds: float | None) -> Iterator[None]:
    """Give every ask made inside the block at most `seconds` from now.

    `seconds` is what a gRPC context calls `time_remaining()`: None means that the client set no
    deadline, and changes nothing. A deadline that is already inherited is never moved further away.
    """
    if seconds is None:
        yield
        return
    token = INHERITED.set(min(INHERITED.get(), asyncio.get_running_loop().time() + seconds))
    try:
        yield
    finally:
        INHERITED.reset(token)


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
