"""The node's gauges on the wire."""

from __future__ import annotations

from penstock.actors.api import l1
from penstock.protos import engine_pb2


def stat_reply(epoch: bytes, usage: l1.Usage, sessions: int) -> engine_pb2.StatReply:
    return engine_pb2.StatReply(
        epoch=epoch,
        arena_bytes=usage.arena_bytes,
        free_bytes=usage.free_bytes,
        reserved_bytes=usage.reserved_bytes,
        loaded_bytes=usage.loaded_bytes,
        resident_bytes=usage.resident_bytes,
        quarantined_bytes=usage.quarantined_bytes,
        pinned_bytes=usage.pinned_bytes,
        chunks=usage.chunks,
        objects=usage.objects,
        leases=usage.leases,
        overdue_leases=usage.overdue_leases,
        tickets=usage.tickets,
        sessions=sessions,
        evicted_chunks=usage.evicted_chunks,
        damaged_objects=usage.damaged_objects,
        lookups=usage.lookups,
        lookup_chunks=usage.lookup_chunks,
        hit_chunks=usage.hit_chunks,
    )
