"""What this node tells and does for whoever operates the cluster, asked here or by a peer."""

from __future__ import annotations

from dataclasses import dataclass

from anyio.lowlevel import checkpoint

from penstock import __version__
from penstock.actors.api import control, l1, l1_saving, pd
from penstock.actors.api.control import HealthState
from penstock.actors.api.errors import InvalidField, TooLarge
from penstock.actors.api.types import KEY_BYTES, Shape
from penstock.actors.core.namespace import DIGEST_BYTES, SALT_BYTES_MAX
from penstock.actors.engine_pd import Pushes
from penstock.actors.fleet_pins import Pins
from penstock.protos import fleet_pb2
from penstock.runtime.log import Log
from penstock.runtime.ref import Ref

STEP_CHUNKS = 1024  # evicted in one step of the L1 manager
DETAIL_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class DeskLimits:
    chunks_max: int  # of one prompt
    l1_bytes: int
    ask_s: float


class FleetDesk:
    """Of one node."""

    def __init__(
        self,
        manager: Ref[l1.L1Manager],
        operator: Ref[control.Control],
        pushes: Pushes | None,
        pins: Pins,
        *,
        limits: DeskLimits,
    ) -> None:
        self._l1 = manager
        self._control = operator
        self._pushes = pushes
        self._pins = pins
        self._limits = limits
        self._log = Log("fleet")

    async def describe(self, _: fleet_pb2.DescribeRequest) -> fleet_pb2.NodeDescription:
        """Raises PenstockError of the parts that are asked."""
        within = self._limits.ask_s
        health = await self._control.ask(control.GetHealth(), within=within)
        usage = await self._l1.ask(l1.Measure(), within=within)
        sent = taken_in = 0
        if self._pushes is not None:
            sent = (await self._pushes.sender.ask(pd.MeasureSent(), within=within)).transfers
            if self._pushes.receiver is not None:
                received = await self._pushes.receiver.ask(pd.MeasureReceived(), within=within)
                taken_in = received.transfers
        return fleet_pb2.NodeDescription(
            version=__version__,
            health=health.state.value,
            detail=_detail(health),
            arena_bytes=usage.arena_bytes,
            resident_bytes=usage.resident_bytes,
            chunks=usage.chunks,
            lookups=usage.lookups,
            lookup_chunks=usage.lookup_chunks,
            hit_chunks=usage.hit_chunks,
            pushes_out=sent,
            pushes_in=taken_in,
        )

    async def find(self, request: fleet_pb2.ChunksRequest) -> fleet_pb2.ChunksHeld:
        """Raises InvalidField, TooLarge."""
        shapes = await self._shapes(request)
        hit = await self._hit_chunks(request.chunk_keys, shapes)
        return fleet_pb2.ChunksHeld(known=bool(shapes), hit_chunks=hit)

    async def evict(self, request: fleet_pb2.ChunksRequest) -> fleet_pb2.ChunksEvicted:
        """Given up, it has evicted some. Raises InvalidField, TooLarge."""
        shapes = await self._shapes(request)
        starts = range(0, len(request.chunk_keys), KEY_BYTES)
        keys = [request.chunk_keys[start : start + KEY_BYTES] for start in starts]
        keys.reverse()  # a chunk stays as long as one that follows it does
        chunks = freed = 0
        for shape in shapes:
            for start in range(0, len(keys), STEP_CHUNKS):
                part = keys[start : start + STEP_CHUNKS]
                presence = b"\1" * (len(part) * len(shape.slots))
                these = l1_saving.EvictThese(shape, b"".join(part), presence)
                room = await self._l1.ask(these, within=self._limits.ask_s)
                chunks += room.chunks_evicted
                freed += room.bytes_freed
                await checkpoint()  # an ask of an idle L1 manager is no turn of the loop
        left = await self._hit_chunks(request.chunk_keys, shapes)
        return fleet_pb2.ChunksEvicted(
            known=bool(shapes), chunks=chunks, bytes=freed, left_chunks=left
        )

    async def pin(self, request: fleet_pb2.PinChunksRequest) -> fleet_pb2.ChunksPinned:
        """Raises InvalidField, TooLarge, TooManyPins."""
        for_s = request.for_ms / 1000
        self._pins.check(for_s)
        if len(request.salt) > SALT_BYTES_MAX:
            raise InvalidField("prompt.salt", f"at most {SALT_BYTES_MAX} bytes")
        shapes = await self._shapes(request.prompt)
        if not shapes:
            return fleet_pb2.ChunksPinned()
        hit = await self._pins.pin(shapes[-1], request.prompt.chunk_keys, request.salt, for_s)
        return fleet_pb2.ChunksPinned(
            known=True, hit_chunks=hit.hit_chunks, promised_chunks=hit.promised_chunks
        )

    async def set_quota(self, request: fleet_pb2.TenantQuota) -> fleet_pb2.TenantHeld:
        """Raises InvalidField, TooManyTenants, HeldUnbound."""
        if len(request.salt) > SALT_BYTES_MAX:
            raise InvalidField("quota.salt", f"at most {SALT_BYTES_MAX} bytes")
        if request.bytes > self._limits.l1_bytes:
            raise InvalidField("quota.bytes", f"at most {self._limits.l1_bytes} (l1.bytes)")
        ask = l1.SetQuota(request.salt, request.bytes)
        held = await self._l1.ask(ask, within=self._limits.ask_s)
        self._log.info("quota_set", bytes_max=request.bytes, bytes_held=held)
        return fleet_pb2.TenantHeld(bytes=held)

    async def _hit_chunks(self, keys: bytes, shapes: tuple[Shape, ...]) -> int:
        """Of the shape that has most of it."""
        within = self._limits.ask_s
        peeks = [l1.Peek(keys, shape.geometry) for shape in shapes]
        return max([await self._l1.ask(peek, within=within) for peek in peeks], default=0)

    async def _shapes(self, request: fleet_pb2.ChunksRequest) -> tuple[Shape, ...]:
        check_chunks(request, chunks_max=self._limits.chunks_max)
        find = l1_saving.FindShapes(request.namespace_digest)
        return await self._l1.ask(find, within=self._limits.ask_s)


def check_chunks(request: fleet_pb2.ChunksRequest, *, chunks_max: int) -> None:
    """Raises InvalidField, TooLarge."""
    if len(request.namespace_digest) != DIGEST_BYTES:
        raise InvalidField("prompt.namespace_digest", f"a digest has {DIGEST_BYTES} bytes")
    if len(request.chunk_keys) % KEY_BYTES:
        raise InvalidField("prompt.chunk_keys", f"a key has {KEY_BYTES} bytes")
    chunks = len(request.chunk_keys) // KEY_BYTES
    if chunks > chunks_max:
        raise TooLarge("prompt.chunk_keys", f"{chunks} chunks, the bound is {chunks_max}")


def _detail(health: control.NodeHealth) -> str:
    wrong = [part for part in health.parts if part.state is not HealthState.SERVING]
    told = "; ".join([f"{part.name}: {part.detail or part.state.value}" for part in wrong])
    return told[:DETAIL_CHARS_MAX]
