"""The store writer in metrics: what became of each object it was to save, by store.

Made once for all lives of the writer, so that what a crash loses is counted: it was begun and never settled.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from penstock.runtime.telemetry import Telemetry


class Fate(enum.Enum):
    """What became of one object at one store, in the words of metrics."""

    SAVED = "saved"
    PRESENT = "present"  # the store had it
    FAILED = "failed"  # finally: after all tries, or it could never have been saved
    NO_ROOM = "no_room"  # at the store
    GONE = "gone"  # it left L1 before it was its turn
    OVERFLOW = "overflow"  # too many waited
    UNDIGESTED = "undigested"  # committed without the digests of its runs
    LOST = "lost"  # with a writer that crashed


class WriterMetrics:
    def __init__(self, telemetry: Telemetry, stores: Sequence[str]) -> None:
        self._objects = telemetry.counter(
            "writer_objects", "Objects to be saved that were settled.", labels=("store", "outcome")
        )
        self._bytes = telemetry.counter("writer_bytes", "Logical bytes saved.", labels=("store",))
        self._lost = telemetry.counter(
            "writer_news_lost", "Commits that were forgotten before the writer heard of them."
        )
        self._retried = telemetry.counter(
            "writer_retries",
            "Objects a store could not take, to be tried again.",
            labels=("store",),
        )
        self._unsettled = dict.fromkeys(stores, 0)  # begun and not settled, by store
        self._telemetry = telemetry
        self._news_lost = 0

    def begin_life(self) -> None:
        """What the writer of the former life has begun, nobody settles any more."""
        for store, objects in self._unsettled.items():
            if objects:
                self.settled(store, Fate.LOST, objects)

    def begun(self, store: str, objects: int) -> None:
        self._unsettled[store] += objects

    def settled(self, store: str, fate: Fate, objects: int = 1) -> None:
        self._unsettled[store] -= objects
        self._objects.of(store=store, outcome=fate.value).add(objects)

    def retried(self, store: str, objects: int) -> None:
        self._retried.of(store=store).add(objects)

    def moved(self, store: str, size_bytes: int) -> None:
        self._bytes.of(store=store).add(size_bytes)

    def news_lost(self, so_far: int) -> None:
        """Of this epoch, as L1 counts."""
        self._lost.add(so_far - self._news_lost)
        self._news_lost = so_far

    def watch(self, store: str, levels: dict[str, tuple[str, Callable[[], float]]]) -> None:
        """Read these whenever metrics are collected, instead of what a writer before this one gave."""
        for name, (text, read) in levels.items():
            gauge = self._telemetry.gauge(f"writer_{name}", text, labels=("store",))
            gauge.of(store=store).read_from(read)
