"""Discards of a raw block store: what is freed is given back, and what is needed comes first."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.failing_disk import DISCARD, SLOTS, FailingDisk, load, opened, samples, save
from support.raw_opening import config, refusal
from support.raw_opening import opened as opened_file

from penstock.actors.core.slot_format import decode_put
from penstock.actors.stores.discards import Span
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.native_io import Moved
from penstock.actors.stores.raw_block import RawBlockStore
from penstock.actors.stores.samples import keys_of
from penstock.actors.stores.store import Fate
from penstock.runtime.units import MIB


class SlowDisk(FailingDisk):
    """Discards nothing until it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for: list[Sequence[Span]] = []
        self.over: list[Moved] = []

    def discard(self, spans: Sequence[Span]) -> Moved:
        self.asked_for.append(spans)
        self.over.append(asyncio.get_running_loop().create_future())
        return self.over[-1]


def test_a_sparse_file_gets_smaller_when_objects_are_deleted(tmp_path: Path) -> None:
    """And what is not deleted stays as it was. Seen to fail without `discard`."""
    path = tmp_path / "slots"

    async def run() -> None:
        given: dict[str, Any] = {"preallocate": False, "durability": DurabilityName.FDATASYNC}
        store = await opened_file(config(paths=str(path), discard=True, **given))
        some = await samples(8, 500_000)
        assert await save(store, some) == [Fate.DONE] * 8
        full = room_of(path)
        await store.delete(keys_of(some[:6]))
        await all_discarded(store)
        assert full - room_of(path) > 6 * 500_000 - MIB
        assert [one.fate for one in await load(store, some)] == [Fate.MISSING] * 6 + [Fate.DONE] * 2
        assert path.stat().st_size == 8 * MIB
        assert await save(store, some) == [Fate.DONE] * 8
        await store.aclose()
        store.validate()

    anyio.run(run)


async def all_discarded(store: RawBlockStore) -> None:
    freed = store._volumes[0]._freed
    while freed.slots:
        await checkpoint()
        if freed.over is not None:
            await freed.over


def room_of(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_file_that_is_to_have_all_its_room_is_not_discarded(tmp_path: Path) -> None:
    """A10: one or the other. What was made for it is removed."""
    told = refusal(config(paths=str(tmp_path / "slots"), discard=True))
    assert "say preallocate: false, or leave it out" in told
    assert not (tmp_path / "slots").exists()


def test_what_is_freed_together_is_discarded_together_and_not_written_meanwhile() -> None:
    """B13: no save waits for a discard as long as there is other room, and what waits for its turn is room."""

    async def run() -> None:
        disk = SlowDisk()
        store = await opened(disk, discard=True)
        volume = store._volumes[0]
        some = await samples(6)
        await save(store, some)
        await store.delete(keys_of(some[:3]))
        (spans,) = disk.asked_for
        assert len(spans) == 1, "neighbours, in one span"
        await store.delete(keys_of(some[3:]))
        assert len(disk.asked_for) == 1, "one at a time"
        discarded = volume._freed._under_way
        room = SLOTS - sum(run.slots for run in discarded)
        more = await samples(room, first=10)
        assert await save(store, more) == [Fate.DONE] * room
        taken = {run for one in more for run in slots_of(store, one.key)}
        assert not taken & {slot for run in discarded for slot in range(run.first, sum(run))}
        with anyio.move_on_after(0.05) as waited:
            await save(store, await samples(1, first=90))
        assert waited.cancelled_caught, "only what is being discarded is left"
        disk.over[0].set_result(0)
        assert await save(store, await samples(1, first=90)) == [Fate.DONE]
        await store.aclose()
        store.validate()

    anyio.run(run)


def slots_of(store: RawBlockStore, key: bytes) -> set[int]:
    record = store._volumes[0].index.get(key)
    assert record is not None
    return {slot for run in decode_put(record).runs for slot in range(run.first, sum(run))}


def test_a_medium_that_cannot_discard_is_told_of_once_and_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        disk = FailingDisk()
        disk.failing[DISCARD] = errno.EOPNOTSUPP
        store = await opened(disk, discard=True)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                some = await samples(SLOTS // 2)
                assert await save(store, some) == [Fate.DONE] * len(some)
                await store.delete(keys_of(some))
        assert disk.count(DISCARD) == 1
        assert len([one for one in caplog.records if "no_discards" in one.message]) == 1
        await store.aclose()
        store.validate()

    anyio.run(run)


def test_a_store_closes_when_what_is_being_discarded_is_over() -> None:
    async def run() -> None:
        disk = SlowDisk()
        store = await opened(disk, discard=True)
        some = await samples(4)
        await save(store, some)
        await store.delete(keys_of(some[:1]))
        async with anyio.create_task_group() as group:
            group.start_soon(store.aclose)
            await anyio.wait_all_tasks_blocked()
            await store.delete(keys_of(some[1:]))
            disk.over[0].set_result(0)
        assert len(disk.asked_for) == 1
        store.validate()

    anyio.run(run)
