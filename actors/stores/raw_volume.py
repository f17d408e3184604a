"""One device of a raw store: its slots, who is in them, and its log.

    slots:  FREE -taken-> WRITTEN -committed-> NAMED -replaced, deleted-> WAITING -> FREE
              ^              '-failed, given up: when no transfer is under way----------^

Slots wait until the record that took their name away is durable, so that after a power cut no name is another's, and
until nobody reads them any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from penstock._native import crc64
from penstock.actors.core.slot_format import (
    CHECKSUM_BYTES,
    Placed,
    Run,
    Superblock,
    decode_put,
    encode_delete,
    encode_put,
    is_put,
    key_of,
)
from penstock.actors.core.slot_log import SlotLog
from penstock.actors.core.slot_space import SlotIndex, SlotSpace
from penstock.actors.stores.device import Device, Together, joined
from penstock.actors.stores.native_io import Moved
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_commit import Answer, Committer
from penstock.actors.stores.raw_config import BLOCK_ALIGN_MAX
from penstock.actors.stores.raw_discard import Discarder
from penstock.actors.stores.raw_layout import Geometry, told_slots
from penstock.actors.stores.store import Fate, Given, Outcome, Wanted


@dataclass(slots=True, eq=False)
class Writing:
    """An object on its way into slots."""

    placed: Placed
    moved: Moved
    size_bytes: int
    is_committed: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    placed: Placed
    header: memoryview
    moved: Moved
    size_bytes: int

    def outcome(self) -> Outcome:
        """When it is over."""
        moved = self.moved.result()
        if moved < 0:
            return Outcome(Fate.FAULT, reason=f"reading: {os.strerror(-moved)}")
        if moved < self.size_bytes:
            reason = f"{moved} of {self.size_bytes} bytes could be read"
            return Outcome(Fate.FAULT, reason=reason)
        if _checksum(self.header[: self.placed.header_bytes]) != self.placed.header_checksum:
            reason = "its slots hold something else: a power cut came before it was written"
            return Outcome(Fate.DAMAGED, reason=reason)
        return Outcome(Fate.DONE, self.placed.payload_bytes)


@dataclass(slots=True)
class Contents:
    """What was found on a device, or was put there by formatting it."""

    layout: Superblock
    log: SlotLog
    index: SlotIndex
    space: SlotSpace
    sequence: int  # larger than that of any record
    stale: list[bytes]  # keys of records that others have overtaken: to be deleted


class Volume:
    def __init__(
        self, device: Device, geometry: Geometry, contents: Contents, *, is_durable: bool
    ) -> None:
        self.geometry = geometry
        self.index = contents.index
        self.transfers = 0  # of payloads under way
        self._device = device
        self._layout = contents.layout
        self._space = contents.space
        self._sequence = contents.sequence
        self._is_durable = is_durable
        self._readers: dict[int, int] = {}  # transfers under way from an object, by its sequence
        self._read_still: dict[int, tuple[Run, ...]] = {}  # to be free when nobody reads them
        self._unflushed: list[Placed] = []  # to be free after a flush
        self._failed: list[Placed] = []  # to be free after an append, then a flush
        # Fills up headers and ends, where they are shorter than the alignment: written, and read into.
        self._zeros, self._sink = fresh_pages([BLOCK_ALIGN_MAX, BLOCK_ALIGN_MAX])
        self._freed = Discarder(
            device, contents.layout, contents.space, is_on=geometry.is_discarded
        )
        self._committer = Committer(
            device, contents.layout, contents.log, self, is_durable=is_durable
        )

    @property
    def told_bytes(self) -> int:
        """How much of it objects may take."""
        return told_slots(self._layout, self.geometry) * self.geometry.slot_bytes

    @property
    def free_slots(self) -> int:
        return self._space.free

    @property
    def has_waiting_slots(self) -> bool:
        """Whether some would be free after `make_room`."""
        return bool(self._unflushed) or self._freed.over is not None

    def is_known(self, key: bytes) -> bool:
        """Whether it is there, or a save that was begun may still put it there."""
        return self.index.get(key) is not None or self._committer.is_pending(key)

    def read(self, record: bytes, wanted: Wanted, together: Together) -> Reading | Outcome:
        """Begin to read the object that `record` of the index names, as one of those that are waited for."""
        placed = decode_put(record)
        size = placed.payload_bytes
        if placed.header_bytes > len(wanted.header) or size > len(wanted.payload):
            there = f"{placed.header_bytes} + {size} bytes"
            room = f"{len(wanted.header)} + {len(wanted.payload)}"
            return Outcome(Fate.REFUSED, size, f"it has {there}, there is room for {room}")
        views = self._views(wanted.header[: placed.header_bytes], wanted.payload[:size], self._sink)
        readers = self._readers
        readers[placed.sequence] = readers.get(placed.sequence, 0) + 1
        begin = partial(self._device.read, hold=wanted.hold)
        moved = self._transfer(begin, placed.runs, views)
        moved.add_done_callback(partial(self._was_read, placed.sequence, together))
        together.one_more()
        return Reading(placed, wanted.header, moved, sum(map(len, views)))

    def write(self, given: Given, together: Together) -> Writing | None:
        """Begin to write it to slots of its own; None: there are not enough of them free."""
        slots = self.geometry.slots_of(len(given.header), given.payload_bytes)
        runs = self._space.take(slots)
        if runs is None and self._freed.give_back():
            runs = self._space.take(slots)
        if runs is None:
            return None
        self._sequence += 1
        placed = Placed(
            key=given.key,
            device=given.device,
            tenant=given.tenant,
            sequence=self._sequence,
            header_bytes=len(given.header),
            payload_bytes=given.payload_bytes,
            header_checksum=_checksum(given.header),
            runs=runs,
        )
        views = self._views(given.header, given.payload[: given.payload_bytes], self._zeros)
        begin = partial(self._device.write, hold=given.hold)
        moved = self._transfer(begin, runs, views)
        moved.add_done_callback(partial(self._was_written, together))
        together.one_more()
        return Writing(placed, moved, sum(map(len, views)))

    def commit(self, writing: Writing) -> Answer:
        """It was written: log it, after which it is visible."""
        assert writing.moved.done()
        writing.is_committed = True
        return self._committer.submit(encode_put(writing.placed))

    def give_up(self, writing: Writing) -> None:
        """It will not be committed."""
        assert not writing.is_committed
        runs = writing.placed.runs
        writing.moved.add_done_callback(lambda _: self._freed.free(runs))

    def delete(self, key: bytes) -> Answer:
        self._sequence += 1
        return self._committer.submit(encode_delete(key, self._sequence))

    def flush(self) -> Answer:
        return self._committer.flush()

    def make_room(self) -> Answer:
        """Of slots that wait: for what is being discarded, or for a flush."""
        return self._freed.over or self.flush()

    async def wait_idle(self) -> None:
        """Until nothing is written to the log any more, or discarded."""
        await self._committer.wait_idle()
        await self._freed.stop()

    def close(self) -> None:
        self._device.close()

    def validate(self) -> None:
        """When nothing is under way. Raises AssertionError if an invariant does not hold."""
        assert not self.transfers, self.transfers
        assert not self._readers, self._readers
        assert not self._read_still, self._read_still
        named = [decode_put(record) for part in self.index.parts() for record in part]
        waiting = [*self._unflushed, *self._failed]
        taken = [
            slot
            for placed in (*named, *waiting)
            for run in placed.runs
            for slot in range(run.first, run.first + run.slots)
        ]
        assert len(taken) == len(set(taken)), "a slot has two objects"
        free = self._space.free + self._freed.slots
        assert free == self._space.slots - len(taken), "a slot is lost"

    # What the committer tells.

    def is_live(self, record: bytes) -> bool:
        return self.index.get(key_of(record)) == record

    def apply(self, record: bytes) -> None:
        before = self.index.put(record) if is_put(record) else self.index.remove(key_of(record))
        if before is None:
            return
        placed = decode_put(before)
        if self._is_durable:
            self._let_go(placed)
        else:
            self._unflushed.append(placed)

    def take_back(self, record: bytes) -> None:
        if is_put(record):
            self._failed.append(decode_put(record))

    def appended(self) -> None:
        # What failed before has been written over in the log; once that is durable, nothing names its slots.
        self._unflushed += self._failed
        self._failed.clear()

    def mark(self) -> Callable[[], None]:
        count = len(self._unflushed)

        def flushed() -> None:
            for placed in self._unflushed[:count]:
                self._let_go(placed)
            del self._unflushed[:count]

        return flushed

    def _let_go(self, placed: Placed) -> None:
        if placed.sequence in self._readers:
            self._read_still[placed.sequence] = placed.runs
        else:
            self._freed.free(placed.runs)

    # What ends of itself.

    def _was_read(self, sequence: int, together: Together, _: Moved) -> None:
        self.transfers -= 1
        self._readers[sequence] -= 1
        if not self._readers[sequence]:
            del self._readers[sequence]
            self._freed.free(self._read_still.pop(sequence, ()))
        together.one_is_over()

    def _was_written(self, together: Together, _: Moved) -> None:
        self.transfers -= 1
        together.one_is_over()

    # Bytes.

    def _views(self, header: memoryview, payload: memoryview, fill: memoryview) -> list[memoryview]:
        """What stands one after the other in the slots."""
        room = self.geometry.stored_bytes(len(header), 0)
        end = self.geometry.stored_bytes(len(header), len(payload))
        views = [header, fill[: room - len(header)], payload, fill[: end - room - len(payload)]]
        return [view for view in views if len(view)]

    def _transfer(
        self,
        begin: Callable[[int, Sequence[memoryview]], Moved],
        runs: Sequence[Run],
        views: list[memoryview],
    ) -> Moved:
        self.transfers += 1
        slot_bytes, start = self.geometry.slot_bytes, self._layout.slots_at
        if len(runs) == 1:
            return begin(start + runs[0].first * slot_bytes, views)
        rows = _cut(views, [run.slots * slot_bytes for run in runs])
        pairs = zip(runs, rows, strict=True)
        return joined([begin(start + run.first * slot_bytes, row) for run, row in pairs])


def _checksum(header: memoryview) -> bytes:
    return crc64(header).to_bytes(CHECKSUM_BYTES, "little")


def _cut(views: list[memoryview], sizes: list[int]) -> list[list[memoryview]]:
    """Rows of these sizes, the last of which may be shorter."""
    rows: list[list[memoryview]] = []
    left = iter(views)
    view = next(left, None)
    for size in sizes:
        row: list[memoryview] = []
        while size and view is not None:
            part = view[:size]
            row.append(part)
            size -= len(part)  # noqa: PLW2901
            view = view[len(part) :] if len(part) < len(view) else next(left, None)
        rows.append(row)
    return rows
