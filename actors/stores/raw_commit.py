"""Writing records to the log of a raw device, many in one write and one flush.

    submitted -> [payloads flushed] -> appended -> [flushed] -> applied, answered
                        '------------------'-----------'-> failed, answered why

What is in brackets is done where saves are to be durable. One step is under way at a time; whatever is submitted
meanwhile goes together in the next one, and one flush serves the records of one group and the payloads of the next.
Nobody's task drives this: the end of one transfer begins the next. So whoever waits may give up, and nothing stops.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Protocol

from penstock.actors.core.slot_format import (
    HEAD_BYTES,
    Superblock,
    decode_block,
    is_put,
    key_of,
    records_of,
)
from penstock.actors.core.slot_log import Append, SlotLog
from penstock.actors.stores.device import Device, whole
from penstock.actors.stores.native_io import Moves, Piece
from penstock.actors.stores.pages import fresh_pages
from penstock.runtime.log import Log

Answer = asyncio.Future[list[str]]
"""Of each that was asked for together. Empty: done. Else why not."""
UNREADABLE_MAX = 3  # attempts to read blocks that are to be cleaned


class Books(Protocol):
    """Who keeps what the log tells."""

    def is_live(self, record: bytes) -> bool: ...

    def apply(self, record: bytes) -> None:
        """It is in the log, as durable as it is to be."""

    def take_back(self, record: bytes) -> None:
        """It failed, though it may be in the log until the next append is flushed."""

    def appended(self) -> None: ...

    def mark(self) -> Callable[[], None]:
        """To be taken before a flush, and called when it has succeeded."""


@dataclass(slots=True)
class _Asked:
    """Changes that were submitted together."""

    answer: Answer
    whys: list[str]
    left: int  # not settled


@dataclass(slots=True)
class _Change:
    record: bytes
    put: bytes | None  # key of a put
    asked: _Asked
    place: int  # there
    is_ready: bool  # what must be flushed before it is logged is flushed


class Committer:
    def __init__(
        self,
        device: Device,
        layout: Superblock,
        log: SlotLog,
        books: Books,
        *,
        is_durable: bool,
    ) -> None:
        self._device = device
        self._layout = layout
        self._log = log
        self._books = books
        self._is_durable = is_durable
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Change] = deque()  # bounded by what the store is asked at a time
        self._pending: dict[bytes, int] = {}  # puts by key, submitted and not answered
        self._flush_answers: list[Answer] = []
        self._is_busy = False  # a step is under way
        self._idle: Answer | None = None  # of closing
        self._unreadable = 0
        self._said = Log("store.raw_block")

    def is_pending(self, key: bytes) -> bool:
        """Whether a put of it may come."""
        return key in self._pending

    def submit(self, records: Sequence[bytes]) -> Answer:
        """Log them after all that was submitted before. The payload of a put is written."""
        asked = _Asked(self._loop.create_future(), [""] * len(records), len(records))
        if not records:
            asked.answer.set_result([])
        for place, record in enumerate(records):
            put = key_of(record) if is_put(record) else None
            if put is not None:
                self._pending[put] = self._pending.get(put, 0) + 1
            is_ready = put is None or not self._is_durable
            self._queue.append(_Change(record, put, asked, place, is_ready=is_ready))
        self._go()
        return asked.answer

    def flush(self) -> Answer:
        """Everything written until now."""
        answer: Answer = self._loop.create_future()
        self._flush_answers.append(answer)
        self._go()
        return answer

    async def wait_idle(self) -> None:
        while self._is_busy:
            self._idle = self._idle or self._loop.create_future()
            await asyncio.shield(self._idle)

    # One step, and what it leads to.

    def _go(self) -> None:
        if self._is_busy:
            return
        front = self._queue[0] if self._queue else None
        needs_flush = front is not None and (self._log.wants_flush or not front.is_ready)
        if self._flush_answers or needs_flush:
            self._is_busy = True
            self._flush(self._rest)
        elif front is not None:
            self._is_busy = True
            cleaned = self._log.to_clean()
            if cleaned:
                self._clean(cleaned)
            else:
                self._append([], cleaned)
        elif self._idle is not None:
            self._idle.set_result([])
            self._idle = None

    def _rest(self, _: str = "") -> None:
        self._is_busy = False
        self._go()

    def _flush(self, then: Callable[[str], None]) -> None:
        marks = (self._log.mark(), self._books.mark())
        covered = len(self._queue)
        asked, self._flush_answers = self._flush_answers, []

        def over(moved: Moves) -> None:
            why = _failure(moved, 0)
            if why:
                self._fail([self._queue.popleft() for _ in range(covered)], f"flushing: {why}")
            else:
                for flushed in marks:
                    flushed()
                for change in islice(self._queue, covered):
                    change.is_ready = True
            for answer in asked:
                _tell(answer, [why])
            then(why)

        self._device.sync().add_done_callback(over)

    def _clean(self, cleaned: range) -> None:
        """Read blocks whose live records the next append copies."""
        size = self._layout.block_bytes
        (memory,) = fresh_pages([len(cleaned) * size])

        def over(moved: Moves) -> None:
            why = _failure(moved, len(memory))
            if why and self._unreadable < UNREADABLE_MAX:
                self._unreadable += 1
                ready = sum(1 for _ in self._ready())
                self._fail([self._queue.popleft() for _ in range(ready)], f"reading its log: {why}")
                self._rest()
                return
            if why:
                # The ring must go on. What only these blocks tell of is lost when the store is opened again.
                self._said.error("log_unreadable", device=self._device.name, reason=why)
            self._unreadable = 0
            self._append(self._live_in(memory, cleaned), cleaned)

        self._device.read(self._parts(cleaned.start, memory), memory).add_done_callback(over)

    def _append(self, copies: list[bytes], cleaned: range) -> None:
        ready = self._ready()
        append = self._log.append(copies, (change.record for change in ready))
        group = [self._queue.popleft() for _ in range(append.new_records)]
        (memory,) = fresh_pages([len(append.blocks) * self._layout.block_bytes])
        memory[:] = b"".join(append.blocks)

        def over(moved: Moves) -> None:
            why = _failure(moved, len(memory))
            if why:
                self._fail(group, f"writing its log: {why}")
                self._rest()
            else:
                self._appended(append, cleaned, group)

        parts = self._parts(append.first, memory)
        self._device.write_first(parts, memory).add_done_callback(over)

    def _appended(self, append: Append, cleaned: range, group: list[_Change]) -> None:
        back = self._log.snapshot()
        self._log.written(append, cleaned)
        self._books.appended()
        if not self._is_durable:
            self._finish(group)
            self._rest()
            return

        def flushed(why: str) -> None:
            if why:
                back()
                self._fail(group, f"flushing: {why}")
            else:
                self._finish(group)
            self._rest()

        self._flush(flushed)

    def _finish(self, group: list[_Change]) -> None:
        for change in group:
            self._books.apply(change.record)
            self._settle(change, "")

    def _fail(self, group: list[_Change], why: str) -> None:
        for change in group:
            self._books.take_back(change.record)
            self._settle(change, why)

    def _settle(self, change: _Change, why: str) -> None:
        if change.put is not None:
            left = self._pending.pop(change.put) - 1
            if left:
                self._pending[change.put] = left
        asked = change.asked
        asked.whys[change.place] = why
        asked.left -= 1
        if not asked.left:
            _tell(asked.answer, asked.whys)

    def _ready(self) -> takewhile[_Change]:
        """From the front of the queue; order is kept, also between a save and a deletion."""
        return takewhile(lambda change: change.is_ready, self._queue)

    def _live_in(self, memory: memoryview, cleaned: range) -> list[bytes]:
        size = self._layout.block_bytes
        live: list[bytes] = []
        for at, number in enumerate(cleaned):
            block = bytes(memory[at * size : (at + 1) * size])
            head = decode_block(block, self._layout.volume)
            if head is not None and head.number == number:
                live += filter(self._books.is_live, records_of(block, head))
        return live

    def _parts(self, first: int, memory: memoryview) -> list[Piece]:
        """Where blocks from number `first` on stand: one row, or two where the ring begins anew."""
        size = self._layout.block_bytes
        place = self._log.place(first)
        until_end = (self._layout.log_blocks - place) * size
        rows = [(HEAD_BYTES + place * size, memory[:until_end]), (HEAD_BYTES, memory[until_end:])]
        return [(at, [row]) for at, row in rows if len(row)]


def _failure(moved: Moves, expected: int) -> str:
    outcome = whole(moved.result())
    if outcome < 0:
        return os.strerror(-outcome)
    return f"{outcome} of {expected} bytes" if outcome < expected else ""


def _tell(answer: Answer, whys: list[str]) -> None:
    if not answer.done():  # else given up
        answer.set_result(whys)
