"""Leases: one process's right to read or write objects in the arena, and the copies made under it.

A lease ends with exactly one last word (Release, Abort, or the Commit of everything), sent by whoever ends it first:
the caller, the end of `async with`, the destructor, the client's close. No last word is sent while a copy runs: a
native copy runs to its end whatever happens to its caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock._native import Direction, PagedLayout
from penstock.actors.engine.copying import BlockIds, ObjectTable, Transfer
from penstock.actors.engine.counting import Loaded, Stored, counting_chunks
from penstock.actors.engine.errors import ProtocolBroken, StaleEpoch, StaleGrant
from penstock.protos import engine_pb2
from penstock.runtime.deadline import time_left
from penstock.runtime.errors import CallerError, DeadlineExceeded

if TYPE_CHECKING:
    from penstock.actors.engine.session import Session

_REFUSALS = frozenset({engine_pb2.ANSWER_NO_ROOM, engine_pb2.ANSWER_QUOTA})
_ENDED = "the lease is over: what was copied under it does not count"


class _Lease:
    """What both kinds share: OPEN --end--> OVER, and copies that are counted."""

    def __init__(self, session: Session, name: bytes, objects: ObjectTable) -> None:
        self.name = name  # 16 bytes; empty: nothing was granted
        self.objects = objects
        self._session = session
        self._is_over = not name
        self._copies = 0
        self._ends_after_copy = False

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def is_ending(self) -> bool:
        """Whether it is over, or will be when the copy that still runs has ended."""
        return self._is_over or self._ends_after_copy

    async def _copy(self, transfer: Transfer) -> None:
        """Run `transfer` batch by batch. Raises StaleGrant, StaleEpoch, MovesNoBytes."""
        session = self._session
        for batch in transfer.batches(bytes_max=session.config.copy_bytes_max):
            self._check_open()
            if time_left() <= 0:
                raise DeadlineExceeded("the deadline passed between two copies")
            with session.arena.copying() as mapping:
                self._copies += 1
                try:
                    self.objects.note(batch, await session.mover.copy(batch, mapping))
                finally:
                    self._copies -= 1
                    if self._ends_after_copy and not self._copies:
                        self.drop()

    def _check_open(self) -> None:
        if self.is_ending:
            raise StaleGrant(_ENDED)
        if not self._session.is_open:
            raise StaleEpoch("the session of this lease has ended: " + _ENDED)

    def _claim_end(self) -> bool:
        """Whether it falls to the caller to say the last word."""
        if self._is_over:
            return False
        self._is_over = True
        return True

    def drop(self) -> None:
        """Give the lease up; nothing that was copied under it counts. Idempotent, never waits.

        While a copy runs, the last word is said when that has ended.
        """
        if self._copies:
            self._ends_after_copy = True
        elif self._claim_end():
            self._say_last_word()

    def _say_last_word(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()


class ReadLease(_Lease):
    """The right to read one ticket's objects. Copy, then `release()`: only its answer makes the bytes count."""

    def __init__(
        self, session: Session, acquired: engine_pb2.Acquired, *, first_chunk: int
    ) -> None:
        objects = ObjectTable(acquired.extents, groups=session.groups, chunks=acquired.chunks)
        super().__init__(session, acquired.lease, objects)
        self.first_chunk = first_chunk
        self.chunks = acquired.chunks

    async def copy_to(
        self,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        skip_tokens: int = 0,
        layers: range | None = None,
    ) -> None:
        """Copy into the engine's blocks, and digest on the way.

        One layout and one list of block ids for each group, the ids from the prompt's start. Tokens before
        `skip_tokens` are left alone. `layers` copies only these layers; an object counts when all its layers were.
        Raises StaleGrant, StaleEpoch, MovesNoBytes, BadBlocks, and what the native copy refuses.
        """
        self._check_open()
        await self._copy(
            Transfer(
                Direction.TO_PAGED,
                self.objects,
                self._session.groups,
                layouts,
                block_ids,
                first_chunk=self.first_chunk,
                skip_tokens=skip_tokens,
                layers=layers,
            )
        )

    async def release(self, *, skip_tokens: int = 0) -> Loaded:
        """End the lease, naming damaged objects; tells what counts. Nothing does if the lease was over before.

        Raises StaleGrant if it was ended here already, CallerError while a copy runs, StreamLost, DeadlineExceeded.
        """
        if self._copies:
            raise CallerError("a copy under this lease is still running: await it, then release")
        if not self._claim_end():
            raise StaleGrant(_ENDED)
        damaged = self.objects.damaged()
        is_ok = await self._session.release(self.name, damaged)
        if not is_ok:
            return Loaded(damaged_objects=len(damaged))
        end = counting_chunks(
            [group.rule for group in self._session.groups],
            self.objects.intact(),
            first_chunk=self.first_chunk,
            chunks=self.chunks,
        )
        tokens = max(0, end * self._session.chunk_tokens - skip_tokens)
        return Loaded(tokens, self.objects.bytes_before(end - self.first_chunk), len(damaged))

    def _say_last_word(self) -> None:
        self._session.end_read(self.name, self.objects.damaged())

    def __del__(self) -> None:
        if not self._is_over:
            self._session.end_read_threadsafe(self.name)


@dataclass(frozen=True, slots=True)
class WrittenLayers:
    """Runs of objects that are whole, as many of each, though the objects are not. `digests`: packed, by object."""

    indices: list[int]
    first_run: int
    digests: bytes


class WriteLease(_Lease):
    """The right to write the objects that were granted. Copy, then `commit()`; what is not committed is freed."""

    def __init__(self, session: Session, reserved: engine_pb2.Reserved, *, chunks: int) -> None:
        objects = ObjectTable(reserved.extents, groups=session.groups, chunks=chunks)
        if len(reserved.answers) != chunks * len(session.groups):
            raise ProtocolBroken(f"{len(reserved.answers)} answers for {chunks} chunks")
        super().__init__(session, reserved.lease, objects)
        self.chunks = chunks
        self.answers = reserved.answers  # chunk-major, one per own shard of each group
        self._committed: dict[int, bool] = {}  # by index: whether it is resident

    async def copy_from(
        self,
        layouts: Sequence[PagedLayout],
        block_ids: Sequence[BlockIds],
        *,
        first_chunk: int = 0,
        layers: range | None = None,
    ) -> None:
        """Copy what was granted out of the engine's blocks. Arguments as in `ReadLease.copy_to`.

        `first_chunk`: the place in the prompt of the first chunk reserved. A negative block id says that the engine
        has no block there: that object is not written. Too few ids are BadBlocks.
        """
        self._check_open()
        await self._copy(
            Transfer(
                Direction.TO_OBJECTS,
                self.objects,
                self._session.groups,
                layouts,
                block_ids,
                first_chunk=first_chunk,
                layers=layers,
            )
        )

    async def commit(self, *, within: float | None = None) -> None:
        """Make what was copied whole resident. May be called again after more was copied.

        Raises StaleGrant, StaleEpoch, StreamLost, DeadlineExceeded.
        """
        self._check_open()
        indices = [index for index in self.objects.copied() if index not in self._committed]
        if not indices:
            return
        # Everything at once ends the lease at the node too; a part of it leaves the rest to be aborted.
        is_all = len(indices) == self.answers.count(engine_pb2.ANSWER_GRANTED) and not self._copies
        outcomes = await self._session.commit(
            self.name,
            indices=[] if is_all else indices,
            objects=len(indices),
            digests=self.objects.digests_of(indices),
            runs=self.objects.runs_of(indices),
            within=within,
        )
        for index, outcome in zip(indices, outcomes, strict=True):
            self._committed[index] = outcome == 0
        if is_all:
            self._claim_end()

    def written(self, layers: range, *, runs_max: int) -> Iterator[WrittenLayers]:
        """What of these layers has been copied and is not committed, at most so many runs at a time, or one object."""
        for number, group in enumerate(self._session.groups):
            copied = self.objects.copied_runs(number, layers)
            left = [index for index in copied if index not in self._committed]
            count = max(1, runs_max // (len(layers) * group.components))
            for start in range(0, len(left), count):
                part = left[start : start + count]
                digests = b"".join(copied[index].tobytes() for index in part)
                yield WrittenLayers(part, layers.start * group.components, digests)

    def outcome(self) -> Stored:
        """What has become of each chunk by now."""
        groups = len(self._session.groups)
        fates = Counter(
            self._fate(range(chunk * groups, (chunk + 1) * groups)) for chunk in range(self.chunks)
        )
        written = [index for index, is_resident in self._committed.items() if is_resident]
        return Stored(
            chunks_written=fates["written"],
            chunks_resident=fates["resident"],
            chunks_in_flight=fates["in_flight"],
            chunks_refused=fates["refused"],
            chunks_failed=fates["failed"],
            bytes=sum(self.objects.size_bytes(index) for index in written),
        )

    def _fate(self, indices: range) -> str:
        """1. an object was refused. 2. one was granted and is not resident. 3. somebody else writes one.
        4. this lease wrote some, and the rest was there. 5. all was there."""
        answers = {self.answers[index] for index in indices}
        if not answers.isdisjoint(_REFUSALS):
            return "refused"
        granted = [index for index in indices if self.answers[index] == engine_pb2.ANSWER_GRANTED]
        if not all(self._committed.get(index, False) for index in granted):
            return "failed"
        if engine_pb2.ANSWER_IN_FLIGHT in answers:
            return "in_flight"
        return "written" if granted else "resident"

    def _say_last_word(self) -> None:
        self._session.end_write(self.name)

    def __del__(self) -> None:
        if not self._is_over:
            self._session.end_write_threadsafe(self.name)
