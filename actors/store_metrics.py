"""One store in metrics. Objects and their logical bytes are counted when they are answered for, batches are timed."""

from __future__ import annotations

import enum
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from penstock.actors.core.breaker import BreakerState
from penstock.runtime.telemetry import Counter, Telemetry


class Op(enum.Enum):
    LOCATE = "locate"
    LOAD = "load"
    SAVE = "save"
    DELETE = "delete"

    __hash__ = object.__hash__  # as of Work


class StoreMetrics:
    """Of one store, by its name. A restarted actor goes on counting."""

    def __init__(self, telemetry: Telemetry, name: str) -> None:
        self._name = name
        self._telemetry = telemetry
        labels = ("store", "op")
        self._objects = telemetry.counter(
            "store_operations", "Objects answered for.", labels=(*labels, "outcome")
        )
        self._counted: dict[tuple[Op, str], Counter] = {}
        moved = telemetry.counter("store_bytes", "Logical bytes moved.", labels=labels)
        self._bytes = {op: moved.of(store=name, op=op.value) for op in (Op.LOAD, Op.SAVE)}
        took = telemetry.histogram("store_seconds", "With the store, by batch.", labels=labels)
        self._seconds = {op: took.of(store=name, op=op.value) for op in Op}
        tried = telemetry.counter("store_retries", "Batches tried again.", labels=labels)
        self._retries = {op: tried.of(store=name, op=op.value) for op in (Op.LOAD, Op.SAVE)}
        one = ("store",)
        damaged = "Objects that were not what they should have been."
        self._damaged = telemetry.counter("store_damaged", damaged, labels=one).of(store=name)
        evicted = "Objects evicted from the store."
        self._evicted = telemetry.counter("store_evicted", evicted, labels=one).of(store=name)

    def count(self, op: Op, outcomes: Iterable[str]) -> None:
        """One outcome per object."""
        for outcome, objects in Tally(outcomes).items():
            self.add(op, outcome, objects)

    def add(self, op: Op, outcome: str, objects: int) -> None:
        """The same of so many objects with one outcome."""
        counter = self._counted.get((op, outcome))
        if counter is None:
            counter = self._objects.of(store=self._name, op=op.value, outcome=outcome)
            self._counted[op, outcome] = counter
        counter.add(objects)

    def moved(self, op: Op, size_bytes: int) -> None:
        self._bytes[op].add(size_bytes)

    def took(self, op: Op, seconds: float) -> None:
        self._seconds[op].observe(seconds)

    def retried(self, op: Op) -> None:
        self._retries[op].add()

    def damaged(self, objects: int) -> None:
        self._damaged.add(objects)

    def evicted(self, objects: int) -> None:
        self._evicted.add(objects)

    def watch(
        self,
        *,
        levels: dict[str, tuple[str, Callable[[], float]]],
        waiting: dict[str, Callable[[], float]],
        breakers: dict[str, Callable[[], BreakerState]],
    ) -> None:
        """Read these whenever metrics are collected, instead of what an actor before this one gave."""
        for name, (text, read) in levels.items():
            gauge = self._telemetry.gauge(f"store_{name}", text, labels=("store",))
            gauge.of(store=self._name).read_from(read)
        queue = self._telemetry.gauge(
            "store_waiting", "Batches that wait for their turn.", labels=("store", "op")
        )
        for op, read in waiting.items():
            queue.of(store=self._name, op=op).read_from(read)
        state = self._telemetry.gauge(
            "store_breaker", "1 for the state it is in.", labels=("store", "side", "state")
        )
        for side, read_state in breakers.items():
            for one in BreakerState:
                level = state.of(store=self._name, side=side, state=one.value)
                level.read_from(_is_state(read_state, one))


def _is_state(read: Callable[[], BreakerState], state: BreakerState) -> Callable[[], float]:
    return lambda: float(read() is state)
