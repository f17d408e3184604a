"""What holds for every test: no step of an event loop may hold it longer than 5 ms of CPU time."""

from __future__ import annotations

from collections.abc import Iterator

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
    with own_cpu_clock() as clock:
        watchdog = Watchdog(clock=clock, step_ms_max=limit_ms)
        with watchdog.watching():
            yield watchdog
    if watchdog.slow_total:
        said = "; ".join(str(step) for step in watchdog.slow)
        pytest.fail(f"{watchdog.slow_total} steps over {limit_ms:g} ms: {said}", pytrace=False)
