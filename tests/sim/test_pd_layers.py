"""Layers are pushed as they are written, before their objects are committed: and whatever becomes of the writer, nobody
reads a byte that was not committed."""

from __future__ import annotations

import anyio
import pytest
from support.pd_scenes import next_push_works, settled
from support.pd_world import INSTANCE, SESSION, PdWorld, PdWorldConfig, play
from support.pd_writing import Writing
from support.prefetch_world import PAGE, SHARDED, prompt

from penstock.actors.api import l1, pd
from penstock.actors.api.errors import InvalidField, WriteOver
from penstock.actors.api.pd_wire import Reason
from penstock.actors.api.types import GroupGeometry, HitRule, LeaseId, SessionId
from penstock.runtime.sim_net import Weather

SEEDS = pytest.mark.parametrize("seed", range(8))
LAYERS = (GroupGeometry(HitRule.FULL, 0, (PAGE,), (8,)),)
SLOW = Weather(delay_s=(0.01, 0.1), write_s=(0.0, 0.05), part_bytes=200)
GIVEN = PdWorldConfig(groups=LAYERS, pages=16, weather=SLOW)


async def writer_dies(world: PdWorld) -> None:
    """As the node finds it: the stream, then the process, then who asks for its pushes; and another one comes."""
    await world.a.l1.ask(l1.StreamLost(SESSION), within=1)
    await world.a.sender.ask(pd.SessionOver(SESSION), within=1)
    await anyio.sleep(world.draw.uniform(0, 0.1))
    await world.a.l1.ask(l1.ProcessGone(SESSION), within=1)
    await world.a.l1.ask(l1.Attach(SESSION, INSTANCE), within=1)


@SEEDS
@pytest.mark.parametrize("groups", [LAYERS, SHARDED])
def test_a_chunk_has_been_transferred_when_it_is_committed(
    seed: int, groups: tuple[GroupGeometry, ...]
) -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(0.5)
        writing = await Writing.begin(world.a, keys, range(4))
        await writing.layer_by_layer(transfer, every_s=0.5)
        await anyio.sleep(1)
        assert world.links["a", "b"].connection.statistics.bytes_sent == sum(
            size for _, size in writing.places
        )
        assert watched.hit == 0, "what is not committed is read by nobody"
        world.validate()
        assert set(await writing.commit()) == {0}
        sent = await settled(world, watched, transfer)
        assert watched.hit == 4
        assert sent == pd.Sent(pd.SentState.COMMITTED, None, sent.bytes, 0, "", sent.bytes)
        await next_push_works(world)

    play(seed, scene, PdWorldConfig(groups=groups, pages=16, weather=SLOW))


@SEEDS
def test_layers_and_commits_come_in_any_order(seed: int) -> None:
    """Some is committed before it was pushed, some was said before the grant, some is never said; calls are lost."""

    async def scene(world: PdWorld) -> None:
        keys, draw = prompt(6), world.draw
        transfer = await world.a.send(keys, "b")
        watched = await world.b.expect(keys)

        async def compute() -> None:
            for first in range(0, 6, 2):
                writing = await Writing.begin(world.a, keys, range(first, first + 2))
                for run in range(8):
                    writing.write(run)
                    if draw.random() < 0.7:
                        await writing.say(transfer, range(run, run + 1))
                    await anyio.sleep(draw.uniform(0, 0.05))
                if draw.random() < 0.5:
                    await writing.say(transfer, range(8))
                assert set(await writing.commit()) == {0}

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(compute)
            for _ in range(3):
                await anyio.sleep(draw.uniform(0, 0.4))
                world.links["a", "b"].lose_calls()
        sent = await settled(world, watched, transfer)
        assert watched.hit == 6
        assert sent is not None
        assert sent.state is pd.SentState.COMMITTED
        assert 0 < sent.early_bytes <= sent.bytes
        await next_push_works(world)

    play(seed, scene, GIVEN)


@SEEDS
def test_a_worker_that_dies_in_the_middle_leaves_nothing_behind(seed: int) -> None:
    """C7: its memory is somebody else's only when nobody sends it any more; what was committed before is read."""

    async def scene(world: PdWorld) -> None:
        keys, other = prompt(4), prompt(12, "other")
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        first = await Writing.begin(world.a, keys, range(1))
        await first.layer_by_layer(transfer)
        await first.commit()
        writing = await Writing.begin(world.a, keys, range(1, 4))
        with anyio.move_on_after(world.draw.uniform(0, 0.5)):
            await writing.layer_by_layer(transfer)
        await writer_dies(world)
        world.validate()
        await world.a.write(other, range(12))
        world.validate()
        sent = await settled(world, watched, transfer)
        assert sent is not None
        assert (watched.hit, sent.reason) == (1, Reason.SOURCE)
        await next_push_works(world)

    play(seed, scene, GIVEN)


@SEEDS
@pytest.mark.parametrize("same", [True, False])
def test_a_writer_gives_up_and_another_one_writes_it(seed: int, same: bool) -> None:
    """The same bytes again: the push is whole. Others: it is void, unless nothing of them had been pushed."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(3)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        writing = await Writing.begin(world.a, keys, range(3))
        await writing.layer_by_layer(transfer, every_s=world.draw.uniform(0, 0.2), runs=5)
        await writing.abort()
        again = await Writing.begin(world.a, keys, range(3), salt=b"" if same else b"salt")
        await again.layer_by_layer(transfer, every_s=0.01)
        await again.commit()
        if same:
            sent = await settled(world, watched, transfer)
            assert watched.hit == 3
            assert sent is not None
            assert sent.state is pd.SentState.COMMITTED
        else:
            await world.b.wait_final(watched)
            sent = await world.a.sent(transfer)
            assert sent.reason is Reason.DAMAGED or watched.hit == 3
            await world.b.close(watched)
            await world.assert_nothing_is_held()
        await next_push_works(world)

    play(seed, scene, GIVEN)


@SEEDS
def test_memory_of_a_writer_that_gave_up_is_held_no_longer_than_it_is_sent(seed: int) -> None:
    """The push itself goes on: somebody may write the same objects."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(3)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        writing = await Writing.begin(world.a, keys, range(3))
        await writing.layer_by_layer(transfer, every_s=0.01, runs=6)
        await writing.abort()
        await anyio.sleep(1.5)
        world.a.table.drain()
        world.validate()
        assert (await world.a.sent(transfer, within_s=0)).early_bytes == 3 * 6 * PAGE // 8
        assert world.a.table.free_bytes == 16 * PAGE
        await world.a.write(keys, range(3))
        sent = await settled(world, watched, transfer)
        assert sent is not None
        assert sent.state is pd.SentState.COMMITTED

    play(seed, scene, GIVEN)


@SEEDS
@pytest.mark.parametrize("how", ["other bytes", "other digests", "no runs"])
def test_a_commit_of_what_was_not_pushed_is_void(seed: int, how: str) -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(3)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(0.5)
        writing = await Writing.begin(world.a, keys, range(3))
        if how == "other digests":
            writing.write(0)
            assert await writing.say(transfer, range(1), digests=bytes(24)) == 3
        else:
            await writing.layer_by_layer(transfer, every_s=world.draw.uniform(0, 0.2), runs=6)
        await anyio.sleep(world.draw.uniform(0.2, 1))
        if how == "other bytes":
            writing.held = [bytes(reversed(held)) for held in writing.held]
        for run in range(8):
            writing.write(run)
        await writing.commit(has_runs=how != "no runs")
        assert await world.b.wait_final(watched) == 0
        sent = await world.a.sent(transfer)
        assert (sent.state, sent.reason) == (pd.SentState.FAILED, Reason.DAMAGED)
        await world.b.close(watched)
        await world.assert_nothing_is_held()
        await next_push_works(world)

    play(seed, scene, GIVEN)


@SEEDS
@pytest.mark.parametrize("who", ["prefill", "decode", "receiver", "link"])
def test_an_end_in_the_middle_of_a_chunk(seed: int, who: str) -> None:
    """A14 B11 C8: what was pushed of objects that are not committed is let go of on both sides; the writer goes on."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        writing = await Writing.begin(world.a, keys, range(4))

        async def end() -> None:
            await anyio.sleep(world.draw.uniform(0, 0.6))
            match who:
                case "prefill":
                    await world.a.sender.ask(pd.Cancel(transfer, SESSION), within=1)
                case "decode":
                    await world.b.close(watched)
                case "receiver":
                    await world.crash_receiver("b")
                case _:
                    world.links["a", "b"].lose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            tasks.start_soon(writing.layer_by_layer, transfer)
        assert await writing.say(transfer, range(8)) == 0
        assert set(await writing.commit()) == {0}
        sent = await world.a.sent(transfer)
        assert sent.state is pd.SentState.FAILED or who == "receiver"  # who has not heard of it yet
        if who != "decode":
            assert await world.b.wait_final(watched) == 0
            await world.b.close(watched)
        if who == "receiver":
            await anyio.sleep(3)  # what nobody expects is let go of
        if who == "link":
            world.link("a", "b")
        await world.assert_nothing_is_held()
        await next_push_works(world)

    play(seed, scene, GIVEN)


def test_only_the_writer_of_a_lease_pushes_its_layers() -> None:
    async def scene(world: PdWorld) -> None:
        keys, stranger = prompt(2), SessionId(2)
        await world.a.l1.ask(l1.Attach(stranger, INSTANCE), within=1)
        transfer = await world.a.send(keys, "b", within_s=2.0)
        theirs = await world.a.sender.ask(
            pd.Send("theirs", "b", world.a.shape, keys, (0,), stranger, 2.0), within=1
        )
        writing = await Writing.begin(world.a, keys, range(2))
        with pytest.raises(pd.TransferUnknown):
            await writing.say(theirs, range(1))
        with pytest.raises(WriteOver):
            await writing.say(theirs, range(1), session=stranger)
        with pytest.raises(WriteOver):
            await writing.say(transfer, range(1), lease=LeaseId(b"?" * 16))
        for digests in (b"", bytes(7), bytes(8), bytes(2 * 8 * 9)):
            with pytest.raises(InvalidField):
                await writing.say(transfer, range(1), digests=digests)
        assert await writing.say(transfer, range(1)) == 2
        elsewhere = await Writing.begin(world.a, prompt(1, "elsewhere"), range(1))
        assert await elsewhere.say(transfer, range(1)) == 0, "the push is not about it"
        await elsewhere.abort()
        await writing.commit()
        with pytest.raises(WriteOver):
            await writing.say(transfer, range(1))
        await world.a.sent(transfer)
        await anyio.sleep(3)
        await world.assert_nothing_is_held()

    play(0, scene, PdWorldConfig(groups=LAYERS, pages=16))
