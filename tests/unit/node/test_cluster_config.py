"""How a node is told of its cluster: what would leave it open, or unable to link, is refused by the path of its key."""

from __future__ import annotations

import pytest

from penstock.actors.config import NodeConfig
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.membership_config import DnsConfig, EtcdConfig, StaticConfig

HERE = {"cluster.node_id": "a", "cluster.listen": "127.0.0.1:0"}
TLS = {f"cluster.tls_{name}": f"/pem/{name}" for name in ("certificate", "key", "ca")}


def test_every_address_of_a_machine_is_none_to_be_told_to_others() -> None:
    """Seen to fail: others dialled 0.0.0.0, which is themselves."""
    any_address = {**HERE, **TLS, "cluster.listen": "0.0.0.0:7700", "cluster.membership": ETCD}
    with pytest.raises(ConfigError, match=r"advertise is needed: 0\.0\.0\.0:7700"):
        load_config(NodeConfig, overrides=any_address)
    told = {**any_address, "cluster.advertise": "10.0.0.1:7700"}
    cluster = load_config(NodeConfig, overrides=told).cluster
    assert cluster is not None
    assert cluster.address == "10.0.0.1:7700"


def load(**given: object) -> NodeConfig:
    keys = {f"cluster.{key}": value for key, value in given.items()}
    return load_config(NodeConfig, overrides={**HERE, **keys})


def test_a_node_stands_alone_unless_it_is_told_otherwise() -> None:
    assert load_config(NodeConfig).cluster is None
    cluster = load().cluster
    assert cluster is not None
    assert (cluster.tls, cluster.address) == (None, "127.0.0.1:0")
    assert cluster.membership == StaticConfig()


def test_each_source_of_members_is_told_by_its_type() -> None:
    static = load(membership={"type": "static", "peers": [{"id": "b", "address": "b:7700"}]})
    assert static.cluster is not None
    assert isinstance(static.cluster.membership, StaticConfig)
    etcd = load(membership={"type": "etcd", "endpoints": ["127.0.0.1:2379"], "lease": "5s"})
    assert etcd.cluster is not None
    assert isinstance(etcd.cluster.membership, EtcdConfig)
    assert etcd.cluster.membership.lease == 5
    overrides = {**HERE, **TLS, "cluster.membership": {"type": "dns", "name": "n", "port": 7700}}
    dns = load_config(NodeConfig, overrides=overrides)
    assert dns.cluster is not None
    assert isinstance(dns.cluster.membership, DnsConfig)


def peers(*ids: str) -> dict[str, object]:
    return {"type": "static", "peers": [{"id": one, "address": "h:1"} for one in ids]}


ETCD = {"type": "etcd", "endpoints": ["127.0.0.1:2379"]}
REFUSED = [
    ({"node_id": ""}, "node_id must be 1 to 63"),
    ({"node_id": "A"}, "node_id must be 1 to 63"),
    ({"node_id": "a" * 64}, "node_id must be 1 to 63"),
    ({"node_id": "-a"}, "a letter or digit at both ends"),
    ({"listen": "unix:///run/p.sock"}, "is not host:port"),
    ({"listen": "0.0.0.0:7700"}, "needs tls_certificate, tls_key, tls_ca"),
    ({"listen": "node-a:7700"}, "penstock certs"),
    ({"advertise": "h:0"}, "needs a port"),
    ({"tls_key": "/k"}, "needs all three tls_ keys"),
    ({"heartbeat": "0s"}, "heartbeat must be 1 ms"),
    ({"dial_pause": "9s"}, "dial_pause must be at most dial_pause_max"),
    ({"message_max": "1KiB"}, "message_max must be 64KiB or more"),
    ({"membership": peers("b", "b")}, "two peers are called 'b'"),
    ({"membership": peers("B")}, "id must be 1 to 63"),
    ({"membership": {"type": "consul"}}, "is not one of static, etcd, dns"),
    ({"membership": {**ETCD, "endpoints": []}}, "at least one host:port"),
    ({"membership": {**ETCD, "endpoints": ["etcd:2379"]}}, "tls_ca is needed: etcd:2379"),
    ({"membership": {**ETCD, "lease": "2500ms"}}, "lease must be whole seconds"),
    ({"membership": {**ETCD, "lease": "1s"}}, "2 s or more"),
    ({"membership": {**ETCD, "user": "penstock"}}, "user and password_file go together"),
    ({"membership": {"type": "dns", "name": "n", "port": 7700}}, "needs the tls_ keys"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_cannot_be_a_cluster_is_refused(given: dict[str, object], said: str) -> None:
    """D4: a node that others can reach has certificates, or does not start.

    Seen to fail with the check of `listen` taken out.
    """
    with pytest.raises(ConfigError, match=said) as refused:
        load(**given)
    assert refused.value.path.startswith("cluster")
