"""What stands between an actor and a store that may be slow, broken or silent: deadline, breaker, bounded retry.

A store has two guards, one for what reads and one for what writes: a disk that became read-only still gives out what
it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio

from penstock.actors.core.breaker import Attempt, Breaker, BreakerState
from penstock.actors.core.retry import Attempts, RetryLimits
from penstock.actors.stores.store import Fate, Outcome, StoreFault
from penstock.runtime.deadline import time_left
from penstock.runtime.log import Log

T = TypeVar("T")
Item = TypeVar("Item")


class LeftAlone(StoreFault):
    """Theirs: the store failed so often lately that it is not asked for a while."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch. `unsure`: positions of which nobody knows whether they were carried out."""

    outcomes: list[Outcome]
    unsure: frozenset[int]


class Guard:
    def __init__(
        self,
        name: str,
        breaker: Breaker,
        retry: RetryLimits,
        *,
        draw: Callable[[], float],
        on_retry: Callable[[], None],
    ) -> None:
        self.name = name
        self.opened = (
            asyncio.Event()
        )  # set when the breaker opens, cleared by whoever looks after it
        self._breaker = breaker
        self._retry = retry
        self._draw = draw
        self._on_retry = on_retry
        self._log = Log(name)
        self._told = BreakerState.CLOSED

    @property
    def state(self) -> BreakerState:
        return self._breaker.state

    @property
    def is_closed(self) -> bool:
        """Whether the store is asked as usual."""
        return self._breaker.state is BreakerState.CLOSED

    @property
    def reason(self) -> str:
        """Of the latest opening."""
        return self._breaker.reason

    def probe_in_s(self) -> float:
        """How long until a probe may be tried."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self._breaker.reopens_s() - now)

    async def call(self, work: Callable[[], Awaitable[T]], *, within_s: float) -> T:
        """`work` once: at most so long, and never past the inherited deadline.

        Raises StoreFault: its own, LeftAlone, or that it was out of time.
        """
        return await self._attempt(work, within_s, lambda _: False)

    async def batch(
        self,
        work: Callable[[Sequence[Item]], Awaitable[list[Outcome]]],
        items: Sequence[Item],
        *,
        within_s: float,
    ) -> Settled:
        """`work` on all items, then on those that failed again, until none has, or attempts or time are used up.

        Never raises StoreFault: what failed to the end has Fate.FAULT and the reason.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + time_left(at_most=within_s)
        attempts = Attempts(self._retry, self._draw)
        outcomes = [Outcome(Fate.FAULT, 0, "not tried")] * len(items)
        unsure: set[int] = set()
        left = [*range(len(items))]
        while True:
            attempts.begin()
            again = partial(work, [items[at] for at in left])
            try:
                answers = await self._attempt(again, ends_s - loop.time(), _all_failed)
            except LeftAlone as refusal:
                answers = [Outcome(Fate.FAULT, 0, str(refusal))] * len(left)
            except StoreFault as fault:
                answers = [Outcome(Fate.FAULT, 0, str(fault))] * len(left)
                unsure.update(left)
            assert len(answers) == len(left), f"{self.name}: {len(answers)} of {len(left)} answers"
            for at, answer in zip(left, answers, strict=True):
                outcomes[at] = answer
            left = [at for at in left if outcomes[at].fate is Fate.FAULT]
            pause_s = attempts.pause_s(ends_s - loop.time()) if left else None
            if pause_s is None:
                return Settled(outcomes, frozenset(unsure.intersection(left)))
            self._on_retry()
            await anyio.sleep(pause_s)

    async def _attempt(
        self, work: Callable[[], Awaitable[T]], within_s: float, is_failure: Callable[[T], bool]
    ) -> T:
        loop = asyncio.get_running_loop()
        attempt = self._breaker.admit(loop.time())
        if attempt is None:
            raise LeftAlone(f"{self.name} is left alone for a while: {self._breaker.reason}")
        left_s = time_left(at_most=within_s)
        settled = False
        try:
            with anyio.move_on_after(left_s):
                try:
                    result = await work()
                except StoreFault as fault:
                    settled = True
                    self._breaker.failed(attempt, loop.time(), str(fault))
                    raise
                settled = True
                if is_failure(result):
                    self._breaker.failed(attempt, loop.time(), "every object of a batch failed")
                else:
                    self._breaker.answered(attempt, loop.time())
                return result
            settled = True
            self._out_of_time(attempt, left_s, within_s)
        finally:
            if not settled:
                # The asker waits no more: because its time is over, or for reasons of its own.
                over = f"no answer within {left_s:.3g} s" if time_left() <= 0 else ""
                self._breaker.unheard(attempt, loop.time(), out_of_time=over)
            self._tell()
        raise StoreFault(f"{self.name}: no answer within {left_s:.3g} s")

    def _out_of_time(self, attempt: Attempt, left_s: float, within_s: float) -> None:
        now = asyncio.get_running_loop().time()
        over = f"no answer within {left_s:.3g} s"
        if left_s < within_s:  # the asker had less time than the store is given
            self._breaker.unheard(attempt, now, out_of_time=over)
        else:
            self._breaker.failed(attempt, now, over)

    def _tell(self) -> None:
        state = self._breaker.state
        if state is BreakerState.OPEN:
            if self._told is BreakerState.CLOSED:
                self._log.warning("left_alone", reason=self._breaker.reason)
            self._told = state
            self.opened.set()
        elif state is BreakerState.CLOSED and self._told is not state:
            self._log.info("works_again")
            self._told = state


def _all_failed(outcomes: list[Outcome]) -> bool:
    return bool(outcomes) and all(one.fate is Fate.FAULT for one in outcomes)
