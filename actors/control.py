"""The control actor: health, drain, purge, metrics. It asks the others and is asked by none of them.

A drain is this actor's own work, begun by the first who asks for it and joined by all others: nobody's going away
ends it. Whoever waits here holds one of a bounded number of places, so that health is always answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from anyio import CancelScope

from penstock.actors.api import control, eviction, gateway, store
from penstock.actors.api.control import HealthState, NodeHealth, PartHealth
from penstock.actors.api.errors import InvalidField, TooManyInFlight
from penstock.actors.api.peers import ClusterUsage, Peers, PeerState
from penstock.actors.api.peers import Measure as MeasurePeers
from penstock.actors.api.store import StoreState, StoreUsage
from penstock.runtime.errors import ActorCrashed, ActorStopped, DeadlineExceeded, PenstockError
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref, gather_asks
from penstock.runtime.supervisor import ChildHealth, ChildState
from penstock.runtime.telemetry import Telemetry

STORE_ASK_S = 1.0  # a store's actor that takes longer to say how it is, is not well
_Said: TypeAlias = "StoreUsage | ClusterUsage | PenstockError"
AWAY_TOLD_MAX = 5  # peers, by name

_STATES = {
    ChildState.STARTING: HealthState.STARTING,
    ChildState.RUNNING: HealthState.SERVING,
    ChildState.STOPPING: HealthState.DRAINING,
    ChildState.STOPPED: HealthState.DRAINING,
    ChildState.FAILED: HealthState.DEGRADED,
}


@dataclass(frozen=True, slots=True)
class ControlLimits:
    ask_s: float  # how long a neighbour may take
    drain_s_max: float  # how long a drain may wait for those attached
    waiting_max: int  # drains and purges that wait at once; far below Control.inflight_max


class _Drain:
    """One drain under way: when it is over, and how many sessions were left then."""

    def __init__(self, ends_at: float) -> None:
        self.time = CancelScope(deadline=ends_at)
        self.left: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def hurry(self, ends_at: float) -> None:
        """Somebody has less time: it ends then, unless it does earlier."""
        self.time.deadline = min(self.time.deadline, ends_at)


class Control(control.Control):
    inflight_max = 1024  # those who wait, of whom there may be fewer, and those who never do

    def __init__(
        self,
        *,
        evictor: Ref[eviction.EvictionController],
        engines: Ref[gateway.Gateway],
        stores: Sequence[Ref[store.StoreActor]],
        peers: Ref[Peers] | None = None,
        children: Callable[[], list[ChildHealth]],
        telemetry: Telemetry,
        stop: Callable[[], None],
        limits: ControlLimits,
    ) -> None:
        self._evictor = evictor
        self._gateway = engines
        self._stores = stores
        self._peers = peers
        self._children = children
        self._telemetry = telemetry
        self._stop = stop
        self._limits = limits
        self._waiting = 0  # <= limits.waiting_max
        self._sessions = 0
        self._is_empty = asyncio.Event()  # set iff _sessions == 0
        self._is_empty.set()
        self._draining: _Drain | None = None
        self._log = Log("control")

    async def receive(self, msg: control.Message) -> object:
        match msg:
            case control.GetHealth():
                return answer(msg, await self._health())
            case control.SessionsLeft():
                self._count(msg.count)
                return answer(msg, None)
            case control.PurgeL1():
                with self._place():
                    purge = eviction.Purge()
                    return answer(msg, await self._evictor.ask(purge, within=self._limits.ask_s))
            case control.GetMetrics():
                return answer(msg, self._telemetry.exposition().decode())
            case control.Drain():
                return answer(msg, await self._join_drain(msg.within_s))
            case _:
                assert_never(msg)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Raises TooManyInFlight."""
        if self._waiting >= self._limits.waiting_max:
            raise TooManyInFlight(
                f"{self._waiting} drains and purges are waited for already, the bound is"
                " control.waiting_max: wait for one of them"
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _health(self) -> NodeHealth:
        within = min(self._limits.ask_s, STORE_ASK_S)
        asks = [one.ask(store.Measure(), within=within) for one in self._stores]
        names = [one.name for one in self._stores]
        told: list[_Said] = [*await gather_asks(asks)]
        if self._peers is not None:
            cluster = await gather_asks([self._peers.ask(MeasurePeers(), within=within)])
            told += cluster
            names.append(self._peers.name)
        said = dict(zip(names, told, strict=True))
        parts = tuple(_part(child, said.get(child.name)) for child in self._children())
        if self._draining is not None:
            state = HealthState.DRAINING
        elif all(part.state is HealthState.SERVING for part in parts):
            state = HealthState.SERVING
        else:
            state = HealthState.DEGRADED
        return NodeHealth(state, parts)

    def _count(self, sessions: int) -> None:
        self._sessions = sessions
        (self._is_empty.clear if sessions else self._is_empty.set)()

    async def _join_drain(self, within_s: float) -> int:
        """Raises InvalidField, TooManyInFlight."""
        if within_s > self._limits.drain_s_max:
            longest_ms = int(self._limits.drain_s_max * 1000)
            problem = f"at most {longest_ms} ms (drain_max), not {int(within_s * 1000)}"
            raise InvalidField("within_ms", problem)
        with self._place():
            ends_at = asyncio.get_running_loop().time() + within_s
            if self._draining is None:
                self._log.info("draining", sessions=self._sessions, within_s=within_s)
                self._draining = _Drain(ends_at)
                self.start_soon(self._drain, self._draining, name="drain")
            else:
                self._draining.hurry(ends_at)
            return await asyncio.shield(self._draining.left)

    async def _drain(self, drain: _Drain) -> None:
        """Nobody is admitted any more; when those attached have left, or their time is over, the node stops."""
        with drain.time:
            await self._stop_admitting()
            await self._is_empty.wait()
        if drain.time.cancelled_caught:
            self._log.warning("drain_incomplete", sessions=self._sessions)
        drain.left.set_result(self._sessions)
        self._stop()

    async def _stop_admitting(self) -> None:
        """Until the gateway has heard it: a drain that admits would never end."""
        while True:
            try:
                left = await self._gateway.ask(gateway.StopAdmitting(), within=self._limits.ask_s)
            except ActorStopped:
                return
            except (DeadlineExceeded, ActorCrashed) as trouble:
                self._log.warning_once("still_admitting", reason=str(trouble))
            else:
                # A former life of ours may have heard of sessions that this one has not.
                self._count(left)
                return


def _part(child: ChildHealth, said: _Said | None) -> PartHealth:
    """`said`: what a store, or who keeps the links to peers, answered about itself; None for all other parts."""
    state = _STATES[child.state]
    details = [] if child.last_crash is None else [f"last crash: {child.last_crash}"]
    if isinstance(said, StoreUsage):
        if said.state is StoreState.BROKEN and state is HealthState.SERVING:
            state = HealthState.DEGRADED
        details += [said.detail] if said.detail else []
    elif isinstance(said, ClusterUsage):
        trouble = _cluster_trouble(said)
        state = HealthState.DEGRADED if trouble and state is HealthState.SERVING else state
        details += trouble
    elif said is not None:
        state = HealthState.DEGRADED if state is HealthState.SERVING else state
        details.append(str(said))
    return PartHealth(child.name, state, child.restarts_total, "; ".join(details))


def _cluster_trouble(said: ClusterUsage) -> list[str]:
    """What is wrong with the cluster, as this node sees it."""
    trouble = [f"membership: {said.degraded}"] if said.degraded else []
    away = [one for one in said.peers if one.state is not PeerState.LINKED]
    if away:
        told = ", ".join(f"{one.node_id} ({one.detail})" for one in away[:AWAY_TOLD_MAX])
        more = f", and {len(away) - AWAY_TOLD_MAX} more" if len(away) > AWAY_TOLD_MAX else ""
        trouble.append(f"{len(away)} of {len(said.peers)} peers away: {told}{more}")
    return trouble
