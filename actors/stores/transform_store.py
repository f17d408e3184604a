"""A store with transforms around any other: to the actor it is a store like all, to the other one an actor like all.

    SAVE  payload -> room in the bounce buffer -> steps, in a thread -> the store below
    LOAD  the store below -> room -> steps undone, in a thread -> payload, and the header as it had been saved

Objects go in groups of a part of the bounce buffer each, side by side, so that one is transformed while another is
moved. What nobody can read is dropped by the actor, as whatever else is not what was asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Protocol, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from penstock.actors.stores.header import (
    Header,
    HeaderRefused,
    decode,
    encode_into,
    header_bytes,
    whole_blocks,
)
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.store import (
    Around,
    Fate,
    Given,
    Outcome,
    Store,
    StoreFault,
    Wanted,
)
from penstock.actors.stores.threads import Threads
from penstock.actors.stores.together import together
from penstock.actors.stores.transform import Declined, Effort, Locked, Pipeline, Unreadable
from penstock.actors.stores.transform_bounce import Bounce, Room
from penstock.runtime.units import KIB

INLINE_BYTES_MAX = 64 * KIB  # transformed in the loop's own step: compressed within a millisecond
GROUPS_AT_ONCE = 4  # that the bounce buffer has room for
GROUP_OBJECTS_MAX = 64


class _Payload(Protocol):
    @property
    def payload(self) -> memoryview: ...


Item = TypeVar("Item", bound=_Payload)
Result = TypeVar("Result")
_Work: TypeAlias = Callable[[Effort], Result]
_Move: TypeAlias = Callable[[Sequence[Item], Room], Awaitable[list[Outcome]]]


@dataclass(frozen=True, slots=True)
class TransformLimits:
    bounce_bytes_max: int
    threads: int
    # Of a group; more is transformed in a thread.
    inline_saved_bytes_max: int = INLINE_BYTES_MAX
    inline_loaded_bytes_max: int = INLINE_BYTES_MAX


class TransformedStore(Around):
    """`store`, behind a pipeline."""

    def __init__(self, store: Store, pipeline: Pipeline, limits: TransformLimits) -> None:
        super().__init__(store)
        self._pipeline = pipeline
        self._bounce = Bounce(limits.bounce_bytes_max)
        self._threads = Threads("penstock-transform", limits.threads)
        self._limits = limits
        self._is_closed = False

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return await self._in_groups(self._load, wanted, Fate.LOCKED)

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        return await self._in_groups(self._save, given, Fate.REFUSED)

    async def aclose(self) -> None:
        await super().aclose()
        if not self._is_closed:
            self._is_closed = True
            await self._threads.close()
        await anyio.to_thread.run_sync(self._bounce.release)

    # Loading.

    async def _load(self, group: Sequence[Wanted], room: Room) -> list[Outcome]:
        headers = fresh_pages([len(one.header) for one in group])
        rooms = self._split(room, group)
        inner = [
            replace(one, header=header, payload=places[0], hold=(room, one.hold))
            for one, header, places in zip(group, headers, rooms, strict=True)
        ]
        outcomes = await self.below.load(inner)
        done = [at for at, outcome in enumerate(outcomes) if outcome.fate is Fate.DONE]
        undo = [partial(self._undo, group[at], headers[at], rooms[at], outcomes[at]) for at in done]
        undone = await self._done(undo, _bytes(group), self._limits.inline_loaded_bytes_max)
        for at, outcome in zip(done, undone, strict=True):
            outcomes[at] = outcome
        return outcomes

    def _undo(
        self,
        wanted: Wanted,
        raw: memoryview,
        rooms: list[memoryview],
        read: Outcome,
        effort: Effort,
    ) -> Outcome:
        try:
            header = decode(raw)
        except HeaderRefused:
            wanted.header[:] = raw  # the actor says what becomes of such a one
            return read
        fate, reason = _mismatch(wanted, header, read)
        if fate is Fate.DONE:
            target = wanted.payload[: header.logical_bytes]
            try:
                plain = self._pipeline.undo(header, rooms, target, effort)
            except Unreadable as problem:
                fate = Fate.LOCKED if isinstance(problem, Locked) else Fate.DAMAGED
                reason = str(problem)
            else:
                encode_into(plain, wanted.header[: header_bytes(plain.runs)])
                return Outcome(Fate.DONE, whole_blocks(header.logical_bytes))
        return Outcome(fate, read.payload_bytes, reason)

    # Saving.

    async def _save(self, group: Sequence[Given], room: Room) -> list[Outcome]:
        headers = fresh_pages([len(one.header) for one in group])
        rooms = self._split(room, group)
        apply = [
            partial(self._apply, one, header, places, room)
            for one, header, places in zip(group, headers, rooms, strict=True)
        ]
        made = await self._done(apply, _bytes(group), self._limits.inline_saved_bytes_max)
        below = [one for one in made if isinstance(one, Given)]
        saved = iter(await self.below.save(below))
        return [
            self._told(one, stored, next(saved)) if isinstance(stored, Given) else stored
            for one, stored in zip(group, made, strict=True)
        ]

    def _apply(
        self,
        given: Given,
        into: memoryview,
        rooms: list[memoryview],
        room: Room,
        effort: Effort,
    ) -> Given | Outcome:
        header = decode(given.header)
        payload = given.payload[: min(header.logical_bytes, given.payload_bytes)]
        try:
            told, place = self._pipeline.apply(header, payload, rooms, effort)
        except Declined as refusal:
            return Outcome(Fate.REFUSED, reason=str(refusal))
        encode_into(told, into)
        hold = (room, given.hold)
        if place is None:
            return replace(given, header=into, hold=hold)
        size = whole_blocks(told.stored_bytes)
        # What was here before, of another object, is not to come to lie behind this one.
        place[told.stored_bytes : size] = bytes(size - told.stored_bytes)
        return replace(given, header=into, payload=place[:size], payload_bytes=size, hold=hold)

    def _told(self, given: Given, stored: Given, saved: Outcome) -> Outcome:
        if saved.fate is not Fate.DONE or saved.taken_bytes:
            return saved
        taken = self.below.cost(len(stored.header), stored.payload_bytes)
        most = self.cost(len(given.header), given.payload_bytes)
        return saved if taken == most else replace(saved, taken_bytes=taken)

    # Both.

    async def _in_groups(
        self, move: _Move[Item], items: Sequence[Item], too_large: Fate
    ) -> list[Outcome]:
        """`move` all items, side by side as far as there is room; the first StoreFault ends it."""
        groups = [*self._groups(items)]
        return [
            *chain.from_iterable(await together(partial(self._in_room, move, too_large), groups))
        ]

    async def _in_room(
        self, move: _Move[Item], too_large: Fate, group: Sequence[Item]
    ) -> list[Outcome]:
        size = self._pipeline.rooms * _bytes(group)
        if size > self._bounce.bytes_max:
            reason = f"transforms need {size} bytes, bounce_bytes_max is {self._bounce.bytes_max}"
            return [Outcome(too_large, reason=reason)] * len(group)
        return await move(group, await self._bounce.take(size))

    def _groups(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        bytes_max = self._bounce.bytes_max // (self._pipeline.rooms * GROUPS_AT_ONCE)
        group: list[Item] = []
        bytes_ = 0
        for one in items:
            size = len(one.payload)
            if group and (len(group) == GROUP_OBJECTS_MAX or bytes_ + size > bytes_max):
                yield group
                group, bytes_ = [], 0
            group.append(one)
            bytes_ += size
        if group:
            yield group

    def _split(self, room: Room, group: Sequence[Item]) -> list[list[memoryview]]:
        """The rooms of each object of a group."""
        rooms: list[list[memoryview]] = []
        start = 0
        for one in group:
            size = len(one.payload)
            ends = [start + size * (number + 1) for number in range(self._pipeline.rooms)]
            rooms.append([room.memory[end - size : end] for end in ends])
            start = ends[-1]
        return rooms

    async def _done(
        self, works: Sequence[_Work[Result]], size_bytes: int, inline_bytes_max: int
    ) -> list[Result]:
        """All of them: at once, or in a thread where they are of more bytes. Given up, it returns at once, and the work
        ends soon; what it may touch until then it keeps. Raises StoreFault."""
        effort = Effort()
        if size_bytes <= inline_bytes_max or not works:
            return _all_of(works, effort)
        try:
            working = await self._threads.begin(partial(_all_of, works, effort))
        except RuntimeError as error:
            raise StoreFault(f"no thread can be started: {error}") from None
        try:
            return await working
        finally:
            effort.give_up()  # or it is over


def _all_of(works: Sequence[_Work[Result]], effort: Effort) -> list[Result]:
    results: list[Result] = []
    for work in works:
        effort.check()
        results.append(work(effort))
    return results


def _bytes(group: Sequence[_Payload]) -> int:
    return sum(len(one.payload) for one in group)


def _mismatch(wanted: Wanted, header: Header, read: Outcome) -> tuple[Fate, str]:
    """Why this cannot be the object that was asked for; DONE: it may be."""
    if header.key != wanted.key:
        return Fate.DAMAGED, f"it is another object, {header.key.hex()}"
    if whole_blocks(header.stored_bytes) > read.payload_bytes:
        return Fate.DAMAGED, f"{read.payload_bytes} bytes of {header.stored_bytes} are there"
    if header.logical_bytes > len(wanted.payload):
        room = f"there is room for {len(wanted.payload)}"
        return Fate.REFUSED, f"it has {header.logical_bytes} bytes, {room}"
    return Fate.DONE, ""
