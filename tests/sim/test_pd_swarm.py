"""Pushes both ways between three nodes, faults drawn from a seed: safe at every moment, and alive once all is well."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from support.pd_world import SESSION, Node, PdWorld, PdWorldConfig, config, play
from support.prefetch_world import FULL, PAGE, SHARDED, prompt

from penstock.actors.api import pd
from penstock.actors.api.pd_wire import Reason
from penstock.actors.api.types import GroupGeometry
from penstock.runtime.errors import PenstockError
from penstock.runtime.sim_net import Weather
from penstock.runtime.units import ByteSize, Seconds

TESTS = Path(__file__).resolve().parents[1]
FAULTS_S = 6.0  # so long; then everything is well


@dataclass
class Swarm:
    """What has come of all requests."""

    world: PdWorld
    outcomes: list[pd.Sent] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)
    reads: int = 0
    is_well: bool = False


def groups_of(seed: int) -> tuple[GroupGeometry, ...]:
    return SHARDED if seed % 3 == 0 else FULL


async def request(swarm: Swarm, near: Node, far: Node, name: str) -> None:
    """One request's life: prefill here, decode there, either of which may give up. What is read is right."""
    draw = swarm.world.draw
    chunks = draw.randint(1, 8)
    keys = prompt(chunks, draw.choice([name, "shared"]))
    transfer: pd.TransferId | None = None
    watched = None
    for step in draw.choice([("expect", "send"), ("send", "expect"), ("send",), ("expect",)]):
        if step == "send":
            near_by = draw.randint(0, chunks)
            await near.write(keys, range(near_by))
            transfer = await near.send(
                keys, far.name, name, within_s=10.0, priority=draw.randint(0, 3)
            )
            await anyio.sleep(draw.uniform(0, 0.3))
            if draw.random() < 0.8:
                await near.write(keys, range(near_by, chunks))
        else:
            watched = await far.expect(keys, name, within_s=8.0, ticket_s=30.0)
        await anyio.sleep(draw.uniform(0, 0.5))
    if transfer is not None and draw.random() < 0.15:
        await near.sender.ask(pd.Cancel(transfer, SESSION), within=1)
    if watched is not None:
        if draw.random() < 0.8:
            await far.wait_final(watched, within=60)
        if watched.hit:
            assert await far.read(watched) >= watched.hit
            swarm.reads += 1
        swarm.hits.append(watched.hit)
        await far.close(watched)
    if transfer is not None:
        sent = await near.sent(transfer, within_s=60)
        assert sent.state is not pd.SentState.PENDING, "a push that never ends"
        swarm.outcomes.append(sent)


async def trouble(swarm: Swarm) -> None:
    """Links and calls are lost, receivers crash."""
    world, draw = swarm.world, swarm.world.draw
    names = [*world.nodes]
    while anyio.current_time() < FAULTS_S:
        await anyio.sleep(draw.uniform(0, 0.5))
        near, far = draw.sample(names, 2)
        fate = draw.random()
        if fate < 0.3:
            world.links[near, far].lose_calls()
        elif fate < 0.5:
            world.links[near, far].lose()
            await anyio.sleep(draw.uniform(0, 0.3))
            world.link(near, far)
        elif fate < 0.55:
            await world.crash_receiver(far)


async def watch(swarm: Swarm) -> None:
    """Oracles, all the time."""
    while not swarm.is_well:
        swarm.world.validate()
        await anyio.sleep(0.02)


async def whatever_happens(world: PdWorld) -> None:
    """Requests and faults, then none of either, and all is as it was."""
    swarm = Swarm(world)
    async with anyio.create_task_group() as around:
        around.start_soon(watch, swarm)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trouble, swarm)
            for number in range(18):
                near, far = world.draw.sample([*world.nodes.values()], 2)
                tasks.start_soon(request, swarm, near, far, f"q{number}")
                await anyio.sleep(world.draw.uniform(0, 0.4))
        swarm.is_well = True
    await anyio.sleep(5)  # what nobody expects is let go of
    await world.assert_nothing_is_held()
    assert swarm.outcomes
    assert not [one for one in swarm.outcomes if one.reason is Reason.PROTOCOL], swarm.outcomes
    assert not [one for one in swarm.outcomes if one.reason is Reason.DAMAGED], swarm.outcomes
    await healed(world)


def swarm_of(seed: int) -> PdWorldConfig:
    return PdWorldConfig(
        groups=groups_of(seed),
        pages=400,
        pd=config(receive=ByteSize(14 * PAGE), allocation=Seconds(2)),
        weather=Weather(delay_s=(0.0005, 0.05), write_s=(0.0, 0.01), part_bytes=1000),
        nodes=("a", "b", "c"),
    )


@pytest.mark.parametrize("seed", range(16))
def test_whatever_happens_no_byte_is_wrong_and_everything_ends(seed: int) -> None:
    """A14 A15 B11 B13 C8."""
    play(seed, whatever_happens, swarm_of(seed))


def test_two_processes_with_different_hash_seeds_write_the_same_transcript() -> None:
    """So that a failure of the swarm is replayed by its seed."""
    program = f"""if True:
        import sys
        sys.path.insert(0, {str(TESTS)!r})
        from sim.test_pd_swarm import play, swarm_of, whatever_happens
        sys.stdout.write(play(5, whatever_happens, swarm_of(5)))
    """
    first, second = (
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "4242")
    )
    assert first.count(b"\n") > 10_000
    assert first == second


async def healed(world: PdWorld) -> None:
    """Each node pushes to each other one, and all of it is whole."""
    nodes = [*world.nodes.values()]
    for near in nodes:
        for far in nodes:
            if near is far:
                continue
            name = f"well {near.name}{far.name}"
            keys = prompt(3, name)
            await near.write(keys, range(3))
            watched = await far.expect(keys, name)
            transfer = await near.send(keys, far.name, name)
            assert await far.wait_final(watched) == 3
            assert (await near.sent(transfer)).state is pd.SentState.COMMITTED
            await far.close(watched)
    await world.assert_nothing_is_held()


def test_a_push_to_nobody_fails_at_once() -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(1)
        transfer = await world.a.send(keys, "nobody")
        sent = await world.a.sent(transfer, within_s=1)
        assert (sent.state, sent.reason) == (pd.SentState.FAILED, Reason.PEER)
        with pytest.raises(PenstockError, match="no such push"):
            await world.a.sender.ask(pd.WaitSent(transfer, SESSION + 1, 1.0), within=2)  # type: ignore[arg-type]

    play(0, scene)
