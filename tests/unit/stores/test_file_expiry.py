"""Shared folders whose objects go when they are not saved again."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.eventually import eventually

from penstock.actors.api.types import Epoch
from penstock.actors.stores import file_expiry
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file import FileStore, open_file_store
from penstock.actors.stores.file_config import FileConfig, Placement
from penstock.actors.stores.file_expiry import expire
from penstock.actors.stores.file_folder import Folder, Marker, object_name
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Ownership, StoreContext
from penstock.runtime.units import MIB, ByteSize, Seconds

HOUR_S = 3600


def configured(path: Path, **given: Any) -> FileConfig:
    made: dict[str, Any] = {"ownership": OwnershipName.SHARED, "ttl": Seconds(HOUR_S)}
    return FileConfig(**{"name": "ours", "paths": str(path), **made, **given})


@asynccontextmanager
async def opened(config: FileConfig) -> AsyncIterator[FileStore]:
    store = await open_file_store(config, StoreContext("ours", Epoch(os.urandom(16))))
    try:
        yield store
    finally:
        await store.aclose()


def grow_old(path: Path, by_s: float) -> None:
    stamped = path.stat().st_mtime - by_s
    os.utime(path, (stamped, stamped))


async def saved(store: FileStore, count: int) -> list[Sample]:
    samples = [await make_sample(n, 9000) for n in range(count)]
    assert {one.fate for one in await store.save([one.given() for one in samples])} == {Fate.DONE}
    return samples


def test_what_is_old_goes_and_what_was_saved_again_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN 7. Seen to fail: a shared folder filled up until nobody could save there."""
    monkeypatch.setattr(file_expiry, "EVERY_S_MAX", 0.01)
    stranger = tmp_path / "objects/0/0/README"

    async def run() -> None:
        async with opened(configured(tmp_path, ttl=Seconds(0))) as store:
            samples = await saved(store, 12)
            stranger.touch()
            for path in (*(tmp_path / object_name(one.key) for one in samples), stranger):
                grow_old(path, 2 * HOUR_S)
            await store.save([one.given() for one in samples[:4]])
        async with opened(configured(tmp_path)) as store, opened(configured(tmp_path)) as other:

            async def is_swept() -> bool:
                return await store.locate(keys_of(samples)) == b"\1" * 4 + bytes(8)

            await eventually(is_swept, within=10, what="what is old is gone")
            assert await is_swept()
            into = samples[0].wanted()
            assert (await other.load([into]))[0].fate is Fate.DONE
            assert await samples[0].is_in(into)
        assert not any((tmp_path / "aside").iterdir())

    anyio.run(run)
    assert stranger.exists()


def test_what_is_saved_again_while_it_is_removed_stays(tmp_path: Path) -> None:
    """A6: the save has the last word."""
    folder = Folder(tmp_path, Marker(Placement.BY_KEY, 1, 0), Ownership.SHARED, Epoch(bytes(16)))
    with closing(folder):
        folder.claim()
        place = tmp_path / object_name(bytes(32))
        place.write_bytes(b"old")
        grow_old(place, HOUR_S)

        before_s = folder.now_s() - HOUR_S / 2
        stat = Path.stat

        def late(path: Path, **given: Any) -> os.stat_result:
            found = stat(path, **given)
            if path == place:
                fresh = tmp_path / "fresh"
                fresh.write_bytes(b"new")
                fresh.rename(place)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "stat", late)
            assert not expire(folder, object_name(bytes(32)), before_s)
        assert place.read_bytes() == b"new"
        grow_old(place, HOUR_S)
        assert expire(folder, object_name(bytes(32)), before_s)
        assert not expire(folder, object_name(bytes(32)), before_s), "it is gone"


def test_a_store_closes_while_its_folder_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: it ends at the next object, however many there are."""
    looked: list[str] = []
    begun, may_go = threading.Event(), threading.Event()

    def slow(_folder: Folder, name: str, _before_s: float) -> bool:
        looked.append(name)
        begun.set()
        return not may_go.wait(10)

    monkeypatch.setattr(file_expiry, "expire", slow)

    async def run() -> None:
        async with opened(configured(tmp_path, ttl=Seconds(0))) as store:
            await saved(store, 20)
        async with opened(configured(tmp_path)) as store:
            await anyio.to_thread.run_sync(begun.wait, 10)
            async with anyio.create_task_group() as group:
                group.start_soon(store.aclose)
                await anyio.wait_all_tasks_blocked()
                may_go.set()
        assert len(looked) == 1

    anyio.run(run)


def test_only_a_shared_folder_has_a_time_to_live(tmp_path: Path) -> None:
    """A10"""
    with pytest.raises(ValueError, match="ttl is of shared folders"):
        configured(tmp_path, ownership=OwnershipName.EXCLUSIVE, capacity=ByteSize(MIB))
    for wrong in (0.5, 367 * 86_400):
        with pytest.raises(ValueError, match="ttl must be 0, or 1 s to 366 days"):
            configured(tmp_path, ttl=Seconds(wrong))
