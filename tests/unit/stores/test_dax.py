"""The dax store: crashes between any two steps, arenas that come and go, media it refuses."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.dax_rig import SLOT, config, context, opened, save, some, there

from penstock.actors.stores.dax import open_dax_store
from penstock.actors.stores.dax_arena import DaxArena
from penstock.actors.stores.dax_config import ArenaConfig, DaxConfig, Msync
from penstock.actors.stores.dax_layout import ENTRY_BYTES
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import BLOCK_BYTES, Fate, StoreRefused
from penstock.runtime.units import KIB, MIB, ByteSize


@pytest.mark.parametrize("msync", [*Msync])
def test_a_save_cut_at_any_step_is_never_visible_unless_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, msync: Msync
) -> None:
    """C3: the process ends between any two writes of a save; the entry comes last, and is checked."""
    settings = config(tmp_path, msync=msync)

    class Cut(Exception):
        """The process is gone."""

    async def run() -> None:
        old = await some(3)
        async with opened(settings) as store:
            assert set(await save(store, old)) == {Fate.DONE}
        new = await make_sample(9, 30_000)
        real = DaxArena._entry
        for step in range(5):
            async with opened(settings) as store:
                calls = iter(range(100))

                def entry(arena: DaxArena, slot: int, calls: Any = calls) -> memoryview:
                    if next(calls) == step:  # noqa: B023
                        raise Cut
                    return real(arena, slot)

                with monkeypatch.context() as patch:
                    patch.setattr(DaxArena, "_entry", entry)
                    with suppress(Cut):
                        await save(store, [new])
            async with opened(settings) as store:
                assert await there(store, old) == [True] * 3
                await there(store, [new])  # whole, or not there
                await store.delete(keys_of([new]))

    anyio.run(run)


def test_an_entry_of_which_any_part_is_missing_is_none(tmp_path: Path) -> None:
    """A9: an entry that was torn at any byte, or lies in another slot."""

    async def run() -> None:
        samples = await some(2)
        async with opened(config(tmp_path)) as store:
            await save(store, samples)
        path = tmp_path / "one"
        whole = path.read_bytes()
        for cut in (*range(0, 88, 7), 87):
            torn = bytearray(whole)
            torn[BLOCK_BYTES + cut : BLOCK_BYTES + ENTRY_BYTES] = bytes(ENTRY_BYTES - cut)
            path.write_bytes(torn)
            async with opened(config(tmp_path)) as store:
                assert await there(store, samples) == [False, True], cut
        moved = bytearray(whole)
        begin = BLOCK_BYTES + 5 * ENTRY_BYTES
        moved[begin : begin + ENTRY_BYTES] = whole[BLOCK_BYTES : BLOCK_BYTES + ENTRY_BYTES]
        path.write_bytes(moved)
        async with opened(config(tmp_path)) as store:
            assert store.arenas()[0].taken == 2

    anyio.run(run)


def test_of_two_objects_of_one_name_the_later_one_counts(tmp_path: Path) -> None:
    """The process ends after the new one is whole and before the old one is gone."""

    async def run() -> None:
        old, new = await make_sample(1, 20_000), await make_sample(1, 30_000, version=1)
        async with opened(config(tmp_path)) as store:
            await save(store, [old])
            before = (tmp_path / "one").read_bytes()
            await save(store, [new])
        path = tmp_path / "one"
        data = bytearray(path.read_bytes())
        data[BLOCK_BYTES : BLOCK_BYTES + ENTRY_BYTES] = before[
            BLOCK_BYTES : BLOCK_BYTES + ENTRY_BYTES
        ]
        path.write_bytes(data)
        async with opened(config(tmp_path)) as store:
            assert await there(store, [new]) == [True]
            assert store.arenas()[0].taken == 1, "the older one is dropped"

    anyio.run(run)


def test_a_slot_that_is_read_is_not_written(tmp_path: Path) -> None:
    """What is deleted while it is loaded is loaded whole."""

    async def run() -> None:
        async with opened(config(tmp_path, slot_bytes=ByteSize(448 * KIB))) as store:
            assert store.arenas()[0].slots == 2
            old = await make_sample(1, 400 * KIB)
            await save(store, [old])
            wanted = old.wanted()

            async def load() -> None:
                assert (await store.load([wanted]))[0].fate is Fate.DONE

            async def replace_it() -> None:
                await store.delete(keys_of([old]))
                new = [await make_sample(n, 400 * KIB) for n in (2, 3)]
                assert (await save(store, new))[0] is Fate.DONE

            async with anyio.create_task_group() as group:
                group.start_soon(load)
                group.start_soon(replace_it)
            assert await old.is_in(wanted)
            assert await save(store, [await make_sample(4, 400 * KIB)]) in (
                [Fate.FULL],
                [Fate.DONE],
            )

    anyio.run(run)


def test_a_full_store_says_so_and_a_large_object_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(config(tmp_path)) as store:
            slots = store.arenas()[0].slots
            assert store.capacity_bytes == slots * SLOT
            fates = await save(store, await some(slots + 2))
            assert fates == [Fate.DONE] * slots + [Fate.FULL] * 2
            assert await save(store, [await make_sample(99, 64 * KIB)]) == [Fate.REFUSED]

    anyio.run(run)


def test_arenas_come_and_go_while_the_store_works(tmp_path: Path) -> None:
    """Added, drained into the others, removed; what was moved is there, also after a restart."""

    async def run() -> None:
        async with opened(config(tmp_path)) as store:
            slots = store.arenas()[0].slots
            samples = await some(slots)
            await save(store, samples)
            with pytest.raises(StoreRefused, match="drain it first"):
                await store.remove_arena(tmp_path / "one")
            with pytest.raises(StoreRefused, match="there is no arena"):
                await store.drain_arena(tmp_path / "other")
            await store.add_arena(tmp_path / "two", MIB)
            assert store.capacity_bytes == 2 * slots * SLOT
            extra = await some(2, first=50)
            assert await save(store, extra) == [Fate.DONE] * 2
            dropped = await store.drain_arena(tmp_path / "one")
            assert len(dropped) == 2, "two have no room any more"
            assert store.capacity_bytes == slots * SLOT
            await store.remove_arena(tmp_path / "one")
            all_of_them = [*samples, *extra]
            expected = [one.key not in dropped for one in all_of_them]
            assert await there(store, all_of_them) == expected
        async with opened(config(tmp_path, "two")) as store:
            assert await there(store, all_of_them) == expected
        async with opened(config(tmp_path)) as store:
            assert store.arenas()[0].taken == 0, "nothing is left in what was removed"

    anyio.run(run)


def test_an_arena_is_drained_while_it_is_used(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(config(tmp_path, "one", "two", "three")) as store:
            samples = await some(20)
            await save(store, samples)

            async def use(number: int) -> None:
                for _ in range(5):
                    assert all(await there(store, samples[:15]))
                    more = await make_sample(100 + number, 50_000)
                    await save(store, [more])
                    await store.delete(keys_of([more]))

            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(use, number)
                assert await store.drain_arena(tmp_path / "two") == set()
                await store.remove_arena(tmp_path / "two")
            assert all(await there(store, samples))

    anyio.run(run)


def test_the_loop_goes_on_while_large_objects_are_copied(tmp_path: Path) -> None:
    """B13: 32 MiB under the watchdog of 5 ms."""
    kept: list[object] = []

    async def run() -> None:
        arena = ArenaConfig(path=tmp_path / "one", bytes=ByteSize(80 * MIB))
        large = config(tmp_path, arenas=(arena,), slot_bytes=ByteSize(33 * MIB), msync=Msync.SAVE)
        async with opened(large) as store:
            sample = await make_sample(1, 32 * MIB)
            wanted = sample.wanted()
            kept.extend([sample, wanted])
            assert await save(store, [sample]) == [Fate.DONE]
            assert (await store.load([wanted]))[0].fate is Fate.DONE
            assert await sample.is_in(wanted)

    anyio.run(run)


def test_what_is_not_ours_or_not_as_configured_is_refused(tmp_path: Path) -> None:
    """A10: the message says what to do."""

    async def refused(settings: DaxConfig, match: str) -> None:
        with pytest.raises(StoreRefused, match=match):
            await open_dax_store(settings, context())

    async def run() -> None:
        foreign = tmp_path / "foreign"
        foreign.write_bytes(b"\x7fELF" + os.urandom(MIB))
        await refused(config(tmp_path, "foreign"), "holds something else.*zero its first 8192")
        (tmp_path / "small").write_bytes(bytes(1000))
        await refused(config(tmp_path, "small"), "add another one")
        tiny = ArenaConfig(path=tmp_path / "tiny", bytes=ByteSize(40 * KIB))
        await refused(config(tmp_path, arenas=(tiny,)), "too few for one slot")
        empty = ArenaConfig(path=tmp_path / "empty")
        await refused(config(tmp_path, arenas=(empty,)), "does not exist: say how many bytes")
        async with opened(config(tmp_path)):
            await refused(config(tmp_path), "in use by another")
        await refused(config(tmp_path, slot_bytes=ByteSize(32 * KIB)), "has slots of 65536 bytes")
        path = tmp_path / "one"
        good = path.read_bytes()
        path.write_bytes(good[:20] + b"\xff" + good[21:])
        await refused(config(tmp_path), "damaged")
        path.write_bytes(good[:8] + b"\x02" + good[9:])
        await refused(config(tmp_path), "of version 2")
        path.write_bytes(good[: len(good) // 2])
        await refused(config(tmp_path), "add another one")

    anyio.run(run)


def test_memory_beyond_the_payload_is_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(config(tmp_path)) as store:
            sample = await make_sample(1, 20_000)
            await save(store, [sample])
            wanted = sample.wanted()
            memory = fresh_pages([64 * KIB])[0]
            memory[:] = b"\xa5" * len(memory)
            outcome = (await store.load([replace(wanted, payload=memory)]))[0]
            assert outcome.payload_bytes == 20_480
            assert bytes(memory[20_480:]) == b"\xa5" * (64 * KIB - 20_480)

    anyio.run(run)


def test_what_lies_in_memory_is_loaded_at_once_and_nothing_else_is(tmp_path: Path) -> None:
    """All of it or none, and only where no page has to come from a disk.

    Seen to fail, of a file on a disk, without the look at where its arena lies."""

    async def run() -> None:
        first, second, other = await some(3)
        async with opened(config(tmp_path)) as store:
            assert set(await save(store, [first, second])) == {Fate.DONE}
            (arena,) = store._slots.arenas
            arena.is_memory = True
            wanted = [first.wanted(), second.wanted()]
            outcomes = store.load_at_once(wanted)
            assert outcomes is not None
            assert [one.fate for one in outcomes] == [Fate.DONE] * 2
            assert [one.payload_bytes for one in outcomes] == [
                len(first.payload),
                len(second.payload),
            ]
            assert await first.is_in(wanted[0])
            assert await second.is_in(wanted[1])
            assert store.load_at_once([first.wanted(), other.wanted()]) is None
            small = replace(first.wanted(), payload=fresh_pages([0])[0])
            assert store.load_at_once([small]) is None
            arena.is_memory = False
            assert store.load_at_once([first.wanted()]) is None
            arena.is_memory = True
            await store.delete(keys_of([first]))
            assert store.load_at_once([first.wanted()]) is None

    anyio.run(run)
