"""The fsspec store over a local folder, where it renames, and over fsspec's memory, where it puts."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.stores.checking import Subject
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.store import Store, StoreContext

_lives = itertools.count(1)


def subject(url: str) -> Callable[[Path], AbstractAsyncContextManager[Subject]]:
    """`url`, followed by the directory."""

    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Subject]:
        pytest.importorskip("fsspec", reason="pip install penstock[fsspec]")
        config = FsspecConfig(name="any", url=f"{url}{directory}")

        async def open_it() -> Store:
            return await open_store(config, StoreContext("any", Epoch(bytes([next(_lives)]) * 16)))

        yield Subject(open_it, is_persistent=True)

    return make


SUBJECTS = {"fsspec local": subject("file://"), "fsspec memory": subject("memory://")}
