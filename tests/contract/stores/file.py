"""The file store, straight to the disk and through the page cache, over one folder and over several."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file import FileStore, open_file_store
from penstock.actors.stores.file_config import DurabilityName, FileConfig, FileIo, Placement
from penstock.actors.stores.store import StoreContext
from penstock.runtime.units import MIB, ByteSize

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def subject(
    *,
    folders: int = 1,
    io: FileIo = FileIo.DIRECT,
    placement: Placement = Placement.BY_KEY,
    durability: DurabilityName = DurabilityName.NONE,
    ownership: OwnershipName = OwnershipName.EXCLUSIVE,
) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        config = FileConfig(
            name="disk",
            paths=tuple(str(directory / f"path{n}") for n in range(folders)),
            capacity=ByteSize(128 * MIB if ownership is OwnershipName.EXCLUSIVE else 0),
            io=io,
            placement=placement,
            durability=durability,
            ownership=ownership,
        )

        async def open_it() -> FileStore:
            return await open_file_store(config, StoreContext("disk", Epoch(bytes(16))))

        yield Subject(open_it, is_persistent=True)

    return make


SUBJECTS: dict[str, Make] = {
    "file direct": subject(),
    "file buffered": subject(io=FileIo.BUFFERED),
    "file durable": subject(durability=DurabilityName.FDATASYNC),
    "file by key": subject(folders=3),
    "file by device": subject(folders=2, placement=Placement.BY_DEVICE),
    "file shared": subject(ownership=OwnershipName.SHARED),
}
