"""Objects behind a storage plugin of NIXL: in files (`nixl_files.py`), or as objects (`nixl_objects.py`).

What blocks is called from threads; NIXL moves bytes straight between the arena and the medium. A save that is given
up goes on: its object becomes visible whole, or not; a save or deletion of it that comes later waits for it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import msgspec

from penstock._native import Caching
from penstock.actors.api.store import Keys
from penstock.actors.stores.beside import opened_beside
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file_config import FileIo, Placement
from penstock.actors.stores.file_folder import Folder, Marker
from penstock.actors.stores.key_turns import KeyTurns, in_turn
from penstock.actors.stores.nixl_agent import Agent, Medium, NixlFailed
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
from penstock.runtime.background import Background
from penstock.runtime.errors import mapped
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
    log = Log(f"store.{context.name}")
    open_it = partial(_medium, config, context, log)
    async with opened_beside(context.beside, open_it) as (medium, ownership):
        return NixlStore(config, medium, ownership, context.beside, log)


class NixlStore:
    """The objects of one medium."""

    def __init__(
        self,
        config: NixlConfig,
        medium: Blocking,
        ownership: Ownership,
        beside: Threads,
        log: Log,
    ) -> None:
        self.ownership = ownership
        self._medium = medium
        self._threads = Threads(f"store[{config.name}]", config.threads)
        self._beside = beside  # for closing
        self._ending = Background(self._end, StoreFault)
        self._has_ended = False
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
        with anyio.move_on_after(self._close_within_s, shield=True) as scope:
            if not self._has_ended:
                await self._ending.result()
        if scope.cancelled_caught:
            self._log.warning("transfers_left_behind", after_s=self._close_within_s)
        await self._beside.run(self._medium.let_go)
        self._is_closed = True

    async def _end(self) -> None:
        """When nothing is under way any more: also long after it was left behind."""
        await self._threads.close()
        await self._beside.run(self._medium.close)
        self._has_ended = True


def _medium(
    config: NixlConfig, context: StoreContext, log: Log, opened: ExitStack
) -> tuple[Blocking, Ownership]:
    """Raises StoreRefused, StoreFault."""
    with mapped({NixlFailed: StoreFault}):
        agent = Agent(config, f"penstock-{config.name}-{context.epoch.hex()}")
        opened.callback(agent.close)
        if context.memory is not None:
            agent.register(context.memory)
    if agent.medium is Medium.OBJECTS:
        _check_objects(config)
        return NixlObjects(config, agent), Ownership.SHARED
    _check_files(config)
    return _files(config, context, agent, log, opened), OWNERSHIP[config.ownership]


def _check_objects(config: NixlConfig) -> None:
    """Raises StoreRefused for what such a plugin would not look at."""
    usual = {field.name: field.default for field in msgspec.structs.fields(NixlConfig)}
    for name in ("path", "io", "durability"):
        if getattr(config, name) != usual[name]:
            raise _refusal(config, name, f"keeps objects, below prefix: leave {name} out")
    try:
        config.check_shared()
    except ValueError as problem:
        raise StoreRefused(f"stores.{config.name}", str(problem)) from None


def _check_files(config: NixlConfig) -> None:
    """Raises StoreRefused."""
    if not config.path:
        raise _refusal(config, "path", "keeps files: say path")
    if not config.capacity and config.ownership is OwnershipName.EXCLUSIVE:
        raise _refusal(config, "capacity", "keeps files: say capacity")
    if config.prefix:
        raise _refusal(config, "prefix", "keeps files, below path: leave prefix out")


def _refusal(config: NixlConfig, name: str, problem: str) -> StoreRefused:
    return StoreRefused(f"stores.{config.name}.{name}", f"{config.plugin} {problem}")


def _files(
    config: NixlConfig, context: StoreContext, agent: Agent, log: Log, opened: ExitStack
) -> NixlFiles:
    """Raises StoreRefused, StoreFault."""
    marker = Marker(Placement.BY_KEY, 1, 0)
    folder = Folder(Path(config.path), marker, OWNERSHIP[config.ownership], context.epoch)
    opened.callback(folder.close)
    folder.claim()
    folder.sweep()
    wanted = Caching.DIRECT if config.io is FileIo.DIRECT else Caching.BUFFERED
    caching = folder.caching_of(wanted)
    if caching is not wanted:
        log.warning(
            "io_buffered",
            path=folder.path,
            reason="its filesystem has no disk, or refuses O_DIRECT",
        )
    fd = os.dup(folder.fd)
    opened.callback(os.close, fd)
    return NixlFiles(config, agent, folder, fd, caching)
