"""Stores behind NIXL, for tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.stores.nixl import NixlStore, open_nixl_store
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.store import StoreContext
from penstock.runtime.units import MIB, ByteSize

needs_nixl = pytest.mark.skipif(
    importlib.util.find_spec("nixl_cu13") is None, reason="pip install penstock[nixl]"
)


def config(path: Path | str, **given: Any) -> NixlConfig:
    settings = {"name": "behind", "capacity": ByteSize(64 * MIB), "path": str(path), **given}
    return NixlConfig(**settings)  # type: ignore[arg-type]


async def open_it(settings: NixlConfig, memory: memoryview | None = None) -> NixlStore:
    return await open_nixl_store(settings, StoreContext("behind", Epoch(bytes(16)), memory=memory))


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(18):
            await scene()

    anyio.run(bounded)
