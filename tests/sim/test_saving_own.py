"""A tenant at its quota gives up its own: saved before, where a store wants what leaves L1."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from support.saving_world import PAGE, SavingConfig, SavingWorld, play, prompt

from penstock.actors.api import eviction, l1, writer
from penstock.actors.core.write_policy import Moment
from penstock.runtime.supervisor import Supervisor

SEEDS = pytest.mark.parametrize("seed", range(8))
SMALL, SMALLS_NUMBER = b"small", 0  # who comes first has the first number


@SEEDS
def test_d6_what_a_tenant_gives_up_for_its_quota_is_saved_first(seed: int) -> None:
    """D6, B17: of its own, those idle longest; nobody else's leave, or are saved."""

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        await world.put(prompt(1, "opens the account"), salt=SMALL)
        world.table.set_quota(SMALLS_NUMBER, 9 * PAGE)
        await world.put(prompt(8, "others"), salt=b"large")
        own, later = prompt(4, "own"), prompt(4, "later")
        await world.put(own, salt=SMALL)
        await world.put(later, salt=SMALL)
        ask = eviction.MakeRoom(4 * PAGE, SMALL)
        assert await world.eviction.ask(ask, within=10) == 4 * PAGE
        assert world.resident(own) == 0
        assert world.has(0, own)
        assert len(world.stores[0].objects) == 4
        assert world.resident(later) == 4
        assert world.resident(prompt(8, "others")) == 8
        await world.put(prompt(4, "next"), salt=SMALL)
        assert int(world.telemetry.value("penstock_evicted_unsaved_chunks_total") or 0) == 0

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))


@SEEDS
@pytest.mark.parametrize("moments", [(Moment.COMMITTED,), (Moment.COMMITTED, Moment.LEAVING)])
def test_what_is_read_still_counts_as_given_up_for_a_quota(
    seed: int, moments: tuple[Moment, ...]
) -> None:
    """B15, B17: a quota has room as soon as its own left the index, and no more of them leave for that.

    Seen to fail: they were said to have freed nothing, all eight left, and the write was refused.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        own = prompt(8, "own")
        await world.put(own, salt=SMALL)
        world.table.set_quota(SMALLS_NUMBER, 8 * PAGE)
        await anyio.sleep(0.1)  # the store has begun
        for left in (7, 6):
            assert await world.eviction.ask(eviction.MakeRoom(PAGE, SMALL), within=10) == PAGE
            assert world.resident(own) == left
        usage = await world.l1.ask(l1.Measure(), within=1)
        assert usage.quarantined_bytes == 2 * PAGE, "the store reads them to the end"
        await world.put(prompt(2, "next"), salt=SMALL)
        assert world.resident(prompt(2, "next")) == 2
        world.stores[0].released.set()

    play(seed, scene, SavingConfig(moments=moments))


@SEEDS
@pytest.mark.parametrize("is_queued", [False, True])
def test_a_tenant_at_its_quota_lets_go_of_nobody_elses_saves(seed: int, *, is_queued: bool) -> None:
    """B15, B17: those of another tenant stay, what they rest on too, although all were committed, and lent, together.

    Seen to fail: all were let go, and the room that somebody needed next was made of what was being saved for others.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        small, large = prompt(8, "small"), prompt(8, "large")
        world.stores[0].plan.hangs = True
        if is_queued:
            await world.put(prompt(16, "first"), salt=b"first")
            await anyio.sleep(0.1)
        leases = [await world.reserve(small, salt=SMALL), await world.reserve(large, salt=b"large")]
        number = 1 if is_queued else SMALLS_NUMBER
        for one, lease in zip((small, large), leases, strict=True):
            await world.commit(one, lease)
        if is_queued:
            world.stores[0].released.set()
            world.stores[0].released = asyncio.Event()  # the next to be read hang again
            await anyio.sleep(5.1)
        world.table.set_quota(number, 8 * PAGE)
        await anyio.sleep(0.1)
        assert world.stores[0].given_bytes == 16 * PAGE
        assert await world.eviction.ask(eviction.MakeRoom(2 * PAGE, SMALL), within=10) == 2 * PAGE
        assert world.resident(small) == 6
        await world.l1.ask(l1.Evict(64 * PAGE, 64), within=1)
        assert (world.resident(small), world.resident(large)) == (0, 8)
        await world.make_room(64 * PAGE)
        assert world.resident(large) == 0, "who needs room of all lets go of all"
        world.stores[0].released.set()

    play(seed, scene)


@SEEDS
@pytest.mark.parametrize("first", [b"small", b"large"])
def test_what_leaves_with_others_is_let_go_for_each_that_it_is_of(seed: int, first: bytes) -> None:
    """B15, B17: what leaves L1 is lent to the writer under one lease, whosever it is.

    Seen to fail: it was that of the tenant of its first object, and the other's quota stayed full of what hung.
    """

    async def scene(world: SavingWorld, _: Supervisor) -> None:
        world.stores[0].plan.hangs = True
        for number, salt in enumerate((first, b"small", b"large")):
            await world.put(prompt(1, f"{number}"), salt=salt)
        async with asyncio.TaskGroup() as room:
            room.create_task(world.make_room(3 * PAGE))
            await anyio.sleep(0.3)
            assert world.stores[0].given_bytes == 3 * PAGE
            assert await world.writer.ask(writer.LetGo(b"neither"), within=1) == 0
            assert await world.writer.ask(writer.LetGo(b"small"), within=1) == 1
            assert await world.writer.ask(writer.LetGo(b"large"), within=1) == 0, "together"
            world.stores[0].released.set()

    play(seed, scene, SavingConfig(moments=(Moment.LEAVING,)))
