"""What goes where is found out once for all places of a store, a bounded part of it in each step of the loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from unittest import mock

import pytest
from anyio.lowlevel import checkpoint
from support.saving_world import NAMESPACE, PAGE, prompt

from penstock.actors.api.l1_saving import BORROWED, Borrowed, BorrowedObject
from penstock.actors.api.types import GeometryId, GroupGeometry, HitRule, LeaseId, Shape
from penstock.actors.core.routing import ONE_PLACE, Routing
from penstock.actors.core.write_policy import Moment, Tier
from penstock.actors.keys import object_key
from penstock.actors.writer_places import STEP_OBJECTS, StoreLanes
from penstock.actors.writer_routes import Row
from penstock.runtime.sim_loop import simulate

CHUNKS, SLOTS, PLACES = 600, 4, 4
GROUPS = (GroupGeometry(HitRule.FULL, 0, (PAGE,) * SLOTS, (1,) * SLOTS),)
SHAPE = Shape.of(GeometryId(0), NAMESPACE, GROUPS)
PROMPT = prompt(CHUNKS)
KEYS = [PROMPT[start : start + 32] for start in range(0, len(PROMPT), 32)]
ROUTINGS = pytest.mark.parametrize(
    "routing",
    [Routing.by_key(PLACES), Routing.by_device(PLACES), Routing.by_rank((2, 0, 3, 1)), ONE_PLACE],
    ids=["by_key", "by_device", "by_rank", "one"],
)


class Steps:
    """How much was done in each step of the loop."""

    def __init__(self) -> None:
        self.keys_made = 0
        self.told = 0  # chunks that lanes were told of
        self._done = [(0, 0)]

    async def end_step(self) -> None:
        self._done.append((self.keys_made, self.told))
        await checkpoint()

    def count(self) -> int:
        return len(self._done)

    def largest(self) -> tuple[int, int]:
        """Keys made, and chunks told of."""
        done = [*self._done, (self.keys_made, self.told)]
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(done)]
        return max(keys for keys, _ in steps), max(told for _, told in steps)


class Told:
    """In the place of a lane: what it is to save."""

    def __init__(self, steps: Steps, place: int) -> None:
        self.place = place
        self.slots: set[tuple[bytes, int]] = set()
        self._steps = steps

    def queue_chunks(self, _: Shape, rows: Iterable[tuple[bytes, Row]]) -> None:
        for key, row in rows:
            self._steps.told += 1
            self.slots |= {(key, slot) for slot, is_own in enumerate(row) if is_own}

    def wants(self, _shape: Shape, key: bytes, slot: int) -> bool:
        return bool((key[0] + slot) % 2)


@contextmanager
def lanes(routing: Routing, moment: Moment) -> Iterator[tuple[StoreLanes, list[Told], Steps]]:
    steps, told = Steps(), list[Told]()

    def lane(*_: object, place: int) -> Told:
        told.append(Told(steps, place))
        return told[-1]

    def counted(key: bytes, *, group: int, shard: int) -> bytes:
        steps.keys_made += 1
        return object_key(key, group=group, shard=shard)

    places = "penstock.actors.writer_places"
    with (
        mock.patch(f"{places}.Lane", lane),
        mock.patch(f"{places}.checkpoint", steps.end_step),
        mock.patch("penstock.actors.writer_routes.object_key", counted),
    ):
        nothing: object = None
        yield StoreLanes(0, Tier("s0", moment, routing), nothing, nothing), told, steps  # type: ignore[arg-type]


def place_of(routing: Routing, key: bytes, slot: int) -> int:
    return routing.place_of(object_key(key, group=0, shard=slot), slot)


def made_at_most(routing: Routing, steps: Steps) -> None:
    """Each key once, if any is needed, and a bounded number in a step."""
    assert steps.keys_made == (CHUNKS * SLOTS if routing.is_by_key else 0)
    keys, told = steps.largest()
    assert keys <= STEP_OBJECTS
    assert told <= STEP_OBJECTS


@ROUTINGS
def test_chunks_are_queued_where_any_of_them_goes_and_looked_at_once(routing: Routing) -> None:
    """A6. Seen to fail: each place made every key of every chunk again, also where the key does not matter, and all of
    1024 chunks in one step of the loop: 31 ms for four slots and places."""
    with lanes(routing, Moment.HIT_TWICE) as (store, told, steps):
        simulate(0, partial(store.queue_chunks, SHAPE, KEYS))
    for one in told:
        assert one.slots == {
            (key, slot)
            for key in KEYS
            for slot in range(SLOTS)
            if place_of(routing, key, slot) == one.place
        }
    made_at_most(routing, steps)


@ROUTINGS
@pytest.mark.parametrize("moment", [Moment.LEAVING, Moment.COMMITTED])
def test_what_leaves_is_split_in_steps(routing: Routing, moment: Moment) -> None:
    """B17. Seen to fail: all of it in one step, 9 ms for 4096 objects and two places."""
    with lanes(routing, moment) as (store, told, steps):
        split = simulate(0, partial(store.leaving, batch()))
    wanted = {lane.place: own for lane, own in split}  # type: ignore[attr-defined]
    for one in told:
        assert {(own.key, own.slot) for own in wanted[one.place]} == {
            (key, slot)
            for key in KEYS
            for slot in range(SLOTS)
            if place_of(routing, key, slot) == one.place
            and (moment is Moment.LEAVING or one.wants(SHAPE, key, slot))
        }
    assert all(isinstance(own, BorrowedObject) for some in wanted.values() for own in some)
    made_at_most(routing, steps)
    assert steps.count() > CHUNKS * SLOTS // STEP_OBJECTS


def batch() -> Borrowed:
    objects = b"".join(
        BORROWED.pack(0, PAGE, 1, chunk, 0, slot, 0, 0)
        for chunk in range(CHUNKS)
        for slot in range(SLOTS)
    )
    arena_bytes = CHUNKS * SLOTS * PAGE
    return Borrowed(SHAPE, PROMPT, objects, b"", {0: b""}, arena_bytes, LeaseId(b"l" * 16), None)
