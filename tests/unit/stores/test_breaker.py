"""The circuit breaker: opens for good reasons, tries one probe, and always closes again."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.actors.core.breaker import Attempt, Breaker, BreakerLimits, BreakerState, Tried

LIMITS = BreakerLimits(failures=3, window_s=10.0, open_s=5.0, open_s_max=20.0)


def fail(breaker: Breaker, now_s: float, times: int = 1) -> None:
    for _ in range(times):
        attempt = breaker.admit(now_s, Tried.BYTES)
        assert attempt is not None
        breaker.failed(attempt, now_s, "broken")
        breaker.validate()


def test_it_opens_at_the_configured_failures_and_says_why() -> None:
    breaker = Breaker(LIMITS)
    fail(breaker, 0.0, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1.0)
    assert (breaker.state, breaker.reason) == (BreakerState.OPEN, "broken")
    assert breaker.admit(1.0, Tried.BYTES) is None


def test_one_probe_at_a_time_decides() -> None:
    """B14: an open breaker closes again, by one probe."""
    breaker = Breaker(LIMITS)
    fail(breaker, 0.0, 3)
    assert breaker.admit(4.9, Tried.BYTES) is None
    probe = breaker.admit(5.0, Tried.BYTES)
    assert probe is not None
    assert probe.is_probe
    assert breaker.admit(5.0, Tried.BYTES) is None
    breaker.failed(probe, 6.0, "still broken")
    assert breaker.admit(15.9, Tried.BYTES) is None, "twice as long as before"
    second = breaker.admit(16.0, Tried.BYTES)
    assert second is not None
    breaker.answered(second, 16.5)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.openings == 2
    fail(breaker, 17.0, 2)
    assert breaker.state is BreakerState.CLOSED, "what was before the opening is forgotten"


def test_a_probe_that_nobody_waits_for_makes_room_for_another() -> None:
    breaker = Breaker(LIMITS)
    fail(breaker, 0.0, 3)
    probe = breaker.admit(5.0, Tried.BYTES)
    assert probe is not None
    breaker.unheard(probe, 5.1)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(5.1, Tried.BYTES) is not None


def test_it_is_tried_less_often_the_longer_it_fails_up_to_a_bound() -> None:
    breaker = Breaker(LIMITS)
    fail(breaker, 0.0, 3)
    now, pauses = 0.0, []
    for _ in range(4):
        pauses.append(breaker.reopens_s() - now)
        now = breaker.reopens_s()
        fail(breaker, now)
    assert pauses == [5.0, 10.0, 20.0, 20.0]
    probe = breaker.admit(breaker.reopens_s(), Tried.BYTES)
    assert probe is not None
    now = breaker.reopens_s()
    breaker.answered(probe, now)
    fail(breaker, now + 1, 3)
    assert breaker.reopens_s() - now - 1 == 20.0, "it had hardly been closed"
    probe = breaker.admit(breaker.reopens_s(), Tried.BYTES)
    assert probe is not None
    now = breaker.reopens_s()
    breaker.answered(probe, now)
    fail(breaker, now + 11, 3)
    assert breaker.reopens_s() - now - 11 == 5.0, "it had worked for longer than its window"


def test_answers_of_one_kind_hide_no_failures_of_another() -> None:
    """B1: a store that says what it has, and gives out none of it. Seen to fail with one count for both."""
    breaker = Breaker(LIMITS)
    for second in range(3):
        for _ in range(10):
            named = breaker.admit(float(second), Tried.NAMES)
            assert named is not None
            breaker.answered(named, float(second))
        fail(breaker, float(second))
    assert breaker.state is BreakerState.OPEN
    assert breaker.broken is Tried.BYTES
    assert breaker.admit(7.0, Tried.NAMES) is None, "names prove nothing of bytes"
    assert breaker.admit(7.0, Tried.BYTES) is not None


def test_failures_that_are_few_among_many_do_not_open_it() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(100):
        for _ in range(2):
            attempt = breaker.admit(0.0, Tried.BYTES)
            assert attempt is not None
            breaker.answered(attempt, 0.0)
        fail(breaker, 0.0)
    assert breaker.state is BreakerState.CLOSED


def test_failures_are_forgotten_after_the_window() -> None:
    breaker = Breaker(LIMITS)
    for second in range(0, 200, 6):
        fail(breaker, float(second))
    assert breaker.state is BreakerState.CLOSED


def test_what_began_before_it_opened_says_nothing_any_more() -> None:
    breaker = Breaker(LIMITS)
    old = breaker.admit(0.0, Tried.BYTES)
    assert old is not None
    fail(breaker, 0.0, 3)
    breaker.answered(old, 1.0)
    assert breaker.state is BreakerState.OPEN
    probe = breaker.admit(5.0, Tried.BYTES)
    assert probe is not None
    breaker.answered(probe, 5.0)
    for _ in range(10):
        breaker.failed(old, 6.0, "late")
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("is_answered_meanwhile", [False, True])
def test_out_of_time_counts_only_if_nothing_else_was_answered(is_answered_meanwhile: bool) -> None:
    """B1: a store that never answers is found out by askers with little time, a slow one is not."""
    breaker = Breaker(LIMITS)
    for second in range(3):
        attempt, other = (breaker.admit(float(second), Tried.BYTES) for _ in range(2))
        assert attempt is not None
        assert other is not None
        if is_answered_meanwhile:
            breaker.answered(other, second + 0.5)
        breaker.unheard(attempt, second + 0.9, out_of_time="did not answer")
    expected = BreakerState.CLOSED if is_answered_meanwhile else BreakerState.OPEN
    assert breaker.state is expected


def test_who_waits_for_less_than_it_takes_opens_nothing_but_a_doubt() -> None:
    """B1: a healthy store and askers with no time. Seen to fail while all who were out of time counted alike."""
    breaker = Breaker(LIMITS)
    slow = breaker.admit(0.0, Tried.BYTES)
    assert slow is not None
    breaker.answered(slow, 0.5)
    doubt(breaker, 1.0, waited_s=0.1, times=100)
    assert (breaker.state, breaker.doubted) == (BreakerState.CLOSED, Tried.BYTES)
    probe = breaker.admit(10.0, Tried.BYTES)
    assert probe is not None
    breaker.answered(probe, 10.5)
    assert breaker.doubted is None


def test_doubts_count_once_one_who_had_the_time_heard_nothing() -> None:
    """B1: a store that hangs, and askers with no time. One attempt with all of it is enough."""
    breaker = Breaker(LIMITS)
    doubt(breaker, 0.0, waited_s=0.1, times=2)
    assert breaker.doubted is None
    doubt(breaker, 0.0, waited_s=0.1)
    assert breaker.doubted is Tried.BYTES
    fail(breaker, 5.0)
    assert (breaker.state, breaker.doubted) == (BreakerState.OPEN, None)


def test_what_fails_at_one_place_while_another_one_answers_opens_nothing() -> None:
    """C5: one of two folders became read-only. Seen to fail with all failures counted as the store's."""
    breaker = Breaker(LIMITS)

    def tried(now_s: float) -> Attempt:
        attempt = breaker.admit(now_s, Tried.BYTES)
        assert attempt is not None
        return attempt

    breaker.answered(tried(0.0), 0.0, {0, 1})
    for now_s in range(8):
        breaker.failed(tried(now_s), now_s, "read-only", {1})
    assert breaker.state is BreakerState.CLOSED
    for _ in range(3):
        breaker.failed(tried(9.0), 9.0, "read-only", {0})
    assert breaker.state is BreakerState.OPEN, "none of them answers"


def test_what_fails_at_one_place_counts_when_no_other_has_answered_lately() -> None:
    breaker = Breaker(LIMITS)
    fail_at = LIMITS.window_s + 1
    first = breaker.admit(0.0, Tried.BYTES)
    assert first is not None
    breaker.answered(first, 0.0, {0})
    for _ in range(3):
        attempt = breaker.admit(fail_at, Tried.BYTES)
        assert attempt is not None
        breaker.failed(attempt, fail_at, "read-only", {1})
    assert breaker.state is BreakerState.OPEN


def test_who_has_no_time_is_no_probe() -> None:
    """B14: or else a store that works again would stay shut for as long as somebody with no time asks."""
    breaker = Breaker(LIMITS)
    fail(breaker, 0.0, 3)
    assert breaker.admit_in_haste(5.0, Tried.BYTES) is None
    assert breaker.admit(5.0, Tried.BYTES) is not None


def doubt(breaker: Breaker, now_s: float, *, waited_s: float, times: int = 1) -> None:
    for _ in range(times):
        attempt = breaker.admit(now_s, Tried.BYTES)
        assert attempt is not None
        breaker.unheard(attempt, now_s + waited_s, out_of_time="no time", telling_s=0.5)
        breaker.validate()


class Life(RuleBasedStateMachine):
    """Any order of outcomes; at its end it must be possible to close it."""

    @initialize(failures=st.integers(1, 4), window=st.floats(0.1, 20), wait=st.floats(0.1, 20))
    def start(self, failures: int, window: float, wait: float) -> None:
        self.now = 0.0
        self.limits = BreakerLimits(failures, window, wait, 3 * wait)
        self.breaker = Breaker(self.limits)
        self.open_attempts: list[Attempt] = []

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def admit(self) -> None:
        was = self.breaker.state
        attempt = self.breaker.admit(self.now, Tried.BYTES)
        if was is BreakerState.CLOSED:
            assert attempt is not None
            assert not attempt.is_probe
        if was is BreakerState.OPEN:
            assert (attempt is not None) == (self.now >= self.breaker.reopens_s())
        if attempt is not None:
            self.open_attempts.append(attempt)

    @precondition(lambda self: self.open_attempts)
    @rule(
        pick=st.integers(0, 1 << 16),
        fate=st.sampled_from(["answered", "failed", "gone", "late", "short"]),
    )
    def settle(self, pick: int, fate: str) -> None:
        attempt = self.open_attempts.pop(pick % len(self.open_attempts))
        was = self.breaker.state
        match fate:
            case "answered":
                self.breaker.answered(attempt, self.now)
                assert was is self.breaker.state or attempt.is_probe
            case "failed":
                self.breaker.failed(attempt, self.now, "x")
            case "gone":
                self.breaker.unheard(attempt, self.now)
                assert self.breaker.state is was
            case "short":
                self.breaker.unheard(attempt, self.now, out_of_time="x", telling_s=1e9)
                assert self.breaker.state is was or attempt.is_probe
            case _:
                self.breaker.unheard(attempt, self.now, out_of_time="x")

    @invariant()
    def is_sound(self) -> None:
        if hasattr(self, "breaker"):
            self.breaker.validate()
            probes = [one for one in self.open_attempts if one.is_probe]
            live = [one for one in probes if one.era == self.breaker._era]
            assert len(live) <= 1, "two probes at once"

    def teardown(self) -> None:
        if not hasattr(self, "breaker"):
            return
        for attempt in self.open_attempts:
            self.breaker.unheard(attempt, self.now)
        self.now = max(self.now, self.breaker.reopens_s())
        attempt = self.breaker.admit(self.now, Tried.BYTES)
        assert attempt is not None
        self.breaker.answered(attempt, self.now)
        assert self.breaker.state is BreakerState.CLOSED


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
