"""Opening a device for a raw store: formatting it if it is blank, else reading its log. No payload is read.

All of it in steps: reads are awaited, and between what takes time without reading the loop has its turn.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from itertools import islice

from anyio.lowlevel import checkpoint

from penstock.actors.api.errors import MediumRefused
from penstock.actors.core.slot_format import (
    HEAD_BYTES,
    NO_RANK,
    VOLUME_BYTES,
    BlockHead,
    ForeignMedium,
    NewerMedium,
    Superblock,
    decode_block,
    encode_superblock,
    is_put,
    key_of,
    latest_superblock,
    records_of,
    runs_of,
    sequence_of,
)
from penstock.actors.core.slot_log import EMPTY, End, EndSearch, SlotLog
from penstock.actors.core.slot_space import SlotIndex, SlotSpace, oldest_first
from penstock.actors.stores.device import Device, whole
from penstock.actors.stores.native_io import Moves
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_layout import Geometry, erasing, fit, lay_out, spared, told_slots
from penstock.actors.stores.raw_volume import Contents, Volume
from penstock.actors.stores.store import StoreFault, StoreRefused
from penstock.runtime.log import Log

STEP_BYTES = 64 << 10  # of the log, in one step
STEP_RECORDS = 512
SEQUENCE_GAP_BITS = 32  # no record of this life equals one that a cut took from an earlier life


async def open_volume(device: Device, geometry: Geometry, *, is_durable: bool, log: Log) -> Volume:
    """Raises StoreRefused, StoreFault."""
    layout, is_new = await _layout(device, geometry, log)
    replay = _Replay(device, layout, log)
    contents = await replay.contents(EMPTY if is_new else await replay.find_end())
    volume = Volume(device, geometry, contents, is_durable=is_durable)
    # After a kill, what was read may not be durable yet, and nothing may be built on it before it is.
    for answer in (volume.delete(contents.stale), volume.flush()):
        for why in filter(None, await answer):
            raise StoreFault(f"{device.name}: {why}")
    return volume


def judged(head: memoryview, geometry: Geometry) -> tuple[Superblock, Superblock | None]:
    """How a device with these first bytes is to be laid out, and how it is; None: it is blank. Raises StoreRefused."""
    try:
        found = latest_superblock(head)
    except MediumRefused as refusal:
        raise StoreRefused(geometry.key, _advice(geometry.name, refusal)) from None
    if found is None:
        return lay_out(geometry, secrets.token_bytes(VOLUME_BYTES)), None
    return fit(found, geometry), found


async def _layout(device: Device, geometry: Geometry, log: Log) -> tuple[Superblock, bool]:
    """Of the device, and whether it is new."""
    if device.size_bytes < HEAD_BYTES:
        lay_out(geometry, bytes(VOLUME_BYTES))  # refuses it
    (head,) = fresh_pages([HEAD_BYTES])
    await _whole(device.read([(0, [head])], head), HEAD_BYTES, f"{device.name} cannot be read")
    fitting, found = judged(head, geometry)
    if found is None:
        # The third tells that the second was there: from then on a first block of zeros is of somebody else.
        for generation in (1, 2, 3):
            fitting = fitting._replace(generation=generation)
            await _write_superblock(device, fitting)
        return fitting, True
    if fitting.rank != found.rank:
        before = "no rank" if found.rank == NO_RANK else f"rank {found.rank}"
        log.warning(
            "another_ranks_device",
            device=device.name,
            reason=f"it was {before}'s; its objects are kept, and found from everywhere",
            advice=f"if paths were mixed up, name them as they were; else nothing, or {erasing(device.name)}",
        )
    told, all_ = told_slots(fitting, geometry), spared(fitting)
    if told < all_:
        reason = f"it has room for {all_} slots, and objects may take {told} of them now"
        advice = "what is there beyond is evicted; raise capacity to keep it"
        log.warning("capacity_lowered", device=device.name, reason=reason, advice=advice)
    if fitting != found:
        fitting = fitting._replace(generation=found.generation + 1)
        await _write_superblock(device, fitting)
    return fitting, False


async def _write_superblock(device: Device, made: Superblock) -> None:
    (block,) = fresh_pages([made.block_bytes])
    block[:] = encode_superblock(made)
    where = f"{device.name} cannot be written"
    await _whole(device.write([(made.place, [block])], block), len(block), where)
    await _whole(device.sync(), 0, where)


class _Replay:
    def __init__(self, device: Device, layout: Superblock, log: Log) -> None:
        self._device = device
        self._layout = layout
        self._log = log
        self._found: dict[int, BlockHead] = {}

    async def find_end(self) -> End:
        """By looking at every block."""
        blocks = self._layout.log_blocks
        step = max(1, STEP_BYTES // self._layout.block_bytes)
        for first in range(0, blocks, step):
            async for place, _, head in self._blocks(range(first, min(first + step, blocks))):
                if head.number % blocks == place:
                    self._found[head.number] = head
        search = EndSearch()
        latest = max(self._found, default=0)
        # No block before these is needed by any that may be the last.
        for seen, number in enumerate(range(max(1, latest - blocks + 1), latest + 1)):
            if number in self._found:
                search.see(self._found[number])
            if seen % STEP_RECORDS == 0:
                await checkpoint()
        return search.end

    async def contents(self, end: End) -> Contents:
        layout = self._layout
        index = SlotIndex()
        sequence = secrets.randbits(SEQUENCE_GAP_BITS)
        latest = await self._apply(end, index)
        space, stale = await self._claim(index)
        log = SlotLog(
            volume=layout.volume,
            block_bytes=layout.block_bytes,
            blocks=layout.log_blocks,
            end=end,
        )
        return Contents(layout, log, index, space, latest + sequence, stale)

    async def _apply(self, end: End, index: SlotIndex) -> int:
        """All records, in order. The largest sequence."""
        latest, lost = 0, 0
        blocks = self._layout.log_blocks
        step = max(1, STEP_BYTES // self._layout.block_bytes)
        number = end.tail
        while number <= end.head:
            place = number % blocks
            count = min(step, end.head - number + 1, blocks - place)
            seen = 0
            async for at, block, head in self._blocks(range(place, place + count)):
                if head.number != number + at - place:
                    continue
                seen += 1
                for record in records_of(block, head):
                    if (sequence := sequence_of(record)) > latest:
                        latest = sequence
                    if is_put(record):
                        index.put(record)
                    else:
                        index.remove(key_of(record))
            lost += count - seen
            number += count
        if lost:
            reason = f"{lost} of its blocks are damaged: the objects they name are missing"
            self._log.warning("log_damaged", device=self._device.name, reason=reason)
        return latest

    async def _claim(self, index: SlotIndex) -> tuple[SlotSpace, list[bytes]]:
        """Slots for all; where two objects are said to be in one, which a damaged log may say, the later one is."""
        space = SlotSpace(self._layout.slots)
        is_clear = True
        for part in index.parts():
            for at, record in enumerate(part):
                is_clear = is_clear and space.claim(runs_of(record))
                if at % STEP_RECORDS == 0:
                    await checkpoint()
        if is_clear:
            return space, []
        space = SlotSpace(self._layout.slots)
        stale: list[bytes] = []
        parts = [sorted(part, key=sequence_of) for part in index.parts()]
        for record in reversed([*oldest_first(parts)]):
            if not space.claim(runs_of(record)):
                stale.append(key_of(record))
                index.remove(stale[-1])
        reason = f"{len(stale)} objects have lost their slots to others, and are missing"
        self._log.warning("log_damaged", device=self._device.name, reason=reason)
        return space, stale

    async def _blocks(self, places: range) -> AsyncIterator[tuple[int, bytes, BlockHead]]:
        """(place, block, head) of those that are whole. One read."""
        size = self._layout.block_bytes
        (memory,) = fresh_pages([len(places) * size])
        at = HEAD_BYTES + places.start * size
        reading = self._device.read([(at, [memory])], memory)
        await _whole(reading, len(memory), f"the log of {self._device.name} cannot be read")
        for place in places:
            start = (place - places.start) * size
            block = bytes(memory[start : start + size])
            head = decode_block(block, self._layout.volume)
            if head is not None:
                yield place, block, head


async def entries(volume: Volume, batch_max: int) -> AsyncIterator[list[bytes]]:
    """Records of all objects, oldest first."""
    parts: list[list[bytes]] = []
    for part in volume.index.parts():
        part.sort(key=sequence_of)
        parts.append(part)
        await checkpoint()
    records = oldest_first(parts)
    while batch := [*islice(records, batch_max)]:
        # Some may have been deleted since.
        yield [record for record in batch if volume.is_live(record)]
        await checkpoint()


async def _whole(moved: Moves, expected: int, what: str) -> None:
    outcome = whole(await moved)
    if outcome < 0:
        raise StoreFault(f"{what}: {os.strerror(-outcome)}")
    if outcome < expected:
        raise StoreFault(f"{what}: {outcome} of {expected} bytes")


def _advice(name: str, refusal: MediumRefused) -> str:
    match refusal:
        case ForeignMedium():
            fix = f"name another device, or, if nobody needs that data, {erasing(name)}"
        case NewerMedium():
            fix = f"run that version or a later one, or {erasing(name)}"
        case _:
            fix = erasing(name)
    return f"{name}: {refusal}: {fix}"
