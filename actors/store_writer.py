"""The store writer: saves what is in L1 to the stores below it, as each store's write policy wants.

    committed --news--> taken and borrowed --> lanes of the stores that want what is committed
    hit       --news--> counted            --> lanes of those that want what is hit twice
    leaving   --asked by eviction--------- --> lanes of those that want what leaves L1

It keeps nothing that a crash could damage: what it had begun is not saved then, which is counted, and that is a miss.
What a store still reads of it stays lent, and counts, for the next life too (`writer_loans.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import assert_never

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_saving, store, writer
from penstock.actors.api.types import KEY_BYTES, Memory, Shape
from penstock.actors.core.quota import Tenants
from penstock.actors.core.write_policy import Fates, Moment, SecondHits, Tier
from penstock.actors.victims import next_victims
from penstock.actors.writer_answers import Answers
from penstock.actors.writer_books import Books, name_of
from penstock.actors.writer_lane import Lane
from penstock.actors.writer_limits import WriterLimits
from penstock.actors.writer_loans import Loans
from penstock.actors.writer_metrics import WriterMetrics
from penstock.actors.writer_parts import Countdown, bytes_taken
from penstock.actors.writer_places import StoreLanes
from penstock.actors.writer_tools import LaneTools
from penstock.runtime.errors import ActorStopped, MailboxFull, PenstockError, forget_frames
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref

HITS_STEP_CHUNKS = 1024  # counted in one step of the loop
VICTIMS_STEP_BYTES = 1 << 40  # all there are, that is
VICTIMS_STEP_CHUNKS = 256
NEWS_PAUSE_S = 0.05  # before news that L1 did not give are asked for again; doubled each time
NEWS_PAUSE_S_MAX = 5.0


class StoreWriter(writer.StoreWriter):
    """`tiers`: every store below L1, in order. `metrics` and `loans` are those of all lives. `is_staging`: what was
    saved, or finally failed to be, leaves L1. `draw` gives a random number from 0 to 1."""

    inflight_max = 1024  # those who wait for outcomes, of which there may be fewer, and all others

    def __init__(
        self,
        tiers: Sequence[tuple[Tier, Ref[store.StoreActor]]],
        *,
        manager: Ref[l1.L1Manager],
        memory: Memory,
        limits: WriterLimits,
        metrics: WriterMetrics,
        loans: Loans,
        is_staging: bool,
        draw: Callable[[], float],
    ) -> None:
        self._l1 = manager
        self._limits = limits
        self._metrics = metrics
        self._is_staging = is_staging
        self._books = Books(
            Fates(len(tiers), settled_max=limits.settled_objects_max),
            waited_max=limits.waited_objects_max,
            waiters_max=limits.waiters_max,
        )
        self._loans = loans
        saving = sum(tier.moment is not None for tier, _ in tiers)
        tools = LaneTools(
            manager=manager,
            memory=memory,
            books=self._books,
            metrics=metrics,
            limits=limits.of_lane(saving),
            loans=self._loans,
            draw=draw,
            start_soon=self.start_soon,
            released=self._released,
            moved=self._tell_backlog,
        )
        stores = [StoreLanes(number, tier, ref, tools) for number, (tier, ref) in enumerate(tiers)]
        self._lanes: Mapping[Moment | None, list[StoreLanes]] = {
            moment: [one for one in stores if one.tier.moment is moment]
            for moment in (*Moment, None)
        }
        self._all = [one for one in stores if one.tier.moment is not None]
        self._answers = Answers(
            [(tier.name, ref) for tier, ref in tiers],
            manager=manager,
            books=self._books,
            wait_taken=self._wait_taken,
            locate_s=limits.locate_s,
            ask_s=limits.ask_s,
        )
        self._second = SecondHits(chunks_max=limits.hits_max)
        self._news = asyncio.Event()
        self._taken = asyncio.Event()  # after the next round of taking news; then replaced
        self._log = Log("store_writer")

    async def on_start(self) -> None:
        self._metrics.begin_life()
        if former := self._loans.begin_life():
            self.start_soon(self._loans.let_go_of_these, former, name="let go of former loans")
        for one in self._all:
            self._metrics.watch(one.tier.name, one.levels())
            for lane in one.lanes:
                self.start_soon(lane.run, name=f"lane of {one.tier.name}")
        self._tell_backlog()
        self._news.set()  # what was told to a life before this one
        self.start_soon(self._follow_news, name="news")
        if self._is_staging:
            self.start_soon(self._drop_forgotten, name="drop forgotten")

    async def receive(self, msg: writer.Message) -> object:
        match msg:
            case writer.News():
                self._news.set()
                return answer(msg, None)
            case writer.SaveDown():
                return answer(msg, await self._save_down(msg.batch, msg.room_s))
            case writer.WaitStored():
                return answer(msg, await self._answers.wait_stored(msg))
            case writer.LetGo():
                tenant = None if msg.own is None else Tenants.digest_of(msg.own)
                return answer(msg, await self._loans.let_go(tenant))
            case writer.Measure():
                return answer(msg, self._measure())
            case _:
                assert_never(msg)

    # What is committed, and what is hit.

    async def _follow_news(self) -> None:
        pause_s = NEWS_PAUSE_S
        while True:
            await self._news.wait()
            self._news.clear()
            taken, self._taken = self._taken, asyncio.Event()
            try:
                await self._take_committed()
                taken.set()
                await self._take_hits()
            except PenstockError as refusal:  # L1 has no lease left, or is late
                self._log.warning_once("news_not_taken", str(refusal), reason=str(refusal))
                taken.set()
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, NEWS_PAUSE_S_MAX)
                self._news.set()  # it was told of them once, and may not be told again
            else:
                pause_s = NEWS_PAUSE_S

    async def _wait_taken(self) -> None:
        """Until what is committed by now is in the books, or L1 did not give it. It is not for whoever asks to take it:
        what L1 gives out in the moment they leave would be forgotten."""
        taken = self._taken
        self._news.set()
        await taken.wait()

    async def _take_committed(self) -> None:
        """All of it. Raises PenstockError."""
        is_last = False
        while not is_last:
            lanes = self._lanes[Moment.COMMITTED]
            room_bytes = max((lane.room_bytes for lane in lanes), default=0)
            ask = l1_saving.TakeCommitted(self._limits.batch_objects_max, room_bytes)
            taken = await self._l1.ask(ask, within=self._limits.ask_s)
            is_last = taken.is_last
            self._metrics.news_lost(taken.lost)
            if taken.borrowed is not None:
                self._committed(taken.borrowed)
            if taken.named is not None:
                self._named(taken.named.shape, [*taken.named])
            del taken  # and with it what it holds
            self._tell_backlog()
            await hazard("writer.news_taken")
            await checkpoint()

    def _committed(self, batch: l1_saving.Borrowed) -> None:
        objects = [*batch]
        lanes = self._lanes[Moment.COMMITTED]
        for lane in lanes:
            lane.save(batch, objects)
        if not lanes:
            self._unwanted(batch.shape, [(one.key, one.slot) for one in objects])

    def _named(self, shape: Shape, objects: Sequence[tuple[bytes, int]]) -> None:
        lanes = self._lanes[Moment.COMMITTED]
        for lane in lanes:
            lane.queue(shape, objects)
        if not lanes:
            self._unwanted(shape, objects)

    def _unwanted(self, shape: Shape, objects: Sequence[tuple[bytes, int]]) -> None:
        for one in objects:
            self._books.skip(name_of(*one))
        self._released(shape, objects)

    async def _take_hits(self) -> None:
        """Raises PenstockError."""
        lanes = self._lanes[Moment.HIT_TWICE]
        while lanes:
            hits = await self._l1.ask(
                l1_saving.TakeHits(HITS_STEP_CHUNKS), within=self._limits.ask_s
            )
            if not hits:
                return
            for one in hits:
                for start in range(0, len(one.keys), HITS_STEP_CHUNKS * KEY_BYTES):
                    part = one.keys[start : start + HITS_STEP_CHUNKS * KEY_BYTES]
                    second = _split(self._second.hit(part))
                    for lane in lanes:
                        await lane.queue_chunks(one.shape, second)
                    await checkpoint()

    # What leaves.

    async def _save_down(self, batch: l1_saving.Borrowed, room_s: float) -> writer.SavedDown:
        """To those that want what leaves, and to those for which it still waits. Given up, what was begun goes on."""
        counts: list[Countdown] = []
        objects = 0
        async with anyio.create_task_group() as lanes:
            for one in self._all:
                for lane, wanted in await one.leaving(batch):
                    objects += len(wanted)
                    lanes.start_soon(self._save_in, lane, batch, wanted, room_s, counts)
            del batch
        saved = sum(count.saved for count in counts)
        failed = sum(count.failed for count in counts)
        begun = sum(count.objects for count in counts)
        return writer.SavedDown(saved=saved, failed=failed, late=objects - begun)

    async def _save_in(
        self,
        lane: Lane,
        batch: l1_saving.Borrowed,
        wanted: Sequence[l1_saving.BorrowedObject],
        room_s: float,
        counts: list[Countdown],
    ) -> None:
        """Given up, nobody who remembers that holds the batch."""
        saving = self._save_when_room(lane, batch, wanted, room_s, counts)
        del batch, wanted
        try:
            await saving
        except asyncio.CancelledError as given_up:
            forget_frames(given_up)
            raise

    async def _save_when_room(
        self,
        lane: Lane,
        batch: l1_saving.Borrowed,
        wanted: Sequence[l1_saving.BorrowedObject],
        room_s: float,
        counts: list[Countdown],
    ) -> None:
        """In its own time: a lane without room keeps no other from saving, and no memory beyond its part for long."""
        with anyio.move_on_after(room_s) as waiting:
            await lane.wait_room(bytes_taken(wanted))
        if waiting.cancelled_caught:
            return
        count = lane.save_leaving(batch, wanted)
        count.objects = len(wanted)
        counts.append(count)
        del batch
        self._tell_backlog()
        await count.is_over.wait()

    # Staging and hints.

    def _released(self, shape: Shape, objects: Sequence[tuple[bytes, int]]) -> None:
        """Pending nowhere any more: in staging L1 has no further use for them."""
        if not self._is_staging or not objects:
            return
        self.start_soon(self._drop_saved, _named(shape, objects), name="drop saved")

    async def _drop_forgotten(self) -> None:
        """Now and then, what nobody else would ever drop: what a writer before this one had begun to save, what was
        lost from the news, and what L1 refused to drop."""
        while True:
            await self._drop_idle()
            await anyio.sleep(self._limits.save_s)

    async def _drop_idle(self) -> None:
        """Whatever is in L1 and is neither held nor on its way to a store. What becomes a leaf by that is next."""
        held = []  # what is on its way, so that the next victims are others
        try:
            while True:
                batch = await next_victims(
                    self._l1, VICTIMS_STEP_BYTES, VICTIMS_STEP_CHUNKS, ask_s=self._limits.ask_s
                )
                if batch is None:
                    return
                await self._take_committed()  # what is news is on its way
                idle = [
                    (one.key, one.slot)
                    for one in batch
                    if not self._books.is_pending(name_of(one.key, one.slot))
                ]
                if len(idle) < len(batch):
                    held.append(batch.hold)
                dropped = _named(batch.shape, idle)
                del batch
                await self._drop(dropped)
                await checkpoint()
        except PenstockError as refusal:
            self._log.warning_once("not_dropped", str(refusal), reason=str(refusal))
            forget_frames(refusal)  # they would hold what is borrowed

    async def _drop_saved(self, objects: l1_saving.Named) -> None:
        try:
            await self._drop(objects)
        except PenstockError as refusal:
            self._log.warning_once("not_dropped", str(refusal), reason=str(refusal))

    async def _drop(self, objects: l1_saving.Named) -> None:
        """Raises PenstockError."""
        await self._l1.ask(l1_saving.DropSaved(objects), within=self._limits.ask_s)

    def _tell_backlog(self) -> None:
        usage = self._measure()
        with suppress(MailboxFull, ActorStopped):
            self._l1.tell_nowait(l1_saving.SaveBacklog(usage.inflight_bytes + usage.queued_bytes))

    def _measure(self) -> writer.WriterUsage:
        return writer.WriterUsage(
            inflight_bytes=sum(lane.inflight_bytes for lane in self._all),
            queued_objects=sum(lane.queued_objects for lane in self._all),
            queued_bytes=sum(lane.queued_bytes for lane in self._all),
        )


def _split(keys: bytes) -> list[bytes]:
    return [keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)]


def _named(shape: Shape, objects: Sequence[tuple[bytes, int]]) -> l1_saving.Named:
    keys = b"".join([key for key, _ in objects])
    slots = b"".join([l1_saving.SLOT.pack(slot) for _, slot in objects])
    return l1_saving.Named(shape, keys, slots)
