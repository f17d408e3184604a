"""When a tier that is never worth its load is measured again all the same. Pure: the clock is passed in, in seconds.

A tier's speed is known from its use. One that was slow once is not used, and so would count as slow for ever.
"""

from __future__ import annotations


class Probes:
    """Of the tiers of one prefetcher, by their numbers."""

    def __init__(self, every_s: float) -> None:
        """One probe of each tier in so many seconds."""
        self._every_s = every_s
        self._due_s: dict[int, float] = {}  # of tiers that were found slow

    def take(self, tier: int, now_s: float) -> bool:
        """The tier is to be left out; whether it is to be used this once."""
        due_s = self._due_s.setdefault(tier, now_s + self._every_s)
        if now_s < due_s:
            return False
        self._due_s[tier] = now_s + self._every_s
        return True
