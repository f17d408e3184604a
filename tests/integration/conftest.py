"""Async tests run on asyncio, the only loop the product runs on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A node in this process shares the test's loop: starting it, and what the test does itself, count as steps.

    That no step of a node takes longer is shown where nothing else is on its loop: test_bad_input.py.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker(
            "loop_step_ms"
        ):
            item.add_marker(pytest.mark.loop_step_ms(40))
