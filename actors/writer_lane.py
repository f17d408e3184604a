"""The saves to one store: how many bytes at a time, what waits, and what became of it.

    named    -> queued --borrowed when there is room--> saving -> saved | failed
    borrowed -> saving, if there is room; else queued, by name only
    queued   -> gone, when it has left L1 meanwhile

Only what is being saved holds memory of L1, and that is bounded: a store that hangs keeps its own part and no more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from anyio.lowlevel import checkpoint

from penstock.actors.api import l1, l1_saving, store
from penstock.actors.api.l1_saving import Borrowed, BorrowedObject
from penstock.actors.api.types import GeometryId, Memory, Shape
from penstock.actors.api.writer import ObjectState
from penstock.actors.core.write_policy import Tier
from penstock.actors.keys import object_key
from penstock.actors.load_targets import whole_pages
from penstock.actors.writer_books import Books, name_of
from penstock.actors.writer_metrics import Fate, WriterMetrics
from penstock.runtime.errors import PenstockError, forget_frames
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

_FATES = {
    store.SaveOutcome.SAVED: Fate.SAVED,
    store.SaveOutcome.NO_ROOM: Fate.NO_ROOM,
    store.SaveOutcome.FAILED: Fate.FAILED,
}
Released = Callable[[Shape, Sequence[tuple[bytes, int]]], None]


@dataclass(frozen=True, slots=True)
class LaneLimits:
    inflight_bytes_max: int  # of the arena, held by saves under way; one larger object goes alone
    batch_bytes_max: int  # of one Save
    batch_objects_max: int
    queued_objects_max: int  # one more is given up
    save_s: float
    ask_s: float


@dataclass(eq=False)
class Countdown:
    """Of objects that somebody waits for at one lane."""

    left: int
    objects: int = 0  # asked for, those under way already included
    saved: int = 0
    failed: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, *, is_saved: bool) -> None:
        self.left -= 1
        self.saved += is_saved
        self.failed += not is_saved
        if not self.left:
            self.is_over.set()


@dataclass(slots=True)
class _Part:
    """One Save."""

    shape: Shape
    objects: list[tuple[bytes, int]]  # key and slot
    sources: list[store.Source]
    arena_bytes: int
    count: Countdown


@dataclass(slots=True)
class _Queued:
    """Objects of one chunk that wait. `slots` None: whatever is resident of it when it is borrowed."""

    shape: Shape
    slots: set[int] | None

    def size_bytes(self) -> int:
        slots = range(len(self.shape.slots)) if self.slots is None else self.slots
        return sum(whole_pages(self.shape.slots[slot].bytes) for slot in slots)


@dataclass(frozen=True, slots=True)
class LaneTools:
    """What all lanes share."""

    manager: Ref[l1.L1Manager]
    memory: Memory
    books: Books
    metrics: WriterMetrics
    limits: LaneLimits
    start_soon: Callable[..., None]
    released: Released  # these are pending nowhere any more
    moved: Callable[[], None]  # the backlog has changed


class Lane:
    """Belongs to the store writer. `place`: the tier's number."""

    def __init__(
        self, place: int, tier: Tier, target: Ref[store.StoreActor], tools: LaneTools
    ) -> None:
        self.tier = tier
        self.place = place
        self._target = target
        self._tools = tools
        self._limits = tools.limits
        self._inflight_bytes = 0
        self._queue: OrderedDict[tuple[GeometryId, bytes], _Queued] = OrderedDict()
        self._queued_objects = 0  # in _queue; <= queued_objects_max
        self._queued_bytes = 0
        self._wake = asyncio.Event()  # something was queued, or there may be room
        self._freed = asyncio.Event()  # there may be room
        self._log = Log(f"store_writer[{tier.name}]")

    @property
    def inflight_bytes(self) -> int:
        return self._inflight_bytes

    @property
    def queued_objects(self) -> int:
        return self._queued_objects

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    def levels(self) -> dict[str, tuple[str, Callable[[], float]]]:
        """For metrics."""
        return {
            "inflight_bytes": (
                "Arena bytes held by saves under way.",
                lambda: self._inflight_bytes,
            ),
            "queued_objects": ("Objects that wait to be saved.", lambda: self._queued_objects),
            "queued_bytes": ("Arena bytes of them.", lambda: self._queued_bytes),
        }

    @property
    def room_bytes(self) -> int:
        return max(0, self._limits.inflight_bytes_max - self._inflight_bytes)

    def has_room(self, arena_bytes: int) -> bool:
        return not self._inflight_bytes or arena_bytes <= self.room_bytes

    async def wait_room(self, arena_bytes: int) -> None:
        while not self.has_room(arena_bytes):
            await self._freed.wait()

    # What comes in.

    def save(self, batch: Borrowed, objects: Sequence[BorrowedObject]) -> Countdown:
        """Begin to save these objects of the batch, room or not; those that wait, wait no more."""
        new = [one for one in objects if self._claim(batch.shape, one.key, one.slot)]
        count = Countdown(len(new))
        if not new:
            count.is_over.set()
        self._start(self._parts(batch, new, count))
        return count

    def queue(self, shape: Shape, objects: Iterable[tuple[bytes, int]]) -> None:
        """They are saved when there is room, if they are in L1 then."""
        for key, slot in objects:
            if not self._tools.books.begin(name_of(key, slot), self.place):
                continue
            self._tools.metrics.begun(self.tier.name, 1)
            if self._queued_objects >= self._limits.queued_objects_max:
                self._settle(shape, [(key, slot)], Fate.OVERFLOW)
                continue
            known = self._queue.setdefault((shape.geometry, key), _Queued(shape, set()))
            if known.slots is not None:
                known.slots.add(slot)
                self._queued_bytes += whole_pages(shape.slots[slot].bytes)
                self._queued_objects += 1
        self._wake.set()

    def queue_chunks(self, shape: Shape, keys: Iterable[bytes]) -> None:
        """The same of all that is resident of these chunks when it is their turn."""
        for key in keys:
            if self._queued_objects >= self._limits.queued_objects_max:
                return  # asked for by hits; more hits ask again
            if (shape.geometry, key) not in self._queue:
                queued = self._queue[shape.geometry, key] = _Queued(shape, None)
                self._queued_objects += 1
                self._queued_bytes += queued.size_bytes()
        self._wake.set()

    def wants(self, shape: Shape, key: bytes, slot: int) -> bool:
        """Whether it waits here."""
        queued = self._queue.get((shape.geometry, key))
        return queued is not None and (queued.slots is None or slot in queued.slots)

    def _claim(self, shape: Shape, key: bytes, slot: int) -> bool:
        """It will be saved now. False: it is being saved already."""
        if self._tools.books.begin(name_of(key, slot), self.place):
            self._tools.metrics.begun(self.tier.name, 1)
            return True
        queued = self._queue.get((shape.geometry, key))
        if queued is None or queued.slots is None or slot not in queued.slots:
            return False
        queued.slots.remove(slot)
        self._queued_objects -= 1
        self._queued_bytes -= whole_pages(shape.slots[slot].bytes)
        if not queued.slots:
            del self._queue[shape.geometry, key]
        return True

    # What waits.

    async def run(self) -> None:
        """Beside the writer's messages: borrow and save what waits, as there is room."""
        while True:
            await self._wake.wait()
            self._wake = asyncio.Event()
            while taken := self._next():
                await self._borrow_and_save(taken)
                await checkpoint()

    def _next(self) -> list[tuple[bytes, _Queued]]:
        """The first that wait, of one geometry, as many as there is room for."""
        taken: list[tuple[bytes, _Queued]] = []
        arena_bytes = objects = 0
        while self._queue and objects < self._limits.batch_objects_max:
            (geometry, key), queued = next(iter(self._queue.items()))
            size = queued.size_bytes()
            if taken and taken[0][1].shape.geometry != geometry:
                break
            if not self.has_room(arena_bytes + size) or (
                taken and arena_bytes + size > self.room_bytes
            ):
                break
            del self._queue[geometry, key]
            count = 1 if queued.slots is None else len(queued.slots)
            self._queued_objects -= count
            self._queued_bytes -= size
            arena_bytes += size
            objects += count
            taken.append((key, queued))
        return taken

    async def _borrow_and_save(self, taken: list[tuple[bytes, _Queued]]) -> None:
        """`taken` has left the queue; each of its objects is pending."""
        shape = taken[0][1].shape
        wanted = {key: queued.slots for key, queued in taken}
        ask = l1_saving.Borrow(b"".join(wanted), shape.geometry)
        missing = Fate.GONE
        try:
            batch = await self._tools.manager.ask(ask, within=self._limits.ask_s)
        except PenstockError as refusal:
            self._log.warning_once("not_borrowed", reason=str(refusal))
            batch, missing = None, Fate.FAILED
        found: list[BorrowedObject] = []
        for one in batch or ():
            slots = wanted[one.key]
            if slots is None:
                if self._tools.books.begin(name_of(one.key, one.slot), self.place):
                    self._tools.metrics.begun(self.tier.name, 1)
                    found.append(one)
            elif one.slot in slots:
                slots.remove(one.slot)
                found.append(one)
        if batch is not None:
            self._start(self._parts(batch, found, Countdown(len(found))))
        rest = [(key, slot) for key, slots in wanted.items() for slot in slots or ()]
        self._settle(shape, rest, missing)

    # Saving.

    def _parts(
        self, batch: Borrowed, objects: Sequence[BorrowedObject], count: Countdown
    ) -> list[_Part]:
        """Saves of bounded size. What has no run digests cannot be verified when it is loaded, and is not saved."""
        parts: list[_Part] = []
        for one in objects:
            arena_bytes = whole_pages(one.logical_bytes)
            if not one.run_digests:
                self._settle(batch.shape, [(one.key, one.slot)], Fate.UNDIGESTED)
                count.settle(is_saved=False)
                continue
            last = parts[-1] if parts else None
            if (
                last is None
                or len(last.objects) >= self._limits.batch_objects_max
                or last.arena_bytes + arena_bytes > self._limits.batch_bytes_max
            ):
                last = _Part(batch.shape, [], [], 0, count)
                parts.append(last)
            last.objects.append((one.key, one.slot))
            last.sources.append(self._source(batch, one))
            last.arena_bytes += arena_bytes
        return parts

    def _source(self, batch: Borrowed, one: BorrowedObject) -> store.Source:
        slot = batch.shape.slots[one.slot]
        return store.Source(
            key=object_key(one.key, group=slot.group, shard=slot.shard),
            device=slot.shard,
            namespace=batch.shape.namespace,
            logical_bytes=one.logical_bytes,
            digest=one.digest,
            run_digests=one.run_digests,
            tenant=one.tenant,
            payload=self._tools.memory.view(one.offset, whole_pages(one.logical_bytes)),
            hold=batch.hold,
        )

    def _start(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            self._inflight_bytes += part.arena_bytes
            self._tools.start_soon(self._save, part, name=f"save to {self.tier.name}")

    async def _save(self, part: _Part) -> None:
        await hazard("writer.before_save")
        fates = [Fate.FAILED] * len(part.objects)
        try:
            await self._ask_store(part, fates)
        except PenstockError as refusal:
            self._log.warning_once("not_saved", str(refusal), reason=str(refusal))
            forget_frames(refusal)  # they would hold what was to be saved
        finally:
            part.sources.clear()  # whatever remembers this frame does not hold what was to be saved
            self._inflight_bytes -= part.arena_bytes
        await hazard("writer.after_save")
        for fate in Fate:
            settled = [
                one for one, came_to in zip(part.objects, fates, strict=True) if came_to is fate
            ]
            self._settle(part.shape, settled, fate)
        for came_to in fates:
            part.count.settle(is_saved=came_to in (Fate.SAVED, Fate.PRESENT))
        self._freed.set()
        self._freed = asyncio.Event()
        self._wake.set()
        self._tools.moved()

    async def _ask_store(self, part: _Part, fates: list[Fate]) -> None:
        """Fill in the fates. What the store has by its own word is not saved again. Raises PenstockError."""
        keys = store.Keys.of([(one.key, one.device) for one in part.sources])
        there = await self._target.ask(store.Locate(keys), within=self._limits.save_s)
        missing = [place for place, is_there in enumerate(there) if not is_there]
        for place, is_there in enumerate(there):
            if is_there:
                fates[place] = Fate.PRESENT
        if not missing:
            return
        sizes = [one.logical_bytes for one in part.sources]
        answers = await self._target.ask(_take_sources(part, missing), within=self._limits.save_s)
        for place, answer in zip(missing, answers, strict=True):
            fates[place] = _FATES[answer.outcome]
        saved = (place for place in missing if fates[place] is Fate.SAVED)
        self._tools.metrics.moved(self.tier.name, sum(sizes[place] for place in saved))

    def _settle(self, shape: Shape, objects: Sequence[tuple[bytes, int]], fate: Fate) -> None:
        if not objects:
            return
        is_saved = fate in (Fate.SAVED, Fate.PRESENT)
        state = ObjectState.SAVED if is_saved else ObjectState.FAILED
        books = self._tools.books
        over = [one for one in objects if books.settle(name_of(*one), self.place, state)]
        self._tools.metrics.settled(self.tier.name, fate, len(objects))
        if over:
            self._tools.released(shape, over)


def _take_sources(part: _Part, places: Sequence[int]) -> store.Save:
    """Out of the part and into the message: nobody else holds them while they are saved."""
    save = store.Save(tuple(part.sources[place] for place in places))
    part.sources.clear()
    return save
