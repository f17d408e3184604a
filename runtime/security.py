"""Secrets that do not print, tokens that do not leak by timing, and which addresses may be served
in the clear.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from penstock.runtime.errors import ConfigError


class Secret:
    """A value that never shows itself: not in repr, str, format, logs or tracebacks of frozen
    records.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def matches(self, offered: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._value.encode(), offered.encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other.reveal())

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side.

    `ca` verifies the other side; without it a server asks no client certificate.
    """

    certificate: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def target(self) -> str:
        # gRPC reads what follows as part of a URI: a %, ? or # in it would mean something else.
        return f"unix:{quote(str(self.path))}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int  # 0: any free one

    def target(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name may resolve to anything


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """`unix:///path`, `unix:path`, `host:port`, `[::1]:port` or `tcp://host:port`.

    Raises ConfigError.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:").removeprefix("//"))
        if not path.name:
            raise ConfigError(
                "address", f"{text!r} names no socket file, as in unix:///run/penstock.sock"
            )
        if len(os.fsencode(path)) > 100:
            raise ConfigError(
                "address", f"{path} is too long for a Unix socket (100 bytes): shorten it"
            )
        return UnixAddress(path)
    host, separator, port = text.removeprefix("tcp://").rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            "address", f"{text!r} is no address: write unix:///path/to.sock or host:port"
        )
    return TcpAddress(host.strip("[]"), int(port))


def check_exposure(address: Address, *, tls: TlsFiles | None, tokens: object | None) -> None:
    """Refuse to serve beyond this machine in the clear or to anybody. `tokens`: what is asked for.

    Raises ConfigError.
    """
    if isinstance(address, UnixAddress) or address.is_loopback:
        return
    wanted = (("tls_certificate with tls_key", tls), ("token_file or identities", tokens))
    missing = [name for name, given in wanted if given is None]
    if missing:
        raise ConfigError(
            "gateway.listen",
            f"{address.target()} can be reached from other machines, which needs"
            f" {' and '.join(missing)}: set them, or listen on a Unix socket or on 127.0.0.1",
        )
