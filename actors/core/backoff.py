"""When what failed is tried again: after pauses that double from one try to the next, until one works.

Each pause is drawn evenly from its second half: those who failed together do not come back together.
"""

from __future__ import annotations

import math
from collections.abc import Callable


class Backoff:
    """`draw` gives a random number from 0 to 1. Times are of one clock, in seconds."""

    def __init__(self, *, pause_s: float, pause_s_max: float, draw: Callable[[], float]) -> None:
        assert 0 < pause_s <= pause_s_max
        self._first_s = pause_s
        self._most_s = pause_s_max
        self._draw = draw
        self._pause_s = pause_s  # the next one, at most
        self._is_failing = False
        self.until_s = -math.inf  # the next try is not before

    def failed(self, now: float) -> None:
        """The next try is a pause away. What was begun before that pause fails within it, and makes it no longer."""
        self._is_failing = True
        self.tried(now)

    def tried(self, now: float) -> None:
        """One more try is made: while nothing has worked yet, the next one is a pause away."""
        if self._is_failing and now >= self.until_s:
            self.until_s = now + self._pause_s * (1 + self._draw()) / 2
            self._pause_s = min(2 * self._pause_s, self._most_s)

    def eased(self, now: float) -> None:
        """Something like it has worked: the next try is soon."""
        self._pause_s = self._first_s
        self.until_s = min(self.until_s, now + self._first_s)

    def over(self) -> None:
        """What had failed has worked: nothing has to wait."""
        self._pause_s = self._first_s
        self._is_failing = False
        self.until_s = -math.inf
