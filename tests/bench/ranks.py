"""Four ranks of Qwen2.5-14B, each with its own folder or device: documents of 6,000 tokens, asked for twice.

    python tests/bench/ranks.py [--json FILE] [--rounds N]

The first round stores what it computed, the second loads it: from memory in the mode `l1`, else from disk, by a node
that was started anew. As many documents as fit into DISK_BYTES; each load is paired with fio reading as many bytes
with O_DIRECT. TMPDIR names a folder of the disk to be measured; /var/tmp unless it is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from harness import Report, Sample, parse_options, quiet, ratio
from processes import Server, node_process, wait_prefaulted
from store_sides import drop_page_cache

from penstock.actors.engine.answers import SaveState
from penstock.actors.engine.client import Client, ClientConfig, new_engine_instance, plain_model
from penstock.actors.engine.layout import KvGeometry, paged_layout
from penstock.runtime.units import GIB, MIB

RANKS, LAYERS, RANK_HEADS, HEAD_SIZE = 4, 48, 2, 128
CHUNK_TOKENS, BLOCK_TOKENS, DOCUMENT_TOKENS = 256, 16, 6000
CHUNKS = DOCUMENT_TOKENS // CHUNK_TOKENS
OBJECT_BYTES = LAYERS * 2 * RANK_HEADS * HEAD_SIZE * 2 * CHUNK_TOKENS
DOCUMENT_BYTES = RANKS * CHUNKS * OBJECT_BYTES
DISK_BYTES = 6 * GIB
DOCUMENTS = DISK_BYTES // (DOCUMENT_BYTES + 64 * MIB)
SAVED_WITHIN_S = 60.0
MAPPED_BYTES_S = 4 * GIB  # how fast processes enter the arena into their page tables, together
Store = Mapping[str, object]


class Rank:
    """One worker's paged cache: what it computed, and what it loads."""

    def __init__(self, number: int) -> None:
        blocks = CHUNKS * CHUNK_TOKENS // BLOCK_TOKENS
        shape = (LAYERS, 2, blocks, BLOCK_TOKENS, RANK_HEADS, HEAD_SIZE)
        self.computed = np.random.default_rng(number).integers(0, 1 << 16, shape, dtype=np.uint16)
        self.loaded = np.zeros_like(self.computed)
        geometry = KvGeometry(block_tokens=BLOCK_TOKENS, kv_heads=RANK_HEADS, head_size=HEAD_SIZE)
        self.source, self.target = (
            paged_layout("NL_X_TWO_NB_BS_NH_HS", list(one), geometry)
            for one in (self.computed, self.loaded)
        )
        self.ids = list(range(blocks))


@asynccontextmanager
async def attached(node: Server, instance: bytes, l1_bytes: int) -> AsyncIterator[list[Client]]:
    """A client for each rank, when it has filled its page table, which it does in the background."""
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
        clients.append(Client.connect(config, spec))
    async with clients[0], clients[1], clients[2], clients[3]:
        await asyncio.sleep(RANKS * l1_bytes / MAPPED_BYTES_S)
        yield clients


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


def fio_read_s(folder: Path) -> float:
    """Seconds fio takes to read a document's bytes, one file for each rank, in blocks of an object."""
    command = ["fio", f"--directory={folder}", "--rw=randread", "--direct=1", "--iodepth=4"]
    command += [f"--bs={OBJECT_BYTES}", f"--size={CHUNKS * OBJECT_BYTES}", "--ioengine=io_uring"]
    command += ["--output-format=json", "--thread", "--randrepeat=0", "--group_reporting"]
    command += [f"--name=rank{rank}" for rank in range(RANKS)]
    done = subprocess.run(command, capture_output=True, check=True)
    return DOCUMENT_BYTES / json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"]


async def measure(mode: str, folder: Path, ranks: Sequence[Rank]) -> dict[str, Sample]:
    """All documents twice."""
    stores = MODES[mode](folder)
    l1_bytes = (2 if stores else DOCUMENTS + 1) * (DOCUMENT_BYTES + 64 * MIB)
    settings = (f"l1.bytes={l1_bytes}", "gateway.deadline=60s", "gateway.lease=120s")
    instance = new_engine_instance()
    drawn = np.random.default_rng(7)
    documents = [
        drawn.integers(0, 1 << 17, CHUNKS * CHUNK_TOKENS, dtype=np.uint32) for _ in range(DOCUMENTS)
    ]
    first, second, saved, fio = list[float](), list[float](), list[float](), list[float]()
    with node_process(*settings, stores=stores) as node:
        wait_prefaulted(node)
        async with attached(node, instance, l1_bytes) as clients:
            with quiet():
                for tokens in documents:
                    first.append(await first_ask(clients, ranks, tokens))
                    if stores:
                        saved.append(await wait_saved(clients, tokens))
                if not stores:
                    second += [await second_ask(clients, ranks, one) for one in documents]
    if stores:
        with node_process(*settings, stores=stores) as node:
            wait_prefaulted(node)
            drop_page_cache(folder)
            async with attached(node, instance, l1_bytes) as clients:
                with quiet():
                    for tokens in documents:
                        fio.append(fio_read_s(folder))
                        second.append(await second_ask(clients, ranks, tokens))
    for rank in ranks:
        assert np.array_equal(rank.computed, rank.loaded), f"{mode}: wrong bytes"
        rank.loaded[...] = 0
    seen = {"first": first, "second": second, "fio": fio, "saved": saved}
    return {name: Sample(tuple(values)) for name, values in seen.items() if values}


def _files(folder: Path, io: str) -> list[Store]:
    paths = [str(folder / f"store{rank}") for rank in range(RANKS)]
    return [
        {
            "name": "disk",
            "type": "file",
            "paths": paths,
            "placement": "by_device",
            "io": io,
            "capacity": DISK_BYTES,
        }
    ]


def _raw(folder: Path) -> list[Store]:
    paths = {str(rank): str(folder / f"device{rank}") for rank in range(RANKS)}
    return [
        {
            "name": "disk",
            "type": "raw_block",
            "per_rank_device_paths": paths,
            "slot_bytes": "1MiB",
            "capacity": DISK_BYTES,
        }
    ]


MODES = {
    "l1": lambda _: [],
    "file_buffered": lambda folder: _files(folder, "buffered"),
    "file_direct": lambda folder: _files(folder, "direct"),
    "raw_block": _raw,
}


def main() -> None:
    options = parse_options(__doc__)
    if shutil.which("fio") is None:
        raise SystemExit("ranks: fio is not installed: nothing says what the disk can do")
    ranks = [Rank(number) for number in range(RANKS)]
    report, modes = Report("ranks"), dict[str, dict[str, Sample]]()
    parent = os.environ.get("TMPDIR", "/var/tmp")
    for mode in MODES:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=parent) as folder:
            samples = modes[mode] = asyncio.run(measure(mode, Path(folder), ranks))
        report.add(f"{mode}_first_s", samples["first"], unit="s")
        report.add(f"{mode}_second_s", samples["second"], unit="s")
        if "fio" in samples:
            report.add(f"{mode}_saved_s", samples["saved"], unit="s")
            report.add(f"{mode}_to_fio", ratio(samples["second"], samples["fio"]), unit="x")
    direct, raw = modes["file_direct"]["second"], modes["raw_block"]["second"]
    report.add("direct_to_raw_block", direct.median / raw.median, unit="x")
    report.note("documents", DOCUMENTS)
    report.note("document_bytes", DOCUMENT_BYTES)
    report.finish(options)


if __name__ == "__main__":
    main()
