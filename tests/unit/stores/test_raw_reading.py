"""Objects of all kinds in one batch of a raw store: each is told of in its place."""

from __future__ import annotations

import random

import anyio
from support.failing_disk import SLOT_BYTES, FailingDisk, play, samples, save

from penstock.actors.core.slot_format import (
    PUT_BYTES_MIN,
    Placed,
    Run,
    decode_put,
    decode_spot,
    encode_put,
)
from penstock.actors.stores.raw_block import RawBlockStore, open_over
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Wanted
from penstock.runtime.log import Log
from penstock.runtime.units import ByteSize

SEEDS = range(5)


async def in_pieces(store: RawBlockStore) -> Sample:
    """An object in several rows of slots: those that are free lie apart."""
    small = await samples(30, first=100)
    assert await save(store, small) == [Fate.DONE] * 30
    await store.delete(keys_of(small[::2]))
    large = await make_sample(1, 60_000)
    filling = await make_sample(2, 60_000)
    assert await save(store, [filling, large]) == [Fate.DONE] * 2
    records = store._volumes[0].index.get_all([one.key for one in (filling, large)])
    assert any(record is not None and len(record) > PUT_BYTES_MIN for record in records)
    await store.delete(keys_of(small[1::2]))
    return large


def test_each_of_a_batch_is_told_of_in_its_place() -> None:
    """In one row and in pieces, larger than there is room for, damaged, missing, twice."""

    async def scene(store: RawBlockStore, disk: FailingDisk) -> None:
        large = await in_pieces(store)
        whole, longer, wrong, absent = [await make_sample(n, 4096) for n in range(10, 14)]
        assert await save(store, [whole, longer, wrong]) == [Fate.DONE] * 3
        (record,) = store._volumes[0].index.get_all([wrong.key])
        assert record is not None
        at = store._volumes[0]._layout.slots_at + decode_put(record).runs[0].first * SLOT_BYTES
        moved = disk.write_one(at, [bytes(4096)])
        await moved
        asked = [absent, whole, large, wrong, longer, whole]
        fates = [Fate.MISSING, Fate.DONE, Fate.DONE, Fate.DAMAGED, Fate.REFUSED, Fate.DONE]
        for seed in SEEDS:
            order = random.Random(seed).sample(range(len(asked)), len(asked))
            wanted = [_wanted(asked[n], is_short=asked[n] is longer) for n in order]
            told = await store.load(wanted)
            assert [one.fate for one in told] == [fates[n] for n in order]
            for n, into, outcome in zip(order, wanted, told, strict=True):
                assert outcome.fate is not Fate.DONE or await asked[n].is_in(into)
            assert "there is room for" in told[order.index(4)].reason
        assert not store.transfers

    play(scene)


def _wanted(one: Sample, *, is_short: bool) -> Wanted:
    wanted = one.wanted()
    if is_short:
        wanted.payload = wanted.payload[:0]
    return wanted


def test_a_batch_over_several_devices_is_told_of_in_its_place() -> None:
    async def run() -> None:
        disks = [FailingDisk() for _ in range(3)]
        made = RawBlockConfig(
            name="raw", paths="/dev/a,/dev/b,/dev/c", slot_bytes=ByteSize(SLOT_BYTES)
        )
        store = await open_over(disks, made, Log("test"))
        some = await samples(24)
        assert await save(store, some[::2]) == [Fate.DONE] * 12
        wanted = [one.wanted() for one in some]
        told = await store.load(wanted)
        assert [one.fate for one in told] == [Fate.DONE, Fate.MISSING] * 12
        assert [await one.is_in(into) for one, into in zip(some[::2], wanted[::2], strict=True)]
        assert all(disk.count("read") for disk in disks)
        await store.aclose()
        store.validate()

    anyio.run(run)


def test_what_tells_where_an_object_is_agrees_with_all_of_its_record() -> None:
    draw = random.Random(1)
    for _ in range(200):
        placed = Placed(
            key=draw.randbytes(32),
            device=draw.randrange(1 << 16),
            tenant=draw.randbytes(16),
            sequence=draw.randrange(1 << 64),
            header_bytes=draw.randrange(1 << 32),
            payload_bytes=draw.randrange(1 << 64),
            header_checksum=draw.randbytes(8),
            runs=(Run(draw.randrange(1 << 32), draw.randrange(1, 1 << 32)),),
        )
        told = int.from_bytes(placed.header_checksum, "little")
        spot = (placed.sequence, placed.header_bytes, placed.payload_bytes, told)
        assert decode_spot(encode_put(placed)) == (*spot, placed.runs[0].first)
