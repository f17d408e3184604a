"""A coroutine that is begun in one task and carried on in another.

    write = Begun(stream.write(message))        # in the step that made the message
    ...
    await write                                 # in the task that waits for such things

What a coroutine does before its first wait is then done without a turn of the loop; only the wait is left to the other
task. Python 3.12 has eager tasks for this; here no task is made at all.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any


class Begun(Generator[Any, Any, None]):
    """Runs `coroutine` up to its first wait, here and now; whoever awaits this once carries it on.

    Raises at once what the coroutine raises before its first wait. Close it if it will not be awaited.
    """

    __slots__ = ("_coroutine", "_error", "_is_over", "_is_taken_over", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._is_over = self._is_taken_over = False
        self._error: BaseException | None = None  # for whoever awaits this
        self._waits_for: Any = None  # what the event loop is to wait for, from a bare yield: None
        self._run()

    def _run(self) -> None:
        try:
            self._waits_for = self._coroutine.send(None)
        except StopIteration:
            self._is_over = True

    def __await__(self) -> Generator[Any, Any, None]:
        return self

    def send(self, value: Any, /) -> Any:
        """The awaiting task's next step."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._is_over:
            raise StopIteration
        if not self._is_taken_over:
            self._is_taken_over = True
            return self._waits_for
        return self._coroutine.send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: object = None,
        trace: TracebackType | None = None,
        /,
    ) -> Any:
        """The awaiting task is cancelled. (Only `kind` is ever given: an exception.)"""
        assert isinstance(kind, BaseException), "asyncio throws exceptions, not classes"
        return self._coroutine.throw(kind)

    def close(self) -> None:
        """End the coroutine where it stands. Idempotent."""
        self._coroutine.close()


class BegunForAnother(Begun):
    """Of a step that has no part in it: an error before the first wait, too, is raised to whoever awaits this."""

    __slots__ = ()

    def _run(self) -> None:
        keeping = _Keeping()
        with keeping:
            super()._run()
        self._error = keeping.error


class _Keeping:
    """Around what may raise to somebody else."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        if isinstance(error, Exception | CancelledError):
            self.error = error
        return self.error is not None


class TurnShare:
    """So many of something may be done at once in one turn of the loop; the others are left to turns of their own."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._left = count_max

    def take(self) -> bool:
        """False: this turn has had them all."""
        if self._left == self._count_max:
            asyncio.get_running_loop().call_soon(self._renew)
        if self._left == 0:
            return False
        self._left -= 1
        return True

    def _renew(self) -> None:
        self._left = self._count_max
