"""Which objects the lane of one place of a store saves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from penstock.actors.api.types import Shape
from penstock.actors.core.routing import Routing
from penstock.actors.keys import object_key


def place_of(routing: Routing, shape: Shape, key: bytes, slot: int) -> int:
    """Of one object: its chunk's key and a slot. About a microsecond, if there is more than one place."""
    if routing.places == 1:
        return 0
    group, shard = shape.slots[slot].group, shape.slots[slot].shard
    return routing.place_of(object_key(key, group=group, shard=shard), shard)


@dataclass(frozen=True, slots=True)
class Route:
    """To one place."""

    routing: Routing
    place: int

    def has_slots(self, shape: Shape, key: bytes) -> bool:
        """Whether any object of this chunk goes there."""
        return any(self.chosen(shape, key, None))

    def chosen(self, shape: Shape, key: bytes, slots: Collection[int] | None) -> bytes:
        """One byte per slot of a chunk: 1, if it is one of these. None: all that go there."""
        every = range(len(shape.slots))
        if slots is not None:
            return bytes(slot in slots for slot in every)
        return bytes(place_of(self.routing, shape, key, slot) == self.place for slot in every)
