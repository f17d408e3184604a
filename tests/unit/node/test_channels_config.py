"""Which channels a node has, by its configuration, and what it refuses to configure."""

from __future__ import annotations

import asyncio

import pytest

from penstock.actors.channels_config import ChannelsConfig
from penstock.actors.cluster_config import ClusterConfig
from penstock.actors.node_peers import tcp_options
from penstock.runtime.channel import ChannelKind
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.native_channel import TcpEndpoint
from penstock.runtime.security import TcpAddress
from penstock.runtime.units import MIB

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
        ({"tcp.hello_within": 0}, "hello_within must be 1 ms"),
        ({"tcp.peer_timeout": 172800}, "peer_timeout must be 1 ms"),
        ({"tcp.part": "1KiB"}, "part must be 4096 bytes to 64MiB"),
        ({"tcp.receive": "65MiB"}, "receive must be"),
        ({"tcp.socket_buffer": "65MiB"}, "socket_buffer must be"),
        ({"tcp.queued_bytes_max": "1MiB"}, "queued_bytes_max must be at least part"),
        ({"tcp.queued_pieces_max": 0}, "queued_pieces_max"),
        ({"tcp.arrivals_max": 0}, "arrivals_max"),
        ({"tcp.landings_max": 0}, "landings_max"),
        ({"tcp.strangers_max": 4097}, "strangers_max"),
        ({"tcp.pieces_max": 65535}, "pieces_max"),
        ({"grpc.show_within": 0}, "show_within must be 1 ms"),
        ({"grpc.strangers_max": 0}, "strangers_max"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(**given)


@pytest.mark.parametrize("given", [{"reads.objects_max": 65537}, {"pd.part_objects": 65537}])
def test_a_landing_takes_all_that_one_read_or_push_can_have(given: dict[str, object]) -> None:
    """B11: by default, and by what may be configured; a piece too many would be refused, and waited for."""
    assert read().tcp.pieces_max == 65536
    with pytest.raises(ConfigError, match="objects"):
        load_config(ClusterConfig, overrides={"node_id": "a", "listen": "127.0.0.1:0", **given})


def test_what_is_configured_is_what_the_channels_are_made_with() -> None:
    """A node of many links has room for the data connections of all of them."""
    given = {
        "hello_within": 3,
        "peer_timeout": 4,
        "part": "1MiB",
        "receive": "2MiB",
        "socket_buffer": "3MiB",
        "queued_pieces_max": 5,
        "queued_bytes_max": "6MiB",
        "arrivals_max": 7,
        "landings_max": 8,
        "pieces_max": 65537,
    }
    config = load_config(
        ClusterConfig,
        overrides={
            "node_id": "a",
            "listen": "127.0.0.1:0",
            "links_max": 600,
            "channels": {"tcp": given, "grpc": {"show_within": 7, "strangers_max": 9}},
        },
    )
    options = tcp_options(config, LOOPBACK)
    assert (options.hello_within, options.peer_timeout) == (3, 4)
    assert (options.part_bytes, options.receive_bytes) == (MIB, 2 * MIB)
    assert (options.socket_buffer_bytes, options.queued_bytes_max) == (3 * MIB, 6 * MIB)
    assert (options.queued_pieces_max, options.arrivals_max) == (5, 7)
    assert (options.landings_max, options.pieces_max) == (8, 65537)
    assert (options.connections_max, options.expected_max) == (1200, 600)

    async def opened_and_closed() -> None:
        await TcpEndpoint(options).aclose()

    asyncio.run(opened_and_closed())


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
