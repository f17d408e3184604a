"""L1 in metrics. One denominator: hit rate is hit chunks over looked-up chunks, both counted at the lookup."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock import _native
from penstock.actors.api.l1 import Usage
from penstock.runtime.telemetry import PREFIX

_GAUGES: tuple[tuple[str, str, Callable[[Usage], int]], ...] = (
    ("l1_arena_bytes", "Size of the arena.", lambda u: u.arena_bytes),
    (
        "l1_largest_free_bytes",
        "Largest extent that could be reserved.",
        lambda u: u.largest_free_bytes,
    ),
    ("l1_pinned_bytes", "Resident bytes held by a ticket or lease.", lambda u: u.pinned_bytes),
    ("l1_chunks", "Chunks in the index.", lambda u: u.chunks),
    ("l1_objects", "Objects in the index.", lambda u: u.objects),
    ("l1_leases", "Live leases.", lambda u: u.leases),
    ("l1_overdue_leases", "Leases over that still hold memory back.", lambda u: u.overdue_leases),
    ("l1_tickets", "Live tickets.", lambda u: u.tickets),
)
_COUNTERS: tuple[tuple[str, str, Callable[[Usage], int]], ...] = (
    ("l1_lookups", "Lookups answered.", lambda u: u.lookups),
    ("l1_lookup_chunks", "Chunks asked for in lookups.", lambda u: u.lookup_chunks),
    ("l1_hit_chunks", "Chunks of them that were hit.", lambda u: u.hit_chunks),
    ("l1_evicted_chunks", "Chunks evicted.", lambda u: u.evicted_chunks),
    ("l1_damaged_objects", "Objects whose bytes did not digest.", lambda u: u.damaged_objects),
)
_STATES: tuple[tuple[str, Callable[[Usage], int]], ...] = (
    ("free", lambda u: u.free_bytes),
    ("reserved", lambda u: u.reserved_bytes),
    ("loaded", lambda u: u.loaded_bytes),
    ("resident", lambda u: u.resident_bytes),
    ("quarantined", lambda u: u.quarantined_bytes),
)
_PD_STATES: tuple[tuple[str, Callable[[Usage], int]], ...] = (
    ("free", lambda u: u.pd_free_bytes),
    ("reserved", lambda u: u.pd_reserved_bytes),
    ("loaded", lambda u: u.pd_loaded_bytes),
    ("quarantined", lambda u: u.pd_quarantined_bytes),
)


class L1Metrics(Collector):
    """Reads the table whenever metrics are collected, which must be on the loop thread."""

    def __init__(self, read: Callable[[], Usage]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        usage = self._read()
        states = GaugeMetricFamily(PREFIX + "l1_bytes", "Arena bytes by state.", labels=["state"])
        for state, read in _STATES:
            states.add_metric([state], float(read(usage)))
        yield states
        if usage.pd_bytes:
            text = "Bytes of the arena for what other nodes push, by state."
            pushed = GaugeMetricFamily(PREFIX + "l1_pd_bytes", text, labels=["state"])
            for state, read in _PD_STATES:
                pushed.add_metric([state], float(read(usage)))
            yield pushed
        for name, text, read in _GAUGES:
            yield GaugeMetricFamily(PREFIX + name, text, value=float(read(usage)))
        for name, text, read in _COUNTERS:
            yield CounterMetricFamily(PREFIX + name, text, value=float(read(usage)))


def usage_of(numbers: _native.Statistics, arena_bytes: int, looked: tuple[int, int, int]) -> Usage:
    """`looked`: lookups, chunks they asked for, chunks they hit."""
    lookups, lookup_chunks, hit_chunks = looked
    return Usage(
        arena_bytes=arena_bytes,
        free_bytes=numbers.bytes_free,
        reserved_bytes=numbers.bytes_reserved,
        loaded_bytes=numbers.bytes_loaded,
        resident_bytes=numbers.bytes_resident,
        quarantined_bytes=numbers.bytes_quarantined,
        pinned_bytes=numbers.bytes_pinned,
        largest_free_bytes=numbers.largest_free_bytes,
        chunks=numbers.chunks,
        objects=numbers.objects,
        leases=numbers.leases,
        overdue_leases=numbers.overdue_leases,
        tickets=numbers.tickets,
        evicted_chunks=numbers.evicted_chunks,
        damaged_objects=numbers.damaged_objects,
        lookups=lookups,
        lookup_chunks=lookup_chunks,
        hit_chunks=hit_chunks,
        pd_bytes=numbers.pd_bytes_total,
        pd_free_bytes=numbers.pd_bytes_free,
        pd_reserved_bytes=numbers.pd_bytes_reserved,
        pd_loaded_bytes=numbers.pd_bytes_loaded,
        pd_quarantined_bytes=numbers.pd_bytes_quarantined,
    )
