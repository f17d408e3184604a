"""Counters, gauges and histograms of one node, in a registry of its own.

    telemetry = Telemetry()
    lookups = telemetry.counter("lookups", "Lookups answered.", labels=("outcome",))
    hits = lookups.of(outcome="hit")            # once, at construction
    hits.add()                                  # often

A metric is named in units (`load_seconds`, `resident_bytes`) and exported as `penstock_<name>`;
counters end in `_total`. Asking for the same metric again gives the same one, so a restarted actor
goes on counting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import prometheus_client as prometheus
from prometheus_client.registry import Collector

PREFIX = "penstock_"
LABEL_SETS_MAX = 256  # per metric; what comes later is counted under "other"
OTHER = "other"

SECONDS_BUCKETS = tuple(base * 10.0**power for power in range(-5, 2) for base in (1, 2.5, 5))
BYTES_BUCKETS = tuple(float(4096 << shift) for shift in range(0, 22, 2))

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

P = TypeVar("P", prometheus.Counter, prometheus.Gauge, prometheus.Histogram)


@dataclass(slots=True)
class _Family(Generic[P]):
    """A metric with its labels, and how many sets of values they have taken."""

    metric: P
    labels: tuple[str, ...]
    seen: set[tuple[str, ...]] = field(default_factory=set)  # len <= LABEL_SETS_MAX

    def child(self, values: dict[str, str]) -> P:
        if set(values) != set(self.labels):
            raise ValueError(f"labels are {self.labels}, not {tuple(values)}")
        chosen = tuple(str(values[name]) for name in self.labels)
        if chosen not in self.seen:
            if len(self.seen) >= LABEL_SETS_MAX:
                chosen = (OTHER,) * len(self.labels)
            self.seen.add(chosen)
        return self.metric.labels(*chosen)


@dataclass(frozen=True, slots=True)
class Counter:
    """It only goes up."""

    _family: _Family[prometheus.Counter]
    _metric: prometheus.Counter

    def of(self, **labels: str) -> Counter:
        """The counter for these values of all its labels."""
        return Counter(self._family, self._family.child(labels))

    def add(self, amount: float = 1) -> None:
        self._metric.inc(amount)


@dataclass(frozen=True, slots=True)
class Gauge:
    """A level."""

    _family: _Family[prometheus.Gauge]
    _metric: prometheus.Gauge

    def of(self, **labels: str) -> Gauge:
        return Gauge(self._family, self._family.child(labels))

    def set(self, value: float) -> None:
        self._metric.set(value)

    def add(self, amount: float) -> None:
        """Move the level by `amount`, which may be negative."""
        self._metric.inc(amount)

    def read_from(self, read: Callable[[], float]) -> None:
        """Ask `read` for the level whenever metrics are collected, instead of being told."""
        self._metric.set_function(read)


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution, in buckets fixed when it was made."""

    _family: _Family[prometheus.Histogram]
    _metric: prometheus.Histogram

    def of(self, **labels: str) -> Histogram:
        return Histogram(self._family, self._family.child(labels))

    def observe(self, value: float) -> None:
        self._metric.observe(value)


class Telemetry:
    """All metrics of one node. Two nodes in one process share nothing."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry(auto_describe=False)
        self._families: dict[str, _Family[Any]] = {}

    def counter(self, name: str, help_text: str, *, labels: Sequence[str] = ()) -> Counter:
        """`name` without prefix and without `_total`."""
        family = self._family(prometheus.Counter, name, help_text, labels)
        return Counter(family, family.metric)

    def gauge(self, name: str, help_text: str, *, labels: Sequence[str] = ()) -> Gauge:
        family = self._family(prometheus.Gauge, name, help_text, labels)
        return Gauge(family, family.metric)

    def histogram(
        self,
        name: str,
        help_text: str,
        *,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = SECONDS_BUCKETS,
    ) -> Histogram:
        family = self._family(prometheus.Histogram, name, help_text, labels, buckets=buckets)
        return Histogram(family, family.metric)

    def collect_from(self, collector: Collector) -> None:
        """Add a collector, whose metrics are made when they are asked for."""
        self._registry.register(collector)

    def exposition(self) -> bytes:
        """Everything in the Prometheus text format."""
        return prometheus.generate_latest(self._registry)

    def value(self, sample: str, **labels: str) -> float | None:
        """One sample by its exported name, as in `value("penstock_lookups_total", outcome="hit")`."""
        return self._registry.get_sample_value(sample, labels)

    def _family(
        self, kind: type[P], name: str, help_text: str, labels: Sequence[str], **options: Any
    ) -> _Family[P]:
        """Make the metric, or find it. Raises ValueError if it is already something else."""
        known = self._families.get(name)
        if known is not None:
            if not isinstance(known.metric, kind) or known.labels != tuple(labels):
                raise ValueError(f"metric {name!r} exists with another type or other labels")
            return known
        if not _NAME.fullmatch(name) or name.startswith(PREFIX) or name.endswith("_total"):
            raise ValueError(f"{name!r}: lower_case, without {PREFIX!r} and without '_total'")
        metric = kind(PREFIX + name, help_text, tuple(labels), registry=self._registry, **options)
        family = _Family(metric, tuple(labels))
        self._families[name] = family
        return family
