"""Prompts beside others: turns at a tier, what engines write meanwhile, an L1 that refuses or is too full."""

from __future__ import annotations

from contextlib import suppress
from unittest import mock

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.prefetch_world import (
    PAGE,
    World,
    WorldConfig,
    now,
    play,
    prompt,
)

from penstock.actors.api import l1, l1_loading
from penstock.actors.api.errors import QuarantineFull, TooManyInFlight
from penstock.actors.api.types import SessionId, Shortfall
from penstock.actors.l1_loading import Loading
from penstock.runtime.errors import MailboxFull
from penstock.runtime.message import Msg
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(6))


@SEEDS
def test_b1_a_store_that_hangs_keeps_no_other_store_from_loading(seed: int) -> None:
    """B1: each tier has a part of the bytes in flight of its own.

    Seen to fail with one room for all: the second prompt was final at 0, out of time."""

    async def scene(world: World, _: Supervisor) -> None:
        one, two = prompt(8, "one"), prompt(4, "two")
        world.stores[0].put(world.shape, one, range(8))
        world.stores[1].put(world.shape, two, range(4))
        world.stores[0].plan.hangs_at_load = True
        await world.lookup(one)
        while not world.stores[0].loads:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.001)
        other = await world.lookup(two, load_s=3.0)
        assert await world.wait_final(other, within=2.0) == 4
        assert world.actor is not None
        assert world.actor._around.loads.inflight_bytes > 0, "the first store hangs no more"
        world.stores[0].released.set()

    play(seed, scene, WorldConfig(tiers=2, inflight_bytes_max=8 * PAGE))


@SEEDS
def test_a_short_prompt_has_its_turn_among_the_loads_of_a_long_one(seed: int) -> None:
    """A prompt of many loads has the room of its tier one load at a time, in turns with the others.

    Seen to fail first come, first served: the short one came when the long one had all of its 48 chunks."""

    async def scene(world: World, _: Supervisor) -> None:
        long, short = prompt(48, "long"), prompt(1, "short")
        world.stores[0].put(world.shape, long, range(48))
        world.stores[0].put(world.shape, short, range(1))
        world.stores[0].plan.load_s = 0.5
        first = await world.lookup(long, load_s=30.0)
        while not world.stores[0].loads:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.001)
        second = await world.lookup(short, load_s=4.0)
        assert await world.wait_final(second) == 1
        assert first.hit < 24
        assert await world.wait_final(first) == 48

    play(seed, scene, WorldConfig(inflight_bytes_max=4 * PAGE))


@SEEDS
def test_a_load_that_l1_has_no_lease_for_ends_its_ticket_at_once(seed: int) -> None:
    """What is whole of a load that failed in part needs one more lease. Without one all of it is lost, and the ticket
    is final with what it has.

    Seen to fail: L1 refused to land it, which the ticket took for its own end, and was open until that."""

    async def scene(world: World, _: Supervisor) -> None:
        held, one = prompt(1, "held"), prompt(6)
        await world.store(held, range(1))
        world.stores[0].put(world.shape, one, range(6))
        world.stores[0].lose(world.shape, one, range(5, 6))
        world.stores[0].plan.load_s = 0.5
        watched = await world.lookup(one, load_s=5.0)
        while not world.stores[0].loads:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.001)
        with suppress(TooManyInFlight):
            while True:
                reader = await world.lookup(held)
                for rank in range(4):
                    acquire = l1.Acquire(reader.ticket, SessionId(1), rank, (0,), 0, 50.0)
                    await world.l1.ask(acquire, within=1)
        hit = await world.wait_final(watched, within=10.0)
        assert hit <= 5
        assert watched.shortfall is Shortfall.FAILED

    play(seed, scene, WorldConfig(leases_max=12))


@SEEDS
def test_a_landing_that_l1_refuses_is_a_loss_and_not_the_end_of_the_ticket(seed: int) -> None:
    """Whether a ticket is over is for L1 to say; a landing refused loses a load, which the next tier brings."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(6)
        for each in world.stores:
            each.put(world.shape, one, range(6))
        serve, refused = Loading.receive, 0

        def refuse_one(self: Loading, msg: l1_loading.Message) -> object:
            nonlocal refused
            if isinstance(msg, l1_loading.Land) and not refused:
                refused += 1
                raise QuarantineFull("by the test")
            return serve(self, msg)

        with mock.patch.object(Loading, "receive", refuse_one):
            watched = await world.lookup(one)
            assert await world.wait_final(watched) == 6
        assert refused
        assert await world.read(watched) == 6
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(tiers=2))


@SEEDS
@pytest.mark.parametrize("is_given_up", [False, True])
def test_a_chunk_that_an_engine_writes_is_waited_for_and_what_lies_beyond_it_is_kept(
    seed: int, is_given_up: bool
) -> None:
    """A writer is at chunk 2 while a store has the rest: the ticket waits for the commit, or loads what was given up.

    Seen to fail: two looks at L1 later the ticket was final at 2, and the chunks beyond were thrown away."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        world.stores[0].put(world.shape, one, range(0 if is_given_up else 3, 8))
        await world.store(one, range(2))
        written = await world.reserve(one, range(2, 3))
        watched = await world.lookup(one, load_s=5.0)
        await anyio.sleep(1.0)
        assert (watched.hit, watched.is_final) == (2, False)
        assert len(world.stores[0].loaded) == 5
        if is_given_up:
            await world.l1.ask(l1.Abort(written.lease, SessionId(1)), within=1)
        else:
            await world.write(one, range(2, 3), written)
        assert await world.wait_final(watched, within=1.0) == 8
        assert watched.shortfall is Shortfall.NONE
        assert len(world.stores[0].loaded) == (6 if is_given_up else 5)
        assert await world.read(watched) == 8
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_a_writer_that_never_ends_is_waited_for_no_longer_than_loads_may_take(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        world.stores[0].put(world.shape, one, range(3, 8))
        await world.store(one, range(2))
        written = await world.reserve(one, range(2, 3), lease_s=60.0)
        began = now()
        watched = await world.lookup(one, load_s=2.0)
        await anyio.sleep(3.0)
        assert world.actor is not None
        assert not world.actor._fetchings
        await world.l1.ask(l1.Abort(written.lease, SessionId(1)), within=1)
        assert await world.wait_final(watched, within=1.0) == 2
        assert watched.shortfall is Shortfall.OUT_OF_TIME
        assert now() - began < 5.0
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_tiers_that_do_not_say_how_fast_they_are_are_asked_side_by_side(seed: int) -> None:
    """B1: an engine that says how fast it computes waits for the speeds no longer than for one tier.

    Seen to fail while they were asked one after the other, each for as long as an actor may take."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(4)
        world.stores[2].put(world.shape, one, range(4))
        for silent in world.stores[:2]:
            silent.plan.hangs_at_measure = True
        began = now()
        watched = await world.lookup(one, prefill_tokens_per_s=10)
        assert await world.wait_final(watched) == 4
        assert now() - began < 0.5 + 0.4  # and what hazards take

    play(seed, scene, WorldConfig(tiers=3, locate_s=0.5))


@SEEDS
def test_a_ticket_is_final_though_l1_was_too_full_to_hear_so(seed: int) -> None:
    """The last that L1 hears of a ticket is told until it is heard.

    Seen to fail: what was refused by a full mailbox was logged, and the ticket open until its time was over."""

    async def scene(world: World, _: Supervisor) -> None:
        world.stores[0].plan.hangs_at_locate = True
        for number in range(2):
            await world.lookup(prompt(3, f"{number}"))
        third = await world.lookup(prompt(3, "third"))
        refused, tell = 0, Ref.tell_nowait

        def full_at_first(ref: Ref[l1.L1Manager], msg: Msg[l1.L1Manager, None]) -> None:
            nonlocal refused
            if isinstance(msg, l1_loading.Settle) and not refused:
                refused += 1
                raise MailboxFull("by the test")
            tell(ref, msg)

        with mock.patch.object(Ref, "tell_nowait", full_at_first):
            assert await world.wait_final(third, within=0.3) == 0
        assert refused
        assert third.shortfall is Shortfall.BUSY

    play(seed, scene, WorldConfig(tickets_max=2, locate_s=5.0))


@SEEDS
def test_a_ticket_that_only_holds_what_it_reads_takes_no_place_of_one_that_loads(seed: int) -> None:
    """Objects of a tier that is not written back are held until their tickets are over.

    Seen to fail: as many such tickets as may load kept all others from it."""

    async def scene(world: World, _: Supervisor) -> None:
        tickets = []
        for number in range(6):
            one = prompt(3, f"{number}")
            world.stores[0].put(world.shape, one, range(3))
            tickets.append(await world.lookup(one))
            assert await world.wait_final(tickets[-1]) == 3, tickets[-1].shortfall
        for watched in tickets:
            assert await world.read(watched) == 3
            await world.close(watched)
        usage = await world.assert_nothing_is_held()
        assert usage.free_bytes == usage.arena_bytes
        assert world.actor is not None
        assert not world.actor._fetchings

    play(seed, scene, WorldConfig(tickets_max=2, kept=(False,)))


@SEEDS
def test_a_long_prompt_is_planned_in_steps_and_comes_whole(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(700)
        for tier, store in enumerate(world.stores):
            for chunk in range(tier, 700, 2):
                store.put(world.shape, one, range(chunk, chunk + 1))
                await checkpoint()
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 700
        assert await world.read(watched) == 700
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(pages=800, tiers=2))
