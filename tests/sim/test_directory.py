"""Directories of several nodes, over a network that loses and cuts, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from unittest import mock

import anyio
import pytest
from support.directory_world import Weather, World, chunk
from support.fake_actors import never

from penstock.actors.api import directory
from penstock.actors.directory_config import DirectoryConfig
from penstock.runtime.errors import ActorCrashed
from penstock.runtime.sim_loop import simulate
from penstock.runtime.supervisor import Supervisor, supervise
from penstock.runtime.units import ByteSize

SEEDS = pytest.mark.parametrize("seed", range(6))
FEW_CHANGES = 12  # kept by L1, so that they are lost at times
Scene = Callable[[World, Supervisor], Awaitable[None]]


def play(seed: int, world: World, scene: Scene) -> None:
    async def main() -> None:
        with mock.patch("penstock.actors.l1_manager.wait_readable", never):
            async with supervise() as supervisor, anyio.create_task_group() as group:
                for name in world.names:
                    await world.start(supervisor, name)
                group.start_soon(world.run_links)
                await scene(world, supervisor)
                group.cancel_scope.cancel()

    simulate(seed, main)


def keys_of(name: str, count: int) -> list[bytes]:
    return [chunk(f"{name}/{number}") for number in range(count)]


@SEEDS
def test_what_a_node_has_its_peers_know_soon_and_what_it_has_not_they_forget(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        a, b = world.nodes["a"], world.nodes["b"]
        keys = keys_of("p", 40)
        await a.put(keys)
        await anyio.sleep(0.3)
        assert await b.directory.ask(directory.Promised(b"".join(keys)), within=1) == (("a", 40),)
        assert await a.promised(keys[0]) == set()
        await a.evict(15)
        await b.put(keys[:1])
        await anyio.sleep(0.3)
        assert (await world.wrong(keys))[1] == 0
        assert not await b.promised(keys[39])
        assert await a.promised(keys[0]) == {"b"}
        seen = await b.measure()
        assert [(one.node_id, one.keys, one.is_following) for one in seen.peers] == [
            ("a", 25, True),
            ("c", 0, True),
        ]
        assert (seen.own_keys, seen.watchers, seen.resyncs, seen.refused) == (1, 2, 0, 0)
        assert seen.peers_bytes <= seen.bytes_max
        assert a.telemetry.value("penstock_directory_own_chunks") == 25
        assert b.telemetry.value("penstock_directory_peers_chunks") == 25

    play(seed, World("abc"), scene)


@SEEDS
def test_updates_are_paced_and_a_quiet_node_says_little(seed: int) -> None:
    """A hundred commits in a second are some twenty updates; none is a word each half second."""

    async def scene(world: World, _: Supervisor) -> None:
        a = world.nodes["a"]
        await anyio.sleep(1.0)
        world.updates = 0
        for number in range(100):
            await a.put([chunk(f"one/{number}")])
            await anyio.sleep(0.01)
        assert 15 <= world.updates <= 32
        await anyio.sleep(1.0)
        world.updates = 0
        await anyio.sleep(10.0)
        assert 36 <= world.updates <= 44, "two nodes, twice a second"

    play(seed, World("ab"), scene)


@SEEDS
def test_after_any_weather_all_come_to_know_the_same(seed: int) -> None:
    """B9: nodes come and go, updates are lost, doubled and overtaken, links end, directories crash, and L1 loses count
    of its changes. When that is over no wrong yes and no wrong no is left."""

    async def scene(world: World, supervisor: Supervisor) -> None:
        world.weather = Weather(lost=0.1, doubled=0.1, late=0.1, cut=0.05)
        keys = [key for name in "abcd" for key in keys_of(name, 60)]
        for _ in range(40):
            node = world.nodes[random.choice(world.names)]
            await node.put(random.sample(keys, random.randrange(1, 30)))
            if random.random() < 0.5:
                await node.evict(random.randrange(1, 128))
            if random.random() < 0.1:
                with pytest.raises(ActorCrashed):
                    await node.directory.ask(directory.PeerUpdate("x", b"", None), within=1)  # type: ignore[arg-type]
            if random.random() < 0.1:
                await world.restart(supervisor, node.name)
            await anyio.sleep(random.uniform(0.0, 0.3))
            for one in world.nodes.values():
                await one.measure()
        world.weather = Weather()
        await anyio.sleep(4.0)
        yes, no = await world.wrong(keys)
        assert no == 0
        assert yes <= 0.01 * len(keys) * 12
        for one in world.nodes.values():
            seen = await one.measure()
            assert [peer.is_following for peer in seen.peers] == [True] * 3
            assert seen.own_keys == sum(one.has(key) for key in keys)
        assert world.asked_anew > 12
        assert any(
            one.telemetry.value("penstock_directory_walks_total") for one in world.nodes.values()
        )

    play(seed, World("abcd", changes_max=FEW_CHANGES), scene)


@SEEDS
def test_a_node_that_restarts_is_forgotten_at_its_first_word(seed: int) -> None:
    """B9: what the former life had is promised no more, though its filter was right once."""

    async def scene(world: World, supervisor: Supervisor) -> None:
        keys = keys_of("p", 20)
        await world.nodes["a"].put(keys)
        await anyio.sleep(0.3)
        b = world.nodes["b"]
        assert await b.promised(keys[0]) == {"a"}
        await world.restart(supervisor, "a")
        await anyio.sleep(2.0)
        assert await b.promised(keys[0]) == set()
        await b.directory.ask(directory.PeerGone("a"), within=1)
        assert "a" not in {one.node_id for one in (await b.measure()).peers}

    play(seed, World("ab"), scene)


@SEEDS
def test_a_peer_beyond_the_bound_is_not_kept_and_comes_back_when_there_is_room(seed: int) -> None:
    """The bytes of all summaries are bounded; who is left out is named, and asked again."""

    async def scene(world: World, _: Supervisor) -> None:
        keys = keys_of("p", 3)
        for name, key in zip("bcd", keys, strict=True):
            await world.nodes[name].put([key])
        await anyio.sleep(2.0)
        a = world.nodes["a"]
        seen = await a.measure()
        assert len(seen.peers) == 2
        (left_out,) = seen.dropped
        assert seen.refused >= 1
        promised = [await a.promised(key) for key in keys]
        assert promised.count(set()) == 1
        gone = seen.peers[0].node_id
        world.severed.add(gone)
        await anyio.sleep(2.0)
        await a.directory.ask(directory.PeerGone(gone), within=1)
        await anyio.sleep(3.0)
        seen = await a.measure()
        assert {one.node_id for one in seen.peers} == {*"bcd"} - {gone}
        assert left_out in {one.node_id for one in seen.peers if one.is_following}
        assert not seen.dropped

    config = DirectoryConfig(batch_chunks=16, peers_max=2, bytes_max=ByteSize(1 << 16))
    play(seed, World("abcd", config=config), scene)


@SEEDS
def test_the_filter_grows_and_shrinks_with_what_there_is(seed: int) -> None:
    """At most two bytes a chunk when there are many, and room is given back when there are few."""

    async def scene(world: World, _: Supervisor) -> None:
        a, b = world.nodes["a"], world.nodes["b"]
        keys = keys_of("p", 400)
        small = (await a.measure()).own_bytes
        for start in range(0, 400, 25):
            await a.put(keys[start : start + 25])
            await anyio.sleep(0.1)
        await anyio.sleep(0.5)
        seen = await a.measure()
        assert seen.own_keys == 400
        assert small < seen.own_bytes <= 2 * 400
        assert (await world.wrong(keys))[1] == 0
        await a.evict(400)
        await anyio.sleep(0.5)
        seen = await a.measure()
        assert (seen.own_keys, seen.own_bytes) == (0, small)
        assert await world.wrong(keys) == (0, 0)
        assert [one.keys for one in (await b.measure()).peers] == [0]

    play(seed, World("ab"), scene)


@SEEDS
def test_a_directory_that_is_asked_too_much_refuses(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        a = world.nodes["a"]
        with pytest.raises(directory.WatchOver):
            await a.directory.ask(directory.NextUpdate(directory.WatchId(77), 1.0), within=2)
        one = await a.directory.ask(directory.Watch("x"), within=1)
        with pytest.raises(directory.TooManyWatches):
            await a.directory.ask(directory.Watch("y"), within=1)
        await a.directory.ask(directory.Unwatch(one), within=1)
        await a.directory.ask(directory.Unwatch(one), within=1)
        assert await a.directory.ask(directory.Watch("y"), within=1) > one

    play(seed, World("a", config=DirectoryConfig(watchers_max=1)), scene)


@SEEDS
def test_who_gives_up_an_update_leaves_nothing_behind(seed: int) -> None:
    """At any moment, with or without the update that comes then."""

    async def scene(world: World, _: Supervisor) -> None:
        a = world.nodes["a"]
        watch = await a.directory.ask(directory.Watch("x"), within=1)
        for number in range(60):
            with anyio.move_on_after(random.uniform(0.0, 0.06)):
                await a.directory.ask(directory.NextUpdate(watch, 1.0), within=2)
            if number % 3 == 0:
                await a.put([chunk(f"one/{number}")])
        await anyio.sleep(1.0)
        assert a.directory.statistics().serving == 0
        await a.directory.ask(directory.Unwatch(watch), within=1)
        assert (await a.measure()).watchers == 0

    play(seed, World("a"), scene)


@SEEDS
def test_who_waits_is_told_that_nothing_has_changed_and_of_what_does_at_once(seed: int) -> None:
    async def scene(world: World, _: Supervisor) -> None:
        a = world.nodes["a"]
        now = asyncio.get_running_loop().time
        watch = await a.directory.ask(directory.Watch("x"), within=1)
        await a.directory.ask(directory.NextUpdate(watch, 1.0), within=2)
        began = now()
        still = await a.directory.ask(directory.NextUpdate(watch, 5.0), within=9)
        assert now() - began == pytest.approx(5.0)
        assert len(still) < 32
        async with anyio.create_task_group() as group:
            group.start_soon(a.put, [chunk("one")])
            began = now()
            update = await a.directory.ask(directory.NextUpdate(watch, 5.0), within=9)
        assert now() - began <= a.config.pace
        assert len(update) > len(still)

    play(seed, World("a"), scene)
