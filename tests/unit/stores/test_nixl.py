"""The nixl store where it is refused, where its plugins fail, and where it is closed too early."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.blob_server import blob_server

from penstock.actors.api.types import Epoch
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file_config import FileIo
from penstock.actors.stores.file_folder import object_name
from penstock.actors.stores.nixl import NixlStore, open_nixl_store
from penstock.actors.stores.nixl_agent import Agent, Remote, Way
from penstock.actors.stores.nixl_config import NixlConfig
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreContext, StoreFault, StoreRefused
from penstock.runtime.units import MIB, ByteSize, Seconds

needs_nixl = pytest.mark.skipif(
    importlib.util.find_spec("nixl_cu13") is None, reason="pip install penstock[nixl]"
)


def config(path: Path | str, **given: object) -> NixlConfig:
    settings = {"name": "behind", "capacity": ByteSize(64 * MIB), "path": str(path), **given}
    return NixlConfig(**settings)  # type: ignore[arg-type]


async def open_it(settings: NixlConfig, memory: memoryview | None = None) -> NixlStore:
    return await open_nixl_store(settings, StoreContext("behind", Epoch(bytes(16)), memory=memory))


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(18):
            await scene()

    anyio.run(bounded)


@needs_nixl
@pytest.mark.parametrize(
    ("given", "key", "problem"),
    [
        ({"plugin": "NOWHERE"}, "plugin", "no storage plugin NOWHERE that loads here.*POSIX"),
        ({"plugin": "UCX"}, "plugin", "no storage plugin UCX.*POSIX"),
        ({"plugin": "AZURE_BLOB"}, "parameters", "AZURE_BLOB does not take its parameters"),
        ({"path": ""}, "path", "POSIX keeps files: say path"),
        ({"capacity": ByteSize(0)}, "capacity", "POSIX keeps files: say capacity"),
    ],
)
def test_what_cannot_be_opened_is_refused(
    tmp_path: Path, given: dict[str, object], key: str, problem: str
) -> None:
    """A10: with what is wrong, and what to do."""

    async def scene() -> None:
        with pytest.raises(StoreRefused, match=problem) as refused:
            await open_it(config(**{"path": tmp_path, **given}))  # type: ignore[arg-type]
        assert f"stores.behind.{key}" in str(refused.value)

    run(scene)


@needs_nixl
def test_a_plugin_of_objects_has_no_path(tmp_path: Path) -> None:
    async def scene() -> None:
        with blob_server() as server:
            settings = config(tmp_path, plugin="AZURE_BLOB", parameters=server.parameters)
            with pytest.raises(StoreRefused, match="say prefix"):
                await open_it(settings)

    run(scene)


def test_without_the_library_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nixl_cu13", "nixl_cu12", "nixl"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"{name}._api", raising=False)
    with pytest.raises(StoreRefused, match=r"pip install penstock\[nixl\]"):
        Agent(config(tmp_path), "nobody")


def test_its_parameters_are_not_told() -> None:
    """D5: they hold keys."""
    told = repr(config("/kv", parameters={"secret_key": "wJalrXUtnFEMI"}))
    assert "wJalr" not in told


def test_a_path_is_absolute() -> None:
    with pytest.raises(ValueError, match="not absolute"):
        config("kv")


@needs_nixl
@pytest.mark.parametrize("io", [*FileIo])
def test_files_of_no_whole_blocks(tmp_path: Path, io: FileIo) -> None:
    """As transforms make them. They are those of a file store: header, payload, nothing else."""

    async def scene() -> None:
        store = await open_it(config(tmp_path, io=io))
        sample = await make_sample(1, 20_000)
        given = sample.given()
        part = type(given)(*[given.key, 0, given.tenant, given.header, given.payload, 5001, None])
        assert [one.fate for one in await store.save([part])] == [Fate.DONE]
        file = tmp_path / object_name(sample.key)
        assert file.read_bytes() == bytes(sample.header) + bytes(sample.payload[:5001])
        wanted = sample.wanted()
        outcome = (await store.load([wanted]))[0]
        assert (outcome.fate, outcome.payload_bytes) == (Fate.DONE, 5001)
        assert bytes(wanted.payload[:5001]) == bytes(sample.payload[:5001])
        assert not any(wanted.payload[5001:])
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
def test_memory_that_was_told_beforehand_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, told = Agent(config(tmp_path), "me"), []
    arena, beside = fresh_pages([MIB])[0], fresh_pages([8192])[0]
    agent.register(arena)
    register = agent._agent.register_memory

    def counted(what: list[tuple[int, int, int, str]], *rest: Any) -> Any:
        told.extend(what)
        return register(what, *rest)

    monkeypatch.setattr(agent._agent, "register_memory", counted)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    arena[:3] = b"abc"
    assert agent.move(Way.WRITE, [((arena[:4096], arena[8192:9000]), Remote(fd, 0), None)]) == [""]
    assert len(told) == 1  # the file
    assert agent.move(Way.READ, [((beside[:4096],), Remote(fd, 0), None)]) == [""]
    assert len(told) == 3
    assert bytes(beside[:3]) == b"abc"
    assert agent.move(Way.READ, [((beside,), Remote(fd, 0), None)]) != [""]  # the file is shorter
    os.close(fd)


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
        await store.aclose()
        again = await open_it(config(tmp_path))
        goes_on.set()
        await store._turns.all_over()
        assert await again.locate(keys_of([sample])) == b"\0"
        await again.aclose()

    run(scene)


@needs_nixl
def test_objects_of_a_service_that_fails(tmp_path: Path) -> None:
    """Faults, not misses; the plugin itself tries for some seconds."""

    async def scene() -> None:
        with blob_server() as server:
            store = await open_it(
                config("", plugin="AZURE_BLOB", parameters=server.parameters, prefix="kv/")
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


@needs_nixl
def test_a_shared_folder_is_nobodys_alone(tmp_path: Path) -> None:
    """Two exclusive stores over one folder: the second is refused; two shared ones see each other's objects."""

    async def scene() -> None:
        alone = await open_it(config(tmp_path / "mine"))
        with pytest.raises(StoreRefused, match="belongs to another store"):
            await open_it(config(tmp_path / "mine"))
        await alone.aclose()
        given = {"ownership": OwnershipName.SHARED, "capacity": ByteSize(0)}
        shared = config(tmp_path / "ours", **given)
        one, other = await open_it(shared), await open_it(shared)
        sample = await make_sample(1, 20_000)
        await one.save([sample.given()])
        assert await other.locate(keys_of([sample])) == b"\1"
        await one.aclose()
        await other.aclose()

    run(scene)
