"""Prompts whose bytes a test knows, and the disks on which nodes keep them: to look at, and to damage."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from support.declarations import OBJECT_BYTES, keys
from support.raw_engine import RUNS, RawEngine, extents_of

from penstock._native import crc64
from penstock.actors.keys import object_key
from penstock.actors.stores.file_folder import object_name
from penstock.actors.stores.header import header_bytes
from penstock.protos import engine_pb2
from penstock.protos.engine_pb2 import Shortfall
from penstock.runtime.units import KIB, MIB

KEY_BYTES = 32
HEADER_BYTES = header_bytes(RUNS)


@dataclass(frozen=True)
class Prompt:
    """`bodies`: one object per chunk."""

    keys: bytes
    bodies: tuple[bytes, ...]
    salt: bytes = b""

    @staticmethod
    def made(
        name: str, chunks: int, *, object_bytes: int = OBJECT_BYTES, salt: bytes = b""
    ) -> Prompt:
        draw = random.Random(name)
        bodies = tuple(draw.randbytes(object_bytes) for _ in range(chunks))
        return Prompt(keys(chunks, prompt=name), bodies, salt)

    def wire(self) -> engine_pb2.Prompt:
        return engine_pb2.Prompt(keys=self.keys, salt=self.salt)

    def object_key(self, chunk: int, *, group: int = 0) -> bytes:
        key = self.keys[chunk * KEY_BYTES : (chunk + 1) * KEY_BYTES]
        return object_key(key, group=group, shard=0)


@dataclass(frozen=True)
class Found:
    """What a lookup came to in the end, and the bytes that were read."""

    hit_chunks: int
    shortfall: Shortfall.ValueType
    bodies: tuple[bytes, ...]


async def put(engine: RawEngine, prompt: Prompt) -> int:
    """Store what is not there; how many objects were granted."""
    reserved = (await engine.ask(reserve=engine_pb2.Reserve(prompt=prompt.wire()))).reserved
    assert engine.arena is not None
    indices, digests, runs = [], b"", b""
    for index, extent in enumerate(extents_of(reserved.extents)):
        if reserved.answers[index] != engine_pb2.ANSWER_GRANTED:
            continue
        body = prompt.bodies[index]
        assert len(body) == extent.bytes
        engine.arena.view(extent.offset, extent.bytes)[:] = body
        indices.append(index)
        digests += struct.pack("<Q", crc64(body))
        step = len(body) // RUNS
        parts = [body[start : start + step] for start in range(0, len(body), step)]
        runs += b"".join(struct.pack("<Q", crc64(part)) for part in parts)
    if indices:
        commit = engine_pb2.Commit(
            lease=reserved.lease, indices=indices, digests=digests, runs=runs
        )
        assert not any((await engine.ask(commit=commit)).committed.outcomes)
    return len(indices)


async def put_and_save(engine: RawEngine, *prompts: Prompt) -> None:
    """Until every store has it, or has finally failed to."""
    for prompt in prompts:
        await put(engine, prompt)
    for prompt in prompts:
        await states_of(engine, prompt)


async def states_of(engine: RawEngine, prompt: Prompt, *, within_ms: int = 8000) -> bytes:
    wait = engine_pb2.WaitStored(prompt=prompt.wire(), within_ms=within_ms)
    return (await engine.ask(wait_stored=wait)).stored.states


async def find(engine: RawEngine, prompt: Prompt, *, load_ms: int = 0) -> Found:
    """Look up, wait until no more comes, and read all of it."""
    lookup = engine_pb2.Lookup(prompt=prompt.wire(), readers=1, load_ms=load_ms)
    found = (await engine.ask(lookup=lookup)).lookup
    hit, shortfall = found.hit_chunks, found.shortfall
    if not found.final:
        last = await engine.last_progress(found.ticket)
        hit, shortfall = last.hit_chunks, last.shortfall
    bodies: tuple[bytes, ...] = ()
    if hit:
        assert engine.arena is not None
        lease = (await engine.acquire(found.ticket)).acquired
        assert lease.chunks == hit
        extents = [one for one in extents_of(lease.extents) if one.bytes]
        bodies = tuple(bytes(engine.arena.view(one.offset, one.bytes)) for one in extents)
        for one, body in zip(extents, bodies, strict=True):
            assert crc64(body) == one.digest
        assert (await engine.release(lease.lease)).released.ok
    if found.ticket:
        await engine.ask(cancel=engine_pb2.Cancel(ticket=found.ticket))
    return Found(hit, shortfall, bodies)


class Medium(Protocol):
    """Where one store keeps its objects."""

    name: str

    def config(self, **given: object) -> dict[str, object]: ...

    def flip(self, prompt: Prompt, chunk: int, *, at: int = 0) -> None:
        """Change a bit of the payload, at so many bytes."""

    def tear(self, prompt: Prompt, chunk: int) -> None:
        """Let the second half of the object never have been written."""

    def swap(self, prompt: Prompt, one: int, other: int) -> None: ...

    def used_bytes(self) -> int:
        """Ground truth, from the disk's side."""


class Files:
    name = "files"

    def __init__(self, root: Path, transforms: Iterable[dict[str, object]] = ()) -> None:
        self.root = root
        self._transforms = [*transforms]

    def config(self, **given: object) -> dict[str, object]:
        made: dict[str, object] = {"name": self.name, "type": "file", "paths": str(self.root)}
        if self._transforms:
            made["transforms"] = self._transforms
        return made | {"capacity": 64 * MIB} | given

    def place(self, prompt: Prompt, chunk: int, *, group: int = 0) -> Path:
        return self.root / object_name(prompt.object_key(chunk, group=group))

    def all(self) -> list[Path]:
        return [path for path in (self.root / "objects").rglob("*") if path.is_file()]

    def flip(self, prompt: Prompt, chunk: int, *, at: int = 0) -> None:
        path = self.place(prompt, chunk)
        flip(path, path.stat().st_size - 1 if self._transforms else HEADER_BYTES + at)

    def tear(self, prompt: Prompt, chunk: int) -> None:
        path = self.place(prompt, chunk)
        os.truncate(path, path.stat().st_size // 2)

    def swap(self, prompt: Prompt, one: int, other: int) -> None:
        first, second = self.place(prompt, one), self.place(prompt, other)
        aside = self.root / "swapped"
        first.rename(aside)
        second.rename(first)
        aside.rename(second)

    def used_bytes(self) -> int:
        used = 0
        for path in self.all():
            with suppress(FileNotFoundError):  # deleted meanwhile
                used += -(-path.stat().st_size // 4096) * 4096
        return used


class Slots:
    """A file that stands for a block device. Objects are found by their bytes."""

    name = "slots"

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self, **given: object) -> dict[str, object]:
        made = {"name": self.name, "type": "raw_block", "paths": str(self.path)}
        return {**made, "slot_bytes": 16 * KIB, "capacity": 16 * MIB, **given}

    def flip(self, prompt: Prompt, chunk: int, *, at: int = 0) -> None:
        flip(self.path, self._payload_at(prompt.bodies[chunk]) + at)

    def tear(self, prompt: Prompt, chunk: int) -> None:
        body = prompt.bodies[chunk]
        with self.path.open("r+b") as file:
            file.seek(self._payload_at(body) + len(body) // 2)
            file.write(bytes(len(body) // 2))

    def swap(self, prompt: Prompt, one: int, other: int) -> None:
        """Header and payload of both, as a controller would that mixes two addresses up."""
        body = prompt.bodies[one]
        places = [self._payload_at(prompt.bodies[chunk]) - HEADER_BYTES for chunk in (one, other)]
        size = HEADER_BYTES + len(body)
        with self.path.open("r+b") as file:
            read = []
            for place in places:
                file.seek(place)
                read.append(file.read(size))
            for place, data in zip(reversed(places), read, strict=True):
                file.seek(place)
                file.write(data)

    def used_bytes(self) -> int:
        return self.path.stat().st_size

    def _payload_at(self, body: bytes) -> int:
        found = self.path.read_bytes().find(body)
        assert found >= 0, "the object is not on this medium"
        return found


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
