"""How often something is tried again, and how long one waits before: full jitter, bounded, within the deadline.

The n-th pause is drawn evenly from 0 to min(pause_s_max, pause_s * 2**n), after M. Brooker, "Exponential Backoff And
Jitter" (AWS Architecture Blog, 2015): those who failed together do not come back together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryLimits:
    attempts_max: int  # the first one included, >= 1
    pause_s: float = 0.02  # bound of the first pause
    pause_s_max: float = 1.0


class Attempts:
    """Those of one operation. `draw` gives a random number from 0 to 1."""

    def __init__(self, limits: RetryLimits, draw: Callable[[], float]) -> None:
        assert limits.attempts_max >= 1, limits
        self._limits = limits
        self._draw = draw
        self.made = 0  # <= attempts_max

    def begin(self) -> None:
        """One more is made."""
        assert self.made < self._limits.attempts_max, "it was not to be tried again"
        self.made += 1

    def pause_s(self, left_s: float) -> float | None:
        """How long to wait before the next attempt; None: there is none, as the attempts are used up or the pause
        would outlast the `left_s` seconds that are left."""
        if self.made >= self._limits.attempts_max:
            return None
        bound = min(self._limits.pause_s_max, self._limits.pause_s * 2.0 ** (self.made - 1))
        pause = bound * self._draw()
        return pause if pause < left_s else None
