"""An ask of an idle actor that cannot wait is served in the asker's own step, with the outcome of any other ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

import anyio
import pytest
from anyio.lowlevel import checkpoint

from penstock.runtime.actor import Actor
from penstock.runtime.errors import ActorCrashed, ActorStopped, CallerError
from penstock.runtime.message import NOT_AT_ONCE, Msg, answer
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
    """Seen to fail with actors that are never idle: the handler ran in the actor's task."""

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


@dataclass(frozen=True, slots=True)
class Find(Msg["Finder", str]):
    what: str


class Finder(Actor[Find]):
    """Serves many at a time; what it knows it tells at once."""

    inflight_max = 4

    def __init__(self) -> None:
        self.searched: list[str] = []

    def receive_at_once(self, msg: Find) -> object:
        match msg.what:
            case "bug":
                raise ZeroDivisionError("a bug")
            case "none":
                raise CallerError("there is none")
            case "known":
                return answer(msg, "here")
        return NOT_AT_ONCE

    async def receive(self, msg: Find) -> object:
        await checkpoint()
        self.searched.append(msg.what)
        return answer(msg, "found")


def find(test: Callable[[Ref[Finder], Finder], Awaitable[None]]) -> None:
    async def main() -> None:
        ref, finder = Ref.to(Finder, "finder", messages_max=4), Finder()
        async with supervise(ChildSpec(ref, lambda: finder, restarts_max=1)):
            await anyio.wait_all_tasks_blocked()
            await test(ref, finder)

    asyncio.run(main())


def test_an_actor_of_many_messages_tells_at_once_what_it_need_not_wait_for() -> None:
    async def scenario(ref: Ref[Finder], finder: Finder) -> None:
        assert ref.ask_now(Find("known")) == "here"
        assert ref.ask_now(Find("far")) is NOT_AT_ONCE
        assert ref.statistics().accepted_total == 1
        assert await ref.ask(Find("known"), within=1) == "here"
        assert finder.searched == []
        assert await ref.ask(Find("far"), within=1) == "found"
        assert finder.searched == ["far"]

    find(scenario)


def test_what_waits_is_not_overtaken() -> None:
    async def scenario(ref: Ref[Finder], _: Finder) -> None:
        async with anyio.create_task_group() as asks:
            asks.start_soon(lambda: ref.ask(Find("far"), within=1))
            await checkpoint()
            assert ref.ask_now(Find("known")) is NOT_AT_ONCE

    find(scenario)


def test_a_refusal_at_once_is_an_answer_and_a_bug_the_end() -> None:
    async def scenario(ref: Ref[Finder], _: Finder) -> None:
        with pytest.raises(CallerError, match="there is none"):
            ref.ask_now(Find("none"))
        assert ref.ask_now(Find("known")) == "here"
        with pytest.raises(ActorCrashed, match="a bug"):
            ref.ask_now(Find("bug"))
        assert ref.ask_now(Find("known")) is NOT_AT_ONCE
        await anyio.wait_all_tasks_blocked()
        assert ref.ask_now(Find("known")) == "here"  # of the next life

    find(scenario)


def test_on_a_simulated_loop_nothing_is_told_at_once() -> None:
    async def main() -> None:
        ref = Ref.to(Finder, "finder", messages_max=4)
        async with supervise(ChildSpec(ref, Finder)):
            assert ref.ask_now(Find("known")) is NOT_AT_ONCE
            assert await ref.ask(Find("known"), within=1) == "found"

    simulate(1, main)
