r"""Objects as files, moved between arena and disk by the native I/O engine.

    saving -> aside/... written, [synced] -> renamed to objects/...    whole under its name, or not there
           \-> failed: removed

A save that is given up goes on: its object becomes visible whole, or not; a deletion goes on, too. A save or deletion
of it that comes later waits for it, and so has the last word. A file is the header, padded to blocks, and the payload;
its length is theirs.
Names are digits of keys. Several folders share the objects by key or by device (`file_config.py`); what lies in a
folder is said in `file_folder.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from anyio.lowlevel import checkpoint

from penstock._native import Caching, Durability, read_file_now
from penstock.actors.api.store import Keys
from penstock.actors.stores.beside import opened_beside, undone_by
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file_changes import HANGING, FolderChanges
from penstock.actors.stores.file_config import DURABILITY, FileConfig, FileIo
from penstock.actors.stores.file_expiry import Expiry
from penstock.actors.stores.file_folder import Folder, Marker, object_name, read_tenant, unread
from penstock.actors.stores.header import whole_blocks
from penstock.actors.stores.native_io import FileToRead, FileToWrite, Moves, Name, NativeIo
from penstock.actors.stores.routing import routing_of
from penstock.actors.stores.store import (
    BLOCK_BYTES,
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreFault,
    Wanted,
)
from penstock.actors.stores.threads import NoThread, Threads
from penstock.actors.stores.together import together
from penstock.runtime.log import Log

Placed: TypeAlias = tuple[Folder, Caching]

NAMES_MAX = 512  # in one step of the loop
ENTRIES_MAX = 1024  # told at a time by recovery
OWNERSHIP = {
    OwnershipName.EXCLUSIVE: Ownership.EXCLUSIVE,
    OwnershipName.SHARED: Ownership.SHARED,
}
_ASIDE_LOST = Outcome(
    Fate.FAULT, reason="its folder of temporaries was taken away", may_be_there=True
)
CACHING = {FileIo.DIRECT: Caching.DIRECT, FileIo.BUFFERED: Caching.BUFFERED}


async def open_file_store(config: FileConfig, context: StoreContext) -> FileStore:
    """Lock and lay out the folders, and remove what dead stores left aside. Raises StoreRefused, StoreFault."""
    log = Log(f"store.{context.name}")
    async with opened_beside(context.beside, partial(_placed, config, context, log)) as placed:
        store = FileStore(config, placed, await _engines(config, log), context.beside, log)
        async with undone_by(store.aclose):
            store.begin_expiry(float(config.ttl))
        return store


def _placed(
    config: FileConfig, context: StoreContext, log: Log, opened: ExitStack
) -> tuple[Placed, ...]:
    """Blocks. Raises StoreRefused, StoreFault."""
    folders: list[Folder] = []
    for marker, path in _marked(config):
        folders.append(Folder(path, marker, OWNERSHIP[config.ownership], context.epoch))
        opened.callback(folders[-1].close)
    return tuple(_claimed(CACHING[config.io], log, one) for one in folders)


class _Engines(NamedTuple):
    """One for each folder to change it, since its thread waits for a journal, and one for loads, which shall not."""

    reads: NativeIo
    changes: tuple[FolderChanges, ...]


async def _engines(config: FileConfig, log: Log) -> _Engines:
    begin = partial(NativeIo, depth=config.depth, threads=config.threads, jobs_max=config.jobs_max)
    async with AsyncExitStack() as begun:
        reads = begin(log=log)
        begun.push_async_callback(reads.aclose)
        changes: list[FolderChanges] = []
        for _ in config.folders():
            changes.append(FolderChanges(begin(log=log)))
            begun.push_async_callback(changes[-1].aclose)
        begun.pop_all()
    return _Engines(reads, tuple(changes))


class _Reading(NamedTuple):
    """Files asked for."""

    told: Callable[[Wanted, int], Outcome]
    wanted: Sequence[Wanted]
    sizes: Moves

    async def outcomes(self) -> list[Outcome]:
        sizes = await self.sizes
        done: dict[tuple[int, int], Outcome] = {}  # most of a batch are as long
        outcomes = []
        for one, size in zip(self.wanted, sizes, strict=True):
            lengths = size, len(one.header)
            outcome = done.get(lengths)
            if outcome is None:
                outcome = self.told(one, size)
                if size >= 0:
                    done[lengths] = outcome
            outcomes.append(outcome)
        return outcomes


class FileStore:
    """The files below all folders of one store."""

    def __init__(
        self,
        config: FileConfig,
        folders: tuple[Placed, ...],
        engines: _Engines,
        threads: Threads,
        log: Log,
    ) -> None:
        self.ownership = OWNERSHIP[config.ownership]
        self._folders = folders
        self._routing = routing_of(config)
        self._durability = DURABILITY[config.durability]
        self._capacity_bytes = int(config.capacity)
        self._tenant = read_tenant if config.has_quotas else unread
        self._threads = threads
        self._log = log
        self._expiry: Expiry | None = None
        self._reads, self._changes = engines

    def begin_expiry(self, ttl_s: float) -> None:
        """Of what was not saved again for so long; 0: of nothing. Raises NoThread."""
        if ttl_s:
            self._expiry = Expiry([folder for folder, _ in self._folders], ttl_s, self._log)

    async def locate(self, keys: Keys) -> bytes:
        sizes: list[int] = []
        async for names in self._names(keys):
            sizes += await self._reads.stat_files(names)
        _check("located", self._reads, sizes)
        return bytes(size >= BLOCK_BYTES for size in sizes)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return await self.begin_load(wanted).outcomes()

    def begin_load(self, wanted: Sequence[Wanted]) -> _Reading:
        files: list[FileToRead] = []
        one_place = self._folders[0] if len(self._folders) == 1 else None
        for one in wanted:
            folder, caching = one_place or self._place(one.key, one.device)
            files.append((folder.fd, object_name(one.key), caching, (one.header, one.payload)))
        sizes = self._reads.read_files(files, [one.hold for one in wanted])
        return _Reading(self._loaded, wanted, sizes)

    def load_at_once(self, wanted: Sequence[Wanted]) -> list[Outcome] | None:
        """What the page cache has: a thread and two turns of the loop would take longer than the copy."""
        outcomes = []
        for one in wanted:
            folder, caching = self._place(one.key, one.device)
            if caching is not Caching.BUFFERED:
                return None
            size = read_file_now(folder.fd, object_name(one.key), [one.header, one.payload])
            if size < len(one.header):
                return None
            outcomes.append(self._loaded(one, size))
        return outcomes

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        await checkpoint()
        outcomes = await self._save_all(given)
        lost = [at for at, one in enumerate(outcomes) if one is _ASIDE_LOST]
        if lost and await self._renew_asides([given[at] for at in lost]):
            again = await self._save_all([given[at] for at in lost])
            for at, outcome in zip(lost, again, strict=True):
                outcomes[at] = outcome
        return outcomes

    async def _save_all(self, given: Sequence[Given]) -> list[Outcome]:
        parts = self._by_folder([(one.key, one.device) for one in given])
        work = [(number, [given[at] for at in parts[number]]) for number in parts]
        outcomes: dict[int, Outcome] = {}
        for (number, _), each in zip(work, await together(self._save_in, work), strict=True):
            outcomes.update(zip(parts[number], each, strict=True))
        return [outcomes[at] for at in range(len(given))]

    async def _save_in(self, part: tuple[int, Sequence[Given]]) -> list[Outcome]:
        """A folder by its number, and what belongs there."""
        number, given = part
        changes = self._changes[number]
        files: list[FileToWrite] = []
        for one in given:
            folder, caching = self._place(one.key, one.device)
            name, size = object_name(one.key), len(one.header) + one.payload_bytes
            buffers = (one.header, one.payload)
            files.append((folder.fd, folder.temporary(), name, caching, size, buffers))
        holds = [one.hold for one in given]
        keys = [one.key for one in given]  # one may be named twice
        sizes = await changes.write(files, self._durability, holds, keys)
        return [self._saved(size, changes) for size in sizes]

    async def delete(self, keys: Keys) -> None:
        for first in range(0, len(keys), NAMES_MAX):
            await checkpoint()
            some = range(first, min(first + NAMES_MAX, len(keys)))
            objects = [(keys[at], keys.device(at)) for at in some]
            parts = self._by_folder(objects)
            work = [(number, [objects[at][0] for at in parts[number]]) for number in parts]
            outcomes = await together(self._delete_in, work)
            for (number, _), each in zip(work, outcomes, strict=True):
                _check("deleted", self._changes[number], each)

    async def _delete_in(self, part: tuple[int, Sequence[bytes]]) -> list[int]:
        """A folder by its number, and what belongs there."""
        number, keys = part
        fd = self._folders[number][0].fd
        return await self._changes[number].remove([(fd, object_name(key)) for key in keys], keys)

    def _by_folder(self, objects: Sequence[tuple[bytes, int]]) -> dict[int, list[int]]:
        """Positions of these, by the number of their folder."""
        if len(self._folders) == 1:
            return {0: [*range(len(objects))]}
        parts: dict[int, list[int]] = {}
        for at, one in enumerate(objects):
            parts.setdefault(self.place_of(*one), []).append(at)
        return parts

    async def recover(self) -> AsyncIterator[list[Entry]]:
        """By names and sizes, and first blocks if it matters whose they are; a folder is read in portions."""
        if self.ownership is Ownership.SHARED:
            return
        for folder, _ in self._folders:
            portions = folder.entries(ENTRIES_MAX, self._tenant)
            try:
                # A thread that hangs on a dead disk is left to it.
                while (batch := await self._threads.run(partial(next, portions, None))) is not None:
                    yield batch
            except OSError as error:
                raise StoreFault(f"{folder.path} cannot be read: {error}") from error

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return whole_blocks(header_bytes) + whole_blocks(payload_bytes)

    @property
    def capacity_bytes(self) -> int:
        return self._capacity_bytes

    async def aclose(self) -> None:
        if self._expiry is not None:
            await self._expiry.stop()
        await self._reads.aclose()
        await together(FolderChanges.aclose, self._changes)
        for folder, _ in self._folders:
            await self._threads.run(folder.close)

    @property
    def places_bytes(self) -> tuple[int, ...]:
        """Folders share one capacity."""
        return ()

    def place_of(self, key: bytes, device: int) -> int:
        """Which of its folders."""
        if len(self._folders) == 1:
            return 0
        return self._routing.place_of(key, device)

    def _place(self, key: bytes, device: int) -> Placed:
        return self._folders[self.place_of(key, device)]

    async def _names(self, keys: Keys) -> AsyncIterator[list[Name]]:
        """As many at a time as make a short step."""
        for first in range(0, len(keys), NAMES_MAX):
            await checkpoint()
            yield [
                (self._place(keys[at], keys.device(at))[0].fd, object_name(keys[at]))
                for at in range(first, min(first + NAMES_MAX, len(keys)))
            ]

    async def _renew_asides(self, lost: Sequence[Given]) -> bool:
        """Of those folders that these were to be saved in."""
        try:
            for folder in {self._place(one.key, one.device)[0] for one in lost}:
                if await self._threads.run(folder.renew_aside):
                    self._log.warning("aside_renewed", path=folder.path, reason="it was removed")
        except (StoreFault, NoThread) as fault:
            self._log.warning("aside_lost", reason=fault)
            return False
        return True

    def _loaded(self, wanted: Wanted, size: int) -> Outcome:
        if size >= 0:
            # Of one with fewer bytes than that header would have, what was read tells what it is.
            return Outcome(Fate.DONE, max(size - len(wanted.header), 0))
        match -size:
            case errno.ENOENT:
                return MISSING
            case errno.EFBIG:
                room = len(wanted.header) + len(wanted.payload)
                reason = f"its file has more than the {room} bytes expected"
                return Outcome(Fate.REFUSED, reason=reason)
        return Outcome(Fate.FAULT, reason=f"reading: {self._reads.why(size)}")

    def _saved(self, size: int, changes: FolderChanges) -> Outcome:
        if size == HANGING:
            return Outcome(Fate.FAULT, reason=changes.why(size))
        # The last that is done for durability is done to what is visible already.
        may_be_there = self._durability is not Durability.NONE
        match -size:
            case errno.ENOSPC | errno.EDQUOT as error:
                fate, reason = Fate.FULL, os.strerror(error)
            case errno.EFBIG as error:
                return Outcome(Fate.REFUSED, reason=os.strerror(error))
            case errno.ENOENT:
                return _ASIDE_LOST
            case error if error > 0:
                fate, reason = Fate.FAULT, f"writing: {changes.why(size)}"
            case _:
                return DONE
        return Outcome(fate, reason=reason, may_be_there=may_be_there)


def _marked(config: FileConfig) -> list[tuple[Marker, Path]]:
    paths = config.folders()
    return [(Marker(config.placement, len(paths), i), path) for i, path in enumerate(paths)]


def _claimed(wanted: Caching, log: Log, folder: Folder) -> Placed:
    """A folder, swept, and how its files are opened. Blocks."""
    folder.claim()
    removed = folder.sweep()
    if removed:
        log.info("temporaries_removed", path=folder.path, stores=removed)
    caching = folder.caching_of(wanted)
    if caching is not wanted:
        reason = "its filesystem has no disk, or refuses O_DIRECT"
        log.warning("io_buffered", path=folder.path, reason=reason)
    return folder, caching


def _check(done: str, io: NativeIo | FolderChanges, outcomes: Sequence[int]) -> None:
    """Other failures than a missing file are those of the batch. Raises StoreFault."""
    for outcome in outcomes:
        if outcome < 0 and outcome != -errno.ENOENT:
            raise StoreFault(f"an object could not be {done}: {io.why(outcome)}")
