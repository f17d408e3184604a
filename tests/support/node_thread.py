"""A scripted node on a thread and loop of its own, for clients that block theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


class NodeThread:
    """A scripted node, on the thread while it is entered."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: anyio.run(self._serve))

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.node.serving():
            self._up.set()
            await self._stop.wait()

    def __enter__(self) -> NodeThread:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the node on its loop and give its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(5)

    def hold(self, kind: str) -> None:
        self.node.hold(kind)
