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
from itertools import islice
from typing import NamedTuple

from penstock._native import crc64_of_each
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
from penstock.actors.stores.raw_pieces import filled, pieces
from penstock.actors.stores.raw_reading import Reader
from penstock.actors.stores.store import DONE, Fate, Given, Outcome


class Moving(NamedTuple):
    """An object on its way into slots."""

    placed: Placed
    views: list[memoryview]  # what stands one after the other in the slots; first all of its header
    size_bytes: int  # of all of them
    hold: object

    def was_written(self, moved: int) -> Outcome:
        if moved >= self.size_bytes:
            return DONE
        if -moved in {errno.ENOSPC, errno.EDQUOT}:  # a file that was not preallocated
            return Outcome(Fate.FULL, reason=os.strerror(-moved))
        if moved < 0:
            return Outcome(Fate.FAULT, reason=f"writing: {os.strerror(-moved)}")
        reason = f"{moved} of {self.size_bytes} bytes could be written"
        return Outcome(Fate.FAULT, reason=reason)


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
        self._device = device
        self._layout = contents.layout
        self._space = contents.space
        self._sequence = contents.sequence
        self._is_durable = is_durable
        self._unflushed: list[Placed] = []  # to be free after a flush
        self._failed: list[Placed] = []  # to be free after an append, then a flush
        self._deleting_nothing: Answer | None = None
        self._writes = 0  # of objects, under way
        # Fills up headers and ends, where they are shorter than the alignment.
        (self._zeros,) = fresh_pages([BLOCK_ALIGN_MAX])
        self._freed = Discarder(
            device, contents.layout, contents.space, is_on=geometry.is_discarded
        )
        self._committer = Committer(
            device, contents.layout, contents.log, self, is_durable=is_durable
        )
        self.reader = Reader(device, contents.layout, geometry, self._freed.free)

    @property
    def transfers(self) -> int:
        """Of payloads, under way."""
        return self._writes + self.reader.transfers

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
        header, size = given.header, given.payload_bytes
        number, tenant = (
            self._sequence,
            given.tenant,
        )  # by position: there are many, and by name it takes twice as long
        placed = Placed(given.key, given.device, tenant, number, len(header), size, checksum, runs)
        views = filled(self.geometry, header, given.payload[:size], self._zeros)
        return Moving(placed, views, sum(map(len, views)), given.hold)

    def write(self, objects: Sequence[Moving]) -> Moves:
        """Begin to write them, together. What was moved of each."""
        start, slot_bytes = self._layout.slots_at, self.geometry.slot_bytes
        all_pieces: list[Piece] = []
        for one in objects:
            runs = one.placed.runs
            if len(runs) == 1:  # most
                all_pieces.append((start + runs[0].first * slot_bytes, one.views))
            else:
                all_pieces += pieces(runs, one.views, slots_at=start, slot_bytes=slot_bytes)
        moved: Moves = asyncio.get_running_loop().create_future()

        def over(told: Moves) -> None:
            self._writes -= len(objects)
            outcomes = told.result()
            if len(all_pieces) > len(objects):
                left = iter(outcomes)
                outcomes = [whole([*islice(left, len(one.placed.runs))]) for one in objects]
            if not moved.done():  # else given up
                moved.set_result(outcomes)

        self._writes += len(objects)
        told = self._device.write(all_pieces, [one.hold for one in objects])
        told.add_done_callback(over)
        return moved

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
        self.reader.validate()
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
        if not self.reader.keep(placed):
            self._freed.free(placed.runs)


def _checksums(headers: Sequence[memoryview]) -> list[bytes]:
    """Of each what tells it from any other, the object's digest included. Not of all of it: behind its own CRC, the CRC
    of every header of one length is the same, that of an older version of the object as well."""
    return [*map(_told, crc64_of_each([one[:FIXED_BYTES] for one in headers]))]


def _told(checksum: int) -> bytes:
    return checksum.to_bytes(CHECKSUM_BYTES, "little")
