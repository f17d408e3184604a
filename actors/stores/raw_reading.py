"""Reading from the slots of a raw device. All that is asked for together is kept as columns: there are many.

asked for, in the step that found it -> read -> its headers checked in one call -> told
                                           '-> slots that were freed meanwhile are free now
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice

from penstock._native import crc64, crc64_of_each
from penstock.actors.core.slot_format import (
    PUT_BYTES_MIN,
    Placed,
    Run,
    Superblock,
    decode_put,
    decode_spot,
)
from penstock.actors.stores.device import Device, whole
from penstock.actors.stores.header import FIXED_BYTES
from penstock.actors.stores.native_io import Moves, Piece
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_config import BLOCK_ALIGN_MAX
from penstock.actors.stores.raw_layout import Geometry
from penstock.actors.stores.raw_pieces import filled, pieces
from penstock.actors.stores.store import Fate, Outcome, Wanted


@dataclass(slots=True)
class Reads:
    """Objects of a batch that are on one volume. The columns are as long as each other, but for `pieces`."""

    places: list[int] = field(default_factory=list)  # in the batch
    sequences: list[int] = field(default_factory=list)  # of the records that name them
    headers: list[memoryview] = field(default_factory=list)  # that are read into
    checksums: list[int] = field(default_factory=list)  # of those headers, by the records
    payloads: list[int] = field(default_factory=list)  # bytes
    sizes: list[int] = field(default_factory=list)  # bytes of the medium
    runs: list[int] = field(default_factory=list)  # pieces of each
    pieces: list[Piece] = field(default_factory=list)
    holds: list[object] = field(default_factory=list)
    moved: Moves | None = None  # of each piece; None: there is none
    refused: dict[int, Outcome] = field(default_factory=dict)  # by place: why they are not read

    async def outcomes(self) -> list[Outcome]:
        """Of each that is read."""
        if self.moved is None:
            return []
        # Shielded: its end is heard of, even by nobody.
        moved = self._of_each(await asyncio.shield(self.moved))
        checksums = crc64_of_each([one[:FIXED_BYTES] for one in self.headers])
        if moved == self.sizes and checksums == self.checksums:  # as nearly always
            return [*map(_done, self.payloads)]
        return [self._outcome(at, one, checksums[at]) for at, one in enumerate(moved)]

    def _of_each(self, moved: list[int]) -> list[int]:
        if len(moved) == len(self.runs):
            return moved
        left = iter(moved)
        return [whole([*islice(left, runs)]) for runs in self.runs]

    def _outcome(self, at: int, moved: int, checksum: int) -> Outcome:
        """`checksum`: of what tells the header that was read from any other."""
        if moved < 0:
            return Outcome(Fate.FAULT, reason=f"reading: {os.strerror(-moved)}")
        if moved < self.sizes[at]:
            reason = f"{moved} of {self.sizes[at]} bytes could be read"
            return Outcome(Fate.FAULT, reason=reason)
        # Earlier releases told the CRC of whole headers in their records, which no record does now.
        if self.checksums[at] not in {checksum, crc64(self.headers[at])}:
            reason = "its slots hold something else: a power cut came before it was written"
            return Outcome(Fate.DAMAGED, reason=reason)
        return _done(self.payloads[at])


class Reader:
    """Of one volume. Knows which slots are being read, as nothing may be written there."""

    def __init__(
        self,
        device: Device,
        layout: Superblock,
        geometry: Geometry,
        free: Callable[[tuple[Run, ...]], None],
    ) -> None:
        self.transfers = 0  # objects under way
        self._device = device
        self._slots_at = layout.slots_at
        self._geometry = geometry
        self._header_bytes, self._block_bytes = geometry.header_bytes, geometry.block_bytes
        self._slot_bytes = geometry.slot_bytes
        self._free = free
        self._readers: dict[int, int] = {}  # of an object, by its sequence
        self._read_still: dict[int, tuple[Run, ...]] = {}  # to be free when nobody reads them
        (self._sink,) = fresh_pages([BLOCK_ALIGN_MAX])  # for what fills up headers and ends

    def read(
        self, places: Sequence[int], records: Sequence[bytes], wanted: Sequence[Wanted]
    ) -> Reads:
        """Begin to read what `records` of the index name, in the step that found them: then nobody gives their slots to
        another. They are of wanted[places[0]], ..."""
        reads = Reads()
        for at, record in zip(places, records, strict=True):
            one = wanted[at]
            if len(record) > PUT_BYTES_MIN or not self._add(reads, at, one, record):
                self._add_any(reads, at, one, decode_put(record))
        if reads.places:
            self._begin(reads)
        return reads

    def _add(self, reads: Reads, at: int, one: Wanted, record: bytes) -> bool:
        """What lies in one row of slots, is as long as there is room for, and has no fill: most. False: it is not."""
        sequence, header_bytes, payload_bytes, checksum, first = decode_spot(record)
        size = header_bytes + payload_bytes
        if (
            header_bytes != len(one.header)
            or payload_bytes != len(one.payload)
            or header_bytes % self._header_bytes
            or size % self._block_bytes
        ):
            return False
        reads.places.append(at)
        reads.sequences.append(sequence)
        reads.headers.append(one.header)
        reads.checksums.append(checksum)
        reads.payloads.append(payload_bytes)
        reads.sizes.append(size)
        reads.runs.append(1)
        offset = self._slots_at + first * self._slot_bytes
        reads.pieces.append((offset, (one.header, one.payload)))
        reads.holds.append(one.hold)
        return True

    def _add_any(self, reads: Reads, at: int, one: Wanted, placed: Placed) -> None:
        header_bytes, payload_bytes = placed.header_bytes, placed.payload_bytes
        if header_bytes > len(one.header) or payload_bytes > len(one.payload):
            there = f"{header_bytes} + {payload_bytes} bytes"
            room = f"{len(one.header)} + {len(one.payload)}"
            reason = f"it has {there}, there is room for {room}"
            reads.refused[at] = Outcome(Fate.REFUSED, payload_bytes, reason)
            return
        header, payload = one.header[:header_bytes], one.payload[:payload_bytes]
        views = filled(self._geometry, header, payload, self._sink)
        some = pieces(
            placed.runs, views, slots_at=self._slots_at, slot_bytes=self._geometry.slot_bytes
        )
        reads.places.append(at)
        reads.sequences.append(placed.sequence)
        reads.headers.append(header)
        reads.checksums.append(int.from_bytes(placed.header_checksum, "little"))
        reads.payloads.append(payload_bytes)
        reads.sizes.append(sum(map(len, views)))
        reads.runs.append(len(some))
        reads.pieces += some
        reads.holds.append(one.hold)

    def _begin(self, reads: Reads) -> None:
        readers = self._readers
        for sequence in reads.sequences:
            readers[sequence] = readers.get(sequence, 0) + 1
        self.transfers += len(reads.sequences)
        reads.moved = self._device.read(reads.pieces, reads.holds)
        reads.moved.add_done_callback(partial(self._over, reads.sequences))

    def _over(self, sequences: Sequence[int], _: Moves) -> None:
        self.transfers -= len(sequences)
        readers = self._readers
        for sequence in sequences:
            left = readers.pop(sequence) - 1
            if left:
                readers[sequence] = left
            elif sequence in self._read_still:
                self._free(self._read_still.pop(sequence))

    def keep(self, placed: Placed) -> bool:
        """Whether it is being read: then its slots are free when nobody does any more."""
        if placed.sequence not in self._readers:
            return False
        self._read_still[placed.sequence] = placed.runs
        return True

    def validate(self) -> None:
        """When nothing is under way. Raises AssertionError if an invariant does not hold."""
        assert not self.transfers, self.transfers
        assert not self._readers, self._readers
        assert not self._read_still, self._read_still


@lru_cache(maxsize=64)  # most are as long as others, and it takes longer to make than to look up
def _done(payload_bytes: int) -> Outcome:
    return Outcome(Fate.DONE, payload_bytes)
