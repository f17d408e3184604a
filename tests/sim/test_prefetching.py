"""Prompts come from the tiers below L1: what a ticket hears, what is read, what is left behind."""

from __future__ import annotations

import anyio
import pytest
from support.prefetch_world import (
    FULL,
    HYBRID,
    HYBRID_SHARDED,
    PAGE,
    SHARDED,
    World,
    WorldConfig,
    now,
    play,
    prompt,
)

from penstock.actors.api.types import GroupGeometry, Shortfall
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(6))


@SEEDS
@pytest.mark.parametrize("groups", [FULL, SHARDED, HYBRID])
def test_what_a_store_has_is_loaded_once_and_read_whole(
    seed: int, groups: tuple[GroupGeometry, ...]
) -> None:
    """DESIGN 6: the whole of a prompt comes from a store, becomes resident, and the next lookup hits L1."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(9)
        world.stores[0].put(world.shape, one, range(9))
        watched = await world.lookup(one)
        assert (watched.hit, watched.promised) == (0, 9)
        assert await world.wait_final(watched) == 9
        assert watched.shortfall is Shortfall.NONE
        assert await world.read(watched) > 0
        await world.close(watched)
        usage = await world.assert_nothing_is_held()
        assert usage.resident_bytes > 0
        loads = len(world.stores[0].loads)
        again = await world.lookup(one)
        assert (again.hit, again.promised) == (9, 9)
        assert len(world.stores[0].loads) == loads
        assert await world.read(again) > 0

    play(seed, scene, WorldConfig(groups=groups))


@SEEDS
def test_the_watermark_moves_early_and_in_steps(seed: int) -> None:
    """DESIGN 6: the first load is one chunk; an engine may begin to copy before the rest has come."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(12)
        world.stores[0].put(world.shape, one, range(12))
        world.stores[0].plan.loads_free = 1  # the others do not come before the test says so
        watched = await world.lookup(one)
        while watched.hit == 0:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.001)
        assert watched.hits[-1] == watched.hit == 1
        world.stores[0].released.set()
        assert await world.wait_final(watched) == 12
        sizes = [len(load) for load in world.stores[0].loads]
        assert sizes[0] == 1
        assert max(sizes) <= 4

    play(seed, scene, WorldConfig(inflight_bytes_max=4 * PAGE))


@SEEDS
def test_what_l1_has_is_not_loaded_and_holes_between_are_filled(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        await world.store(one, range(2))
        await world.store(one, range(4, 6))
        world.stores[0].put(world.shape, one, range(8))
        watched = await world.lookup(one)
        assert watched.hit == 2
        assert await world.wait_final(watched) == 8
        assert len(world.stores[0].loaded) == 4
        assert await world.read(watched) == 8

    play(seed, scene)


@SEEDS
def test_two_tickets_that_want_one_object_load_it_once(seed: int) -> None:
    """DESIGN 6: a load record has a set of waiting tickets.

    Seen to fail: while a grant was not in the book before the next one could ask, the second ticket took the first's
    load for a writer's, did not join it, and was final at 6."""

    async def scene(world: World, _: Supervisor) -> None:
        one, longer = prompt(6), prompt(9)
        world.stores[0].put(world.shape, longer, range(9))
        first, second = await world.lookup(one), await world.lookup(longer)
        assert await world.wait_final(first) == 6
        assert await world.wait_final(second) == 9
        assert sorted(world.stores[0].loaded) == sorted(set(world.stores[0].loaded))
        assert len(world.stores[0].loaded) == 9
        assert await world.read(first) == 6
        assert await world.read(second) == 9
        await world.close(first)
        await world.close(second)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_prompts_that_part_share_only_what_they_share(seed: int) -> None:
    """A8: a load that brings the begin of one prompt and more of another tells each only of its own."""

    async def scene(world: World, _: Supervisor) -> None:
        common = prompt(2, "common")
        one, two = common + prompt(6, "one"), common + prompt(6, "two")
        world.stores[0].put(world.shape, one, range(8))
        world.stores[0].put(world.shape, two, range(8))
        world.stores[0].lose(world.shape, one, range(3, 4))
        first, second = await world.lookup(one), await world.lookup(two)
        assert await world.wait_final(first) == 3
        assert await world.wait_final(second) == 8
        assert await world.read(second) == 8
        await world.close(first)
        await world.close(second)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(batch_bytes=64 * PAGE))


@SEEDS
def test_b7_a_load_that_fails_everywhere_is_tried_once_a_tier_and_ends_the_prefix(
    seed: int,
) -> None:
    """B7 (vllm#49176): attempts are bounded, then it is a miss.

    Seen to fail: while a tier was not forgotten for what it had failed at, it was asked until the deadline."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        for store in world.stores:
            store.put(world.shape, one, range(8))
            store.lose(world.shape, one, range(5, 6))
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 5
        assert watched.shortfall is Shortfall.FAILED
        asked = [key for store in world.stores for load in store.loads for key in load]
        assert max(asked.count(key) for key in asked) <= 2
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(tiers=2))


@SEEDS
def test_b8_a_pending_load_ends_with_the_deadline_of_the_engines_call(seed: int) -> None:
    """B8 (vllm#49829): a load that is never answered is given up when the engine's time is over; the ticket is final
    at what it has."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        await world.store(one, range(2))
        world.stores[0].put(world.shape, one, range(8))
        world.stores[0].plan.hangs_at_load = True
        watched = await world.lookup(one, load_s=0.75)
        began = now()
        assert await world.wait_final(watched) == 2
        assert now() - began < 0.9
        assert watched.shortfall is Shortfall.OUT_OF_TIME
        assert world.actor is not None
        assert len(world.actor._around.loads.records) == 0, "it is still waited for"
        await anyio.sleep(0.2)  # what hazards take
        assert world.stores[0].given_up == len(world.stores[0].loads), "a store is still asked"
        world.stores[0].plan.hangs_at_load = False
        await anyio.sleep(0.2)  # L1 has heard of it
        other = await world.lookup(one)  # while the ticket lives, and the store still writes
        assert await world.wait_final(other) == 8
        assert await world.read(other) == 8
        await world.close(other)
        await world.close(watched)
        world.stores[0].released.set()
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(load_s=30.0))


@SEEDS
def test_b8_the_engines_deadline_ends_the_search_too(seed: int) -> None:
    """B8: the same of a store that does not even say what it has, though it is given more time.

    Seen to fail without the deadline around locating: the ticket was open until the store's own time was over."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        await world.store(one, range(2))
        world.stores[0].plan.hangs_at_locate = True
        watched = await world.lookup(one, load_s=0.75)
        began = now()
        assert await world.wait_final(watched) == 2
        assert 0.6 < now() - began < 0.9
        assert watched.shortfall is Shortfall.OUT_OF_TIME
        await world.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, WorldConfig(locate_s=30.0))


@SEEDS
def test_b1_a_store_that_hangs_delays_nobody_elses_part(seed: int) -> None:
    """B1: what L1 has is answered at once, what another store has comes at once, though one never answers.

    Seen to fail: while each slice was located in all stores before the next, it waited for the one that hangs."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(14)
        await world.store(one, range(3))
        world.stores[0].plan.hangs_at_locate = True
        world.stores[1].put(world.shape, one, range(12))
        began = now()
        watched = await world.lookup(one)
        assert watched.hit == 3
        assert now() - began < 0.3  # what hazards and permuted steps take, and no deadline
        while watched.hit < 12:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.005)
        assert now() - began < 0.45, "it waited for the store that hangs"
        assert await world.wait_final(watched) == 12
        assert now() - began < 1.5
        full = await world.lookup(prompt(3))
        assert full.is_final
        assert full.hit == 3

    play(seed, scene, WorldConfig(tiers=2))


@SEEDS
def test_a16_a_hybrid_prompt_falls_to_the_next_lower_hit_when_a_state_fails(seed: int) -> None:
    """A16 (LMCache#2863, sglang#39830): the hit is the largest n at which every group's own rule holds on every shard;
    the state at 8 cannot be loaded, so the watermark ends at 5, where another state is."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(8)
        store = world.stores[0]
        store.put(world.shape, one, range(8), slots=[0, 1])
        store.put(world.shape, one, range(4, 5), slots=[2])
        store.put(world.shape, one, range(7, 8), slots=[2])
        store.lose(world.shape, one, range(7, 8), slots=[2])
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 5
        assert watched.hits in ([5], [5, 5], [0, 5])
        assert await world.read(watched) == 5 + 2 + 1  # attention, the window at 5, the state at 5
        await world.close(watched)
        usage = await world.assert_nothing_is_held()
        assert usage.resident_bytes <= (5 + 4 + 1) * PAGE

    play(seed, scene, WorldConfig(groups=HYBRID))


@SEEDS
@pytest.mark.parametrize("is_lost", [False, True])
def test_a16_the_hit_is_valid_for_every_group_on_every_shard(seed: int, is_lost: bool) -> None:
    """A16: two shards of each group. The largest n of each shard alone is 8, 7 or 6; the smallest of them is no hit,
    since there the other groups miss something. What cannot be had is absent, or is found and then cannot be loaded.

    Seen to fail with the rule of the first shard alone, and with the least of the groups' largest."""
    full, window, state = (0, 1), (2, 3), (4, 5)

    async def scene(world: World, _: Supervisor) -> None:
        one, store = prompt(8), world.stores[0]
        store.put(world.shape, one, range(8), slots=[*full, *window])
        for n in (4, 6, 7, 8):
            store.put(world.shape, one, range(n - 1, n), slots=state)
        # 8: no state on the second shard; 7: nor on the first; 6: no window chunk on the second shard.
        missing = [(7, 5), (6, 4), (5, 3)]
        for chunk, slot in missing:
            (store.lose if is_lost else store.remove)(
                world.shape, one, range(chunk, chunk + 1), slots=[slot]
            )
        watched = await world.lookup(one)
        assert await world.wait_final(watched) == 4
        assert set(watched.hits) <= {0, 4}
        assert watched.shortfall is (Shortfall.FAILED if is_lost else Shortfall.NONE)
        assert await world.read(watched) >= 4 * 2 + 2 * 2 + 2
        await world.close(watched)
        await world.assert_nothing_is_held()
        again = await world.lookup(one)
        assert again.hit == 4

    play(seed, scene, WorldConfig(groups=HYBRID_SHARDED))


@SEEDS
def test_a_hybrid_hit_by_what_others_brought_lasts_as_long_as_its_ticket(seed: int) -> None:
    """DESIGN 6: objects without write-back go with their last reader, and who has hit them is one.

    Seen to fail while only planned objects were held: what the second ticket needs at 8 does not come in time, so that
    it is final at 4, by the state and the window of the first one, and they went with the first."""

    async def scene(world: World, _: Supervisor) -> None:
        one, (store, other) = prompt(8), world.stores  # two, so that states have loads of their own
        store.put(world.shape, one, range(8), slots=[0])
        other.put(world.shape, one, range(8), slots=[1])
        for n in (4, 8):
            other.put(world.shape, one, range(n - 1, n), slots=[2])
        first = await world.lookup(one[: 4 * 32])
        assert await world.wait_final(first) == 4
        other.plan.hangs_at_load = True
        second = await world.lookup(one, load_s=0.5)
        assert await world.wait_final(second) == 4
        assert second.shortfall is Shortfall.OUT_OF_TIME
        await world.close(first)
        await anyio.sleep(0.5)
        assert await world.read(second) >= 4 + 2 + 1
        await world.close(second)
        other.released.set()
        usage = await world.assert_nothing_is_held()
        assert usage.free_bytes == usage.arena_bytes

    play(seed, scene, WorldConfig(groups=HYBRID, tiers=2, kept=(False, False)))


@SEEDS
def test_temporary_objects_vanish_with_their_last_reader(seed: int) -> None:
    """DESIGN 6: objects from a tier without write-back are served, and dropped when the ticket is over."""

    async def scene(world: World, _: Supervisor) -> None:
        one = prompt(6)
        world.stores[0].put(world.shape, one, range(6))
        first = await world.lookup(one)
        assert await world.wait_final(first) == 6
        await anyio.sleep(0.5)
        assert await world.read(first) == 6
        assert (await world.usage()).resident_bytes == 0
        second = await world.lookup(one)  # joins what is there
        assert await world.wait_final(second) == 6
        await world.close(first)
        await anyio.sleep(0.5)
        assert await world.read(second) == 6
        assert len(world.stores[0].loaded) == 6
        await world.close(second)
        usage = await world.assert_nothing_is_held()
        assert usage.free_bytes == usage.arena_bytes

    play(seed, scene, WorldConfig(kept=(False,)))
