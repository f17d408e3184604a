"""The control actor: health, drain, purge, metrics. It asks the others and is asked by none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from penstock.actors.api import control, gateway, l1
from penstock.actors.api.control import HealthState, NodeHealth, PartHealth
from penstock.runtime.log import Log
from penstock.runtime.message import answer
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import ChildHealth, ChildState
from penstock.runtime.telemetry import Telemetry

_STATES = {
    ChildState.STARTING: HealthState.STARTING,
    ChildState.RUNNING: HealthState.SERVING,
    ChildState.STOPPING: HealthState.DRAINING,
    ChildState.STOPPED: HealthState.DRAINING,
    ChildState.FAILED: HealthState.DEGRADED,
}


class Control(control.Control):
    inflight_max = 64  # a drain waits; health must not wait behind it

    def __init__(
        self,
        *,
        manager: Ref[l1.L1Manager],
        engines: Ref[gateway.Gateway],
        children: Callable[[], list[ChildHealth]],
        telemetry: Telemetry,
        stop: Callable[[], None],
        ask_s: float,
    ) -> None:
        self._l1 = manager
        self._gateway = engines
        self._children = children
        self._telemetry = telemetry
        self._stop = stop
        self._ask_s = ask_s
        self._sessions = 0
        self._is_empty = asyncio.Event()  # set iff _sessions == 0
        self._is_empty.set()
        self._is_draining = False
        self._log = Log("control")

    async def receive(self, msg: control.Message) -> object:
        match msg:
            case control.GetHealth():
                return answer(msg, self._health())
            case control.SessionsLeft():
                self._count(msg.count)
                return answer(msg, None)
            case control.PurgeL1():
                return answer(msg, await self._l1.ask(l1.Purge(), within=self._ask_s))
            case control.GetMetrics():
                return answer(msg, self._telemetry.exposition().decode())
            case control.Drain():
                return answer(msg, await self._drain(msg.within_s))
            case _:
                assert_never(msg)

    def _health(self) -> NodeHealth:
        parts = tuple(_part(child) for child in self._children())
        if self._is_draining:
            state = HealthState.DRAINING
        elif all(part.state is HealthState.SERVING for part in parts):
            state = HealthState.SERVING
        else:
            state = HealthState.DEGRADED
        return NodeHealth(state, parts)

    def _count(self, sessions: int) -> None:
        self._sessions = sessions
        (self._is_empty.clear if sessions else self._is_empty.set)()

    async def _drain(self, within_s: float) -> int:
        self._is_draining = True
        self._log.info("draining", sessions=self._sessions, within_s=within_s)
        # A former life of ours may have heard of sessions that this one has not.
        self._count(await self._gateway.ask(gateway.StopAdmitting(), within=self._ask_s))
        try:
            async with asyncio.timeout(within_s):
                await self._is_empty.wait()
        except TimeoutError:
            self._log.warning("drain_incomplete", sessions=self._sessions)
        self._stop()
        return self._sessions


def _part(child: ChildHealth) -> PartHealth:
    detail = "" if child.last_crash is None else f"last crash: {child.last_crash}"
    return PartHealth(child.name, _STATES[child.state], child.restarts_total, detail)
