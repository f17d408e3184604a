"""How tickets end that others' loads, writers and crashes would keep: in time, and closed if nobody reads them."""

from __future__ import annotations

from typing import TypeVar
from unittest import mock

import anyio
import pytest
from support.prefetch_world import HYBRID, PAGE, Watched, World, WorldConfig, now, play, prompt

from penstock.actors.api import l1, l1_loading
from penstock.actors.api.types import Afterwards, InstanceId, Shortfall
from penstock.runtime.message import Envelope, Msg
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import Supervisor

T = TypeVar("T")
R = TypeVar("R")
SEEDS = pytest.mark.parametrize("seed", range(6))


async def crash(world: World) -> None:
    world.prefetcher.mailbox.put_nowait(Envelope("a bug", 1e9, None))  # type: ignore[arg-type]
    await anyio.sleep(0.5)


async def final(world: World, watched: Watched, *, within: float) -> tuple[int, Shortfall]:
    began = now()
    hit = await world.wait_final(watched, within=100.0)
    assert now() - began < within, f"final after {now() - began} s"
    return hit, watched.shortfall


@SEEDS
def test_a2_loads_that_a_crash_leaves_behind_are_in_nobodys_way(seed: int) -> None:
    """A2, B1: a store hangs in the loads of a life that is over; the next one brings the same from another store.

    Seen to fail: the objects stayed reserved for as long as the store hung, and every later ticket ran out of time."""

    async def scene(world: World, _: Supervisor) -> None:
        one, (ill, well) = prompt(4), world.stores
        for each in (ill, well):
            each.put(world.shape, one, range(4))
        ill.plan.hangs_at_load = True
        first = await world.lookup(one)
        while not ill.loads:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.001)
        await crash(world)
        assert await final(world, first, within=0.1) == (0, Shortfall.FAILED)
        usage = await world.usage()
        assert usage.reserved_bytes == 0
        assert usage.quarantined_bytes >= PAGE, "the store may still write"
        again = await world.lookup(one)
        assert await final(world, again, within=3.0) == (4, Shortfall.NONE)
        assert await world.read(again) == 4
        await world.close(again)
        ill.released.set()
        await anyio.sleep(1.0)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(tiers=2, load_s=2.0))


@SEEDS
def test_b8_load_ms_is_kept_though_the_load_is_anothers(seed: int) -> None:
    """B8: who joins the load of a patient ticket waits as long as it said itself, and no longer.

    Seen to fail: it was final when the other's time was over, after 29.5 seconds of its one."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(4)
        world.stores[0].put(world.shape, one, range(4))
        world.stores[0].plan.loads_free = 0
        patient = await world.lookup(one, load_s=30.0)
        await anyio.sleep(0.5)
        hasty = await world.lookup(one, load_s=1.0)
        assert await final(world, hasty, within=1.2) == (0, Shortfall.OUT_OF_TIME)
        assert not patient.is_final
        world.stores[0].released.set()
        assert await world.wait_final(patient) == 4
        for watched in (patient, hasty):
            await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(load_s=40.0))


@SEEDS
def test_b8_load_ms_is_kept_though_an_engine_writes_on(seed: int) -> None:
    """Seen to fail: the ticket was promised what the engine had reserved, for as long as it kept that."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(4)
        world.stores[0].put(world.shape, one, range(1, 4))
        written = await world.reserve(one, range(1), lease_s=60.0)
        watched = await world.lookup(one, load_s=1.0)
        assert await final(world, watched, within=1.2) == (0, Shortfall.OUT_OF_TIME)
        await world.write(one, range(1), written)
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_a_ticket_beyond_the_bound_waits_for_nobodys_load(seed: int) -> None:
    """B13: nobody keeps its time, so it is final at once, though what it wants is being loaded.

    Seen to fail: it waited as long as the other ticket did."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(4)
        world.stores[0].put(world.shape, one, range(4))
        world.stores[0].plan.loads_free = 0
        await world.lookup(one, load_s=30.0)
        await anyio.sleep(0.5)
        refused = await world.lookup(one, load_s=1.0)
        assert await final(world, refused, within=0.1) == (0, Shortfall.BUSY)
        world.stores[0].released.set()

    play(seed, scene, WorldConfig(tickets_max=1, load_s=40.0))


@SEEDS
@pytest.mark.parametrize("ends", ["refused", "mailbox full", "crashed"])
def test_b7_a_prefetch_that_comes_to_nothing_pins_nothing(seed: int, ends: str) -> None:
    """B7, DESIGN 6: a ticket that was looked up only for its loads is closed by whoever settles it.

    Seen to fail: refused, or left behind by a crash, it pinned what was hit until its time was over."""

    async def scene(world: World, _: Supervisor) -> None:
        world.stores[0].plan.hangs_at_locate = True
        one = prompt(8, "one")
        await world.store(one, range(6))
        if ends == "refused":
            await world.lookup(prompt(2, "first"), load_s=300.0, ticket_s=300.0)
        only = await world.lookup(one, load_s=120.0, ticket_s=120.0, afterwards=Afterwards.CLOSE)
        if ends == "crashed":
            await anyio.sleep(0.1)
            await crash(world)
        if ends == "mailbox full":  # as the gateway says it then
            await world.l1.ask(l1_loading.Settle(only.ticket, Shortfall.BUSY), within=1)
        await anyio.sleep(0.1)
        assert not world.table.has_ticket(only.ticket)
        assert (await world.usage()).pinned_bytes == 0

    play(seed, scene, WorldConfig(tickets_max=1, locate_s=200.0))


@SEEDS
def test_a_ticket_at_rest_keeps_nothing_of_its_search(seed: int) -> None:
    """There may be as many as L1 has tickets, each as long as a prompt may be."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        world.stores[0].put(world.shape, one, range(8))
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 8
        await anyio.sleep(1.0)
        assert world.actor is not None
        (resting,) = world.actor._fetchings.values()
        assert not resting._locating._names
        assert resting._known.first == resting._known.end
        assert await world.read(watched) == 8
        await world.close(watched)
        await anyio.sleep(0.1)
        assert not world.actor._fetchings
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(kept=(False,)))


@SEEDS
def test_tickets_at_rest_end_with_their_instance_and_are_heard_of(seed: int) -> None:
    """L1 hears from its table which tickets a step has ended, and looks at no others.

    Goal: what they held is free after each step, long before their time is over."""

    async def scene(world: World, _: Supervisor) -> None:
        for number in range(5):
            one = prompt(2, f"{number}")
            world.stores[0].put(world.shape, one, range(2))
            watched = await world.lookup(one, ticket_s=1000.0)
            assert await world.wait_final(watched) == 2
        assert world.actor is not None
        for left in (4, 3, 2, 1, 0):
            await world.l1.ask(l1.CloseSome(InstanceId(1), 1), within=1)
            await anyio.sleep(0.2)
            assert len(world.actor._fetchings) == left
            usage = await world.usage()
            assert usage.taken_bytes == left * 2 * PAGE
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(kept=(False,)))


@SEEDS
def test_a_load_that_everybody_left_is_counted(seed: int) -> None:
    """E2: every object that was asked of a store is counted, landed or lost.

    Seen to fail: loads whose last ticket had left were not."""

    async def scene(world: World, _: Supervisor) -> None:
        one, ill = prompt(4), world.stores[0]
        ill.put(world.shape, one, range(4))
        ill.plan.hangs_at_load = True
        watched = await world.lookup(one)
        while not ill.loads:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.001)
        await world.close(watched)
        ill.released.set()
        await anyio.sleep(1.0)
        name = "penstock_prefetch_objects_total"
        lost = world.telemetry.value(name, store=ill.ref.name, outcome="lost")
        assert lost == sum(len(load) for load in ill.loads)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_a_ticket_that_ended_joins_no_load_again(seed: int) -> None:
    """A ticket is closed while a load that it joined late asks L1 for its watermark; others read what it has read.

    Seen to fail: it joined what it had read once more, and the prefetcher died of a KeyError."""

    async def scene(world: World, _: Supervisor) -> None:
        begin, one, ask = prompt(1), prompt(4), Ref.ask
        world.stores[0].put(world.shape, one, range(4))
        first = await world.lookup(begin)
        assert await world.wait_final(first) == 1
        assert world.actor is not None
        life, loads = world.actor, world.actor._around.loads
        landing, joined, closed = anyio.Event(), anyio.Event(), anyio.Event()
        late: list[Watched] = []

        async def held_up(ref: Ref[T], msg: Msg[T, R], *, within: float) -> R:
            if isinstance(msg, l1_loading.Land):
                landing.set()
                await joined.wait()
            if isinstance(msg, l1_loading.Move) and joined.is_set() and not closed.is_set():
                closed.set()
                await world.close(late[0])
                while late[0].ticket in loads.waiting:  # noqa: ASYNC110 - virtual time
                    await anyio.sleep(0.001)
            return await ask(ref, msg, within=within)

        with mock.patch.object(Ref, "ask", held_up):
            second = await world.lookup(one)
            await landing.wait()
            late.append(await world.lookup(one))
            while not (late[0].hit and loads.records.is_waiting(late[0].ticket)):  # noqa: ASYNC110
                await anyio.sleep(0.001)
            joined.set()
            assert await world.wait_final(second) == 4
            await closed.wait()
            await anyio.sleep(1.0)
        assert world.actor is life, "it died"
        for watched in (first, second):
            await world.close(watched)
        await world.assert_nothing_is_held()
        assert not len(loads.records)

    play(seed, scene, WorldConfig(groups=HYBRID, kept=(False,)))
