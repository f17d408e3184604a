"""Pauses between tries: they double, have a bound, and end with what works."""

from __future__ import annotations

import math

from penstock.actors.core.backoff import Backoff


def backoff() -> Backoff:
    return Backoff(pause_s=1.0, pause_s_max=5.0, draw=lambda: 1.0)


def test_pauses_double_up_to_their_bound() -> None:
    one, now, pauses = backoff(), 100.0, []
    for _ in range(5):
        one.failed(now)
        pauses.append(one.until_s - now)
        now = one.until_s
    assert pauses == [1, 2, 4, 5, 5]


def test_what_fails_together_is_one_failure() -> None:
    one = backoff()
    for now in (100.0, 100.1, 100.9):
        one.failed(now)
    assert one.until_s == 101.0


def test_a_try_is_a_pause_away_from_the_next_only_while_nothing_works() -> None:
    one = backoff()
    one.tried(100.0)
    assert one.until_s == -math.inf
    one.failed(100.0)
    one.tried(101.0)
    assert one.until_s == 103.0
    one.over()
    one.tried(103.0)
    assert one.until_s == -math.inf
    one.failed(104.0)
    assert one.until_s == 105.0


def test_what_works_elsewhere_brings_the_next_try_near() -> None:
    one = backoff()
    for now in (100.0, 101.0, 103.0):
        one.failed(now)
    assert one.until_s == 107.0
    one.eased(103.5)
    assert one.until_s == 104.5
    one.eased(104.2)
    assert one.until_s == 104.5, "it is never put off by that"


def test_a_pause_is_drawn_from_its_second_half() -> None:
    one = Backoff(pause_s=1.0, pause_s_max=5.0, draw=lambda: 0.0)
    one.failed(100.0)
    assert one.until_s == 100.5
