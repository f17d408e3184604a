"""What a store reads before its load is asked for counts as that load, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest
from support.store_scenes import SEEDS, samples
from support.store_world import StoreWorld, config, source, store_world, target

from penstock.actors.api import store as api
from penstock.actors.api.store import LoadOutcome, StoreState
from penstock.actors.core.admission import Work
from penstock.actors.stores.memory import MemoryStore
from penstock.actors.stores.store import Fate, Outcome, Store, Wanted
from penstock.runtime.errors import PenstockError
from penstock.runtime.message import NOT_AT_ONCE, Envelope
from penstock.runtime.sim_loop import simulate
from penstock.runtime.units import ByteSize, Seconds


class _Reading:
    """One that takes as long as the store hangs, and goes on when nobody waits for it."""

    def __init__(self, store: Eager, wanted: Sequence[Wanted]) -> None:
        self._moved = asyncio.ensure_future(store.read(wanted))

    async def outcomes(self) -> list[Outcome]:
        return await asyncio.shield(self._moved)


class Eager(MemoryStore):
    """Begins loads. Each reads when the store `works`, and keeps what it was given until then, as a disk does."""

    def __init__(self) -> None:
        super().__init__()
        self.works = anyio.Event()
        self.works.set()
        self.fails = False  # what was begun
        self.begun = self.loads = 0

    def begin_load(self, wanted: Sequence[Wanted]) -> _Reading:
        self.begun += 1
        return _Reading(self, wanted)

    async def read(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        await self.works.wait()
        if self.fails:
            return [Outcome(Fate.FAULT, reason="the medium is gone") for _ in wanted]
        return await super().load(wanted)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        self.loads += 1
        return await super().load(wanted)


def play(
    seed: int, scene: Callable[[StoreWorld, Eager], Awaitable[None]], **settings: object
) -> None:
    store = Eager()

    async def open_store() -> Store:
        return store

    async def main() -> None:
        async with store_world(open_store, config(**settings)) as world:
            await world.wait_recovered()
            await scene(world, store)
            world.check_books()
            store.works.set()
            await becomes(lambda: running(world) == 0)

    simulate(seed, main)


def begin(world: StoreWorld, targets: tuple[api.Target, ...]) -> api.Ahead | None:
    """In this step; None: it was not begun."""
    ahead = world.actor.receive_at_once(api.ReadAhead(targets))
    assert ahead is NOT_AT_ONCE or isinstance(ahead, api.Ahead)
    return ahead if isinstance(ahead, api.Ahead) else None


async def becomes(look: Callable[[], bool]) -> None:
    """True, within a second."""
    for _ in range(100):
        if look():
            return
        await anyio.sleep(0.01)
    raise AssertionError("not within a second")


def running(world: StoreWorld) -> int:
    """Places taken."""
    parts = world.actor._parts
    assert parts is not None
    return parts.gate.running(Work.LOAD)


def given_up_bytes(world: StoreWorld) -> int:
    parts = world.actor._parts
    assert parts is not None
    return parts.gate._admission._given_up_bytes


@SEEDS
def test_what_was_read_ahead_is_the_load_itself(seed: int) -> None:
    """Seen to fail while the load read again what had been read for it."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        one, other = await samples(2)
        await world.save(source(one), source(other))
        targets = (target(one), target(other))
        ahead = begin(world, targets)
        assert (store.begun, running(world)) == (1, 1)
        answers = await world.ref.ask(api.Load(targets, ahead), within=10)
        assert [answer.outcome for answer in answers] == [LoadOutcome.LOADED] * 2
        for sample, into in zip((one, other), targets, strict=True):
            size = sample.logical_bytes
            assert bytes(into.payload[:size]) == bytes(sample.payload[:size])
        assert (store.begun, store.loads, running(world)) == (1, 0, 0)
        assert world.metric("operations_total", op="load", outcome="loaded") == 2

    play(seed, scene)


@SEEDS
def test_what_was_not_read_whole_is_loaded_as_if_nothing_had_been_begun(seed: int) -> None:
    """B1: no fault of such a read is told, or counts for the breaker.

    Seen to fail while its outcomes were taken as they were."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        (one,) = await samples(1)
        await world.save(source(one))
        store.fails = True
        targets = (target(one),)
        ahead = begin(world, targets)
        (answer,) = await world.ref.ask(api.Load(targets, ahead), within=10)
        assert answer.outcome is LoadOutcome.LOADED
        assert (store.begun, store.loads) == (1, 1)
        assert (await world.measure()).state is StoreState.OPEN

    play(seed, scene, attempts_max=1)


@SEEDS
@pytest.mark.parametrize("kind", [api.Load, api.LoadPrefix])
def test_what_has_left_the_books_meanwhile_is_not_answered_while_it_is_read(
    seed: int, kind: type[api.Load]
) -> None:
    """A2. Seen to fail: the rest was read again and answered, and its memory given to others while the first reads
    still wrote to it."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        one, other = await samples(2)
        await world.save(source(one), source(other))
        store.works = anyio.Event()
        targets = (target(one), target(other))
        ahead = begin(world, targets)
        await world.ref.ask(api.Delete(api.Keys.of([(other.key, other.device)])), within=5)
        with anyio.move_on_after(1.0) as waiting:
            await world.ref.ask(kind(targets, ahead), within=10)
        assert waiting.cancelled_caught
        assert not store.works.is_set()

    play(seed, scene)


@SEEDS
def test_a_load_waits_for_no_place_behind_what_was_begun_for_it(seed: int) -> None:
    """B1. Seen to fail: with one place, a load of which an object had left the books asked for another place than that
    of its own reads, and waited as long as it was let."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        one, other = await samples(2)
        await world.save(source(one), source(other))
        targets = (target(one), target(other))
        ahead = begin(world, targets)
        assert ahead is not None
        await world.ref.ask(api.Delete(api.Keys.of([(other.key, other.device)])), within=5)
        answers = await world.ref.ask(api.Load(targets, ahead), within=5)
        assert answers[0].outcome is LoadOutcome.LOADED

    play(seed, scene, loads_max=1)


@SEEDS
def test_a_load_that_is_never_asked_for_gives_its_place_back(seed: int) -> None:
    """Its bytes count until nobody writes them any more.

    Seen to fail while the place was only that of a load that came."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        (one,) = await samples(1)
        await world.save(source(one))
        store.works = anyio.Event()
        ahead = begin(world, (target(one),))
        assert running(world) == 1
        del ahead
        await becomes(lambda: running(world) == 0)
        assert given_up_bytes(world) > 0
        store.works.set()
        await becomes(lambda: given_up_bytes(world) == 0)
        assert await world.fetch(one) == [LoadOutcome.LOADED]

    play(seed, scene)


@SEEDS
def test_one_that_hangs_is_given_up_as_any_load(seed: int) -> None:
    """B1. Seen to fail while what hangs kept the place of a load that was given up."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        (one,) = await samples(1)
        await world.save(source(one))
        store.works = anyio.Event()
        for _ in range(5):
            targets = (target(one),)
            ahead = begin(world, targets)
            with pytest.raises(PenstockError):
                await world.ref.ask(api.Load(targets, ahead), within=5)
            del ahead, targets
            await becomes(lambda: running(world) == 0)
            if (await world.measure()).state is StoreState.BROKEN:
                break
        assert (await world.measure()).state is StoreState.BROKEN
        assert begin(world, (target(one),)) is None, "a store that is left alone is not read from"
        assert given_up_bytes(world) > 0
        store.works.set()
        await becomes(lambda: given_up_bytes(world) == 0)

    play(seed, scene, load_within=Seconds(5))


@SEEDS
def test_nothing_is_read_ahead_without_a_place_and_books_that_have_it(seed: int) -> None:
    async def scene(world: StoreWorld, store: Eager) -> None:
        one, other = await samples(2)
        await world.save(source(one))
        assert begin(world, (target(one), target(other))) is None  # the other is not there
        first = begin(world, (target(one),))
        assert first is not None
        assert begin(world, (target(one),)) is None  # loads_max = 1
        assert store.begun == 1
        del first
        await becomes(lambda: begin(world, (target(one),)) is not None)

    play(seed, scene, loads_max=1)


@SEEDS
def test_what_a_former_life_has_begun_is_not_taken_over(seed: int) -> None:
    """Its buffers are the same, and a store that was opened anew may have other bytes for them.

    Seen to fail while whatever came with a load was taken."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        (one,) = await samples(1)
        await world.save(source(one))
        targets = (target(one),)
        ahead = begin(world, targets)
        former = world.actor
        world.ref.mailbox.put_nowait(Envelope("a bug", 1e9, None))  # type: ignore[arg-type]
        await becomes(lambda: world.actor is not former and world.actor._parts is not None)
        await world.wait_recovered()
        (answer,) = await world.ref.ask(api.Load(targets, ahead), within=10)
        assert answer.outcome is LoadOutcome.LOADED
        assert store.loads == 1

    play(seed, scene, inflight_bytes_max=ByteSize(64 << 20))


@SEEDS
@pytest.mark.parametrize(
    ("hangs_s", "outcome"), [(1.0, LoadOutcome.LOADED), (9.0, LoadOutcome.FAILED)]
)
def test_where_a_former_life_still_reads_to_nothing_is_loaded(
    seed: int, hangs_s: float, outcome: LoadOutcome
) -> None:
    """A2. Seen to fail: it was read anew and answered, and its memory given to others while the former life's reads
    still wrote to it."""

    async def scene(world: StoreWorld, store: Eager) -> None:
        (one,) = await samples(1)
        await world.save(source(one))
        store.works = anyio.Event()
        targets = (target(one),)
        ahead = begin(world, targets)
        former = world.actor
        world.ref.mailbox.put_nowait(Envelope("a bug", 1e9, None))  # type: ignore[arg-type]
        await becomes(lambda: world.actor is not former and world.actor._parts is not None)
        await world.wait_recovered()
        asyncio.get_running_loop().call_later(hangs_s, store.works.set)
        (answer,) = await world.ref.ask(api.Load(targets, ahead), within=20)
        assert answer.outcome is outcome
        is_loaded = outcome is LoadOutcome.LOADED
        assert (store.works.is_set(), store.loads) == (is_loaded, int(is_loaded))

    play(seed, scene, load_within=Seconds(5))
