"""The raw block store itself: room to the byte, prefixes, many saves in one flush, what it does not believe."""

from __future__ import annotations

import random
from dataclasses import replace

import anyio
import pytest
from support.failing_disk import (
    READ,
    SIZE,
    SLOT_BYTES,
    SLOTS,
    SYNC,
    FailingDisk,
    load,
    opened,
    play,
    samples,
    save,
    told,
)

from penstock.actors.core.slot_format import HEAD_BYTES
from penstock.actors.core.slot_log import BLOCKS_MIN
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_block import RawBlockStore, open_over
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import EagerStore, Fate, Given
from penstock.runtime.log import Log
from penstock.runtime.units import ByteSize

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
        await disk.write_one(at, [block])
        (outcome,) = await load(store, [one])
        assert outcome.fate is Fate.DAMAGED
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


def test_a_load_is_at_work_before_anybody_waits_for_it() -> None:
    """And goes on when nobody does: the slots of what is deleted meanwhile are nobody else's until then (A2). Seen to
    fail while reads were asked for by who waits."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        assert isinstance(store, EagerStore)
        some = await samples(SLOTS, 100, first=50)
        one, missing = some[0], (await samples(1))[0]
        assert (await save(store, some)).count(Fate.DONE) == store._volumes[0]._space.slots
        wanted, in_vain = one.wanted(), one.wanted()
        reading = store.begin_load([wanted, missing.wanted()])
        store.begin_load([in_vain])
        assert store.transfers == 2
        free = store._volumes[0].free_slots
        await store.delete(keys_of([one]))
        assert [each.fate for each in await reading.outcomes()] == [Fate.DONE, Fate.MISSING]
        assert await one.is_in(wanted)
        while store.transfers:
            await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert await one.is_in(in_vain)
        assert store._volumes[0].free_slots == free + 1

    play(scene)
