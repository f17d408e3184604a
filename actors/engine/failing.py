"""Where a request of the blocking client ends, whatever ends it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Failing:
    """A block of which an error goes to `settle` and no further; a cancellation passes through.

    This is where a request ends, so also a bug in one (a TypeError, say) must not reach the task group: that would
    end the thread, and with it every request of the engine.
    """

    __slots__ = ("_settle",)

    def __init__(self, settle: Callable[[Exception], None]) -> None:
        self._settle = settle

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._settle(error)
        return True
