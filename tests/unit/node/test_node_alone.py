"""A node that stands alone pays nothing for what nodes are to each other."""

from __future__ import annotations

import json
import subprocess
import sys

from penstock.actors.api.control import Control
from penstock.actors.api.gateway import Gateway
from penstock.actors.api.l1 import L1Manager
from penstock.actors.api.prefetch import Prefetcher
from penstock.actors.api.types import Epoch
from penstock.actors.config import NodeConfig
from penstock.actors.node_cluster import Cluster, Surrounding, clustered
from penstock.actors.stores.memory import MemoryConfig
from penstock.actors.stores.peer_config import PeerStoreConfig
from penstock.runtime.config import load_config
from penstock.runtime.ref import Ref
from penstock.runtime.telemetry import Telemetry

HEAVY = (
    "penstock.actors.fleet",
    *("penstock.actors.peer", "penstock.actors.node_peers", "penstock.actors.node_pd"),
    *("penstock.actors.directory", "penstock.actors.stores.peer", "penstock.protos.peer"),
    *("penstock.runtime.peer", "penstock.runtime.grpc_channel", "penstock.runtime.native_channel"),
    *("penstock.runtime.certificates", "penstock.runtime.negotiation", "penstock.actors.router"),
)
RECORDS = {
    *("penstock.actors.peers_config", "penstock.actors.directory_config"),
    "penstock.actors.stores.peer_config",
}


def test_it_loads_nothing_of_it() -> None:
    """Only what says how it is configured, and what it is called."""
    script = "import penstock.actors.node, sys, json; print(json.dumps([*sys.modules]))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name for name in json.loads(ran.stdout) if name.startswith(HEAVY)}
    assert loaded <= RECORDS


def test_it_has_no_actor_of_it() -> None:
    manager = Ref.to(L1Manager, "l1_manager", messages_max=1)
    operator = Ref.to(Control, "control", messages_max=1)
    loads = Ref.to(Gateway, "gateway", messages_max=1), Ref.to(Prefetcher, "p", messages_max=1)
    cluster = Cluster(
        Surrounding(config(), Epoch(bytes(16)), Telemetry(), manager, operator), loads
    )
    assert (cluster.peers, cluster.directory, cluster.reach, cluster.pushes) == (None,) * 4
    assert cluster.fleet is None


def config(**given: object) -> NodeConfig:
    return load_config(NodeConfig, overrides=given)


CLUSTER = {"node_id": "a", "listen": "127.0.0.1:0"}
MEMORY = {"name": "memory", "type": "memory", "capacity": "1MiB"}


def test_one_of_several_has_a_store_of_what_peers_have_before_all_others() -> None:
    first, second = clustered(config(cluster=CLUSTER, stores=[MEMORY])).stores
    assert isinstance(first, PeerStoreConfig)
    assert isinstance(second, MemoryConfig)


def test_a_store_of_peers_that_is_listed_stays_where_it_is() -> None:
    listed = {"name": "others", "type": "peer", "write_back": True}
    stores = clustered(config(cluster=CLUSTER, stores=[MEMORY, listed])).stores
    assert [one.name for one in stores] == ["memory", "others"]
    assert clustered(config(stores=[MEMORY])).stores == config(stores=[MEMORY]).stores
