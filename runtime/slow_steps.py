"""Where slow steps of the loop are told: every one in a counter, one a minute of each name in the log."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from penstock.runtime.log import Log
from penstock.runtime.telemetry import Counter
from penstock.runtime.watchdog import SlowStep

QUIET_S = 60.0
NAMES_MAX = 256  # remembered; the one heard longest ago is forgotten first


class SlowSteps:
    """Hand it to `Watchdog(on_slow=...)`. `clock` gives monotonic seconds."""

    def __init__(self, counter: Counter, log: Log, *, clock: Callable[[], float]) -> None:
        self._counter = counter
        self._log = log
        self._clock = clock
        self._told: OrderedDict[str, float] = OrderedDict()  # when, by name; len <= NAMES_MAX
        self._untold = 0  # since the last line

    def __call__(self, step: SlowStep) -> None:
        self._counter.add()
        now = self._clock()
        if now - self._told.get(step.name, -QUIET_S) < QUIET_S:
            self._untold += 1
            return
        self._told[step.name] = now
        self._told.move_to_end(step.name)
        if len(self._told) > NAMES_MAX:
            self._told.popitem(last=False)
        self._log.warning(
            "slow_step", name=step.name, took_ms=round(step.took_ms, 1), untold=self._untold
        )
        self._untold = 0
