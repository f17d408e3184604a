"""Raw and dax stores whose medium does not answer when it is opened: within bounds, and nothing is left locked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from support.eventually import eventually
from support.store_world import StoreWorld, store_world

from penstock.actors.api.store import StoreState
from penstock.actors.api.types import Epoch
from penstock.actors.stores import raw_block
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.dax_config import ArenaConfig, DaxConfig
from penstock.actors.stores.native_io import NativeIo
from penstock.actors.stores.opening import AnyStoreConfig, open_store
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.store import Store, StoreContext, StoreRefused
from penstock.runtime.units import KIB, MIB, ByteSize, Seconds

Configured: TypeAlias = Callable[[Path], AnyStoreConfig]
SHARED: dict[str, Any] = {
    "name": "tested",
    "slot_bytes": ByteSize(64 * KIB),
    "open_within": Seconds(0.1),
}


def raw(path: Path) -> RawBlockConfig:
    own: dict[str, Any] = {"paths": str(path), "capacity": ByteSize(8 * MIB)}
    return RawBlockConfig(**SHARED, **own, lock_within=Seconds(0.01))


def dax(path: Path) -> DaxConfig:
    return DaxConfig(**SHARED, arenas=(ArenaConfig(path=path, bytes=ByteSize(MIB)),))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No file gets its room until this is set."""
    event = threading.Event()
    fill = os.posix_fallocate

    def hanging(*given: int) -> None:
        event.wait(30)
        fill(*given)

    monkeypatch.setattr(os, "posix_fallocate", hanging)
    return event


@pytest.mark.parametrize("configured", [raw, dax])
def test_a_node_starts_though_a_medium_hangs_and_opens_it_later(
    configured: Configured, answers: threading.Event, tmp_path: Path
) -> None:
    """B1: `open_within` is kept. Seen to fail: a node waited for as long as the medium took."""

    async def main() -> None:
        config: StoreConfig = configured(tmp_path / "medium")
        context = StoreContext("tested", Epoch(bytes(16)))
        open_it = partial(open_store, configured(tmp_path / "medium"), context)
        with anyio.fail_after(10):
            async with store_world(open_it, config) as started:
                usage = await started.measure()
                assert usage.state is StoreState.BROKEN
                assert "could not be opened within 0.1 s" in usage.detail
                answers.set()
                await eventually(partial(_is_open, started), within=10, what="it is opened")

    anyio.run(main)


async def _is_open(started: StoreWorld) -> bool:
    return (await started.measure()).state is StoreState.OPEN


def test_a_device_that_hangs_while_its_log_is_read_is_let_go_of_when_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: whoever opens it leaves within bounds, and the device stays open and locked while it may be read."""
    config = raw(tmp_path / "medium")

    async def main() -> None:
        context = StoreContext("tested", Epoch(bytes(16)))
        is_over, aclose = anyio.Event(), NativeIo.aclose

        async def never(*_: object) -> Store:
            await anyio.sleep_forever()
            raise AssertionError

        async def later(io: NativeIo) -> None:
            await is_over.wait()
            await aclose(io)

        async def can_be_opened() -> bool:
            try:
                await (await open_store(config, context)).aclose()
            except StoreRefused as refusal:
                assert "belongs to another store" in str(refusal)  # noqa: PT017
                return False
            return True

        with monkeypatch.context() as patch:
            patch.setattr(raw_block, "open_over", never)
            patch.setattr(NativeIo, "aclose", later)
            patch.setattr("penstock.actors.stores.beside.GIVE_UP_WITHIN_S", 0.05)
            with anyio.fail_after(5), anyio.move_on_after(0.2):
                await open_store(config, context)
            assert (tmp_path / "medium").stat().st_size == 8 * MIB
        assert not await can_be_opened()
        is_over.set()
        await eventually(can_be_opened, within=10, what="it is closed")

    anyio.run(main)
