"""A file store whose filesystem does not answer: opened and closed within bounds, and nothing is left locked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.eventually import eventually
from support.store_world import StoreWorld, store_world

from penstock.actors.api.store import StoreState
from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.file import open_file_store
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.file_folder import Folder
from penstock.actors.stores.store import BESIDE_MAX, Entry, Store, StoreContext, StoreFault
from penstock.runtime.units import MIB, ByteSize, Seconds


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Folders hang once they are locked, until this is set."""
    event = threading.Event()
    claim = Folder.claim

    def hanging(folder: Folder) -> None:
        event.wait(30)
        claim(folder)

    monkeypatch.setattr(Folder, "claim", hanging)
    return event


def configured(path: Path, **given: Any) -> FileConfig:
    return FileConfig(name="tested", capacity=ByteSize(64 * MIB), paths=str(path), **given)


def context() -> StoreContext:
    return StoreContext("tested", Epoch(bytes(16)))


def world(config: FileConfig, told: StoreContext) -> AbstractAsyncContextManager[StoreWorld]:
    async def open_store() -> Store:
        return await open_file_store(config, told)

    settings: StoreConfig = config
    return store_world(open_store, settings)


def test_a_node_starts_though_a_folder_hangs_and_opens_it_later(
    answers: threading.Event, tmp_path: Path
) -> None:
    """B1: `open_within` is kept. What the thread opened too late it closes itself: the next attempt can lock it.

    Seen to fail with the calls of an opening waited for in shielded threads."""

    async def main() -> None:
        config = configured(tmp_path, open_within=Seconds(0.1))
        with anyio.fail_after(10):
            async with world(config, context()) as started:
                usage = await started.measure()
                assert usage.state is StoreState.BROKEN
                assert "could not be opened within 0.1 s" in usage.detail
                answers.set()
                await eventually(partial(_is_open, started), within=10, what="it is opened")

    anyio.run(main)


async def _is_open(started: StoreWorld) -> bool:
    return (await started.measure()).state is StoreState.OPEN


def test_a_folder_that_hangs_for_good_keeps_few_threads(
    answers: threading.Event, tmp_path: Path
) -> None:
    async def main() -> None:
        told = context()
        for number in range(2 * BESIDE_MAX):
            with anyio.move_on_after(0.02):
                await open_file_store(configured(tmp_path / str(number)), told)
        hanging = [one for one in threading.enumerate() if one.name == "store"]
        answers.set()
        for one in hanging:
            one.join(10)
        assert len(hanging) == BESIDE_MAX

    anyio.run(main)


def test_an_opening_that_fails_lets_go_of_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("too many open files")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("penstock.actors.stores.file.NativeIo", refused)
            with pytest.raises(StoreFault, match="too many open files"):
                await open_file_store(configured(tmp_path), context())
        await (await open_file_store(configured(tmp_path), context())).aclose()

    anyio.run(main)


@pytest.mark.parametrize("name", ["close", "entries"])
def test_a_node_stops_though_a_folder_hangs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: closing has its bound, and so has a recovery that hangs.

    Seen to fail with threads that are waited for: neither the loop nor the process ended."""
    let_go = threading.Event()

    def close(_: Folder) -> None:
        let_go.wait(30)

    def entries(*_: object) -> Iterator[list[Entry]]:
        let_go.wait(30)
        yield []

    async def main() -> None:
        async with world(configured(tmp_path), context()) as started:
            if name == "close":
                await started.wait_recovered()

    monkeypatch.setattr("penstock.actors.store_actor.CLOSE_WITHIN_S", 0.1)
    monkeypatch.setattr(Folder, name, {"close": close, "entries": entries}[name])
    node = threading.Thread(target=anyio.run, args=(main,), daemon=True)
    node.start()
    node.join(10)
    has_stopped = not node.is_alive()
    let_go.set()
    node.join(10)
    assert has_stopped
