"""The eviction controller: keeps room in L1 before it is needed, and makes some at once when it is.

    taken > high water  -> evict down to low water
    somebody had NO_ROOM -> evict what they asked for, now
    purge                -> evict everything

    where a store wants what leaves L1:
    victims --held--> saved down -----------------------------------> evicted
                        '- not in time, and room is needed now -----> others are evicted unsaved, and counted
                        '- not in time, and it can wait ------------> nothing; the next pressure tries again

All of it in batches, between other work of the loop: a batch is bounded by its bytes and by its chunks, so that
neither large objects nor many small ones hold the loop up.

Nothing that a ticket or an engine's lease holds is ever evicted; when everything is held, room is not made and the
asker hears so. What is being saved goes last, when room is needed now: a store that hangs keeps the memory it reads,
and not the prefix before it.
In staging nothing is evicted at all: what is saved leaves by itself, and what is not must not go.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import assert_never

from anyio import move_on_after, sleep_forever
from anyio.lowlevel import checkpoint

from penstock.actors.api import eviction, l1, l1_saving, writer
from penstock.actors.held import when_dropped
from penstock.actors.victims import next_victims
from penstock.runtime.deadline import time_left
from penstock.runtime.errors import (
    CapacityError,
    ConfigError,
    DeadlineExceeded,
    PenstockError,
    forget_frames,
)
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Bytes of arena taken. `low_bytes <= high_bytes <= arena_bytes`; equal to the arena: evict only on NO_ROOM."""

    arena_bytes: int
    low_bytes: int
    high_bytes: int
    batch_bytes: int  # evicted in one step of the loop
    batch_chunks: int  # the same; whichever comes first
    ask_s: float  # how long the L1 manager may take for a step

    @staticmethod
    def of(
        arena_bytes: int,
        *,
        low: float,
        high: float,
        batch_bytes: int,
        batch_chunks: int,
        ask_s: float,
    ) -> Watermarks:
        """From fractions of the arena. Raises ConfigError."""
        if not 0.0 < low <= high <= 1.0:
            problem = f"low and high water must be 0 < low <= high <= 1, not {low} and {high}"
            raise ConfigError("l1.low_water", problem)
        low_bytes, high_bytes = int(arena_bytes * low), int(arena_bytes * high)
        return Watermarks(arena_bytes, low_bytes, high_bytes, batch_bytes, batch_chunks, ask_s)


IN_VAIN_MAX = 4  # batches in a row that were saved, and then read, or written to, by others
UNSAVED = (
    "evicted_unsaved_chunks",
    "Chunks evicted though a store wanted them: they could not be saved in time.",
)


class Urgency(enum.Enum):
    """How long a batch may take to be saved."""

    NOW = "somebody waits for the room"
    SOON = "there is room left"


@dataclass(frozen=True, slots=True)
class SavesDown:
    """A store wants what leaves L1: who saves it, and how long one batch of it may take."""

    store_writer: Ref[writer.StoreWriter]
    urgent_s: float  # while somebody waits for room
    relaxed_s: float  # otherwise
    telemetry: Telemetry

    def within_s(self, urgency: Urgency) -> float:
        """Of one batch. Whoever waits for room has to have time left to get it unsaved, and for the next batch."""
        if urgency is Urgency.NOW:
            return min(self.urgent_s, time_left() / 2)
        return self.relaxed_s


class EvictionController(eviction.EvictionController):
    """`store_writer`: None when nothing is saved. `saves_down`: None when no store wants what leaves L1. `is_staging`:
    see the top of this file."""

    inflight_max = 64  # who needs room now does not wait for those who need it soon

    def __init__(
        self,
        manager: Ref[l1.L1Manager],
        watermarks: Watermarks,
        *,
        store_writer: Ref[writer.StoreWriter] | None = None,
        saves_down: SavesDown | None = None,
        is_staging: bool = False,
    ) -> None:
        self._l1 = manager
        self._watermarks = watermarks
        self._store_writer = store_writer
        self._saves_down = saves_down
        self._is_staging = is_staging
        self._relieving = asyncio.Lock()  # one of them is enough
        self._log = Log("eviction_controller")

    async def receive(self, msg: eviction.Message) -> object:
        match msg:
            case eviction.MakeRoom():
                wanted = min(msg.bytes_wanted, self._watermarks.arena_bytes)
                return answer(msg, await self._make_room_now(wanted, msg.own))
            case eviction.Pressure():
                await self._relieve()
                return answer(msg, None)
            case eviction.Purge():
                return answer(msg, await self._evict(self._watermarks.arena_bytes))
            case _:
                assert_never(msg)

    async def _relieve(self) -> None:
        """From above high water down to low water; stops early when everything left is held."""
        async with self._relieving:
            usage = await self._l1.ask(l1.TakePressure(), within=self._watermarks.ask_s)
            if usage.taken_bytes > self._watermarks.high_bytes:
                wanted = usage.taken_bytes - self._watermarks.low_bytes
                await self._make_room(wanted, Urgency.SOON)

    async def _make_room_now(self, bytes_wanted: int, own: bytes | None) -> int:
        """What is being saved is evicted only if nothing else may go. Answers the bytes freed: of what stores still
        read the memory comes back later, but what it rests on could not go before."""
        room = await self._make_room(bytes_wanted, Urgency.NOW, own)
        missing = bytes_wanted - room.bytes_freed
        if missing <= 0 or not await self._let_go_of_saves(own):
            return room.bytes_freed
        return room.bytes_freed + (await self._evict(missing, own)).bytes_freed

    async def _let_go_of_saves(self, own: bytes | None) -> bool:
        """Whether anything may go by that. Who is short of its quota lets go of its own."""
        if self._is_staging or self._store_writer is None:
            return False
        try:
            ask = writer.LetGo(own)
            return await self._store_writer.ask(ask, within=self._watermarks.ask_s) > 0
        except PenstockError as refusal:
            self._log.warning_once("not_let_go", str(refusal), reason=str(refusal))
            return False

    async def _make_room(
        self, bytes_wanted: int, urgency: Urgency, own: bytes | None = None
    ) -> l1.Room:
        if self._is_staging:
            return l1.Room(0, 0, is_over=True)
        if self._saves_down is None:
            return await self._evict(bytes_wanted, own)
        return await self._evict_saved(bytes_wanted, urgency, self._saves_down, own)

    async def _evict(self, bytes_wanted: int, own: bytes | None = None) -> l1.Room:
        """Batch by batch, until so much is free or nothing is left that may go, of the tenant `own` if one is named."""
        freed = chunks = 0
        room = l1.Room(0, 0, is_over=False)
        while freed < bytes_wanted:
            wanted = min(bytes_wanted - freed, self._watermarks.batch_bytes)
            batch = l1.Evict(wanted, self._watermarks.batch_chunks, own)
            room = await self._l1.ask(batch, within=self._watermarks.ask_s)
            freed += _made(room, own)
            chunks += room.chunks_evicted
            if room.is_over:
                break
            await hazard("eviction.between_batches")
            await checkpoint()  # an ask of an idle L1 manager is no turn of the loop
        return l1.Room(freed, chunks, room.is_over)

    # Saving down.

    async def _evict_saved(
        self, bytes_wanted: int, urgency: Urgency, saves_down: SavesDown, own: bytes | None
    ) -> l1.Room:
        """The same, of what was saved before."""
        freed = chunks = in_vain = 0
        while freed < bytes_wanted:
            wanted = min(bytes_wanted - freed, self._watermarks.batch_bytes)
            evicted = await self._evict_saved_batch(wanted, urgency, saves_down, own)
            freed += evicted.bytes_freed
            chunks += evicted.chunks_evicted
            in_vain = 0 if evicted.chunks_evicted else in_vain + 1
            if evicted.is_over or in_vain == IN_VAIN_MAX:
                break
            await hazard("eviction.between_batches")
            await checkpoint()
        if freed < bytes_wanted and urgency is Urgency.NOW:
            room = await self._evict(bytes_wanted - freed, own)
            saves_down.telemetry.counter(*UNSAVED).add(room.chunks_evicted)
            return l1.Room(freed + room.bytes_freed, chunks + room.chunks_evicted, room.is_over)
        return l1.Room(freed, chunks, is_over=freed < bytes_wanted)

    async def _evict_saved_batch(
        self, bytes_wanted: int, urgency: Urgency, saves_down: SavesDown, own: bytes | None
    ) -> l1.Room:
        """Of the next victims, those that were saved whole, or finally failed to be, and that nobody holds any more.
        Over: there are none, or they could not be saved in time."""
        marks = self._watermarks
        try:
            batch = await next_victims(
                self._l1, bytes_wanted, marks.batch_chunks, own=own, ask_s=marks.ask_s
            )
        except CapacityError as refusal:  # no lease is left, and room cannot wait for one
            self._log.warning_once("not_borrowed", str(refusal), reason=str(refusal))
            batch = None
        if batch is None:
            return l1.Room(0, 0, is_over=True)
        evict, lease = l1_saving.EvictThese(batch.shape, batch.keys, batch.presence()), batch.lease
        given_back = asyncio.Event()  # nothing reads any more what the batch holds
        when_dropped(batch.hold, given_back.set)
        within_s = saves_down.within_s(urgency)
        save = writer.SaveDown(batch, room_s=within_s / 2)
        saving = self._save_down(save, saves_down.store_writer, within_s)
        del batch, save
        with move_on_after(within_s):
            late = await saving
            await given_back.wait()
            if late and urgency is Urgency.SOON:
                return l1.Room(0, 0, is_over=True)
            evicted = await self._l1.ask(evict, within=self._watermarks.ask_s)
            if late:
                saves_down.telemetry.counter(*UNSAVED).add(evicted.chunks_evicted)
            return l1.Room(_made(evicted, own), evicted.chunks_evicted, is_over=False)
        if urgency is Urgency.NOW:  # it goes unsaved, and what still reads it keeps its memory
            await self._l1.ask(l1_saving.LetGo(lease), within=self._watermarks.ask_s)
        return l1.Room(0, 0, is_over=True)

    async def _save_down(
        self, save: writer.SaveDown, store_writer: Ref[writer.StoreWriter], within_s: float
    ) -> int:
        """How many were too late. A writer that refuses, or crashes, has finally failed to save it."""
        try:
            return (await store_writer.ask(save, within=within_s)).late
        except DeadlineExceeded:
            await sleep_forever()  # until the time is over here, too
        except PenstockError as refusal:
            self._log.warning_once("not_saved_down", str(refusal), reason=str(refusal))
            forget_frames(refusal)  # they would hold the batch
        return 0


def _made(room: l1.Room, own: bytes | None) -> int:
    """A quota has room as soon as its own have left the index, whoever still reads their memory."""
    return room.bytes_freed if own is None else room.bytes_freed + room.bytes_quarantined
