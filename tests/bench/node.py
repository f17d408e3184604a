"""A whole node: put and get of 16 objects of 32 MiB beside memcpy of the same bytes, and what an idle node costs.

The node runs in a process of its own; this one is an engine worker with a paged cache in NumPy. A put is reserve, copy
with digests, commit; a get is lookup, acquire, copy with digests, release.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
from harness import Report, Sample, parse_options, quiet, ratio
from processes import Server, cpu_s, node_process, private_rss_mib, wait_prefaulted

from penstock._native import Copier
from penstock.actors.engine.client import Client, ClientConfig, new_engine_instance, plain_model
from penstock.actors.engine.layout import KvGeometry, paged_layout

OBJECTS = 16
LAYERS, KV_HEADS, HEAD_SIZE, BLOCK_TOKENS, CHUNK_TOKENS = 32, 8, 128, 16, 256
OBJECT_BYTES = LAYERS * 2 * KV_HEADS * HEAD_SIZE * 2 * CHUNK_TOKENS
THREADS = 2
IDLE_S = 10.0
PREFAULT_S = 4.0
STARTS = 5
GIB = 1 << 30


def start_once() -> tuple[float, float]:
    """(seconds until ready, MiB resident beyond the arena)."""
    with node_process("l1.bytes=1GiB") as node:
        return node.ready_s, private_rss_mib(node.pid)


async def idle_percent(node: Server) -> float:
    """CPU of a node nobody talks to, in percent of one core."""
    before, begin = cpu_s(node.pid), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    return 100 * (cpu_s(node.pid) - before) / (time.perf_counter() - begin)


async def move(node: Server, rounds: int) -> dict[str, Sample]:
    """GiB/s of put, get and memcpy, interleaved."""
    blocks = OBJECTS * CHUNK_TOKENS // BLOCK_TOKENS
    shape = (LAYERS, 2, blocks, BLOCK_TOKENS, KV_HEADS, HEAD_SIZE)
    source = np.random.default_rng(1).integers(0, 1 << 16, shape, dtype=np.uint16)
    target = np.zeros_like(source)
    geometry = KvGeometry(block_tokens=BLOCK_TOKENS, kv_heads=KV_HEADS, head_size=HEAD_SIZE)
    layouts = {
        "put": paged_layout("NL_X_TWO_NB_BS_NH_HS", list(source), geometry),
        "get": paged_layout("NL_X_TWO_NB_BS_NH_HS", list(target), geometry),
    }
    ids = list(range(blocks))
    baseline, total = Copier(threads=THREADS), OBJECTS * OBJECT_BYTES
    assert source.nbytes == total
    spec = plain_model(
        weights="bench:" + "0" * 64,
        model_config_digest=bytes(32),
        layers=LAYERS,
        kv_heads=KV_HEADS,
        head_size=HEAD_SIZE,
        dtype="bfloat16",
        block_tokens=BLOCK_TOKENS,
        engine_instance=new_engine_instance(),
    )
    config = ClientConfig(
        address=node.address, copy_threads=THREADS, copy_bytes_max=total, request_within_s=30.0
    )
    seen: dict[str, list[float]] = {"put": [], "get": [], "memcpy": []}
    async with Client.connect(config, spec) as client:
        await asyncio.sleep(PREFAULT_S)  # this process's own page table is filled in the background
        with quiet():
            for number in range(rounds + 1):
                tokens = np.arange(OBJECTS * CHUNK_TOKENS, dtype=np.uint32) + number * 7919
                begin = time.perf_counter()
                stored = await client.store(tokens, [layouts["put"]], [ids])
                put_s = time.perf_counter() - begin
                assert stored.bytes == total, stored
                target[...] = 0
                begin = time.perf_counter()
                async with await client.lookup(tokens) as ticket:
                    loaded = await client.load(ticket, [layouts["get"]], [ids])
                get_s = time.perf_counter() - begin
                assert loaded.bytes == total, loaded
                assert np.array_equal(source, target)
                begin = time.perf_counter()
                baseline.baseline_memcpy(destination=target, source=source)
                memcpy_s = time.perf_counter() - begin
                if number:  # the first round warms pages, caches and the stream
                    seen["put"].append(total / put_s / GIB)
                    seen["get"].append(total / get_s / GIB)
                    seen["memcpy"].append(total / memcpy_s / GIB)
    return {name: Sample(tuple(values)) for name, values in seen.items()}


async def measure(node: Server, rounds: int) -> tuple[dict[str, Sample], float]:
    samples = await move(node, rounds)
    return samples, await idle_percent(node)


def main() -> None:
    options = parse_options(__doc__)
    starts = [start_once() for _ in range(STARTS)]
    with node_process("l1.bytes=6GiB") as node:
        wait_prefaulted(node)
        samples, idle = asyncio.run(measure(node, options.rounds))
        assert Path(f"/proc/{node.pid}").exists()
    report = Report("node")
    report.add("put_gib_s", samples["put"], unit="GiB/s")
    report.add("get_gib_s", samples["get"], unit="GiB/s")
    report.add("memcpy_gib_s", samples["memcpy"], unit="GiB/s")
    report.add("put_to_memcpy", ratio(samples["put"], samples["memcpy"]), unit="x")
    report.add("get_to_memcpy", ratio(samples["get"], samples["memcpy"]), unit="x")
    report.add("rss_mib", Sample(tuple(rss for _, rss in starts)), unit="MiB")
    report.add("ready_s", Sample(tuple(ready for ready, _ in starts)), unit="s")
    report.add("idle_core_percent", idle, unit="%")
    report.finish(options)


if __name__ == "__main__":
    main()
