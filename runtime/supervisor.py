"""Supervision: children start in order, each ready before the next; stop in reverse; and are
restarted alone.

    children = ChildSpec(l1, make_l1, restarts_max=0), ChildSpec(store, make_store)
    async with supervise(*children) as supervisor:
        await until_told_to_stop()

A crash restarts that child only (one for one), at once, at most `restarts_max` times in `window_s`.
Beyond that it escalates: the body is cancelled, the others are stopped in order, and `Escalated` is
raised.

    STARTING -> RUNNING -> STOPPING -> STOPPED   (a child that will not end stays STOPPING: left behind)
       |  ^        |
       |  '-crash--+--> FAILED (escalated)
       '--> FAILED (never became ready: StartFailed)
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anyio import CancelScope

from penstock.runtime.actor import Actor, Crash, live
from penstock.runtime.errors import Escalated, PenstockError, StartFailed, forget_frames
from penstock.runtime.log import Log
from penstock.runtime.mailbox import MailboxStatistics
from penstock.runtime.ref import Ref

A = TypeVar("A", bound=Actor[Any])


class ChildState(enum.Enum):
    """Where a child is in its life; drawn in the module's docstring."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class NotReady(TimeoutError):
    """A child's `on_start` took longer than its `ready_within_s`; counts as a crash."""


@dataclass(frozen=True, slots=True)
class ChildSpec(Generic[A]):
    """One child: its mailbox, how to make the actor behind it, and how much of it is tolerated."""

    ref: Ref[A]
    factory: Callable[[], A]
    restarts_max: int = 3  # crashes survived within `window_s`; 0: the first one escalates
    window_s: float = 60.0
    ready_within_s: float = 30.0  # for on_start, in every life
    drain_s: float = 5.0  # to finish what is queued when told to stop; then it is cancelled
    end_s: float = 30.0  # to end once it is cancelled, whatever it shields; then it is left behind

    def __post_init__(self) -> None:
        if self.restarts_max < 0:
            raise ValueError(f"{self.ref.name}: restarts_max must not be negative")
        if min(self.window_s, self.ready_within_s, self.drain_s, self.end_s) <= 0:
            raise ValueError(f"{self.ref.name}: durations must be positive")


@dataclass(frozen=True, slots=True)
class ChildHealth:
    """What is known of one child, for health reports and metrics."""

    name: str
    state: ChildState
    restarts_total: int
    last_crash: str | None  # repr of the bug
    mailbox: MailboxStatistics


class _Child:
    """One supervised child over all its lives."""

    def __init__(self, spec: ChildSpec[Any]) -> None:
        self.spec = spec
        self.name = spec.ref.name
        self.state = ChildState.STARTING
        self.restarts_total = 0
        self.last_crash: Crash | None = None
        self.first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.scope = CancelScope()
        self._task: asyncio.Task[None] | None = None
        self._restarted_at: deque[float] = deque(maxlen=spec.restarts_max or 1)  # loop time

    def begin(self, life: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(life, name=self.name)

    def on_ready(self) -> None:
        if self.state is ChildState.STARTING:
            self.state = ChildState.RUNNING
        if not self.first_ready.done():
            self.first_ready.set_result(None)

    def may_restart(self, now: float) -> bool:
        """Whether one more restart stays within the intensity; counts it if so."""
        limit = self.spec.restarts_max
        if limit == 0:
            return False
        recent = [at for at in self._restarted_at if now - at < self.spec.window_s]
        if len(recent) >= limit:
            return False
        self._restarted_at.append(now)
        self.restarts_total += 1
        return True

    async def stop(self) -> bool:
        """Let it finish what is queued, for `drain_s`; then cancel it, and wait for its end, for `end_s`.

        False if it has not ended even then: its askers are told that it has stopped, and it goes on alone, STOPPING.
        Its mailbox refuses from now on.
        """
        if self.state is not ChildState.FAILED:
            self.state = ChildState.STOPPING
        self.spec.ref.mailbox.close()
        has_ended = await self._ends_within(self.spec.drain_s)
        if not has_ended:
            self.scope.cancel("not drained in time")
            has_ended = await self._ends_within(self.spec.end_s)
        self.spec.ref.mailbox.discard()
        if has_ended and self.state is not ChildState.FAILED:
            self.state = ChildState.STOPPED
        return has_ended

    async def _ends_within(self, seconds: float) -> bool:
        if self._task is None:
            return True
        await asyncio.wait({self._task}, timeout=seconds)
        return self._task.done()

    def health(self) -> ChildHealth:
        bug = None if self.last_crash is None else repr(self.last_crash.bug)
        statistics = self.spec.ref.statistics()
        return ChildHealth(self.name, self.state, self.restarts_total, bug, statistics)


class Supervisor:
    """The parent of a row of actors; made by `supervise`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.escalated: Crash | None = None
        self.left_behind_total = 0  # children that did not end within their `end_s`
        self._children: dict[str, _Child] = {}  # in the order of their start
        self._body = CancelScope()
        self._log = Log(name)

    async def start(self, spec: ChildSpec[Any]) -> None:
        """Start one more child and wait until it is ready; it will be stopped before all that are
        running.

        Raises the PenstockError with which it refused to start; StartFailed if it dies of a bug, or
        is not ready within `ready_within_s`. It is gone then.
        """
        if spec.ref.name in self._children:
            raise ValueError(f"{self.name} has a child {spec.ref.name!r} already")
        child = _Child(spec)
        self._children[child.name] = child
        child.begin(self._keep_alive(child))
        await asyncio.wait({child.first_ready})
        if child.state is ChildState.FAILED:
            assert child.last_crash is not None
            await self._forget(child)
            bug = child.last_crash.bug
            if isinstance(bug, PenstockError):
                raise bug
            raise StartFailed(f"{child.name}: {bug!r}") from bug

    async def stop(self, name: str) -> None:
        """Stop one child in order.

        Its ref refuses from now on. Raises KeyError for an unknown name.
        """
        await self._forget(self._children[name])

    def health(self) -> list[ChildHealth]:
        """Every child, in the order of their start."""
        return [child.health() for child in self._children.values()]

    async def _keep_alive(self, child: _Child) -> None:
        """All lives of one child. Never raises what an actor did."""
        with child.scope:
            while (crash := await self._one_life(child)) is not None:
                child.last_crash = crash
                if not child.first_ready.done():
                    if not isinstance(crash.bug, PenstockError):  # a refusal is told by `start`
                        self._log.crash("actor_died", crash.bug, actor=child.name)
                    child.state = ChildState.FAILED
                    child.first_ready.set_result(None)
                    return
                self._log.crash("actor_died", crash.bug, actor=child.name)
                forget_frames(crash.bug)  # it is kept; what its actor held is nobody's now
                if child.state is ChildState.STOPPING:
                    return
                if not child.may_restart(asyncio.get_running_loop().time()):
                    self._escalate(child, crash)
                    return
                child.state = ChildState.STARTING

    async def _one_life(self, child: _Child) -> Crash | None:
        spec, now = child.spec, asyncio.get_running_loop().time()
        with CancelScope(deadline=now + spec.ready_within_s) as starting:

            def on_ready() -> None:
                starting.deadline = math.inf
                child.on_ready()

            return await live(spec.factory, spec.ref.mailbox, on_ready)
        slow = NotReady(f"not ready within {spec.ready_within_s:g} s")
        return Crash(child.name, slow, was_ready=False)

    def _escalate(self, child: _Child, crash: Crash) -> None:
        child.state = ChildState.FAILED
        child.spec.ref.mailbox.discard()
        self.escalated = self.escalated or crash
        self._log.error(
            "escalated", actor=child.name, restarts=child.restarts_total, bug=repr(crash.bug)
        )
        self._body.cancel(f"{child.name} escalated")

    async def _forget(self, child: _Child) -> None:
        with CancelScope(shield=True):
            await self._stop(child)
        del self._children[child.name]

    async def _stop_all(self) -> None:
        with CancelScope(shield=True):
            for child in reversed(self._children.values()):
                await self._stop(child)

    async def _stop(self, child: _Child) -> None:
        if not await child.stop():
            self.left_behind_total += 1
            self._log.error("left_behind", actor=child.name, after_s=child.spec.end_s)


@asynccontextmanager
async def supervise(*specs: ChildSpec[Any], name: str = "node") -> AsyncIterator[Supervisor]:
    """Run children while the body runs; they are stopped, in reverse order, however it ends.

    Raises StartFailed if one of `specs` does not become ready; Escalated if one crashed more often
    than it may. What the body itself raises passes through unchanged.
    """
    supervisor = Supervisor(name)
    try:
        with supervisor._body:  # noqa: SLF001 - this function is its other half
            for spec in specs:
                await supervisor.start(spec)
            yield supervisor
    finally:
        await supervisor._stop_all()  # noqa: SLF001
        if supervisor.escalated is not None:
            crash = supervisor.escalated
            raise Escalated(f"{crash.name} died of {crash.bug!r}; {name} stopped") from crash.bug
