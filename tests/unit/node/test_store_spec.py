"""How long a store's actor is waited for, by the store's configuration."""

from __future__ import annotations

import pytest

from penstock.actors.api import store
from penstock.actors.node_stores import store_spec
from penstock.actors.stores.config import StoreConfig
from penstock.actors.stores.file_config import FileConfig
from penstock.actors.stores.mooncake_config import MooncakeConfig
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.runtime.ref import Ref
from penstock.runtime.units import ByteSize, Seconds

ROOM = ByteSize(1 << 20)
FILE = FileConfig(name="one", paths="/nowhere", capacity=ROOM)
NIXL = NixlConfig(name="one", path="/nowhere", capacity=ROOM, close_within=Seconds(90))
MOONCAKE = MooncakeConfig(name="one", master="localhost:1", close_within=Seconds(90))


@pytest.mark.parametrize(("config", "closes_within_s"), [(FILE, 0), (NIXL, 90), (MOONCAKE, 90)])
def test_a_store_is_left_behind_no_sooner_than_it_may_take_to_close(
    config: StoreConfig, closes_within_s: float
) -> None:
    """B1: what is under way there must not be cut short. Seen to fail with one bound for every store."""

    def make() -> store.StoreActor:
        raise AssertionError

    spec = store_spec(config, Ref.to(store.StoreActor, "store[one]", messages_max=1), make)
    assert spec.end_s == closes_within_s + 30
    assert spec.ready_within_s > config.open_within
