"""Of several folders of a file store one hangs: the others are saved to and deleted from, and it is not asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.eventually import eventually
from support.hanging_folder import hanging
from support.store_world import StoreWorld, source, store_world

from penstock.actors.api.store import Keys, SaveOutcome, StoreState
from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import BreakerConfig
from penstock.actors.stores.file import FileStore, open_file_store
from penstock.actors.stores.file_config import DurabilityName, FileConfig, Placement
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, Store, StoreContext, StoreFault
from penstock.runtime.units import MIB, ByteSize, Seconds

HUNG, SOUND = 0, 1
KIB = 1024


def configured(path: Path, **given: object) -> FileConfig:
    return FileConfig(
        name="tested",
        capacity=ByteSize(64 * MIB),
        paths=(str(path / "hung"), str(path / "sound")),
        placement=Placement.BY_DEVICE,
        **given,  # type: ignore[arg-type]
    )


async def samples(first: int, count: int, device: int) -> list[Sample]:
    return [await make_sample(first + at, 64 * KIB, device=device) for at in range(count)]


def run(work: Callable[[FileStore], Awaitable[None]], config: FileConfig) -> None:
    async def main() -> None:
        store = await open_file_store(config, StoreContext("tested", Epoch(bytes(16))))
        try:
            with anyio.fail_after(15):
                await work(store)
        finally:
            await store.aclose()

    anyio.run(main)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.actors.stores.file_changes.HANGS_S", 0.0)


@pytest.mark.parametrize("durability", DurabilityName)
def test_one_that_hangs_costs_what_belongs_there_and_nothing_else(
    tmp_path: Path, durability: DurabilityName
) -> None:
    """B1. Seen to fail with one engine for all folders: nothing was saved or deleted any more, anywhere."""

    async def work(store: FileStore) -> None:
        hung, sound = await samples(0, 4, HUNG), await samples(4, 4, SOUND)
        with hanging(store, HUNG) as asked:
            async with anyio.create_task_group() as group:
                group.start_soon(store.save, [one.given() for one in (*hung, *sound)])
                await eventually(partial(has_all, store, sound), within=10, what="they are saved")
                group.cancel_scope.cancel()
            assert len(asked) == 1
            ended = partial(has_ended, store, SOUND)
            await eventually(ended, within=10, what="the other one has ended its own")
            outcomes = await store.save([one.given() for one in (*hung, *sound)])
            assert [one.fate for one in outcomes] == [Fate.FAULT] * 4 + [Fate.DONE] * 4
            assert "hangs" in outcomes[0].reason
            assert not outcomes[0].may_be_there, "it was not even begun"
            with pytest.raises(StoreFault, match="hangs"):
                await store.delete(keys_of([*hung, *sound]))
            assert await store.locate(keys_of(sound)) == b"\0" * 4
            assert len(asked) == 1, "it was asked for nothing more"
        ended = partial(has_ended, store, HUNG)
        await eventually(ended, within=10, what="it ends what it had begun")
        assert await has_all(store, hung)
        outcomes = await store.save([one.given() for one in (*hung, *sound)])
        assert [one.fate for one in outcomes] == [Fate.DONE] * 8

    run(work, configured(tmp_path, durability=durability))


async def has_ended(store: FileStore, number: int) -> bool:
    """What was begun in this folder, to its last step: objects are visible before their folder is synced."""
    return not store._changes[number].is_hanging()


async def has_all(store: FileStore, wanted: list[Sample]) -> bool:
    return all(await store.locate(keys_of(wanted)))


def test_whoever_gives_up_on_one_that_is_but_slow_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next to save there waits for it, if it is the same object, and is not refused."""
    monkeypatch.setattr("penstock.actors.stores.file_changes.HANGS_S", 10.0)

    async def work(store: FileStore) -> None:
        (one,) = await samples(0, 1, HUNG)
        with hanging(store, HUNG):
            async with anyio.create_task_group() as group:
                group.start_soon(store.save, [one.given()])
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
        assert (await store.save([one.given()]))[0].fate is Fate.DONE

    run(work, configured(tmp_path))


# With the actor around it.


@asynccontextmanager
async def world(config: FileConfig) -> AsyncIterator[tuple[StoreWorld, FileStore]]:
    stores: list[FileStore] = []

    async def open_store() -> Store:
        stores.append(await open_file_store(config, StoreContext("tested", Epoch(bytes(16)))))
        return stores[0]

    async with store_world(open_store, config) as started:
        await started.wait_recovered()
        yield started, stores[0]


def test_the_breaker_of_writes_stays_closed_while_other_folders_answer(tmp_path: Path) -> None:
    """B14: what is not answered at one folder is no failure of the store.

    Seen to fail: the saves there that were out of time opened it for all folders.
    """

    async def main() -> None:
        config = configured(tmp_path, save_within=Seconds(2), saves_max=8)
        async with world(config) as (started, store):
            for first in range(0, 10, 5):
                await started.save(*[source(one) for one in await samples(first, 5, SOUND)])
            with hanging(store, HUNG):
                stuck = [source(one) for one in await samples(20, 7, HUNG)]
                told = await asyncio.gather(*[started.save(one) for one in stuck])
                assert {one.outcome for (one,) in told} == {SaveOutcome.FAILED}
                assert {one.is_passing for (one,) in told} == {True}
                for at in range(30, 40):
                    (saved,) = await started.save(source(await make_sample(at, 4096, device=SOUND)))
                    assert saved.outcome is SaveOutcome.SAVED, saved
                    (told_now,) = await started.save(source(await make_sample(at + 20, 4096)))
                    assert "hangs" in told_now.reason
                assert (await started.measure()).state is StoreState.OPEN

    anyio.run(main)


@pytest.mark.parametrize("hung", [0, 1])
def test_an_open_breaker_is_closed_by_any_folder_that_answers(tmp_path: Path, hung: int) -> None:
    """B14: nobody else was asked when it opened. Seen to fail: only the first folder was tried, as long as it hung."""

    async def main() -> None:
        breaker = BreakerConfig(failures=2, open_for=Seconds(0.1), open_for_max=Seconds(0.2))
        config = configured(
            tmp_path, save_within=Seconds(1), locate_within=Seconds(1), breaker=breaker
        )
        async with world(config) as (started, store):
            with hanging(store, hung):
                stuck = [source(await make_sample(at, 4096, device=hung)) for at in range(3)]
                await asyncio.gather(*[started.save(one) for one in stuck])
                assert started.actor._parts is not None
                assert started.actor._parts.writes.openings
                await eventually(partial(is_open, started), within=10, what="it is asked again")
                other = await make_sample(9, 4096, device=1 - hung)
                (saved,) = await started.save(source(other))
                assert saved.outcome is SaveOutcome.SAVED

    anyio.run(main)


async def is_open(started: StoreWorld) -> bool:
    return (await started.measure()).state is StoreState.OPEN


def test_keys_are_deleted_where_they_lie(tmp_path: Path) -> None:
    async def work(store: FileStore) -> None:
        both = [*await samples(0, 3, HUNG), *await samples(3, 3, SOUND)]
        await store.save([one.given() for one in both])
        await store.delete(Keys.of([(one.key, one.device) for one in both[1:5]]))
        assert await store.locate(keys_of(both)) == b"\1\0\0\0\0\1"

    run(work, configured(tmp_path))
