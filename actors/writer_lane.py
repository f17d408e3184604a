"""The saves to one place of a store: how many bytes at a time, what waits, and what became of it.

    named    -> queued --borrowed when there is room--> saving -> saved | failed
    borrowed -> saving, if there is room; else queued, by name only
    queued   -> gone, when it has left L1 meanwhile
    saving, and the store cannot now, or gave no answer in time
             -> queued again, by name only, with pauses that double and within a budget; then failed
             -> failed at once, if it is on its way out of L1

Only what is being saved, or may still be read, holds memory of L1, and that is bounded: a place that hangs keeps its
own part and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from penstock.actors.api import l1_saving, store
from penstock.actors.api.l1_saving import Borrowed, BorrowedObject
from penstock.actors.api.types import LeaseId, Shape
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Tier
from penstock.actors.held import Held
from penstock.actors.writer_books import name_of
from penstock.actors.writer_loans import Borrower
from penstock.actors.writer_metrics import Fate
from penstock.actors.writer_parts import Countdown, Part, PartBounds, bytes_taken, cut_parts
from penstock.actors.writer_queue import Queued, Waiting
from penstock.actors.writer_retries import Retries
from penstock.actors.writer_routes import Row
from penstock.actors.writer_tools import LaneTools
from penstock.runtime.deadline import deadline_within
from penstock.runtime.errors import (
    CapacityError,
    DeadlineExceeded,
    PenstockError,
    UnavailableError,
    forget_frames,
)
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

_FATES = {
    store.SaveOutcome.SAVED: Fate.SAVED,
    store.SaveOutcome.NO_ROOM: Fate.NO_ROOM,
    store.SaveOutcome.FAILED: Fate.FAILED,
}
_THERE = (Fate.SAVED, Fate.PRESENT)
_NOT_NOW = (UnavailableError, CapacityError, DeadlineExceeded)  # asking again may help
GIVEN_UP_STEP = 256  # objects or chunks, in one step of the loop


class Lane:
    """Belongs to the store writer. `number`: the tier's. `place`: whose objects it saves, of the store's medium."""

    def __init__(
        self,
        number: int,
        tier: Tier,
        target: Ref[store.StoreActor],
        tools: LaneTools,
        *,
        place: int,
    ) -> None:
        self.tier = tier
        self._number = number
        self._borrower = Borrower(tier.name, place)
        self._target = target
        self._tools = tools
        self._limits = tools.limits.of_place(tier.routing.places)
        self._queue = Waiting()  # of at most queued_objects_max
        self._retries = Retries(self._limits.retries, draw=tools.draw)
        self._bounds = PartBounds(
            tools.memory, tools.limits.batch_bytes_max, tools.limits.batch_objects_max
        )
        self._dropped_at = 0.0  # when memory that was being saved came back last
        self._wake = asyncio.Event()  # something was queued, or there may be room
        self._freed = asyncio.Event()  # there may be room
        self._log = Log(f"store_writer[{tier.name}]")
        tools.loans.watch(self._borrower, self._dropped)

    @property
    def inflight_bytes(self) -> int:
        """Those of former lives of the writer included."""
        return self._tools.loans.lent_bytes(self._borrower)

    @property
    def _held_bytes(self) -> int:
        """The same, and what other places save that was borrowed together with it."""
        return self._tools.loans.held_bytes(self._borrower)

    @property
    def queued_objects(self) -> int:
        return self._queue.objects + self._retries.queue.objects

    @property
    def queued_bytes(self) -> int:
        return self._queue.size_bytes + self._retries.queue.size_bytes

    @property
    def failing_objects(self) -> int:
        """Those that wait for another try."""
        return self._retries.queue.objects

    @property
    def room_bytes(self) -> int:
        return max(0, self._limits.inflight_bytes_max - self._held_bytes)

    def has_room(self, arena_bytes: int) -> bool:
        return not self._held_bytes or arena_bytes <= self.room_bytes

    async def wait_room(self, arena_bytes: int) -> None:
        while not self.has_room(arena_bytes):
            await self._freed.wait()

    # What comes in.

    def save(self, batch: Borrowed, objects: Sequence[BorrowedObject]) -> None:
        """Begin to save these objects of the batch, room or not; those that wait, wait no more."""
        self._begin(batch, self._claim(batch.shape, objects), None)

    def save_leaving(self, batch: Borrowed, objects: Sequence[BorrowedObject]) -> Countdown:
        """The same of what is about to leave L1, and will not be there for another try."""
        new = self._claim(batch.shape, objects)
        count = Countdown(len(new))
        if not new:
            count.is_over.set()
        elif self.tier.routing.places > 1:  # while these are held all is that was borrowed together
            batch = replace(batch, hold=Held(batch.hold))
            others_bytes = batch.arena_bytes - bytes_taken(new)
            self._tools.loans.hold_beside(self._borrower, batch.hold, others_bytes)
        self._begin(batch, new, count)
        return count

    def queue(self, shape: Shape, objects: Iterable[tuple[bytes, int]]) -> None:
        """They are saved when there is room, if they are in L1 then."""
        now = _now()
        for key, slot in objects:
            if not self._tools.books.begin(name_of(key, slot), self._number):
                continue
            self._tools.metrics.begun(self.tier.name, 1)
            if self._queue.objects >= self._limits.queued_objects_max:
                self._settle(shape, [(key, slot)], Fate.OVERFLOW)
            else:
                self._queue.add(shape, key, slot, now)
        self._wake.set()

    def queue_chunks(self, shape: Shape, rows: Iterable[tuple[bytes, Row]]) -> None:
        """The same of all that is resident of these slots of chunks when it is their turn."""
        now = _now()
        for key, row in rows:
            if self._queue.objects >= self._limits.queued_objects_max:
                return  # asked for by hits; more hits ask again
            self._queue.add_chunk(shape, key, row, now)
        self._wake.set()

    def wants(self, shape: Shape, key: bytes, slot: int) -> bool:
        """Whether it waits here."""
        return self._queue.has(shape, key, slot) or self._retries.queue.has(shape, key, slot)

    def _claim(self, shape: Shape, objects: Sequence[BorrowedObject]) -> list[BorrowedObject]:
        """These will be saved now; the others are being saved already."""
        claimed: list[BorrowedObject] = []
        for one in objects:
            if self._tools.books.begin(name_of(one.key, one.slot), self._number):
                self._tools.metrics.begun(self.tier.name, 1)
                claimed.append(one)
            elif any(
                queue.remove(shape, one.key, one.slot)
                for queue in (self._queue, self._retries.queue)
            ):
                claimed.append(one)
        return claimed

    # What waits.

    async def run(self) -> None:
        """Beside the writer's messages: borrow and save what waits, as there is room."""
        while True:
            with move_on_after(self._idle_s()):
                await self._wake.wait()
            self._wake = asyncio.Event()
            while self._give_up_old():
                await checkpoint()
            while taken := self._next():
                await self._borrow_and_save(taken)
                await checkpoint()
            self._tools.moved()

    def _idle_s(self) -> float:
        """How long nothing has to be done, unless something comes in, or goes."""
        now = _now()
        idle_s = self._retries.wakes_s(now)
        first = self._queue.first()
        if first is not None:
            stuck_s = max(first[1].since_s, self._dropped_at) + self._limits.retries.within_s
            idle_s = min(idle_s, max(0.0, stuck_s - now))
        return idle_s

    def _give_up_old(self) -> bool:
        """What was tried long enough, and what waits behind saves that do not end. False: there is no more."""
        now, within_s = _now(), self._limits.retries.within_s
        failing = self._retries.pop_old(now, objects_max=GIVEN_UP_STEP)
        for one in failing:
            self._settle(one.shape, [(one.key, one.slot)], Fate.FAILED)
        if self._dropped_at + within_s > now:
            return bool(failing)
        stuck = self._queue.pop_old(now, within_s=within_s, chunks_max=GIVEN_UP_STEP)
        for key, queued in stuck:
            self._settle(queued.shape, _named({key: queued.slots}), Fate.FAILED)
        return bool(failing or stuck)

    def _next(self) -> list[tuple[bytes, Queued]]:
        """The first that wait, of one geometry, as many as there is room for."""
        now = _now()
        if self._retries.is_due(now):
            one_save = min(self.room_bytes, self._limits.batch_bytes_max)
            if taken := self._take(self._retries.queue, one_save):
                self._retries.tried(now)
                return taken
        return self._take(self._queue, self.room_bytes)

    def _take(self, queue: Waiting, room_bytes: int) -> list[tuple[bytes, Queued]]:
        """One at least, if there is room for it."""
        taken: list[tuple[bytes, Queued]] = []
        arena_bytes = objects = 0
        while objects < self._limits.batch_objects_max and (first := queue.first()) is not None:
            queued = first[1]
            size = queued.size_bytes()
            if taken and taken[0][1].shape.geometry != queued.shape.geometry:
                break
            if arena_bytes + size > room_bytes if taken else not self.has_room(size):
                break
            queue.pop()
            arena_bytes += size
            objects += queued.objects
            taken.append(first)
        return taken

    async def _borrow_and_save(self, taken: list[tuple[bytes, Queued]]) -> None:
        """`taken` has left its queue; each of its objects is pending."""
        shape = taken[0][1].shape
        wanted = {key: queued.slots for key, queued in taken}
        rows = b"".join([queued.wanted() for _, queued in taken])
        ask = l1_saving.Borrow(b"".join(wanted), shape.geometry, rows)
        try:
            batches = await self._tools.manager.ask(ask, within=self._limits.ask_s)
        except PenstockError as refusal:
            self._log.warning_once("not_borrowed", reason=str(refusal))
            self._try_again(shape, _named(wanted))
            return
        again: list[LeaseId] = []
        for batch in batches:
            found = self._wanted_of(batch, wanted)
            self._begin(batch, found, None)
            if any(self._retries.knows(name_of(one.key, one.slot)) for one in found):
                again.append(batch.lease)
        self._settle(shape, _named(wanted), Fate.GONE)
        await self._tools.loans.let_go_of_these(again)  # they were kept for one try

    def _wanted_of(
        self, batch: Borrowed, wanted: Mapping[bytes, set[int] | None]
    ) -> list[BorrowedObject]:
        """What is taken out of `wanted`, which keeps those that are not in L1."""
        found: list[BorrowedObject] = []
        for one in batch:
            slots = wanted[one.key]
            if slots is None:
                if self._tools.books.begin(name_of(one.key, one.slot), self._number):
                    self._tools.metrics.begun(self.tier.name, 1)
                    found.append(one)
            elif one.slot in slots:
                slots.remove(one.slot)
                found.append(one)
        return found

    def _try_again(self, shape: Shape, objects: Sequence[tuple[bytes, int]]) -> None:
        """Later, unless their budget is used up."""
        now = _now()
        over = [one for one in objects if not self._retries.add(shape, *one, now)]
        self._tools.metrics.retried(self.tier.name, len(objects) - len(over))
        self._settle(shape, over, Fate.FAILED)
        self._wake.set()

    # Saving.

    def _begin(
        self, batch: Borrowed, objects: Sequence[BorrowedObject], count: Countdown | None
    ) -> None:
        """What has no run digests cannot be verified when it is loaded, and is not saved."""
        whole = [one for one in objects if one.run_digests]
        undigested = [(one.key, one.slot) for one in objects if not one.run_digests]
        self._settle(batch.shape, undigested, Fate.UNDIGESTED)
        if count is not None:
            for _ in undigested:
                count.settle(is_saved=False)
        for part in cut_parts(batch, whole, self._bounds, count):
            self._tools.loans.lend(self._borrower, part.sources[0].hold, part.arena_bytes)
            self._tools.loans.begin(part.lease, batch.tenants.values())
            self._tools.start_soon(self._save, part, name=f"save to {self.tier.name}")

    def _dropped(self) -> None:
        """Nothing reads some of what was lent any more."""
        self._dropped_at = _now()
        self._freed.set()
        self._freed = asyncio.Event()
        self._wake.set()

    async def _save(self, part: Part) -> None:
        await hazard("writer.before_save")
        fates: list[Fate | None] = [None] * len(part.objects)  # None: asking again may help
        try:
            with deadline_within(self._limits.save_s):
                await self._ask_store(part, fates)
        except PenstockError as refusal:
            self._log.warning_once("not_saved", str(refusal), reason=str(refusal))
            if not isinstance(refusal, _NOT_NOW):
                fates = [one or Fate.FAILED for one in fates]
            forget_frames(refusal)  # they would hold what was to be saved
        finally:
            part.sources.clear()  # whatever remembers this frame does not hold what was to be saved
        await hazard("writer.after_save")
        self._conclude(part, fates)
        is_held = any(one not in _THERE for one in fates)
        await self._tools.loans.end(part.lease, is_held=is_held)

    async def _ask_store(self, part: Part, fates: list[Fate | None]) -> None:
        """Fill in the fates. What the store has by its own word is not saved again. Raises PenstockError."""
        keys = store.Keys.of([(one.key, one.device) for one in part.sources])
        there = await self._target.ask(store.Locate(keys, store.Purpose.SAVE))
        missing = [place for place, is_there in enumerate(there) if not is_there]
        for place, is_there in enumerate(there):
            if is_there:
                fates[place] = Fate.PRESENT
        if not missing:
            return
        sizes = [one.logical_bytes for one in part.sources]
        answers = await self._target.ask(part.take_sources(missing))
        for place, answer in zip(missing, answers, strict=True):
            fates[place] = None if answer.is_passing else _FATES[answer.outcome]
        saved = (place for place in missing if fates[place] is Fate.SAVED)
        self._tools.metrics.moved(self.tier.name, sum(sizes[place] for place in saved))

    def _conclude(self, part: Part, fates: Sequence[Fate | None]) -> None:
        pairs = [*zip(part.objects, fates, strict=True)]
        saved = [name_of(*one) for one, fate in pairs if fate is Fate.SAVED]
        present = (name_of(*one) for one, fate in pairs if fate is Fate.PRESENT)
        if worked := saved + [name for name in present if self._retries.knows(name)]:
            self._retries.worked(worked, _now())
        for known in Fate:
            self._settle(part.shape, [one for one, fate in pairs if fate is known], known)
        unsettled = [one for one, fate in pairs if fate is None]
        if part.count is None:
            self._try_again(part.shape, unsettled)
            return
        self._settle(part.shape, unsettled, Fate.FAILED)
        for fate in fates:
            part.count.settle(is_saved=fate in _THERE)

    def _settle(self, shape: Shape, objects: Sequence[tuple[bytes, int]], fate: Fate) -> None:
        if not objects:
            return
        state = ObjectState.SAVED if fate in _THERE else ObjectState.FAILED
        over: list[tuple[bytes, int]] = []
        for one in objects:
            name = name_of(*one)
            self._retries.forget(name)
            if self._tools.books.settle(name, self._number, state):
                over.append(one)
        self._tools.metrics.settled(self.tier.name, fate, len(objects))
        if over:
            self._tools.released(shape, over)


def _named(wanted: Mapping[bytes, set[int] | None]) -> list[tuple[bytes, int]]:
    """Single objects of these chunks."""
    return [(key, slot) for key, slots in wanted.items() for slot in slots or ()]


def _now() -> float:
    return asyncio.get_running_loop().time()
