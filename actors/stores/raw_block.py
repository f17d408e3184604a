"""Objects in the slots of raw devices, moved between arena and device by the native I/O engine.

    saving   -> free slots written -> [flushed] -> logged -> [flushed] -> visible
    deleting -> logged -> [flushed] -> invisible -> slots free once no cut can bring the name back

A save that is given up before its payload is written leaves nothing; after that it goes on, and what is saved or
deleted later has the last word, since the log keeps the order. What lies where on a device is said in
`core/slot_format.py`; each device has slots and a log of its own (`raw_volume.py`), and an object is found on whichever
it is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial

import anyio
from anyio.lowlevel import checkpoint

from penstock.actors.api.store import Keys
from penstock.actors.core.slot_format import NO_RANK, decode_put
from penstock.actors.stores.beside import opened_beside, undone_by
from penstock.actors.stores.device import Device, DeviceIo, NativeDevice, begin_device_io
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.native_io import NativeIo
from penstock.actors.stores.raw_commit import Answer
from penstock.actors.stores.raw_config import RawBlockConfig, RawPlace
from penstock.actors.stores.raw_layout import Geometry
from penstock.actors.stores.raw_medium import Medium, MediumBusy, check_distinct, open_medium
from penstock.actors.stores.raw_parts import Part, Reading
from penstock.actors.stores.raw_replay import entries, judged, open_volume
from penstock.actors.stores.raw_volume import Volume
from penstock.actors.stores.store import (
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreFault,
    StoreRefused,
    Wanted,
)
from penstock.actors.stores.threads import Threads
from penstock.actors.stores.together import together
from penstock.runtime.background import Background
from penstock.runtime.log import Log

STEP = 128  # objects in one step of the loop
ENTRIES_MAX = 512  # told at a time by recovery
LOCK_PAUSE_S = 0.02  # between two attempts to lock what another has


async def open_raw_block_store(config: RawBlockConfig, context: StoreContext) -> RawBlockStore:
    """Lock, check and replay all devices; blank ones are formatted. Raises StoreRefused, StoreFault."""
    log = Log(f"store.{context.name}")
    media, ios = await _begun(config, context, log)
    devices = [_device(medium, io, log) for medium, io in zip(media, ios, strict=True)]
    closing = Background(partial(_close_all, ios, devices, media, context.beside), StoreFault)
    async with undone_by(closing.result):  # on a medium that hangs it goes on by itself
        return await open_over(devices, config, log, ios)


async def _begun(
    config: RawBlockConfig, context: StoreContext, log: Log
) -> tuple[list[Medium], list[DeviceIo]]:
    """Each medium has engines of its own. The kernel ends what a killed process had under way only after the process,
    and its locks with that: a node that is started again at once waits for them."""
    threads = max(1, config.threads // len(config.places()))
    begin = partial(NativeIo, depth=config.depth, threads=threads, jobs_max=config.jobs_max)
    give_up_at = anyio.current_time() + config.lock_within
    while True:
        try:
            async with opened_beside(context.beside, partial(_media, config)) as media:
                return media, await _engines(len(media), begin, log)
        except MediumBusy:
            if anyio.current_time() >= give_up_at:
                raise
        await anyio.sleep(LOCK_PAUSE_S)


async def _engines(devices: int, begin: Callable[..., NativeIo], log: Log) -> list[DeviceIo]:
    """One that hangs shall hold up no other."""
    ios: list[DeviceIo] = []
    async with AsyncExitStack() as begun:
        for _ in range(devices):
            ios.append(await begin_device_io(begin, log))
            begun.push_async_callback(ios[-1].aclose)
        begun.pop_all()
    return ios


async def open_over(
    devices: Sequence[Device], config: RawBlockConfig, log: Log, ios: Sequence[DeviceIo] = ()
) -> RawBlockStore:
    """As above, of devices that are open already: one per place of `config`, in order. `ios`: whatever is to be closed
    before they are."""
    is_durable = config.durability is DurabilityName.FDATASYNC
    volumes: list[Volume] = []
    for device, place in zip(devices, config.places(), strict=True):
        geometry = _geometry(config, place, device.name, device.size_bytes)
        volumes.append(await open_volume(device, geometry, is_durable=is_durable, log=log))
    store = RawBlockStore(tuple(volumes), ios)
    await store.drop_doubles()
    return store


class RawBlockStore:
    """All devices of one store."""

    ownership = Ownership.EXCLUSIVE

    def __init__(self, volumes: tuple[Volume, ...], ios: Sequence[DeviceIo]) -> None:
        self._volumes = volumes
        self._of_rank = {one.geometry.rank: one for one in volumes if one.geometry.rank != NO_RANK}
        self._ios = ios

    @property
    def transfers(self) -> int:
        """Of payloads, under way."""
        return sum(volume.transfers for volume in self._volumes)

    async def locate(self, keys: Keys) -> bytes:
        await checkpoint()
        return bytes(self._find(key) is not None for key in keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        reading = Reading([MISSING] * len(wanted))
        for some in _steps(len(wanted)):
            if some.start:
                await checkpoint()
            self._begin(reading, wanted, some)
        return await reading.outcomes()

    def begin_load(self, wanted: Sequence[Wanted]) -> Reading:
        reading = Reading([MISSING] * len(wanted))
        self._begin(reading, wanted, range(len(wanted)))
        return reading

    def _begin(self, reading: Reading, wanted: Sequence[Wanted], some: Sequence[int]) -> None:
        """What is found is read in the same step: then nobody gives its slots to another."""
        for volume in self._volumes:
            records = volume.index.get_all([wanted[at].key for at in some])
            there = [one for one in records if one is not None]
            if not there:
                continue
            pairs = [*zip(some, records, strict=True)]
            found = [at for at, one in pairs if one is not None]
            reading.parts.append(volume.reader.read(found, there, wanted))
            if len(found) == len(some):
                return
            some = [at for at, one in pairs if one is None]

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        outcomes = [DONE] * len(given)
        parts: list[Part] = []
        try:
            for some in _steps(len(given)):
                await checkpoint()
                on = {volume: Part(volume) for volume in self._volumes}
                parts += on.values()
                for at in self._take_in_rows(given, some, on):
                    outcomes[at] = await self._take(given[at], at, on)
                for part in on.values():
                    part.begin(part.volume.write)
            each = [[part for part in parts if part.volume is one] for one in self._volumes]
            await together(partial(self._log, outcomes), each)
        finally:
            for part in parts:
                part.give_back()
        return outcomes

    async def _log(self, outcomes: list[Outcome], parts: Sequence[Part]) -> None:
        """What is written to one volume, whatever becomes of the others."""
        answers: list[tuple[list[int], Answer]] = []
        for part in parts:
            for at, one, moved in await part.over():
                outcomes[at] = one.was_written(moved)
        for part in parts:
            answers += self._commit(part, outcomes)
        for places, answer in answers:
            for at, why in zip(places, await asyncio.shield(answer), strict=True):
                outcomes[at] = Outcome(Fate.FAULT, reason=why) if why else outcomes[at]

    async def delete(self, keys: Keys) -> None:
        """Of what is not there, too: whether its device works is told by trying."""
        await checkpoint()
        known = {volume: [*filter(volume.is_known, keys)] for volume in self._volumes}
        answers = [volume.delete(some) for volume, some in known.items() if some]
        if len(keys) and not answers:
            place = self.place_of(keys[0], keys.device(0))
            answers.append(self._volumes[place].delete_nothing(keys[0]))
        if why := await _all(answers):
            raise StoreFault(f"objects could not be deleted: {why}")

    async def recover(self) -> AsyncIterator[list[Entry]]:
        """From the index, which was made when the store was opened."""
        for volume in self._volumes:
            rank = volume.geometry.rank
            async for records in entries(volume, ENTRIES_MAX):
                yield [
                    Entry(
                        placed.key,
                        placed.device if rank == NO_RANK else rank,
                        placed.slots * volume.geometry.slot_bytes,
                        placed.tenant,
                    )
                    for placed in map(decode_put, records)
                ]

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        geometry = self._volumes[0].geometry
        return geometry.slots_of(header_bytes, payload_bytes) * geometry.slot_bytes

    @property
    def capacity_bytes(self) -> int:
        return sum(volume.told_bytes for volume in self._volumes)

    @property
    def places_bytes(self) -> tuple[int, ...]:
        """Of each device."""
        return tuple(volume.told_bytes for volume in self._volumes)

    def place_of(self, key: bytes, device: int) -> int:
        """Which device; of a rank that has none, any."""
        if len(self._volumes) == 1:
            return 0
        volume = self._place(key, device)
        return 0 if volume is None else self._volumes.index(volume)

    async def aclose(self) -> None:
        await together(Volume.wait_idle, self._volumes)
        await together(DeviceIo.aclose, self._ios)
        for volume in self._volumes:
            volume.close()

    async def drop_doubles(self) -> None:
        """Of objects that are on two devices, which a cut between two logs may leave, the one in its place stays."""
        answers: list[Answer] = []
        for number, volume in enumerate(self._volumes[1:], start=1):
            async for records in entries(volume, ENTRIES_MAX):
                for placed in map(decode_put, records):
                    for other in self._volumes[:number]:
                        if other.index.get(placed.key) is not None:
                            is_here = self._place(placed.key, placed.device) is volume
                            answers.append((other if is_here else volume).delete([placed.key]))
        if why := await _all(answers):
            raise StoreFault(why)

    def validate(self) -> None:
        """When nothing is under way. Raises AssertionError if an invariant does not hold."""
        for volume in self._volumes:
            volume.validate()

    def _place(self, key: bytes, device: int) -> Volume | None:
        """Where it is to be written."""
        if self._of_rank:
            return self._of_rank.get(device)
        return self._volumes[int.from_bytes(key[8:16], "little") % len(self._volumes)]

    def _find(self, key: bytes) -> tuple[Volume, bytes] | None:
        for volume in self._volumes:
            record = volume.index.get(key)
            if record is not None:
                return volume, record
        return None

    def _take_in_rows(
        self, given: Sequence[Given], some: range, on: dict[Volume, Part]
    ) -> list[int]:
        """Slots for most of these. Returns the others, to be taken one by one."""
        by_volume: dict[Volume | None, list[int]] = {}
        if len(self._volumes) == 1 and not self._of_rank:
            by_volume[self._volumes[0]] = [*some]
        else:
            for at in some:
                volume = self._place(given[at].key, given[at].device)
                by_volume.setdefault(volume, []).append(at)
        left = by_volume.pop(None, [])
        for volume, places in by_volume.items():
            assert volume is not None
            taken = volume.taken_in_rows([given[at] for at in places])
            on[volume].objects.update(zip(places, taken, strict=False))
            left += places[len(taken) :]
        return left

    async def _take(self, one: Given, at: int, on: dict[Volume, Part]) -> Outcome:
        """DONE: it has slots, and is one of those to be written."""
        volume = self._place(one.key, one.device)
        if volume is None:
            advice = "give it a device in per_rank_device_paths"
            return Outcome(Fate.REFUSED, reason=f"rank {one.device} has no device: {advice}")
        while (taken := volume.taken(one)) is None:
            if not volume.has_waiting_slots or any(await asyncio.shield(volume.make_room())):
                return Outcome(Fate.FULL, reason="no slots are free")
        on[volume].objects[at] = taken
        return DONE

    def _commit(
        self, part: Part, outcomes: Sequence[Outcome]
    ) -> Iterator[tuple[list[int], Answer]]:
        """What was written, in its place, and then nowhere else."""
        good = {at: part.objects.pop(at) for at in [*part.objects] if outcomes[at] is DONE}
        yield [*good], part.volume.commit([*good.values()])
        for other in self._volumes:
            if other is not part.volume:
                known = [at for at, one in good.items() if other.is_known(one.placed.key)]
                yield known, other.delete([good[at].placed.key for at in known])


def _steps(count: int) -> Iterator[range]:
    for start in range(0, count, STEP):
        yield range(start, min(start + STEP, count))


def _media(config: RawBlockConfig, opened: ExitStack) -> list[Medium]:
    """Blocks. What is made for a store that is refused is removed: it is empty. Raises StoreRefused, StoreFault."""
    places = config.places()
    check_distinct(places, config.places_key)
    file_bytes = int(config.capacity) // len(places)
    media: list[Medium] = []
    for place in places:
        medium = open_medium(
            place.path,
            key=config.places_key,
            file_bytes=file_bytes - file_bytes % config.block_align,
            preallocate=config.preallocate,
            judge=partial(_judge, config, place),
        )
        opened.callback(os.close, medium.fd)
        opened.callback(_remove_made, [medium])
        if config.discard and config.preallocate and not medium.is_block:
            problem = (
                f"{place.path} is a file that has all its room, which discards would give back"
            )
            raise StoreRefused("discard", f"{problem}: say preallocate: false, or leave it out")
        media.append(medium)
    return media


def _remove_made(media: Sequence[Medium]) -> None:
    """Blocks: a file may be large, which takes time."""
    for medium in media:
        if medium.is_made:
            medium.path.unlink(missing_ok=True)


async def _close_all(
    ios: Sequence[DeviceIo], devices: Sequence[Device], media: Sequence[Medium], beside: Threads
) -> None:
    """Of a store that could not be opened. Whatever is under way ends before the devices are closed."""
    await together(DeviceIo.aclose, ios)
    await beside.run(partial(_remove_made, media))
    for device in devices:
        device.close()


def _geometry(config: RawBlockConfig, place: RawPlace, name: str, size_bytes: int) -> Geometry:
    bound = int(config.capacity) // len(config.places()) or size_bytes
    return Geometry(
        key=config.places_key,
        name=name,
        rank=place.rank,
        block_bytes=int(config.block_align),
        header_bytes=int(config.header_bytes),
        slot_bytes=int(config.slot_bytes),
        metadata_bytes=int(config.metadata_bytes),
        size_bytes=size_bytes,
        bound_bytes=min(bound, size_bytes),
        is_discarded=config.discard,
    )


def _judge(config: RawBlockConfig, place: RawPlace, head: memoryview, size_bytes: int) -> None:
    """Before anything is written. Raises StoreRefused."""
    judged(head, _geometry(config, place, os.fspath(place.path), size_bytes))


def _device(medium: Medium, io: DeviceIo, log: Log) -> NativeDevice:
    if not medium.is_direct:
        reason = "its filesystem refuses O_DIRECT"
        log.warning("io_buffered", path=medium.path, reason=reason)
    name = os.fspath(medium.path)
    return NativeDevice(
        io, medium.fd, name=name, size_bytes=medium.size_bytes, is_block=medium.is_block
    )


async def _all(answers: Sequence[Answer]) -> str:
    """Why the first of them failed; empty: none did."""
    told = [await asyncio.shield(answer) for answer in answers]
    return next((why for whys in told for why in whys if why), "")
