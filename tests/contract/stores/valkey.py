"""The valkey store: on one server, with objects in parts, over a Unix socket's like, and on a cluster of three."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio.to_thread
from support.valkey_server import shared_valkey_cluster, shared_valkey_server

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.store import Store, StoreContext
from penstock.actors.stores.valkey_config import Mode, ValkeyConfig
from penstock.runtime.units import MIB, ByteSize

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def subject(*, mode: Mode = Mode.STANDALONE, part_bytes: int = 8 * MIB) -> Make:
    @asynccontextmanager
    async def make(_: Path) -> AsyncIterator[Subject]:
        if mode is Mode.CLUSTER:
            servers = await anyio.to_thread.run_sync(shared_valkey_cluster)
        else:
            servers = [await anyio.to_thread.run_sync(shared_valkey_server)]
        config = ValkeyConfig(
            name="shared",
            addresses=tuple(one.address for one in servers),
            mode=mode,
            prefix=f"{secrets.token_hex(4)}:",
            part_bytes=ByteSize(part_bytes),
        )

        async def open_it() -> Store:
            return await open_store(config, StoreContext("shared", Epoch(bytes(16))))

        yield Subject(open_it, is_persistent=True)

    return make


SUBJECTS: dict[str, Make] = {
    "valkey": subject(),
    "valkey cluster": subject(mode=Mode.CLUSTER, part_bytes=MIB),
}
