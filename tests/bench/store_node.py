"""A node with stores, over its socket: what a lookup costs whose objects come from a store, and one that needs none.

Spoken to as raw messages. What is stored are zeros: the arena's own, which nobody has written.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import grpc
from bare_reads import BareReader
from gateway import TURNS, Case, RawSession, in_turns, lookup_message, nothing, ping, small_model
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
LONG_HEAD_SIZE = 128
PREFIX_KEYS = (
    "read_us",
    "queued_read_us",
    "one_chunk_us",
    "idle_first_report_us",
    "first_report_us",
    "prefix_gib_s",
    "core_s_per_gib",
)
ONE_READS = 9
HIT_TURNS = 3  # of each case in a round
SMALL_HEAD_SIZE = 64  # 64 KiB a chunk
RESIDENT_CHUNKS = 128
SAVED_WITHIN_MS = 60_000
ONES = 6  # lookups in one turn
SMALL_ARENA, SAVING_ARENA, LOADING_ARENA = "l1.bytes=128MiB", "l1.bytes=1GiB", "l1.bytes=512MiB"
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
        self._session, self.chunks = session, chunks
        (self._objects,) = spec.objects(CHUNK_TOKENS)
        tokens = b"".join(i.to_bytes(4, "little") for i in range(chunks * CHUNK_TOKENS))
        self.keys = chunk_keys(session.namespace_digest, tokens, CHUNK_TOKENS)

    @property
    def total_bytes(self) -> int:
        return self.chunks * self._objects.object_bytes

    async def save(self) -> None:
        """Make the prompt resident as it is, and wait until the stores have it."""
        prompt = engine_pb2.Prompt(keys=self.keys)
        reserved = (await self._session.ask(reserve=engine_pb2.Reserve(prompt=prompt))).reserved
        assert reserved.answers == bytes(self.chunks), reserved
        size, runs = self._objects.object_bytes, self._objects.runs
        digest, run = crc64(bytes(size)), crc64(bytes(size // runs))
        commit = engine_pb2.Commit(
            lease=reserved.lease,
            digests=digest.to_bytes(8, "little") * self.chunks,
            runs=run.to_bytes(8, "little") * runs * self.chunks,
        )
        await self._session.ask(commit=commit)
        wait = engine_pb2.WaitStored(prompt=prompt, within_ms=SAVED_WITHIN_MS)
        stored = (await self._session.ask(wait_stored=wait)).stored
        saved = engine_pb2.SAVE_STATE_SAVED
        assert {*stored.states} == {saved}, {*stored.states}

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

    async def look_up_one(self, number: int) -> float:
        """Microseconds until a prompt can be read that is one of the chunks alone, which is not resident before."""
        stream = self._session.stream
        key = self.keys[32 * number : 32 * (number + 1)]
        message = lookup_message(engine_pb2.Prompt(keys=key))
        begin = time.perf_counter()
        await stream.write(message)
        found = answer = engine_pb2.SessionReply.FromString(await stream.read()).lookup
        while not answer.hit_chunks and not answer.final:
            answer = engine_pb2.SessionReply.FromString(await stream.read()).progress
        us = (time.perf_counter() - begin) * 1e6
        assert answer.hit_chunks == 1, answer
        while not answer.final:
            answer = engine_pb2.SessionReply.FromString(await stream.read()).progress
        await self._session.ask(cancel=engine_pb2.Cancel(ticket=found.ticket))
        return us

    def objects(self) -> Iterator[str]:
        """The names of all files in a store, in order."""
        for start in range(0, len(self.keys), 32):
            yield object_name(object_key(self.keys[start : start + 32], group=0, shard=0))


@asynccontextmanager
async def attached(node: Server, spec: EngineSpec, chunks: int) -> AsyncIterator[Engine]:
    channel = grpc.aio.insecure_channel(node.address.replace("unix://", "unix:"))
    async with channel:
        yield Engine(await RawSession.attach(channel, spec), spec, chunks)


def file_store(folder: Path, **more: object) -> Settings:
    """Whatever is loaded from it goes with its ticket."""
    given: Settings = {"name": "disk", "type": "file", "paths": str(folder), "capacity": "2GiB"}
    return {**given, "write_back": False, **more}


async def small_object(folder: Path, rounds: int) -> dict[str, Sample]:
    """A 64 KiB object from `folder`, on tmpfs, each time another one, beside an echo of as many bytes.

    From a store that is buffered and whose objects stay in L1, which has it at hand; and, `unkept`, from one that is
    neither: it goes the way of long prompts.
    """
    spec = small_model(new_engine_instance(), head_size=SMALL_HEAD_SIZE)
    chunks = (rounds + 1) * TURNS * ONES
    ways = {
        "at_hand": file_store(folder / "at_hand", name="near", io="buffered", write_back=True),
        "unkept": file_store(folder / "unkept"),
    }
    with node_process(*SETTINGS, SMALL_ARENA, stores=[*ways.values()]) as node:
        async with attached(node, spec, chunks) as engine:
            await engine.save()  # on all stores
    async with AsyncExitStack() as stack:
        echo = stack.enter_context(echo_process())
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(echo.address))
        stream = channel.stream_stream("/bench.Echo/Stream")()
        message = lookup_message(engine_pb2.Prompt(keys=bytes(32)))
        cases: dict[str, Case] = {"echo": lambda: ping(stream, message, nothing)}
        for name, store in ways.items():
            node = stack.enter_context(node_process(*SETTINGS, SMALL_ARENA, stores=[store]))
            wait_prefaulted(node)
            cases[name] = _ones(
                await stack.enter_async_context(attached(node, spec, chunks)), iter(range(chunks))
            )
        seen: dict[str, list[list[float]]] = {name: [] for name in cases}
        await in_turns(cases)
        with quiet():
            for _ in range(rounds):
                for name, values in (await in_turns(cases)).items():
                    seen[name].append(values)
    us = {name: Sample(tuple(percentile(one, 50) for one in all_)) for name, all_ in seen.items()}
    return {
        "node_echo_us_p50": us["echo"],
        "node_tmpfs_64kib_us_p50": us["at_hand"],
        "node_over_echo_us": _over(us["at_hand"], us["echo"]),
        "node_unkept_over_echo_us": _over(us["unkept"], us["echo"]),
    }


def _ones(engine: Engine, numbers: Iterator[int]) -> Case:
    async def look_up() -> list[float]:
        return [await engine.look_up_one(number) for number in islice(numbers, ONES)]

    return look_up


def _over(mine: Sample, bare: Sample) -> Sample:
    pairs = zip(mine.values, bare.values, strict=True)
    return Sample(tuple(one - other for one, other in pairs))


@dataclass(frozen=True, slots=True)
class Prefix:
    """Chunks of `layers` * 128 KiB."""

    layers: int
    chunks: int


async def long_prefixes(
    folder: Path, rounds: int, prefixes: Mapping[str, Prefix]
) -> dict[str, Sample]:
    """From `folder`, of one node, each under its name."""
    store, found = file_store(folder), dict[str, Sample]()
    specs = {
        name: small_model(new_engine_instance(), layers=one.layers, head_size=LONG_HEAD_SIZE)
        for name, one in prefixes.items()
    }
    with node_process(*SETTINGS, SAVING_ARENA, stores=[store]) as node:
        for name, one in prefixes.items():
            async with attached(node, specs[name], one.chunks) as engine:
                await engine.save()
    with node_process(*SETTINGS, LOADING_ARENA, stores=[store]) as node:
        wait_prefaulted(node)
        for name, one in prefixes.items():
            async with attached(node, specs[name], one.chunks) as engine:
                samples = await _long_prefix(node, engine, folder, rounds)
            found |= {f"{name}_{key}": sample for key, sample in samples.items()}
    return found


async def _long_prefix(
    node: Server, engine: Engine, folder: Path, rounds: int
) -> dict[str, Sample]:
    """Beside bare reads of the same files, each of another one.

    The prefix twice: of a node that was idle, while the disk was read from, and of one at work, as the disk is that is
    read from once more: to wake two processes and their processors takes longer than a read.
    """
    seen: dict[str, list[float]] = {name: [] for name in PREFIX_KEYS}
    gib, slow_before = engine.total_bytes / GIB, slow_steps(node)
    numbers = cycle(range(1, engine.chunks))  # the first is left to the prefix
    with BareReader(folder, [*engine.objects()]) as bare, quiet():
        await engine.look_up(engine.chunks)
        for _ in range(rounds):
            reads = [bare.one_us() for _ in range(ONE_READS)]
            seen["read_us"].append(percentile(reads, 50))
            seen["queued_read_us"].append(bare.first_of_all_us())
            used_s = cpu_s(node.pid)
            reported = await engine.look_up(engine.chunks)
            seen["core_s_per_gib"].append((cpu_s(node.pid) - used_s) / gib)
            seen["idle_first_report_us"].append(reported.first_us)
            seen["prefix_gib_s"].append(gib / reported.all_us * 1e6)
            ones = [await engine.look_up_one(one) for one in islice(numbers, ONE_READS)]
            seen["one_chunk_us"].append(percentile(ones, 50))
            seen["first_report_us"].append((await engine.look_up(engine.chunks)).first_us)
    samples = {key: Sample(tuple(values)) for key, values in seen.items()}
    for key in ("read", "queued_read", "one_chunk"):
        per = ratio(samples["first_report_us"], samples[f"{key}_us"])
        samples[f"first_report_to_{key}"] = per
    return {**samples, "slow_steps": Sample((float(slow_steps(node) - slow_before),))}


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
            await in_turns(cases, HIT_TURNS)
            with quiet():
                for _ in range(rounds):
                    for name, seen in (await in_turns(cases, HIT_TURNS)).items():
                        times[name].append(seen)
            busy.cancel()
        for channel in channels:
            await channel.close()
    us = {name: Sample(tuple(percentile(one, 50) for one in seen)) for name, seen in times.items()}
    return {
        "l1_hit_us_p50": us["bare"],
        "l1_hit_with_stores": ratio(us["stores"], us["bare"]),
        "l1_hit_with_one_hanging": ratio(us["hanging"], us["bare"]),
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


def slow_steps(node: Server) -> int:
    """Steps of the node's loop that took longer than 5 ms, so far."""
    command = [sys.executable, "-m", "penstock.actors.cli.main", "status", "--metrics"]
    done = subprocess.run(
        [*command, f"--address={node.address}"], capture_output=True, check=True, text=True
    )
    found = _SLOW_STEPS.search(done.stdout)
    return int(found[1]) if found else 0


def targets(disk: Path, tmpfs: Path, rounds: int) -> dict[str, Sample]:
    """Everything, by the name it has in the report. `disk` and `tmpfs` are empty folders."""
    found: dict[str, Sample] = {}
    one_mib, four_mib = Prefix(layers=8, chunks=256), Prefix(layers=32, chunks=64)
    on_disk = {"disk": one_mib, "disk_4mib": four_mib}
    plan: Sequence[Callable[[], Coroutine[None, None, dict[str, Sample]]]] = (
        lambda: small_object(tmpfs / "small", rounds),
        lambda: long_prefixes(disk / "long", rounds, on_disk),
        lambda: long_prefixes(tmpfs / "long", rounds, {"tmpfs": one_mib}),
        lambda: full_hits(disk / "hits", rounds),
    )
    for measure in plan:
        found |= asyncio.run(measure())
    return found
