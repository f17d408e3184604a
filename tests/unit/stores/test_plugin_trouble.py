"""Stores of third parties that keep no rule: each costs its own answers, never the life of its actor."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from support.eventually import eventually
from support.plugin_store import WildStore
from support.store_world import StoreWorld, source, store_world, target

from penstock.actors import store_actor
from penstock.actors.api import store as api
from penstock.actors.api.store import LoadOutcome, SaveOutcome, StoreState
from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import BreakerConfig
from penstock.actors.stores.memory import Shelf
from penstock.actors.stores.opening import open_store
from penstock.actors.stores.plugin import PluginConfig, find_plugin
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import (
    DONE,
    Entry,
    Fate,
    Outcome,
    StoreContext,
    StoreFault,
    StoreRefused,
)
from penstock.runtime.errors import MailboxFull
from penstock.runtime.units import MIB, ByteSize

CONTEXT = StoreContext("tested", Epoch(bytes(16)))
CONFIG = PluginConfig(
    name="tested",
    plugin="support.plugin_store:WildStore",
    capacity=ByteSize(8 * MIB),
    attempts_max=1,
    breaker=BreakerConfig(failures=1000),
)
SECRET = "password=not-to-be-seen"
ERRORS = [
    OSError(5, SECRET),
    KeyError(SECRET),
    AssertionError(SECRET),
    ExceptionGroup(SECRET, [ValueError(SECRET)]),
    MailboxFull(SECRET),
    asyncio.CancelledError(SECRET),
    SystemExit(SECRET),
]


@pytest.fixture(autouse=True)
def tame_afterwards() -> Iterator[None]:
    WildStore.shelves["one"] = Shelf()
    yield
    WildStore.wild.clear()


async def ask_all(world: StoreWorld, there: Sample, number: int) -> None:
    """Of a store that fails."""
    (saved,) = await world.save(source(await make_sample(number, 20_000)))
    assert saved.outcome is SaveOutcome.FAILED
    (loaded,) = await world.load(target(there))
    assert loaded.outcome is LoadOutcome.FAILED
    assert SECRET not in saved.reason + loaded.reason
    with pytest.raises(StoreFault) as fault:
        await world.ref.ask(api.Delete(keys_of([there])), within=5)
    assert SECRET not in str(fault.value)


async def works(world: StoreWorld, number: int) -> None:
    sample = await make_sample(number, 20_000)
    assert (await world.save(source(sample)))[0].outcome is SaveOutcome.SAVED
    assert await world.fetch(sample) == [LoadOutcome.LOADED]
    assert await world.ref.ask(api.Locate(keys_of([sample])), within=5) == b"\1"
    assert len(world.lives) == 1


@pytest.mark.parametrize("error", ERRORS, ids=[type(one).__name__ for one in ERRORS])
def test_a_plugin_that_raises_anything_costs_its_own_answers(error: BaseException) -> None:
    """B5, D1. Seen to fail: what is no StoreFault ended the actor, and after four of its lives the node."""

    async def run() -> None:
        async with store_world(lambda: open_store(CONFIG, CONTEXT), CONFIG) as world:
            await world.wait_recovered()
            await works(world, 1)
            there = await make_sample(1, 20_000)
            WildStore.wild |= dict.fromkeys(("locate", "load", "save", "delete", "cost"), error)
            for number in range(10, 13):
                await ask_all(world, there, number)
            WildStore.wild.clear()
            await works(world, 3)
            WildStore.wild["aclose"] = error
        assert len(world.lives) == 1

    anyio.run(run)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("load", []),
        ("load", None),
        ("load", [None]),
        ("load", [Outcome("DONE")]),  # type: ignore[arg-type]
        ("load", [Outcome(Fate.DONE, "1")]),  # type: ignore[arg-type]
        ("save", [DONE, DONE]),
        ("save", DONE),
        ("save", [Outcome(Fate.DONE, taken_bytes=1 << 40)]),
        ("save", [Outcome(Fate.DONE, taken_bytes=-1)]),
    ],
)
def test_a_plugin_that_answers_nonsense_costs_its_own_answers(method: str, answer: object) -> None:
    """B5. Seen to fail: an answer too few ended the actor, and one of another kind did."""

    async def run() -> None:
        async with store_world(lambda: open_store(CONFIG, CONTEXT), CONFIG) as world:
            await world.wait_recovered()
            await works(world, 1)
            WildStore.wild[method] = answer
            if method == "save":
                (saved,) = await world.save(source(await make_sample(2, 20_000)))
                assert saved.outcome is SaveOutcome.FAILED
            else:
                (loaded,) = await world.load(target(await make_sample(1, 20_000)))
                assert loaded.outcome is LoadOutcome.FAILED
            WildStore.wild.clear()
            await works(world, 3)

    anyio.run(run)


@pytest.mark.parametrize("answer", [b"", b"\1\1", "1", None])
def test_names_are_answered_one_by_one_or_not_at_all(answer: object) -> None:
    async def run() -> None:
        store = await open_store(CONFIG, CONTEXT)
        WildStore.wild["locate"] = answer
        with pytest.raises(StoreFault, match="where 1 were asked for"):
            await store.locate(keys_of([await make_sample(1, 4096)]))

    anyio.run(run)


@pytest.mark.parametrize(
    "found",
    [
        [Entry(b"short", 0, 4096, None)],
        [Entry(bytes(32), -1, 4096, None)],
        [Entry(bytes(32), 0, -4096, None)],
        [Entry(bytes(32), 0, 4096, b"short")],
        [Entry(bytes(32), 0.0, 4096, None)],  # type: ignore[arg-type]
        [Entry(bytes(32), 0, 4096.5, None)],  # type: ignore[arg-type]
        [Entry(bytes(32), 0, 1 << 64, None)],
        [Entry(bytes(32), 0, 4096, "0123456789abcdef")],  # type: ignore[arg-type]
        {Entry(bytes(32), 0, 4096, None)},
        (one for one in [Entry(bytes(32), 0, 4096, None)]),
        [None],
        7,
        RuntimeError(SECRET),
    ],
)
def test_what_cannot_be_counted_is_counted_again(found: object) -> None:
    """B5: and meanwhile nothing is saved."""

    async def run() -> None:
        store = await open_store(CONFIG, CONTEXT)
        await store.save([(await make_sample(1, 4096)).given()])
        WildStore.wild["recover"] = found
        with pytest.raises(StoreFault) as fault:
            [batch async for batch in store.recover()]
        assert SECRET not in str(fault.value)

    anyio.run(run)


@pytest.mark.parametrize("error", ERRORS, ids=[type(one).__name__ for one in ERRORS])
def test_a_plugin_that_cannot_be_opened_is_tried_again(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B5. Seen to fail: the node did not start."""
    monkeypatch.setattr(store_actor, "OPEN_PAUSE_S", 0.01)

    async def run() -> None:
        WildStore.wild["open"] = error
        async with store_world(lambda: open_store(CONFIG, CONTEXT), CONFIG) as world:
            detail = (await world.measure()).detail
            assert type(error).__name__ in detail
            assert SECRET not in detail
            WildStore.wild.clear()

            async def is_open() -> bool:
                return (await world.measure()).state is StoreState.OPEN

            await eventually(is_open, within=10, what="it is open")
            await works(world, 1)

    anyio.run(run)


def test_a_module_that_raises_when_it_is_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E4. Seen to fail: only an ImportError was."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (
        ("wild_raises", "1 / 0"),
        ("wild_spelled", "def:"),
        ("wild_exits", "exit(3)"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(StoreRefused, match=f"{name} cannot be imported"):
            find_plugin(f"{name}:Store", key="stores.tested.plugin")
        sys.modules.pop(name, None)
