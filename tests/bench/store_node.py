"""A node with stores, over its socket: what a lookup costs whose objects come from a store, and one that needs none.

Spoken to as raw messages. What is stored are zeros: the arena's own, which nobody has written.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from gateway import RawSession, in_turns, lookup_message, nothing, ping, small_model
from harness import Sample, percentile, quiet, ratio
from processes import Server, cpu_s, echo_process, node_process, wait_prefaulted

from penstock._native import crc64
from penstock.actors.engine.client import new_engine_instance
from penstock.actors.engine.spec import EngineSpec
from penstock.actors.keys import chunk_keys, object_key
from penstock.actors.stores.file_folder import object_name
from penstock.protos import engine_pb2
from penstock.runtime.units import GIB

CHUNK_TOKENS = 256
LONG_CHUNKS = 256
LONG_LAYERS, LONG_HEAD_SIZE = 8, 128  # 1 MiB a chunk
SMALL_HEAD_SIZE = 64  # 64 KiB a chunk
RESIDENT_CHUNKS = 128
SAVED_WITHIN_MS = 60_000
ONES = 20  # lookups in one turn
SETTINGS = ("gateway.deadline=70s", "l1.prefault_threads=1")
_SLOW_STEPS = re.compile(r"^penstock_loop_slow_steps_total (\d+)", re.MULTILINE)
Settings = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reported:
    """One lookup, in microseconds from its sending."""

    first_us: float  # until something was readable
    all_us: float  # until all was


class Engine:
    """One session, and a prompt that lies on the node's store."""

    def __init__(self, session: RawSession, spec: EngineSpec, chunks: int) -> None:
        self._session, self._chunks = session, chunks
        (self._objects,) = spec.objects(CHUNK_TOKENS)
        tokens = b"".join(i.to_bytes(4, "little") for i in range(chunks * CHUNK_TOKENS))
        self.keys = chunk_keys(session.namespace_digest, tokens, CHUNK_TOKENS)

    @property
    def total_bytes(self) -> int:
        return self._chunks * self._objects.object_bytes

    async def save(self) -> None:
        """Make the prompt resident as it is, and wait until the stores have it."""
        prompt = engine_pb2.Prompt(keys=self.keys)
        reserved = (await self._session.ask(reserve=engine_pb2.Reserve(prompt=prompt))).reserved
        assert reserved.answers == bytes(self._chunks), reserved
        size, runs = self._objects.object_bytes, self._objects.runs
        digest, run = crc64(bytes(size)), crc64(bytes(size // runs))
        commit = engine_pb2.Commit(
            lease=reserved.lease,
            digests=digest.to_bytes(8, "little") * self._chunks,
            runs=run.to_bytes(8, "little") * runs * self._chunks,
        )
        await self._session.ask(commit=commit)
        wait = engine_pb2.WaitStored(prompt=prompt, within_ms=SAVED_WITHIN_MS)
        stored = (await self._session.ask(wait_stored=wait)).stored
        saved = engine_pb2.SAVE_STATE_SAVED
        assert stored.states == bytes([saved]) * self._chunks, stored.states

    async def look_up(self, chunks: int) -> Reported:
        """Of the prompt's first chunks, none of which is resident before or after."""
        stream = self._session.stream
        message = lookup_message(engine_pb2.Prompt(keys=self.keys[: 32 * chunks]))
        first_us = 0.0
        begin = time.perf_counter()
        await stream.write(message)
        found = engine_pb2.SessionReply.FromString(await stream.read()).lookup
        assert found.hit_chunks == 0, found
        while True:
            progress = engine_pb2.SessionReply.FromString(await stream.read()).progress
            now_us = (time.perf_counter() - begin) * 1e6
            first_us = first_us or (now_us if progress.hit_chunks else 0.0)
            if progress.final or progress.hit_chunks == chunks:
                break
        assert progress.hit_chunks == chunks, progress
        if not progress.final:
            last = engine_pb2.SessionReply.FromString(await stream.read()).progress
            assert last.final, last
        await self._session.ask(cancel=engine_pb2.Cancel(ticket=found.ticket))
        return Reported(first_us, now_us)

    def first_object(self, store: Path) -> Path:
        """The file of the first chunk's object."""
        return store / object_name(object_key(self.keys[:32], group=0, shard=0))


@asynccontextmanager
async def attached(node: Server, spec: EngineSpec, chunks: int) -> AsyncIterator[Engine]:
    channel = grpc.aio.insecure_channel(node.address.replace("unix://", "unix:"))
    async with channel:
        yield Engine(await RawSession.attach(channel, spec), spec, chunks)


def file_store(folder: Path, **more: object) -> Settings:
    """Whatever is loaded from it goes with its ticket."""
    given: Settings = {"name": "disk", "type": "file", "paths": str(folder), "capacity": "2GiB"}
    return {**given, "write_back": False, **more}


async def save_once(folder: Path, spec: EngineSpec, chunks: int) -> None:
    """By a node of its own: its successor has nothing of it in memory."""
    with node_process(*SETTINGS, "l1.bytes=1GiB", stores=[file_store(folder)]) as node:
        async with attached(node, spec, chunks) as engine:
            await engine.save()


async def small_object(folder: Path, rounds: int) -> dict[str, Sample]:
    """A 64 KiB object from `folder`, on tmpfs, beside an echo of as many bytes."""
    spec = small_model(new_engine_instance(), head_size=SMALL_HEAD_SIZE)
    await save_once(folder, spec, 1)
    seen: dict[str, list[list[float]]] = {"echo": [], "load": []}
    stores = [file_store(folder)]
    with node_process(*SETTINGS, "l1.bytes=256MiB", stores=stores) as node, echo_process() as echo:
        async with (
            attached(node, spec, 1) as engine,
            grpc.aio.insecure_channel(echo.address) as channel,
        ):
            stream = channel.stream_stream("/bench.Echo/Stream")()
            message = lookup_message(engine_pb2.Prompt(keys=engine.keys))

            async def load() -> list[float]:
                return [(await engine.look_up(1)).all_us for _ in range(ONES)]

            cases = {"echo": lambda: ping(stream, message, nothing), "load": load}
            await in_turns(cases)
            with quiet():
                for _ in range(rounds):
                    for name, values in (await in_turns(cases)).items():
                        seen[name].append(values)
    echo_us, load_us = (
        Sample(tuple(percentile(one, 50) for one in seen[name])) for name in ("echo", "load")
    )
    pairs = zip(load_us.values, echo_us.values, strict=True)
    over = Sample(tuple(mine - bare for mine, bare in pairs))
    return {"echo_us_p50": echo_us, "tmpfs_64kib_us_p50": load_us, "over_echo_us": over}


async def long_prefix(folder: Path, rounds: int) -> dict[str, Sample]:
    """256 chunks of 1 MiB from `folder`, beside one read of such an object."""
    spec = small_model(new_engine_instance(), layers=LONG_LAYERS, head_size=LONG_HEAD_SIZE)
    await save_once(folder, spec, LONG_CHUNKS)
    reads, ones, firsts, speeds, cores = (list[float]() for _ in range(5))
    with node_process(*SETTINGS, "l1.bytes=1GiB", stores=[file_store(folder)]) as node:
        wait_prefaulted(node)
        slow_before = slow_steps(node)
        async with attached(node, spec, LONG_CHUNKS) as engine:
            path, gib = engine.first_object(folder), engine.total_bytes / GIB
            await engine.look_up(LONG_CHUNKS)
            with quiet():
                for _ in range(rounds):
                    reads.append(_median(lambda: read_us(path)))
                    ones.append(
                        percentile([(await engine.look_up(1)).all_us for _ in range(9)], 50)
                    )
                    used_s = cpu_s(node.pid)
                    reported = await engine.look_up(LONG_CHUNKS)
                    cores.append((cpu_s(node.pid) - used_s) / gib)
                    firsts.append(reported.first_us)
                    speeds.append(gib / reported.all_us * 1e6)
        slow = slow_steps(node) - slow_before
    read, one, first = Sample(tuple(reads)), Sample(tuple(ones)), Sample(tuple(firsts))
    return {
        "read_us": read,
        "one_chunk_us": one,
        "first_report_us": first,
        "first_report_to_read": ratio(first, read),
        "first_report_to_one_chunk": ratio(first, one),
        "prefix_gib_s": Sample(tuple(speeds)),
        "core_s_per_gib": Sample(tuple(cores)),
        "slow_steps": Sample((float(slow),)),
    }


async def full_hits(folder: Path, rounds: int) -> dict[str, Sample]:
    """Lookups of a resident prefix: without stores, with two, and with one of them hanging."""
    near = {"name": "near", "type": "memory", "capacity": "64MiB"}
    far = {"name": "far", "type": "file", "ownership": "shared", "paths": str(folder)}
    hanging = {**far, "faults": {"hang": 1.0}}
    small = ("l1.bytes=256MiB", "l1.prefault_threads=0", "gateway.deadline=30s")
    spec = small_model(new_engine_instance())
    with (
        node_process(*small) as bare,
        node_process(*small, stores=[near, far]) as stored,
        node_process(*small, stores=[near, hanging]) as hung,
    ):
        async with asyncio.TaskGroup() as asking:
            cases, channels = {}, []
            for name, node in {"bare": bare, "stores": stored, "hanging": hung}.items():
                channel = grpc.aio.insecure_channel(node.address.replace("unix://", "unix:"))
                channels.append(channel)
                session = await RawSession.attach(channel, spec)
                cases[name] = await _resident(session)
            other = await RawSession.attach(channels[-1], spec)
            busy = asking.create_task(_miss_for_ever(other))
            times: dict[str, list[list[float]]] = {name: [] for name in cases}
            await in_turns(cases)
            with quiet():
                for _ in range(rounds):
                    for name, seen in (await in_turns(cases)).items():
                        times[name].append(seen)
            busy.cancel()
        for channel in channels:
            await channel.close()
    us = {name: Sample(tuple(percentile(one, 50) for one in seen)) for name, seen in times.items()}
    return {
        "hit_us_p50": us["bare"],
        "hit_with_stores": ratio(us["stores"], us["bare"]),
        "hit_with_one_hanging": ratio(us["hanging"], us["bare"]),
    }


async def _resident(session: RawSession) -> Callable[[], object]:
    tokens = b"".join(i.to_bytes(4, "little") for i in range(RESIDENT_CHUNKS * CHUNK_TOKENS))
    keys = chunk_keys(session.namespace_digest, tokens, CHUNK_TOKENS)
    await session.fill(keys)
    message = lookup_message(engine_pb2.Prompt(keys=keys))

    async def cancel(raw: bytes) -> None:
        found = engine_pb2.SessionReply.FromString(raw).lookup
        assert found.hit_chunks == RESIDENT_CHUNKS, found
        await session.ask(cancel=engine_pb2.Cancel(ticket=found.ticket))

    return lambda: ping(session.stream, message, cancel)


async def _miss_for_ever(session: RawSession) -> None:
    """Keeps a lookup at the store that hangs, as often as the node lets go of the last one."""
    number = 0
    while True:
        number += 1
        keys = number.to_bytes(32, "little")
        await session.stream.write(lookup_message(engine_pb2.Prompt(keys=keys)))
        reply = engine_pb2.SessionReply.FromString(await session.stream.read())
        while not (reply.lookup.final or reply.progress.final):
            reply = engine_pb2.SessionReply.FromString(await session.stream.read())
        await asyncio.sleep(0.01)


def read_us(path: Path) -> float:
    """One read of a whole file past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, -(-path.stat().st_size // mmap.PAGESIZE) * mmap.PAGESIZE)
        buffer.write(bytes(len(buffer)))  # its pages are there
        begin = time.perf_counter()
        os.preadv(fd, [buffer], 0)
        return (time.perf_counter() - begin) * 1e6
    finally:
        os.close(fd)


def slow_steps(node: Server) -> int:
    """Steps of the node's loop that took longer than 5 ms, so far."""
    command = [sys.executable, "-m", "penstock.actors.cli.main", "status", "--metrics"]
    done = subprocess.run(
        [*command, f"--address={node.address}"], capture_output=True, check=True, text=True
    )
    found = _SLOW_STEPS.search(done.stdout)
    return int(found[1]) if found else 0


def _median(measure: Callable[[], float], times: int = 9) -> float:
    return percentile([measure() for _ in range(times)], 50)


def targets(disk: Path, tmpfs: Path, rounds: int) -> dict[str, Sample]:
    """Everything, by the name it has in the report. `disk` and `tmpfs` are empty folders."""
    found: dict[str, Sample] = {}
    plan: Sequence[tuple[str, Callable[[], object]]] = (
        ("node", lambda: small_object(tmpfs / "small", rounds)),
        ("disk", lambda: long_prefix(disk / "long", rounds)),
        ("tmpfs", lambda: long_prefix(tmpfs / "long", rounds)),
        ("l1", lambda: full_hits(disk / "hits", rounds)),
    )
    for name, measure in plan:
        found |= {f"{name}_{key}": one for key, one in asyncio.run(measure()).items()}
    return found
