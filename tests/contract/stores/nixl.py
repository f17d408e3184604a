"""The nixl store over its POSIX plugin, straight to the disk, by each of its engines, and through the page cache; and
over its AZURE_BLOB plugin and a small server of the tests' own."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from support.blob_server import blob_server

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.file_config import DurabilityName, FileIo
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.store import Store, StoreContext
from penstock.runtime.units import MIB, ByteSize

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def posix(
    engine: str,
    *,
    io: FileIo = FileIo.DIRECT,
    durability: DurabilityName = DurabilityName.NONE,
) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        if importlib.util.find_spec("nixl_cu13") is None:
            pytest.skip("pip install penstock[nixl]")
        config = NixlConfig(
            name="behind",
            parameters={engine: "true"},
            path=str(directory / "objects"),
            capacity=ByteSize(128 * MIB),
            io=io,
            durability=durability,
        )

        async def open_it() -> Store:
            return await open_store(config, StoreContext("behind", Epoch(bytes(16))))

        yield Subject(open_it, is_persistent=True)

    return make


@asynccontextmanager
async def objects(_: Path) -> AsyncIterator[Subject]:
    if importlib.util.find_spec("nixl_cu13") is None:
        pytest.skip("pip install penstock[nixl]")
    with blob_server() as server:
        config = NixlConfig(
            name="behind", plugin="AZURE_BLOB", parameters=server.parameters, prefix="kv/"
        )

        async def open_it() -> Store:
            return await open_store(config, StoreContext("behind", Epoch(bytes(16))))

        yield Subject(open_it, is_persistent=True)


SUBJECTS: dict[str, Make] = {
    "nixl": posix("use_aio"),
    "nixl by uring": posix("use_uring"),
    "nixl buffered": posix("use_posix_aio", io=FileIo.BUFFERED),
    "nixl objects": objects,
    "nixl durable": posix("use_aio", durability=DurabilityName.FDATASYNC),
}
