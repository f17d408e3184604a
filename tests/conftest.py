"""What holds for every test: no step of an event loop may hold it longer than 5 ms of CPU time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.runtime.watchdog import STEP_MS_MAX, Watchdog, own_cpu_clock

MARKER = "loop_step_ms(limit): a step of an event loop may take this long in this test; say why"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture(autouse=True)
def loop_watchdog(request: pytest.FixtureRequest) -> Iterator[Watchdog]:
    """Fail the test if a step of any event loop of this thread took too long."""
    marker = request.node.get_closest_marker("loop_step_ms")
    limit_ms = marker.args[0] if marker else STEP_MS_MAX
    stolen_before_ms = _stolen_ms()
    with own_cpu_clock() as clock:
        watchdog = Watchdog(clock=clock, step_ms_max=limit_ms)
        with watchdog.watching():
            yield watchdog
    # A hypervisor that took the processor away meanwhile leaves its time in the thread's clock.
    limit_ms += _stolen_ms() - stolen_before_ms
    slow = [step for step in watchdog.slow if step.took_ms > limit_ms]
    if slow:
        said = "; ".join(str(step) for step in slow)
        pytest.fail(f"{len(slow)} steps over {limit_ms:g} ms: {said}", pytrace=False)


def _stolen_ms() -> float:
    """Time that the host has taken from this machine's processors so far."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    return 1000 * int(fields[8]) / os.sysconf("SC_CLK_TCK")
