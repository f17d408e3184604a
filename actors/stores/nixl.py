"""Objects behind a storage plugin of NIXL: in files (`nixl_files.py`), or as objects (`nixl_objects.py`).

What blocks is called from threads; NIXL moves bytes straight between the arena and the medium. A save that is given
up goes on: its object becomes visible whole, or not; a save or deletion of it that comes later waits for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio

from penstock._native import Caching
from penstock.actors.api.store import Keys
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file_config import FileIo, Placement
from penstock.actors.stores.file_folder import Folder, Marker
from penstock.actors.stores.key_turns import KeyTurns, in_turn
from penstock.actors.stores.nixl_agent import Agent, Medium
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.nixl_files import NixlFiles
from penstock.actors.stores.nixl_objects import NixlObjects
from penstock.actors.stores.store import (
    Entry,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreFault,
    StoreRefused,
    Wanted,
)
from penstock.actors.stores.threads import Threads
from penstock.runtime.log import Log

ENTRIES_MAX = 1024  # told at a time by recovery
OWNERSHIP = {
    OwnershipName.EXCLUSIVE: Ownership.EXCLUSIVE,
    OwnershipName.SHARED: Ownership.SHARED,
}


class Blocking(Protocol):
    """What a medium does, in threads."""

    def locate(self, keys: Keys) -> bytes: ...
    def load(self, wanted: Sequence[Wanted]) -> list[Outcome]: ...
    def save(self, given: Sequence[Given]) -> list[Outcome]: ...
    def delete(self, keys: Keys) -> None: ...
    def entries(self, batch_max: int) -> Iterator[list[Entry]]: ...
    def cost(self, header_bytes: int, payload_bytes: int) -> int: ...
    def let_go(self) -> None: ...
    def close(self) -> None: ...


async def open_nixl_store(config: NixlConfig, context: StoreContext) -> NixlStore:
    """Raises StoreRefused without the library or the plugin, or when it does not fit what is configured; StoreFault."""
    threads = Threads(f"store[{config.name}]", config.threads)
    log = Log(f"store.{context.name}")
    agent = await threads.run(partial(_agent, config, context))
    if agent.medium is Medium.OBJECTS:
        if config.path:
            problem = f"{config.plugin} keeps objects: say prefix, and leave path out"
            raise StoreRefused(f"stores.{config.name}.path", problem)
        return NixlStore(config, NixlObjects(config, agent), Ownership.SHARED, threads, log)
    for name, value in (("path", config.path), ("capacity", config.capacity)):
        is_needed = name == "path" or config.ownership is OwnershipName.EXCLUSIVE
        if is_needed and not value:
            problem = f"{config.plugin} keeps files: say {name}"
            raise StoreRefused(f"stores.{config.name}.{name}", problem)
    files = await threads.run(partial(_files, config, context, agent, log))
    return NixlStore(config, files, OWNERSHIP[config.ownership], threads, log)


class NixlStore:
    """The objects of one medium."""

    def __init__(
        self,
        config: NixlConfig,
        medium: Blocking,
        ownership: Ownership,
        threads: Threads,
        log: Log,
    ) -> None:
        self.ownership = ownership
        self._medium = medium
        self._threads = threads
        self._turns = KeyTurns()
        self._capacity_bytes = int(config.capacity)
        self._close_within_s = config.close_within
        self._log = log
        self._is_closed = False

    async def locate(self, keys: Keys) -> bytes:
        return await self._threads.run(partial(self._medium.locate, keys)) if len(keys) else b""

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        if not wanted:
            return []
        return await self._threads.run(partial(self._medium.load, [*wanted]))

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        if not given:
            return []
        last = {one.key: one for one in given}
        work = partial(self._medium.save, [*last.values()])
        outcomes = await in_turn(self._turns.to_change(last.keys()), self._threads, work)
        told = dict(zip(last, outcomes, strict=True))
        return [told[one.key] for one in given]

    async def delete(self, keys: Keys) -> None:
        if len(keys):
            turn = self._turns.to_change({*keys})
            await in_turn(turn, self._threads, partial(self._medium.delete, keys))

    async def recover(self) -> AsyncIterator[list[Entry]]:
        """Of files, by names and sizes; the folder is read in portions."""
        if self.ownership is Ownership.SHARED:
            return
        portions = self._medium.entries(ENTRIES_MAX)
        try:
            while (batch := await self._threads.run(partial(next, portions, None))) is not None:
                yield batch
        except OSError as error:
            raise StoreFault(f"what is there cannot be read: {error}") from error

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return self._medium.cost(header_bytes, payload_bytes)

    @property
    def capacity_bytes(self) -> int:
        return self._capacity_bytes

    async def aclose(self) -> None:
        """Wait for what is under way, but no longer than `close_within`."""
        if self._is_closed:
            return
        self._is_closed = True
        with anyio.move_on_after(self._close_within_s, shield=True) as scope:
            await self._threads.close()
        if scope.cancelled_caught:
            self._log.warning("transfers_left_behind", after_s=self._close_within_s)
        else:
            self._medium.close()
        await anyio.to_thread.run_sync(self._medium.let_go)


def _agent(config: NixlConfig, context: StoreContext) -> Agent:
    agent = Agent(config, f"penstock-{config.name}-{context.epoch.hex()}")
    if context.memory is not None:
        agent.register(context.memory)
    return agent


def _files(config: NixlConfig, context: StoreContext, agent: Agent, log: Log) -> NixlFiles:
    """Raises StoreRefused, StoreFault."""
    marker = Marker(Placement.BY_KEY, 1, 0)
    folder = Folder(Path(config.path), marker, OWNERSHIP[config.ownership], context.epoch)
    try:
        folder.claim()
        folder.sweep()
        wanted = Caching.DIRECT if config.io is FileIo.DIRECT else Caching.BUFFERED
        caching = folder.caching_of(wanted)
        if caching is not wanted:
            log.warning("io_buffered", path=folder.path, reason="its filesystem refuses O_DIRECT")
        return NixlFiles(config, agent, folder, caching)
    except (StoreRefused, StoreFault, OSError):
        folder.close()
        raise
