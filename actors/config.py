"""The configuration of a node: every limit with its unit and a safe default. Durations are seconds, sizes bytes."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import msgspec

from penstock.actors.cluster_config import ClusterConfig
from penstock.actors.config_words import Count, PolicyName, TenantQuota, check_quotas
from penstock.actors.identity_config import IdentityConfig
from penstock.actors.stores.config import WritePolicy
from penstock.actors.stores.opening import AnyStoreConfig
from penstock.runtime.config import Config
from penstock.runtime.errors import ConfigError
from penstock.runtime.security import Address, TcpAddress, parse_address
from penstock.runtime.units import GIB, KIB, MIB, ByteSize, Seconds

PAGE_BYTES = 4 * KIB
WIRE_SECONDS_MAX = 4_000_000.0  # durations travel as milliseconds in 32 bits


def _parse(key: str, text: str) -> Address:
    try:
        return parse_address(text)
    except ConfigError as refusal:
        raise ConfigError(key, refusal.problem) from None


def _check_duration(name: str, seconds: float) -> None:
    if not 0.001 <= seconds <= WIRE_SECONDS_MAX:
        raise ValueError(f"{name} must be 1 ms to {WIRE_SECONDS_MAX:g} s, not {seconds:g} s")


class L1Mode(enum.Enum):
    """What host memory is for."""

    CACHE = "cache"
    STAGING = (
        "staging"  # a bounce buffer: what the stores have, or finally failed to take, leaves it
    )


class L1Config(Config, frozen=True):
    """Host memory."""

    bytes: ByteSize = ByteSize(4 * GIB)  # the arena; a multiple of 4 KiB
    policy: PolicyName = PolicyName.PROSPECT
    high_water: float = 0.95  # fraction of the arena taken at which eviction begins by itself
    low_water: float = 0.90  # and at which it stops
    evict_batch: ByteSize = ByteSize(256 * MIB)  # evicted in one step of the loop
    evict_batch_chunks: Count = 1024  # the same; whichever comes first
    mode: L1Mode = L1Mode.CACHE
    # staging: fraction of the arena for what is to be saved; loads have the rest
    staging_max: float = 0.5
    # A full L1 is shared: who takes less than 7/8 of what its weight gives it loses nothing to who takes more.
    fair_share: bool = True
    # To save a batch that must go now, for stores that want what leaves L1, and never more than half of the time of
    # whoever waits for the room; and one that could wait.
    save_urgent_within: Seconds = Seconds(0.5)
    save_relaxed_within: Seconds = Seconds(10)
    news_max: Count = 65536  # names of committed objects until the store writer takes them
    object_bytes_min: ByteSize = ByteSize(
        4 * KIB
    )  # objects are expected to be at least this large: bounds their number
    objects_max: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: as many as fit at object_bytes_min
    quarantine_max: float = 0.25  # fraction of the arena one dead or stalled engine may hold back
    leases_max: Count = 65536
    tickets_max: Count = 65536
    watches_max: Annotated[int, msgspec.Meta(ge=0)] = (
        64  # tickets followed while what they miss is being written
    )
    watched_chunks_max: Count = 8192  # of all their prompts: each commit looks at every one of them
    tenants_max: Count = 65536
    tenant_bytes_max: ByteSize = ByteSize(0)  # quota of a tenant not named in quotas; 0: none
    quotas: tuple[TenantQuota, ...] = ()
    memory_reserve: ByteSize = ByteSize(512 * MIB)  # left to the machine beside the arena
    memory_within: Seconds = Seconds(30)  # a starting node waits this long for memory, then refuses
    # 0: memory is backed when first written
    prefault_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1

    def __post_init__(self) -> None:
        if self.bytes < PAGE_BYTES or self.bytes % PAGE_BYTES:
            raise ValueError(
                f"bytes must be a multiple of {PAGE_BYTES} and not 0, not {self.bytes}"
            )
        if not 0 < self.low_water <= self.high_water <= 1:
            raise ValueError("needs 0 < low_water <= high_water <= 1")
        for name in ("save_urgent_within", "save_relaxed_within"):
            _check_duration(name, getattr(self, name))
        for name in ("quarantine_max", "staging_max"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1")
        if self.object_bytes_min < PAGE_BYTES:
            raise ValueError(f"object_bytes_min must be at least {PAGE_BYTES}")
        if not self.evict_batch:
            raise ValueError("evict_batch must not be 0")
        salts = [quota.salt for quota in self.quotas]
        if len(set(salts)) != len(salts):
            raise ValueError("quotas: one salt has two quotas")
        check_quotas(self.tenant_bytes_max, self.quotas, "bytes", self.bytes)

    def objects_bound(self) -> int:
        """How many objects the table has room for."""
        return self.objects_max or max(64, self.bytes // self.object_bytes_min)


class ListenConfig(Config, frozen=True):
    """Where engines reach the node."""

    address: str = ""  # unix:///path or host:port; empty: a socket in state_dir
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None  # client certificates are asked for and verified with it
    token_file: Path | None = (
        None  # a bearer token of TCP clients, which may do all; first line of the file
    )
    identities: tuple[IdentityConfig, ...] = ()  # tokens that may do less

    def __post_init__(self) -> None:
        if self.address:
            try:
                parse_address(self.address)
            except ConfigError as refusal:
                raise ValueError(f"address: {refusal.problem}") from None
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_ca needs tls_certificate and tls_key")
        names = [one.name for one in self.identities]
        if len(set(names)) != len(names):
            raise ValueError("identities: two have one name")


class GatewayConfig(Config, frozen=True):
    """The engine's service."""

    listen: tuple[ListenConfig, ...] = (ListenConfig(),)
    message_max: ByteSize = ByteSize(
        4 * MIB
    )  # one request; larger ones are refused, the stream lives on
    transport_message_max: ByteSize = ByteSize(5 * MIB)  # beyond this gRPC ends the call
    chunks_max: Count = 16384  # in one prompt
    objects_max: Count = (
        16384  # in one request; a session's chunks_max is at most this by its number of groups
    )
    inflight_max: Count = 256  # waiting requests of one session
    leases_max: Count = 4096  # of one session
    tickets_max: Count = 4096  # of one session
    lease: Seconds = Seconds(30)  # life of a lease or ticket that names none
    lease_max: Seconds = Seconds(600)
    deadline: Seconds = Seconds(5)  # of a request that names none
    deadline_max: Seconds = Seconds(120)
    heartbeat: Seconds = Seconds(1)
    stall: Seconds = Seconds(10)  # a client that reads nothing for this long loses its stream
    hello_within: Seconds = Seconds(5)
    outgoing_max: Count = 1024  # replies waiting on one stream
    outgoing_bytes: ByteSize = ByteSize(4 * MIB)  # of them together; beyond, nothing more is read
    streams_max: Count = 4096  # sessions, attached or not yet
    # Other calls under way at once, on all addresses. Each kind has places of its own, so that no flood of one shuts
    # out another; one more is refused.
    unary_max: Count = 64  # Lookup and Stat, by tools and routers
    probes_max: Count = 64  # Engine.Health, and checks by the standard health service
    watches_max: Count = 64  # watches of the standard health service
    reflections_max: Count = 16  # each until its client has been silent for hello_within
    refusals_max: Count = 64  # on one connection, beyond all of these: more wait in the client
    kept_prompts: ByteSize = ByteSize(1 * MIB)  # keys remembered per session for deltas
    keepalive: Seconds = Seconds(20)
    stop_within: Seconds = Seconds(2)  # streams that are open when the node stops get this long

    def __post_init__(self) -> None:
        if not self.listen:
            raise ValueError("listen must name an address, or be left out")
        if not 0 < self.message_max <= self.transport_message_max < 1 << 31:
            raise ValueError("needs 0 < message_max <= transport_message_max < 2GiB")
        for name in ("heartbeat", "stall", "hello_within", "keepalive", "stop_within"):
            _check_duration(name, getattr(self, name))
        for name in ("lease", "deadline"):
            given, bound = getattr(self, name), getattr(self, f"{name}_max")
            _check_duration(f"{name}_max", bound)
            _check_duration(name, given)
            if given > bound:
                raise ValueError(f"{name} must be at most {name}_max, {bound:g} s")


WAITING_BOUND = (
    768  # of what the control actor is asked at a time; the rest is for those who never wait
)


class ControlConfig(Config, frozen=True):
    """The operators' service."""

    calls_max: Count = 64  # at once, on all addresses
    waiting_max: Count = 32  # drains and purges among them

    def __post_init__(self) -> None:
        if not self.waiting_max <= WAITING_BOUND:
            raise ValueError(f"waiting_max must be 1 to {WAITING_BOUND}, not {self.waiting_max}")
        if not self.waiting_max < self.calls_max:
            raise ValueError(
                "waiting_max must be below calls_max, or those who wait would leave others no place"
            )


class SessionsConfig(Config, frozen=True):
    """Attached processes."""

    sessions_max: Count = 4096  # attached and lost, all engines
    namespaces_max: Count = 1024
    secret_within: Seconds = Seconds(5)  # at the arena socket

    def __post_init__(self) -> None:
        _check_duration("secret_within", self.secret_within)


class PrefetchConfig(Config, frozen=True):
    """Loads from the stores into L1. Without stores there are none."""

    tickets_max: Count = 256  # prompts loaded at once; one beyond that is final at what L1 has
    chunks_max: Count = (
        65536  # of all their prompts together: each commit looks at every one of them
    )
    inflight: ByteSize = ByteSize(1 * GIB)  # being loaded at once
    batch: ByteSize = ByteSize(32 * MIB)  # of the largest load; the first of a prompt is one chunk
    slice_chunks: Count = (
        64  # of a prompt asked of the stores at first; each next slice is twice as long
    )
    load_within: Seconds = Seconds(10)  # loads of a lookup that names no time
    room_within: Seconds = Seconds(
        1
    )  # making room for a prompt; then a shorter part of it is loaded
    probe_every: Seconds = Seconds(10)  # a store that computing beats is measured so often
    head_start: Seconds = Seconds(0.05)  # of a prompt's first load before its others, at most
    plan_chunks: Count = 512  # of a prompt planned in one step of the loop: two milliseconds
    surveys_max: Count = 2  # L1 is looked at again, when something that it had has gone
    at_hand: ByteSize = ByteSize(128 * KIB)  # brought in the step of a lookup; 0B: nothing is
    at_hand_objects: Count = 16  # the same

    def __post_init__(self) -> None:
        for name in ("load_within", "room_within", "probe_every", "head_start"):
            _check_duration(name, getattr(self, name))
        if not self.batch or not self.inflight:
            raise ValueError("batch and inflight must not be 0")


WAITERS_BOUND = 768  # of what the store writer is asked at a time; the rest is for those who save


class WriterConfig(Config, frozen=True):
    """Saves from L1 to the stores. Without stores there are none."""

    inflight_bytes_max: ByteSize = ByteSize(
        1 * GIB
    )  # of L1, held by saves under way; each store that is written has an equal part
    batch: ByteSize = ByteSize(64 * MIB)  # of one save
    batch_objects: Count = 256  # the same; whichever comes first
    queued_objects_max: Count = 65536  # waiting for one store; one more is given up
    remembered_objects_max: Count = 65536  # whose outcome can still be asked for
    waited_objects_max: Count = 65536  # by all who wait for outcomes
    waiters_max: Count = 512  # who wait for them
    hits_max: Count = 65536  # chunks remembered that were hit once, for write: on_second_hit
    save_within: Seconds = Seconds(120)  # one save, its turn at the store included
    # What a store could not take is tried again, up to so much of it and so long since it failed first; then it has
    # finally failed. Until then staging keeps it.
    retry_objects_max: Count = 65536  # of one store
    retry_bytes_max: ByteSize = ByteSize(1 * GIB)  # of L1, of one store
    retry_within: Seconds = Seconds(600)
    retry_pause: Seconds = Seconds(0.5)  # before the first try; doubled for each next one
    retry_pause_max: Seconds = Seconds(30)

    def __post_init__(self) -> None:
        for name in ("save_within", "retry_within", "retry_pause", "retry_pause_max"):
            _check_duration(name, getattr(self, name))
        if self.retry_pause > self.retry_pause_max:
            raise ValueError(
                f"retry_pause must be at most retry_pause_max, {self.retry_pause_max:g} s"
            )
        if not 0 < self.waiters_max <= WAITERS_BOUND:
            raise ValueError(f"waiters_max must be 1 to {WAITERS_BOUND}")
        if not self.batch or not self.inflight_bytes_max:
            raise ValueError("batch and inflight_bytes_max must not be 0")


class NodeConfig(Config, frozen=True):
    """One node. `chunk_tokens` is rounded up to a multiple of every group's block size."""

    state_dir: Path = Path(f"/tmp/penstock-{os.getuid()}")
    chunk_tokens: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    l1: L1Config = L1Config()
    gateway: GatewayConfig = GatewayConfig()
    control: ControlConfig = ControlConfig()
    sessions: SessionsConfig = SessionsConfig()
    prefetch: PrefetchConfig = PrefetchConfig()
    writer: WriterConfig = WriterConfig()
    stores: tuple[AnyStoreConfig, ...] = ()  # tiers below L1, in this order; see stores/config.py
    cluster: ClusterConfig | None = None  # none: this node stands alone
    mailbox_max: Count = 8192  # messages waiting for one actor
    ask_within: Seconds = Seconds(5)  # between actors
    drain: Seconds = Seconds(30)  # how long a drain waits that names no time
    drain_max: Seconds = Seconds(3600)  # and one that names it, at most
    metrics_address: str = (
        ""  # host:port of an HTTP /metrics endpoint; empty: none (see `penstock status`)
    )
    metrics_connections_max: Count = 16  # met there at once; others wait unaccepted
    metrics_within: Seconds = Seconds(5)  # a request there and its answer

    def __post_init__(self) -> None:
        # Engines are told of it, whose working directory is another.
        msgspec.structs.force_setattr(self, "state_dir", self.state_dir.absolute())
        # Here the path is told by us: of the outermost record msgspec tells none.
        for key in ("ask_within", "metrics_within"):
            try:
                _check_duration(key, getattr(self, key))
            except ValueError as problem:
                raise ConfigError(key, str(problem)) from None
        names = [store.name for store in self.stores]
        for position, name in enumerate(names):
            if name in names[:position]:
                raise ConfigError(f"stores.{position}.name", f"two stores are called {name!r}")
        if self.l1.mode is L1Mode.STAGING and not self.stores:
            raise ConfigError("l1.mode", "staging keeps nothing in L1: name stores that do")
        self._check_saving_down()
        if not self.drain <= self.drain_max:
            raise ConfigError("drain", f"must be at most drain_max, {self.drain_max:g} s")
        if self.metrics_address:
            address = _parse("metrics_address", self.metrics_address)
            if not isinstance(address, TcpAddress):
                raise ConfigError("metrics_address", f"{self.metrics_address!r} is not host:port")
            if not address.is_loopback:
                raise ConfigError(
                    "metrics_address",
                    f"{address.target()} can be reached from other machines, and the endpoint asks for"
                    " no token: listen on 127.0.0.1, or read `penstock status --metrics`",
                )

    def _check_saving_down(self) -> None:
        """Raises ConfigError."""
        urgent_s, room_s = self.l1.save_urgent_within, self.prefetch.room_within
        if urgent_s >= room_s and any(one.write is WritePolicy.ON_EVICT for one in self.stores):
            raise ConfigError(
                "l1.save_urgent_within",
                f"must be below prefetch.room_within, {room_s:g} s, not {urgent_s:g} s: a store that"
                f" hangs would leave loads from the others no time; set it to at most {room_s / 2:g}s,"
                " or raise prefetch.room_within",
            )
