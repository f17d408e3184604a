"""The planner against its dumb twin: sets and loops instead of columns."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.actors.api.types import GeometryId, GroupGeometry, HitRule, Shape
from penstock.actors.core.load_plan import (
    Batching,
    Known,
    Part,
    Plan,
    cut,
    full_hole,
    part_bytes,
    plan_load,
    prefixes,
    reach,
)
from penstock.actors.l1_geometries import longest_hit

ABSENT, RESIDENT, COMING = 0, 1, 2
BYTES = 100
FULL = GroupGeometry(HitRule.FULL, 0, (BYTES,), (1,))
SHARDED = GroupGeometry(HitRule.FULL, 0, (BYTES, BYTES), (1, 1))
WINDOW = GroupGeometry(HitRule.WINDOW, 2, (BYTES,), (1,))
STATE = GroupGeometry(HitRule.STATE, 0, (BYTES,), (1,))
GEOMETRIES = ((FULL,), (SHARDED,), (FULL, WINDOW), (SHARDED, STATE), (WINDOW, STATE), (STATE,))
ANY = Batching(bytes_max=1 << 30)


def shape_of(groups: tuple[GroupGeometry, ...]) -> Shape:
    return Shape.of(GeometryId(0), b"n" * 32, groups)


def holds(group: GroupGeometry, has: Sequence[bool], n: int) -> bool:
    """The hit rule, as one says it."""
    match group.rule:
        case HitRule.FULL:
            return all(has[:n])
        case HitRule.WINDOW:
            return all(has[max(0, n - group.window_chunks) : n])
        case HitRule.STATE:
            return n == 0 or has[n - 1]


def longest_by_hand(columns: Sequence[tuple[GroupGeometry, bytes]]) -> int:
    count = len(columns[0][1])
    good = [n for n in range(count + 1) if all(holds(g, [*map(bool, c)], n) for g, c in columns)]
    return max(good)


def needs(group: GroupGeometry, first: int, n: int) -> range:
    match group.rule:
        case HitRule.FULL:
            return range(first, n)
        case HitRule.WINDOW:
            return range(max(first, n - group.window_chunks), n)
        case HitRule.STATE:
            return range(n - 1, n)


class World:
    """What is where, drawn at random: for each (chunk, slot) L1's state, and whether each tier has it."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.shape = shape_of(draw(st.sampled_from(GEOMETRIES)))
        self.first = draw(st.integers(0, 3))
        count = draw(st.integers(0, 8))
        width, tiers = len(self.shape.slots), draw(st.integers(0, 3))
        cells = count * width
        states = st.lists(st.sampled_from([0, 0, 1, 2]), min_size=cells, max_size=cells)
        bits = st.lists(st.sampled_from([0, 1, 1]), min_size=cells, max_size=cells)
        self.l1 = bytes(draw(states))
        self.tiers = [bytes(draw(bits)) for _ in range(tiers)]
        self.known = Known(self.shape, first=self.first, tiers=tiers)
        self.known.grow(self.l1)
        for tier, answers in enumerate(self.tiers):
            self.known.found(tier, self.first, answers)
        self.end = self.first + count

    def at(self, table: bytes, chunk: int, slot: int) -> int:
        return table[(chunk - self.first) * len(self.shape.slots) + slot]

    def somewhere(self, chunk: int, slot: int) -> bool:
        if chunk < self.first:
            return True
        tables = [self.l1, *self.tiers]
        return any(self.at(table, chunk, slot) for table in tables)

    def reach(self, limit: int) -> int:
        good = [self.first]
        for n in range(self.first + 1, min(limit, self.end) + 1):
            columns = [
                (
                    group,
                    [all(self.somewhere(c, s) for s in self.shape.slots_of(g)) for c in range(n)],
                )
                for g, group in enumerate(self.shape.groups)
            ]
            if all(holds(group, has, n) for group, has in columns):
                good.append(n)
        return max(good)

    def needed(self, n: int) -> set[tuple[int, int]]:
        return {
            (chunk, slot)
            for g, group in enumerate(self.shape.groups)
            for slot in self.shape.slots_of(g)
            for chunk in needs(group, self.first, n)
            if n > self.first and self.at(self.l1, chunk, slot) != RESIDENT
        }

    def source(self, chunk: int, slot: int) -> int:
        if self.at(self.l1, chunk, slot) == COMING:
            return len(self.tiers)
        return next(t for t, table in enumerate(self.tiers) if self.at(table, chunk, slot))


worlds = st.composite(World)()


@settings(max_examples=500)
@given(worlds, st.integers(0, 14))
def test_it_reaches_as_far_as_the_rules_allow_and_loads_exactly_what_that_needs(
    world: World, limit: int
) -> None:
    """A16: the reach is the largest n valid for every group on every shard, and windows and states are loaded only
    where that n needs them. Seen to fail: with the minimum of the groups' own maxima in the place of the hit rule."""
    plan = plan_load(world.known, limit, ANY, longest_hit)
    assert plan.chunks == max(world.first, world.reach(limit))
    planned = [place for part in plan.parts for place in part.objects()]
    assert len(planned) == len(set(planned)), "an object is loaded twice"
    assert set(planned) == world.needed(plan.chunks)
    for part in plan.parts:
        assert all(world.source(chunk, slot) == part.source for chunk, slot in part.objects())


@given(worlds)
def test_the_native_hit_rule_is_that_of_the_twin(world: World) -> None:
    native = reach(world.known, world.end, longest_hit)
    assert native == reach(world.known, world.end, longest_by_hand)


@given(worlds, st.integers(1, 5), st.integers(1, 4))
def test_batches_begin_small_grow_by_doubling_and_keep_the_prompts_order(
    world: World, chunks_max: int, begun: int
) -> None:
    chunk_bytes = sum(slot.bytes for slot in world.shape.slots)
    batching = Batching(bytes_max=chunks_max * chunk_bytes, chunks_begun=begun)
    plan = plan_load(world.known, world.end, batching, longest_hit)
    whole = plan_load(world.known, world.end, ANY, longest_hit)
    assert {p for part in plan.parts for p in part.objects()} == {
        p for part in whole.parts for p in part.objects()
    }
    assert [part.first for part in plan.parts] == sorted(part.first for part in plan.parts)
    for source in range(world.known.coming + 1):
        mine = [part for part in plan.parts if part.source == source]
        if mine:
            assert mine[0].last - mine[0].first <= min(begun, chunks_max)
        assert all(part.last - part.first <= chunks_max for part in mine)


@given(worlds)
def test_the_hole_of_the_full_groups_is_the_first_chunk_that_nobody_has(world: World) -> None:
    full = [
        slot
        for slot, kind in enumerate(world.shape.slots)
        if world.shape.groups[kind.group].rule is HitRule.FULL
    ]
    holes = [
        chunk
        for chunk in range(world.first, world.end)
        if not all(world.somewhere(chunk, slot) for slot in full)
    ]
    assert full_hole(world.known) == (holes[0] if holes else world.end)


@given(worlds, st.data())
def test_what_a_source_lost_is_planned_from_the_next_and_never_from_it_again(
    world: World, data: st.DataObject
) -> None:
    """B7: every loss takes one (object, source) away, so planning comes to an end."""
    losses = 0
    while (plan := plan_load(world.known, world.end, ANY, longest_hit)).parts:
        part = data.draw(st.sampled_from(plan.parts))
        chunk, slot = data.draw(st.sampled_from([*part.objects()]))
        world.known.hold_part(part)
        world.known.lose(part.source, chunk, slot)
        losses += 1
        again = plan_load(world.known, world.end, ANY, longest_hit)
        assert not any(
            other.source == part.source and (chunk, slot) in other.objects()
            for other in again.parts
        )
    assert losses <= (len(world.tiers) + 1) * (world.end - world.first) * len(world.shape.slots)


@given(worlds, st.integers(1, 3))
def test_a_plan_may_be_cut_where_no_part_is_split(world: World, chunks_max: int) -> None:
    chunk_bytes = sum(slot.bytes for slot in world.shape.slots)
    batching = Batching(bytes_max=chunks_max * chunk_bytes)
    plan = plan_load(world.known, world.end, batching, longest_hit)
    for end in prefixes(plan):
        shorter = cut(plan, end)
        assert all(part.last <= end for part in shorter.parts)
        assert all(part.first >= end for part in plan.parts[len(shorter.parts) :])


@given(worlds)
@example(None)
def test_a_survey_replaces_what_was_known_of_l1(world: World | None) -> None:
    if world is None or world.end == world.first:
        return
    world.known.survey(world.first, bytes([RESIDENT]) * len(world.l1))
    plan = plan_load(world.known, world.end, ANY, longest_hit)
    assert plan == Plan(world.end, ())


def test_the_bytes_of_a_part_are_those_of_its_slots() -> None:
    groups = (GroupGeometry(HitRule.FULL, 0, (10, 30), (1, 1)),)
    assert part_bytes(shape_of(groups), Part(0, 2, 5, (1,))) == 90
    assert part_bytes(shape_of(groups), Part(0, 2, 5, (0, 1))) == 120
