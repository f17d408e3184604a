"""The configuration of a router: where it listens, which engines it sends to, and its bounds.

    listen: 127.0.0.1:8000
    backends:
      - {name: p0, url: "http://127.0.0.1:8100", role: prefill, node: a}
      - {name: d0, url: "http://127.0.0.1:8200", role: decode, node: b}

Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from penstock.runtime.config import Config
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import TcpAddress, parse_address
from penstock.runtime.units import MIB, ByteSize, Seconds

Count = Annotated[int, msgspec.Meta(ge=1)]
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


class Role(enum.Enum):
    """What an engine does with a prompt."""

    MIXED = "mixed"  # all of it
    PREFILL = "prefill"  # computes it, and pushes its KV to the decode engine's node
    DECODE = "decode"  # generates from KV that was pushed to its node


class PushOrder(enum.Enum):
    """When the decode engine of a prompt hears of it."""

    PREFILL_FIRST = "prefill_first"  # when prefill has answered, with what it answered
    TOGETHER = "together"  # at once: it expects the push while prefill computes


class BackendConfig(Config, frozen=True):
    """One engine's HTTP server."""

    name: str  # unique; in logs and metrics
    url: str  # http://host:port or https://host:port, with a path if it has one before /v1
    role: Role = Role.MIXED
    node: str = ""  # id of its Penstock node; needed of prefill and decode

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} is not 1 to 63 of a-z, 0-9, . and -")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"url: {self.url!r} is not like http://host:8000")
        if self.role is not Role.MIXED and not self.node:
            raise ValueError(f"node: name the Penstock node of a {self.role.value} engine")


class RouterConfig(Config, frozen=True):
    """One router."""

    backends: tuple[BackendConfig, ...]
    listen: str = "127.0.0.1:8000"
    token_file: Path | None = None  # the bearer token asked of clients; first line of the file
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    push_order: PushOrder = PushOrder.PREFILL_FIRST
    body_max: ByteSize = ByteSize(16 * MIB)  # of a request; a larger one is refused with 413
    requests_max: Count = 1024  # under way at once; one more is refused with 503
    connect_within: Seconds = Seconds(2)
    silence_within: Seconds = Seconds(300)  # of an engine that says nothing, at its start or later
    attempts_max: Count = 3  # at different engines, as long as none has answered
    away_for: Seconds = Seconds(2)  # an engine that could not be reached is left alone so long
    names_max: Count = 65536  # parts of prompts remembered of each engine: 200 bytes each
    part_chars: Annotated[int, msgspec.Meta(ge=16, le=1 << 20)] = 1024  # of a prompt's text

    def __post_init__(self) -> None:
        names = [one.name for one in self.backends]
        if not names:
            raise ConfigError("backends", "name at least one engine")
        if len(set(names)) != len(names):
            raise ConfigError("backends", "two backends have one name")
        roles = {one.role for one in self.backends}
        if Role.PREFILL in roles and Role.DECODE not in roles:
            raise ConfigError("backends", "prefill engines push to decode engines: name some")
        if roles == {Role.DECODE}:
            raise ConfigError("backends", "nobody computes prompts: name prefill or mixed engines")
        for name in ("connect_within", "silence_within", "away_for"):
            if not 0.001 <= getattr(self, name) <= 86_400:
                raise ConfigError(name, "must be 1 ms to a day")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("tls_certificate", "goes together with tls_key")
        self._check_exposure()

    @property
    def address(self) -> TcpAddress:
        """Raises ConfigError."""
        try:
            address = parse_address(self.listen)
        except ConfigError as refusal:
            raise ConfigError("listen", refusal.problem) from None
        if not isinstance(address, TcpAddress):
            raise ConfigError("listen", f"{self.listen!r} is not host:port")
        return address

    def _check_exposure(self) -> None:
        """Raises ConfigError."""
        if self.address.is_loopback:
            return
        wanted = {"token_file": self.token_file, "tls_certificate with tls_key": self.tls_key}
        missing = [name for name, given in wanted.items() if given is None]
        if missing:
            raise ConfigError(
                "listen",
                f"{self.listen} can be reached from other machines, which needs"
                f" {' and '.join(missing)}: set them, or listen on 127.0.0.1",
            )
