"""One device of a raw store: its slots, who is in them, and its log.

    slots:  FREE -taken-> WRITTEN -committed-> NAMED -replaced, deleted-> WAITING -> FREE
              ^              '-failed, given up: when no transfer is under way----------^

Slots wait until the record that took their name away is durable, so that after a power cut no name is another's, and
until nobody reads them any more.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from penstock._native import crc64, crc64_of_each
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
from penstock.actors.stores.device import Device, whole
from penstock.actors.stores.header import FIXED_BYTES
from penstock.actors.stores.native_io import Moves, Piece
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_commit import Answer, Committer
from penstock.actors.stores.raw_config import BLOCK_ALIGN_MAX
from penstock.actors.stores.raw_discard import Discarder
from penstock.actors.stores.raw_layout import Geometry, told_slots
from penstock.actors.stores.store import DONE, Fate, Given, Outcome, Wanted


class Moving(NamedTuple):
    """An object on its way into slots, or out of them."""

    placed: Placed
    header: memoryview
    views: list[memoryview]  # what stands one after the other in the slots; first all of its header
    hold: object

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.views))

    def was_read(self, moved: int, checksum: int) -> Outcome:
        """`checksum`: of what tells the header that was read from any other."""
        placed = self.placed
        if moved < 0:
            return Outcome(Fate.FAULT, reason=f"reading: {os.strerror(-moved)}")
        if moved < self.size_bytes:
            reason = f"{moved} of {self.size_bytes} bytes could be read"
            return Outcome(Fate.FAULT, reason=reason)
        # Earlier releases told the CRC of whole headers in their records, which no record does now.
        told = placed.header_checksum
        if told != _told(checksum) and told != _told(crc64(self.views[0])):
            reason = "its slots hold something else: a power cut came before it was written"
            return Outcome(Fate.DAMAGED, reason=reason)
        return _done(placed.payload_bytes)

    def was_written(self, moved: int) -> Outcome:
        if moved >= self.size_bytes:
            return DONE
        if -moved in {errno.ENOSPC, errno.EDQUOT}:  # a file that was not preallocated
            return Outcome(Fate.FULL, reason=os.strerror(-moved))
        if moved < 0:
            return Outcome(Fate.FAULT, reason=f"writing: {os.strerror(-moved)}")
        reason = f"{moved} of {self.size_bytes} bytes could be written"
        return Outcome(Fate.FAULT, reason=reason)


@lru_cache(maxsize=64)  # most are as long as others, and it takes longer to make than to look up
def _done(payload_bytes: int) -> Outcome:
    return Outcome(Fate.DONE, payload_bytes)


def were_read(objects: Sequence[Moving], moved: Sequence[int]) -> list[Outcome]:
    """What became of each, by what was moved of it. Checks all headers in one call."""
    checksums = crc64_of_each([one.views[0][:FIXED_BYTES] for one in objects])
    return [*map(Moving.was_read, objects, moved, checksums)]


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
        self._deleting_nothing: Answer | None = None
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

    def found(self, record: bytes, wanted: Wanted) -> Moving | Outcome:
        """The object that `record` of the index names, to be read in this step of the loop."""
        placed = decode_put(record)
        size = placed.payload_bytes
        if placed.header_bytes > len(wanted.header) or size > len(wanted.payload):
            there = f"{placed.header_bytes} + {size} bytes"
            room = f"{len(wanted.header)} + {len(wanted.payload)}"
            return Outcome(Fate.REFUSED, size, f"it has {there}, there is room for {room}")
        views = self._views(wanted.header[: placed.header_bytes], wanted.payload[:size], self._sink)
        return Moving(placed, wanted.header, views, wanted.hold)

    def taken_in_rows(self, given: Sequence[Given]) -> list[Moving]:
        """As `taken`, of as many of these, from the first on, as find their slots in a few long rows: most. Looks for
        slots once for each row, and takes all checksums in one call."""
        kinds = {(len(one.header), one.payload_bytes) for one in given}
        slots = {self.geometry.slots_of(*kind) for kind in kinds}
        if len(slots) != 1:
            return []
        (slots_each,) = slots
        runs: list[tuple[Run]] = []
        row = len(given)
        while row > 1 and len(runs) < len(given):
            row = min(row, len(given) - len(runs))
            first = self._space.take_row(row * slots_each)
            if first is None:
                row //= 2
            else:
                end = first + row * slots_each
                runs += [(Run(at, slots_each),) for at in range(first, end, slots_each)]
        some = given[: len(runs)]
        return [*map(self._moving, some, runs, _checksums([one.header for one in some]))]

    def taken(self, given: Given) -> Moving | None:
        """Slots of its own for an object, to be written or given back; None: there are not enough of them free."""
        slots = self.geometry.slots_of(len(given.header), given.payload_bytes)
        runs = self._space.take(slots)
        if runs is None and self._freed.give_back():
            runs = self._space.take(slots)
        if runs is None:
            return None
        return self._moving(given, runs, *_checksums([given.header]))

    def _moving(self, given: Given, runs: tuple[Run, ...], checksum: bytes) -> Moving:
        self._sequence += 1
        placed = Placed(
            key=given.key,
            device=given.device,
            tenant=given.tenant,
            sequence=self._sequence,
            header_bytes=len(given.header),
            payload_bytes=given.payload_bytes,
            header_checksum=checksum,
            runs=runs,
        )
        views = self._views(given.header, given.payload[: given.payload_bytes], self._zeros)
        return Moving(placed, given.header, views, given.hold)

    def read(self, objects: Sequence[Moving]) -> Moves:
        """Begin to read them. What was moved of each."""
        readers = self._readers
        for one in objects:
            sequence = one.placed.sequence
            readers[sequence] = readers.get(sequence, 0) + 1
        moved = self._transfer(self._device.read, objects)
        moved.add_done_callback(lambda _: self._were_read(objects))
        return moved

    def write(self, objects: Sequence[Moving]) -> Moves:
        """Begin to write them. What was moved of each."""
        return self._transfer(self._device.write, objects)

    def commit(self, objects: Sequence[Moving]) -> Answer:
        """They were written: log them, after which they are visible."""
        return self._committer.submit([encode_put(one.placed) for one in objects])

    def give_back(self, one: Moving) -> None:
        """The slots of what is not committed, when nothing is written there any more."""
        self._space.release(one.placed.runs)

    def delete(self, keys: Sequence[bytes]) -> Answer:
        first = self._sequence + 1
        self._sequence += len(keys)
        return self._committer.submit(
            [encode_delete(key, number) for number, key in enumerate(keys, start=first)]
        )

    def delete_nothing(self, key: bytes) -> Answer:
        """Log that this key, which is not known, is gone. Whoever asks while that is under way waits for the same: a
        device that hangs does not gather such."""
        if self._deleting_nothing is None or self._deleting_nothing.done():
            self._deleting_nothing = self.delete([key])
        return self._deleting_nothing

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

    # Bytes.

    def _views(self, header: memoryview, payload: memoryview, fill: memoryview) -> list[memoryview]:
        """What stands one after the other in the slots."""
        header_bytes, block_bytes = self.geometry.header_bytes, self.geometry.block_bytes
        behind_header = -len(header) % header_bytes
        behind = -(len(header) + behind_header + len(payload)) % block_bytes
        if not behind_header and not behind:
            return [header, payload]
        return [header, fill[:behind_header], payload, fill[:behind]]

    def _transfer(
        self, begin: Callable[[Sequence[Piece], object], Moves], objects: Sequence[Moving]
    ) -> Moves:
        """All of them together, answered by what was moved of each."""
        pieces: list[Piece] = []
        for one in objects:
            pieces += self._pieces(one)
        moved: Moves = asyncio.get_running_loop().create_future()

        def over(told: Moves) -> None:
            self.transfers -= len(objects)
            outcomes = told.result()
            if len(pieces) > len(objects):
                left = iter(outcomes)
                outcomes = [whole([*islice(left, len(one.placed.runs))]) for one in objects]
            if not moved.done():  # else given up
                moved.set_result(outcomes)

        self.transfers += len(objects)
        begin(pieces, [one.hold for one in objects]).add_done_callback(over)
        return moved

    def _pieces(self, one: Moving) -> list[Piece]:
        """One for each run."""
        slot_bytes, start = self.geometry.slot_bytes, self._layout.slots_at
        runs = one.placed.runs
        if len(runs) == 1:
            return [(start + runs[0].first * slot_bytes, one.views)]
        rows = _cut(one.views, [run.slots * slot_bytes for run in runs])
        pairs = zip(runs, rows, strict=True)
        return [(start + run.first * slot_bytes, row) for run, row in pairs]

    def _were_read(self, objects: Sequence[Moving]) -> None:
        for one in objects:
            sequence = one.placed.sequence
            self._readers[sequence] -= 1
            if not self._readers[sequence]:
                del self._readers[sequence]
                self._freed.free(self._read_still.pop(sequence, ()))


def _checksums(headers: Sequence[memoryview]) -> list[bytes]:
    """Of each what tells it from any other, the object's digest included. Not of all of it: behind its own CRC, the CRC
    of every header of one length is the same, that of an older version of the object as well."""
    return [*map(_told, crc64_of_each([one[:FIXED_BYTES] for one in headers]))]


def _told(checksum: int) -> bytes:
    return checksum.to_bytes(CHECKSUM_BYTES, "little")


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
