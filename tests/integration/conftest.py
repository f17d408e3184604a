"""Async tests run on asyncio, the only loop the product runs on. Some run again on nodes with stores attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support import nodes

from penstock.actors.stores import opening
from penstock.actors.stores.config import FaultsConfig
from penstock.actors.stores.faulty import FaultyStore
from penstock.actors.stores.store import Store

AGAIN = "with_stores_too: runs a second time, on nodes that have a store of files below their L1"
NONE, FILES = "no_stores", "file_store"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", AGAIN)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What failed without stores must not come back with them: see docs/TESTING.md."""
    if metafunc.definition.get_closest_marker("with_stores_too"):
        metafunc.parametrize("stores_below", [NONE, FILES], indirect=True)


@pytest.fixture(autouse=True)
def stores_below(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each node of a test that names no stores has one of files, in a folder of its own."""
    with ExitStack() as folders:

        def below() -> list[dict[str, object]]:
            folder = folders.enter_context(TemporaryDirectory(prefix="penstock-"))
            return [{"name": "files", "type": "file", "paths": folder, "capacity": "1GiB"}]

        if getattr(request, "param", "") == FILES:
            monkeypatch.setattr(nodes, "below", below)
        yield


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> list[FaultyStore]:
    """Stores that are configured with `faults`, in the order in which nodes opened them: a test may change these."""
    opened: list[FaultyStore] = []

    def remembered(store: Store, faults: FaultsConfig) -> FaultyStore:
        opened.append(FaultyStore(store, faults))
        return opened[-1]

    monkeypatch.setattr(opening, "FaultyStore", remembered)
    return opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A node in this process shares the test's loop: starting it, and what the test does itself, count as steps.

    That no step of a node takes longer is shown where nothing else is on its loop: test_bad_input.py.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker(
            "loop_step_ms"
        ):
            item.add_marker(pytest.mark.loop_step_ms(40))
