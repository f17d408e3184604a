"""The nixl store: what it refuses, and what it keeps."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support.blob_server import blob_server
from support.nixl_rig import config, needs_nixl, open_it, run

from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file_config import DurabilityName, FileIo
from penstock.actors.stores.file_folder import object_name
from penstock.actors.stores.nixl_agent import Agent, Remote, Way
from penstock.actors.stores.pages import fresh_pages
from penstock.actors.stores.samples import keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreRefused
from penstock.runtime.units import MIB, ByteSize


@needs_nixl
@pytest.mark.parametrize(
    ("given", "key", "problem"),
    [
        ({"plugin": "NOWHERE"}, "plugin", "no storage plugin NOWHERE that loads here.*POSIX"),
        ({"plugin": "UCX"}, "plugin", "no storage plugin UCX.*POSIX"),
        ({"plugin": "AZURE_BLOB"}, "parameters", "AZURE_BLOB does not take its parameters"),
        ({"path": ""}, "path", "POSIX keeps files: say path"),
        ({"capacity": ByteSize(0)}, "capacity", "POSIX keeps files: say capacity"),
        ({"prefix": "kv/"}, "prefix", "POSIX keeps files, below path: leave prefix out"),
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
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"path": "/kv"}, "behind.path: AZURE_BLOB keeps objects, below prefix: leave path out"),
        ({"io": FileIo.BUFFERED}, "behind.io: .*leave io out"),
        ({"durability": DurabilityName.FDATASYNC}, "behind.durability: .*leave durability out"),
        ({"capacity": ByteSize(MIB)}, "capacity: others write there too"),
        ({"tenant_bytes_max": ByteSize(MIB)}, "tenant_bytes_max: others write there too"),
    ],
)
def test_a_plugin_of_objects_has_nothing_of_files_or_owners(
    given: dict[str, object], problem: str
) -> None:
    """A10: what would have no effect is refused. Seen to fail: a quota nobody kept to was taken in silence."""

    async def scene() -> None:
        with blob_server() as server:
            settings = config(
                **{"path": "", "capacity": ByteSize(0), **given},  # type: ignore[arg-type]
                plugin="AZURE_BLOB",
                parameters=server.parameters,
            )
            with pytest.raises(StoreRefused, match=problem):
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
