"""Asking a store that is asked for one object at a time what it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from penstock.actors.api.store import Keys
from penstock.actors.stores.together import in_time
from penstock.runtime.deadline import time_left

SHARE = 0.8
"""Of the time there is. The rest is for the answer: what comes too late is not heard at all."""


async def locate(
    is_there: Callable[[bytes], Awaitable[bool]], keys: Keys, *, at_once: int, within_s: float
) -> bytes:
    """One byte per key; 0 where it is not known in time. They are asked for in their order, `at_once` at a time.

    That there is too little time for so many keys is no failure of the store. One that answers nothing is waited for
    until whoever asked gives up.
    """
    found = bytearray(len(keys))

    async def ask(at: int) -> None:
        found[at] = await is_there(keys[at])

    within_s = SHARE * time_left(at_most=within_s)
    await in_time(ask, range(len(keys)), at_once=at_once, within_s=within_s)
    return bytes(found)
