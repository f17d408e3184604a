"""Waiting for what another process or task does, without a guess at how long it takes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

LOOK_S = 0.005  # between two looks; nothing depends on it but how soon a test goes on


async def eventually(look: Callable[[], Awaitable[T]], *, within: float, what: str) -> T:
    """Look until what is seen is true in a boolean sense, and return it.

    Raises AssertionError with the last thing seen when `within` seconds have passed.
    """
    deadline = time.monotonic() + within
    while not (seen := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}; last seen: {seen!r}")
        await anyio.sleep(LOOK_S)
    return seen


def eventually_sync(look: Callable[[], T], *, within: float, what: str) -> T:
    """The same without a loop."""
    deadline = time.monotonic() + within
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}; last seen: {seen!r}")
        time.sleep(LOOK_S)
    return seen
