"""What other nodes have in their L1, as a store that is only read.

    locate   by what the directory promises: nobody is asked over the network
    load     chunk by chunk of a prompt: whoever promises the longest run of them gives it; what lies behind it is
             asked of who promises that, all at the same time
               run -> landing over its extents -> pieces and headers come -> landing closed -> whole
                        '--> peer lost, slow, or without some of it: landing closed -> the rest, of the next peer

At most one peer at a time may write to an extent, and none does once its object's outcome is told: a landing is
closed before that. What was given up half-way holds its extents until its channel writes there no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from anyio import CancelScope, create_task_group

from penstock.actors.api.directory import Promise, Promised
from penstock.actors.api.peers import (
    FindLink,
    PeerAway,
    PeerBusy,
    PeerLink,
    PeerRefused,
    Reach,
    ReadTold,
)
from penstock.actors.api.store import Keys
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.core.breaker import Attempt, BreakerLimits
from penstock.actors.core.peer_trust import PeerTrust
from penstock.actors.peer_metrics import ReadMetrics
from penstock.actors.stores.peer_config import PeerStoreConfig
from penstock.actors.stores.peer_doubts import Came, Doubts
from penstock.actors.stores.peer_reading import SENT, Arrivals, Patience, PeerLoad, PeerPart
from penstock.actors.stores.store import (
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreRefused,
    Wanted,
    nothing_to_count,
)
from penstock.runtime.channel import ChannelLost
from penstock.runtime.deadline import deadline_at, time_left
from penstock.runtime.errors import DeadlineExceeded, PenstockError
from penstock.runtime.hazard import hazard
from penstock.runtime.log import Log
from penstock.runtime.message import NOT_AT_ONCE

TELLING_SHARE = 0.05  # of a load's time, left to tell what came of it
ASK_S = 1.0  # what the directory and the keeper of links may take; both answer at once
PATIENCE_S_MIN = 0.02
SLOW_SHARE = (
    0.5  # of the time a peer is given: who was waited for so long and gave nothing has failed
)
PEERS_MAX = 1024  # remembered


@dataclass(frozen=True, slots=True)
class _Choice:
    """Whom to ask."""

    node_id: str
    chunks: int  # in a row, that it promises
    has_another: bool  # somebody else promises the first of them, too


class PeerStore:
    """The L1 of all nodes this one has a link to."""

    ownership = Ownership.SHARED

    def __init__(self, config: PeerStoreConfig, reach: Reach) -> None:
        self._config = config
        self._reach = reach
        given = config.breaker
        open_s_max = max(given.open_for, given.open_for_max)
        self._trust = PeerTrust(
            BreakerLimits(given.failures, given.window, given.open_for, open_s_max),
            patience_s_min=PATIENCE_S_MIN,
            patience_s_max=config.hedge_after,
            peers_max=PEERS_MAX,
        )
        self._metrics = ReadMetrics(reach.telemetry)
        self._doubts = Doubts()
        self._log = Log(f"store[{config.name}]")

    async def locate(self, keys: Keys) -> bytes:
        """As many chunks from the first as peers promise one after the other, all of their objects."""
        left = keys.chunks if keys.slots else b""
        while left and (best := await self._best(left, frozenset())) is not None:
            left = left[best.chunks * KEY_BYTES :]
        return _located(keys, left)

    def locate_at_once(self, keys: Keys) -> bytes | None:
        left = keys.chunks if keys.slots else b""
        while left:
            try:
                promises = self._reach.directory.ask_now(Promised(left))
            except PenstockError:
                return None
            if promises is NOT_AT_ONCE:
                return None
            if (best := self._choose(promises, frozenset())) is None:
                break
            left = left[best.chunks * KEY_BYTES :]
        return _located(keys, left)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Never fails as a whole: what no peer gave in time is missing."""
        load = PeerLoad(wanted)
        left_s = time_left(at_most=self._config.load_within) * (1 - TELLING_SHARE)
        with deadline_at(asyncio.get_running_loop().time() + left_s):
            try:
                await self._bring(load, range(len(load.chunks)), frozenset())
            finally:
                load.let_go()
        return load.outcomes

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        """Never asked for: `write` is none."""
        return [Outcome(Fate.REFUSED, reason="what peers have is not written here")] * len(given)

    async def delete(self, keys: Keys) -> None:
        """Theirs stays theirs: who gave what was damaged here is told with the next read, and looks at its own copy."""
        self._doubts.damaged({*keys})

    def recover(self) -> AsyncIterator[list[Entry]]:
        return nothing_to_count()

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return header_bytes + payload_bytes

    @property
    def capacity_bytes(self) -> int:
        return 0

    async def aclose(self) -> None:
        """The links are not this store's."""

    # Whom to ask.

    async def _bring(self, load: PeerLoad, chunks: Sequence[int], tried: frozenset[str]) -> None:
        """These, from peers that were not tried for them yet."""
        if len(tried) >= self._config.peers_max:
            return
        async with create_task_group() as parts:
            while chunks and time_left() > 0:
                best = await self._best(load.packed(chunks), tried)
                count = 1 if best is None else best.chunks
                if best is not None:
                    run = chunks[:count]
                    parts.start_soon(self._from, best, load, run, tried, name="read of a peer")
                chunks = chunks[count:]

    async def _best(self, keys: bytes, tried: frozenset[str]) -> _Choice | None:
        """Who promises the longest run of these chunks, from the first. None: nobody promises that."""
        try:
            promises = await self._reach.directory.ask(Promised(keys), within=ASK_S)
        except PenstockError as trouble:
            self._log.warning_once("no_directory", str(trouble), reason=str(trouble))
            return None
        return self._choose(promises, tried)

    def _choose(self, promises: Sequence[Promise], tried: frozenset[str]) -> _Choice | None:
        now = _now()
        able = [
            one
            for one in promises
            if one.node_id not in tried and self._trust.is_trusted(one.node_id, now)
        ]
        if not able:
            return None
        has_another = len(able) > 1 and len(tried) + 1 < self._config.peers_max
        return _Choice(able[0].node_id, able[0].chunks, has_another)

    # Asking.

    async def _from(
        self, best: _Choice, load: PeerLoad, run: Sequence[int], tried: frozenset[str]
    ) -> None:
        """A run of one peer, and what it did not give of the next."""
        node_id = best.node_id
        try:
            link = await self._reach.peers.ask(FindLink(node_id), within=ASK_S)
            for chunks in load.cut(run, link.limits):
                await self._ask(link, PeerPart(load, chunks), has_another=best.has_another)
        except PenstockError as away:
            self._log.warning_once("peer_away", node_id, peer=node_id, reason=str(away))
        left = [chunk for chunk in run if load.is_open(chunk)]
        if left:
            await self._bring(load, left, tried | {node_id})

    async def _ask(self, link: PeerLink, part: PeerPart, *, has_another: bool) -> None:
        """Once. What has come of it is in the load's outcomes. Raises no PenstockError."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        attempt = self._trust.admit(link.node_id, began_s)
        if attempt is None:
            return
        arrivals = Arrivals(len(part.places), partial(self._trust.waited, link.node_id))
        trial = _Trial(
            self._trust, link.node_id, attempt, self._config.read_within, has_another=has_another
        )
        with trial:
            told = await self._read(link, part, arrivals, trial)
        await hazard("peer_store.after_read")
        came, absent = 0, 0
        if told is not None:
            came, absent = part.load.take(part.places, told, arrivals.there), told.outcomes.count(0)
        self._metrics.read(link.node_id, "came", came)
        self._metrics.read(link.node_id, "absent", absent)
        self._metrics.read(link.node_id, trial.outcome, len(part.places) - came - absent)
        if came:
            done = part.done()
            names, doubts = [one.key for one in done], [(one.chunk, one.slot) for one in done]
            self._doubts.came(Came(link.node_id, part.load.namespace, names, doubts))
            size_bytes = sum([one.logical_bytes for one in done])
            self._metrics.came(link.node_id, size_bytes, loop.time() - began_s)

    async def _read(
        self, link: PeerLink, part: PeerPart, arrivals: Arrivals, trial: _Trial
    ) -> ReadTold | None:
        """What the peer tells, once all that it says to have sent is there, or will not come. Nothing of it is written
        any more when this returns."""
        within_s = time_left(at_most=self._config.read_within)
        try:
            landing = link.connection.open_landing(part.slots(), arrivals.come)
        except ChannelLost as lost:
            trial.failed(str(lost))
            return None
        told: ReadTold | None = None
        try:
            with CancelScope(deadline=asyncio.get_running_loop().time() + within_s) as time:
                over = partial(trial.is_over, time)
                with Patience(arrivals, self._trust.patience_s(link.node_id), over):
                    doubted = self._doubts.take(link.node_id, part.load.namespace)
                    answer = await link.read(part.ask(landing.grant, doubted), within=within_s)
                    told = _checked(link, part, answer)
                    await _all_there(link, told, arrivals)
            if time.cancelled_caught:
                trial.late()
            else:
                trial.answered()
        except DeadlineExceeded:
            trial.late()
        except PeerBusy:
            pass  # which is no failure of it
        except PenstockError as refusal:
            trial.failed(str(refusal))
        finally:
            await landing.close()
        return told


class _Trial:
    """One try of a peer: what is learned from it, once. Nothing, if whoever asked gave up for reasons of their own."""

    def __init__(
        self,
        trust: PeerTrust,
        node_id: str,
        attempt: Attempt,
        given_s: float,
        *,
        has_another: bool,
    ) -> None:
        """`has_another`: somebody else promises what this one was asked for."""
        self.outcome = "failed"  # of what did not come, for metrics
        self._trust = trust
        self._node_id = node_id
        self._attempt = attempt
        self._given_s = given_s
        self._has_another = has_another
        self._is_settled = False

    def __enter__(self) -> _Trial:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_settled:
            self._trust.unheard(self._node_id, self._attempt, _now())

    def answered(self) -> None:
        self._is_settled = True
        self._trust.answered(self._node_id, self._attempt, _now())

    def failed(self, reason: str) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._trust.failed(self._node_id, self._attempt, _now(), reason)

    def is_over(self, time: CancelScope) -> bool:
        """It is slow: whether its part is asked of another one now."""
        if self._has_another:
            self.outcome = "slow"
            self.failed("it sent nothing for long")
            time.cancel()
        return self._has_another

    def late(self) -> None:
        """The time is over. That is its failure if it had most of the time that peers are given."""
        self.outcome = "slow"
        waited_s = _now() - self._attempt.began_s
        if waited_s >= SLOW_SHARE * self._given_s:
            self.failed(f"no whole answer within {waited_s:.3g} s")


def _checked(link: PeerLink, part: PeerPart, told: ReadTold) -> ReadTold:
    """Raises PeerRefused for an answer to something else."""
    if len(told.outcomes) != len(part.places):
        raise PeerRefused(f"{link.node_id} told of {len(told.outcomes)} of {len(part.places)}")
    return told


async def _all_there(link: PeerLink, told: ReadTold, arrivals: Arrivals) -> None:
    """Raises PeerAway when the link is lost before that."""
    sent = [number for number, outcome in enumerate(told.outcomes) if outcome == SENT]
    if arrivals.there.issuperset(sent):
        return
    why = ""
    async with create_task_group() as either:

        async def lost() -> None:
            nonlocal why
            why = await link.wait_lost()
            either.cancel_scope.cancel()

        either.start_soon(lost, name="peer lost")
        await arrivals.wait(sent)
        either.cancel_scope.cancel()
    if not arrivals.there.issuperset(sent):
        raise PeerAway(f"{link.node_id}: {why}")


async def open_peer_store(config: PeerStoreConfig, context: StoreContext) -> PeerStore:
    """Raises StoreRefused where there are no peers."""
    if context.reach is None:
        raise StoreRefused(f"stores.{config.name}", "a node without `cluster` has no peers")
    return PeerStore(config, context.reach)


def _located(keys: Keys, left: bytes) -> bytes:
    """`left`: the keys of the chunks, from the first that nobody promises."""
    there = (len(keys.chunks) - len(left)) // KEY_BYTES * len(keys.slots)
    return b"\1" * there + bytes(len(keys) - there)


def _now() -> float:
    return asyncio.get_running_loop().time()
