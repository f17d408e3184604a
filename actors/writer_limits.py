"""How much the store writer may hold, remember and wait for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.actors.writer_retries import RetryLimits


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Of one store, or of one place of its medium."""

    inflight_bytes_max: int  # of the arena, held by saves under way; one larger object goes alone
    batch_bytes_max: int  # of one Save
    batch_objects_max: int
    queued_objects_max: int  # one more is given up
    save_s: float
    ask_s: float
    retries: RetryLimits

    def of_place(self, places: int) -> LaneLimits:
        """Of one of so many: an equal part, and one object at least."""
        return replace(
            self,
            inflight_bytes_max=self.inflight_bytes_max // places,
            queued_objects_max=max(1, self.queued_objects_max // places),
            retries=replace(
                self.retries,
                objects_max=max(1, self.retries.objects_max // places),
                bytes_max=self.retries.bytes_max // places,
            ),
        )


@dataclass(frozen=True, slots=True)
class WriterLimits:
    inflight_bytes_max: (
        int  # of the arena, held by all saves under way; each store has an equal part of it
    )
    batch_bytes_max: int  # of one Save
    batch_objects_max: int
    queued_objects_max: int  # that wait for one store
    settled_objects_max: int  # whose outcome is remembered
    waited_objects_max: int  # by all who wait for outcomes
    waiters_max: int  # who wait for them
    hits_max: int  # chunks remembered that were hit once
    save_s: float  # for one batch, waiting included
    locate_s: float  # to ask stores about objects nobody remembers
    ask_s: float  # of L1
    retries: RetryLimits

    def of_lane(self, lanes: int) -> LaneLimits:
        return LaneLimits(
            inflight_bytes_max=self.inflight_bytes_max // max(1, lanes),
            batch_bytes_max=self.batch_bytes_max,
            batch_objects_max=self.batch_objects_max,
            queued_objects_max=self.queued_objects_max,
            save_s=self.save_s,
            ask_s=self.ask_s,
            retries=self.retries,
        )
