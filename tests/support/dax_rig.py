"""Stores in mapped files, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from penstock.actors.api.types import Epoch
from penstock.actors.stores.dax import DaxStore, open_dax_store
from penstock.actors.stores.dax_config import ArenaConfig, DaxConfig
from penstock.actors.stores.samples import Sample, make_sample
from penstock.actors.stores.store import Fate, StoreContext
from penstock.runtime.units import KIB, MIB, ByteSize

SLOT = ByteSize(64 * KIB)


def config(directory: Path, *names: str, **given: Any) -> DaxConfig:
    arenas = tuple(
        ArenaConfig(path=directory / name, bytes=ByteSize(MIB)) for name in names or ("one",)
    )
    return DaxConfig(**{"name": "pmem", "arenas": arenas, "slot_bytes": SLOT, **given})


def context() -> StoreContext:
    return StoreContext("pmem", Epoch(bytes(16)))


@asynccontextmanager
async def opened(settings: DaxConfig) -> AsyncIterator[DaxStore]:
    store = await open_dax_store(settings, context())
    try:
        yield store
    finally:
        await store.aclose()


async def some(count: int, *, first: int = 0, size: int = 20_000) -> list[Sample]:
    return [await make_sample(first + n, size, device=n) for n in range(count)]


async def save(store: DaxStore, samples: list[Sample]) -> list[Fate]:
    return [one.fate for one in await store.save([one.given() for one in samples])]


async def there(store: DaxStore, samples: list[Sample]) -> list[bool]:
    """Which of them come back; those that do are whole."""
    found = []
    for one in samples:
        wanted = one.wanted()
        fate = (await store.load([wanted]))[0].fate
        assert fate in (Fate.DONE, Fate.MISSING)
        assert fate is Fate.MISSING or await one.is_in(wanted)
        found.append(fate is Fate.DONE)
    return found
