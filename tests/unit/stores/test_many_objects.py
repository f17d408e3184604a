"""B3: stores that are asked for one object at a time, asked for many: short steps, and an answer in time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.store_world import source, store_world, target

from penstock.actors.api import store as api
from penstock.actors.api.store import Keys, LoadOutcome, StoreState
from penstock.actors.api.types import KEY_BYTES, Epoch
from penstock.actors.stores.config import BreakerConfig, StoreConfig
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.opening import AnyStoreConfig, open_store
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.s3 import S3Store, open_s3_store
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.samples import make_sample
from penstock.actors.stores.store import BLOCK_BYTES, Fate, StoreContext, Wanted
from penstock.actors.stores.transform_config import ZstdConfig
from penstock.runtime.units import MIB, ByteSize, Seconds

CONTEXT = StoreContext("tested", Epoch(bytes(16)))
LOCATED = 16_384  # the most that is asked for at a time
LOADED = 2048


def names(count: int) -> Keys:
    return Keys.of([(os.urandom(KEY_BYTES), 0) for _ in range(count)])


def config_of(kind: str, path: Path) -> AnyStoreConfig:
    match kind:
        case "s3":
            pytest.importorskip("obstore", reason="pip install penstock[s3]")
            return S3Config(name="tested", url="memory:///")
        case "fsspec":
            pytest.importorskip("fsspec", reason="pip install penstock[fsspec]")
            return FsspecConfig(name="tested", url=f"memory://{path}")
        case _:
            pytest.importorskip("zstandard", reason="pip install penstock[transforms]")
            capacity = ByteSize(64 * MIB)
            return FileConfig(
                name="tested", paths=str(path), capacity=capacity, transforms=(ZstdConfig(),)
            )


@pytest.mark.parametrize("kind", ["s3", "fsspec", "transforms"])
def test_many_objects_make_no_long_step(kind: str, tmp_path: Path) -> None:
    """Seen to fail, by the watchdog of all tests: a task for each of them, or for each group, all begun in one step of
    up to 400 ms."""

    # Made beforehand: the test's own steps are not looked at.
    config = config_of(kind, tmp_path)
    located, gone, absent = names(LOCATED), names(64), [*names(LOADED - 1)]
    sample = anyio.run(make_sample, 1, BLOCK_BYTES)
    pages = fresh_pages([BLOCK_BYTES] * (2 * LOADED))
    wanted = [
        Wanted(key, 0, header, payload, None)
        for key, header, payload in zip([*absent, sample.key], pages[::2], pages[1::2], strict=True)
    ]

    async def run() -> list[Fate]:
        store = await open_store(config, CONTEXT)
        await checkpoint()
        found = await store.locate(located)
        await store.save([sample.given()])
        outcomes = await store.load(wanted)
        await store.delete(gone)
        await store.aclose()
        assert found == bytes(LOCATED)
        await checkpoint()
        return [one.fate for one in outcomes]

    assert anyio.run(run) == [Fate.MISSING] * (LOADED - 1) + [Fate.DONE]


class SlowBucket:
    """The library, where one question in a hundred about a name is not answered while anybody waits for it."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    async def head_async(self, *args: Any) -> Any:
        self._asked += 1
        if self._asked % 100 == 0:
            await anyio.sleep_forever()
        return await self._library.head_async(*args)


def test_more_names_than_can_be_asked_for_in_time_are_no_failure_of_the_bucket() -> None:
    """B5: of 2,048 names, 32 at a time, 20 are not heard of in the time there is.

    Seen to fail: nothing was found of what could be found in time, and after some times the breaker opened."""
    pytest.importorskip("obstore", reason="pip install penstock[s3]")
    config: StoreConfig = S3Config(
        name="tested",
        url="memory:///",
        locate_within=Seconds(0.5),
        breaker=BreakerConfig(failures=2),
    )

    async def open_it() -> S3Store:
        assert isinstance(config, S3Config)
        store = await open_s3_store(config, CONTEXT)
        store._obstore = SlowBucket(store._obstore)
        return store

    async def run() -> None:
        async with store_world(open_it, config) as world:
            sample = await make_sample(1, 20_000)
            await world.save(source(sample))
            rest = names(2047)
            keys = Keys(sample.key + rest.packed, bytes(2) + rest.devices)
            for _ in range(3):
                found = await world.ref.ask(api.Locate(keys), within=5)
                assert found == b"\1" + bytes(2047)
            assert (await world.measure()).state is StoreState.OPEN
            (loaded,) = await world.load(target(sample))
            assert loaded.outcome is LoadOutcome.LOADED

    anyio.run(run)
