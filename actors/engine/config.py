"""Every limit of an engine's client, with its unit and its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from numbers import Real
from pathlib import Path

from penstock.actors.engine.arguments import UINT32_MAX
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import Secret, UnixAddress, parse_address


class Start(Enum):
    """What `Client.connect` does when no node answers."""

    ATTACHED = "wait for a node, at most attach_within_s, then raise NodeAway"
    DETACHED = "begin without one: every request is a miss until a node answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """PEM files for TLS towards a node that is reached over TCP."""

    ca: Path | None = None  # verifies the node; None: the system's authorities
    certificate: Path | None = None  # what the client shows of itself, where the node asks for it
    key: Path | None = None  # its private key; both or neither

    def __post_init__(self) -> None:
        together = (self.certificate is None) == (self.key is None)
        _require(together, "tls", "certificate and key come together: give both or neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waiting between attempts to attach: none before the first, then growing, with jitter.

    Attempt n > 0 waits min(first_s * factor**(n - 1), max_s), less a random share of up to `jitter` of it. With
    the defaults a node that comes back is found again within half a second.
    """

    first_s: float = 0.02
    factor: float = 2.0
    max_s: float = 0.5
    jitter: float = 0.5  # 0 <= jitter < 1

    def __post_init__(self) -> None:
        _require(0 < self.max_s < math.inf, "backoff.max_s", "must be more than 0, and finite")
        _require(0 < self.first_s <= self.max_s, "backoff.first_s", "must be in (0, backoff.max_s]")
        _require(1 <= self.factor < math.inf, "backoff.factor", "must be at least 1, and finite")
        _require(0 <= self.jitter < 1, "backoff.jitter", "must be in [0, 1)")

    def wait_s(self, attempt: int, draw: float) -> float:
        """Seconds before attempt number `attempt`, counted from 0; `draw` is uniform in [0, 1)."""
        if attempt == 0:
            return 0.0
        # The exponent is bounded so that a node that is away for a week overflows nothing.
        full_s = min(self.first_s * self.factor ** min(attempt - 1, 64), self.max_s)
        return full_s * (1.0 - self.jitter * draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How a client reaches its node, and its bounds. Durations in seconds (_s) or milliseconds (_ms), sizes in bytes.

    Memory: outgoing_max * message_bytes_max, plus prompt_memory_bytes_max, plus one record for each ticket and lease
    the node allows, plus, of a BlockingClient, one future and its arguments for each of waiting_max.
    Raises ConfigError, which names the field.
    """

    address: str
    """`unix:///path/penstock.sock`, or `host:port` for a node reached over TCP (no shared memory there)."""
    token: Secret | None = None  # sent as `authorization: Bearer TOKEN`; asked for on TCP
    tls: ClientTls | None = None
    start: Start = Start.ATTACHED
    attach_within_s: float = 10.0  # how long Start.ATTACHED waits in all
    attempt_within_s: float = 2.0  # one attempt: connection, Hello, Welcome, arena
    backoff: Backoff = field(default_factory=Backoff)
    request_within_s: float = 1.0  # a request that says no `within`
    close_within_s: float = 1.0  # saying goodbye to the node at the end
    heartbeats_missed_max: int = (
        3  # silent intervals of heartbeat_ms after which the node counts as silent
    )
    inflight_max: int = 256  # requests unanswered at once; the node's own bound holds if lower
    outgoing_max: int = 1024  # requests waiting to be sent; beyond it, callers wait
    waiting_max: int = 4096  # futures of a BlockingClient not yet settled; one more is refused
    message_bytes_max: int = 16 << 20  # one reply
    prefault_threads: int = (
        1  # that enter the arena into this process's page table; 0: copies fault it in
    )
    copies_max: int = 2  # native copies at once, each in a thread of its own
    copy_threads: int = 1  # threads inside one native copy
    copy_bytes_max: int = (
        256 << 20
    )  # bytes of one native copy call; a longer one is cut, so giving up is prompt
    prompt_memory_bytes_max: int = (
        16 << 20
    )  # tokens and keys remembered to look up grown prompts by delta
    ready_within_s: float = 30.0  # how long `ticket.ready` waits for a final watermark
    ticket_ms: int = 0  # life of a ticket; 0: the node's default
    lease_ms: int = 0  # life of a lease; 0: the node's default
    load_ms: int = 0  # how long loads from the node's stores may take; 0: the node's default
    prefill_tokens_per_s: int = 0
    """How fast this engine computes what it misses; a load that would take longer is skipped. 0: never skip."""

    def __post_init__(self) -> None:
        parse_address(self.address)
        is_secret = self.token is None or isinstance(self.token, Secret)
        _require(is_secret, "token", "must be a Secret, so that nothing prints it")
        for name, kind in _NUMBERS.items():
            self._check_number(name, kind)
        _require(
            self.tls is None or not self.is_local,
            "tls",
            "is for host:port; a Unix socket has file permissions",
        )

    def _check_number(self, name: str, kind: object) -> None:
        value = getattr(self, name)
        if kind == "int":
            at_most = _AT_MOST.get(name)
            is_count = isinstance(value, int) and not isinstance(value, bool)
            bound = "" if at_most is None else f" of at most {at_most}"
            is_within = is_count and (at_most is None or value <= at_most)
            _require(is_within, name, f"must be an integer{bound}, not {value!r}")
        else:
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            is_time = is_number and math.isfinite(value)
            _require(is_time, name, f"must be seconds, and finite, not {value!r}")
        if name in _MAY_BE_0:
            _require(value >= 0, name, f"must not be negative, not {value}")
        else:
            _require(value > 0, name, f"must be more than 0, not {value}")

    @property
    def is_local(self) -> bool:
        """Whether the node is reached through a Unix socket, and so can share memory."""
        return isinstance(parse_address(self.address), UnixAddress)

    @property
    def target(self) -> str:
        """The address as gRPC writes it."""
        return parse_address(self.address).target()


_MAY_BE_0 = frozenset(
    {
        *("prompt_memory_bytes_max", "prefault_threads", "ticket_ms", "lease_ms", "load_ms"),
        "prefill_tokens_per_s",
    }
)
_AT_MOST = {
    **dict.fromkeys(("ticket_ms", "lease_ms", "load_ms", "prefill_tokens_per_s"), UINT32_MAX),
    "message_bytes_max": 2**31 - 1,  # gRPC's own
}
_NUMBERS = {one.name: one.type for one in fields(ClientConfig) if one.type in {"int", "float"}}


def _require(condition: object, path: str, problem: str) -> None:
    if not condition:
        raise ConfigError(path, problem)
