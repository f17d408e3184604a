"""Work that goes on when who waits for it gives up, for it is of use to the next one who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from penstock.runtime.errors import PenstockError

Result = TypeVar("Result")


class Background(Generic[Result]):
    """At most one such piece of work at a time: whoever asks meanwhile waits for the same. Belongs to the loop."""

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, Result]],
        closed: Callable[[str], PenstockError],
    ) -> None:
        """`work` bounds its own time. `closed` makes what those hear who wait when it is closed."""
        self._work = work
        self._closed = closed
        self._task: asyncio.Task[Result] | None = None
        self.waiting = 0

    async def result(self) -> Result:
        """Of the work that is under way, or begins now. Raises what it raises, or `closed`."""
        task = self._task
        if task is None:
            task = self._task = asyncio.create_task(self._work())
            task.add_done_callback(self._over)
        self.waiting += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if task.cancelled() and me is not None and not me.cancelling():
                raise self._closed("it was closed meanwhile") from None
            raise
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    def _over(self, task: asyncio.Task[Result]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # heard, also where nobody waits
