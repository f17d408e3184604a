"""Pushes in metrics: what is sent to decode nodes, and what is taken in here."""

from __future__ import annotations

from collections.abc import Callable

from penstock.actors.api.pd_wire import Reason
from penstock.actors.api.types import Shortfall
from penstock.runtime.telemetry import Telemetry

WHOLE = "whole"


class SentMetrics:
    """Counted once each, when a push is over."""

    def __init__(
        self, telemetry: Telemetry, *, pushes: Callable[[], float], inflight: Callable[[], float]
    ) -> None:
        self._pushes = telemetry.counter(
            "pd_sent", "Pushes to other nodes that are over.", labels=("outcome",)
        )
        self._bytes = telemetry.counter("pd_sent_bytes", "Logical bytes of objects sent.")
        self._held = telemetry.counter(
            "pd_sent_held_bytes", "Logical bytes of objects that the receiver had."
        )
        self._seconds = telemetry.histogram("pd_sent_seconds", "One push, from its request on.")
        telemetry.gauge("pd_sends_open", "Pushes under way.").read_from(pushes)
        telemetry.gauge("pd_sends_inflight_bytes", "Bytes being sent.").read_from(inflight)

    def over(self, reason: Reason | None, sent: int, held: int, seconds: float) -> None:
        self._pushes.of(outcome=outcome_of(reason)).add()
        self._bytes.add(sent)
        self._held.add(held)
        self._seconds.observe(seconds)


class ReceivedMetrics:
    """Counted once each: a push when it is over, a ticket when its watermark is final."""

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        pushes: Callable[[], float],
        waiting: Callable[[], float],
        taken: Callable[[], float],
    ) -> None:
        self._pushes = telemetry.counter(
            "pd_received", "Pushes from other nodes that are over.", labels=("outcome",)
        )
        self._bytes = telemetry.counter(
            "pd_received_bytes", "Logical bytes of objects that came and were verified."
        )
        self._tickets = telemetry.counter(
            "pd_expected",
            "Tickets that expected a push, when they are final.",
            labels=("shortfall",),
        )
        self._allocation = telemetry.histogram(
            "pd_allocation_seconds", "From an offer to the memory for all of it."
        )
        telemetry.gauge("pd_receives_open", "Pushes being taken in.").read_from(pushes)
        telemetry.gauge("pd_receives_waiting", "Of them, those without memory.").read_from(waiting)
        telemetry.gauge("pd_budget_bytes", "Of the receive budget, taken.").read_from(taken)

    def over(self, reason: Reason | None) -> None:
        self._pushes.of(outcome=outcome_of(reason)).add()

    def verified(self, size_bytes: int) -> None:
        self._bytes.add(size_bytes)

    def final(self, shortfall: Shortfall) -> None:
        self._tickets.of(shortfall=shortfall.name.lower()).add()

    def allocated(self, seconds: float) -> None:
        self._allocation.observe(seconds)


def outcome_of(reason: Reason | None) -> str:
    """`whole`, or a word of `pd.proto`."""
    return WHOLE if reason is None else reason.name.lower()
