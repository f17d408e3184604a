"""A circuit breaker: whoever fails too often is left alone for a while, then tried once.

    CLOSED --too many failures--> OPEN --pause later--> HALF_OPEN --probe answered--> CLOSED
                                   ^                        |
                                   '------probe failed------'

Too many: `failures` of them within `window_s`, and at least half of all outcomes of that time, so that a busy store
is not given up for its share of errors. Outcomes are counted by what was tried: a store that says what it has and
gives out none of it is not held for a good one, and only what did not work is a probe of whether it works again.

A medium may be several places. What fails at one of them, or is not answered there, while others answer is no failure
of the store; what is not answered at several of them is, since nobody knows whose it was.

Whoever waited for too short a time to tell, by what the store usually takes, raises a doubt. `failures` of them without
an answer in between ask for an attempt with all the time: doubts count when that fails, and are forgotten when it is
answered.

The pause is `open_s`, and twice the one before, up to `open_s_max`, whenever a probe failed or it had been closed for
less than `window_s`. An outcome of an attempt that began before the latest opening or closing says nothing any more.
Pure: the clock is passed in, monotonic, in seconds.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

SLICES = 8  # of the window: outcomes are forgotten slice by slice
USUAL_TIMES = 2.0  # of what an answer usually takes: who waited for less cannot tell
ONE_PLACE = frozenset({0})
USUAL_KEPT = 0.9  # of the longest time an answer took, at each answer that took less


class BreakerState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Tried(enum.Enum):
    """What an attempt asks for."""

    NAMES = "names"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    failures: int  # >= 1
    window_s: float
    open_s: float
    open_s_max: float  # >= open_s


@dataclass(frozen=True, slots=True)
class Attempt:
    """Leave to try, to be handed back once with what came of it: `answered`, `failed` or `unheard`."""

    era: int
    tried: Tried
    began_s: float
    is_probe: bool


@dataclass(slots=True)
class _Slice:
    """Outcomes of one part of the window."""

    ends_s: float
    answered: Counter[Tried] = field(default_factory=Counter)
    failed: Counter[Tried] = field(default_factory=Counter)


class Breaker:
    def __init__(self, limits: BreakerLimits) -> None:
        assert limits.failures >= 1, limits
        assert limits.open_s <= limits.open_s_max, limits
        self._limits = limits
        self._state = BreakerState.CLOSED
        self._era = 0  # counts openings and closings
        self._opened_s = 0.0  # meaningful unless CLOSED
        self._pause_s = 0.0  # of the latest opening
        self._closed_s = float("-inf")  # when it last was closed again
        self._is_probing = False  # only when HALF_OPEN
        self._slices: deque[_Slice] = deque(maxlen=SLICES)  # oldest first; empty unless CLOSED
        self._answered_s = dict.fromkeys(Tried, float("-inf"))  # when anything last was
        self._places_s = {tried: dict[int, float]() for tried in Tried}  # those that answered last
        self._usual_s = dict.fromkeys(Tried, 0.0)  # how long answers take
        self._doubts: Counter[Tried] = Counter()  # since the latest answer; none unless CLOSED
        self.reason = ""  # of the latest opening
        self.broken = Tried.NAMES  # what did not work, at the latest opening
        self.openings = 0

    @property
    def state(self) -> BreakerState:
        return self._state

    def reopens_s(self) -> float:
        """When a probe may be tried; meaningful while OPEN."""
        return self._opened_s + self._pause_s

    @property
    def doubted(self) -> Tried | None:
        """What should be tried with all the time it may take; None: nothing."""
        doubted = [one for one in Tried if self._doubts[one] >= self._limits.failures]
        return doubted[-1] if doubted else None

    def admit(self, now_s: float, tried: Tried) -> Attempt | None:
        """Leave to try; None: not now. While it is not closed, who gets it is the probe."""
        if self._state is BreakerState.OPEN and now_s >= self.reopens_s():
            self._state = BreakerState.HALF_OPEN
        tells = tried is self.broken or tried is Tried.BYTES
        if self._state is BreakerState.HALF_OPEN and tells and not self._is_probing:
            self._is_probing = True
            return Attempt(self._era, tried, now_s, is_probe=True)
        return self.admit_in_haste(now_s, tried)

    def admit_in_haste(self, now_s: float, tried: Tried) -> Attempt | None:
        """The same for whoever has too little time to tell whether it works, and so is no probe."""
        if self._state is not BreakerState.CLOSED:
            return None
        return Attempt(self._era, tried, now_s, is_probe=False)

    def answered(self, attempt: Attempt, now_s: float, places: Collection[int] = ONE_PLACE) -> None:
        """It worked, or was refused with good reason, at these places."""
        tried = attempt.tried
        self._places_s[tried].update(dict.fromkeys(places, now_s))
        self._answered_s[tried] = now_s
        took_s = now_s - attempt.began_s
        self._usual_s[tried] = max(took_s, USUAL_KEPT * self._usual_s[tried])
        del self._doubts[tried]
        if attempt.era != self._era:
            return
        if attempt.is_probe:
            self._is_probing = False
            self._state = BreakerState.CLOSED
            self._closed_s = now_s
            self._era += 1
        else:
            self._slice(now_s).answered[tried] += 1

    def failed(
        self, attempt: Attempt, now_s: float, reason: str, places: Collection[int] = ()
    ) -> None:
        """It failed, or did not answer, at these places; at none: nobody knows at which it did not."""
        working = self._places_s[attempt.tried]
        for place in places:
            working.pop(place, None)
        if attempt.era != self._era:
            return
        if attempt.is_probe:
            self._open(now_s, self.broken, reason)
            return
        if places and any(at_s > now_s - self._limits.window_s for at_s in working.values()):
            return
        tried = attempt.tried
        self._slice(now_s).failed[tried] += 1
        failed = sum(one.failed[tried] for one in self._slices) + self._doubts[tried]
        answered = sum(one.answered[tried] for one in self._slices)
        if failed >= self._limits.failures and failed >= answered:
            self._open(now_s, tried, reason)

    def unheard(
        self, attempt: Attempt, now_s: float, *, out_of_time: str = "", telling_s: float = 0.0
    ) -> None:
        """Whoever wanted it waits no more: out of time, if `out_of_time` says so, or for reasons of their own.

        The former counts as failed if nothing of its kind was answered since it began; a mere slowness does not. It
        is but a doubt if it was for less than `telling_s`, or not much longer than answers take.
        """
        tried = attempt.tried
        if out_of_time and self._answered_s[tried] < attempt.began_s:
            enough_s = max(telling_s, USUAL_TIMES * self._usual_s[tried])
            if attempt.is_probe or now_s - attempt.began_s >= enough_s:
                self.failed(attempt, now_s, out_of_time)
            elif attempt.era == self._era:
                self._doubts[tried] += 1
        elif attempt.era == self._era and attempt.is_probe:
            self._is_probing = False

    def _open(self, now_s: float, broken: Tried, reason: str) -> None:
        limits = self._limits
        is_again = self._state is BreakerState.HALF_OPEN or now_s < self._closed_s + limits.window_s
        self._pause_s = min(2 * self._pause_s, limits.open_s_max) if is_again else limits.open_s
        self._state = BreakerState.OPEN
        self._is_probing = False
        self._opened_s = now_s
        self._era += 1
        self._slices.clear()
        self._doubts.clear()
        self.broken = broken
        self.reason = reason
        self.openings += 1

    def _slice(self, now_s: float) -> _Slice:
        """The one that is counted in now."""
        while self._slices and self._slices[0].ends_s + self._limits.window_s <= now_s:
            self._slices.popleft()
        if not self._slices or self._slices[-1].ends_s <= now_s:
            self._slices.append(_Slice(now_s + self._limits.window_s / SLICES))
        return self._slices[-1]

    def validate(self) -> None:
        """Raises AssertionError if an invariant does not hold."""
        limits = self._limits
        assert self._state is BreakerState.CLOSED or not (self._slices or self._doubts)
        assert self._state is BreakerState.HALF_OPEN or not self._is_probing
        assert not self.openings or limits.open_s <= self._pause_s <= limits.open_s_max
        ends = [one.ends_s for one in self._slices]
        assert ends == sorted(ends), ends
        for tried in Tried:
            failed = sum(one.failed[tried] for one in self._slices)
            answered = sum(one.answered[tried] for one in self._slices)
            assert failed < limits.failures or failed < answered or not self._slices
