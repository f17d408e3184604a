"""The prefetcher in metrics."""

from __future__ import annotations

from collections.abc import Callable

from penstock.actors.api.types import Shortfall
from penstock.runtime.telemetry import Counter, Telemetry


class PrefetchMetrics:
    """Counted once each: a ticket when its loads are over, an object when its load has landed or was lost. One that was
    skipped behind a hole was not read: it counts if it is loaded after all."""

    def __init__(
        self, telemetry: Telemetry, *, tickets: Callable[[], float], inflight: Callable[[], float]
    ) -> None:
        self._counted: dict[tuple[str, ...], Counter] = {}  # by name and labels
        self._objects = telemetry.counter(
            "prefetch_objects", "Objects asked of a store.", labels=("store", "outcome")
        )
        self._tickets = telemetry.counter(
            "prefetch_tickets", "Tickets that the stores were asked for.", labels=("shortfall",)
        )
        self._chunks = telemetry.counter(
            "prefetch_chunks", "Chunks that such tickets gained.", labels=()
        )
        self._skipped = telemetry.counter(
            "prefetch_skipped_chunks", "Chunks not loaded, and why.", labels=("shortfall",)
        )
        telemetry.gauge("prefetch_tickets_open", "Tickets being loaded for.").read_from(tickets)
        telemetry.gauge("prefetch_inflight_bytes", "Bytes being loaded.").read_from(inflight)

    def loaded(self, tier: str, landed: int, lost: int) -> None:
        """A load of a store has ended."""
        for outcome, objects in (("landed", landed), ("lost", lost)):
            if objects:
                self._one("objects", self._objects, store=tier, outcome=outcome).add(objects)

    def skipped(self, chunks: int, why: Shortfall) -> None:
        """So many chunks could be had and were not loaded."""
        self._skipped.of(shortfall=why.name.lower()).add(chunks)

    def over(self, gained_chunks: int, shortfall: Shortfall) -> None:
        """A ticket's loads are over."""
        self._one("tickets", self._tickets, shortfall=shortfall.name.lower()).add()
        self._chunks.add(gained_chunks)

    def _one(self, name: str, family: Counter, **labels: str) -> Counter:
        """Looked up once: that takes longer than counting."""
        key = (name, *labels.values())
        if (counter := self._counted.get(key)) is None:
            counter = self._counted[key] = family.of(**labels)
        return counter
