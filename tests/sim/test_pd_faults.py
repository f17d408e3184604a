"""What goes wrong between a sender and a receiver: each end known, nothing held, and the next push works."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from support.pd_scenes import next_push_works, settled
from support.pd_world import SESSION, PdWorld, PdWorldConfig, config, play
from support.prefetch_world import PAGE, prompt

from penstock.actors.api import pd
from penstock.actors.api.pd_wire import Reason
from penstock.actors.api.types import Epoch, Shortfall
from penstock.runtime.hazard import ScriptedHazards
from penstock.runtime.sim_net import Weather
from penstock.runtime.units import ByteSize

SEEDS = pytest.mark.parametrize("seed", range(8))
SLOW = Weather(delay_s=(0.01, 0.1), write_s=(0.0, 0.05), part_bytes=500)


@SEEDS
def test_decode_gives_up_while_pieces_are_under_way(seed: int) -> None:
    """A14: the ticket is cancelled in the middle; what is still written is nobody's before its landing is closed, and
    whoever has that memory next has not a byte of it."""

    async def scene(world: PdWorld) -> None:
        keys, other = prompt(8), prompt(8, "other")
        await world.a.write(keys, range(8))
        await world.a.write(other, range(8))
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(world.draw.uniform(0, 0.4))
        await world.b.close(watched)
        again = await world.b.expect(other, "other")
        second = await world.a.send(other, "b", "other")
        assert await world.b.wait_final(again) == 8
        assert await world.b.read(again) == 8
        assert (await world.a.sent(second)).state is pd.SentState.COMMITTED
        first = await world.a.sent(transfer)
        assert first.state is pd.SentState.COMMITTED or first.reason in (
            Reason.CANCELLED,
            Reason.STALE,
        )
        await world.b.close(again)
        await world.assert_nothing_is_held()

    pd_bytes = config(receive=ByteSize(8 * PAGE))  # the second has the memory of the first
    play(seed, scene, PdWorldConfig(pd=pd_bytes, weather=SLOW))


@SEEDS
def test_prefill_gives_up_in_the_middle(seed: int) -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(8)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await world.a.write(keys, range(5))
        await anyio.sleep(world.draw.uniform(0, 0.5))

        await world.a.sender.ask(pd.Cancel(transfer, SESSION), within=1)
        sent = await settled(world, watched, transfer)
        assert sent is not None
        assert sent.reason is Reason.CANCELLED
        await next_push_works(world)

    play(seed, scene, PdWorldConfig(weather=SLOW))


@SEEDS
def test_a_link_that_is_lost_cuts_the_prompt(seed: int) -> None:
    """C8: the peer dies in the midst of a push; what had come whole is read, and both sides are free at once."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(8)
        await world.a.write(keys, range(8))
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(world.draw.uniform(0, 0.8))
        begun = anyio.current_time()
        world.links["a", "b"].lose()
        sent = await settled(world, watched, transfer)
        assert sent is not None
        if sent.state is pd.SentState.FAILED:
            assert sent.reason is Reason.PEER
            assert anyio.current_time() - begun < 1.6, "somebody waited for a dead peer"
        world.link("a", "b")
        await next_push_works(world)

    play(seed, scene, PdWorldConfig(weather=SLOW))


@SEEDS
def test_calls_that_are_lost_lose_nothing(seed: int) -> None:
    """B11: words go with their call, a Grant among them; they are said again, and the push is whole."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(8)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(compute, world)
            for _ in range(4):
                await anyio.sleep(world.draw.uniform(0, 0.4))
                world.links["a", "b"].lose_calls()
        sent = await settled(world, watched, transfer)
        assert sent is not None
        assert sent.state is pd.SentState.COMMITTED
        assert watched.shortfall is Shortfall.NONE

    async def compute(world: PdWorld) -> None:
        for chunk in range(8):
            await world.a.write(prompt(8), range(chunk, chunk + 1))
            await anyio.sleep(0.1)

    play(seed, scene)


def test_a_grant_that_is_lost_is_said_again() -> None:
    """B11: the call is cut between Grant and its arrival."""
    hazards = ScriptedHazards()

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        await world.a.write(keys, range(4))

        async def cut() -> None:
            await anyio.lowlevel.checkpoint()
            if len(cuts) < 2:
                cuts.append(1)
                world.links["a", "b"].lose_calls()

        cuts: list[int] = []
        hazards.on("pd.before_grant", cut)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        sent = await settled(world, watched, transfer)
        assert sent is not None
        assert sent.state is pd.SentState.COMMITTED
        assert cuts

    play(1, scene, hazards=hazards)


@SEEDS
def test_what_is_damaged_on_its_way_is_not_read(seed: int) -> None:
    """A wrong byte is found before anybody may read it, ends the push, and is not counted."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(8)
        await world.a.write(keys, range(8))
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        sent = await settled(world, watched, transfer)
        assert sent is not None
        if sent.state is pd.SentState.FAILED:
            assert sent.reason in (Reason.DAMAGED, Reason.STALE)
            assert watched.hit < 8
            ends.append(seed)

    ends: list[int] = []
    play(seed, scene, PdWorldConfig(weather=Weather(damage=0.3)))
    assert ends, "nothing was damaged"


@SEEDS
def test_nobody_offers(seed: int) -> None:
    """B11: decode hears within its time that nothing comes, and computes."""

    async def scene(world: PdWorld) -> None:
        watched = await world.b.expect(prompt(4))
        begun = anyio.current_time()
        assert await world.b.wait_final(watched) == 0
        assert anyio.current_time() - begun == pytest.approx(2, abs=0.1)
        assert watched.shortfall is Shortfall.OUT_OF_TIME
        await world.b.close(watched)
        await world.assert_nothing_is_held()

    play(seed, scene)


@SEEDS
def test_nobody_expects(seed: int) -> None:
    """The proxy died between the two: what was received is let go of after `idle`."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        await world.a.write(keys, range(4))
        transfer = await world.a.send(keys, "b")
        assert (await world.a.sent(transfer)).state is pd.SentState.COMMITTED
        received = await world.b.receiver.ask(pd.MeasureReceived(), within=1)
        assert received.bytes_held == 4 * PAGE
        await anyio.sleep(3)
        await world.assert_nothing_is_held()
        await next_push_works(world)

    play(seed, scene)


@SEEDS
def test_it_is_expected_after_it_has_come(seed: int) -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(4)
        await world.a.write(keys, range(4))
        transfer = await world.a.send(keys, "b")
        await world.a.sent(transfer)
        watched = await world.b.expect(keys)
        sent = await settled(world, watched, transfer)
        assert watched.hits[-1] == 4
        assert sent is not None

    play(seed, scene)


@SEEDS
def test_prefill_stops_short(seed: int) -> None:
    """Its engine died: what it had committed comes, and that the rest is missing is known long before any deadline."""

    async def scene(world: PdWorld) -> None:

        keys = prompt(8)
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await world.a.write(keys, range(3))
        await anyio.sleep(world.draw.uniform(0, 0.3))
        await world.a.sender.tell(pd.SessionOver(SESSION), within=1)
        sent = await settled(world, watched, transfer)
        assert sent is not None
        assert sent.reason is Reason.SOURCE
        assert watched.hits[-1] == 3
        assert watched.shortfall is Shortfall.FAILED
        assert anyio.current_time() < 3

    play(seed, scene)


@SEEDS
def test_a_receiver_that_died_begins_anew(seed: int) -> None:
    """Its actor crashed: landings are closed, tickets are final, the sender is told, and the next push works."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(8)
        await world.a.write(keys, range(8))
        watched = await world.b.expect(keys)
        transfer = await world.a.send(keys, "b")
        await anyio.sleep(world.draw.uniform(0.01, 0.6))
        await world.crash_receiver("b")
        await world.a.sent(transfer)
        await anyio.sleep(3)  # offered to the next life, it may come there, where nobody expects it
        await settled(world, watched, transfer)
        await next_push_works(world)

    play(seed, scene, PdWorldConfig(weather=SLOW))


def test_another_life_of_the_receiver_is_not_offered_to() -> None:
    """A15: epoch and request are bound into offer and grant."""

    async def scene(world: PdWorld) -> None:
        keys = prompt(2)
        await world.a.write(keys, range(2))
        world.links["a", "b"].epoch = Epoch(b"z" * 16)
        transfer = await world.a.send(keys, "b")
        sent = await world.a.sent(transfer)
        assert (sent.state, sent.reason) == (pd.SentState.FAILED, Reason.STALE)
        await world.assert_nothing_is_held()

    play(0, scene)


def test_another_prompt_under_the_same_request_is_refused() -> None:
    """A15."""

    async def scene(world: PdWorld) -> None:
        keys, other = prompt(2), prompt(2, "other")
        await world.a.write(other, range(2))
        watched = await world.b.expect(keys, "r")
        transfer = await world.a.send(other, "b", "r")
        sent = await settled(world, watched, transfer)
        assert sent is not None
        assert sent.reason is Reason.MISMATCH

    play(0, scene)


def test_a_prompt_that_is_too_large_is_refused_at_once() -> None:
    async def scene(world: PdWorld) -> None:
        keys = prompt(17)
        await world.a.write(keys, range(17))
        transfer = await world.a.send(keys, "b")
        sent = await world.a.sent(transfer, within_s=1)
        assert (sent.state, sent.reason) == (pd.SentState.FAILED, Reason.TOO_LARGE)
        assert "budget" in sent.text
        await world.assert_nothing_is_held()

    play(0, scene)
