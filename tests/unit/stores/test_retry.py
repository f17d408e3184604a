"""Attempts are bounded, pauses are jittered and never outlast the deadline."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.actors.core.retry import Attempts, RetryLimits


@given(
    attempts=st.integers(1, 16),
    pause=st.floats(0.001, 1),
    bound=st.floats(0.001, 5),
    left=st.floats(0, 20),
    seed=st.integers(0, 1 << 32),
)
def test_attempts_and_pauses_are_bounded(
    attempts: int, pause: float, bound: float, left: float, seed: int
) -> None:
    """B7: nothing is tried for ever."""
    tries = Attempts(RetryLimits(attempts, pause, bound), random.Random(seed).random)
    while True:
        tries.begin()
        wait = tries.pause_s(left)
        if wait is None:
            break
        assert 0 <= wait <= min(bound, pause * 2 ** (tries.made - 1))
        assert wait < left
        left -= wait
    assert 1 <= tries.made <= attempts


def test_pauses_grow_and_are_spread() -> None:
    longest = Attempts(RetryLimits(5, 0.1, 0.5), lambda: 1.0)
    pauses = []
    for _ in range(4):
        longest.begin()
        pauses.append(longest.pause_s(100))
    assert pauses == [0.1, 0.2, 0.4, 0.5]
    longest.begin()
    assert longest.pause_s(100) is None


def test_without_time_there_is_no_next_attempt() -> None:
    tries = Attempts(RetryLimits(5, 0.1, 0.5), lambda: 1.0)
    tries.begin()
    assert tries.pause_s(0.1) is None
    assert tries.pause_s(0.11) == 0.1
