"""The nixl store where its plugins, the disk or the service fail, and where it is closed too early."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.blob_server import blob_server
from support.nixl_rig import config, needs_nixl, open_it, run

from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.nixl_agent import Agent, Remote, Way
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreFault
from penstock.runtime.units import ByteSize, Seconds


@needs_nixl
@pytest.mark.parametrize("failing", ["DRAM", "FILE"])
def test_memory_that_nixl_does_not_take_fails_these_objects_and_nothing_else(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5. Seen to fail: the actor died of it, and in the end the node."""

    async def scene() -> None:
        store, sample = await open_it(config(tmp_path)), await make_sample(1, 20_000)
        assert (await store.save([sample.given()]))[0].fate is Fate.DONE
        agent = store._medium._agent  # type: ignore[attr-defined]
        register, told = agent._agent.register_memory, []

        def refused(what: Any, kind: str, *rest: Any) -> Any:
            if kind == failing:
                raise agent._errors[0]("no memory handle")
            told.append(register(what, kind, *rest))
            return told[-1]

        def not_forgotten(one: Any, *_: Any) -> None:
            told.remove(one)
            raise agent._errors[0]("in use")

        with monkeypatch.context() as patch:
            patch.setattr(agent._agent, "register_memory", refused)
            patch.setattr(agent._agent, "deregister_memory", not_forgotten)
            for outcome in (
                (await store.load([sample.wanted()]))[0],
                (await store.save([sample.given()]))[0],
            ):
                assert outcome.fate is Fate.FAULT
                assert "memory cannot be told: no memory handle" in outcome.reason
        assert not told, "what was told is told to be forgotten"
        wanted = sample.wanted()
        assert (await store.load([wanted]))[0].fate is Fate.DONE
        assert await sample.is_in(wanted)
        await store.aclose()

    run(scene)


@needs_nixl
def test_the_arena_that_nixl_does_not_take_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the folder is let go of, so that it can be tried again."""

    async def scene() -> None:
        with monkeypatch.context() as patch:
            from nixl_cu13 import _api

            def refused(*_: Any) -> None:
                raise RuntimeError("no memory handle")

            patch.setattr(_api.nixl_agent, "register_memory", refused)
            with pytest.raises(StoreFault, match="no memory handle"):
                await open_it(config(tmp_path), fresh_pages([8192])[0])
        await (await open_it(config(tmp_path))).aclose()

    run(scene)


@needs_nixl
def test_an_object_whose_folder_cannot_be_synced_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6. Seen to fail: it was said to have failed, and was there, in nobody's books."""

    async def scene() -> None:
        store = await open_it(config(tmp_path, durability=DurabilityName.FDATASYNC))
        sample = await make_sample(1, 20_000)

        def broken(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            (outcome,) = await store.save([sample.given()])
        assert outcome.fate is Fate.FAULT
        assert outcome.may_be_there
        assert await store.locate(keys_of([sample])) == b"\0"
        assert (await store.save([sample.given()]))[0].fate is Fate.DONE
        await store.aclose()

    run(scene)


@needs_nixl
def test_saves_go_on_when_somebody_took_the_temporaries_away(tmp_path: Path) -> None:
    """Seen to fail: every save was said to be missing."""

    async def scene() -> None:
        store, sample = await open_it(config(tmp_path)), await make_sample(1, 20_000)
        shutil.rmtree(tmp_path / "aside")
        assert (await store.save([sample.given()]))[0].fate is Fate.DONE
        await store.aclose()

    run(scene)


@needs_nixl
def test_a_full_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        store, sample = await open_it(config(tmp_path)), await make_sample(1, 20_000)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        assert (await store.save([sample.given()]))[0].fate is Fate.FULL
        assert await store.locate(keys_of([sample])) == b"\0"
        await store.aclose()

    run(scene)


@needs_nixl
def test_a_file_that_cannot_be_moved_is_a_fault_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin refuses to write what was opened for reading; the batch goes on."""

    async def scene() -> None:
        store = await open_it(config(tmp_path))
        some = [await make_sample(n, 20_000) for n in range(3)]
        really = os.open

        def read_only(name: Any, flags: int, *rest: Any, **named: Any) -> int:
            fd = really(name, flags, *rest, **named)
            if str(name).endswith("/2"):  # the second file written aside
                other = really(name, os.O_RDONLY, **named)
                os.dup2(other, fd)
                os.close(other)
            return fd

        monkeypatch.setattr(os, "open", read_only)
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
        store_fates = [one.fate for one in await store.save([one.given() for one in some])]
        monkeypatch.undo()
        # The first number went to the test of O_DIRECT.
        assert sorted(store_fates, key=str).count(Fate.FAULT) == 1
        assert store_fates.count(Fate.DONE) == 2
        found = await store.locate(keys_of(some))
        assert [*found] == [fate is Fate.DONE for fate in store_fates]
        asides = [*(tmp_path / "aside").glob("*/[0-9]*")]
        assert not asides
        await store.aclose()

    run(scene)


@needs_nixl
def test_a_transfer_that_cannot_be_ended_keeps_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A2: NIXL would not take it back; whoever holds the memory holds it for the life of the agent."""
    agent, page, hold = Agent(config(tmp_path), "me"), fresh_pages([4096])[0], object()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    def refuse(_: object) -> None:
        raise agent._errors[0]("not to be cancelled")

    monkeypatch.setattr(agent._api.nixl_xfer_handle, "release", refuse)
    assert agent.move(Way.WRITE, [((page,), Remote(fd, 0), hold)]) != [""]
    assert [kept for _, kept in agent._kept] == [((page,), Remote(fd, 0), hold)]
    os.close(fd)


@needs_nixl
def test_closing_leaves_behind_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B8: within `close_within`; the folder is free, and what comes too late is not shown."""
    goes_on = threading.Event()
    ended_on: list[threading.Thread] = []

    async def scene() -> None:
        store = await open_it(config(tmp_path, close_within=Seconds(0.05)))
        sample = await make_sample(1, 20_000)
        wait = store._medium._agent._wait  # type: ignore[attr-defined]

        def hang(under_way: Any) -> None:
            goes_on.wait()
            wait(under_way)

        monkeypatch.setattr(store._medium._agent, "_wait", hang)  # type: ignore[attr-defined]
        with anyio.move_on_after(0.05):
            await store.save([sample.given()])
        agent = store._medium._agent  # type: ignore[attr-defined]
        ended = weakref.ref(agent._agent, lambda _: ended_on.append(threading.current_thread()))
        await store.aclose()
        again = await open_it(config(tmp_path))
        assert ended() is not None, "a transfer is under way"
        goes_on.set()
        await store._turns.all_over()
        await store._ending.result()
        assert await again.locate(keys_of([sample])) == b"\0"
        assert ended() is None
        await again.aclose()
        # What a plugin does at its end may take long: never on the loop's thread.
        assert [one is threading.main_thread() for one in ended_on] == [False]

    run(scene)


@needs_nixl
def test_objects_of_a_service_that_fails(tmp_path: Path) -> None:
    """Faults, not misses; the plugin itself tries for some seconds."""

    async def scene() -> None:
        with blob_server() as server:
            store = await open_it(
                config(
                    "",
                    capacity=ByteSize(0),
                    plugin="AZURE_BLOB",
                    parameters=server.parameters,
                    prefix="kv/",
                )
            )
            sample = await make_sample(1, 20_000)
            assert (await store.save([sample.given()]))[0].fate is Fate.DONE
            assert [*server.blobs] == [f"kv/{sample.key.hex()}"]
            server.is_failing = True
            with pytest.raises(StoreFault, match="could not be located"):
                await store.locate(keys_of([sample]))
            server.is_failing = False
            wanted = sample.wanted()
            assert (await store.load([wanted]))[0].fate is Fate.DONE
            assert await sample.is_in(wanted)
            await store.delete(keys_of([sample]))
            assert await store.locate(keys_of([sample])) == b"\0"
            assert [*server.blobs.values()] == [b"PENSTDEL" + bytes(8)]
            await store.aclose()

    run(scene)
