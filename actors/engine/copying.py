"""From a lease's extents and the engine's block tables to native copy calls, and what their digests say."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from penstock._native import (
    ArenaMapping,
    Copier,
    CopyRefused,
    Direction,
    PagedLayout,
    crc64_join_runs,
)
from penstock.actors.api.types import EXTENT_BYTES, HitRule
from penstock.actors.engine.errors import BadBlocks, ProtocolBroken
from penstock.actors.engine.spec import GroupObjects
from penstock.runtime.errors import mapped

if TYPE_CHECKING:
    from typing_extensions import Buffer

ID_BYTES = 8

BlockIds: TypeAlias = "Buffer | Sequence[int]"
"""The engine's blocks of a prompt, one for each block_tokens, from the prompt's start. A group of recurrent state uses
the last one of each chunk. A negative id says that the engine has no block there (any more): the object of that chunk
is neither stored nor loaded. Full attention needs every chunk, so there a load refuses it. Too few ids are refused.
Buffers of 8-byte integers (NumPy, array) are taken as they are."""


class ObjectTable:
    """The objects of one lease, chunk-major, one per group in each chunk; and what copies have found of each."""

    def __init__(self, extents: bytes, *, groups: Sequence[GroupObjects], chunks: int) -> None:
        """Raises ProtocolBroken when the extents are not as many as chunks and groups ask for."""
        if len(extents) != len(groups) * chunks * EXTENT_BYTES:
            raise ProtocolBroken(
                f"{len(extents)} bytes of extents for {chunks} chunks of {len(groups)} groups"
            )
        self._fields = array("Q", extents)  # offset, bytes, digest of each object
        self._groups = groups
        self._runs: dict[
            int, array[int]
        ] = {}  # by index: digests of the runs, of those copied so far
        self._layers: dict[int, int] = {}  # by index: bit per layer that was copied
        self.chunks = chunks
        for index in range(chunks * len(groups)):
            expected = groups[index % len(groups)].object_bytes
            if self.size_bytes(index) not in (0, expected):
                raise ProtocolBroken(
                    f"an object of {self.size_bytes(index)} bytes where one has {expected}"
                )

    def size_bytes(self, index: int) -> int:
        """Exact size; 0: there is no object here."""
        return self._fields[3 * index + 1]

    def extents(self, indices: range) -> bytes:
        """The packed extents of some objects of one group: `indices` steps over the others."""
        fields = array("Q")
        for index in indices:
            fields.extend(self._fields[3 * index : 3 * index + 3])
        return fields.tobytes()

    def note(self, batch: Batch, runs: array[int]) -> None:
        """`batch` was copied and has given `runs`: [object][layer][component]."""
        group = self._groups[batch.indices.start % len(self._groups)]
        layers = batch.layers
        per_object = len(layers) * group.components
        assert len(runs) == len(batch.indices) * per_object
        bits = ((1 << len(layers)) - 1) << layers.start
        start = layers.start * group.components
        for position, index in enumerate(batch.indices):
            kept = self._runs.setdefault(index, array("Q", bytes(8 * group.runs)))
            kept[start : start + per_object] = runs[
                position * per_object : (position + 1) * per_object
            ]
            self._layers[index] = self._layers.get(index, 0) | bits

    def copied(self) -> list[int]:
        """Indices of the objects all of whose layers were copied, in order."""
        return [index for index in sorted(self._layers) if self._is_whole(index)]

    def _is_whole(self, index: int) -> bool:
        group = self._groups[index % len(self._groups)]
        return self._layers.get(index, 0) == (1 << group.layers) - 1

    def digest(self, index: int) -> int:
        """CRC-64/NVME of a whole object, out of its runs."""
        group = self._groups[index % len(self._groups)]
        return crc64_join_runs(self._runs[index], run_bytes=group.object_bytes // group.runs)

    def damaged(self) -> list[int]:
        """Indices of the objects that were read whole and do not digest to what was stored."""
        return [
            index for index in self.copied() if self.digest(index) != self._fields[3 * index + 2]
        ]

    def intact(self) -> list[list[bool]]:
        """For each group, for each chunk: whether its object was read whole, and is good."""
        good = set(self.copied()).difference(self.damaged())
        groups = len(self._groups)
        return [
            [chunk * groups + group in good for chunk in range(self.chunks)]
            for group in range(groups)
        ]

    def bytes_before(self, chunks: int) -> int:
        """Bytes of the objects in the first `chunks` chunks that were copied whole."""
        end = chunks * len(self._groups)
        return sum(self.size_bytes(index) for index in self.copied() if index < end)

    def copied_runs(self, group: int, layers: range) -> dict[int, array[int]]:
        """Of one group's objects all of whose `layers` were copied, by index: the digests of their runs."""
        objects = self._groups[group]
        if not 0 <= layers.start < layers.stop <= objects.layers:
            return {}
        bits = ((1 << len(layers)) - 1) << layers.start
        runs = slice(layers.start * objects.components, layers.stop * objects.components)
        return {
            index: self._runs[index][runs]
            for index in sorted(self._layers)
            if index % len(self._groups) == group and self._layers[index] & bits == bits
        }

    def digests_of(self, indices: Sequence[int]) -> bytes:
        """Packed object digests."""
        return array("Q", [self.digest(index) for index in indices]).tobytes()

    def runs_of(self, indices: Sequence[int]) -> bytes:
        """Packed run digests of each object in turn; empty when every object is one run."""
        if all(len(self._runs[index]) == 1 for index in indices):
            return b""
        return b"".join(self._runs[index].tobytes() for index in indices)


@dataclass(frozen=True, slots=True)
class Batch:
    """One native call: objects of one group in consecutive chunks."""

    table: ObjectTable
    direction: Direction
    layout: PagedLayout
    indices: range
    block_ids: array[int]
    skip_blocks: int
    layers: range

    def run(self, copier: Copier, mapping: ArenaMapping) -> array[int]:
        """Copy, without the GIL, and give the runs' digests. Raises BadBlocks."""
        with mapped({CopyRefused: BadBlocks}):
            runs = copier.copy(
                direction=self.direction,
                arena=mapping,
                extents=self.table.extents(self.indices),
                layout=self.layout,
                block_ids=self.block_ids,
                skip_blocks=self.skip_blocks,
                layers=(self.layers.start, self.layers.stop),
            )
        return array("Q", runs)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A copy as the engine asks for it: all groups, the whole of a lease."""

    direction: Direction
    table: ObjectTable
    groups: Sequence[GroupObjects]
    layouts: Sequence[PagedLayout]
    block_ids: Sequence[BlockIds]  # for each group, from the prompt's start
    first_chunk: int  # where in the prompt the table's first chunk is
    skip_tokens: int = 0  # of the prompt, from its start: the engine's blocks there are left alone
    layers: range | None = None  # None: all

    def batches(self, *, bytes_max: int) -> Iterator[Batch]:
        """Native calls of at most `bytes_max` bytes each, or one object. Raises BadBlocks."""
        _require_one_each(self.groups, self.layouts, self.block_ids)
        if self.direction is Direction.TO_OBJECTS:
            named_blocks(
                self.groups,
                self.layouts,
                self.block_ids,
                chunks=self.first_chunk + self.table.chunks,
            )
        for group in range(len(self.groups)):
            yield from self._batches_of(group, bytes_max)

    def _batches_of(self, group: int, bytes_max: int) -> Iterator[Batch]:
        objects = self.groups[group]
        count_max = max(1, bytes_max // objects.object_bytes)
        layers = self._layers_of(objects)
        ids = _Blocks(objects, self.block_ids[group])
        for first, end in self._stretches(group, ids):
            for start in range(first, end, count_max):
                stop = min(start + count_max, end)
                yield Batch(
                    self.table,
                    self.direction,
                    self.layouts[group],
                    range(
                        start * len(self.groups) + group, stop * len(self.groups), len(self.groups)
                    ),
                    ids.of(self.first_chunk + start, self.first_chunk + stop),
                    ids.skipped(
                        self.skip_tokens, self.first_chunk + start, self.first_chunk + stop
                    ),
                    layers,
                )

    def _stretches(self, group: int, ids: _Blocks) -> Iterator[tuple[int, int]]:
        """Consecutive chunks that have an object, and blocks: first, end."""
        first = None
        for chunk in range(self.table.chunks):
            is_there = self.table.size_bytes(chunk * len(self.groups) + group) > 0
            is_there = is_there and self._has_blocks(group, ids, self.first_chunk + chunk)
            if is_there and first is None:
                first = chunk
            elif not is_there and first is not None:
                yield first, chunk
                first = None
        if first is not None:
            yield first, self.table.chunks

    def _has_blocks(self, group: int, ids: _Blocks, chunk: int) -> bool:
        """False: the object is passed over. A load never passes over what its rule always needs, nor over blocks
        that were not named at all; the copy refuses those."""
        if self.direction is Direction.TO_OBJECTS:
            return ids.are_there(chunk)
        is_always_needed = self.groups[group].rule.rule is HitRule.FULL
        return is_always_needed or not ids.have_gap(chunk, skip_tokens=self.skip_tokens)

    def _layers_of(self, objects: GroupObjects) -> range:
        layers = range(objects.layers) if self.layers is None else self.layers
        if layers.step != 1 or not 0 <= layers.start < layers.stop <= objects.layers:
            raise BadBlocks(f"{layers} are no layers of a group that has {objects.layers}")
        return layers


def named_blocks(
    groups: Sequence[GroupObjects],
    layouts: Sequence[PagedLayout],
    block_ids: Sequence[BlockIds],
    *,
    chunks: int,
) -> list[array[int]]:
    """The ids of each group, packed. Raises BadBlocks unless they name every block of a prompt's first `chunks` chunks,
    be it by saying that there is none."""
    _require_one_each(groups, layouts, block_ids)
    return [
        _Blocks(objects, ids).reaching(chunks)
        for objects, ids in zip(groups, block_ids, strict=True)
    ]


def _require_one_each(
    groups: Sequence[GroupObjects],
    layouts: Sequence[PagedLayout],
    block_ids: Sequence[BlockIds],
) -> None:
    _require_list("layouts", layouts)
    _require_list("block_ids", block_ids)
    if not len(layouts) == len(block_ids) == len(groups):
        raise BadBlocks(
            f"{len(layouts)} layouts and {len(block_ids)} lists of block ids"
            f" for {len(groups)} groups"
        )
    for layout in layouts:
        _require_layout(layout)


def _require_list(name: str, value: object) -> None:
    if not isinstance(value, Sized):
        kind = type(value).__name__
        raise BadBlocks(f"{name} are in a list, one for each group, not one {kind} alone")


def _require_layout(value: object) -> None:
    if not isinstance(value, PagedLayout):
        raise BadBlocks(f"a layout is a PagedLayout, not {type(value).__name__}")


class _Blocks:
    """The block ids of one group along a prompt."""

    def __init__(self, objects: GroupObjects, block_ids: BlockIds) -> None:
        self._per_chunk = objects.chunk_tokens // objects.block_tokens
        self._block_tokens = objects.block_tokens
        self._is_state = objects.is_state
        self._chunk_tokens = objects.chunk_tokens
        self._ids = _pack_ids(block_ids)

    def reaching(self, chunks: int) -> array[int]:
        """All ids. Raises BadBlocks when they are too few for the prompt's first `chunks` chunks."""
        if len(self._ids) < chunks * self._per_chunk:
            raise self._too_few(chunks)
        return self._ids

    def are_there(self, chunk: int) -> bool:
        ids = self._slice(chunk, chunk + 1)
        return len(ids) == (1 if self._is_state else self._per_chunk) and min(ids) >= 0

    def have_gap(self, chunk: int, *, skip_tokens: int) -> bool:
        """Whether the engine has no block somewhere in `chunk` beyond `skip_tokens`. Raises BadBlocks."""
        ids = self._slice(chunk, chunk + 1)
        return min(ids[self.skipped(skip_tokens, chunk, chunk + 1) :], default=0) < 0

    def of(self, first: int, end: int) -> array[int]:
        """Ids for the chunks first <= chunk < end. Raises BadBlocks when there are too few."""
        ids = self._slice(first, end)
        if len(ids) < (end - first) * (1 if self._is_state else self._per_chunk):
            raise self._too_few(end)
        return ids

    def _too_few(self, chunks: int) -> BadBlocks:
        return BadBlocks(
            f"{len(self._ids)} block ids, from the prompt's start, reach"
            f" {len(self._ids) * self._block_tokens} tokens, not {chunks * self._chunk_tokens}"
        )

    def _slice(self, first: int, end: int) -> array[int]:
        if self._is_state:
            return self._ids[
                (first + 1) * self._per_chunk - 1 : end * self._per_chunk : self._per_chunk
            ]
        return self._ids[first * self._per_chunk : end * self._per_chunk]

    def skipped(self, skip_tokens: int, first: int, end: int) -> int:
        """How many of the blocks of these chunks lie before `skip_tokens`."""
        tokens = min(
            max(0, skip_tokens - first * self._chunk_tokens), (end - first) * self._chunk_tokens
        )
        if self._is_state:
            return tokens // self._chunk_tokens
        if tokens % self._block_tokens:
            raise BadBlocks(
                f"skip_tokens {skip_tokens} is no multiple of {self._block_tokens}, a block"
            )
        return tokens // self._block_tokens


def _pack_ids(block_ids: BlockIds) -> array[int]:
    """Raises BadBlocks for what is not a sequence of 64-bit integers."""
    if isinstance(
        block_ids, bytes | bytearray | str
    ):  # array() would take them for the words of one
        raise BadBlocks(f"block ids are integers, not {type(block_ids).__name__}")
    try:
        with memoryview(cast("Buffer", block_ids)) as view:
            if view.format in {"q", "l"} and view.itemsize == ID_BYTES and view.ndim == 1:
                return array("q", view.tobytes())
    except TypeError:
        pass  # no buffer
    try:
        return array("q", cast("Sequence[int]", block_ids))
    except (TypeError, OverflowError) as problem:
        raise BadBlocks(f"block ids are integers: {problem}") from problem
