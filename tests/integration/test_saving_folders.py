"""Saves of a whole node to a file store of two folders, one of which hangs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from support.declarations import hello, keys
from support.eventually import eventually
from support.hanging_folder import hanging
from support.nodes import local_node
from support.raw_engine import RawEngine, attached, extents_of

from penstock.actors.keys import object_key
from penstock.actors.stores import opening
from penstock.actors.stores.file import FileStore, open_file_store
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.store import StoreContext
from penstock.protos import engine_pb2

pytestmark = pytest.mark.anyio

RUNS = hello().groups[0].shards[0].runs
SAVED, PENDING = engine_pb2.SAVE_STATE_SAVED, engine_pb2.SAVE_STATE_PENDING
CHUNKS = 64
HUNG = 0


@contextmanager
def opened() -> Iterator[list[FileStore]]:
    """The file stores that are opened while it is entered."""
    stores: list[FileStore] = []

    async def open_one(config: FileConfig, context: StoreContext) -> FileStore:
        stores.append(await open_file_store(config, context))
        return stores[-1]

    with mock.patch.object(opening, "open_file_store", open_one):
        yield stores


async def put(engine: RawEngine, prompt: bytes) -> None:
    reserved = (await engine.reserve(prompt)).reserved
    words = (7).to_bytes(8, "little") * len(extents_of(reserved.extents))
    commit = engine_pb2.Commit(lease=reserved.lease, digests=words, runs=words * RUNS)
    assert (await engine.ask(commit=commit)).committed is not None


async def states(engine: RawEngine, prompt: bytes) -> bytes:
    ask = engine_pb2.WaitStored(prompt=engine_pb2.Prompt(keys=prompt), within_ms=100)
    return (await engine.ask(wait_stored=ask)).stored.states


async def came_to(engine: RawEngine, prompt: bytes, *, saved: int) -> bool:
    return (await states(engine, prompt)).count(SAVED) == saved


async def test_a_folder_that_hangs_holds_up_what_belongs_there_and_nothing_else(
    tmp_path: Path,
) -> None:
    """B15: from the first moment, with room and turns for a few batches only.

    Seen to fail with batches of objects of both folders: none was saved as long as it hung.
    """
    folders = [str(tmp_path / "hung"), str(tmp_path / "sound")]
    nvme = {"name": "nvme", "type": "file", "paths": folders, "capacity": "64MiB", "saves_max": 2}
    limits = {
        "writer__inflight_bytes_max": "64KiB",
        "writer__batch_objects": 2,
        "writer__retry_pause": "50ms",
        "writer__retry_pause_max": "100ms",
    }
    with opened() as stores:
        async with (
            local_node(stores=[nvme], **limits) as node,
            attached(node.address, hello()) as engine,
        ):
            everything = keys(CHUNKS)
            sound = sum(
                stores[0].place_of(object_key(everything[at : at + 32], group=0, shard=0), 0)
                != HUNG
                for at in range(0, len(everything), 32)
            )
            with hanging(stores[0], HUNG) as asked:
                await put(engine, everything)
                done = partial(came_to, engine, everything, saved=sound)
                await eventually(done, within=5, what="the other folder has all that belongs there")
                assert 0 < sound < CHUNKS
                assert asked, "nothing was saved to the one that hangs"
                assert (await states(engine, everything)).count(PENDING) == CHUNKS - sound
            done = partial(came_to, engine, everything, saved=CHUNKS)
            await eventually(done, within=10, what="all of it is saved")
