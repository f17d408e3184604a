"""Where a configuration says that objects go is where its store keeps them."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support.raw_opening import config as raw_config
from support.raw_opening import opened

from penstock.actors.api.types import Epoch
from penstock.actors.stores.file import open_file_store
from penstock.actors.stores.file_config import FileConfig, Placement
from penstock.actors.stores.memory import MemoryConfig
from penstock.actors.stores.routing import routing_of
from penstock.actors.stores.store import Places, StoreContext
from penstock.runtime.units import MIB, ByteSize

NAMED = [(bytes([n]) * 32, device) for n in range(20) for device in range(5)]


def agree(store: Places, places: list[int], count: int) -> None:
    assert [store.place_of(key, device) for key, device in NAMED] == places
    assert {*places} == {*range(count)}


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("count", [1, 3])
def test_of_folders(tmp_path: Path, placement: Placement, count: int) -> None:
    config = FileConfig(
        name="tested",
        capacity=ByteSize(64 * MIB),
        paths=tuple(str(tmp_path / str(number)) for number in range(count)),
        placement=placement,
    )
    routing = routing_of(config)
    assert routing.places == count

    async def main() -> None:
        store = await open_file_store(config, StoreContext("tested", Epoch(bytes(16))))
        agree(store, [routing.place_of(*one) for one in NAMED], count)
        await store.aclose()

    anyio.run(main)


@pytest.mark.parametrize("by_rank", [True, False], ids=["by_rank", "by_key"])
def test_of_devices(tmp_path: Path, *, by_rank: bool) -> None:
    paths = [str(tmp_path / str(number)) for number in range(3)]
    given = {"per_rank_device_paths": dict(zip((4, 0, 2), paths, strict=True))}
    config = raw_config(**(given if by_rank else {"paths": tuple(paths)}))
    routing = routing_of(config)
    assert routing.places == 3

    async def main() -> None:
        store = await opened(config)
        agree(store, [routing.place_of(*one) for one in NAMED], 3)
        await store.aclose()

    anyio.run(main)


def test_of_what_is_one() -> None:
    config = MemoryConfig(name="tested", capacity=ByteSize(64 * MIB))
    assert routing_of(config).places == 1
    assert {routing_of(config).place_of(*one) for one in NAMED} == {0}
