"""The process in which libFuzzer rules: it plays inputs until the time is up, or one of them breaks something.

    fuzz_worker.py STATE STEP_MS_MAX [libFuzzer's arguments]

It never returns from fuzzing, so it tells of itself in the folder STATE as it goes: `told.json`, and the input with the
slowest step. Started by `fuzz_session.py`.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

import atheris
from instrument import instrumented_imports

with instrumented_imports():
    from session_client import Violation
    from session_mutator import Mutator
    from session_play import Played, Stopwatch, play

    from penstock.runtime.watchdog import own_cpu_clock

TOLD_EVERY_S = 0.5
NOTED_AGAIN_MS_MIN = 2.0  # steps that look faster are not looked at again
LOOKS = 3  # at an input with a step that seems too slow

# Taken before simulations put their own clocks in place.
_clock = time.perf_counter


class Worker:
    def __init__(self, state: Path, *, step_ms_max: float) -> None:
        self._state = state
        self._step_ms_max = step_ms_max
        self._executions = 0
        self._slowest_ms = 0.0
        self._slowest_name = ""
        self._replies: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._told_at = 0.0
        self._stopwatch = Stopwatch(_clock)

    def take(self, data: bytes) -> None:
        """Play one input. What it raises ends the process, and leaves the input behind."""
        with self._stopwatch.watching():
            played = play(data, self._stopwatch)
        self._executions += 1
        self._replies.update(played.replies)
        self._refusals.update({str(code): count for code, count in played.refusals.items()})
        self._check_slowest(data, played)
        if _clock() - self._told_at > TOLD_EVERY_S:
            self._tell()

    def _check_slowest(self, data: bytes, played: Played) -> None:
        """The first look is at wall time, which is cheap; only CPU time that is spent again and again counts."""
        if played.slowest.took_ms <= max(self._slowest_ms, NOTED_AGAIN_MS_MIN):
            return
        looks = []
        with own_cpu_clock() as clock:
            for _ in range(LOOKS):
                stopwatch = Stopwatch(clock)
                with stopwatch.watching():
                    looks.append(play(data, stopwatch).slowest)
        slowest = min(looks, key=lambda step: step.took_ms)
        if slowest.took_ms > self._slowest_ms:
            self._slowest_ms, self._slowest_name = slowest.took_ms, slowest.name
            (self._state / "slowest").write_bytes(data)
        if slowest.took_ms > self._step_ms_max:
            self._tell()
            raise Violation(f"{slowest}, the bound is {self._step_ms_max:g} ms")

    def _tell(self) -> None:
        self._told_at = _clock()
        told = {
            "executions": self._executions,
            "slowest_ms": round(self._slowest_ms, 2),
            "slowest_name": self._slowest_name,
            "replies": self._replies,
            "refusals": self._refusals,
        }
        aside = self._state / "told.new"
        aside.write_text(json.dumps(told))
        aside.rename(self._state / "told.json")


def main() -> None:
    worker = Worker(Path(sys.argv[1]), step_ms_max=float(sys.argv[2]))

    def mutate(data: bytes, bytes_max: int, seed: int) -> bytes:
        return Mutator(seed, atheris.Mutate).mutated(data, bytes_max)

    def cross(data: bytes, other: bytes, bytes_max: int, seed: int) -> bytes:
        return Mutator(seed, atheris.Mutate).crossed(data, other, bytes_max)

    # libFuzzer starts itself again for some of its work, by a shell, with its own arguments after this.
    again = shlex.join([sys.executable, *sys.argv[:3]])
    atheris.Setup(
        [again, *sys.argv[3:]], worker.take, custom_mutator=mutate, custom_crossover=cross
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
