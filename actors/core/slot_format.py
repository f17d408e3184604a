"""What a raw device holds besides payloads: two superblocks, and blocks of a log of records.

    0          superblock of even generations        little-endian throughout; a checksum is BLAKE2b
    64 KiB     superblock of odd generations         of 8 bytes over all of the part it protects
    128 KiB    log: `metadata_bytes`, whole blocks
    then       slots of `slot_bytes`, from the next whole block on

A superblock lives in its first 512 bytes, which no power cut tears; the rest of its block is zeros. A log block says
what must be known to find the end of the log (`slot_log.py`), then its records:

    bytes   log block                                   bytes   record
     8      checksum of all after it, to its end         2      bytes of this record
     8      magic                                        1      kind: 1 put, 2 delete
     16     volume: made at formatting, at random        1      0
     8      number, from 1                               2      device: rank of the shard
     8      oldest block still needed                    2      runs of slots
     8      latest block known to be durable             8      sequence: unique to it, rising
     8      checksum of the block before it              32     key
     4      bytes of records                             16     tenant             of a put only,
     4      0                                            4      bytes of header    as what follows
            records, then zeros                          8      bytes of payload
                                                         8      CRC-64/NVME of the first part of the header
                                                         8 each run: first slot, slots
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.actors.api.errors import MediumRefused

HEAD_BYTES = 128 << 10
SUPERBLOCK_PLACES = (0, HEAD_BYTES // 2)  # generation g stands at [g % 2]
SUPERBLOCK_BYTES = 512
MAGIC = b"PENSTOCKRAWBLOCK"
VERSION = 1
VOLUME_BYTES = 16
CHECKSUM_BYTES = 8
RUNS_MAX = 240  # of one object: its record is at most half a block
NO_RANK = -1
NO_CHECKSUM = bytes(CHECKSUM_BYTES)

_SUPERBLOCK = struct.Struct(f"<16sI{VOLUME_BYTES}sQIIQQQi")
_BLOCK_MAGIC = b"PENSLOG\x01"
_BLOCK = struct.Struct(f"<8s8s{VOLUME_BYTES}sQQQ8sII")
_DELETE = struct.Struct("<HBBHHQ32s")
_PUT = struct.Struct("<HBBHHQ32s16sIQ8s")
_RUN = struct.Struct("<II")
_PUT_ONE_RUN = struct.Struct(_PUT.format + "II")
_SPOT = struct.Struct("<8xQ48xIQQI4x")  # of a put of one run, what tells where it is
_KIND_PUT, _KIND_DELETE = 1, 2
_KIND_AT = 2
_KEY = slice(16, 48)
PUT_BYTES_MIN = _PUT.size + _RUN.size


class ForeignMedium(MediumRefused):
    """Another program's data."""


class NewerMedium(MediumRefused):
    """Ours, written by a later version."""


class DamagedMedium(MediumRefused):
    """Ours, and no superblock of it is whole."""


class Superblock(NamedTuple):
    """How a volume is laid out. Sizes are bytes and whole blocks."""

    volume: bytes
    generation: int  # rises with every change
    block_bytes: int
    header_bytes: int  # a payload starts at a multiple of it
    slot_bytes: int
    metadata_bytes: int
    slots: int
    rank: int  # whose volume it is; NO_RANK: anybody's

    @property
    def log_blocks(self) -> int:
        return self.metadata_bytes // self.block_bytes

    @property
    def slots_at(self) -> int:
        """Where slot 0 begins."""
        return HEAD_BYTES + self.metadata_bytes

    @property
    def end(self) -> int:
        """How large a medium it needs."""
        return self.slots_at + self.slots * self.slot_bytes

    @property
    def place(self) -> int:
        """Where it is written."""
        return SUPERBLOCK_PLACES[self.generation % 2]


class Run(NamedTuple):
    """Slots in a row."""

    first: int
    slots: int


class Placed(NamedTuple):
    """One object, and where it is: header and payload one after the other, over all runs in order."""

    key: bytes
    device: int
    tenant: bytes
    sequence: int
    header_bytes: int
    payload_bytes: int
    header_checksum: bytes  # slots whose header has another one hold something else
    runs: tuple[Run, ...]

    @property
    def slots(self) -> int:
        return sum(run.slots for run in self.runs)


@dataclass(frozen=True, slots=True)
class BlockHead:
    """What a log block says of itself and others."""

    number: int
    tail: int  # the oldest block needed, if this one is the last; tail <= durable + 1
    durable: int  # all blocks up to it were durable when this one was written; < number
    previous: bytes  # checksum of block number - 1
    checksum: bytes
    records_bytes: int


def checksum(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


# Superblocks.


def encode_superblock(made: Superblock) -> bytes:
    """A whole block."""
    body = _SUPERBLOCK.pack(MAGIC, VERSION, *made)
    return (body + checksum(body)).ljust(made.block_bytes, b"\0")


def latest_superblock(head: bytes | memoryview) -> Superblock | None:
    """The valid one of the latest generation in the first HEAD_BYTES of a medium; None: all of them are zeros.

    Whoever uses the medium after us, a filesystem, LVM, a partition table, writes somewhere there what we never
    wrote, though a superblock of ours may be left: so all the rest must be zeros. Raises ForeignMedium, NewerMedium,
    DamagedMedium.
    """
    assert len(head) == HEAD_BYTES
    copies = [bytes(head[at : at + SUPERBLOCK_BYTES]) for at in SUPERBLOCK_PLACES]
    ours = [copy for copy in copies if copy.startswith(MAGIC)]
    valid = [one for one in map(_superblock, ours) if one is not None]
    if not all(copy.startswith(MAGIC) or not any(copy) for copy in copies) or _is_strewn(head):
        also = ", beside what was Penstock's" if ours else ""
        raise ForeignMedium(f"it holds data that is not Penstock's{also}")
    if not ours:
        return None
    if not valid:
        raise DamagedMedium("it was Penstock's, but neither of its superblocks is whole")
    latest = max(valid, key=lambda one: one.generation)
    if latest.generation > 1 and not copies[0].startswith(MAGIC):
        raise ForeignMedium("it was Penstock's, but its first block was erased since")
    return latest


def _is_strewn(head: bytes | memoryview) -> bool:
    """Whether there is anything but superblocks."""
    size = _SUPERBLOCK.size + CHECKSUM_BYTES
    ends = [*SUPERBLOCK_PLACES[1:], HEAD_BYTES]
    rest = [bytes(head[at + size : end]) for at, end in zip(SUPERBLOCK_PLACES, ends, strict=True)]
    return any(one != bytes(len(one)) for one in rest)


def _superblock(copy: bytes) -> Superblock | None:
    fields = _SUPERBLOCK.unpack_from(copy)
    if fields[1] > VERSION:
        raise NewerMedium(f"its format is version {fields[1]}, this Penstock reads {VERSION}")
    body = copy[: _SUPERBLOCK.size]
    if copy[len(body) : len(body) + CHECKSUM_BYTES] != checksum(body):
        return None
    return Superblock(*fields[2:])


# Records.


def encode_put(placed: Placed) -> bytes:
    assert 1 <= len(placed.runs) <= RUNS_MAX, placed
    key, device, tenant, sequence, header_bytes, payload_bytes, told, runs = placed
    size = _PUT.size + len(runs) * _RUN.size
    head = (size, _KIND_PUT, 0, device, len(runs), sequence, key, tenant, header_bytes)
    if len(runs) == 1:  # most
        return _PUT_ONE_RUN.pack(*head, payload_bytes, told, *runs[0])
    rows = b"".join([_RUN.pack(*run) for run in runs])
    return _PUT.pack(*head, payload_bytes, told) + rows


def encode_delete(key: bytes, sequence: int) -> bytes:
    return _DELETE.pack(_DELETE.size, _KIND_DELETE, 0, 0, 0, sequence, key)


def decode_put(record: bytes) -> Placed:
    fields = _PUT.unpack_from(record)
    runs = runs_of(record)
    _, _, _, device, _, sequence, key, tenant, header_bytes, payload_bytes, told = fields
    return Placed(key, device, tenant, sequence, header_bytes, payload_bytes, told, runs)


def decode_spot(record: bytes) -> tuple[int, int, int, int, int]:
    """Of a put of one run: sequence, bytes of header and payload, the header's checksum, its first slot."""
    sequence, header_bytes, payload_bytes, told, first = _SPOT.unpack(record)
    return sequence, header_bytes, payload_bytes, told, first


def runs_of(record: bytes) -> tuple[Run, ...]:
    """Of a put."""
    if len(record) == PUT_BYTES_MIN:  # most are of one run
        return (Run(*_RUN.unpack_from(record, _PUT.size)),)
    return tuple([Run(*pair) for pair in _RUN.iter_unpack(record[_PUT.size :])])


def key_of(record: bytes) -> bytes:
    return record[_KEY]


def sequence_of(record: bytes) -> int:
    return int.from_bytes(record[8:16], "little")


def is_put(record: bytes) -> bool:
    return record[_KIND_AT] == _KIND_PUT


# Blocks of the log.


def room_of(block_bytes: int) -> int:
    """Bytes for records in a block."""
    return block_bytes - _BLOCK.size


def encode_block(
    *,
    volume: bytes,
    block_bytes: int,
    number: int,
    tail: int,
    durable: int,
    previous: bytes,
    records: Sequence[bytes],
) -> bytes:
    assert 1 <= tail <= durable + 1 <= number, (tail, durable, number)
    packed = b"".join(records)
    assert len(packed) <= room_of(block_bytes), len(packed)
    fields = (_BLOCK_MAGIC, volume, number, tail, durable, previous, len(packed), 0)
    whole = _BLOCK.pack(NO_CHECKSUM, *fields) + packed
    body = whole[CHECKSUM_BYTES:].ljust(block_bytes - CHECKSUM_BYTES, b"\0")
    return checksum(body) + body


def decode_block(block: bytes | memoryview, volume: bytes) -> BlockHead | None:
    """None: it is no whole block of this volume's log."""
    fields = _BLOCK.unpack_from(block)
    if fields[1] != _BLOCK_MAGIC or fields[2] != volume:
        return None
    if checksum(block[CHECKSUM_BYTES:]) != fields[0]:
        return None
    return BlockHead(fields[3], fields[4], fields[5], fields[6], fields[0], fields[7])


def records_of(block: bytes, head: BlockHead) -> list[bytes]:
    """The records of a block that was found whole."""
    records = []
    at, end = _BLOCK.size, _BLOCK.size + head.records_bytes
    while at < end:
        size = int.from_bytes(block[at : at + 2], "little")
        records.append(bytes(block[at : at + size]))
        at += size
    assert at == end, (at, end)
    return records
