"""The log of a raw device: bounded, found again after any cut, and never more than what was flushed is lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from penstock.actors.core.slot_format import (
    RUNS_MAX,
    BlockHead,
    Placed,
    Run,
    decode_block,
    encode_delete,
    encode_put,
    is_put,
    key_of,
    records_of,
    room_of,
)
from penstock.actors.core.slot_log import BLOCKS_MIN, EMPTY, End, EndSearch, SlotLog, log_blocks

BLOCK = 4096
VOLUME = bytes(range(16))
Ring = dict[int, bytes]  # blocks by place


class Rig:
    """A log over a ring in memory, whose owner behaves: what is live, what is flushed, what a cut may leave."""

    def __init__(self, blocks: int, ring: Ring | None = None) -> None:
        self.blocks = blocks
        self.ring: Ring = {} if ring is None else ring  # with all that was written
        self.kept: Ring = dict(self.ring)  # what is durable
        self.end = find_end(heads(self.ring))
        self.log = SlotLog(volume=VOLUME, block_bytes=BLOCK, blocks=blocks, end=self.end)
        self.live = replay(self.ring, self.end, blocks)
        self.durable_live = dict(self.live)
        self.sequence = max(
            (int.from_bytes(one[8:16], "little") for one in self.live.values()), default=0
        )
        self.appends = 0
        self.flushes = 0
        self.flush()

    def commit(self, records: list[bytes], *, flushed: bool) -> None:
        """All of them, in as many appends as it takes."""
        while records:
            if self.log.wants_flush:
                self.flush()
            cleaned = self.log.to_clean()
            copies = [
                record
                for number in cleaned
                for record in contents(self.ring, number, self.blocks)
                if self.live.get(key_of(record)) == record
            ]
            append = self.log.append(copies, records)
            for number, block in enumerate(append.blocks, start=append.first):
                self.ring[self.log.place(number)] = block
            self.log.written(append, cleaned)
            self.appends += 1
            apply(self.live, records[: append.new_records])
            records = records[append.new_records :]
            assert self.log.used_blocks <= self.blocks
            if flushed:
                self.flush()

    def flush(self) -> None:
        flushed = self.log.mark()
        self.kept = dict(self.ring)
        self.durable_live = dict(self.live)
        flushed()
        self.flushes += 1

    def put(self, key: int, runs: int = 1) -> bytes:
        self.sequence += 1
        places = tuple(Run(self.sequence % 1000 + n, 1) for n in range(runs))
        return encode_put(
            Placed(name(key), 3, bytes(16), self.sequence, 4096, 8192, bytes(8), places)
        )

    def delete(self, key: int) -> bytes:
        self.sequence += 1
        return encode_delete(name(key), self.sequence)

    def cut(self, choose: Callable[[], bool]) -> Ring:
        """What a power cut leaves: all that is durable, and of the rest what `choose` says."""
        left = dict(self.kept)
        for place, block in self.ring.items():
            if self.kept.get(place) != block and choose():
                left[place] = block
        return left


def name(key: int) -> bytes:
    return key.to_bytes(32, "big")


def heads(ring: Ring) -> dict[int, BlockHead]:
    found = [decode_block(block, VOLUME) for block in ring.values()]
    return {head.number: head for head in found if head is not None}


def find_end(found: dict[int, BlockHead]) -> End:
    search = EndSearch()
    for number in sorted(found):
        search.see(found[number])
    return search.end


def contents(ring: Ring, number: int, blocks: int) -> list[bytes]:
    block = ring.get(number % blocks)
    head = None if block is None else decode_block(block, VOLUME)
    if block is None or head is None or head.number != number:
        return []
    return records_of(block, head)


def apply(live: dict[bytes, bytes], records: list[bytes]) -> None:
    for record in records:
        live.pop(key_of(record), None)
        if is_put(record):
            live[key_of(record)] = record


def replay(ring: Ring, end: End, blocks: int) -> dict[bytes, bytes]:
    live: dict[bytes, bytes] = {}
    for number in range(end.tail, end.head + 1):
        apply(live, contents(ring, number, blocks))
    return live


def churn(rig: Rig, draw: random.Random, keys: int, turns: int, *, flushed: bool) -> None:
    for _ in range(turns):
        batch = []
        for _ in range(draw.choice((1, 1, 2, 10, 60))):
            key = draw.randrange(keys)
            batch.append(rig.delete(key) if draw.random() < 0.3 else rig.put(key))
        rig.commit(batch, flushed=flushed)


@pytest.mark.parametrize("slots", [24, 400, 3000])
@pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "not flushed"])
def test_the_log_never_grows_beyond_its_ring(slots: int, flushed: bool) -> None:
    """C3: under continuous load, with as many objects as there are slots, for many rounds of the ring."""
    draw = random.Random(slots)
    rig = Rig(log_blocks(slots, BLOCK))
    rig.commit([rig.put(key) for key in range(slots)], flushed=flushed)
    for _ in range(8):
        churn(rig, draw, slots, 3 * rig.blocks, flushed=flushed)
        rig.commit([rig.put(key) for key in range(slots)], flushed=flushed)
        assert replay(rig.ring, find_end(heads(rig.ring)), rig.blocks) == rig.live
    assert rig.log.head > 8 * rig.blocks
    if not flushed:
        assert rig.flushes < rig.appends / 2  # only to clean


def test_the_log_takes_records_that_hardly_fit_two_to_a_block() -> None:
    """Objects in as many pieces as a record may name."""
    slots = RUNS_MAX * 40
    rig = Rig(log_blocks(slots, BLOCK))
    for turn in range(60):
        rig.commit([rig.put(key, runs=RUNS_MAX) for key in range(turn % 7, 40)], flushed=True)
        assert replay(rig.ring, find_end(heads(rig.ring)), rig.blocks) == rig.live


@pytest.mark.parametrize("seed", range(12))
def test_after_a_cut_nothing_flushed_is_lost_and_nothing_torn_comes_back(seed: int) -> None:
    """C4: lives that end in cuts, each going on from what the one before left; in any combination of blocks that were
    not flushed. Each life ends with the objects of some moment after its last flush."""
    draw = random.Random(seed)
    blocks = draw.choice((BLOCKS_MIN, 50, 120))
    rig = Rig(blocks)
    slots = (blocks - BLOCKS_MIN) * 11 + 20
    for _ in range(40):
        churn(rig, draw, slots, draw.randrange(30), flushed=draw.random() < 0.5)
        rig.flush()
        moments = [dict(rig.live)]
        for _ in range(draw.randrange(4)):
            for record in (rig.put(draw.randrange(slots)), rig.delete(draw.randrange(slots))):
                rig.commit([record], flushed=False)
                moments.append(dict(rig.live))
        chance = draw.choice((0.0, 0.3, 0.7, 1.0))
        left = rig.cut(lambda chance=chance: draw.random() < chance)
        sequence = rig.sequence
        rig = Rig(blocks, left)
        assert rig.live in moments
        if chance == 1.0:
            assert rig.live == moments[-1]
        rig.sequence = sequence


def test_what_is_taken_back_is_written_over_and_does_not_count() -> None:
    """C5: an append that could not be flushed."""
    rig = Rig(BLOCKS_MIN)
    rig.commit([rig.put(1)], flushed=True)
    back = rig.log.snapshot()
    failed = rig.log.append([], [rig.put(2)] * 60)
    for number, block in enumerate(failed.blocks, start=failed.first):
        rig.ring[rig.log.place(number)] = block
    rig.log.written(failed, range(0))
    back()
    rig.commit([rig.put(3)], flushed=True)
    end = find_end(heads(rig.ring))
    assert [*replay(rig.ring, end, rig.blocks)] == [name(1), name(3)]
    assert len(failed.blocks) > 1  # the second one is still there, and not linked


def test_a_lost_block_in_the_middle_costs_its_records_only() -> None:
    """A bit that flips in the log, long after it was flushed."""
    rig = Rig(BLOCKS_MIN)
    for key in range(8):
        rig.commit([rig.put(key)], flushed=True)
    block = bytearray(rig.ring[3])
    block[100] ^= 1
    rig.ring[3] = bytes(block)
    end = find_end(heads(rig.ring))
    assert end.head == 8
    assert [*replay(rig.ring, end, rig.blocks)] == [name(key) for key in range(8) if key != 2]


def test_an_empty_ring_ends_before_its_first_block() -> None:
    assert find_end({}) == EMPTY
    rig = Rig(BLOCKS_MIN)
    rig.commit([rig.put(1)], flushed=False)
    assert find_end(heads(rig.ring)).head == 1
    assert find_end(heads(rig.cut(lambda: False))) == EMPTY


def test_blocks_of_another_volume_are_none_of_ours() -> None:
    rig = Rig(BLOCKS_MIN)
    rig.commit([rig.put(1)], flushed=True)
    assert decode_block(rig.ring[1], VOLUME) is not None
    assert decode_block(rig.ring[1], bytes(16)) is None
    assert decode_block(bytes(BLOCK), VOLUME) is None


def test_records_come_back_as_they_were() -> None:
    placed = Placed(
        name(9),
        65535,
        bytes(range(16)),
        2**63,
        8192,
        2**40,
        bytes(range(8)),
        (Run(0, 1), Run(2**32 - 1, 7)),
    )
    rig = Rig(BLOCKS_MIN)
    records = [encode_put(placed), encode_delete(name(4), 2**63 + 1)]
    append = rig.log.append([], records)
    head = decode_block(append.blocks[0], VOLUME)
    assert head is not None
    assert records_of(append.blocks[0], head) == records
    assert head.records_bytes < room_of(BLOCK)
