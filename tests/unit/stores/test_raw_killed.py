"""C4 for the raw block store: killed at any moment, it opens, and what it said is saved or deleted is so."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from penstock.actors.api.types import Epoch
from penstock.actors.stores.file_config import DurabilityName
from penstock.actors.stores.raw_block import RawBlockStore, open_raw_block_store
from penstock.actors.stores.raw_config import RawBlockConfig
from penstock.actors.stores.samples import Sample, keys_of, make_sample
from penstock.actors.stores.store import Fate, StoreContext
from penstock.runtime.units import KIB, MIB, ByteSize

ROUNDS = 20
SAMPLES = 6  # objects, each saved in version after version; one of them is deleted in every other
TOLD_BYTES = 4


async def opened(path: Path, durability: DurabilityName) -> RawBlockStore:
    made = RawBlockConfig(
        name="raw",
        paths=str(path),
        capacity=ByteSize(2 * MIB),
        slot_bytes=ByteSize(16 * KIB),
        durability=durability,
    )
    return await open_raw_block_store(made, StoreContext("raw", Epoch(bytes(16))))


async def samples_of(version: int) -> list[Sample]:
    return [
        await make_sample(n, 20_000 + 9000 * n + n % 3, version=version) for n in range(SAMPLES)
    ]


async def change_for_ever(path: Path, durability: DurabilityName, first: int, tell: int) -> None:
    """Save version after version of all objects, delete the first in odd ones; tell each version when it is done."""
    store = await opened(path, durability)
    version = first
    while True:
        samples = await samples_of(version)
        outcomes = await store.save([one.given() for one in samples])
        assert all(one.fate is Fate.DONE for one in outcomes), outcomes
        if version % 2:
            await store.delete(keys_of(samples[:1]))
        os.write(tell, version.to_bytes(TOLD_BYTES, "little"))
        version += 1


def killed_after(path: Path, durability: DurabilityName, first: int, told_min: int) -> int:
    """Let a process go on from version `first`, kill it after it told of so many. The last one it told of."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            anyio.run(change_for_ever, path, durability, first, tell)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(tell)
    said = b""
    while len(said) < told_min * TOLD_BYTES:
        part = os.read(ready, 4096)
        assert part, "the saving process failed"
        said += part
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(ready, 4096):
        said += part
    os.close(ready)
    return int.from_bytes(said[-TOLD_BYTES:], "little")


async def check(path: Path, durability: DurabilityName, told: int) -> int:
    """Every object is version `told`, or the next one, which may have been under way. The latest version seen."""
    store = await opened(path, durability)
    store.validate()
    latest = told
    entries = {one.key: one async for batch in store.recover() for one in batch}
    now, later = await samples_of(told), await samples_of(told + 1)
    for number, (one, next_one) in enumerate(zip(now, later, strict=True)):
        into = one.wanted()
        (outcome,) = await store.load([into])
        if outcome.fate is Fate.MISSING:
            assert number == 0, f"object {number} is lost"
            assert one.key not in entries
            continue
        assert outcome.fate is Fate.DONE, outcome
        is_next = await next_one.is_in(into)
        assert is_next or await one.is_in(into), f"object {number} is neither {told} nor later"
        assert is_next or number or told % 2 == 0, "what was deleted is there"
        latest = max(latest, told + is_next)
        assert entries[one.key].stored_bytes == store.cost(len(one.header), len(one.payload))
    await store.aclose()
    return latest


@pytest.mark.parametrize("durability", DurabilityName)
def test_killed_at_any_moment_it_opens_with_all_that_was_acknowledged(
    tmp_path: Path, durability: DurabilityName
) -> None:
    """C4. Method: a process saves and deletes without end and is killed in the middle of it, again and again; the log
    goes round its ring meanwhile."""
    draw = random.Random(4)
    version = 1
    for _ in range(ROUNDS):
        told = killed_after(tmp_path / "device", durability, version, draw.randint(1, 8))
        version = anyio.run(check, tmp_path / "device", durability, told) + 1
