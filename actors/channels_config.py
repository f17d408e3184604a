"""How bytes of objects travel between nodes. See docs/CHANNELS.md.

cluster:
  channels:
    kinds: [tcp, grpc]
    insecure_data_channel: true
    tcp: {listen: 10.0.0.1:7402, streams: 2}
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from penstock.runtime.channel import ChannelKind
from penstock.runtime.config import Config
from penstock.runtime.errors import ConfigError
from penstock.runtime.membership_config import check_seconds, peer_address
from penstock.runtime.security import TcpAddress
from penstock.runtime.units import KIB, MIB, ByteSize, Seconds

BOUND = 1 << 20
READ_OBJECTS_BOUND = 65536  # what cluster.reads.objects_max and cluster.pd.part_objects may be
PLAINTEXT = frozenset({ChannelKind.TCP, ChannelKind.NIXL})  # what they carry can be read on the way


class TcpChannelConfig(Config, frozen=True):
    """The native channel: plain TCP, straight into the memory that was granted."""

    # host:port; empty: the host of cluster.listen, and any free port
    listen: str = ""
    advertise: str = ""  # host:port, as others reach it; empty: where it listens
    streams: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1  # of one connection, side by side
    threads: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1  # that move the bytes of all of them
    # accepted, and not yet known; one more turns the oldest away
    strangers_max: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    hello_within: Seconds = Seconds(2)  # a stranger has so long to show who it is
    peer_timeout: Seconds = Seconds(10)  # bytes, or probes of an idle peer, unanswered: it is lost
    part: ByteSize = ByteSize(4 * MIB)  # sends and streams take turns after so much of a piece
    receive: ByteSize = ByteSize(4 * MIB)  # read at a time; closing a landing waits for one of them
    socket_buffer: ByteSize = ByteSize(0)  # of each direction; 0: as the system tunes it
    # handed to one connection and not sent yet; what is more waits, but for one piece alone
    queued_pieces_max: Annotated[int, msgspec.Meta(ge=1, le=BOUND)] = 4096
    queued_bytes_max: ByteSize = ByteSize(256 * MIB)
    # whole pieces that the event loop has not heard of yet; then peers wait
    arrivals_max: Annotated[int, msgspec.Meta(ge=1, le=BOUND)] = 65536
    landings_max: Annotated[int, msgspec.Meta(ge=1, le=BOUND)] = 4096  # open, of a connection
    # of one landing, some 60 bytes each while it is open; never less than a read may ask for
    pieces_max: Annotated[int, msgspec.Meta(ge=READ_OBJECTS_BOUND, le=BOUND)] = READ_OBJECTS_BOUND

    def __post_init__(self) -> None:
        check_seconds(self, "hello_within", "peer_timeout")
        for name, least in (("part", 4 * KIB), ("receive", 4 * KIB), ("socket_buffer", 0)):
            if not least <= getattr(self, name) <= 64 * MIB:
                raise ValueError(
                    f"{name} must be {least} bytes to 64MiB, not {getattr(self, name)}"
                )
        if self.queued_bytes_max < self.part:
            raise ValueError(f"queued_bytes_max must be at least part, {self.part}")
        if self.listen:
            peer_address("listen", self.listen)
        if self.advertise and not peer_address("advertise", self.advertise).port:
            raise ValueError(f"advertise: {self.advertise!r} needs a port")


class GrpcChannelConfig(Config, frozen=True):
    """A stream beside the control stream, with its encryption: works wherever nodes reach each other."""

    # of one message: more cost less for each byte, and hold up the loop for longer
    chunk: ByteSize = ByteSize(MIB)
    show_within: Seconds = Seconds(5)  # a stream has so long to show whose it is
    # streams that have not shown that yet; one more is refused
    strangers_max: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64

    def __post_init__(self) -> None:
        check_seconds(self, "show_within")
        if not 4 * KIB <= self.chunk <= 2 * MIB:
            raise ValueError(f"chunk must be 4KiB to 2MiB, not {self.chunk}")


class NixlChannelConfig(Config, frozen=True):
    """The network plugins of NIXL: RDMA where there is such a network. Needs the extra `nixl`."""

    plugin: Annotated[
        str,
        msgspec.Meta(
            pattern="^[A-Z0-9_]{1,32}$", description="a name of NIXL's, such as UCX or LIBFABRIC"
        ),
    ] = "UCX"
    parameters: dict[str, str] = msgspec.field(default_factory=dict)  # of the plugin
    transfers_max: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64  # under way at a time
    # A look at transfers and at news comes at least so often: often where much is moved, seldom where nothing is.
    look_busy: Seconds = Seconds(0.0002)
    look_idle: Seconds = Seconds(0.05)
    close_within: Seconds = Seconds(5)  # a peer that does not say that it writes no more is cut off

    def __post_init__(self) -> None:
        if not 0 < self.look_busy <= self.look_idle <= 1:
            raise ValueError("needs 0 < look_busy <= look_idle <= 1s")
        if not 0.001 <= self.close_within <= 600:
            raise ValueError(f"close_within must be 1ms to 10m, not {self.close_within:g} s")

    def __repr__(self) -> str:
        return f"NixlChannelConfig(plugin={self.plugin!r}, parameters=***)"


class ChannelsConfig(Config, frozen=True):
    """Which kinds of data channel this node has, the one it likes best first, and their bounds."""

    kinds: tuple[ChannelKind, ...] = (ChannelKind.TCP, ChannelKind.GRPC)
    # Beyond loopback, tcp and nixl are offered only with this: whoever is on the way can read what they carry.
    insecure_data_channel: bool = False
    tcp: TcpChannelConfig = TcpChannelConfig()
    grpc: GrpcChannelConfig = GrpcChannelConfig()
    nixl: NixlChannelConfig = NixlChannelConfig()

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("kinds: name at least one of tcp, grpc, nixl")
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("kinds: each at most once")

    def offered(self, listen: TcpAddress) -> tuple[ChannelKind, ...]:
        """What a node whose peers reach it at `listen` has of these, in their order.

        Raises ConfigError when nothing is left.
        """
        if self.insecure_data_channel:
            return self.kinds
        private = tuple(kind for kind in self.kinds if self._is_private(kind, listen))
        if not private:
            given = ", ".join(kind.value for kind in self.kinds)
            raise ConfigError(
                "cluster.channels.kinds",
                f"{given} would carry prompts' caches in plaintext beyond this machine: add grpc,"
                " which has the encryption of the control stream, or, on a network of your own,"
                " set insecure_data_channel",
            )
        return private

    def _is_private(self, kind: ChannelKind, listen: TcpAddress) -> bool:
        """Whether nobody else can read it on its way."""
        if kind not in PLAINTEXT:
            return True
        if kind is ChannelKind.TCP and self.tcp.listen:
            return listen.is_loopback and peer_address("listen", self.tcp.listen).is_loopback
        return listen.is_loopback

    def withheld(self, listen: TcpAddress) -> tuple[ChannelKind, ...]:
        """What is configured and not `offered`, to be said once at start."""
        offered = self.offered(listen)
        return tuple(kind for kind in self.kinds if kind not in offered)
