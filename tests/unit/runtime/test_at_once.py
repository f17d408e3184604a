"""An ask of an idle actor that cannot wait is served in the asker's own step, with the outcome of any other ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

import anyio
import pytest

from penstock.runtime.actor import Actor
from penstock.runtime.errors import ActorCrashed, ActorStopped, CallerError
from penstock.runtime.message import Msg, answer
from penstock.runtime.ref import Ref
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import ChildSpec, ChildState, Supervisor, supervise


class How(Enum):
    WELL = 0
    REFUSED = 1
    BUG = 2


@dataclass(frozen=True, slots=True)
class Add(Msg["Adder", int]):
    amount: int
    how: How = How.WELL


class Adder(Actor[Add]):
    """A critical section that remembers in which task it ran."""

    def __init__(self, tasks: list[asyncio.Task[object] | None]) -> None:
        self._sum = 0
        self._tasks = tasks

    def receive(self, msg: Add) -> object:
        self._tasks.append(asyncio.current_task())
        if msg.how is How.REFUSED:
            raise CallerError("no")
        if msg.how is How.BUG:
            raise ZeroDivisionError("a bug")
        self._sum += msg.amount
        return answer(msg, self._sum)


class World:
    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[object] | None] = []
        self.ref = Ref.to(Adder, "adder", messages_max=4)

    def spec(self, *, restarts_max: int = 1) -> ChildSpec[Adder]:
        return ChildSpec(self.ref, lambda: Adder(self.tasks), restarts_max=restarts_max)


def run(test: Callable[[World, Supervisor], Awaitable[None]]) -> None:
    """On a real loop: a simulated one takes every hop."""

    async def main() -> None:
        world = World()
        async with supervise(world.spec()) as supervisor:
            await anyio.wait_all_tasks_blocked()
            await test(world, supervisor)

    asyncio.run(main())


def test_an_idle_actor_is_served_where_the_ask_stands() -> None:
    """Seen to fail with `is_idle` always False: the handler ran in the actor's task."""

    async def scenario(world: World, _: Supervisor) -> None:
        assert await world.ref.ask(Add(2), within=1) == 2
        assert await world.ref.ask(Add(3), within=1) == 5
        assert world.tasks == [asyncio.current_task()] * 2
        assert world.ref.statistics().accepted_total == 2

    run(scenario)


def test_a_refusal_leaves_the_actor_idle() -> None:
    async def scenario(world: World, supervisor: Supervisor) -> None:
        with pytest.raises(CallerError, match="no"):
            await world.ref.ask(Add(1, How.REFUSED), within=1)
        assert await world.ref.ask(Add(1), within=1) == 1
        assert world.tasks == [asyncio.current_task()] * 2
        assert supervisor.health()[0].restarts_total == 0

    run(scenario)


def test_a_bug_kills_the_actor_and_not_the_asker() -> None:
    """Seen to fail when the exception was only raised to the asker: the actor lived on with its broken state."""

    async def scenario(world: World, supervisor: Supervisor) -> None:
        await world.ref.ask(Add(7), within=1)
        with pytest.raises(ActorCrashed, match="ZeroDivisionError"):
            await world.ref.ask(Add(1, How.BUG), within=1)
        with pytest.raises(ActorCrashed):
            await world.ref.ask(Add(1), within=1)  # queued behind the crash
        await anyio.wait_all_tasks_blocked()
        assert await world.ref.ask(Add(1), within=1) == 1, "a new life began"
        (health,) = supervisor.health()
        assert (health.restarts_total, health.state) == (1, ChildState.RUNNING)

    run(scenario)


def test_messages_that_wait_come_first() -> None:
    """An ask never overtakes what is queued."""

    async def scenario(world: World, _: Supervisor) -> None:
        answers: list[int] = []

        async def add(amount: int) -> None:
            answers.append(await world.ref.ask(Add(amount), within=1))

        world.ref.mailbox.put_nowait(_told(Add(100)))
        async with anyio.create_task_group() as askers:
            askers.start_soon(add, 1)
            askers.start_soon(add, 2)
        assert answers == [101, 103]

    run(scenario)


def test_a_stopped_actor_refuses() -> None:
    async def scenario(world: World, supervisor: Supervisor) -> None:
        await supervisor.stop("adder")
        with pytest.raises(ActorStopped):
            await world.ref.ask(Add(1), within=1)

    run(scenario)


def test_a_simulated_loop_takes_every_hop() -> None:
    async def main() -> None:
        world = World()
        async with supervise(world.spec()):
            await anyio.sleep(1)
            assert await world.ref.ask(Add(2), within=1) == 2
        assert world.tasks != [asyncio.current_task()]

    simulate(0, main)


def _told(msg: Add):  # type: ignore[no-untyped-def]
    from penstock.runtime.message import Envelope

    return Envelope(msg, float("inf"), None)
