"""The node's gauges on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.actors.api import l1
from penstock.actors.api.store import StoreState, StoreUsage
from penstock.protos import engine_pb2

_STATES = {
    StoreState.RECOVERING: engine_pb2.STORE_STATE_RECOVERING,
    StoreState.OPEN: engine_pb2.STORE_STATE_OPEN,
    StoreState.BROKEN: engine_pb2.STORE_STATE_BROKEN,
}


def stat_reply(
    epoch: bytes, usage: l1.Usage, sessions: int, stores: Sequence[StoreUsage] = ()
) -> engine_pb2.StatReply:
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
        pd_bytes=usage.pd_bytes,
        pd_free_bytes=usage.pd_free_bytes,
        pd_reserved_bytes=usage.pd_reserved_bytes,
        pd_loaded_bytes=usage.pd_loaded_bytes,
        pd_quarantined_bytes=usage.pd_quarantined_bytes,
        stores=[_store_stat(one) for one in stores],
    )


def _store_stat(usage: StoreUsage) -> engine_pb2.StoreStat:
    return engine_pb2.StoreStat(
        name=usage.name,
        state=_STATES[usage.state],
        objects=usage.objects,
        used_bytes=usage.used_bytes,
        capacity_bytes=usage.capacity_bytes,
        loads_waiting=usage.loads_waiting,
        saves_waiting=usage.saves_waiting,
        detail=usage.detail,
    )
