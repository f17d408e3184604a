"""What is borrowed, in saves of bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from penstock.actors.api import store
from penstock.actors.api.l1_saving import Borrowed, BorrowedObject
from penstock.actors.api.types import LeaseId, Memory, Shape
from penstock.actors.held import Held
from penstock.actors.keys import object_key
from penstock.actors.load_targets import whole_pages


@dataclass(eq=False)
class Countdown:
    """Of objects that somebody waits for at one lane, before they leave L1."""

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
class Part:
    """One Save."""

    shape: Shape
    lease: LeaseId  # under which it is read
    objects: list[tuple[bytes, int]]  # key and slot
    sources: list[store.Source]  # of one hold, which is this part's own
    arena_bytes: int
    count: Countdown | None  # None: nobody waits for it, and what fails may be tried again

    def take_sources(self, places: Sequence[int]) -> store.Save:
        """Out of the part and into the message: nobody else holds them while they are saved."""
        save = store.Save(tuple(self.sources[place] for place in places))
        self.sources.clear()
        return save


@dataclass(frozen=True, slots=True)
class PartBounds:
    memory: Memory
    bytes_max: int
    objects_max: int


def cut_parts(
    batch: Borrowed,
    objects: Sequence[BorrowedObject],
    bounds: PartBounds,
    count: Countdown | None,
) -> list[Part]:
    """One larger than `bytes_max` is a part of its own."""
    parts: list[Part] = []
    for one in objects:
        arena_bytes = whole_pages(one.logical_bytes)
        part = parts[-1] if parts else None
        if (
            part is None
            or len(part.objects) >= bounds.objects_max
            or part.arena_bytes + arena_bytes > bounds.bytes_max
        ):
            part = Part(batch.shape, batch.lease, [], [], 0, count)
            parts.append(part)
        hold = part.sources[0].hold if part.sources else Held(batch.hold)
        part.objects.append((one.key, one.slot))
        part.sources.append(_source(batch.shape, one, bounds.memory, hold))
        part.arena_bytes += arena_bytes
    return parts


def bytes_taken(objects: Iterable[BorrowedObject]) -> int:
    """Of the arena."""
    return sum(whole_pages(one.logical_bytes) for one in objects)


def _source(shape: Shape, one: BorrowedObject, memory: Memory, hold: object) -> store.Source:
    slot = shape.slots[one.slot]
    return store.Source(
        key=object_key(one.key, group=slot.group, shard=slot.shard),
        device=slot.shard,
        namespace=shape.namespace,
        logical_bytes=one.logical_bytes,
        digest=one.digest,
        run_digests=one.run_digests,
        tenant=one.tenant,
        payload=memory.view(one.offset, whole_pages(one.logical_bytes)),
        hold=hold,
    )
