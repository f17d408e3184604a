"""What goes wrong while prompts are loaded: giving up anywhere, late writers, no room, crashes, chance."""

from __future__ import annotations

import random
from contextlib import suppress
from unittest import mock

import anyio
import pytest
from support.prefetch_world import (
    FULL,
    HYBRID,
    PAGE,
    SHARDED,
    Watched,
    World,
    WorldConfig,
    now,
    play,
    prompt,
)

from penstock.actors.api import l1, l1_loading, prefetch, store
from penstock.actors.api.errors import QuarantineFull, TooManyInFlight
from penstock.actors.api.types import GroupGeometry, SessionId, Shortfall
from penstock.actors.l1_loading import Loading
from penstock.runtime.errors import MailboxFull
from penstock.runtime.hazard import ScriptedHazards
from penstock.runtime.message import Msg
from penstock.runtime.ref import Ref
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(6))
HAZARDS = (
    "prefetch.after_reserve",
    "prefetch.before_load",
    "prefetch.after_load",
    "prefetch.before_keep",
    "prefetch.before_settle",
)


@SEEDS
@pytest.mark.parametrize("where", HAZARDS)
def test_b7_a_ticket_that_is_closed_at_any_await_leaks_nothing(seed: int, where: str) -> None:
    """DESIGN 6: cancel at any line leaks nothing, and the same prompt can be loaded again at once."""
    hazards = ScriptedHazards()
    gate = hazards.hold(where)

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(7)
        world.stores[0].put(world.shape, one, range(7))
        watched = await world.lookup(one)
        await gate.wait_reached()
        await world.close(watched)
        await anyio.sleep(0.1)
        gate.open()
        usage = await world.assert_nothing_is_held()
        assert (usage.tickets, usage.pinned_bytes) == (0, 0)
        again = await world.lookup(one)
        assert await world.wait_final(again) == 7
        assert await world.read(again) == 7

    play(seed, scene, hazards=hazards)


@SEEDS
def test_a2_memory_that_a_store_may_still_write_is_given_to_nobody(seed: int) -> None:
    """A2: a load is given up while the store writes on. Its extents come back when it is through, and not before:
    until then other writers fill the rest of the arena, and every byte they wrote is theirs.

    Seen to fail: with the lease aborted when the load was given up, all of it was free while the store still wrote.
    """

    async def scene(world: World, _: Supervisor) -> None:
        one, other = prompt(4), prompt(28, "other")
        world.stores[0].put(world.shape, one, range(4))
        world.stores[0].plan.hangs_at_load = True
        watched = await world.lookup(one, load_s=0.5)
        assert await world.wait_final(watched) == 0
        await world.close(watched)
        await anyio.sleep(0.1)
        usage = await world.usage()
        assert usage.quarantined_bytes == 4 * PAGE
        await world.store(other, range(28))  # all that is left
        assert (await world.usage()).free_bytes == 0
        world.stores[0].released.set()
        await anyio.sleep(0.1)
        hit = await world.lookup(other)
        assert await world.read(hit) == 28, "a late write came into another's memory"
        await world.close(hit)
        assert (await world.assert_nothing_is_held()).free_bytes == 4 * PAGE

    play(seed, scene, WorldConfig(pages=32))


@SEEDS
def test_a2_what_was_given_up_is_loaded_from_elsewhere_meanwhile(seed: int) -> None:
    """A2, B1: a load that hangs holds its memory, but not the name of its objects: the next tier brings them."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(4)
        for one_store in world.stores:
            one_store.put(world.shape, one, range(4))
        world.stores[0].plan.hangs_at_load = True
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 4
        assert len(world.stores[1].loaded) == 4
        world.stores[0].released.set()  # writes into memory that is nobody's
        await anyio.sleep(0.1)
        assert await world.read(watched) == 4
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(tiers=2, load_s=0.5))


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
def test_no_room_makes_the_prefix_shorter_and_says_so(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        held = prompt(5, "held")
        await world.store(held, range(5))
        pinned = await world.lookup(held)
        one = prompt(8)
        world.stores[0].put(world.shape, one, range(8))
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 3
        assert watched.shortfall is Shortfall.NO_ROOM
        assert await world.read(watched) == 3
        assert await world.read(pinned) == 5

    play(seed, scene, WorldConfig(pages=8))


@SEEDS
def test_b17_what_nobody_holds_is_evicted_for_a_load(seed: int) -> None:
    """B17: an allocation failure wakes eviction at once, and the load goes on."""

    async def scene(world: World, _: Supervisor) -> None:
        await world.store(prompt(6, "old"), range(6))
        one = prompt(8)
        world.stores[0].put(world.shape, one, range(8))
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 8
        assert await world.read(watched) == 8

    play(seed, scene, WorldConfig(pages=8))


@SEEDS
def test_b13_two_prompts_too_large_for_each_other_both_come_to_an_end(seed: int) -> None:
    """B13: two prompts that do not fit together: nobody waits half-filled for the other; both are final soon, and
    together they hold no more than there is.

    Seen to fail: while a refused part was asked for again until it was granted, both waited for their deadline."""

    async def scene(world: World, _: Supervisor) -> None:
        one, two = prompt(10, "one"), prompt(10, "two")
        for each in (one, two):
            world.stores[0].put(world.shape, each, range(10))
        began = now()
        first, second = await world.lookup(one), await world.lookup(two)
        hits = [await world.wait_final(first), await world.wait_final(second)]
        assert now() - began < 3.0
        assert 10 <= sum(hits) <= 12
        for watched, hit in zip((first, second), hits, strict=True):
            if hit:
                assert await world.read(watched) == hit
            await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(pages=12))


@SEEDS
def test_e2_a_load_that_loses_to_computing_is_skipped_counted_and_explained(seed: int) -> None:
    """E2 (dynamo#6101, LMCache#1061): nobody is slower with the cache than without and does not see why.

    Seen to fail: with the rate of the engine ignored the prompt was loaded."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        world.stores[0].put(world.shape, one, range(8))
        world.stores[0].plan.speed = store.Speed(0.1, 1000.0 * PAGE, 0)
        skipped = await world.lookup(one, prefill_tokens_per_s=100_000)
        assert await world.wait_final(skipped) == 0
        assert skipped.shortfall is Shortfall.SLOWER_THAN_PREFILL
        assert not world.stores[0].loads
        chunks = world.telemetry.value(
            "penstock_prefetch_skipped_chunks_total", shortfall="slower_than_prefill"
        )
        assert chunks == 8
        await world.close(skipped)
        loaded = await world.lookup(one, prefill_tokens_per_s=100)
        assert await world.wait_final(loaded) == 8
        assert loaded.shortfall is Shortfall.NONE

    play(seed, scene)


@SEEDS
def test_e2_a_tier_that_computing_beats_is_measured_again_now_and_then(seed: int) -> None:
    """E2: a tier that was slow once and is not used for it: one chunk in `probe_every_s` tells whether it still is.

    Seen to fail without probes: nothing was loaded from it ever again."""

    async def scene(world: World, _: Supervisor) -> None:
        world.stores[0].plan.speed = store.Speed(0.1, 1000.0 * PAGE, 0)
        hits = []
        for number in range(30):
            one = prompt(8, f"{number}")
            world.stores[0].put(world.shape, one, range(8))
            watched = await world.lookup(one, prefill_tokens_per_s=100_000)
            hits.append(await world.wait_final(watched))
            assert watched.shortfall is Shortfall.SLOWER_THAN_PREFILL
            await world.close(watched)
            await anyio.sleep(1.0)
        assert set(hits) == {0, 1}
        assert 2 <= hits.count(1) <= 4  # in 30 seconds and a little, one in 10

    play(seed, scene)


@SEEDS
def test_tickets_beyond_the_bound_are_final_at_what_l1_has(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        world.stores[0].plan.hangs_at_locate = True
        for number in range(2):
            await world.lookup(prompt(3, f"{number}"))
        third = await world.lookup(prompt(3, "third"))
        assert await world.wait_final(third, within=0.3) == 0
        assert third.shortfall is Shortfall.BUSY

    play(seed, scene, WorldConfig(tickets_max=2, locate_s=5.0))


@SEEDS
def test_prefetched_prompts_stay_and_their_tickets_go(seed: int) -> None:
    """DESIGN 6: Prefetch has no readers: what it brought is resident, and nothing is pinned."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(6)
        world.stores[0].put(world.shape, one, range(6))
        await world.lookup(one, afterwards=prefetch.Afterwards.CLOSE)
        await anyio.sleep(1.0)
        usage = await world.assert_nothing_is_held()
        assert (usage.tickets, usage.pinned_bytes) == (0, 0)
        assert usage.resident_bytes == 6 * PAGE

    play(seed, scene)


@SEEDS
def test_a_crash_makes_its_tickets_final_and_the_next_life_serves_the_next(seed: int) -> None:
    """A prefetcher that dies: what it promised is taken back, its memory comes back, others go on."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(6)
        await world.store(one, range(2))
        world.stores[0].put(world.shape, one, range(6))
        world.stores[0].plan.hangs_at_locate = True
        watched = await world.lookup(one)
        await anyio.sleep(0.2)
        assert not watched.is_final
        world.prefetcher.mailbox.put_nowait(_bad_message())
        assert await world.wait_final(watched, within=1.0) == 2
        assert watched.shortfall is Shortfall.FAILED
        world.stores[0].plan.hangs_at_locate = False
        await world.close(watched)
        again = await world.lookup(one)
        assert await world.wait_final(again) == 6
        assert await world.read(again) == 6
        await world.close(again)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(locate_s=5.0))


def _bad_message() -> object:
    from math import inf

    from penstock.runtime.message import Envelope

    return Envelope("no message at all", inf, None)  # type: ignore[arg-type]


SWARM = [(seed, groups) for seed in range(12) for groups in (FULL, SHARDED, HYBRID)]
TAKEN_OVER = [
    (7008, HYBRID),
    (7152, HYBRID),
]  # an object is granted anew before its loss is heard of


@pytest.mark.parametrize(("seed", "groups"), [*SWARM, *TAKEN_OVER])
def test_swarm_of_lookups_under_faults_then_healed(
    seed: int, groups: tuple[GroupGeometry, ...]
) -> None:
    """DESIGN 10: seeds draw prompts, tiers and faults. Safety at every step: bytes are right, the table is whole, a
    watermark never goes back. Healed, every ticket becomes final and nothing is left behind."""
    draw = random.Random(seed)
    config = WorldConfig(
        groups=groups,
        pages=draw.choice([24, 48, 96]),
        tiers=draw.choice([1, 2, 3]),
        kept=tuple(draw.random() < 0.6 for _ in range(3)),
        inflight_bytes_max=draw.choice([2, 8, 64]) * PAGE,
        batch_bytes=draw.choice([2, 8]) * PAGE,
        locate_s=0.2,
        load_s=1.0,
    )

    async def scene(world: World, _: Supervisor) -> None:
        for one_store in world.stores:
            one_store.plan.draw, one_store.plan.fault_chance = draw, 0.15
            for family in range(3):
                head = prompt(4, f"family{family}")
                for tail in range(4):
                    whole = head + prompt(8, f"tail{tail}")
                    one_store.put(world.shape, whole, range(draw.randint(0, 12)))
        async with anyio.create_task_group() as engines:
            for _ in range(6):
                engines.start_soon(one_engine, world, draw)
        for one_store in world.stores:
            one_store.plan.fault_chance = 0.0
            one_store.released.set()
        whole = prompt(4, "family0") + prompt(8, "tail0")
        last = await world.lookup(whole)
        await world.wait_final(last)
        assert await world.read(last) >= 0
        await world.close(last)
        await anyio.sleep(6.0)
        usage = await world.assert_nothing_is_held()
        assert (usage.tickets, usage.pinned_bytes) == (0, 0)
        assert world.actor is not None
        world.actor.validate()

    play(seed, scene, config)


async def one_engine(world: World, draw: random.Random) -> None:
    """Three lookups in a row: some are given up, the others read to the last byte."""
    for _ in range(3):
        await anyio.sleep(draw.random() * 0.5)
        family = prompt(4, f"family{draw.randint(0, 2)}")
        asked = family + prompt(draw.randint(0, 8), f"tail{draw.randint(0, 3)}")
        watched = await world.lookup(
            asked,
            load_s=draw.choice([0.3, 3.0]),
            ticket_s=draw.choice([0.4, 5.0]),
            prefill_tokens_per_s=draw.choice([0, 1000]),
        )
        if draw.random() < 0.3:
            await anyio.sleep(draw.random() * 0.3)
        else:
            await until_final_or_over(world, watched)
            if watched.hit and watched.ticket in world.watched:
                await read_if_alive(world, watched)
        await world.close(watched)
        await world.usage()


async def until_final_or_over(world: World, watched: Watched) -> None:
    with anyio.move_on_after(6.0):
        while not watched.is_final:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.01)
    assert watched.is_final, "liveness: a ticket never became final"


async def read_if_alive(world: World, watched: Watched) -> None:
    from penstock.actors.api.errors import TicketOver

    try:
        await world.read(watched)
    except TicketOver:
        return  # it had expired
