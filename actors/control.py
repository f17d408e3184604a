"""The control actor: health, drain, purge, metrics. It asks the others and is asked by none of them.

A drain is this actor's own work, begun by the first who asks for it and joined by all others: nobody's going away
ends it. Whoever waits here holds one of a bounded number of places, so that health is always answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

from anyio import CancelScope

from penstock.actors.api import control, eviction, gateway
from penstock.actors.api.control import HealthState, NodeHealth, PartHealth
from penstock.actors.api.errors import InvalidField, TooManyInFlight
from penstock.runtime.errors import ActorCrashed, ActorStopped, DeadlineExceeded
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildHealth, ChildState
from penstock.runtime.telemetry import Telemetry

WAITING_MAX = 32  # drains and purges that wait at once; the other places are for those who never do

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


class _Drain:
    """One drain under way: when it is over, and how many sessions were left then."""

    def __init__(self, ends_at: float) -> None:
        self.time = CancelScope(deadline=ends_at)
        self.left: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def hurry(self, ends_at: float) -> None:
        """Somebody has less time: it ends then, unless it does earlier."""
        self.time.deadline = min(self.time.deadline, ends_at)


class Control(control.Control):
    inflight_max = 2 * WAITING_MAX

    def __init__(
        self,
        *,
        evictor: Ref[eviction.EvictionController],
        engines: Ref[gateway.Gateway],
        children: Callable[[], list[ChildHealth]],
        telemetry: Telemetry,
        stop: Callable[[], None],
        limits: ControlLimits,
    ) -> None:
        self._evictor = evictor
        self._gateway = engines
        self._children = children
        self._telemetry = telemetry
        self._stop = stop
        self._limits = limits
        self._waiting = 0  # <= WAITING_MAX
        self._sessions = 0
        self._is_empty = asyncio.Event()  # set iff _sessions == 0
        self._is_empty.set()
        self._draining: _Drain | None = None
        self._log = Log("control")

    async def receive(self, msg: control.Message) -> object:
        match msg:
            case control.GetHealth():
                return answer(msg, self._health())
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
        if self._waiting >= WAITING_MAX:
            raise TooManyInFlight(
                f"{WAITING_MAX} drains and purges are waited for already: wait for one of them"
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def _health(self) -> NodeHealth:
        parts = tuple(_part(child) for child in self._children())
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


def _part(child: ChildHealth) -> PartHealth:
    detail = "" if child.last_crash is None else f"last crash: {child.last_crash}"
    return PartHealth(child.name, _STATES[child.state], child.restarts_total, detail)
