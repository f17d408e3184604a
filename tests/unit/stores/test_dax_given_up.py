"""The dax store: who gives up while bytes are copied, and arenas that are drained and added meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from support.dax_rig import config, opened, save, some, there
from support.eventually import eventually

from penstock.actors.stores import dax, dax_arena
from penstock.actors.stores.dax import DaxStore
from penstock.actors.stores.dax_arena import DaxArena, SlotEntry
from penstock.actors.stores.dax_config import Msync
from penstock.actors.stores.samples import Hold, keys_of
from penstock.actors.stores.store import Fate, StoreRefused
from penstock.runtime.units import KIB, MIB, ByteSize


class Slow:
    """Copies that wait at a gate, as for a page of a disk that does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go = threading.Event()
        self.begun = 0

        def copy(*, source: memoryview, target: memoryview) -> None:
            self.begun += 1
            assert self.may_go.wait(10)
            target[:] = source

        monkeypatch.setattr(dax, "copy_bytes", copy)
        monkeypatch.setattr(dax_arena, "copy_bytes", copy)

    async def wait_begun(self) -> None:
        async def look() -> int:
            return self.begun

        await eventually(look, within=10, what="a copy begins")


async def all_are_free(store: DaxStore) -> None:
    async def look() -> bool:
        return not store.arenas()[0].taken

    await eventually(look, within=10, what="all slots are free")


def test_who_gives_up_leaves_at_once_and_memory_and_slots_stay_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A medium that hangs: what is given up is not visible later, and what has not begun never begins."""

    async def run() -> None:
        async with opened(config(tmp_path)) as store:
            samples = await some(3)
            slow = Slow(monkeypatch)
            async with anyio.create_task_group() as group:
                group.start_soon(store.save, [one.given() for one in samples])
                await slow.wait_begun()
                group.cancel_scope.cancel()
            assert store.arenas()[0].taken == 3
            assert await store.locate(keys_of(samples)) == bytes(3)
            slow.may_go.set()
            await all_are_free(store)
            assert slow.begun == 2, "header and payload of the first"
            assert await store.locate(keys_of(samples)) == bytes(3)
            assert await save(store, samples) == [Fate.DONE] * 3

            slow.may_go.clear()
            slow.begun = 0
            hold = Hold()
            held = weakref.ref(hold)
            wanted = [one.wanted(hold) for one in samples]
            async with anyio.create_task_group() as group:
                group.start_soon(store.load, wanted)
                await slow.wait_begun()
                group.cancel_scope.cancel()
            del wanted, hold
            gc.collect()
            await store.delete(keys_of(samples))
            assert store.arenas()[0].taken == 3, "they are read still"
            assert held() is not None, "its memory may be written"
            slow.may_go.set()
            await all_are_free(store)
            gc.collect()
            assert held() is None
            assert await save(store, samples) == [Fate.DONE] * 3

    anyio.run(run)


def test_what_is_deleted_while_it_is_moved_stays_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is saved again meanwhile is the new one."""

    async def run() -> None:
        async with opened(config(tmp_path, "one", "two")) as store:
            samples = await some(6)
            await save(store, samples)
            slow = Slow(monkeypatch)
            async with anyio.create_task_group() as group:
                group.start_soon(store.drain_arena, tmp_path / "one")
                await slow.wait_begun()
                await store.delete(keys_of(samples[:4]))
                slow.may_go.set()
            assert await there(store, samples) == [False] * 4 + [True] * 2
        async with opened(config(tmp_path, "two")) as store:
            assert await there(store, samples) == [False] * 4 + [True] * 2

    anyio.run(run)


def test_a_drain_that_is_given_up_has_dropped_nothing(tmp_path: Path) -> None:
    """At any step; the next one tells of all that had to go."""

    async def run() -> None:
        for steps in range(1, 400, 7):
            (tmp_path / "one").unlink(missing_ok=True)
            (tmp_path / "two").unlink(missing_ok=True)
            async with opened(config(tmp_path, "one", "two")) as store:
                samples = await some(store.arenas()[0].slots + 3, size=5000)
                await save(store, samples)
                draining = asyncio.ensure_future(store.drain_arena(tmp_path / "one"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                dropped: set[bytes] = set()
                draining.cancel()
                try:
                    dropped = await draining
                except asyncio.CancelledError:
                    assert all(await store.locate(keys_of(samples)))
                    dropped = await store.drain_arena(tmp_path / "one")
                expected = bytes(one.key not in dropped for one in samples)
                assert await store.locate(keys_of(samples)) == expected
                await store.remove_arena(tmp_path / "one")

    anyio.run(run)


def test_a_closing_that_is_given_up_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the node, which waits for it some seconds only. Seen to fail: the arenas stayed locked for good."""

    async def can_be_opened() -> bool:
        try:
            async with opened(config(tmp_path)):
                return True
        except StoreRefused:
            return False

    async def run() -> None:
        async with opened(config(tmp_path)) as store:
            slow = Slow(monkeypatch)
            async with anyio.create_task_group() as group:
                group.start_soon(save, store, await some(1))
                await slow.wait_begun()
                group.cancel_scope.cancel()
            with anyio.move_on_after(0):
                await store.aclose()
            assert not await can_be_opened(), "a thread copies still"
            slow.may_go.set()
            await eventually(can_be_opened, within=10, what="it is closed")
            await store.aclose()

    anyio.run(run)


def test_an_arena_that_brings_many_objects_is_adopted_in_steps(tmp_path: Path) -> None:
    """B13: what waits for its turn has it many times."""
    count = 3000

    async def run() -> None:
        slot_bytes, size = ByteSize(8 * KIB), 32 * MIB
        small = config(tmp_path, slot_bytes=slot_bytes)
        medium = DaxArena.open(tmp_path / "many", size, slot_bytes, Msync.NONE)
        for slot in range(count):
            key = slot.to_bytes(32, "little")
            medium._put_entry(slot, SlotEntry(key, 0, bytes(16), slot + 1, 4096, 4096))
            if slot % 64 == 0:
                await checkpoint()
        medium.close()
        turns = 0
        async with opened(small) as store:
            adopting = asyncio.ensure_future(store.add_arena(tmp_path / "many", 0))
            while not adopting.done():
                turns += len(store.arenas()) > 1
                await asyncio.sleep(0)
            assert store.arenas()[1].taken == count
            assert turns >= count // 256
            found = [entry async for batch in store.recover() for entry in batch]
            assert [one.key for one in found] == [n.to_bytes(32, "little") for n in range(count)]

    anyio.run(run)
