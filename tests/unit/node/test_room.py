"""Room for the loads of one tier: bounded, in turns, and left whole by whoever gives up."""

from __future__ import annotations

import random

import anyio
import pytest

from penstock.actors.api.types import TicketId
from penstock.actors.room import Room
from penstock.runtime.sim_loop import Simulation

TICKETS = [TicketId(bytes([number]) * 16) for number in range(4)]


def test_tickets_take_turns() -> None:
    """A ticket of many loads is passed by one of a single load, and nobody passes who does not fit."""
    order: list[int] = []

    async def main() -> None:
        room = Room(2)
        assert room.take_now(2)

        async def load(number: int, count: int) -> None:
            await room.take(count, TICKETS[number])
            order.append(number)
            room.give_back(count)

        async with anyio.create_task_group() as loads:
            for number in (0, 0, 0, 1):
                loads.start_soon(load, number, 2)
                await anyio.sleep(1)
            assert not room.take_now(1)
            room.give_back(2)
        assert room.taken_bytes == 0
        assert room.take_now(3), "larger than all of it, and alone"

    Simulation(0).run(main)
    assert order == [0, 1, 0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_whoever_gives_up_leaves_no_bytes_taken_and_nobody_behind(seed: int) -> None:
    """Given up while it waits, in the step in which it is granted, or while it loads.

    Seen to fail: a turn was granted to one that was being cancelled, and the prefetcher died of it."""
    draw = random.Random(seed)

    async def main() -> None:
        room = Room(8)

        async def load(number: int) -> None:
            count = draw.randint(1, 9)
            with anyio.move_on_after(draw.choice([1, 2, 3, 50])):
                await room.take(count, TICKETS[number % 4])
                try:
                    assert room.taken_bytes <= max(8, count)
                    await anyio.sleep(draw.choice([0, 1, 1, 2]))
                finally:
                    room.give_back(count)

        async with anyio.create_task_group() as loads:
            for number in range(40):
                loads.start_soon(load, number)
        assert room.taken_bytes == 0
        assert room.take_now(8), "somebody is still waited for"

    Simulation(seed).run(main)
