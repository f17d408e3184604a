"""The saves to one store, by the places of its medium: folders or devices that may hang each by itself.

Each has a lane of its own, with an equal part of what the store may hold and queue; no save is of two of them. What is
borrowed before it is known where it belongs would hold the memory of several: of a store with several places each
borrows its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio.lowlevel import checkpoint

from penstock.actors.api import store
from penstock.actors.api.l1_saving import Borrowed, BorrowedObject
from penstock.actors.api.types import Shape
from penstock.actors.core.write_policy import Moment, Tier
from penstock.actors.writer_lane import Lane
from penstock.actors.writer_routes import place_of, rows_by_place
from penstock.actors.writer_tools import LaneTools
from penstock.runtime.ref import Ref

STEP_OBJECTS = 512  # in one step of the loop: about a millisecond, or two


class StoreLanes:
    """Belongs to the store writer. `number`: the tier's."""

    def __init__(
        self, number: int, tier: Tier, target: Ref[store.StoreActor], tools: LaneTools
    ) -> None:
        self.tier = tier
        places = range(tier.routing.places)
        self.lanes = [Lane(number, tier, target, tools, place=place) for place in places]

    @property
    def inflight_bytes(self) -> int:
        return sum(lane.inflight_bytes for lane in self.lanes)

    @property
    def queued_objects(self) -> int:
        return sum(lane.queued_objects for lane in self.lanes)

    @property
    def queued_bytes(self) -> int:
        return sum(lane.queued_bytes for lane in self.lanes)

    def levels(self) -> dict[str, tuple[str, Callable[[], float]]]:
        """For metrics."""
        return {
            "inflight_bytes": (
                "Arena bytes held by saves under way.",
                lambda: self.inflight_bytes,
            ),
            "queued_objects": ("Objects that wait to be saved.", lambda: self.queued_objects),
            "queued_bytes": ("Arena bytes of them.", lambda: self.queued_bytes),
            "failing_objects": (
                "Those of them that the store could not take yet.",
                lambda: sum(lane.failing_objects for lane in self.lanes),
            ),
        }

    @property
    def room_bytes(self) -> int:
        """For what is borrowed before it is known where it belongs."""
        return self.lanes[0].room_bytes if len(self.lanes) == 1 else 0

    def save(self, batch: Borrowed, objects: Sequence[BorrowedObject]) -> None:
        """At once, if there is room; else later, if they are in L1 then."""
        lane = self.lanes[0]
        if len(self.lanes) == 1 and lane.has_room(batch.arena_bytes):
            lane.save(batch, objects)
        else:
            self.queue(batch.shape, [(one.key, one.slot) for one in objects])

    def queue(self, shape: Shape, objects: Sequence[tuple[bytes, int]]) -> None:
        """They are saved when there is room, if they are in L1 then."""
        by_place: dict[int, list[tuple[bytes, int]]] = {}
        for one in objects:
            by_place.setdefault(place_of(self.tier.routing, shape, *one), []).append(one)
        for place, own in by_place.items():
            self.lanes[place].queue(shape, own)

    async def queue_chunks(self, shape: Shape, keys: Sequence[bytes]) -> None:
        """The same of all that is resident of these chunks when it is their turn. Others get theirs between its steps,
        each of which looks at every slot once, and tells every lane at most once of a chunk."""
        step = max(1, STEP_OBJECTS // (len(shape.slots) * len(self.lanes)))
        for start in range(0, len(keys), step):
            rows = rows_by_place(self.tier.routing, shape, keys[start : start + step])
            for place, own in rows.items():
                self.lanes[place].queue_chunks(shape, own)
            await checkpoint()

    async def leaving(self, batch: Borrowed) -> list[tuple[Lane, list[BorrowedObject]]]:
        """What is to be saved of what leaves: what this store wants then, and what still waits for it. Others get their
        turn meanwhile."""
        by_place: dict[int, list[BorrowedObject]] = {}
        is_wanted = self.tier.moment is Moment.LEAVING
        for number, one in enumerate(batch, 1):
            place = place_of(self.tier.routing, batch.shape, one.key, one.slot)
            if is_wanted or self.lanes[place].wants(batch.shape, one.key, one.slot):
                by_place.setdefault(place, []).append(one)
            if not number % STEP_OBJECTS:
                await checkpoint()
        return [(self.lanes[place], own) for place, own in by_place.items()]
