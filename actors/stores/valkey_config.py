"""How a store on Valkey or Redis is configured.

- name: shared
  type: valkey
  addresses: [valkey-1:6379, valkey-2:6379]
  mode: cluster
  user: penstock
  password_file: /run/secrets/valkey
  tls_ca: /etc/ssl/valkey-ca.pem
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from penstock.actors.stores.config import StoreConfig, check_durations
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import Address, TcpAddress, UnixAddress, parse_address
from penstock.runtime.units import MIB, ByteSize, Seconds

PART_BYTES_MAX = 512 * MIB  # what a server takes as one value, unless it is told otherwise
TTL_S_MAX = 366 * 86_400

Database: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Connections: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=256)]
Prefix: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[!-z|~]{0,64}$", description="0 to 64 of ASCII, without spaces and braces"
    ),
]  # no braces, which place keys


def is_far(address: Address) -> bool:
    """Whether what is sent there leaves this machine."""
    return isinstance(address, TcpAddress) and not address.is_loopback


class Mode(enum.Enum):
    """How many servers share the keys."""

    STANDALONE = "standalone"
    CLUSTER = "cluster"


class TlsMode(enum.Enum):
    """Whether the connection is encrypted."""

    AUTO = "auto"  # if a tls_ file is given
    ON = "on"  # by the authorities that the system trusts
    OFF = "off"


class ValkeyConfig(StoreConfig, frozen=True, kw_only=True, tag="valkey"):
    """Objects as strings of a Valkey or Redis server, or of a cluster of them."""

    addresses: tuple[str, ...]  # host:port or unix:///path; of a cluster those that are asked first
    mode: Mode = Mode.STANDALONE
    database: Database = 0
    prefix: Prefix = "penstock:"  # of every key
    user: str = ""  # of the ACL; empty: the default user
    password_file: Path | None = None  # its first line
    password_env: str = "VALKEY_PASSWORD"  # read if there is no file; may be unset
    tls: TlsMode = TlsMode.AUTO
    tls_ca: Path | None = None  # PEM of the authority; none: the system's
    tls_certificate: Path | None = None  # PEM of this client's certificate
    tls_key: Path | None = None
    allow_clear: bool = False  # beyond this machine without TLS
    part_bytes: ByteSize = ByteSize(8 * MIB)  # a larger payload is split
    ttl: Seconds = Seconds(86_400)  # an object that is not saved again goes; 0: as the server likes
    connections_max: Connections = 4  # to each server
    connect_within: Seconds = Seconds(2)
    stall_within: Seconds = Seconds(5)  # a connection on which nothing moves is given up
    locate_within: Seconds = Seconds(0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_durations(self, "connect_within", "stall_within")
        if self.capacity:
            problem = "capacity: others write there too; set maxmemory of the server instead"
            raise ValueError(problem)
        self.check_shared()
        if not MIB <= self.part_bytes <= PART_BYTES_MAX:
            raise ValueError(f"part_bytes must be 1 to 512 MiB, not {self.part_bytes}")
        if self.ttl and not 1 <= self.ttl <= TTL_S_MAX:
            raise ValueError(f"ttl must be 0, or 1 s to 366 days, not {self.ttl:g} s")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together")
        if self.tls is TlsMode.OFF and self._tls_files:
            raise ValueError("tls is off, but a tls_ file is given")
        if self.mode is Mode.CLUSTER and self.database:
            raise ValueError("database: a cluster has only number 0")
        self._check_addresses()

    @property
    def is_tls(self) -> bool:
        return self.tls is TlsMode.ON or self._tls_files

    @property
    def _tls_files(self) -> bool:
        return self.tls_ca is not None or self.tls_certificate is not None

    def parsed(self) -> tuple[Address, ...]:
        """The addresses. Raises ValueError."""
        try:
            return tuple(map(parse_address, self.addresses))
        except ConfigError as error:
            raise ValueError(f"addresses: {error.problem}") from None

    def _check_addresses(self) -> None:
        if not self.addresses:
            raise ValueError("addresses must name a server, such as 127.0.0.1:6379")
        if self.mode is Mode.STANDALONE and len(self.addresses) > 1:
            raise ValueError("addresses: one server has one; write mode: cluster for several")
        for address in self.parsed():
            if self.is_tls and isinstance(address, UnixAddress):
                problem = (
                    "is a socket of this machine, which has no TLS: take tls and tls_ files away"
                )
                raise ValueError(f"addresses: {address.target()} {problem}")
            if is_far(address) and not self.is_tls and not self.allow_clear:
                problem = "is reached in the clear: set tls_ca or tls, or allow_clear"
                raise ValueError(f"addresses: {address.target()} {problem}")
