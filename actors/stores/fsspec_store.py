"""Objects as files of any filesystem that fsspec speaks: for what has no store of its own.

    <url>/<2 hex>/<64 hex>               header, then payload
    <url>/.aside/<epoch>-<number>        being written, where a put is not atomic

It is shared: what others put there is found, nothing is counted, and nothing is evicted by us. One copy each way is
made, since such filesystems deal in bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from penstock._native import copy_bytes
from penstock.actors.api.store import Keys
from penstock.actors.stores.fsspec_config import FsspecConfig, PutName
from penstock.actors.stores.fsspec_system import Failed, System, open_system
from penstock.actors.stores.key_turns import KeyTurns, in_turn
from penstock.actors.stores.locating import locate
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
    Wanted,
    nothing_to_count,
)
from penstock.actors.stores.threads import NoThread, Threads
from penstock.actors.stores.together import together
from penstock.runtime.errors import Translation, mapped
from penstock.runtime.units import MIB

PUT_IS_ATOMIC = frozenset({"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf"})
STEP_BYTES = MIB  # copied at a time: a fraction of a millisecond
NO_THREAD: dict[type[BaseException], Translation] = {NoThread: StoreFault}
ASIDE_S = 86_400  # what lies aside for longer is of a node that died
Result = TypeVar("Result")

_ASIDE = re.compile(r"[0-9a-f]+-[0-9]+")


async def open_fsspec_store(config: FsspecConfig, context: StoreContext) -> FsspecStore:
    """Raises StoreRefused without fsspec, for an unknown protocol, or for options it does not take; StoreFault."""
    with mapped(NO_THREAD):
        system = await context.beside.run(partial(open_system, config))
        store = FsspecStore(system, config, context)
        await context.beside.run(store.prepare)
    return store


class FsspecStore:
    """Files of `system`. What is given up goes on in its thread: what comes later has the last word."""

    ownership = Ownership.SHARED
    capacity_bytes = 0

    def __init__(self, system: System, config: FsspecConfig, context: StoreContext) -> None:
        self._system = system
        self._threads = Threads(f"store[{config.name}]", config.threads)
        self._turns = KeyTurns()
        self._locate_within_s = config.locate_within
        puts = bool(PUT_IS_ATOMIC.intersection(system.protocols))
        self._is_put = puts if config.put is PutName.AUTO else config.put is PutName.PUT
        self._aside = f"{system.root}/.aside/{context.epoch.hex()}"
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Make the folders, and remove what nodes that died left aside. Blocks. Raises StoreFault."""
        root = self._system.root
        self._system.make_folder(root if self._is_put else f"{root}/.aside")
        if not self._is_put:
            self._sweep()

    async def locate(self, keys: Keys) -> bytes:
        """What it has not answered in time is not there."""

        async def is_there(key: bytes) -> bool:
            return await self._threads.run(lambda: self._system.is_there(self._path(key)))

        with mapped(NO_THREAD):
            return await locate(
                is_there, keys, at_once=self._threads.count, within_s=self._locate_within_s
            )

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        with mapped(NO_THREAD):
            return await self._threads.each(self._load, wanted)

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        # Of one key only the last, as two at a time would race for its name.
        last = {one.key: one for one in given}

        async def save(one: Given) -> Outcome:
            return await self._change(one.key, partial(self._save, one))

        outcomes = await together(save, [*last.values()], at_once=self._threads.count)
        told = dict(zip(last, outcomes, strict=True))
        return [told[one.key] for one in given]

    async def delete(self, keys: Keys) -> None:
        async def delete(key: bytes) -> None:
            await self._change(key, lambda: self._system.remove(self._path(key)))

        await together(delete, [*dict.fromkeys(keys)], at_once=self._threads.count)

    async def _change(self, key: bytes, work: Callable[[], Result]) -> Result:
        with mapped(NO_THREAD):
            return await in_turn(self._turns.to_change([key]), self._threads, work)

    def recover(self) -> AsyncIterator[list[Entry]]:
        return nothing_to_count()

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return header_bytes + payload_bytes

    async def aclose(self) -> None:
        """Wait for what was given up. The filesystem object is the library's, and cached by it."""
        await self._turns.all_over()

    # In a thread of their own.

    def _sweep(self) -> None:
        """Whoever lives wrote to it lately, by the clock of the filesystem: nobody can lock a file there."""
        # Nobody knows how old a file is, or may write there: what is aside stays.
        with suppress(Failed):
            with self._aside_path() as mine:
                self._system.write(mine, bytearray(b"now"))
                oldest_s = self._system.modified_s(mine) - ASIDE_S
            for path in self._system.names(f"{self._system.root}/.aside"):
                with suppress(Failed):  # swept by another
                    if _ASIDE.fullmatch(path.rpartition("/")[2]) and (
                        self._system.modified_s(path) < oldest_s
                    ):
                        self._system.remove(path)

    def _load(self, wanted: Wanted) -> Outcome:
        header, room = len(wanted.header), len(wanted.header) + len(wanted.payload)
        try:
            # One byte more than there is room for: an object that has it is refused, and never read whole.
            data = self._system.read(self._path(wanted.key), room + 1)
        except Failed as failed:
            return failed.outcome()
        if data is None:
            return MISSING
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

    def _save(self, given: Given) -> Outcome:
        data = _joined(given)
        path = self._path(given.key)
        try:
            self._system.make_folder(path.rpartition("/")[0])
            if self._is_put:
                self._system.write(path, data)
            else:
                with self._aside_path() as aside:
                    self._system.write(aside, data)
                    self._system.move(aside, path)
        except Failed as failed:
            return failed.outcome()
        return DONE

    @contextmanager
    def _aside_path(self) -> Iterator[str]:
        """A name of our own, which is gone afterwards."""
        path = f"{self._aside}-{next(self._numbers)}"
        try:
            yield path
        finally:
            if self._system.is_there(path):
                self._system.remove(path)

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return f"{self._system.root}/{name[:2]}/{name}"


def _joined(given: Given) -> bytearray:
    """Libraries want it in one piece. In steps, between which other threads run: one long copy would keep the loop's
    from running as long."""
    data = bytearray(given.header)
    for start in range(0, given.payload_bytes, STEP_BYTES):
        data += given.payload[start : min(start + STEP_BYTES, given.payload_bytes)]
    return data
