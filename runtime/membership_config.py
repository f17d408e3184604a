"""How the sources of members are configured; told apart by their `type`.

membership: {type: static, peers: [{id: b, address: 10.0.0.2:7700}]}
membership: {type: etcd, endpoints: [10.0.0.9:2379], tls_ca: /etc/penstock/etcd-ca.pem}
membership: {type: dns, name: penstock.default.svc.cluster.local, port: 7700}
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from penstock.runtime.config import Config
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import TcpAddress, parse_address
from penstock.runtime.units import Seconds

NODE_ID = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
NODE_ID_WORDS = "1 to 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends"

MembersMax: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65536)]


def check_node_id(key: str, node_id: str) -> None:
    """Raises ValueError."""
    if NODE_ID.fullmatch(node_id) is None:
        raise ValueError(f"{key} must be {NODE_ID_WORDS}, not {node_id!r}")


def peer_address(key: str, text: str) -> TcpAddress:
    """The address of a service for peers, which is TCP with a port. Raises ValueError."""
    try:
        address = parse_address(text)
    except ConfigError as refusal:
        raise ValueError(f"{key}: {refusal.problem}") from None
    if isinstance(address, TcpAddress):
        return address
    raise ValueError(f"{key}: {text!r} is not host:port")


def is_any(host: str) -> bool:
    """Whether it stands for every address of a machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def check_seconds(config: Config, *names: str) -> None:
    """Raises ValueError unless each of these fields of `config` is 1 ms to a day."""
    for name in names:
        seconds = getattr(config, name)
        if not 0.001 <= seconds <= 86_400:
            raise ValueError(f"{name} must be 1 ms to 86400 s, not {seconds:g} s")


class PeerConfig(Config, frozen=True):
    """One other node."""

    id: str
    address: str  # host:port

    def __post_init__(self) -> None:
        check_node_id("id", self.id)
        if not peer_address("address", self.address).port:
            raise ValueError(f"address: {self.address!r} needs a port")


class MembershipConfig(Config, frozen=True, tag_field="type"):
    """What all sources share."""

    members_max: MembersMax = 1024  # beyond, the last by their ids are left out, and it is told


class StaticConfig(MembershipConfig, frozen=True, kw_only=True, tag="static"):
    """A list. This node may stand in it, so that all nodes can be given the same one."""

    peers: tuple[PeerConfig, ...] = ()

    def __post_init__(self) -> None:
        ids = [one.id for one in self.peers]
        for position, one in enumerate(ids):
            if one in ids[:position]:
                raise ValueError(f"peers.{position}.id: two peers are called {one!r}")
        if len(ids) > self.members_max:
            raise ValueError(f"peers are {len(ids)}, more than members_max, {self.members_max}")


class EtcdConfig(MembershipConfig, frozen=True, kw_only=True, tag="etcd"):
    """Each node holds a lease in etcd, and watches the others."""

    endpoints: tuple[str, ...]  # host:port each; tried in turn
    prefix: str = "/penstock/"  # of the keys; each cluster needs one of its own
    lease: Seconds = Seconds(10)  # a node that is silent for so long is gone
    within: Seconds = Seconds(3)  # one question; then the next endpoint is tried
    retry: Seconds = Seconds(0.2)  # pause after a failure, doubled up to retry_max
    retry_max: Seconds = Seconds(5)
    user: str = ""
    password_file: Path | None = None  # first line of the file
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("endpoints must name at least one host:port")
        far = []
        for position, text in enumerate(self.endpoints):
            address = peer_address(f"endpoints.{position}", text)
            far += [] if address.is_loopback else [text]
        if not self.prefix or len(self.prefix) > 256:
            raise ValueError("prefix must be 1 to 256 characters")
        check_seconds(self, "lease", "within", "retry", "retry_max")
        if self.lease < 2 or not float(self.lease).is_integer():
            raise ValueError(f"lease must be whole seconds, 2 s or more, not {self.lease:g} s")
        if self.retry > self.retry_max:
            raise ValueError(f"retry must be at most retry_max, {self.retry_max:g} s")
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file go together")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_certificate is not None and self.tls_ca is None:
            raise ValueError("tls_certificate needs tls_ca, which etcd's own is verified with")
        if far and self.tls_ca is None:
            raise ValueError(
                f"tls_ca is needed: {far[0]} is another machine, and who can change what it says"
                " can name any node"
            )


class DnsConfig(MembershipConfig, frozen=True, kw_only=True, tag="dns"):
    """A name that resolves to the addresses of all nodes, as that of a headless service of Kubernetes does.

    Who is at an address is read from its certificate, so that this needs the cluster's TLS files.
    """

    name: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    every: Seconds = Seconds(5)  # the name is asked again
    within: Seconds = Seconds(3)  # one answer
    identify_within: Seconds = Seconds(3)  # one handshake, to read who is at an address
    identify_max: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8  # such handshakes at once
    identify_again: Seconds = Seconds(60)  # an address known is asked anew: pods give theirs on

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 253:
            raise ValueError("name must be a host name of 1 to 253 characters")
        check_seconds(self, "every", "within", "identify_within", "identify_again")


AnyMembership: TypeAlias = StaticConfig | EtcdConfig | DnsConfig
