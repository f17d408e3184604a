"""Loads that nobody waits for any more give back what they took, soon and by themselves."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from support.eventually import eventually
from support.store_world import source, store_world, target

from penstock.actors.api.errors import StoreClogged
from penstock.actors.api.store import LoadOutcome
from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import BreakerConfig, StoreConfig
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.fsspec_config import FsspecConfig
from penstock.actors.stores.opening import AnyStoreConfig, open_store
from penstock.actors.stores.s3_config import S3Config
from penstock.actors.stores.samples import Hold, make_sample
from penstock.actors.stores.store import StoreContext
from penstock.actors.stores.transform_config import ZstdConfig
from penstock.runtime.errors import DeadlineExceeded
from penstock.runtime.units import MIB, ByteSize

BYTES, OBJECTS = MIB, 4
INFLIGHT = ByteSize(4 * BYTES * OBJECTS)
PATIENT = BreakerConfig(failures=1000)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """A node that serves collects rarely, and what it froze never."""
    gc.disable()
    yield
    gc.enable()


def zstd(path: Path) -> AnyStoreConfig:
    pytest.importorskip("zstandard", reason="pip install penstock[transforms]")
    capacity = ByteSize(64 * MIB)
    return FileConfig(
        name="tested",
        paths=str(path),
        capacity=capacity,
        transforms=(ZstdConfig(),),
        bounce_bytes_max=ByteSize(4 * BYTES),  # so that each goes alone, side by side
        inflight_bytes_max=INFLIGHT,
        breaker=PATIENT,
    )


def s3(_: Path) -> AnyStoreConfig:
    pytest.importorskip("obstore", reason="pip install penstock[s3]")
    return S3Config(name="tested", url="memory:///", inflight_bytes_max=INFLIGHT, breaker=PATIENT)


def fsspec(path: Path) -> AnyStoreConfig:
    pytest.importorskip("fsspec", reason="pip install penstock[fsspec]")
    return FsspecConfig(
        name="tested", url=f"file://{path}", inflight_bytes_max=INFLIGHT, breaker=PATIENT
    )


@pytest.mark.loop_step_ms(30)  # the test makes samples of 1 MiB
@pytest.mark.parametrize("configured", [zstd, s3, fsspec])
def test_a_healthy_store_is_not_clogged_by_loads_that_were_given_up(
    configured: Callable[[Path], AnyStoreConfig], tmp_path: Path
) -> None:
    """A2, B5: places in the arena and room for loads come back without the garbage collector.

    Seen to fail: cancelled tasks of a batch stayed in a circle with their frames, and after some loads that were given
    up a store that worked refused all others as clogged."""
    config: StoreConfig = configured(tmp_path)

    async def run() -> None:
        async with store_world(
            lambda: open_store(configured(tmp_path), StoreContext("tested", Epoch(bytes(16)))),
            config,
            inline_bytes_max=64 * 1024,
        ) as world:
            await world.wait_recovered()
            samples = [await make_sample(number, BYTES) for number in range(OBJECTS)]
            await world.save(*map(source, samples))
            held: list[weakref.ref[Hold]] = []
            for number in range(12):
                hold = Hold()
                held.append(weakref.ref(hold))
                wanted = [target(one, hold=hold) for one in samples]
                del hold
                with suppress(DeadlineExceeded, StoreClogged):  # by threads that read still
                    await world.load(*wanted, within=0.0005 * (number + 1))
                del wanted
            parts = world.actor._parts
            assert parts is not None
            admission = parts.gate._admission

            async def is_free() -> bool:
                alive = [one for one in held if one() is not None]
                return not alive and not admission._given_up_bytes

            await eventually(is_free, within=5, what="what was given up is free")
            loaded = await world.load(*map(target, samples))
            assert {one.outcome for one in loaded} == {LoadOutcome.LOADED}

    anyio.run(run)
