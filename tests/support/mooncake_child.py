"""A process that uses a pool whose master stops under it, and ends. Arguments: master, its process id."""

from __future__ import annotations

import os
import signal
import sys

import anyio

from penstock.actors.api.types import Epoch
from penstock.actors.stores.mooncake import open_mooncake_store
from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import StoreContext
from penstock.runtime.units import Seconds


async def main(master: str, process_id: int) -> None:
    config = MooncakeConfig(name="pool", master=master, host="127.0.0.1", rpc_within=Seconds(1))
    store = await open_mooncake_store(config, StoreContext("pool", Epoch(bytes(16))))
    sample = await make_sample(1, 4096)
    await store.save([sample.given()])
    os.kill(process_id, signal.SIGSTOP)
    with anyio.move_on_after(0.05):
        await store.load([sample.wanted()])
    with anyio.move_on_after(0.05):
        await store.locate(keys_of([sample]))
    await store.aclose()
    sys.stdout.write("closed\n")


anyio.run(main, sys.argv[1], int(sys.argv[2]))
