"""Four ranks of Qwen2.5-14B, each with its own folder or device: documents of 6,000 tokens, asked for twice.

    python tests/bench/ranks.py [--json FILE] [--rounds N]

The first round stores what it computed, the second loads it: from memory in the mode `l1`, else from disk, by nodes
that were emptied, document by document in turn, beside fio reading as many bytes with O_DIRECT. A document a
round, on disks that have room for as many. All memory is in all page tables before anything is timed. TMPDIR names a
folder of the disk to be measured; /var/tmp unless it is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc
import numpy as np
from bench_folder import bench_folder
from harness import Report, Sample, parse_options, quiet, ratio
from processes import Server, node_process, wait_prefaulted
from store_sides import drop_page_cache

from penstock.actors.engine.answers import SaveState
from penstock.actors.engine.client import Client, ClientConfig, new_engine_instance, plain_model
from penstock.actors.engine.layout import KvGeometry, paged_layout
from penstock.protos import control_pb2, control_pb2_grpc
from penstock.runtime.units import KIB, MIB

RANKS, LAYERS, RANK_HEADS, HEAD_SIZE = 4, 48, 2, 128
CHUNK_TOKENS, BLOCK_TOKENS, DOCUMENT_TOKENS = 256, 16, 6000
CHUNKS = DOCUMENT_TOKENS // CHUNK_TOKENS
OBJECT_BYTES = LAYERS * 2 * RANK_HEADS * HEAD_SIZE * 2 * CHUNK_TOKENS
RANK_BYTES = CHUNKS * OBJECT_BYTES
DOCUMENT_BYTES = RANKS * RANK_BYTES
DISK_ARENA = 2  # documents in memory where there is a disk
# Without the time in which fio's own memory is touched for the first time: a third of a document's.
FIO_READS = ("--time_based", "--ramp_time=200ms", "--runtime=500ms")
SAVED_WITHIN_S = 60.0
MAPPED_WITHIN_S = 60.0
Store = Mapping[str, object]


class Rank:
    """One worker's paged cache: what it computed, and what it loads."""

    def __init__(self, number: int) -> None:
        blocks = CHUNKS * CHUNK_TOKENS // BLOCK_TOKENS
        shape = (LAYERS, 2, blocks, BLOCK_TOKENS, RANK_HEADS, HEAD_SIZE)
        self.computed, self.loaded = np.empty(shape, np.uint16), np.ones(shape, np.uint16)
        layer = np.random.default_rng(number).integers(0, 1 << 16, shape[1:], dtype=np.uint16)
        for index in range(LAYERS):
            np.bitwise_xor(layer, index << 8, out=self.computed[index])
        geometry = KvGeometry(block_tokens=BLOCK_TOKENS, kv_heads=RANK_HEADS, head_size=HEAD_SIZE)
        self.source, self.target = (
            paged_layout("NL_X_TWO_NB_BS_NH_HS", list(one), geometry)
            for one in (self.computed, self.loaded)
        )
        self.ids = list(range(blocks))


@asynccontextmanager
async def attached(node: Server, instance: bytes) -> AsyncIterator[list[Client]]:
    """A client for each rank."""
    async with AsyncExitStack() as stack:
        clients = []
        for rank in range(RANKS):
            spec = plain_model(
                weights="bench:" + "1" * 64,
                model_config_digest=bytes(32),
                layers=LAYERS,
                kv_heads=RANKS * RANK_HEADS,
                head_size=HEAD_SIZE,
                dtype="bfloat16",
                block_tokens=BLOCK_TOKENS,
                engine_instance=instance,
                tp_rank=rank,
                tp_size=RANKS,
            )
            config = ClientConfig(
                address=node.address, request_within_s=30.0, load_ms=60_000, ready_within_s=60.0
            )
            clients.append(await stack.enter_async_context(Client.connect(config, spec)))
        yield clients


def mapped_bytes() -> int:
    """Shared memory in the page table of this process: what is not there yet costs a fault at its first touch."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssShmem:")[2].split()[0]) * KIB


async def wait_mapped(arena_bytes: int) -> None:
    """Until each client of all nodes has entered its whole arena into the page table, as it does in the background."""
    deadline = time.monotonic() + MAPPED_WITHIN_S
    while mapped_bytes() < RANKS * arena_bytes:
        if time.monotonic() > deadline:
            problem = f"{mapped_bytes()} bytes of {RANKS * arena_bytes} are mapped"
            raise RuntimeError(f"{problem} after {MAPPED_WITHIN_S} s")
        await asyncio.sleep(0.05)


async def first_ask(clients: Sequence[Client], ranks: Sequence[Rank], tokens: np.ndarray) -> float:
    """Seconds of a document nobody knows: looked up in vain, then stored by all ranks."""
    begin = time.perf_counter()
    async with await clients[0].lookup(tokens, readers=RANKS) as ticket:
        assert await ticket.ready == 0
    stores = [
        client.store(tokens, [rank.source], [rank.ids])
        for client, rank in zip(clients, ranks, strict=True)
    ]
    stored = await asyncio.gather(*stores)
    seconds = time.perf_counter() - begin
    assert sum(one.bytes for one in stored) == DOCUMENT_BYTES, stored
    return seconds


async def second_ask(clients: Sequence[Client], ranks: Sequence[Rank], tokens: np.ndarray) -> float:
    """Seconds until all ranks have loaded the document."""
    begin = time.perf_counter()
    async with await clients[0].lookup(tokens, readers=RANKS) as ticket:
        assert await ticket.ready == CHUNKS, (ticket, ticket.shortfall)
        tickets = [ticket, *(client.join(ticket.handle) for client in clients[1:])]
        loads = [
            client.load(one, [rank.target], [rank.ids], rank=number)
            for number, (client, one, rank) in enumerate(zip(clients, tickets, ranks, strict=True))
        ]
        loaded = await asyncio.gather(*loads)
    seconds = time.perf_counter() - begin
    assert sum(one.bytes for one in loaded) == DOCUMENT_BYTES, loaded
    return seconds


async def wait_saved(clients: Sequence[Client], tokens: np.ndarray) -> float:
    """Seconds until all of a document is on the store: what does not fit into memory waits for that."""
    begin = time.perf_counter()
    for client in clients:
        saves = await client.wait_stored(tokens, within=SAVED_WITHIN_S)
        assert set(saves.states) == {SaveState.SAVED}, saves
    return time.perf_counter() - begin


def fio_of_a_document(folder: Path, *words: str) -> float:
    """Seconds that a document's bytes take fio past the page cache, one file for each rank."""
    command = ["fio", f"--directory={folder}", f"--bs={OBJECT_BYTES}", f"--size={RANK_BYTES}"]
    command += ["--direct=1", "--iodepth=4", "--ioengine=io_uring", "--output-format=json"]
    command += ["--thread", "--randrepeat=0", "--group_reporting", *words]
    command += [f"--name=rank{rank}" for rank in range(RANKS)]
    done = subprocess.run(command, capture_output=True, check=True)
    (job,) = json.loads(done.stdout)["jobs"]
    return DOCUMENT_BYTES / (job["read"]["bw_bytes"] + job["write"]["bw_bytes"])


def documents(count: int) -> list[np.ndarray]:
    drawn = np.random.default_rng(7)
    size = CHUNKS * CHUNK_TOKENS
    return [drawn.integers(0, 1 << 17, size, dtype=np.uint32) for _ in range(count)]


def settings(arena_documents: int) -> tuple[str, ...]:
    return (
        f"l1.bytes={arena_bytes(arena_documents)}",
        "gateway.deadline=60s",
        "gateway.lease=120s",
        "l1.prefault_threads=2",
    )


def arena_bytes(arena_documents: int) -> int:
    return arena_documents * (DOCUMENT_BYTES + 64 * MIB)


async def in_memory(ranks: Sequence[Rank], asked: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """All documents twice, by a node whose memory has room for all of them."""
    first, second = list[float](), list[float]()
    room = len(asked)
    with node_process(*settings(room), "l1.high_water=1.0") as node:
        wait_prefaulted(node)
        async with attached(node, new_engine_instance()) as clients:
            await wait_mapped(arena_bytes(room))
            with quiet():
                for tokens in asked:
                    first.append(await first_ask(clients, ranks, tokens))
                for tokens in asked:
                    second.append(await second_ask(clients, ranks, tokens))
        check("l1", ranks)
    return {"first": first, "second": second}


async def on_disk(
    folder: Path,
    disks: Mapping[str, Sequence[Store]],
    ranks: Sequence[Rank],
    asked: Sequence[np.ndarray],
) -> dict[str, dict[str, list[float]]]:
    """All documents twice, by a node for each kind of disk, which has two of them in memory and none before the second.

    The second round is of all nodes and fio in turn, document by document, so that all see the same minute.
    """
    seen: dict[str, dict[str, list[float]]] = {
        name: {"first": [], "saved": [], "second": []} for name in disks
    }
    fio: list[float] = []
    async with AsyncExitStack() as stack:
        nodes = {
            name: stack.enter_context(node_process(*settings(DISK_ARENA), stores=stores))
            for name, stores in disks.items()
        }
        sides: dict[str, list[Client]] = {}
        for name, node in nodes.items():
            wait_prefaulted(node)
            sides[name] = await stack.enter_async_context(attached(node, new_engine_instance()))
        await wait_mapped(len(sides) * arena_bytes(DISK_ARENA))
        with quiet():
            for name, clients in sides.items():
                for tokens in asked:
                    seen[name]["first"].append(await first_ask(clients, ranks, tokens))
                    seen[name]["saved"].append(await wait_saved(clients, tokens))
                await forget(nodes[name])
            fio_of_a_document(folder, "--rw=write")
            drop_page_cache(folder)
            for number, tokens in enumerate(asked):
                for name in _turned([*sides, ""], number):
                    if not name:
                        fio.append(fio_of_a_document(folder, "--rw=randread", *FIO_READS))
                        continue
                    seen[name]["second"].append(await second_ask(sides[name], ranks, tokens))
                    if number == 0:
                        check(name, ranks)
    return {name: {**one, "fio": fio} for name, one in seen.items()}


def _turned(names: list[str], number: int) -> list[str]:
    """Another one first in each round: whoever follows one that takes all the disk gives has less of it."""
    first = number % len(names)
    return names[first:] + names[:first]


async def forget(node: Server) -> None:
    """All that is in memory."""
    async with grpc.aio.insecure_channel(node.address.replace("unix://", "unix:")) as channel:
        await control_pb2_grpc.ControlStub(channel).Purge(control_pb2.PurgeRequest())


def check(mode: str, ranks: Sequence[Rank]) -> None:
    """What was loaded is what was computed; and nothing of it is there the next time."""
    for rank in ranks:
        assert np.array_equal(rank.computed, rank.loaded), f"{mode}: wrong bytes"
        rank.loaded[...] = 0


def _files(folder: Path, io: str, disk_bytes: int) -> list[Store]:
    paths = [str(folder / f"store{rank}") for rank in range(RANKS)]
    return [
        {
            "name": "disk",
            "type": "file",
            "paths": paths,
            "placement": "by_device",
            "io": io,
            "capacity": disk_bytes,
            "load_within": "60s",
        }
    ]


def _raw(folder: Path, disk_bytes: int) -> list[Store]:
    paths = {str(rank): str(folder / f"device{rank}") for rank in range(RANKS)}
    return [
        {
            "name": "disk",
            "type": "raw_block",
            "per_rank_device_paths": paths,
            "slot_bytes": OBJECT_BYTES + 64 * KIB,
            "capacity": disk_bytes,
            "load_within": "60s",
        }
    ]


DISK_MODES: Mapping[str, Callable[[Path, int], list[Store]]] = {
    "file_buffered": lambda folder, disk_bytes: _files(folder, "buffered", disk_bytes),
    "file_direct": lambda folder, disk_bytes: _files(folder, "direct", disk_bytes),
    "raw_block": _raw,
}


async def measure(folder: Path, rounds: int) -> dict[str, dict[str, Sample]]:
    """By mode."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ranks = [*threads.map(Rank, range(RANKS))]
    asked = documents(rounds)
    modes = {"l1": await in_memory(ranks, asked)}
    for name in DISK_MODES:
        (folder / name).mkdir()
    disks = {
        name: stores(folder / name, arena_bytes(rounds)) for name, stores in DISK_MODES.items()
    }
    modes |= await on_disk(folder, disks, ranks, asked)
    return {
        mode: {key: Sample(tuple(values)) for key, values in seen.items()}
        for mode, seen in modes.items()
    }


def main() -> None:
    options = parse_options(__doc__)
    if shutil.which("fio") is None:
        raise SystemExit("ranks: fio is not installed: nothing says what the disk can do")
    report = Report("ranks")
    with bench_folder() as folder:
        modes = asyncio.run(measure(folder, options.rounds))
    for mode, samples in modes.items():
        report.add(f"{mode}_first_s", samples["first"], unit="s")
        report.add(f"{mode}_second_s", samples["second"], unit="s")
        if "fio" in samples:
            report.add(f"{mode}_saved_s", samples["saved"], unit="s")
            report.add(f"{mode}_to_fio", ratio(samples["second"], samples["fio"]), unit="x")
    report.add("fio_s", modes["raw_block"]["fio"], unit="s")
    direct, raw = modes["file_direct"]["second"], modes["raw_block"]["second"]
    report.add("direct_to_raw_block", ratio(direct, raw), unit="x")
    report.note("documents", options.rounds)
    report.note("document_bytes", DOCUMENT_BYTES)
    report.finish(options)


if __name__ == "__main__":
    main()
