"""Slow steps: each counted, few logged."""

from __future__ import annotations

import logging

import pytest

from penstock.runtime.log import Log
from penstock.runtime.slow_steps import NAMES_MAX, SlowSteps
from penstock.runtime.telemetry import Telemetry
from penstock.runtime.watchdog import SlowStep


def test_every_slow_step_is_counted_and_one_a_minute_of_each_name_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """D6: a node whose loop is slow must not fill its disk with lines saying so.

    Seen to fail with every slow step logged.
    """
    now, telemetry = 0.0, Telemetry()
    tell = SlowSteps(telemetry.counter("loop_slow_steps", "Slow."), Log("loop"), clock=lambda: now)
    with caplog.at_level(logging.WARNING, logger="penstock"):
        for second in range(121):
            now = float(second)
            tell(SlowStep("writer", 7.0))
        tell(SlowStep("reader", 6.0))
        for number in range(2 * NAMES_MAX):
            tell(SlowStep(f"task {number}", 6.0))
    lines = [one for one in caplog.records if "slow_step" in one.getMessage()]
    assert len(lines) == 3 + 1 + 2 * NAMES_MAX
    assert telemetry.value("penstock_loop_slow_steps_total") == 122 + 2 * NAMES_MAX
