"""How a node is part of a cluster. A node without `cluster` stands alone, and pays nothing for this.

    cluster:
      node_id: a
      listen: 10.0.0.1:7700
      tls_certificate: /etc/penstock/a.pem
      tls_key: /etc/penstock/a.key
      tls_ca: /etc/penstock/ca.pem
      membership: {type: static, peers: [{id: b, address: 10.0.0.2:7700}]}

Durations are seconds, sizes bytes.
"""

from __future__ import annotations

from pathlib import Path

from penstock.actors.channels_config import ChannelsConfig
from penstock.actors.config_words import Count
from penstock.actors.directory_config import DirectoryConfig
from penstock.actors.pd_config import PdConfig
from penstock.actors.peers_config import PinsConfig, ReadsConfig
from penstock.runtime.config import Config
from penstock.runtime.membership_config import (
    AnyMembership,
    DnsConfig,
    EtcdConfig,
    StaticConfig,
    check_node_id,
    check_seconds,
    is_any,
    peer_address,
)
from penstock.runtime.security import TlsFiles
from penstock.runtime.units import KIB, MIB, ByteSize, Seconds


class ClusterConfig(Config, frozen=True):
    """This node among others."""

    node_id: str  # names this node to all others: its certificate's DNS name
    listen: str  # host:port of the service for peers
    advertise: str = ""  # host:port that others reach it at; empty: as listen
    tls_certificate: Path | None = None  # PEM; its DNS names contain node_id
    tls_key: Path | None = None
    tls_ca: Path | None = None  # peers' certificates are verified with it
    membership: AnyMembership = StaticConfig()
    operators: tuple[str, ...] = ()  # nodes that may evict, pin and set quotas here for an operator
    channels: ChannelsConfig = ChannelsConfig()
    directory: DirectoryConfig = DirectoryConfig()
    reads: ReadsConfig = ReadsConfig()
    pins: PinsConfig = PinsConfig()
    pd: PdConfig | None = None  # none: nothing is pushed to decode nodes, or taken in
    # Links: one is dialled to each member.
    dial_within: Seconds = Seconds(5)  # a dial, its handshakes included
    dial_pause: Seconds = Seconds(0.1)  # after a dial that failed; doubled for each next one
    dial_pause_max: Seconds = Seconds(5)
    heartbeat: Seconds = Seconds(1)
    heartbeats_missed_max: Count = 3  # then a link is lost
    links_max: Count = 1024  # each way
    # Of what peers may ask here. What is beyond is refused, or waits in the peer.
    connections_max: Count = 2048  # TCP connections at once; one more is closed
    handshake_within: Seconds = Seconds(5)  # for a connection to show a certificate
    calls_max: Count = 256  # of one peer at once; one more is refused
    calls_per_s_max: Count = 5000  # of one peer
    message_max: ByteSize = ByteSize(4 * MIB)  # one message; a larger one ends its call
    keepalive: Seconds = Seconds(10)  # probes of silent connections
    certificates_every: Seconds = Seconds(1)  # the files are looked at, at most so often
    stop_within: Seconds = Seconds(2)  # calls that are open when the node stops get this long

    def __post_init__(self) -> None:
        check_node_id("node_id", self.node_id)
        for one in self.operators:
            check_node_id("operators", one)
        listen = peer_address("listen", self.listen)
        if self.advertise and not peer_address("advertise", self.advertise).port:
            raise ValueError(f"advertise: {self.advertise!r} needs a port")
        files = {name: getattr(self, name) for name in ("tls_certificate", "tls_key", "tls_ca")}
        missing = [name for name, path in files.items() if path is None]
        if missing and len(missing) < len(files):
            raise ValueError(
                f"{' and '.join(missing)}: TLS between nodes needs all three tls_ keys"
            )
        if missing and not listen.is_loopback:
            raise ValueError(
                f"listen: {self.listen} can be reached from other machines, which needs"
                f" {', '.join(missing)}: set them (`penstock certs` makes some), or listen on 127.0.0.1"
            )
        if isinstance(self.membership, EtcdConfig) and not self.advertise and is_any(listen.host):
            raise ValueError(
                f"advertise is needed: {self.listen} is every address of this machine, and others are"
                " to be told one of them"
            )
        if missing and isinstance(self.membership, DnsConfig):
            raise ValueError(
                "membership: dns reads who is at an address from its certificate, and needs the tls_ keys"
            )
        check_seconds(
            self,
            *("dial_within", "dial_pause", "dial_pause_max", "heartbeat", "handshake_within"),
            *("keepalive", "certificates_every", "stop_within"),
        )
        if self.dial_pause > self.dial_pause_max:
            raise ValueError(
                f"dial_pause must be at most dial_pause_max, {self.dial_pause_max:g} s"
            )
        if not 64 * 1024 <= self.message_max < 1 << 31:
            raise ValueError("message_max must be 64KiB or more, below 2GiB")
        if self.message_max < self.channels.grpc.chunk + KIB:
            raise ValueError(
                f"message_max must be 1KiB more than channels.grpc.chunk, {self.channels.grpc.chunk}"
            )

    @property
    def tls(self) -> TlsFiles | None:
        """None: on loopback, in the clear."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_ca)

    @property
    def address(self) -> str:
        """That others reach this node at, where its port is not drawn."""
        return self.advertise or self.listen
