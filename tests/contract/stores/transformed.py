"""Every transform, and all of them, around the memory store and the file store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from support.transforms import KEYS_A, lossy_of_samples, write_keys

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.memory import MemoryConfig, MemoryStore, Shelf
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.store import Store, StoreContext
from penstock.actors.stores.transform_config import (
    AesGcmConfig,
    AnyTransform,
    Fp8Config,
    ZstdConfig,
)
from penstock.actors.stores.transform_opening import open_pipeline, transformed
from penstock.runtime.units import MIB, ByteSize

Make = Callable[[Path], AbstractAsyncContextManager[Subject]]
Chosen = Callable[[Path], Sequence[AnyTransform]]


def context() -> StoreContext:
    return StoreContext("tested", Epoch(bytes(16)), lossy_of_samples())


def on_file(chosen: Chosen) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        pytest.importorskip("zstandard", reason="pip install penstock[transforms]")
        config = FileConfig(
            name="tested",
            paths=str(directory / "objects"),
            capacity=ByteSize(128 * MIB),
            transforms=tuple(chosen(directory)),
        )

        async def open_it() -> Store:
            return await open_store(config, context())

        yield Subject(open_it, is_persistent=True)

    return make


def on_memory(chosen: Chosen) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        pytest.importorskip("zstandard", reason="pip install penstock[transforms]")
        shelf: Shelf = {}
        config = MemoryConfig(
            name="tested", capacity=ByteSize(128 * MIB), transforms=tuple(chosen(directory))
        )

        async def open_it() -> Store:
            store = MemoryStore(shelf, capacity_bytes=config.capacity)
            return transformed(store, open_pipeline(config, context()), config)

        yield Subject(open_it, is_persistent=True)

    return make


def seal(directory: Path) -> AesGcmConfig:
    return AesGcmConfig(keys_file=write_keys(directory / "keys", KEYS_A))


CHOSEN: dict[str, Chosen] = {
    "zstd": lambda _: [ZstdConfig()],
    "encrypted": lambda directory: [seal(directory)],
    "fp8": lambda _: [Fp8Config()],
    "all transforms": lambda directory: [Fp8Config(), ZstdConfig(), seal(directory)],
}
SUBJECTS: dict[str, Make] = {
    **{f"memory, {name}": on_memory(chosen) for name, chosen in CHOSEN.items()},
    **{f"file, {name}": on_file(chosen) for name, chosen in CHOSEN.items()},
}
