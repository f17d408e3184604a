"""The raw block store itself: disks that fail or are full, room to the byte, prefixes, many saves in one flush."""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
from support.power_cut import RecordingDisk
from typing_extensions import Buffer

from penstock.actors.core.slot_format import HEAD_BYTES
from penstock.actors.core.slot_log import BLOCKS_MIN
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.native_io import Moved
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_block import RawBlockStore, open_over
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Given, Outcome, StoreFault
from penstock.runtime.log import Log
from penstock.runtime.units import KIB, ByteSize

SLOT_BYTES = 8 * KIB
SLOTS = 40
SIZE = HEAD_BYTES + (BLOCKS_MIN + 8) * 4096 + SLOTS * SLOT_BYTES
READ, WRITE, SYNC = "read", "write", "sync"


class FailingDisk(RecordingDisk):
    """Fails what `failing` says, and counts everything. Payloads begin at `slots_at`."""

    def __init__(self, image: bytes = bytes(SIZE)) -> None:
        super().__init__(image, random.Random(0))
        self.failing: dict[str, int] = {}  # errno by what is done
        self.asked: list[tuple[str, int]] = []  # what, and where
        self.spared_bytes = 0  # what lies before it does not fail

    def read(self, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved:
        return self._or_fail(
            READ, offset, lambda: super(FailingDisk, self).read(offset, buffers, hold)
        )

    def write(self, offset: int, buffers: Sequence[Buffer], hold: object) -> Moved:
        return self._or_fail(
            WRITE, offset, lambda: super(FailingDisk, self).write(offset, buffers, hold)
        )

    def sync(self) -> Moved:
        return self._or_fail(SYNC, SIZE, super().sync)

    def count(self, what: str) -> int:
        return sum(one == what for one, _ in self.asked)

    def _or_fail(self, what: str, offset: int, begin: Callable[[], Moved]) -> Moved:
        self.asked.append((what, offset))
        error = self.failing.get(what)
        if error is None or offset < self.spared_bytes:
            return begin()
        return self._later(lambda: -error)


async def opened(
    disk: RecordingDisk, durability: DurabilityName = DurabilityName.FDATASYNC, **given: Any
) -> RawBlockStore:
    made = RawBlockConfig(
        name="raw",
        paths="/dev/recorded",
        durability=durability,
        **{"slot_bytes": ByteSize(SLOT_BYTES), **given},
    )
    return await open_over([disk], made, Log("test"))


Scene = Callable[[RawBlockStore, FailingDisk], Awaitable[None]]


def play(
    scene: Scene, durability: DurabilityName = DurabilityName.FDATASYNC, image: bytes = bytes(SIZE)
) -> FailingDisk:
    """`scene`; then the books must be right, and say the same when they are read again."""
    disk = FailingDisk(image)

    async def run() -> None:
        store = await opened(disk, durability)
        await scene(store, disk)
        assert not store.transfers
        await store.aclose()
        store.validate()
        again = await opened(FailingDisk(disk.now()), durability)
        again.validate()
        assert await told(again) == await told(store)

    anyio.run(run)
    return disk


async def told(store: RawBlockStore) -> dict[bytes, int]:
    return {one.key: one.stored_bytes async for batch in store.recover() for one in batch}


async def samples(count: int, size: int = 4000, first: int = 0) -> list[Sample]:
    return [await make_sample(first + n, size) for n in range(count)]


async def save(store: RawBlockStore, some: Sequence[Sample]) -> list[Fate]:
    return [one.fate for one in await store.save([one.given() for one in some])]


async def load(store: RawBlockStore, some: Sequence[Sample]) -> list[Outcome]:
    wanted = [one.wanted() for one in some]
    outcomes = await store.load(wanted)
    for one, into, outcome in zip(some, wanted, outcomes, strict=True):
        assert outcome.fate is not Fate.DONE or await one.is_in(into)
    return outcomes


# C5: a disk that fails.


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


def _held(
    later: Callable[[Callable[[], int]], Moved],
    end: Callable[[], int],
    held: list[Callable[[], None]],
) -> Moved:
    """A transfer that ends when it is let go."""
    import asyncio

    moved: Moved = asyncio.get_running_loop().create_future()
    held.append(lambda: moved.set_result(end()))
    return moved


# C6: room, to the byte.


def test_room_is_used_to_the_last_slot_and_never_beyond() -> None:
    """C6: superblocks, log and slots together are no larger than the capacity; nothing is written behind it."""
    bound = SIZE - 3 * SLOT_BYTES - 4096

    async def run() -> None:
        disk = FailingDisk(bytes(SIZE))
        store = await opened(disk, capacity=ByteSize(bound))
        layout = store._volumes[0]._layout
        assert layout.end <= bound
        assert layout.end + SLOT_BYTES > bound
        assert store.capacity_bytes == layout.slots * SLOT_BYTES
        some = await samples(layout.slots + 1)  # header and payload: one slot each
        assert store.cost(4096, 4096) == SLOT_BYTES
        fates = await save(store, some)
        assert fates == [Fate.DONE] * layout.slots + [Fate.FULL]
        assert sum((await told(store)).values()) == store.capacity_bytes
        await store.delete(keys_of(some[:2]))
        pair = await make_sample(900, 9000)  # in two slots, wherever they are
        assert store.cost(4096, len(pair.payload)) == 2 * SLOT_BYTES
        assert await save(store, [pair]) == [Fate.DONE]
        assert [one.fate for one in await load(store, [pair, *some[2:-1]])] == [Fate.DONE] * (
            layout.slots - 1
        )
        await store.aclose()
        store.validate()
        assert max(one.offset + len(one.data) for one in disk.writes) <= bound

    anyio.run(run)


def test_an_object_larger_than_the_device_is_full_and_an_unknown_rank_refused() -> None:
    async def run() -> None:
        disk = FailingDisk()
        made = RawBlockConfig(
            name="raw", per_rank_device_paths={2: "/dev/recorded"}, slot_bytes=ByteSize(SLOT_BYTES)
        )
        store = await open_over([disk], made, Log("test"))
        huge, stray = await make_sample(1, SIZE, device=2), await make_sample(2, 1, device=1)
        outcomes = await store.save([huge.given(), stray.given()])
        assert [one.fate for one in outcomes] == [Fate.FULL, Fate.REFUSED]
        assert "rank 1 has no device: give it" in outcomes[1].reason
        await store.aclose()
        store.validate()

    anyio.run(run)


@pytest.mark.parametrize("durability", DurabilityName)
def test_under_continuous_load_the_log_stays_on_its_ring_and_is_complete(
    durability: DurabilityName,
) -> None:
    """C3: objects come and go at a full store for many rounds of the log; at the end it tells exactly what is there."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        draw = random.Random(5)
        pool = await samples(30, 9000)
        present: set[bytes] = set()
        for _ in range(400):
            one = draw.choice(pool)
            if one.key in present:
                await store.delete(keys_of([one]))
                present.discard(one.key)
            elif await save(store, [one]) == [Fate.DONE]:
                present.add(one.key)
        log = store._volumes[0]._committer._log
        assert log.head > 5 * BLOCKS_MIN
        assert {*await told(store)} == present

    play(scene, durability)


# Prefixes.


def test_a_prefix_is_read_up_to_the_first_miss() -> None:
    """Nothing behind it is read, also when a read fails; and nothing stays under way."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        some = await samples(6, 9000)
        await save(store, [one for at, one in enumerate(some) if at != 3])

        async def prefix(chosen: list[Sample]) -> tuple[list[Fate], int]:
            wanted = [one.wanted() for one in chosen]
            before = disk.count(READ)
            outcomes = await store.load_prefix(wanted)
            assert not store.transfers
            for one, into, outcome in zip(chosen, wanted, outcomes, strict=True):
                assert outcome.fate is not Fate.DONE or await one.is_in(into)
            return [one.fate for one in outcomes], disk.count(READ) - before

        hit, miss = Fate.DONE, Fate.MISSING
        assert await prefix(some) == ([hit] * 3 + [miss] * 3, 3)
        assert await prefix(some[4:]) == ([hit] * 2, 2)
        assert await prefix(some[3:]) == ([miss] * 3, 0)
        assert await prefix([]) == ([], 0)
        disk.failing = {READ: errno.EIO}
        assert await prefix(some) == ([Fate.FAULT] + [miss] * 5, 3)

    play(scene)


# Many at once.


def test_saves_that_come_together_share_a_write_of_the_log_and_a_flush() -> None:
    """Group commit: 64 at once take a few flushes, one after the other two each."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        some = await samples(24)
        before = disk.count(SYNC)
        async with anyio.create_task_group() as group:
            for one in some[:20]:
                group.start_soon(save, store, [one])
        together = disk.count(SYNC) - before
        assert together <= 6
        for one in some[20:]:
            await save(store, [one])
        assert disk.count(SYNC) - before - together == 2 * 4

    play(scene)


def test_without_durability_nothing_is_flushed_until_slots_or_log_run_out() -> None:
    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        before = disk.count(SYNC)
        some = await samples(SLOTS - 4)
        await save(store, some)
        await store.delete(keys_of(some[:10]))
        assert disk.count(SYNC) == before
        fresh = await samples(12, first=100)
        assert await save(store, fresh) == [Fate.DONE] * 12  # the slots of those that were deleted
        assert disk.count(SYNC) == before + 1

    play(scene, DurabilityName.NONE)


def test_recovery_reads_the_log_and_no_payload() -> None:
    """C2: in batches, oldest first."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        await save(store, await samples(12, 9000))

    image = play(scene).now()

    async def run() -> None:
        disk = FailingDisk(image)
        store = await opened(disk)
        expected = [one.key for one in await samples(12, 9000)]
        batches = [[one.key for one in batch] async for batch in store.recover()]
        assert [key for batch in batches for key in batch] == expected
        slots_at = store._volumes[0]._layout.slots_at
        assert all(where < slots_at for what, where in disk.asked if what == READ)
        await store.aclose()

    anyio.run(run)


def test_a_lost_block_of_the_log_costs_its_objects_and_no_others() -> None:
    """A7: a slot that was given to another object meanwhile is that one's alone."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        for one in await samples(6):
            await save(store, [one])

    image = bytearray(play(scene).now())
    third = HEAD_BYTES + 3 * 4096
    image[third + 200] ^= 1

    async def check(store: RawBlockStore, disk: FailingDisk) -> None:
        some = await samples(6)
        assert await store.locate(keys_of(some)) == b"\1\1\0\1\1\1"
        assert await save(store, [some[2]]) == [Fate.DONE]
        assert {one.fate for one in await load(store, some)} == {Fate.DONE}

    play(check, image=bytes(image))


def test_what_is_not_the_object_that_was_saved_is_refused() -> None:
    """A7, A9: slots that hold another header than the one that was logged."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        (one,) = await samples(1)
        await save(store, [one])
        at = store._volumes[0]._layout.slots_at
        (block,) = fresh_pages([4096])
        await disk.write(at, [block], None)
        (outcome,) = await load(store, [one])
        assert outcome.fate is Fate.REFUSED
        assert "something else" in outcome.reason

    play(scene)


def test_a_save_given_up_before_it_was_written_gives_back_its_slots() -> None:
    """A2, A6: when the transfer is over, and not before."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        (one,) = await samples(1, 20_000)
        volume = store._volumes[0]
        given: Given = replace(one.given(), hold=object())
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(store.save, [given])
                while not store.transfers:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert volume.free_slots < volume._space.slots
        while store.transfers:
            await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert volume.free_slots == volume._space.slots
        assert await store.locate(keys_of([one])) == b"\0"

    play(scene)
