"""Saves that nobody waits for any more, and that go on all the same: whoever comes later has the last word."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


class GivenUp:
    """By key of the object. Errors of what was given up are heard by nobody."""

    def __init__(self) -> None:
        self._keys: dict[asyncio.Future[Any], frozenset[bytes]] = {}

    def add(self, future: asyncio.Future[Any], *keys: bytes) -> None:
        """Remember that it may change these, until it is done."""
        if not future.done():
            self._keys[future] = frozenset(keys)
        future.add_done_callback(self._forget)

    async def after(self, keys: Collection[bytes]) -> None:
        """Wait until nothing that was given up may change these any more."""
        changed = frozenset(keys)
        await self._wait([one for one, its in self._keys.items() if not changed.isdisjoint(its)])

    async def after_all(self) -> None:
        await self._wait([*self._keys])

    async def _wait(self, futures: list[asyncio.Future[Any]]) -> None:
        if futures:
            await asyncio.wait(futures)

    def _forget(self, future: asyncio.Future[Any]) -> None:
        self._keys.pop(future, None)
        if not future.cancelled():
            future.exception()  # heard, so that the loop does not complain
