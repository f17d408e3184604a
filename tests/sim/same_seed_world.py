"""A busy little world for test_same_seed.py: run as a program it prints its transcript.

Actors that crash, time out, wait for room, draw random numbers and pass hazards; tasks that are cancelled in
crowds. Anything that depends on addresses, on string hashes or on the process shows up as another transcript.
"""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from dataclasses import dataclass

import anyio

from penstock.runtime.actor import Actor
from penstock.runtime.hazard import hazard
from penstock.runtime.message import Msg, answer
from penstock.runtime.ref import Ref, gather_asks
from penstock.runtime.sim_loop import Simulation
from penstock.runtime.supervisor import ChildSpec, supervise


@dataclass(frozen=True, slots=True)
class Job(Msg["Worker", str]):
    seconds: float
    bug: bool


class Worker(Actor[Job]):
    inflight_max = 4

    async def receive(self, msg: Job) -> object:
        await hazard("worker.before")
        await anyio.sleep(msg.seconds)
        if msg.bug:
            raise ZeroDivisionError("drawn")
        await hazard("worker.after")
        return answer(msg, uuid.uuid4().hex)


async def world(notes: Simulation) -> None:
    ref = Ref.to(Worker, "worker", messages_max=3)
    async with supervise(ChildSpec(ref, Worker, restarts_max=1000)) as supervisor:
        for _ in range(10):
            jobs = [Job(random.uniform(0, 2), random.random() < 0.1) for _ in range(12)]
            heard = await gather_asks(ref.ask(job, within=random.uniform(0.5, 4)) for job in jobs)
            notes.transcript.note(f"heard {heard}")
            with anyio.move_on_after(random.random()):
                async with anyio.create_task_group() as crowd:
                    for _ in range(30):
                        crowd.start_soon(_hang_about, notes)
            async with asyncio.TaskGroup() as others:
                for _ in range(5):
                    others.create_task(asyncio.sleep(random.random()))
        notes.transcript.note(f"health {supervisor.health()}")


async def _hang_about(notes: Simulation) -> None:
    mine = random.random()
    try:
        await anyio.sleep(10)
    finally:
        notes.transcript.note(f"cancelled {mine}")


def transcript(seed: int) -> str:
    """The whole transcript of one run."""
    simulation = Simulation(seed)
    simulation.run(lambda: world(simulation))
    return simulation.transcript.text()


def litter() -> list[bytearray]:
    """Memory in a disorder that differs with PYTHONHASHSEED, so that objects lie at other addresses."""
    pieces = [bytearray(number % 480) for number in range(20_000)]
    return [piece for number, piece in enumerate(pieces) if hash(f"piece {number}") % 2]


if __name__ == "__main__":
    kept = litter()
    sys.stdout.write(transcript(int(sys.argv[1])))
