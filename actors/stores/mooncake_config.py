"""How a store in a Mooncake pool is configured.

- name: pool
  type: mooncake
  master: 10.0.0.5:50051
  segment: 64GiB          # of this machine's memory, for the pool
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from penstock.actors.stores.config import StoreConfig, check_durations
from penstock.runtime.units import MIB, ByteSize, Seconds

PORT_MAX = 65535


class ProtocolName(enum.Enum):
    """How bytes travel between the machines of the pool."""

    TCP = "tcp"
    RDMA = "rdma"


class LibraryLog(enum.Enum):
    """What Mooncake itself writes to the standard error. It has no quieter level than errors."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    TRACE = "trace"


class MooncakeConfig(StoreConfig, frozen=True, kw_only=True, tag="mooncake"):
    """Objects in the memory of the machines of a Mooncake Store."""

    master: str  # host:port of mooncake_master
    metadata: str = "P2PHANDSHAKE"  # or http://host:port/metadata, etcd://host:port, redis://...
    protocol: ProtocolName = ProtocolName.TCP
    devices: str = ""  # of rdma: a comma list, such as mlx5_0,mlx5_1
    host: str = ""  # address others reach this machine by; empty: the one that reaches the master
    segment: ByteSize = ByteSize(0)  # memory this node adds to the pool; it goes when the node does
    replicas: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    prefix: Annotated[
        str,
        msgspec.Meta(pattern="^[!-~]{0,128}$", description="0 to 128 of ASCII, without spaces"),
    ] = "penstock/"  # of all names
    tenant: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = "default"  # of the pool's
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8  # batches under way at a time
    # Of these the first store of a process decides; the library asks once.
    connect_within: Seconds = Seconds(2)  # to the master
    rpc_within: Seconds = Seconds(3)  # one question to the master
    log: LibraryLog = LibraryLog.ERROR
    suspect_max: ByteSize = ByteSize(256 * MIB)  # kept for transfers that failed; then a new client
    close_within: Seconds = Seconds(10)  # calls that take longer are left behind

    @property
    def close_s_max(self) -> float:
        return self.close_within

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_shared()
        self.master_address()
        check_durations(self, "connect_within", "rpc_within", "close_within")
        if self.devices and self.protocol is ProtocolName.TCP:
            raise ValueError("devices are those of protocol: rdma")

    def master_address(self) -> tuple[str, int]:
        """Host and port. Raises ValueError."""
        host, _, port = self.master.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) <= PORT_MAX:
            raise ValueError(f"master must be written host:port, not {self.master!r}")
        return host, int(port)
