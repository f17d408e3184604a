"""The contract suites run a store and what checks it on one loop."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A step may hold samples made and compared by the suite, beside what the store does; and NIXL and Mooncake make
    their agents where they are called. Steps of the product are bound to 5 ms in the simulations and unit tests."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not item.get_closest_marker("loop_step_ms"):
            item.add_marker(pytest.mark.loop_step_ms(40))
