"""The file store beyond what all stores must do: full and broken disks, torn files, several folders, the last word."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.mounts import disk_image, mounted, shut_down

from penstock._native import Durability
from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file import FileStore, open_file_store
from penstock.actors.stores.file_config import DurabilityName, FileConfig, FileIo, Placement
from penstock.actors.stores.file_folder import object_name
from penstock.actors.stores.header import FIXED_BYTES, DamagedHeader, ForeignHeader, decode
from penstock.actors.stores.native_io import Moves
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreContext, StoreFault, StoreRefused
from penstock.runtime.units import GIB, MIB, ByteSize

Work = Callable[[FileStore], Awaitable[None]]


def configured(paths: Path | tuple[Path, ...], **given: Any) -> FileConfig:
    texts = tuple(map(str, paths if isinstance(paths, tuple) else (paths,)))
    defaults: dict[str, Any] = {"name": "disk", "capacity": ByteSize(GIB), "paths": texts}
    return FileConfig(**defaults | given)


@asynccontextmanager
async def opened(config: FileConfig) -> AsyncIterator[FileStore]:
    store = await open_file_store(config, StoreContext(config.name, Epoch(bytes(16))))
    try:
        yield store
    finally:
        await store.aclose()


def run(work: Work, config: FileConfig) -> None:
    async def main() -> None:
        async with opened(config) as store:
            await work(store)

    anyio.run(main)


def place_of(folder: Path, sample: Sample) -> Path:
    return folder / object_name(sample.key)


async def fates(store: FileStore, samples: list[Sample]) -> list[Fate]:
    return [one.fate for one in await store.save([one.given() for one in samples])]


@pytest.mark.parametrize("io", FileIo)
def test_a_full_disk_fails_that_save_and_leaves_no_byte(io: FileIo, tmp_path: Path) -> None:
    """C5, C6: and room that is made is used again."""

    async def work(store: FileStore) -> None:
        samples = [await make_sample(n, MIB) for n in range(5)]
        # Each before the next: which of a batch finds room is chance.
        outcomes = [(await store.save([one.given()]))[0] for one in samples]
        assert [one.fate for one in outcomes] == [Fate.DONE] * 3 + [Fate.FULL] * 2, outcomes
        assert "No space left" in outcomes[3].reason
        assert await store.locate(keys_of(samples)) == b"\1\1\1\0\0"
        assert not list((disk / "aside").glob("*/[0-9]*"))
        await store.delete(keys_of(samples[:1]))
        assert await fates(store, [samples[4]]) == [Fate.DONE]

    with mounted("tmpfs", tmp_path / "disk", options="size=3500k") as disk:
        run(work, configured(disk, io=io))


@pytest.mark.parametrize("io", FileIo)
def test_a_disk_that_died_fails_each_object_and_nothing_else(io: FileIo, tmp_path: Path) -> None:
    """C5: EIO, in every direction; the store still closes."""

    async def work(store: FileStore) -> None:
        there, late = await make_sample(1, 9000), await make_sample(2, 9000)
        assert await fates(store, [there]) == [Fate.DONE]
        shut_down(disk)
        saved = (await store.save([late.given()]))[0]
        assert saved.fate is Fate.FAULT
        assert saved.reason == "writing: Input/output error"
        loaded = (await store.load([there.wanted()]))[0]
        if io is FileIo.DIRECT:  # the page cache may still have it
            assert loaded.fate is Fate.FAULT
            assert loaded.reason == "reading: Input/output error"
        assert await store.locate(keys_of([late])) == b"\0"
        with pytest.raises(StoreFault, match="could not be deleted: Input/output error"):
            await store.delete(keys_of([there]))

    with disk_image(tmp_path, size_bytes=32 * MIB) as disk:
        run(work, configured(disk, io=io))


def test_direct_io_that_is_refused_is_replaced_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(store: FileStore) -> None:
        sample, into = await make_sample(1, 70_001), (await make_sample(1, 70_001)).wanted()
        assert await fates(store, [sample]) == [Fate.DONE]
        assert (await store.load([into]))[0].fate is Fate.DONE
        assert await sample.is_in(into)

    with mounted("ramfs", tmp_path / "ram") as path, caplog.at_level(logging.WARNING, "penstock"):
        run(work, configured(path, io=FileIo.DIRECT))
        said = [one.message for one in caplog.records if "io_buffered" in one.message]
        assert len(said) == 1
        assert re.search(
            r'path=\S+ reason="its filesystem has no disk, or refuses O_DIRECT"', said[0]
        )


@pytest.mark.parametrize("io", FileIo)
@pytest.mark.parametrize("left", [0, 100, 4095, 4096, 9000])
def test_a_torn_file_is_never_taken_for_whole(io: FileIo, left: int, tmp_path: Path) -> None:
    """A9: without a whole header that tells; with one, its length says that the rest is missing."""

    async def work(store: FileStore) -> None:
        sample = await make_sample(1, 70_000)
        assert await fates(store, [sample]) == [Fate.DONE]
        os.truncate(place_of(tmp_path, sample), left)
        into = sample.wanted()
        outcome = (await store.load([into]))[0]
        if left < FIXED_BYTES:
            assert outcome.payload_bytes == 0
            with pytest.raises((ForeignHeader, DamagedHeader)):
                decode(into.header)
        elif left < len(sample.header):  # its padding is not whole
            assert outcome.payload_bytes == 0
        else:
            assert outcome.payload_bytes == left - len(sample.header) < len(sample.payload)

    run(work, configured(tmp_path, io=io))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 30])
def test_who_saves_or_deletes_after_a_save_that_was_given_up_has_the_last_word(
    steps: int, tmp_path: Path
) -> None:
    """A6. Method: give up saving a large version after some turns of the loop, then save a small one, which would be
    done first, or delete it; look when nothing is under way any more."""

    async def give_up(store: FileStore, sample: Sample) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(store.save, [sample.given()])
            for _ in range(steps):
                await checkpoint()
            group.cancel_scope.cancel()

    async def quiet(store: FileStore) -> None:
        while store._reads.jobs or store._changes[0]._io.jobs:
            await checkpoint()

    async def work(store: FileStore) -> None:
        large = await make_sample(1, 16 * MIB)
        small = await make_sample(1, 4096, version=1)
        await give_up(store, large)
        assert await fates(store, [small]) == [Fate.DONE]
        await quiet(store)
        into = small.wanted()
        assert (await store.load([into]))[0].fate is Fate.DONE
        assert await small.is_in(into)
        await give_up(store, large)
        await store.delete(keys_of([large]))
        await quiet(store)
        assert await store.locate(keys_of([large])) == b"\0"
        await store.save([small.given()])
        async with anyio.create_task_group() as group:
            group.start_soon(store.delete, keys_of([small]))
            for _ in range(steps):
                await checkpoint()
            group.cancel_scope.cancel()
        assert await fates(store, [small]) == [Fate.DONE]
        await quiet(store)
        assert await store.locate(keys_of([small])) == b"\1"

    run(work, configured(tmp_path))


def test_a_save_that_failed_to_be_durable_may_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: what is synced last has its name already. It is to be taken back, and not forgotten."""

    async def work(store: FileStore) -> None:
        one = await make_sample(1, 4096)

        def failing(*_: object) -> Moves:
            future: Moves = asyncio.get_running_loop().create_future()
            future.set_result([-errno.EIO])
            return future

        with monkeypatch.context() as patch:
            patch.setattr(store._changes[0]._io, "write_files", failing)
            (outcome,) = await store.save([one.given()])
        assert outcome.fate is Fate.FAULT
        is_durable = store._durability is Durability.FDATASYNC
        assert outcome.may_be_there == is_durable

    for durability in DurabilityName:
        run(work, configured(tmp_path / durability.value, durability=durability))


def test_a_rank_has_its_own_disk(tmp_path: Path) -> None:
    folders = (tmp_path / "a", tmp_path / "b")

    async def work(store: FileStore) -> None:
        samples = [await make_sample(n, 100, device=n) for n in range(6)]
        assert await fates(store, samples) == [Fate.DONE] * 6
        for sample in samples:
            assert place_of(folders[sample.device % 2], sample).exists()
            assert not place_of(folders[1 - sample.device % 2], sample).exists()
        found = [one async for batch in store.recover() for one in batch]
        for entry in found:  # named so that they are found again
            sample = next(one for one in samples if one.key == entry.key)
            assert entry.device % 2 == sample.device % 2

    run(work, configured(folders, placement=Placement.BY_DEVICE))


def test_keys_are_spread_over_all_folders(tmp_path: Path) -> None:
    folders = tuple(tmp_path / name for name in "abc")

    async def work(store: FileStore) -> None:
        samples = [await make_sample(n, 100, device=n % 5) for n in range(60)]
        assert await fates(store, samples) == [Fate.DONE] * 60
        counts = [sum(place_of(folder, one).exists() for one in samples) for folder in folders]
        assert sum(counts) == 60
        assert min(counts) > 5

    run(work, configured(folders))


def test_two_nodes_may_share_a_folder_and_save_the_same_objects(tmp_path: Path) -> None:
    """A19. Method: two stores save one set of objects at the same time, many times over."""

    async def work(store: FileStore) -> None:
        async with opened(config) as other:
            samples = [await make_sample(n, 50_000) for n in range(20)]
            async with anyio.create_task_group() as group:
                for each in (store, other, store, other):
                    group.start_soon(fates, each, samples)
            for each in (store, other):
                for sample, into in [(one, one.wanted()) for one in samples]:
                    assert (await each.load([into]))[0].fate is Fate.DONE
                    assert await sample.is_in(into)

    config = configured(tmp_path, ownership=OwnershipName.SHARED, capacity=ByteSize(0))
    run(work, config)


def test_two_nodes_may_not_both_own_a_folder(tmp_path: Path) -> None:
    """A19: also when it is one of several, the others of which are let go of again."""

    async def work(_store: FileStore) -> None:
        with pytest.raises(StoreRefused, match="ownership: shared"):
            async with opened(configured((tmp_path / "b", tmp_path / "a"))):
                pass
        async with opened(configured((tmp_path / "b",))):
            pass

    run(work, configured((tmp_path / "a",)))


def test_more_than_the_engine_takes_is_a_fault_that_says_so(tmp_path: Path) -> None:
    async def work(store: FileStore) -> None:
        samples = [await make_sample(n, 100) for n in range(12)]
        outcomes = await store.save([one.given() for one in samples])
        assert [one.fate for one in outcomes] == [Fate.DONE] * 8 + [Fate.FAULT] * 4
        assert "jobs_max = 8" in outcomes[-1].reason
        with pytest.raises(StoreFault, match="jobs_max = 8"):
            await store.locate(keys_of(samples))

    run(work, configured(tmp_path, jobs_max=8, depth=4))


@pytest.mark.parametrize("io", FileIo)
def test_usage_is_what_the_files_have(io: FileIo, tmp_path: Path) -> None:
    """C6: cost, recovery and the files agree to the byte, headers and padding included."""

    async def work(store: FileStore) -> None:
        samples = [await make_sample(n, size) for n, size in enumerate((1, 4096, 4097, 300_000))]
        # Payloads of any length, as transforms make them.
        cut = [one.given() for one in samples]
        lengths = [1, 4096, 4099, 123_456]
        given = [
            type(one)(one.key, one.device, one.tenant, one.header, one.payload, length, one.hold)
            for one, length in zip(cut, lengths, strict=True)
        ]
        assert {one.fate for one in await store.save(given)} == {Fate.DONE}
        costs = {one.key: store.cost(len(one.header), one.payload_bytes) for one in given}
        found = [one async for batch in store.recover() for one in batch]
        assert {one.key: one.stored_bytes for one in found} == costs
        for one in given:
            size = (tmp_path / object_name(one.key)).stat().st_size
            assert size == len(one.header) + one.payload_bytes
            outcome = (await store.load([samples[given.index(one)].wanted()]))[0]
            assert outcome.payload_bytes == one.payload_bytes

    run(work, configured(tmp_path, io=io))


def test_what_the_page_cache_has_is_read_at_once_and_what_it_has_not_is_not(tmp_path: Path) -> None:
    """Seen to fail without RWF_NOWAIT: what had been dropped from the page cache was read from the disk, in place."""

    async def work(store: FileStore) -> None:
        sample, other = await make_sample(1, 5000), await make_sample(2, 5000)
        assert await fates(store, [sample]) == [Fate.DONE]
        wanted = sample.wanted()
        (outcome,) = store.load_at_once([wanted]) or [None]
        assert outcome is not None
        assert outcome.fate is Fate.DONE
        assert await sample.is_in(wanted)
        assert store.load_at_once([sample.wanted(), other.wanted()]) is None  # there is no other
        if drop_from_page_cache(place_of(tmp_path, sample)):
            assert store.load_at_once([sample.wanted()]) is None
        (again,) = await store.load([sample.wanted()])
        assert again.fate is Fate.DONE

    run(work, configured(tmp_path, io=FileIo.BUFFERED))


def test_direct_reads_are_never_made_at_once(tmp_path: Path) -> None:
    async def work(store: FileStore) -> None:
        sample = await make_sample(1, 5000)
        assert await fates(store, [sample]) == [Fate.DONE]
        assert store.load_at_once([sample.wanted()]) is None

    run(work, configured(tmp_path, io=FileIo.DIRECT))


def test_a_load_is_at_work_before_anybody_waits_for_it(tmp_path: Path) -> None:
    """And goes on when nobody does. Seen to fail while reads were asked for by who waits."""

    async def work(store: FileStore) -> None:
        sample, other = await make_sample(1, 5000), await make_sample(2, 5000)
        assert await fates(store, [sample]) == [Fate.DONE]
        wanted, missing, in_vain = sample.wanted(), other.wanted(), sample.wanted()
        reading = store.begin_load([wanted, missing])
        store.begin_load([in_vain])
        assert store._reads.jobs == 3
        outcomes = await reading.outcomes()
        assert [one.fate for one in outcomes] == [Fate.DONE, Fate.MISSING]
        assert await sample.is_in(wanted)
        while store._reads.jobs:
            await checkpoint()
        assert await sample.is_in(in_vain)

    run(work, configured(tmp_path, io=FileIo.DIRECT))


def drop_from_page_cache(path: Path) -> bool:
    """False where files lie in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return not path.is_relative_to("/dev/shm")
    finally:
        os.close(descriptor)
