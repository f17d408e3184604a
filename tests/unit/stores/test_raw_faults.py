"""C5 for the raw block store: a disk that fails, in whatever it is asked."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import anyio
import pytest
from support.failing_disk import (
    READ,
    SLOT_BYTES,
    SLOTS,
    SYNC,
    WRITE,
    FailingDisk,
    load,
    opened,
    play,
    samples,
    save,
    told,
)

from penstock._native import crc64
from penstock.actors.api.store import Keys
from penstock.actors.core.slot_format import decode_put
from penstock.actors.stores import raw_volume
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.native_io import Moved
from penstock.actors.stores.raw_block import RawBlockStore, open_over
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.raw_volume import _told
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Outcome, StoreFault
from penstock.runtime.log import Log
from penstock.runtime.units import ByteSize


@pytest.mark.parametrize("durability", DurabilityName)
@pytest.mark.parametrize(
    ("what", "error", "fate"),
    [
        (WRITE, errno.EIO, Fate.FAULT),
        (WRITE, errno.EROFS, Fate.FAULT),
        (WRITE, errno.ENOSPC, Fate.FULL),
        (SYNC, errno.EIO, Fate.FAULT),
    ],
)
def test_a_save_that_fails_leaves_nothing_and_the_next_one_works(
    durability: DurabilityName, what: str, error: int, fate: Fate
) -> None:
    """C5, A6: the one before stays, what was there under the key of the failed one stays, no slot is lost."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        old, replaced, other = await samples(3)
        newer = await make_sample(1, 4000, version=1)
        assert await save(store, [old, replaced]) == [Fate.DONE] * 2
        disk.failing = {what: error}
        fates = await save(store, [newer, other])
        if what == SYNC and durability is DurabilityName.NONE:
            assert fates == [Fate.DONE] * 2  # nothing is flushed
        else:
            assert fates == [fate] * 2
            assert await store.locate(keys_of([old, replaced, other])) == b"\1\1\0"
            assert [one.fate for one in await load(store, [old, replaced])] == [Fate.DONE] * 2
        disk.failing = {}
        assert await save(store, [newer, other]) == [Fate.DONE] * 2
        assert [one.fate for one in await load(store, [old, newer, other])] == [Fate.DONE] * 3

    play(scene, durability)


@pytest.mark.parametrize("what", [WRITE, SYNC])
def test_a_log_that_cannot_be_written_fails_what_waits_and_goes_on_later(what: str) -> None:
    """C5: payloads can be written, records cannot. What failed does not come back when the store is opened again."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        kept, failed, later = await samples(3)
        await save(store, [kept])
        log_end = store._volumes[0]._layout.slots_at

        disk.failing = {what: errno.EIO}
        if what == WRITE:
            disk._or_fail = _only_before(disk, log_end)  # type: ignore[method-assign]
        for _ in range(3):
            assert await save(store, [failed]) == [Fate.FAULT]
            with pytest.raises(StoreFault, match="could not be deleted"):
                await store.delete(keys_of([kept]))
        assert await store.locate(keys_of([kept, failed])) == b"\1\0"
        disk.failing = {}
        assert await save(store, [later]) == [Fate.DONE]
        await store.delete(keys_of([kept]))
        assert await store.locate(keys_of([kept, failed, later])) == b"\0\0\1"

    play(scene)


def _only_before(disk: FailingDisk, end: int) -> Callable[[str, int, Callable[[], Moved]], Moved]:
    def or_fail(what: str, offset: int, begin: Callable[[], Moved]) -> Moved:
        error = disk.failing.get(what)
        return begin() if error is None or offset >= end else disk._later(lambda: -error)

    return or_fail


def test_a_read_that_fails_is_told_and_lets_go_of_everything() -> None:
    """C5: nothing stays under way, and a slot that was read is free again when its object is deleted."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        some = await samples(3, 20_000)
        await save(store, some)
        disk.failing = {READ: errno.EIO}
        outcomes = await load(store, some)
        assert [one.fate for one in outcomes] == [Fate.FAULT] * 3
        assert "Input/output error" in outcomes[0].reason
        assert store.transfers == 0
        await store.delete(keys_of(some))
        free = store._volumes[0].free_slots
        assert free == store._volumes[0]._space.slots

    play(scene)


def test_a_device_that_cannot_be_read_or_flushed_is_not_opened() -> None:
    async def run() -> None:
        disk = FailingDisk()
        await (await opened(disk)).aclose()
        for what in (READ, SYNC):
            again = FailingDisk(disk.now())
            again.failing = {what: errno.EIO}
            with pytest.raises(StoreFault, match="Input/output error"):
                await opened(again)

    anyio.run(run)


@pytest.mark.parametrize("what", [WRITE, SYNC])
def test_deleting_what_is_not_there_tells_whether_its_device_works(what: str) -> None:
    """B14: so writes are tried while a store is left alone.

    Seen to fail: nothing was asked of the device, and a dead one passed."""

    async def run() -> None:
        disks = [FailingDisk(), FailingDisk()]
        made = RawBlockConfig(
            name="raw",
            paths="/dev/a,/dev/b",
            slot_bytes=ByteSize(SLOT_BYTES),
            durability=DurabilityName.FDATASYNC,
        )
        store = await open_over(disks, made, Log("test"))
        kept = await samples(4)
        assert await save(store, kept) == [Fate.DONE] * 4
        on = [Keys.of([(bytes(8) + bytes([place]) + bytes(23), place)]) for place in range(2)]
        disks[1].failing = {what: errno.EIO}
        await store.delete(on[0])
        for _ in range(3):
            with pytest.raises(StoreFault, match="could not be deleted"):
                await store.delete(on[1])
        disks[1].failing = {}
        await store.delete(on[1])
        assert await save(store, await samples(4, first=10)) == [Fate.DONE] * 4
        await store.aclose()
        store.validate()
        again = await open_over([FailingDisk(one.now()) for one in disks], made, Log("test"))
        assert [one.fate for one in await load(again, kept)] == [Fate.DONE] * 4
        assert await told(again) == await told(store)

    anyio.run(run)


def test_what_hangs_is_asked_once_to_delete_what_is_not_there() -> None:
    """B14: such a deletion is tried again and again. Seen to fail: each waited behind the others in a queue without
    end."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        held: list[Callable[[], None]] = []
        later = disk._later
        disk._later = lambda end: _held(later, end, held)  # type: ignore[method-assign]
        unknown = Keys.of([(bytes(32), 0)])
        async with anyio.create_task_group() as group:
            for _ in range(5):
                with anyio.CancelScope() as given_up:
                    group.start_soon(_cancel, given_up)
                    await store.delete(unknown)
                assert given_up.cancelled_caught
        assert len(held) == 1
        assert not store._volumes[0]._committer._queue
        disk._later = later  # type: ignore[method-assign]
        held[0]()
        await store.delete(unknown)

    play(scene)


async def _cancel(scope: anyio.CancelScope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


def test_a_slot_is_not_reused_while_it_is_read() -> None:
    """A delete and a save come while a load is under way: it gets what was there when it began."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        count = SLOTS // 3 + 4
        fresh = await samples(count, 20_000, first=10)
        (old,) = await samples(1, 20_000)
        await save(store, [old])
        wanted = old.wanted()
        held: list[Callable[[], None]] = []
        later = disk._later
        disk._later = lambda end: _held(later, end, held)  # type: ignore[method-assign]
        async with anyio.create_task_group() as group:
            outcomes: list[Outcome] = []

            async def read() -> None:
                outcomes.extend(await store.load([wanted]))

            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            disk._later = later  # type: ignore[method-assign]
            assert store.transfers == 1
            await store.delete(keys_of([old]))
            fates = await save(store, fresh)
            assert Fate.FULL in fates
            for let_go in held:
                let_go()
        assert outcomes[0].fate is Fate.DONE
        assert await old.is_in(wanted)
        missed = [one for one, fate in zip(fresh, fates, strict=True) if fate is Fate.FULL]
        assert (await save(store, missed))[0] is Fate.DONE  # the slots that were read are free now

    play(scene)


def slots_of(store: RawBlockStore, disk: FailingDisk, sample: Sample) -> memoryview:
    """The bytes of an object that is in one run."""
    volume = store._volumes[0]
    record = volume.index.get(sample.key)
    assert record is not None
    ((first, slots),) = decode_put(record).runs
    start = volume._layout.slots_at + first * SLOT_BYTES
    return memoryview(disk._now)[start : start + slots * SLOT_BYTES]


def test_an_older_version_in_the_slots_that_a_record_names_is_damaged() -> None:
    """C4: as after a power cut that kept a record and lost its payload, where slots held an older version before.

    Seen to fail with records that tell the CRC of whole headers, which their own CRC makes the same for all.
    """

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        older, newer = [await make_sample(0, 4000, version=version) for version in (1, 2)]
        await save(store, [older])
        lost = bytes(slots_of(store, disk, older))
        await save(store, [newer])
        assert [one.fate for one in await load(store, [newer])] == [Fate.DONE]
        slots_of(store, disk, newer)[:] = lost
        assert [one.fate for one in await load(store, [newer])] == [Fate.DAMAGED]

    play(scene)


def test_objects_that_earlier_releases_saved_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their records tell the CRC of the whole header.

    Seen to fail with only the records of now read.
    """
    disk = FailingDisk()

    async def run() -> None:
        some = await samples(2)
        with monkeypatch.context() as before:
            before.setattr(
                raw_volume, "_checksums", lambda some: [_told(crc64(one)) for one in some]
            )
            store = await opened(disk)
            await save(store, some)
            await store.aclose()
        again = await opened(disk)
        assert [one.fate for one in await load(again, some)] == [Fate.DONE] * 2
        slots_of(again, disk, some[1])[8] ^= 1
        assert [one.fate for one in await load(again, some)] == [Fate.DONE, Fate.DAMAGED]

    anyio.run(run)


def _held(
    later: Callable[[Callable[[], int]], Moved],
    end: Callable[[], int],
    held: list[Callable[[], None]],
) -> Moved:
    """A transfer that ends when it is let go."""
    moved: Moved = asyncio.get_running_loop().create_future()
    held.append(lambda: moved.set_result(end()))
    return moved
