"""C4 for the file store: killed at any moment, it opens, and what it said is saved is there, whole."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.stores.file import open_file_store
from penstock.actors.stores.file_config import DurabilityName, FileConfig, FileIo
from penstock.actors.stores.header import whole_blocks
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreContext
from penstock.runtime.units import GIB, ByteSize

ROUNDS = 30
SAMPLES = 8  # objects, each saved in version after version
ACK_BYTES = 4


def configured(folder: Path, io: FileIo, durability: DurabilityName) -> FileConfig:
    return FileConfig(
        name="disk", paths=str(folder), capacity=ByteSize(GIB), io=io, durability=durability
    )


async def samples_of(version: int) -> list[Sample]:
    """Sizes that are whole blocks and sizes that are not."""
    return [
        await make_sample(n, 30_000 + 4096 * n + n % 3, version=version) for n in range(SAMPLES)
    ]


async def save_for_ever(config: FileConfig, first: int, tell: int) -> None:
    """Save version after version of all objects; tell each version's number when it is saved."""
    store = await open_file_store(config, StoreContext(config.name, Epoch(os.urandom(16))))
    version = first
    while True:
        samples = await samples_of(version)
        outcomes = await store.save([one.given() for one in samples])
        assert all(one.fate is Fate.DONE for one in outcomes), outcomes
        os.write(tell, version.to_bytes(ACK_BYTES, "little"))
        version += 1


def killed_after(config: FileConfig, first: int, acknowledged: int) -> int:
    """Let a process save from version `first` on, kill it after so many were acknowledged. The last one that was."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            anyio.run(save_for_ever, config, first, tell)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(tell)
    said = b""
    while len(said) < acknowledged * ACK_BYTES:
        part = os.read(ready, acknowledged * ACK_BYTES - len(said))
        assert part, "the saving process failed"
        said += part
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(ready, 4096):  # of versions saved until it died
        said += part
    os.close(ready)
    return int.from_bytes(said[-ACK_BYTES:], "little")


async def check(config: FileConfig, saved: int) -> int:
    """Open it; the latest version seen of any object, all of which are `saved` or later."""
    store = await open_file_store(config, StoreContext(config.name, Epoch(bytes(16))))
    try:
        entries = {one.key: one async for batch in store.recover() for one in batch}
        latest = 0
        expected = await samples_of(saved)
        later = [await samples_of(saved + n) for n in (1, 2)]
        assert await store.locate(keys_of(expected)) == b"\1" * SAMPLES
        for index, sample in enumerate(expected):
            into = sample.wanted()
            outcome = (await store.load([into]))[0]
            assert outcome.fate is Fate.DONE, outcome
            whole = [
                saved + n
                for n, version in enumerate([expected, *later])
                if await version[index].is_in(into)
            ]
            assert whole, f"object {index} is neither version {saved} nor a later one"
            latest = max(latest, *whole)
            file_bytes = outcome.payload_bytes + len(sample.header)
            assert entries.pop(sample.key).stored_bytes == whole_blocks(file_bytes)
        assert not entries
    finally:
        await store.aclose()
    return latest


def nothing_is_left(folder: Path) -> None:
    """C2: nothing lies there that is not counted."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in files if "objects" in path.parts]) == SAMPLES
    assert not [path for path in files if "aside" in path.parts]


@pytest.mark.parametrize(
    ("io", "durability"),
    [(FileIo.DIRECT, DurabilityName.NONE), (FileIo.BUFFERED, DurabilityName.FDATASYNC)],
)
def test_killed_at_any_moment_it_opens_with_all_that_was_acknowledged(
    io: FileIo, durability: DurabilityName, tmp_path: Path
) -> None:
    """C4, C2. Method: a process saves without end and is killed in the middle of it, again and again."""
    draw = random.Random(4)
    folder = tmp_path / "disk"
    config = configured(folder, io, durability)
    version = 1
    for _ in range(ROUNDS):
        saved = killed_after(config, version, draw.randint(1, 6))
        version = anyio.run(check, config, saved) + 1
        nothing_is_left(folder)
