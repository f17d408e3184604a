"""From a node's configuration to what its links to peers are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import anyio

from penstock.actors.api.directory import Directory
from penstock.actors.api.peers import LinkLimits, Peers, Reach, StreamHandler
from penstock.actors.api.types import Memory
from penstock.actors.channels_config import GrpcChannelConfig, NixlChannelConfig
from penstock.actors.cluster_config import ClusterConfig
from penstock.actors.core.link_words import Lives, Me, Pace
from penstock.actors.directory import Directory as DirectoryActor
from penstock.actors.l1_making import arena_bytes
from penstock.actors.peer_channels import PeerChannels
from penstock.actors.peer_dialling import DialTools
from penstock.actors.peer_metrics import LinkMetrics, ServedMetrics
from penstock.actors.peer_reads import PeerReads, ReadLimits
from penstock.actors.peer_served import Doors, ServedLinks, ServingLimits
from penstock.actors.peer_server import PeerServer
from penstock.actors.peer_services import PeerServices
from penstock.actors.peers import KeepLimits
from penstock.actors.peers import Peers as PeersActor
from penstock.actors.stores.digests import Digester
from penstock.runtime.certificates import Certificates
from penstock.runtime.channel import ChannelKind, Endpoint
from penstock.runtime.grpc_channel import GrpcEndpoint
from penstock.runtime.log import Log
from penstock.runtime.membership import Member
from penstock.runtime.membership_config import peer_address
from penstock.runtime.membership_opening import open_membership
from penstock.runtime.peer_transport import PeerDoor, PeerLimits, PeerListenSpec
from penstock.runtime.ref import Ref
from penstock.runtime.security import TcpAddress
from penstock.runtime.supervisor import ChildSpec
from penstock.runtime.tcp_options import TcpChannelOptions

if TYPE_CHECKING:
    from penstock.actors.node_cluster import Surrounding

RESTARTS_MAX = 10  # of one of them in a minute; beyond, the node stops
END_MARGIN_S = 30.0  # of the server's end beyond stop_within
WATCH_BEATS = 5  # heartbeats between two words of a directory that has nothing to tell
CONNECTIONS_BOUND = 65536  # of one TCP endpoint
SILENT_WATCHES = 3.0  # words missed, and it is asked anew


class PeerParts:
    """Of one node. Made once, for all lives of its actors."""

    def __init__(
        self,
        config: ClusterConfig,
        around: Surrounding,
        reach: Reach,
        memory: Memory,
    ) -> None:
        """Raises ConfigError."""
        self._config = config
        self._around = around
        self._directory = reach.directory
        self._peers = reach.peers
        self._memory = memory
        self._me = Me(config.node_id, around.epoch)
        self._lives = Lives(nodes_max=2 * config.links_max)
        self._certificates: Certificates | None = None
        arena = partial(memory.view, 0, arena_bytes(around.config))
        self._channels = PeerChannels(_endpoints(config, arena))
        self._served = self._links()

    def directory_child(self) -> ChildSpec[Directory]:
        config, around = self._config.directory, self._around
        return ChildSpec(
            self._directory,
            lambda: DirectoryActor(config, manager=around.manager, telemetry=around.telemetry),
            restarts_max=RESTARTS_MAX,
        )

    async def server_child(
        self, streams: Mapping[str, StreamHandler], bound: Callable[[PeerDoor], None]
    ) -> ChildSpec[PeerServer]:
        config, around = self._config, self._around
        if config.tls is not None:
            certificates = partial(
                Certificates, config.tls, config.node_id, every_s=config.certificates_every
            )
            self._certificates = await anyio.to_thread.run_sync(certificates)
        services = PeerServices(
            self._served,
            self._reads(),
            self._directory,
            streams=streams,
            ask_s=around.config.ask_within,
            watch_s=WATCH_BEATS * config.heartbeat,
        )
        address = peer_address("cluster.listen", config.listen)
        spec = PeerListenSpec(address, _limits(config), config.stop_within)
        return ChildSpec(
            Ref.to(PeerServer, "peer_server", messages_max=1),
            lambda: PeerServer(
                spec,
                [services],
                self._certificates,
                links=self._served,
                channels=self._channels,
                bound=bound,
            ),
            restarts_max=RESTARTS_MAX,
            end_s=config.stop_within + END_MARGIN_S,
        )

    def peers_child(self, me: Callable[[], Member]) -> ChildSpec[Peers]:
        config, around = self._config, self._around
        tools = DialTools(
            self._me,
            self._lives,
            self._certificates,
            _limits(config),
            self._channels,
            config.dial_within,
        )
        limits = KeepLimits(
            pause_s=config.dial_pause,
            pause_s_max=config.dial_pause_max,
            lasting_s=config.heartbeat * config.heartbeats_missed_max,
            watch_silent_s=SILENT_WATCHES * WATCH_BEATS * config.heartbeat,
            watch_retry_s=config.directory.retry,
            ask_s=around.config.ask_within,
        )
        metrics = LinkMetrics(around.telemetry)
        membership = partial(open_membership, config.membership, config.node_id, self._certificates)
        return ChildSpec(
            self._peers,
            lambda: PeersActor(
                membership,
                me,
                tools,
                self._served,
                self._directory,
                limits=limits,
                metrics=metrics,
                draw=random.random,
            ),
            restarts_max=RESTARTS_MAX,
        )

    def _reads(self) -> PeerReads:
        given, around = self._config.reads, self._around
        limits = ReadLimits(
            given.peer_max,
            given.objects_max,
            given.peer_bytes_max,
            given.bytes_max,
            given.within,
            around.config.ask_within,
        )
        metrics = ServedMetrics(around.telemetry)
        return PeerReads(around.manager, self._memory, limits, metrics, Digester(threads=1))

    def _links(self) -> ServedLinks:
        config, reads = self._config, self._config.reads
        limits = ServingLimits(
            config.links_max,
            config.dial_within,
            Pace(config.heartbeat, config.heartbeats_missed_max),
            LinkLimits(reads.peer_max, reads.objects_max, reads.peer_bytes_max, config.message_max),
        )
        channels = self._channels
        doors = Doors(channels.offered, channels.expect, channels.forget)
        metrics = ServedMetrics(self._around.telemetry)
        return ServedLinks(self._me, self._lives, limits, doors, metrics)


def _limits(config: ClusterConfig) -> PeerLimits:
    return PeerLimits(
        message_bytes_max=config.message_max,
        keepalive_s=config.keepalive,
        calls_max=config.calls_max,
        calls_per_s_max=config.calls_per_s_max,
        connections_max=config.connections_max,
        handshake_s=config.handshake_within,
    )


def _endpoints(config: ClusterConfig, arena: Callable[[], memoryview]) -> list[Endpoint]:
    """In the order in which this node likes them. Raises ConfigError, StartFailed."""
    address = peer_address("cluster.listen", config.listen)
    log = Log("channels")
    for kind in config.channels.withheld(address):
        log.warning(
            "channel_withheld",
            kind=kind.value,
            reason="it is plaintext beyond this machine: see cluster.channels.insecure_data_channel",
        )
    made: list[Endpoint] = []
    for kind in config.channels.offered(address):
        match kind:
            case ChannelKind.GRPC:
                made.append(_grpc(config.channels.grpc))
            case ChannelKind.TCP:
                made.append(_tcp(config, address))
            case ChannelKind.NIXL:
                made.append(_nixl(config.channels.nixl, arena()))
    return made


def _grpc(given: GrpcChannelConfig) -> Endpoint:
    return GrpcEndpoint(
        chunk_bytes=given.chunk,
        show_within_s=given.show_within,
        strangers_max=given.strangers_max,
    )


def _nixl(given: NixlChannelConfig, arena: memoryview) -> Endpoint:
    from penstock.runtime.nixl_agent import NixlOptions
    from penstock.runtime.nixl_channel import NixlEndpoint

    options = NixlOptions(
        plugin=given.plugin,
        parameters=given.parameters,
        transfers_max=given.transfers_max,
        look_busy=given.look_busy,
        look_idle=given.look_idle,
        close_within=given.close_within,
    )
    return NixlEndpoint(options, arena)


def _tcp(config: ClusterConfig, address: TcpAddress) -> Endpoint:
    from penstock.runtime.native_channel import TcpEndpoint

    return TcpEndpoint(tcp_options(config, address))


def tcp_options(config: ClusterConfig, address: TcpAddress) -> TcpChannelOptions:
    """Of a node that peers reach at `address`."""
    given = config.channels.tcp
    listen = peer_address("listen", given.listen) if given.listen else TcpAddress(address.host, 0)
    advertise = peer_address("advertise", given.advertise) if given.advertise else None
    if advertise is None and config.advertise:  # the same host, and the port of this channel
        advertise = TcpAddress(peer_address("advertise", config.advertise).host, 0)
    return TcpChannelOptions(
        listen=listen,
        advertise=advertise,
        streams=given.streams,
        threads=given.threads,
        connections_max=min(2 * config.links_max, CONNECTIONS_BOUND),
        expected_max=config.links_max,
        strangers_max=given.strangers_max,
        hello_within=given.hello_within,
        peer_timeout=given.peer_timeout,
        part_bytes=given.part,
        receive_bytes=given.receive,
        socket_buffer_bytes=given.socket_buffer,
        queued_pieces_max=given.queued_pieces_max,
        queued_bytes_max=given.queued_bytes_max,
        arrivals_max=given.arrivals_max,
        landings_max=given.landings_max,
        pieces_max=given.pieces_max,
    )
