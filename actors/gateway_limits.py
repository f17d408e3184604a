"""The bounds of the engine's service. All are told to the client in Welcome, or are the node's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.actors.wire_scan import ScanBounds
from penstock.protos import engine_pb2


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    message_bytes_max: int
    chunks_max: int
    objects_max: int  # in one request: its chunks times the groups of the session
    inflight_max: int
    leases_max: int
    tickets_max: int
    lease_ms_default: int
    lease_ms_max: int
    heartbeat_ms: int
    deadline_ms_default: int
    deadline_ms_max: int
    outgoing_max: int  # replies waiting to be written, per stream
    outgoing_bytes_max: int  # of them together, but for the last
    stall_s: float  # a client that reads nothing for this long loses its stream
    hello_within_s: float  # a stream that has not said Hello by then is closed
    streams_max: int  # open streams, attached or not yet
    kept_prompt_bytes_max: int  # keys remembered per session for deltas
    load_ms_default: int = 10_000  # how long loads of a lookup that names no time may take

    @property
    def scan_bounds(self) -> ScanBounds:
        """Of a message before it is parsed."""
        return ScanBounds.of(chunks_max=self.chunks_max, objects_max=self.objects_max)

    def for_groups(self, count: int) -> GatewayLimits:
        """The limits of a session with so many groups, of each of which it moves at most one object per chunk."""
        return replace(self, chunks_max=max(1, min(self.chunks_max, self.objects_max // count)))

    def wire(self) -> engine_pb2.Limits:
        return engine_pb2.Limits(
            message_bytes_max=self.message_bytes_max,
            chunks_max=self.chunks_max,
            inflight_max=self.inflight_max,
            leases_max=self.leases_max,
            tickets_max=self.tickets_max,
            lease_ms_default=self.lease_ms_default,
            lease_ms_max=self.lease_ms_max,
            heartbeat_ms=self.heartbeat_ms,
            deadline_ms_default=self.deadline_ms_default,
            deadline_ms_max=self.deadline_ms_max,
        )
