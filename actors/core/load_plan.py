"""The planner: which tier serves which object of a prompt, and in what batches.

Pure. What is known of a prompt's objects are *columns*: for each slot one byte per chunk, 1 where the object is there.
Columns are combined as whole numbers, so that a prompt of thousands of chunks costs microseconds.

    reach    = the largest n valid for every group on every shard, counting what L1 has and what any tier has
    needed   = full groups: all chunks below n; windows: the last of them; states: the last one
    parts    = what is needed and L1 has not, in prompt order, from the first tier that has it

Nothing beyond the reach is loaded: it could not be used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from penstock.actors.api.types import GroupGeometry, HitRule, Shape

LongestHit = Callable[[Sequence[tuple[GroupGeometry, bytes]]], int]
"""The largest n at which every group's rule holds, from one column a group: `_native.longest_hit` over bitmaps."""


@dataclass(frozen=True, slots=True)
class Part:
    """The same slots of consecutive chunks, from one source: one load."""

    source: int  # index of the tier; `Known.coming` for what somebody else is bringing
    first: int  # chunk of the prompt
    last: int  # excluded
    slots: tuple[int, ...]  # ascending

    @property
    def count(self) -> int:
        """Of its objects."""
        return (self.last - self.first) * len(self.slots)

    def objects(self) -> Iterator[tuple[int, int]]:
        """(chunk, slot), chunk-major: the order of a reservation's answers."""
        return ((chunk, slot) for chunk in range(self.first, self.last) for slot in self.slots)


@dataclass(frozen=True, slots=True)
class Plan:
    """Reach `chunks` chunks by these parts, in prompt order."""

    chunks: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Batching:
    """The first batch is one chunk, so that the watermark moves early; each next one has twice as many."""

    bytes_max: int  # of one part, unless a single chunk has more
    chunks_begun: int = 1  # of the first batch of this plan
    objects_max: int = 256  # of one part, the same: beginning it is one step of the loop


class Known:
    """What is known of the objects of a prompt from chunk `first` on. Grows as tiers answer.

    Sources are the tiers in their order, and last `coming`: somebody else loads or writes the object now.
    """

    def __init__(self, shape: Shape, *, first: int, tiers: int) -> None:
        self.shape = shape
        self.first = first  # chunks before it are the ticket's already
        self.coming = tiers  # as a source
        self._held = [bytearray() for _ in shape.slots]
        self._has = [[bytearray() for _ in shape.slots] for _ in range(tiers + 1)]

    @property
    def end(self) -> int:
        """Chunk up to which anything is known."""
        return self.first + len(self._held[0])

    def grow(self, presence: bytes) -> None:
        """What L1 has of the next chunks: a byte for each (chunk, slot), 0 absent, 1 resident, 2 coming."""
        width = len(self.shape.slots)
        for slot in range(width):
            column = presence[slot::width]
            self._held[slot] += column.translate(_ONLY_1)
            self._has[self.coming][slot] += column.translate(_ONLY_2)
            for tier in range(self.coming):
                self._has[tier][slot] += bytes(len(column))

    def found(self, tier: int, chunk: int, answers: bytes) -> None:
        """A tier has answered: a byte for each (chunk, slot) from `chunk` on, not 0 if it has the object."""
        width = len(self.shape.slots)
        assert len(answers) % width == 0
        for slot, column in enumerate(self._has[tier]):
            start = chunk - self.first
            column[start : start + len(answers) // width] = answers[slot::width].translate(_NOT_0)

    def survey(self, chunk: int, presence: bytes) -> None:
        """As `grow`, for chunks that are known: they may have changed since."""
        width = len(self.shape.slots)
        start = chunk - self.first
        for slot in range(width):
            column = presence[slot::width]
            self._held[slot][start : start + len(column)] = column.translate(_ONLY_1)
            self._has[self.coming][slot][start : start + len(column)] = column.translate(_ONLY_2)

    def hold(self, chunk: int, slot: int) -> None:
        """L1 has the object, or a load of it is under way that the ticket waits for."""
        self._held[slot][chunk - self.first] = 1

    def hold_part(self, part: Part) -> None:
        """The same of all objects of a part."""
        ones = b"\1" * (part.last - part.first)
        for slot in part.slots:
            self._held[slot][part.first - self.first : part.last - self.first] = ones

    def lose(self, source: int, chunk: int, slot: int) -> None:
        """That load has come to nothing: this source is not asked for the object again."""
        self._held[slot][chunk - self.first] = 0
        self._has[source][slot][chunk - self.first] = 0

    def forget(self) -> None:
        """All of it: nothing is known from here on."""
        for columns in (self._held, *self._has):
            for column in columns:
                column.clear()

    def columns(self, upto: int) -> Iterator[tuple[int, list[int]]]:
        """For each slot what L1 has and what each source has below chunk `upto`, as numbers."""
        count = upto - self.first
        for slot, held in enumerate(self._held):
            sources = [_number(columns[slot][:count]) for columns in self._has]
            yield _number(held[:count]), sources


def reach(known: Known, limit: int, longest: LongestHit) -> int:
    """The largest hit that can be had with everything that is known of, at most `limit` chunks."""
    limit = min(limit, known.end)
    count = limit - known.first
    if count <= 0:
        return known.first
    somewhere = [
        _any_of(held, sources).to_bytes(count, "little") for held, sources in known.columns(limit)
    ]
    before = b"\1" * known.first
    groups = []
    for number, group in enumerate(known.shape.groups):
        on_all = _ones(count)
        for slot in known.shape.slots_of(number):
            on_all &= _number(somewhere[slot])
        groups.append((group, before + on_all.to_bytes(count, "little")))
    return max(known.first, longest(groups))


def full_hole(known: Known) -> int:
    """The first chunk that a full group misses everywhere, as far as is known; `known.end` if there is none."""
    count = known.end - known.first
    on_all = _ones(count)
    for slot, (held, sources) in enumerate(known.columns(known.end)):
        if known.shape.groups[known.shape.slots[slot].group].rule is HitRule.FULL:
            on_all &= _any_of(held, sources)
    place = on_all.to_bytes(count, "little").find(0)
    return known.end if place < 0 else known.first + place


def first_missing(known: Known) -> int:
    """The first chunk of which some object is neither there nor on its way to this ticket."""
    count = known.end - known.first
    on_all = _ones(count)
    for held, _ in known.columns(known.end):
        on_all &= held
    place = on_all.to_bytes(count, "little").find(0)
    return known.end if place < 0 else known.first + place


def plan_load(known: Known, limit: int, batching: Batching, longest: LongestHit) -> Plan:
    """What to load, and from where, to reach as far as possible below `limit`."""
    chunks = reach(known, limit, longest)
    if chunks <= known.first:
        return Plan(chunks, ())
    count = chunks - known.first
    taken: list[list[bytes]] = [[] for _ in range(known.coming + 1)]  # [source][slot]
    for slot, (held, sources) in enumerate(known.columns(chunks)):
        needed = _needed(known, slot, chunks) & ~held
        # What somebody brings already costs nothing; then the tiers in their order.
        for source in (known.coming, *range(known.coming)):
            take = needed & sources[source]
            needed &= ~take
            taken[source].append(take.to_bytes(count, "little"))
        assert needed == 0, "an object is needed that nobody has"
    ends = _batch_ends(known, count, batching)
    parts = [
        Part(source, known.first + first, known.first + last, slots)
        for source, columns in enumerate(taken)
        for first, last, slots in _rectangles(columns, ends, count)
    ]
    parts.sort(key=lambda part: (part.first, part.source))
    return Plan(chunks, tuple(parts))


def part_bytes(shape: Shape, part: Part) -> int:
    """Bytes that a part loads."""
    return (part.last - part.first) * sum(shape.slots[slot].bytes for slot in part.slots)


def _needed(known: Known, slot: int, chunks: int) -> int:
    """Of one slot, the chunks that a hit of `chunks` needs and the ticket has not."""
    group = known.shape.groups[known.shape.slots[slot].group]
    needed = last_needed(group, chunks)
    first = known.first if group.rule is HitRule.FULL else max(known.first, needed.start)
    return _ones(chunks - first) << (8 * (first - known.first))


def last_needed(group: GroupGeometry, chunks: int) -> range:
    """The chunks that a hit of `chunks` needs of a group that does not need all; of a full group none."""
    match group.rule:
        case HitRule.FULL:
            return range(0)
        case HitRule.WINDOW:
            return range(max(0, chunks - group.window_chunks), chunks)
        case HitRule.STATE:
            return range(max(0, chunks - 1), chunks)


def _batch_ends(known: Known, count: int, batching: Batching) -> list[int]:
    """Where batches end, counted from `known.first`; the last end is `count`."""
    chunk_bytes = sum(slot.bytes for slot in known.shape.slots)
    objects_max = batching.objects_max // len(known.shape.slots)
    chunks_max = max(1, min(batching.bytes_max // chunk_bytes, objects_max))
    ends, end, step = [], 0, min(batching.chunks_begun, chunks_max)
    while end < count:
        end = min(count, end + step)
        ends.append(end)
        step = min(2 * step, chunks_max)
    return ends


def _rectangles(
    columns: Sequence[bytes], ends: Sequence[int], count: int
) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Runs of chunks with the same slots set, none across an end of a batch: (first, last, slots)."""
    if not any(any(column) for column in columns):
        return
    cuts = {0, count}
    for column in columns:
        cuts.update(_changes(column))
    first_set = min(column.find(1) for column in columns if 1 in column)
    cuts.update(first_set + end for end in ends if first_set + end < count)
    places = sorted(cuts)
    for first, last in pairwise(places):
        slots = tuple(slot for slot, column in enumerate(columns) if column[first])
        if slots:
            yield first, last, slots


def _changes(column: bytes) -> Iterator[int]:
    """Where a column goes from 0 to 1 or back."""
    place, wanted = 0, 1
    while (place := column.find(wanted, place)) >= 0:
        yield place
        wanted = 1 - wanted


def prefixes(plan: Plan) -> list[int]:
    """The chunks at which a plan may be cut without splitting a part, ascending."""
    ends, reached = [], 0
    parts = plan.parts  # by their first chunks
    for place, part in enumerate(parts):
        reached = max(reached, part.last)
        if place + 1 == len(parts) or parts[place + 1].first >= reached:
            ends.append(reached)
    return ends


def cut(plan: Plan, chunks: int) -> Plan:
    """The parts of a plan below `chunks`, which must be one of its prefixes."""
    end = bisect_left(plan.parts, chunks, key=lambda part: part.first)
    return Plan(chunks, plan.parts[:end])


def _any_of(held: int, sources: Sequence[int]) -> int:
    for source in sources:
        held |= source
    return held


def _number(column: bytes | bytearray) -> int:
    return int.from_bytes(column, "little")


def _ones(count: int) -> int:
    return int.from_bytes(b"\1" * count, "little")


_ONLY_1 = bytes(int(value == 1) for value in range(256))
_ONLY_2 = bytes(int(value == 2) for value in range(256))
_NOT_0 = bytes(int(value != 0) for value in range(256))
