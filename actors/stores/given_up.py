"""Saves that nobody waits for any more, and that go on all the same: whoever comes later has the last word."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


class GivenUp:
    """By key of the object. Errors of what was given up are heard by nobody."""

    def __init__(self) -> None:
        self._keys: dict[asyncio.Future[Any], bytes] = {}

    def add(self, future: asyncio.Future[Any], key: bytes) -> None:
        """Remember until it is done, if it is not."""
        if not future.done():
            self._keys[future] = key
        future.add_done_callback(self._forget)

    async def after(self, keys: Collection[bytes]) -> None:
        """Wait until nothing that was given up may change these any more."""
        await self._wait([future for future, key in self._keys.items() if key in keys])

    async def after_all(self) -> None:
        await self._wait([*self._keys])

    async def _wait(self, futures: list[asyncio.Future[Any]]) -> None:
        if futures:
            await asyncio.wait(futures)

    def _forget(self, future: asyncio.Future[Any]) -> None:
        self._keys.pop(future, None)
        if not future.cancelled():
            future.exception()  # heard, so that the loop does not complain
