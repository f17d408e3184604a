"""The dax store: one arena and several, synced and not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.dax import DaxStore, open_dax_store
from penstock.actors.stores.dax_config import ArenaConfig, DaxConfig, Msync
from penstock.actors.stores.store import StoreContext
from penstock.runtime.units import KIB, MIB, ByteSize

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def subject(*, arenas: int = 1, msync: Msync = Msync.NONE, slot_bytes: int = 2 * MIB) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        size = ByteSize(128 * MIB // arenas)
        config = DaxConfig(
            name="memory",
            arenas=tuple(
                ArenaConfig(path=directory / f"arena{n}", bytes=size) for n in range(arenas)
            ),
            slot_bytes=ByteSize(slot_bytes),
            msync=msync,
        )

        async def open_it() -> DaxStore:
            return await open_dax_store(config, StoreContext("memory", Epoch(bytes(16))))

        yield Subject(open_it, is_persistent=True, objects_max_bytes=slot_bytes - 4 * KIB)

    return make


SUBJECTS: dict[str, Make] = {
    "dax": subject(),
    "dax several": subject(arenas=2),
    "dax synced": subject(msync=Msync.SAVE),
}
