"""Of several devices of a raw store one hangs: the others are saved to, loaded and deleted from all the same."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.eventually import eventually
from support.raw_opening import config, opened

from penstock._native import Caching, IoBackend
from penstock.actors.stores import raw_block
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.native_io import NativeIo
from penstock.actors.stores.raw_block import RawBlockStore
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate
from penstock.runtime.units import KIB

HUNG, SOUND = 0, 1
DEPTH = 2


@asynccontextmanager
async def hanging(store: RawBlockStore, number: int, folder: Path) -> AsyncIterator[None]:
    """While it is entered, each engine of this device waits with all of its threads for the other end of a pipe."""
    os.mkfifo(folder / "pipe")
    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    engines = store._ios[number]
    pipe = (below, "pipe", Caching.BUFFERED)
    stuck = [io.read_files([(*pipe, [bytearray(8)]) for _ in range(DEPTH)], None) for io in engines]
    try:
        yield
    finally:
        other_end = os.open(folder / "pipe", os.O_RDWR)
        os.set_blocking(other_end, False)
        with anyio.fail_after(10, shield=True):
            for one in stuck:
                await one
        os.close(other_end)
        os.close(below)


async def samples(first: int, count: int, device: int) -> list[Sample]:
    return [await make_sample(first + at, 40 * KIB, device=device) for at in range(count)]


@pytest.mark.parametrize("durability", DurabilityName)
def test_one_that_hangs_costs_what_belongs_there_and_nothing_else(
    durability: DurabilityName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1. Seen to fail (out of time) with two engines for all devices."""
    monkeypatch.setattr(raw_block, "NativeIo", partial(NativeIo, backend=IoBackend.THREADS))
    places = {HUNG: f"{tmp_path}/a", SOUND: f"{tmp_path}/b"}
    settings = config(
        per_rank_device_paths=places, durability=durability, depth=DEPTH, threads=2 * DEPTH
    )

    async def run() -> None:
        store = await opened(settings)
        old_hung, old = await samples(0, 2, HUNG), await samples(2, 2, SOUND)
        await store.save([one.given() for one in (*old_hung, *old)])
        new_hung, new = await samples(4, 4, HUNG), await samples(8, 4, SOUND)
        with anyio.fail_after(15):
            async with hanging(store, HUNG, tmp_path), anyio.create_task_group() as group:
                group.start_soon(store.save, [one.given() for one in (*new_hung, *new)])
                group.start_soon(store.load, [one.wanted() for one in old_hung])
                group.start_soon(store.delete, keys_of(old_hung[:1]))
                await eventually(partial(has_all, store, new), within=10, what="they are saved")
                wanted = [one.wanted() for one in old]
                assert {one.fate for one in await store.load(wanted)} == {Fate.DONE}
                assert [await one.is_in(into) for one, into in zip(old, wanted, strict=True)]
                await store.delete(keys_of(old))
                assert await store.locate(keys_of([*old_hung, *old])) == b"\1\1\0\0"
                assert not any(await store.locate(keys_of(new_hung))), "it hangs"
                group.cancel_scope.cancel()
            await eventually(partial(is_idle, store), within=10, what="it ends what it had begun")
        assert not any(await store.locate(keys_of(new_hung))), "given up before it was written"
        outcomes = await store.save([one.given() for one in new_hung])
        assert {one.fate for one in outcomes} == {Fate.DONE}
        await store.aclose()
        store.validate()

    anyio.run(run)


async def has_all(store: RawBlockStore, wanted: list[Sample]) -> bool:
    return all(await store.locate(keys_of(wanted)))


async def is_idle(store: RawBlockStore) -> bool:
    return not store.transfers
