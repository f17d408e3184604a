"""The log of a raw device: a ring of numbered blocks that is appended to, cleaned at its old end, and found again.

    block n stands at place n % blocks

         tail                    cleaned                   durable    head
    -----|-----------------------|-------------------------|----------|------
         read again while in the background:               flushed    appended
         live records were copied                          up to here
         to the head

- Cleaning keeps the log bounded: while more than half of the ring is used, every append takes some of
  the oldest blocks along, whose live records it copies. Once the copies are durable, blocks say that
  the tail is behind them; once such a block is durable, their places may be written again.
- After a cut, blocks that were never flushed may be there or not, in any combination. The last block is
  the highest from which the chain of checksums reaches back, unbroken, to what it knows to be durable.
  What lies beyond is a torn tail; blocks appended later are chained to others, so it never comes back.
- Up to `durable` nothing is missing, unless the medium lost it. Such a hole costs the records that were in it.

Pure: its owner reads, writes and flushes, one after the other, and says what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from penstock.actors.core.slot_format import (
    NO_CHECKSUM,
    PUT_BYTES_MIN,
    BlockHead,
    encode_block,
    room_of,
)

BLOCKS_MIN = 32
LIVE_SHARE = 4  # the ring has so many times the blocks that live records can take at most
CLEANED_MAX = 32  # blocks cleaned by one append
APPENDED_MAX = 16  # blocks of new records in one append
_SLOT_RECORD_BYTES = (
    PUT_BYTES_MIN + 8
)  # of the record of an object, per slot, with what blocks leave unused


@dataclass(frozen=True, slots=True)
class End:
    """Where a log was found to end."""

    tail: int
    durable: int
    head: int  # 0: it is empty
    checksum: bytes  # of the head


EMPTY = End(tail=1, durable=0, head=0, checksum=NO_CHECKSUM)


@dataclass(frozen=True, slots=True)
class Append:
    """Blocks to be written: `blocks[i]` is number `first + i`."""

    first: int
    blocks: list[bytes]
    checksum: bytes  # of the last
    new_records: int  # how many of those it was asked to append are in it

    @property
    def head(self) -> int:
        return self.first + len(self.blocks) - 1


def log_blocks(slots: int, block_bytes: int) -> int:
    """How many blocks a ring needs for so many slots."""
    live = -(-slots * _SLOT_RECORD_BYTES // room_of(block_bytes))
    return BLOCKS_MIN + LIVE_SHARE * live


class EndSearch:
    """Where a log ends, from its whole blocks, given by rising numbers."""

    def __init__(self) -> None:
        self.end = EMPTY
        self._before: BlockHead | None = None
        self._start = 0  # of the unbroken chain that the one before belongs to

    def see(self, block: BlockHead) -> None:
        before = self._before
        assert before is None or before.number < block.number
        is_linked = (
            before is not None
            and before.number == block.number - 1
            and before.checksum == block.previous
        )
        if not is_linked:
            self._start = block.number
        if self._start <= block.durable + 1:
            self.end = End(block.tail, block.durable, block.number, block.checksum)
        self._before = block


class SlotLog:
    """Where the next block goes, and what it says. At most one append is under way at a time."""

    def __init__(self, *, volume: bytes, block_bytes: int, blocks: int, end: End) -> None:
        assert blocks >= BLOCKS_MIN, blocks
        self._volume = volume
        self._block_bytes = block_bytes
        self._blocks = blocks
        self._checksum = end.checksum
        self.head = end.head  # the latest block written
        # What a flush after recovery makes durable is not known to be so before.
        self.durable = end.durable  # <= head
        self._tail = end.tail  # told by the next block; <= durable + 1
        self._told_tail = end.tail  # by the head
        self._kept_tail = end.tail  # by what is durable: nothing from it on is written over
        self._cleaned = end.tail  # live records of all before it have been copied
        self._copied_in = 0  # the block with the last of those copies
        self._cleaned_max = min(CLEANED_MAX, blocks // 8)
        self._appended_max = max(1, min(APPENDED_MAX, blocks // 16))

    @property
    def used_blocks(self) -> int:
        """That may not be written over."""
        return self.head - self._kept_tail + 1

    @property
    def is_short(self) -> bool:
        """Whether it takes nothing new, since what is left may be needed for cleaning."""
        reserve = 2 * self._cleaned_max + self._appended_max
        return self.used_blocks + reserve > self._blocks

    @property
    def wants_flush(self) -> bool:
        """Whether cleaned blocks are needed soon, and wait for a flush."""
        return self.head > self.durable and self.used_blocks > self._blocks * 5 // 8

    def place(self, number: int) -> int:
        """In blocks from the start of the ring."""
        return number % self._blocks

    def to_clean(self) -> range:
        """The blocks whose records the next append should copy if they are live."""
        in_use = self.head - self._cleaned + 1
        if in_use <= self._blocks // 2 or self._copied_in > self.durable:
            return range(0)
        # The head stays, so that there is always an end to find.
        last = min(self._cleaned + self._cleaned_max, self.durable, self.head - 1)
        return range(self._cleaned, max(last, self._cleaned))

    def append(self, copies: Sequence[bytes], records: Iterable[bytes]) -> Append:
        """Blocks with `copies`, of live records of all of `to_clean`, and as many of `records` as there is room for:
        none while it is short. Changes nothing until `written`.
        """
        packed = _Packer(room_of(self._block_bytes))
        for record in copies:
            packed.add(record)
        bound = len(packed.blocks) + (0 if self.is_short else self._appended_max)
        taken = 0
        for record in records:
            if not packed.add(record, blocks_max=bound):
                break
            taken += 1
        parts = packed.blocks or [[]]  # an empty one tells the tail
        assert self.used_blocks + len(parts) <= self._blocks, (self.used_blocks, self._blocks)
        blocks: list[bytes] = []
        before = self._checksum
        for number, part in enumerate(parts, start=self.head + 1):
            made = encode_block(
                volume=self._volume,
                block_bytes=self._block_bytes,
                number=number,
                tail=self._tail,
                durable=self.durable,
                previous=before,
                records=part,
            )
            before = made[: len(NO_CHECKSUM)]
            blocks.append(made)
        return Append(self.head + 1, blocks, before, taken)

    def written(self, append: Append, cleaned: range) -> None:
        """All of it is written, though perhaps not durable."""
        assert append.first == self.head + 1
        self.head = append.head
        self._checksum = append.checksum
        self._told_tail = self._tail
        if cleaned:
            self._cleaned = cleaned.stop
            self._copied_in = self.head

    def mark(self) -> Callable[[], None]:
        """To be taken before a flush, and called when it has succeeded."""
        head, told_tail = self.head, self._told_tail

        def flushed() -> None:
            self.durable = max(self.durable, head)
            self._kept_tail = max(self._kept_tail, told_tail)
            if self._copied_in <= self.durable:
                self._tail = self._cleaned

        return flushed

    def snapshot(self) -> Callable[[], None]:
        """To be called when what was written from now on does not count: it is written over by the next append."""
        head, checksum, told = self.head, self._checksum, self._told_tail
        cleaned, copied_in = self._cleaned, self._copied_in

        def back() -> None:
            assert self.durable <= head
            self.head, self._checksum, self._told_tail = head, checksum, told
            self._cleaned, self._copied_in = cleaned, copied_in

        return back


class _Packer:
    """Records into blocks, in order."""

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._left = 0
        self.blocks: list[list[bytes]] = []

    def add(self, record: bytes, *, blocks_max: int | None = None) -> bool:
        """Whether there was room."""
        if len(record) > self._left:
            if blocks_max is not None and len(self.blocks) >= blocks_max:
                return False
            self.blocks.append([])
            self._left = self._room_bytes
        self.blocks[-1].append(record)
        self._left -= len(record)
        return True
