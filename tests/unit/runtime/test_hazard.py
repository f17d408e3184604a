"""Hazards: free in production, pinned in tests, seeded in simulations."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from penstock.runtime.errors import UnavailableError
from penstock.runtime.hazard import ScriptedHazards, hazard, hazards_in_force
from penstock.runtime.sim_loop import Simulation, simulate


def test_without_hazards_a_pause_point_does_not_pause() -> None:
    passing = hazard("l1.after_reserve")
    with pytest.raises(StopIteration):
        passing.send(None)


def test_a_gate_pins_an_interleaving() -> None:
    async def main() -> None:
        hazards, seen = ScriptedHazards(), []
        gate = hazards.hold("writer.before_commit")

        async def writer() -> None:
            seen.append("reserved")
            await hazard("writer.before_commit")
            seen.append("committed")

        with hazards_in_force(hazards):
            async with anyio.create_task_group() as group:
                group.start_soon(writer)
                await gate.wait_reached()
                seen.append("looked up")
                gate.open()
        assert seen == ["reserved", "looked up", "committed"]
        assert hazards.passed == ["writer.before_commit"]

    for seed in range(5):
        simulate(seed, main)


def test_an_action_raises_where_the_hazard_is() -> None:
    async def main() -> None:
        async def fail() -> None:
            raise UnavailableError("the peer is gone")

        hazards = ScriptedHazards()
        hazards.on("pd.after_grant", fail)
        with hazards_in_force(hazards):
            await hazard("pd.before_grant")
            with pytest.raises(UnavailableError):
                await hazard("pd.after_grant")
        await hazard("pd.after_grant")

    asyncio.run(main())


def test_a_simulation_draws_pauses_from_its_seed() -> None:
    async def main() -> float:
        for _ in range(50):
            await hazard("l1.after_reserve")
        return asyncio.get_running_loop().time()

    first, again, other = Simulation(1), Simulation(1), Simulation(2)
    assert first.run(main) == again.run(main) > 0
    assert other.run(main) != first.loop.time()
    assert "hazard l1.after_reserve" in first.transcript.text()


def test_a_test_may_script_the_hazards_of_a_simulation() -> None:
    hazards = ScriptedHazards()

    async def main() -> None:
        await hazard("here")

    Simulation(1, hazards=hazards).run(main)
    assert hazards.passed == ["here"]
