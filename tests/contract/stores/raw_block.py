"""The raw block store, over files that stand for devices: one, several by key, and one per rank."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.raw_block import RawBlockStore, open_raw_block_store
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.store import StoreContext
from penstock.runtime.units import KIB, MIB, ByteSize

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]


def subject(*, files: int = 1, by_rank: bool = False, **given: Any) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        paths = [str(directory / f"device{number}") for number in range(files)]
        named = (
            {"per_rank_device_paths": dict(enumerate(paths))}
            if by_rank
            else {"paths": tuple(paths)}
        )
        config = RawBlockConfig(
            name="raw",
            capacity=ByteSize(160 * MIB * files),
            **named,
            **{"slot_bytes": ByteSize(64 * KIB), **given},
        )

        async def open_it() -> RawBlockStore:
            return await open_raw_block_store(config, StoreContext("raw", Epoch(bytes(16))))

        yield Subject(open_it, is_persistent=True)

    return make


SUBJECTS: dict[str, Make] = {
    "raw block": subject(),
    "raw block durable": subject(durability=DurabilityName.FDATASYNC),
    "raw block of large slots": subject(slot_bytes=ByteSize(MIB)),
    "raw block aligned": subject(block_align=ByteSize(16 * KIB), header_bytes=ByteSize(32 * KIB)),
    "raw block by key": subject(files=2),
    "raw block by rank": subject(files=3, by_rank=True),
}
