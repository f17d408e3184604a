"""Which channels a node has, by its configuration, and what it refuses to configure."""

from __future__ import annotations

import pytest

from penstock.actors.channels_config import ChannelsConfig
from penstock.actors.cluster_config import ClusterConfig
from penstock.runtime.channel import ChannelKind
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import TcpAddress

LOOPBACK, BEYOND = TcpAddress("127.0.0.1", 7400), TcpAddress("10.0.0.1", 7400)
TCP, GRPC, NIXL = ChannelKind.TCP, ChannelKind.GRPC, ChannelKind.NIXL


def read(**given: object) -> ChannelsConfig:
    return load_config(ChannelsConfig, overrides=given)


def test_on_loopback_a_node_has_what_is_configured_in_this_order() -> None:
    assert read().offered(LOOPBACK) == (TCP, GRPC)
    assert read(kinds=["nixl", "grpc", "tcp"]).offered(LOOPBACK) == (NIXL, GRPC, TCP)


def test_beyond_loopback_what_can_be_read_on_the_way_is_left_out() -> None:
    """D1: plaintext leaves the machine only where the operator said so."""
    config = read(kinds=["nixl", "tcp", "grpc"])
    assert config.offered(BEYOND) == (GRPC,)
    assert config.withheld(BEYOND) == (NIXL, TCP)
    assert config.offered(TcpAddress("node.example", 7400)) == (GRPC,)  # may resolve to anything


def test_tcp_that_listens_elsewhere_is_beyond_loopback_by_itself() -> None:
    """D1: a node on loopback does not open a port in plaintext to others."""
    config = read(**{"tcp.listen": "10.0.0.1:7402"})
    assert config.offered(LOOPBACK) == (GRPC,)
    assert read(**{"tcp.listen": "127.0.0.1:7402"}).offered(LOOPBACK) == (TCP, GRPC)
    assert read(**{"tcp.listen": "127.0.0.1:7402"}).offered(BEYOND) == (GRPC,)


def test_an_operator_may_say_that_the_network_is_his_own() -> None:
    config = read(kinds=["nixl", "tcp"], insecure_data_channel=True)
    assert config.offered(BEYOND) == (NIXL, TCP)
    assert config.withheld(BEYOND) == ()


def test_a_node_that_would_have_no_channel_left_is_refused() -> None:
    """D1"""
    with pytest.raises(ConfigError, match="insecure_data_channel") as refused:
        read(kinds=["tcp", "nixl"]).offered(BEYOND)
    assert refused.value.path == "cluster.channels.kinds"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"kinds": []}, "name at least one"),
        ({"kinds": ["tcp", "tcp"]}, "at most once"),
        ({"kinds": ["udp"]}, "udp"),
        ({"tcp.listen": "unix:///tmp/socket"}, "listen"),
        ({"tcp.advertise": "10.0.0.1:0"}, "needs a port"),
        ({"tcp.streams": 0}, "streams"),
        ({"grpc.chunk": "8MiB"}, "4KiB to 2MiB"),
        ({"nixl.look_idle": "1ms", "nixl.look_busy": "2ms"}, "look_busy <= look_idle"),
        ({"nixl.plugin": "ucx"}, "plugin"),
        ({"nixl.close_within": 0}, "close_within"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(**given)


def test_a_message_of_the_grpc_channel_must_fit_what_peers_may_send() -> None:
    """Else each large object would end the call that carries it."""
    given = {"node_id": "a", "listen": "127.0.0.1:0", "message_max": "1MiB"}
    with pytest.raises(ConfigError, match="message_max must be 1KiB more"):
        load_config(ClusterConfig, overrides=given)
    load_config(ClusterConfig, overrides={**given, "channels.grpc.chunk": "512KiB"})


def test_parameters_of_a_plugin_are_not_printed() -> None:
    """D6: they may hold credentials."""
    config = read(**{"nixl.parameters": {"key": "hunter2"}})
    assert "hunter2" not in repr(config)
