"""The memory store, over a shelf that outlives it: so it can be restarted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from penstock.actors.stores.checking import Subject
from penstock.actors.stores.memory import MemoryStore, Shelf
from penstock.runtime.units import MIB


@asynccontextmanager
async def memory(_directory: Path) -> AsyncIterator[Subject]:
    shelf: Shelf = {}

    async def open_it() -> MemoryStore:
        return MemoryStore(shelf, capacity_bytes=128 * MIB)

    yield Subject(open_it, is_persistent=True)


SUBJECTS = {"memory": memory}
