"""What metrics say about the actors themselves: who is up, was restarted, has a full mailbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.runtime.supervisor import ChildHealth, ChildState, Supervisor
from penstock.runtime.telemetry import PREFIX

Family = GaugeMetricFamily | CounterMetricFamily
Read = Callable[[ChildHealth], float]

_LEVELS: dict[str, tuple[str, Read]] = {
    "actor_running": ("1 while the actor serves.", lambda c: c.state is ChildState.RUNNING),
    "mailbox_queued": ("Messages waiting for the actor.", lambda c: c.mailbox.queued),
    "mailbox_queued_max": ("Bound of the mailbox.", lambda c: c.mailbox.queued_max),
    "mailbox_queued_peak": ("Most that ever waited.", lambda c: c.mailbox.queued_peak),
    "mailbox_waiting": ("Callers waiting for room.", lambda c: c.mailbox.waiting),
    "mailbox_serving": ("Messages being served.", lambda c: c.mailbox.serving),
}
_COUNTS: dict[str, tuple[str, Read]] = {
    "actor_restarts": ("Crashes survived.", lambda c: c.restarts_total),
    "mailbox_accepted": ("Messages taken in.", lambda c: c.mailbox.accepted_total),
    "mailbox_refused": ("Messages refused.", lambda c: c.mailbox.refused_total),
    "mailbox_abandoned": ("Asks given up by the asker.", lambda c: c.mailbox.abandoned_total),
}


class ActorMetrics(Collector):
    """Reads a supervisor whenever metrics are collected; hand it to `Telemetry.collect_from`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        children = self._supervisor.health()
        for name, (text, read) in _LEVELS.items():
            yield _filled(GaugeMetricFamily(PREFIX + name, text, labels=["actor"]), children, read)
        for name, (text, read) in _COUNTS.items():
            counts = CounterMetricFamily(PREFIX + name, text, labels=["actor"])
            yield _filled(counts, children, read)
        left_behind = CounterMetricFamily(
            PREFIX + "actors_left_behind", "Would not end when stopped."
        )
        left_behind.add_metric([], self._supervisor.left_behind_total)
        yield left_behind


def _filled(family: Family, children: list[ChildHealth], read: Read) -> Metric:
    for child in children:
        family.add_metric([child.name], float(read(child)))
    return family
