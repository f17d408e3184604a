"""Objects as files of any filesystem that fsspec speaks: for what has no store of its own.

    <url>/<2 hex>/<64 hex>               header, then payload
    <url>/.aside/<epoch>-<number>        being written, where a put is not atomic

It is shared: what others put there is found, nothing is counted, and nothing is evicted by us. One copy each way is
made, since such filesystems deal in bytes.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from penstock._native import copy_bytes
from penstock.actors.api.store import Keys
from penstock.actors.stores.fsspec_config import FsspecConfig, PutName
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
    nothing_to_count,
)
from penstock.actors.stores.threads import Threads
from penstock.runtime.errors import mapped
from penstock.runtime.units import MIB

PUT_IS_ATOMIC = frozenset({"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf"})
STEP_BYTES = MIB  # copied at a time: a fraction of a millisecond
ASIDE_FOR = timedelta(days=1)  # what lies aside for longer is of a node that died
_ASIDE = re.compile(r"[0-9a-f]+-[0-9]+")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FAULTS = (OSError, RuntimeError, ValueError)  # what filesystems raise when they fail


async def open_fsspec_store(config: FsspecConfig, context: StoreContext) -> FsspecStore:
    """Raises StoreRefused without fsspec, for an unknown protocol, or for options it does not take; StoreFault."""
    key = f"stores.{config.name}"
    threads = Threads(f"store[{config.name}]", config.threads)
    try:
        fsspec = await threads.run(lambda: importlib.import_module("fsspec.core"))
    except ImportError:
        problem = "the library is missing: pip install penstock[fsspec]"
        raise StoreRefused(f"{key}.type", problem) from None

    def refused(problem: str) -> StoreRefused:
        return StoreRefused(f"{key}.url", problem)

    with mapped(dict.fromkeys((ImportError, ValueError, TypeError), refused)):
        system, root = await threads.run(
            # Others write there too: what was listed once is not what is there.
            lambda: fsspec.url_to_fs(config.url, **{"use_listings_cache": False, **config.options})
        )
    store = FsspecStore(system, str(root), config, context, threads)
    await store.prepare()
    return store


class FsspecStore:
    """Files of `system` below `root`."""

    ownership = Ownership.SHARED
    capacity_bytes = 0

    def __init__(
        self, system: Any, root: str, config: FsspecConfig, context: StoreContext, threads: Threads
    ) -> None:
        self._system = system
        self._root = root.rstrip("/")
        self._name = config.name
        self._threads = threads
        protocols = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
        puts = bool(PUT_IS_ATOMIC.intersection(protocols))
        self._is_put = puts if config.put is PutName.AUTO else config.put is PutName.PUT
        self._aside = f"{self._root}/.aside/{context.epoch.hex()}"
        self._numbers = itertools.count()

    async def prepare(self) -> None:
        """Make the folders, and remove what nodes that died left aside. Raises StoreFault."""
        folder = self._root if self._is_put else f"{self._root}/.aside"
        with mapped(dict.fromkeys(_FAULTS, self._fault)):
            await self._threads.run(lambda: self._system.makedirs(folder, exist_ok=True))
            if not self._is_put:
                await self._threads.run(self._sweep)

    async def locate(self, keys: Keys) -> bytes:
        with mapped(dict.fromkeys(_FAULTS, self._fault)):
            found = await self._threads.each(
                lambda key: self._system.exists(self._path(key)), [*keys]
            )
        return bytes(map(bool, found))

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return await self._threads.each(self._load, wanted)

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        # Of one key only the last, as two at a time would race for its name.
        last = {one.key: one for one in given}
        outcomes = await self._threads.each(self._save, [*last.values()])
        told = dict(zip(last, outcomes, strict=True))
        return [told[one.key] for one in given]

    async def delete(self, keys: Keys) -> None:
        with mapped(dict.fromkeys(_FAULTS, self._fault)):
            await self._threads.each(self._delete, [*dict.fromkeys(keys)])

    def recover(self) -> AsyncIterator[list[Entry]]:
        return nothing_to_count()

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return header_bytes + payload_bytes

    async def aclose(self) -> None:
        """The filesystem object is the library's, and cached by it."""

    # In a thread of their own.

    def _sweep(self) -> None:
        """Whoever lives wrote to it lately, by the clock of the filesystem: nobody can lock a file there."""
        # Nobody knows how old a file is, or may write there: what is aside stays.
        with suppress(NotImplementedError, OSError):
            with self._aside_path() as mine:
                self._system.pipe_file(mine, b"now")
                oldest = self._system.modified(mine) - ASIDE_FOR
            for path in self._system.ls(f"{self._root}/.aside", detail=False):
                with suppress(FileNotFoundError):  # swept by another
                    if _ASIDE.fullmatch(path.rpartition("/")[2]) and (
                        self._system.modified(path) < oldest
                    ):
                        self._system.rm_file(path)

    def _load(self, wanted: Wanted) -> Outcome:
        header, room = len(wanted.header), len(wanted.header) + len(wanted.payload)
        with _Told() as told:
            # One byte more than there is room for: an object that has it is refused, and never read whole.
            data = self._system.cat_file(self._path(wanted.key), start=0, end=room + 1)
            if len(data) > room:
                return Outcome(Fate.REFUSED, 0, f"more than the {room} bytes there is room for")
            there = memoryview(data)
            if len(there) <= header:
                wanted.header[: len(there)] = there
                return Outcome(Fate.DONE, 0)
            wanted.header[:] = there[:header]
            size = len(there) - header
            # Copied natively: a thread that copies in Python keeps the loop's from running.
            copy_bytes(source=there[header:], target=wanted.payload[:size])
            return Outcome(Fate.DONE, size)
        return told.outcome

    def _save(self, given: Given) -> Outcome:
        data = _joined(given)
        path = self._path(given.key)
        with _Told() as told:
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            if self._is_put:
                self._system.pipe_file(path, data)
            else:
                with self._aside_path() as aside:
                    self._system.pipe_file(aside, data)
                    self._system.mv(aside, path)
            return DONE
        return told.outcome

    def _delete(self, key: bytes) -> None:
        try:
            self._system.rm_file(self._path(key))
        except FileNotFoundError:
            return

    @contextmanager
    def _aside_path(self) -> Iterator[str]:
        """A name of our own, which is gone afterwards."""
        path = f"{self._aside}-{next(self._numbers)}"
        try:
            yield path
        finally:
            if self._system.exists(path):
                self._system.rm_file(path)

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return f"{self._root}/{name[:2]}/{name}"

    def _fault(self, problem: str) -> StoreFault:
        return StoreFault(f"{self._name}: {problem}")


def _joined(given: Given) -> bytearray:
    """Libraries want it in one piece. In steps, between which other threads run: one long copy would keep the loop's
    from running as long."""
    data = bytearray(given.header)
    for start in range(0, given.payload_bytes, STEP_BYTES):
        data += given.payload[start : min(start + STEP_BYTES, given.payload_bytes)]
    return data


class _Told:
    """What a filesystem raised, as the outcome of one object."""

    outcome: Outcome

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, _: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, FileNotFoundError):
            self.outcome = MISSING
        elif isinstance(error, OSError) and error.errno in _FULL:
            self.outcome = Outcome(Fate.FULL, 0, f"{type(error).__name__}: {error}")
        elif isinstance(error, _FAULTS):
            self.outcome = Outcome(Fate.FAULT, 0, f"{type(error).__name__}: {error}")
        else:
            return False
        return True
