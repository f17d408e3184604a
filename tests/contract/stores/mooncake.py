"""The mooncake store, over TCP to a real master and a machine that gives memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from support.mooncake_pool import HOST, shared_mooncake_pool

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.store import Store, StoreContext


@asynccontextmanager
async def mooncake(directory: Path) -> AsyncIterator[Subject]:
    pool = await anyio.to_thread.run_sync(shared_mooncake_pool)
    config = MooncakeConfig(
        name="pool", master=pool.master, host=HOST, prefix=f"of/{directory.name}/"
    )

    async def open_it() -> Store:
        return await open_store(config, StoreContext("pool", Epoch(bytes(16))))

    yield Subject(open_it, is_persistent=True)


SUBJECTS = {"mooncake": mooncake}
