"""Asking and telling: room, answers, deadlines, giving up. Every test runs under several orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import pytest

from penstock.runtime.actor import Actor
from penstock.runtime.deadline import MissingDeadline, deadline_at, deadline_within, time_left
from penstock.runtime.errors import (
    ActorStopped,
    CapacityError,
    DeadlineExceeded,
    MailboxFull,
    PenstockError,
)
from penstock.runtime.message import Msg, answer
from penstock.runtime.ref import Ref, gather_asks
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import ChildSpec, supervise


class Full(CapacityError):
    pass


@dataclass(frozen=True, slots=True)
class Wait(Msg["Waiter", float]):
    """Answered after `seconds`, with the time its handler had left."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse(Msg["Waiter", None]):
    pass


@dataclass(frozen=True, slots=True)
class Note(Msg["Waiter", None]):
    seconds: float = 0.0


@dataclass
class Waiter(Actor[Wait | Refuse | Note]):
    """One message at a time; remembers what became of each."""

    log: list[str] = field(default_factory=list)
    cleanup_s: float = 0.0

    async def receive(self, msg: Wait | Refuse | Note) -> object:
        match msg:
            case Wait():
                return answer(msg, await self._wait(msg.seconds))
            case Note():
                await self._wait(msg.seconds)
                return answer(msg, None)
            case Refuse():
                self.log.append("refused")
                raise Full("no room for this")

    async def _wait(self, seconds: float) -> float:
        left = time_left()
        try:
            await anyio.sleep(seconds)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self.cleanup_s)
            self.log.append(f"cancelled {seconds:g}")
            raise
        self.log.append(f"waited {seconds:g}")
        return left


Scenario = Callable[[Ref[Waiter], Waiter], Awaitable[None]]


@pytest.fixture(params=range(5), ids=lambda seed: f"seed{seed}")
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Run a scenario against a running Waiter whose mailbox has room for two."""

    async def main(scenario: Scenario) -> None:
        waiter = Waiter()
        ref = Ref.to(Waiter, "waiter", messages_max=2)
        async with supervise(ChildSpec(ref, lambda: waiter)):
            await scenario(ref, waiter)

    return lambda scenario: simulate(request.param, lambda: main(scenario))


Play = Callable[[Scenario], None]


def test_an_ask_is_answered_under_the_askers_deadline(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        assert await ref.ask(Wait(3.0), within=10) == 10.0
        assert waiter.log == ["waited 3"]

    play(scenario)


def test_an_operating_error_is_the_answer_and_the_actor_lives(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        with pytest.raises(Full, match="no room for this"):
            await ref.ask(Refuse(), within=1)
        assert await ref.ask(Wait(0), within=1) == 1.0
        assert waiter.log == ["refused", "waited 0"]

    play(scenario)


def test_a_deadline_cancels_the_handler_and_says_where_the_message_was(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        before = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded, match="waiter: Wait out of time, being served"):
            await ref.ask(Wait(100), within=2)
        assert asyncio.get_running_loop().time() - before == 2
        await ref.ask(Wait(0), within=1)
        assert waiter.log == ["cancelled 100", "waited 0"]

    play(scenario)


def test_giving_up_an_ask_cancels_its_handler_and_no_other(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ask_later, ref, 5.0)
            with anyio.move_on_after(1):
                await ref.ask(Wait(50), within=1000)
        assert waiter.log == ["cancelled 50", "waited 5"]
        assert ref.statistics().abandoned_total == 1

    async def ask_later(ref: Ref[Waiter], seconds: float) -> None:
        await anyio.sleep(0.5)
        await ref.ask(Wait(seconds), within=1000)

    play(scenario)


def test_a_queued_ask_that_was_given_up_is_never_served(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        ref.tell_nowait(Note(10))
        await anyio.sleep(1)
        with pytest.raises(DeadlineExceeded, match="queued"):
            await ref.ask(Wait(7), within=1)
        await ref.ask(Wait(0), within=100)
        assert waiter.log == ["waited 10", "waited 0"]

    play(scenario)


def test_an_ask_waits_for_room_and_leaves_the_line_when_its_time_is_up(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        for _ in range(3):
            await ref.tell(Note(10), within=1)
            await anyio.sleep(0.1)
        with pytest.raises(DeadlineExceeded, match="waiting for room behind 2 messages"):
            await ref.ask(Wait(1), within=5)
        assert ref.statistics().waiting == 0
        await ref.ask(Wait(1), within=50)
        assert waiter.log == ["waited 10"] * 3 + ["waited 1"]

    play(scenario)


def test_tell_waits_for_room_and_not_for_the_work(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], _waiter: Waiter) -> None:
        clock = asyncio.get_running_loop().time
        for expected_s in (0, 0, 0, 10):
            begin = clock()
            await ref.tell(Note(10), within=100)
            assert clock() - begin == pytest.approx(expected_s, abs=0.5)
            await anyio.sleep(0.1)
        with pytest.raises(DeadlineExceeded):
            await ref.tell(Note(10), within=1)

    play(scenario)


def test_tell_nowait_refuses_when_there_is_no_room(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], _waiter: Waiter) -> None:
        ref.tell_nowait(Note(10))
        ref.tell_nowait(Note(10))
        with pytest.raises(MailboxFull, match="waiter: 2 messages"):
            ref.tell_nowait(Note(10))
        assert ref.statistics().refused_total == 1

    play(scenario)


def test_a_deadline_is_inherited_and_only_ever_shortened(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], _waiter: Waiter) -> None:
        with deadline_within(5):
            assert await ref.ask(Wait(0)) == 5.0
            assert await ref.ask(Wait(0), within=2) == 2.0
            assert await ref.ask(Wait(0), within=100) == 5.0
            with deadline_within(100), deadline_within(None):
                assert time_left() == 5.0
            with deadline_at(3), deadline_at(100):
                assert time_left() == 3.0
            assert time_left(at_most=1) == 1

    play(scenario)


def test_an_outermost_ask_without_a_deadline_is_a_bug(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], _waiter: Waiter) -> None:
        assert time_left() == float("inf")
        with pytest.raises(MissingDeadline):
            await ref.ask(Wait(0))
        with pytest.raises(MissingDeadline):
            await ref.tell(Note())

    play(scenario)


def test_an_ask_whose_time_is_up_is_not_even_sent(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        with pytest.raises(DeadlineExceeded, match="before the message was sent"):
            await ref.ask(Wait(0), within=0)
        with deadline_within(1):
            await anyio.sleep(2)
            assert time_left() == 0
            with pytest.raises(DeadlineExceeded):
                await ref.ask(Wait(0), within=5)
        assert (waiter.log, ref.statistics().accepted_total) == ([], 0)

    play(scenario)


def test_gather_asks_gives_each_its_answer_or_error_in_order(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], _waiter: Waiter) -> None:
        asks = [ref.ask(Wait(1), within=9), ref.ask(Refuse(), within=9), ref.ask(Wait(2), within=9)]
        first, second, third = await gather_asks(asks)
        assert (type(first), type(second), type(third)) == (float, Full, float)
        with deadline_within(4):
            [late, late_too] = await gather_asks(ref.ask(Wait(s)) for s in (5.0, 9.0))
        assert isinstance(late, DeadlineExceeded)
        assert isinstance(late_too, DeadlineExceeded)
        assert await gather_asks([]) == []

    play(scenario)


def test_giving_up_gather_asks_cancels_them_all(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        with anyio.move_on_after(1):
            await gather_asks([ref.ask(Wait(50), within=99), ref.ask(Wait(60), within=99)])
        await ref.ask(Wait(0), within=1)
        assert waiter.log == [waiter.log[0], "waited 0"]
        assert waiter.log[0] in {"cancelled 50", "cancelled 60"}

    play(scenario)


def test_a_cancelled_handler_finishes_its_shielded_cleanup_before_the_next(play: Play) -> None:
    async def scenario(ref: Ref[Waiter], waiter: Waiter) -> None:
        waiter.cleanup_s = 3.0
        with pytest.raises(DeadlineExceeded):
            await ref.ask(Wait(50), within=1)
        begin = asyncio.get_running_loop().time()
        await ref.ask(Wait(0), within=10)
        assert asyncio.get_running_loop().time() - begin == 3.0
        assert waiter.log == ["cancelled 50", "waited 0"]

    play(scenario)


def test_a_stopped_actor_refuses() -> None:
    async def main() -> None:
        ref = Ref.to(Waiter, "waiter", messages_max=2)
        async with supervise(ChildSpec(ref, Waiter)):
            await ref.ask(Wait(0), within=1)
        for refused in (ref.ask(Wait(0), within=1), ref.tell(Note(), within=1)):
            with pytest.raises(ActorStopped, match="waiter"):
                await refused
        with pytest.raises(ActorStopped):
            ref.tell_nowait(Note())

    simulate(0, main)


def test_an_error_that_is_returned_keeps_nothing_of_the_handler_alive(play: Play) -> None:
    """A traceback holds frames, frames hold leases; release is a destructor and must not wait."""

    async def scenario(ref: Ref[Waiter], _waiter: Waiter) -> None:
        with pytest.raises(PenstockError) as caught:
            await ref.ask(Refuse(), within=1)
        frames = [entry.name for entry in caught.traceback]
        assert "receive" not in frames

    play(scenario)
