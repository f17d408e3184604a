"""How fast a store loads now, from the loads that ended lately. Pure: the clock is passed in, in seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

REMEMBERED = 64
SMALL = 2  # a load of up to so many times the bytes of the smallest one is called small


@dataclass(frozen=True, slots=True)
class Timing:
    """A load under way; to be handed back when it has ended."""

    began_s: float
    moved_bytes: int  # by all loads before it began


@dataclass(frozen=True, slots=True)
class _Seen:
    bytes: int
    took_s: float
    bytes_per_s: float  # of all loads together while this one was under way


class Speedometer:
    def __init__(self) -> None:
        self._moved_bytes = 0
        self._seen: deque[_Seen] = deque(maxlen=REMEMBERED)

    def began(self, now_s: float) -> Timing:
        return Timing(now_s, self._moved_bytes)

    def ended(self, timing: Timing, now_s: float, moved_bytes: int) -> None:
        """`moved_bytes`: of this load. One that moved nothing says nothing."""
        self._moved_bytes += moved_bytes
        took_s = now_s - timing.began_s
        if moved_bytes and took_s > 0:
            rate = (self._moved_bytes - timing.moved_bytes) / took_s
            self._seen.append(_Seen(moved_bytes, took_s, rate))

    def latency_s(self) -> float:
        """Median of the small loads; 0: none was seen."""
        if not self._seen:
            return 0.0
        small = SMALL * min(one.bytes for one in self._seen)
        return median(one.took_s for one in self._seen if one.bytes <= small)

    def bytes_per_s(self) -> float:
        """Median; 0: none was seen."""
        return median(one.bytes_per_s for one in self._seen) if self._seen else 0.0
