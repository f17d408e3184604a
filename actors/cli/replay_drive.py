"""Driving a node with a trace: one block of the trace is one chunk, stored for real.

Every request is looked up, then what it missed is reserved, written and committed, then its ticket is
given up; the next one begins after that, so that the same trace gives the same hits. A block's key
is H(scope || id): in these traces an equal id means an equal block after an equal prefix already.
"""

from __future__ import annotations

import enum
import hashlib
import math
import os
import time
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import anyio

from penstock.actors.cli.progress import Progress
from penstock.actors.cli.replay_node import ServedNode
from penstock.actors.cli.traces import TraceRequest
from penstock.actors.core.namespace import Attention, Group, GroupShard, config_digest
from penstock.actors.engine.client import Client
from penstock.actors.engine.layout import RawTensor, opaque_layout
from penstock.actors.engine.spec import EngineSpec, GroupSpec, new_engine_instance
from penstock.runtime.errors import CallerError, UnavailableError

PAGE_BYTES = 4096
OBJECT_BYTES_MAX = 256 * 1024 * 1024
CHUNK_TOKENS = 1  # a block of the trace stands for itself, whatever its tokens were


class Speed(enum.Enum):
    """When a request is sent."""

    MAX = "max"  # as soon as the one before it is done
    REAL = "real"  # not before its time in the trace


class ReplayBroken(UnavailableError):
    """Theirs: the node was away, late or refused, so the counts would not be the trace's."""


@dataclass(frozen=True, slots=True)
class TraceSize:
    """What must be known before the node is started."""

    requests: int
    blocks_of_one_max: int  # in one request
    blocks_different: int


@dataclass(slots=True)
class Counts:
    """What the replay has seen so far."""

    requests: int = 0
    blocks: int = 0
    hit_blocks: int = 0  # of the unbroken prefix
    stored_blocks: int = 0
    refused_blocks: int = 0  # no room even after eviction: the prompt is larger than the cache
    lookup_us: array[float] = field(default_factory=lambda: array("d"))

    @property
    def hit_rate(self) -> float:
        return self.hit_blocks / self.blocks if self.blocks else 0.0

    def lookup_us_at(self, percent: float) -> float:
        """The nearest-rank percentile; 0 when nothing was looked up."""
        if not self.lookup_us:
            return 0.0
        rank = math.ceil(len(self.lookup_us) * percent / 100)
        return sorted(self.lookup_us)[rank - 1]


def measure(requests: Iterable[TraceRequest]) -> TraceSize:
    """Read a trace to its end. What cannot be read is found before anything is started."""
    different: set[tuple[str, int]] = set()
    count = largest = 0
    for request in requests:
        count += 1
        largest = max(largest, len(request.blocks))
        different.update((request.scope, block) for block in request.blocks)
    return TraceSize(count, largest, len(different))


def block_keys(request: TraceRequest) -> bytes:
    """The packed keys of a request's blocks."""
    scope = hashlib.sha256(request.scope.encode())
    keys = []
    for block in request.blocks:
        key = scope.copy()
        key.update(b"\0%d" % block)
        keys.append(key.digest())
    return b"".join(keys)


class Blocks:
    """What stands in for a model: one block of random bytes, which is stored for every block."""

    def __init__(self, object_bytes: int) -> None:
        """Raises CallerError for a size that is no multiple of 4 KiB, or beyond 256 MiB."""
        if not PAGE_BYTES <= object_bytes <= OBJECT_BYTES_MAX or object_bytes % PAGE_BYTES:
            raise CallerError(
                f"--object-bytes: {object_bytes} is no multiple of 4KiB from 4KiB to 256MiB"
            )
        self.object_bytes = object_bytes
        self._content = array("Q", os.urandom(object_bytes))
        memory = RawTensor(
            address=self._content.buffer_info()[0],
            shape=(1, object_bytes),
            strides_bytes=(object_bytes, 1),
            element_bytes=1,
        )
        self.layout = opaque_layout([memory])

    def spec(self) -> EngineSpec:
        """The model that has such blocks."""
        group = Group(
            layer_names=("replay",),
            attention=Attention.FULL,
            window_tokens=0,
            kv_heads=self.object_bytes // PAGE_BYTES,
            head_size=PAGE_BYTES,
            components=1,
            dtype="uint8",
            shards=(GroupShard(token_bytes=self.object_bytes, state_bytes=0, runs=1),),
        )
        return EngineSpec(
            weights=f"replay:{hashlib.sha256(b'penstock replay').hexdigest()}",
            model_config_digest=config_digest({"object_bytes": self.object_bytes}),
            groups=(GroupSpec("blocks", CHUNK_TOKENS, group),),
            engine_instance=new_engine_instance(),
            client="replay",
            own_shards=(0,),
        )


async def drive(
    client: Client,
    node: ServedNode,
    requests: Iterable[TraceRequest],
    blocks: Blocks,
    *,
    speed: Speed,
    shown: Progress,
) -> Counts:
    """Send all `requests`, one after the other. Raises ReplayBroken, NodeFailed."""
    counts = Counts()
    pace = _Pace()
    for request in requests:
        if speed is Speed.REAL:
            await pace.wait_for(request)
        await drive_one(client, request, blocks, counts)
        node.check()
        shown.advance(f"hit rate {100 * counts.hit_rate:.1f} %")
    return counts


async def drive_one(client: Client, request: TraceRequest, blocks: Blocks, counts: Counts) -> None:
    """Send one request: look up, then store what was missed. Raises ReplayBroken."""
    counts.requests += 1
    total = len(request.blocks)
    if not total:
        return
    keys = block_keys(request)
    started = time.perf_counter()
    ticket = await client.lookup(keys=keys)
    counts.lookup_us.append((time.perf_counter() - started) * 1e6)
    _check_excused(client.statistics().excused)
    async with ticket:
        if ticket.total_chunks != total:
            raise ReplayBroken(
                f"the node takes {ticket.total_chunks} of {total} blocks: a longer prompt is cut"
            )
        counts.blocks += total
        counts.hit_blocks += ticket.hit_chunks
        if ticket.hit_chunks < total:
            stored = await client.store(
                None,
                [blocks.layout],
                [array("q", bytes(8 * total))],  # every block is block 0
                keys=keys,
                first_chunk=ticket.hit_chunks,
            )
            counts.stored_blocks += stored.chunks_written
            counts.refused_blocks += stored.chunks_refused
            _check_excused(client.statistics().excused)


def _check_excused(excused: Mapping[str, int]) -> None:
    """What an engine shrugs off as a miss would be a wrong count here."""
    if excused:
        raise ReplayBroken(f"the node did not serve every request: {dict(excused)}")


class _Pace:
    """The trace's own clock; every scope begins at once after the one before it."""

    def __init__(self) -> None:
        self._scope: str | None = None
        self._start = 0.0

    async def wait_for(self, request: TraceRequest) -> None:
        if request.scope != self._scope:
            self._scope = request.scope
            self._start = anyio.current_time() - request.at_s
        await anyio.sleep_until(self._start + request.at_s)
