"""A raw block store over a disk in memory that counts what it is asked and fails when it is told to."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
from support.power_cut import RecordingDisk
from typing_extensions import Buffer

from penstock.actors.core.slot_format import HEAD_BYTES
from penstock.actors.core.slot_log import BLOCKS_MIN
from penstock.actors.stores.discards import Span
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.native_io import Moved
from penstock.actors.stores.raw_block import RawBlockStore, open_over
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import Sample, make_sample
from penstock.actors.stores.store import Fate, Outcome
from penstock.runtime.log import Log
from penstock.runtime.units import KIB, ByteSize

SLOT_BYTES = 8 * KIB
SLOTS = 40
SIZE = HEAD_BYTES + (BLOCKS_MIN + 8) * 4096 + SLOTS * SLOT_BYTES
READ, WRITE, SYNC, DISCARD = "read", "write", "sync", "discard"


class FailingDisk(RecordingDisk):
    """Fails what `failing` says, and counts everything. Payloads begin at `slots_at`."""

    def __init__(self, image: bytes = bytes(SIZE)) -> None:
        super().__init__(image, random.Random(0))
        self.failing: dict[str, int] = {}  # errno by what is done
        self.asked: list[tuple[str, int]] = []  # what, and where
        self.spared_bytes = 0  # what lies before it does not fail

    def read_one(self, offset: int, buffers: Sequence[Buffer]) -> Moved:
        return self._or_fail(
            READ, offset, lambda: super(FailingDisk, self).read_one(offset, buffers)
        )

    def write_one(self, offset: int, buffers: Sequence[Buffer]) -> Moved:
        return self._or_fail(
            WRITE, offset, lambda: super(FailingDisk, self).write_one(offset, buffers)
        )

    def sync_all(self) -> Moved:
        return self._or_fail(SYNC, SIZE, super().sync_all)

    def discard(self, spans: Sequence[Span]) -> Moved:
        return self._or_fail(DISCARD, SIZE, lambda: super(FailingDisk, self).discard(spans))

    def count(self, what: str) -> int:
        return sum(one == what for one, _ in self.asked)

    def _or_fail(self, what: str, offset: int, begin: Callable[[], Moved]) -> Moved:
        self.asked.append((what, offset))
        error = self.failing.get(what)
        if error is None or offset < self.spared_bytes:
            return begin()
        return self._later(lambda: -error)


async def opened(
    disk: RecordingDisk, durability: DurabilityName = DurabilityName.FDATASYNC, **given: Any
) -> RawBlockStore:
    made = RawBlockConfig(
        name="raw",
        paths="/dev/recorded",
        durability=durability,
        **{"slot_bytes": ByteSize(SLOT_BYTES), **given},
    )
    return await open_over([disk], made, Log("test"))


Scene = Callable[[RawBlockStore, FailingDisk], Awaitable[None]]


def play(
    scene: Scene, durability: DurabilityName = DurabilityName.FDATASYNC, image: bytes = bytes(SIZE)
) -> FailingDisk:
    """`scene`; then the books must be right, and say the same when they are read again."""
    disk = FailingDisk(image)

    async def run() -> None:
        store = await opened(disk, durability)
        await scene(store, disk)
        assert not store.transfers
        await store.aclose()
        store.validate()
        again = await opened(FailingDisk(disk.now()), durability)
        again.validate()
        assert await told(again) == await told(store)

    anyio.run(run)
    return disk


async def told(store: RawBlockStore) -> dict[bytes, int]:
    return {one.key: one.stored_bytes async for batch in store.recover() for one in batch}


async def samples(count: int, size: int = 4000, first: int = 0) -> list[Sample]:
    return [await make_sample(first + n, size) for n in range(count)]


async def save(store: RawBlockStore, some: Sequence[Sample]) -> list[Fate]:
    return [one.fate for one in await store.save([one.given() for one in some])]


async def load(store: RawBlockStore, some: Sequence[Sample]) -> list[Outcome]:
    wanted = [one.wanted() for one in some]
    outcomes = await store.load(wanted)
    for one, into, outcome in zip(some, wanted, outcomes, strict=True):
        assert outcome.fate is not Fate.DONE or await one.is_in(into)
    return outcomes
