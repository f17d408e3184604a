"""Lives of a raw store that end in power cuts, and what must be found after each.

A life is played over a `RecordingDisk`. Then the power is cut at every moment of it, several ways; each time the store
is opened over what is left, and every object must be what it was last acknowledged to be, or what a change that had
begun by then would have made of it. One of the cuts begins the next life.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.lowlevel import checkpoint
from msgspec import structs
from support.power_cut import Leaving, RecordingDisk

from penstock._native import crc64
from penstock.actors.core.slot_format import HEAD_BYTES
from penstock.actors.core.slot_log import BLOCKS_MIN
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.header import Header, HeaderRefused, decode
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.raw_block import RawBlockStore, open_over
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Wanted
from penstock.runtime.log import Log
from penstock.runtime.units import ByteSize

SLOT_BYTES = 8192
SLOTS = 60
KEYS = 12
USERS = 4
ROOM_BYTES = 28 << 10  # of the largest payload
DISK_BYTES = HEAD_BYTES + (BLOCKS_MIN + 8) * 4096 + SLOTS * SLOT_BYTES
CONFIGS = {
    durability: RawBlockConfig(
        name="raw",
        paths="/dev/recorded",
        slot_bytes=ByteSize(SLOT_BYTES),
        durability=durability,
    )
    for durability in DurabilityName
}
ABSENT = -1  # the version of what is not there
MakeDisk = Callable[[bytes, random.Random], RecordingDisk]


class WrongAfterCut(AssertionError):
    """The store broke its word."""


@dataclass(slots=True)
class Change:
    """One save or deletion of an object. Changes of one object come one after the other."""

    version: int  # ABSENT: deleted
    begun: int
    acknowledged: int | None = None


@dataclass(slots=True)
class Life:
    disk: RecordingDisk
    durability: DurabilityName
    before: dict[int, int]  # versions at its start
    changes: dict[int, list[Change]] = field(default_factory=dict)

    def possible(self, key: int, at: int) -> set[int]:
        """Versions that may be found when the power was cut at that moment."""
        known = [Change(self.before.get(key, ABSENT), 0, 0), *self.changes.get(key, [])]
        begun = [one for one in known if one.begun <= at]
        if self.durability is DurabilityName.NONE:
            return {one.version for one in begun} | {ABSENT}
        last = max(
            n
            for n, one in enumerate(begun)
            if one.acknowledged is not None and one.acknowledged <= at
        )
        return {one.version for one in begun[last:]}


class Samples:
    """Objects by key and version; made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], Sample] = {}

    async def of(self, key: int, version: int) -> Sample:
        made = self._made.get((key, version))
        if made is None:
            size = 1 + (key * 4099 + version * 7919) % ROOM_BYTES
            made = self._made[key, version] = await make_sample(key, size, version=version)
        return made


class RawCuts:
    """Seeded. `cuts` counts what was tried."""

    def __init__(
        self,
        seed: int,
        durability: DurabilityName,
        make_disk: MakeDisk = RecordingDisk,
        *,
        discard: bool = False,
        ways: int = 2,
        moments_max: int = 1 << 30,
    ) -> None:
        self.cuts = 0
        self.log_head = 0  # blocks that were ever appended to the log, over all lives
        self._draw = random.Random(seed)
        self._seed = seed
        self._durability = durability
        self._config = structs.replace(CONFIGS[durability], discard=discard)
        self._make_disk = make_disk
        self._ways = ways  # how many cuts at each moment
        self._moments_max = moments_max  # of a life; beyond it, some are drawn
        self._samples = Samples()
        self._version = 0
        self._image = bytes(DISK_BYTES)
        self._before: dict[int, int] = {}

    async def play(self, turns: int) -> None:
        """A life of so many changes by each user, and all its cuts. Raises WrongAfterCut."""
        disk = self._make_disk(self._image, self._draw)
        life = Life(disk, self._durability, dict(self._before))
        store = await self._opened(disk)
        async with anyio.create_task_group() as users:
            for user in range(USERS):
                users.start_soon(self._use, store, life, range(user, KEYS, USERS), turns)
        await store.aclose()
        while store.transfers:
            await checkpoint()
        await checkpoint()  # what saves that were given up had taken is given back
        store.validate()
        self.log_head = store._volumes[0]._committer._log.head
        all_moments = disk.moments()
        moments = self._draw.sample(all_moments, min(self._moments_max, len(all_moments)))
        next_at = moments[-1]
        for at in moments:
            for leaving in self._draw.sample([*Leaving], self._ways):
                image = disk.image(at, leaving)
                found = await self._check(life, at, leaving, image)
                if at == next_at:
                    self._image, self._before = image, found

    async def _use(self, store: RawBlockStore, life: Life, keys: range, turns: int) -> None:
        draw = self._draw
        for _ in range(turns):
            chosen = draw.sample(keys, draw.randint(1, len(keys)))
            is_save = draw.random() < 0.75
            self._version += 1
            version = self._version if is_save else ABSENT
            changes = [Change(version, life.disk.clock) for _ in chosen]
            for key, change in zip(chosen, changes, strict=True):
                life.changes.setdefault(key, []).append(change)
            samples = [await self._samples.of(key, max(version, 0)) for key in chosen]
            gives_up = draw.random() < 0.15
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._change, store, life, samples, changes)
                    if gives_up:
                        for _ in range(draw.randrange(20)):
                            await checkpoint()
                        scope.cancel()

    async def _change(
        self, store: RawBlockStore, life: Life, samples: list[Sample], changes: list[Change]
    ) -> None:
        if changes[0].version == ABSENT:
            await store.delete(keys_of(samples))
            done = [True] * len(samples)
        else:
            outcomes = await store.save([one.given() for one in samples])
            assert {one.fate for one in outcomes} <= {Fate.DONE, Fate.FULL}, outcomes
            done = [one.fate is Fate.DONE for one in outcomes]
        for change, is_done in zip(changes, done, strict=True):
            if is_done:
                change.acknowledged = life.disk.clock

    async def _opened(self, disk: RecordingDisk) -> RawBlockStore:
        return await open_over([disk], self._config, Log("test"))

    async def _check(self, life: Life, at: int, leaving: Leaving, image: bytes) -> dict[int, int]:
        """The versions that are there."""
        self.cuts += 1
        disk = RecordingDisk(image, self._draw)
        story = f"seed={self._seed} cut {self.cuts} at {at} of {life.disk.clock}, leaving {leaving.name}"
        store = await self._opened(disk)
        store.validate()
        found: dict[int, int] = {}
        for key in range(KEYS):
            versions = life.possible(key, at)
            version = await self._version_of(store, key, versions)
            if version not in versions:
                raise WrongAfterCut(f"{story}: object {key} is {version}, not one of {versions}")
            if version != ABSENT:
                found[key] = version
        await store.aclose()
        return found

    async def _version_of(self, store: RawBlockStore, key: int, versions: set[int]) -> int | None:
        """None: something that was never saved under this key."""
        sample = await self._samples.of(key, 0)
        header, payload = fresh_pages([len(sample.header), ROOM_BYTES])
        (outcome,) = await store.load([Wanted(sample.key, 0, header, payload, None)])
        is_unsafe = self._durability is DurabilityName.NONE
        if outcome.fate is Fate.MISSING:
            return ABSENT
        if outcome.fate is not Fate.DONE:
            return ABSENT if is_unsafe and outcome.fate in {Fate.REFUSED, Fate.DAMAGED} else None
        told = _whole(sample.key, header, payload)
        if told is None:
            # Where nothing was promised, what is damaged counts as missing, once it is seen to be so.
            return ABSENT if is_unsafe else None
        for version in versions - {ABSENT}:
            expected = await self._samples.of(key, version)
            if told == decode(expected.header) and _is_same(payload, expected):
                return version
        return None


def _is_same(payload: memoryview, expected: Sample) -> bool:
    size = expected.logical_bytes
    return bytes(payload[:size]) == bytes(expected.payload[:size])


def _whole(key: bytes, header: memoryview, payload: memoryview) -> Header | None:
    """What it says of itself, if all of it is there, as the actor around a store looks at what it gets: a cut may have
    torn the zeros that fill its header up, which nobody reads."""
    with suppress(HeaderRefused):
        told = decode(header)
        if told.key == key and crc64(payload[: told.logical_bytes]) == told.digest:
            return told
    return None
