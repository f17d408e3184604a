"""Opening raw block stores, and what was refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.stores.raw_block import RawBlockStore, open_raw_block_store
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import Sample, make_sample
from penstock.actors.stores.store import StoreContext, StoreRefused
from penstock.runtime.units import KIB, MIB, ByteSize


def config(**given: Any) -> RawBlockConfig:
    made = {"name": "raw", "capacity": ByteSize(8 * MIB), "slot_bytes": ByteSize(64 * KIB)}
    return RawBlockConfig(**{**made, **given})


async def opened(settings: RawBlockConfig) -> RawBlockStore:
    return await open_raw_block_store(settings, StoreContext("raw", Epoch(bytes(16))))


def refusal(settings: RawBlockConfig) -> str:
    async def run() -> str:
        with pytest.raises(StoreRefused) as told:
            await opened(settings)
        return str(told.value)

    return anyio.run(run)


def open_and_close(settings: RawBlockConfig, *, save: list[Sample] | None = None) -> list[bytes]:
    """Keys that are there."""

    async def run() -> list[bytes]:
        store = await opened(settings)
        if save is not None:
            await store.save([one.given() for one in save])
        found = [entry.key async for batch in store.recover() for entry in batch]
        await store.aclose()
        store.validate()
        return found

    return anyio.run(run)


async def four_samples() -> list[Sample]:
    return [await make_sample(n, 20_000 + 30_000 * n, device=n % 2) for n in range(4)]


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
