"""Hazards: named moments at which something may come in between, such as a crash, a cancel or a
slow peer.

    grant = await self._grant(offer)
    await hazard("pd.after_grant")
    await self._push(grant)

In production a hazard is one look into a context variable. A test puts hazards in force to pin an
interleaving (`ScriptedHazards`), a simulation draws pauses from its seed (`SeededHazards`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

Action = Callable[[], Awaitable[object]]

PAUSE_MS_MAX = 50  # longest pause that SeededHazards draws


class Hazards(Protocol):
    """What happens when code comes past a named moment."""

    async def reach(self, name: str) -> None:
        """Return when the code may go on; raise what should go wrong there."""


_IN_FORCE: ContextVar[Hazards | None] = ContextVar("penstock_hazards", default=None)


async def hazard(name: str) -> None:
    """Mark a moment; `name` is `part.moment`, as in "l1.after_reserve".

    Free unless hazards are in force.
    """
    hazards = _IN_FORCE.get()
    if hazards is not None:
        await hazards.reach(name)


@contextmanager
def hazards_in_force(hazards: Hazards) -> Iterator[None]:
    """Let `hazards` decide for this task and for all tasks born inside the block."""
    token = _IN_FORCE.set(hazards)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


class Gate:
    """One hazard held shut: whoever comes to it waits until the test opens it."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def wait_reached(self) -> None:
        """Wait until somebody stands before the gate."""
        await self._reached.wait()

    def open(self) -> None:
        """Let everyone through, now and later."""
        self._opened.set()

    async def pass_through(self) -> None:
        """What the code under test does."""
        self._reached.set()
        await self._opened.wait()


class ScriptedHazards:
    """Hazards that a test has planned by name; all others are passed at once."""

    def __init__(self) -> None:
        self.passed: list[str] = []  # every hazard come to, in order
        self._actions: dict[str, Action] = {}

    def on(self, name: str, action: Action) -> None:
        """Run `action` whenever `name` is reached; what it raises is raised there."""
        self._actions[name] = action

    def hold(self, name: str) -> Gate:
        """Hold everyone who comes to `name` until the gate is opened."""
        gate = Gate()
        self.on(name, gate.pass_through)
        return gate

    async def reach(self, name: str) -> None:
        self.passed.append(name)
        action = self._actions.get(name)
        if action is not None:
            await action()


class SeededHazards:
    """Pauses drawn from a seed: often none, sometimes a few steps, now and then some time."""

    def __init__(self, draw: random.Random, *, on_reach: Callable[[str], None]) -> None:
        self._draw = draw
        self._on_reach = on_reach

    async def reach(self, name: str) -> None:
        self._on_reach(name)
        fate = self._draw.random()
        if fate < 0.125:
            await asyncio.sleep(self._draw.uniform(0, PAUSE_MS_MAX) / 1000)
        elif fate < 0.5:
            for _ in range(self._draw.randint(1, 4)):
                await asyncio.sleep(0)
