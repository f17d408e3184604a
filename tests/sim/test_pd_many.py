"""Several pushes at a time: of one prompt, of one request, both ways; and what the budget is good for."""

from __future__ import annotations

import itertools

import anyio
import pytest
from support.pd_scenes import settled
from support.pd_world import SESSION, Node, PdWorld, PdWorldConfig, config, play
from support.prefetch_world import PAGE, SHARDED, prompt

from penstock.actors.api import l1, pd
from penstock.runtime.hazard import ScriptedHazards
from penstock.runtime.units import ByteSize, Seconds

SEEDS = pytest.mark.parametrize("seed", range(8))


def test_what_both_hold_is_not_sent() -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        await world.a.write(keys, range(4))
        await world.b.write(keys, range(1, 3))
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        sent = await settled(world, watched, transfer)
        assert watched.hits[-1] == 4
        assert sent == pd.Sent(pd.SentState.COMMITTED, None, 2 * PAGE, 2 * PAGE)

    play(0, scene)


@SEEDS
def test_two_pushes_of_the_same_bring_it_once(seed: int) -> None:
    """Two requests of one prompt: the second waits for the first one's objects, and reads them."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        watched = [await world.b.expect(keys, name) for name in ("r", "s")]
        transfers = [await world.a.send(keys, "b", name) for name in ("r", "s")]
        await world.a.write(keys, range(4))
        for one in watched:
            assert await world.b.wait_final(one) == 4
        sent = [await world.a.sent(one) for one in transfers]
        assert {one.state for one in sent} == {pd.SentState.COMMITTED}
        assert sum(one.bytes for one in sent) == 4 * PAGE
        await world.b.close(watched[0])
        assert await world.b.read(watched[1]) == 4, "it went with the first one's ticket"
        await world.b.close(watched[1])
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_ranks_push_their_own_shards(seed: int) -> None:
    """B9: two senders of one request, and one watermark for all ranks of the reader."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        watched = await world.b.expect(keys)
        transfers = [await world.a.send(keys, "b", slots=(slot,)) for slot in (0, 1)]
        await world.a.write(keys, range(4))
        assert await world.b.wait_final(watched) == 4
        assert await world.b.read(watched) == 8
        for one in transfers:
            assert (await world.a.sent(one)).state is pd.SentState.COMMITTED
        await world.b.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene, PdWorldConfig(groups=SHARDED))


@SEEDS
def test_nodes_that_are_full_and_push_to_each_other_make_progress(seed: int) -> None:
    """B13: both caches are full of what is being sent, both budgets hold one prompt; all of six come through."""

    async def scene(world: PdWorld) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                for near, far in ((world.a, world.b), (world.b, world.a)):
                    tasks.start_soon(one_way, near, far, f"{near.name}{number}")
        await world.assert_nothing_is_held()

    async def one_way(near: Node, far: Node, name: str) -> None:
        keys = prompt(8, name)
        await near.write(keys, range(8))
        watched = await far.expect(keys, name, within_s=60)
        transfer = await near.send(keys, far.name, name, within_s=60)
        assert await far.wait_final(watched, within=90) == 8
        assert await far.read(watched) == 8
        assert (await near.sent(transfer)).state is pd.SentState.COMMITTED
        await far.close(watched)

    budget = config(receive=ByteSize(10 * PAGE), allocation=Seconds(30), offer_within=Seconds(40))
    play(seed, scene, PdWorldConfig(pages=24, pd=budget))


@SEEDS
def test_memory_that_is_still_read_is_waited_for(seed: int) -> None:
    """A14: the ticket is gone, and its reader is not: the next push gets that memory when the lease is released."""

    async def scene(world: PdWorld) -> None:
        keys, other = prompt(4), prompt(4, "other")
        await world.a.write(keys, range(4))
        await world.a.write(other, range(4))
        watched = await world.b.expect(keys)
        await world.a.sent(await world.a.send(keys, "b"))
        assert await world.b.wait_final(watched) == 4
        acquire = l1.Acquire(watched.ticket, SESSION, 0, (0,), 0, 60.0)
        lease = await world.b.l1.ask(acquire, within=1)
        await world.b.close(watched)
        again = await world.b.expect(other, "other")
        transfer = await world.a.send(other, "b", "other")
        await anyio.sleep(1)
        received = await world.b.receiver.ask(pd.MeasureReceived(), within=1)
        assert (received.transfers, received.bytes_moved) == (1, 4 * PAGE)
        assert await world.b.l1.ask(l1.Release(lease.lease, SESSION, ()), within=1)
        assert await world.b.wait_final(again) == 4
        assert await world.b.read(again) == 4
        assert (await world.a.sent(transfer)).state is pd.SentState.COMMITTED
        await world.b.close(again)
        await world.assert_nothing_is_held()

    play(seed, scene, PdWorldConfig(pd=config(receive=ByteSize(6 * PAGE))))


@SEEDS
def test_who_waits_for_another_push_hears_that_it_came_to_nothing(seed: int) -> None:
    """Two requests of one prompt, and the one that brings it is given up: the other is final before any deadline."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        watched = [await world.b.expect(keys, name) for name in ("r", "s")]
        first = await world.a.send(keys, "b", "r")
        await anyio.sleep(0.3)
        second = await world.a.send(keys, "b", "s")
        await anyio.sleep(0.3)
        await world.a.write(keys, range(1))
        await world.a.sender.ask(pd.Cancel(first, SESSION), within=1)
        await world.a.write(keys, range(1, 4))
        begun = anyio.current_time()
        for one in watched:
            await world.b.wait_final(one)
            if one.hit:
                assert await world.b.read(one) == one.hit
        assert anyio.current_time() - begun < 1.5
        await world.a.sent(second)
        for one in watched:
            await world.b.close(one)
        await world.assert_nothing_is_held()

    play(seed, scene)


@pytest.mark.parametrize("at", ["pd.before_grant", "pd.after_reserve"])
def test_who_waits_for_a_push_that_is_never_granted_hears_of_it(at: str) -> None:
    """C8: what brings it is given up between its memory and its grants. Seen to fail: those parts were told to nobody,
    the other request waited for them until all of its time was over, and held their memory."""
    hazards, comings = ScriptedHazards(), itertools.count()

    async def stay() -> None:
        if next(comings) == 0:
            await anyio.sleep_forever()

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        await world.a.write(keys, range(4))
        watched = [await world.b.expect(keys, name) for name in ("r", "s")]
        first = await world.a.send(keys, "b", "r")
        await anyio.sleep(0.3)
        second = await world.a.send(keys, "b", "s")
        await anyio.sleep(0.3)
        await world.a.sender.ask(pd.Cancel(first, SESSION), within=1)
        begun = anyio.current_time()
        for one in watched:
            await world.b.wait_final(one)
        assert anyio.current_time() - begun < 1
        await world.a.sent(second)
        for one in watched:
            await world.b.close(one)
        await world.assert_nothing_is_held()

    hazards.on(at, stay)
    play(0, scene, hazards=hazards)


def test_the_longest_prompt_is_checked_against_the_budget() -> None:
    async def scene(world: PdWorld) -> None:
        shape = world.b.shape
        check = pd.CheckPrompt(shape, 256)
        assert await world.b.receiver.ask(check, within=1) == 5 * 256
        with pytest.raises(pd.PromptTooLong, match="holds prompts of 1280 tokens, and 1281 are"):
            await world.b.receiver.ask(pd.CheckPrompt(shape, 256, 1281), within=1)

    budget = config(receive=ByteSize(11 * PAGE))
    play(0, scene, PdWorldConfig(groups=SHARDED, pd=budget))


def test_a_budget_is_whole_pages() -> None:
    with pytest.raises(ValueError, match="multiple of 4096"):
        config(receive=ByteSize(5000))
    with pytest.raises(ValueError, match="at most half of idle"):
        config(query=Seconds(1.5))
