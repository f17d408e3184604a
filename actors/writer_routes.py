"""Which lane of a store saves what: the one of the place where the store keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.actors.api.types import Shape
from penstock.actors.core.routing import Routing
from penstock.actors.keys import object_key

Row = bytes
"""One byte per slot of a chunk: 1, if it is one of these."""


def place_of(routing: Routing, shape: Shape, key: bytes, slot: int) -> int:
    """Of one object: its chunk's key and a slot. About two microseconds, where its own key has to be made for it."""
    group, shard = shape.slots[slot].group, shape.slots[slot].shard
    name = object_key(key, group=group, shard=shard) if routing.is_by_key else key
    return routing.place_of(name, shard)


def rows_by_place(
    routing: Routing, shape: Shape, keys: Iterable[bytes]
) -> dict[int, list[tuple[bytes, Row]]]:
    """These chunks, whole: for each place the keys of those of which anything goes there, and which slots of them. Each
    object's key is made once for all places, or, where none is needed, for no chunk at all."""
    by_place: dict[int, list[tuple[bytes, Row]]] = {}
    alike = None if routing.is_by_key else _rows(routing, shape, b"")
    for key in keys:
        rows = _rows(routing, shape, key) if alike is None else alike
        for place, row in rows.items():
            by_place.setdefault(place, []).append((key, row))
    return by_place


def _rows(routing: Routing, shape: Shape, key: bytes) -> dict[int, Row]:
    """Of one chunk, by place."""
    slots: Sequence[int] = range(len(shape.slots))
    places = [place_of(routing, shape, key, slot) for slot in slots]
    return {place: bytes([one == place for one in places]) for place in dict.fromkeys(places)}
