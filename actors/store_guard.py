"""What stands between an actor and a store that may be slow, broken or silent: deadline, breaker, bounded retry.

A store has two guards, one for what reads and one for what writes: a disk that became read-only still gives out what
it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import anyio

from penstock.actors.api.store import Keys
from penstock.actors.core.breaker import ONE_PLACE, Attempt, Breaker, BreakerState, Tried
from penstock.actors.core.retry import Attempts, RetryLimits
from penstock.actors.stores.store import Fate, Outcome, StoreFault
from penstock.runtime.deadline import time_left
from penstock.runtime.log import Log


class _Placed(Protocol):
    """One object of a batch."""

    @property
    def key(self) -> bytes: ...
    @property
    def device(self) -> int: ...


T = TypeVar("T")
Item = TypeVar("Item", bound=_Placed)

SLOW_SHARE = 0.5
"""Of the time a store is given: whoever gave up after so much of it counts as failed. Askers inherit their deadlines,
and one that gives a store exactly its time is over an instant before the store is."""

TELLING_SHARE = 1 / 32
"""Of the same: whoever gave up sooner cannot tell whether the store is broken."""


class LeftAlone(StoreFault):
    """Theirs: the store failed so often lately that it is not asked for a while."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch. `unsure`: positions of which nobody knows whether they were carried out."""

    outcomes: list[Outcome]
    unsure: frozenset[int]
    is_all_done: bool = False  # as is nearly always


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long an attempt may take, and how long the store is given for all attempts of an operation."""

    left_s: float
    given_s: float


@dataclass(frozen=True, slots=True)
class _Trial:
    """What an attempt is about, and the places of the medium it goes to."""

    tried: Tried
    places: Collection[int] = ONE_PLACE


class Guard:
    def __init__(
        self,
        name: str,
        breaker: Breaker,
        retry: RetryLimits,
        *,
        draw: Callable[[], float],
        on_retry: Callable[[], None],
        place_of: Callable[[bytes, int], int] = lambda _key, _device: 0,
    ) -> None:
        self.name = name
        self.in_doubt = (
            asyncio.Event()
        )  # set when the breaker opens, or may have to; cleared by whoever looks after it
        self._breaker = breaker
        self._retry = retry
        self._draw = draw
        self._on_retry = on_retry
        self._place_of = place_of
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

    @property
    def broken(self) -> Tried:
        """What does not work, or is doubted: a probe is of the same kind."""
        return self._breaker.doubted or self._breaker.broken

    @property
    def is_sound(self) -> bool:
        """Whether the store is asked as usual, and nobody doubts that it works."""
        return self.is_closed and self._breaker.doubted is None

    @property
    def openings(self) -> int:
        """Of the breaker, so far."""
        return self._breaker.openings

    def probe_in_s(self) -> float:
        """How long until a probe may be tried."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self._breaker.reopens_s() - now)

    async def call(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        within_s: float,
        tried: Tried = Tried.BYTES,
        keys: Keys | None = None,
    ) -> T:
        """`work` once: at most so long, and never past the inherited deadline. `keys`: what it is about.

        Raises StoreFault: its own, LeftAlone, or that it was out of time.
        """
        places = ONE_PLACE if keys is None else self._places_of(keys)
        patience = _Patience(within_s, within_s)
        return await self._attempt(work, patience, _Trial(tried, places), lambda _: frozenset())

    def failed(self, reason: str) -> None:
        """Something could not even be tried."""
        now = asyncio.get_running_loop().time()
        attempt = self._breaker.admit(now, Tried.BYTES)
        if attempt is not None:
            self._breaker.failed(attempt, now, reason)
            self._tell()

    async def try_batch(
        self, work: Callable[[], Awaitable[list[Outcome]]], *, within_s: float
    ) -> None:
        """`work` once, for what the breaker learns from it. Raises StoreFault, as `call`."""
        patience = _Patience(within_s, within_s)

        def failed_in(outcomes: list[Outcome]) -> Collection[int]:
            return ONE_PLACE if _all_failed(outcomes) else ()

        await self._attempt(work, patience, _Trial(Tried.BYTES), failed_in)

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
            some = [items[at] for at in left]
            places = [self._place_of(one.key, one.device) for one in some]
            trial = _Trial(Tried.BYTES, frozenset(places))
            patience = _Patience(ends_s - loop.time(), within_s)
            is_left_alone = False
            try:
                answers = await self._attempt(
                    partial(work, some), patience, trial, partial(_failed_in, places)
                )
            except LeftAlone as refusal:
                answers = [Outcome(Fate.FAULT, 0, str(refusal))] * len(left)
                is_left_alone = True
            except StoreFault as fault:
                answers = [Outcome(Fate.FAULT, 0, str(fault))] * len(left)
                unsure.update(left)
            assert len(answers) == len(left), f"{self.name}: {len(answers)} of {len(left)} answers"
            if [one.fate for one in answers].count(Fate.DONE) == len(items):
                return Settled(answers, frozenset(), is_all_done=True)
            for at, answer in zip(left, answers, strict=True):
                outcomes[at] = answer
                if answer.may_be_there:
                    unsure.add(at)
            left = [at for at in left if outcomes[at].fate is Fate.FAULT]
            goes_on = left and not is_left_alone
            pause_s = attempts.pause_s(ends_s - loop.time()) if goes_on else None
            if pause_s is None:
                unsure = {at for at in unsure if outcomes[at].fate is not Fate.DONE}
                return Settled(outcomes, frozenset(unsure))
            self._on_retry()
            await anyio.sleep(pause_s)

    async def _attempt(
        self,
        work: Callable[[], Awaitable[T]],
        patience: _Patience,
        trial: _Trial,
        failed_in: Callable[[T], Collection[int]],
    ) -> T:
        loop = asyncio.get_running_loop()
        left_s = time_left(at_most=patience.left_s)
        is_in_haste = left_s < SLOW_SHARE * patience.given_s
        admit = self._breaker.admit_in_haste if is_in_haste else self._breaker.admit
        attempt = admit(loop.time(), trial.tried)
        if attempt is None:
            raise LeftAlone(f"{self.name} is left alone for a while: {self._breaker.reason}")
        over = f"no answer within {left_s:.3g} s"
        settled = False
        try:
            with anyio.move_on_after(left_s):
                try:
                    result = await work()
                except StoreFault as fault:
                    settled = True
                    self._breaker.failed(attempt, loop.time(), str(fault), trial.places)
                    raise
                settled = True
                failed = failed_in(result)
                if len(failed) == len(trial.places):
                    reason = "every object of a batch failed"
                    self._breaker.failed(attempt, loop.time(), reason, failed)
                else:
                    answered = [one for one in trial.places if one not in failed]
                    self._breaker.answered(attempt, loop.time(), answered)
                return result
            settled = True
            self._gave_up(attempt, patience, trial, over)
        finally:
            if not settled:
                # The asker waits no more: because its time is over, or for reasons of its own.
                self._gave_up(attempt, patience, trial, over if time_left() <= 0 else "")
            self._tell()
        raise StoreFault(f"{self.name}: {over}")

    def _places_of(self, keys: Keys) -> Collection[int]:
        return {self._place_of(key, keys.device(at)) for at, key in enumerate(keys)}

    def _gave_up(
        self, attempt: Attempt, patience: _Patience, trial: _Trial, out_of_time: str
    ) -> None:
        now = asyncio.get_running_loop().time()
        waited_s = now - attempt.began_s
        if waited_s >= SLOW_SHARE * patience.given_s:
            reason = out_of_time or f"no answer within {waited_s:.3g} s"
            whose = trial.places if len(trial.places) == 1 else ()  # of several nobody knows
            self._breaker.failed(attempt, now, reason, whose)
        else:  # the asker had much less time than the store is given
            telling_s = TELLING_SHARE * patience.given_s
            self._breaker.unheard(attempt, now, out_of_time=out_of_time, telling_s=telling_s)

    def _tell(self) -> None:
        state = self._breaker.state
        if state is BreakerState.OPEN:
            if self._told is BreakerState.CLOSED:
                self._log.warning("left_alone", reason=self._breaker.reason)
            self._told = state
        elif state is BreakerState.CLOSED and self._told is not state:
            self._log.info("works_again")
            self._told = state
        if not self.is_sound:
            self.in_doubt.set()


def _failed_in(places: Sequence[int], outcomes: list[Outcome]) -> Collection[int]:
    """Where nothing worked."""
    if Fate.FAULT not in [one.fate for one in outcomes]:
        return ()
    pairs = [*zip(places, outcomes, strict=True)]
    working = {place for place, one in pairs if one.fate is not Fate.FAULT}
    return {place for place, _ in pairs} - working


def _all_failed(outcomes: list[Outcome]) -> bool:
    return bool(outcomes) and all(one.fate is Fate.FAULT for one in outcomes)
