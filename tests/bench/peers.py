"""What a hit on another node costs: a lookup at one node, of what only the other one has in its L1.

    python tests/bench/peers.py [--json FILE] [--rounds N]

Two nodes for each kind of data channel, each in a process of its own, on loopback; an engine is attached to both here.
`hit_us_p50`: from a lookup of one 4 KiB object to its last Progress, when it is verified and readable in the asking
node's L1; beside the same of what that node has itself (`own`), and a bare grpc.aio echo of 4 KiB from another process.
`gib_s`: prompts of 1 MiB objects, beside the bare data channel between two processes. `core_s_per_gib` is what both
nodes used, in ticks of the system's clock. Nothing is kept by the node that asks: each lookup reads all of it anew.
"""

from __future__ import annotations

import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio
from channel_bare import far, new_memory
from channels import Ours
from grpc import aio
from harness import Options, Report, Sample, parse_options, quiet, ratio
from processes import echo_process
from support.cluster import Plan, served_member
from support.declarations import CHUNK_TOKENS, group, hello, keys
from support.media import Prompt, put
from support.nodes import ServedNode
from support.raw_engine import RawEngine, attached

from penstock.protos import engine_pb2 as pb
from penstock.runtime.channel import SECRET_BYTES
from penstock.runtime.units import GIB, KIB, MIB

KINDS = ("tcp", "grpc")
CHUNKS = (32, 256)  # of the large prompts
SMALL_BYTES = 4 * KIB
HITS = 50  # of one object each, in a round
NODE_BYTES = 320 * MIB  # of L1: the largest prompt, and room
LINKED_WITHIN_S = 20.0


class Bare(Ours):
    """A data channel without nodes, on the running loop."""

    def __post_init__(self) -> None:
        """It is connected by whoever made it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nodes, and an engine for each size of objects at both."""

    nodes: tuple[ServedNode, ServedNode]
    small: tuple[RawEngine, RawEngine]
    large: tuple[RawEngine, RawEngine]

    def cpu_s(self) -> float:
        """Used by both nodes since they began."""
        return sum(_cpu_s(node.process.pid) for node in self.nodes)


@dataclass(slots=True)
class Seen:
    """Values of each round, by name."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def sample(self, name: str) -> Sample:
        return Sample(tuple(self.values[name]))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def two_nodes(kind: str) -> AsyncIterator[Pair]:
    plan = Plan.of("a", "b")
    given = {"channels": {"kinds": [kind]}, "heartbeat": "10s"}
    with ExitStack() as stack:
        nodes = []
        for name in ("a", "b"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            node = served_member(plan, name, folder, l1__bytes=NODE_BYTES, cluster=given)
            nodes.append(stack.enter_context(node))
        async with AsyncExitStack() as engines:
            small, large = [
                [
                    await engines.enter_async_context(
                        attached(
                            node.address, hello(groups=[group(token_bytes=size // CHUNK_TOKENS)])
                        )
                    )
                    for node in nodes
                ]
                for size in (SMALL_BYTES, MIB)
            ]
            yield Pair((nodes[0], nodes[1]), (small[0], small[1]), (large[0], large[1]))


async def hit_s(engine: RawEngine, prompt: Prompt, *, chunks: int) -> tuple[float, int]:
    """A lookup to its last word, and how many chunks it found. Its ticket is over when this returns."""
    part = pb.Prompt(keys=prompt.keys[: chunks * 32])
    begun = time.perf_counter()
    found = (await engine.ask(lookup=pb.Lookup(prompt=part, readers=1))).lookup
    hit = found.hit_chunks
    if not found.final:
        hit = (await engine.last_progress(found.ticket)).hit_chunks
    took = time.perf_counter() - begun
    if found.ticket:
        await engine.ask(cancel=pb.Cancel(ticket=found.ticket))
    return took, hit


async def whole_s(engine: RawEngine, prompt: Prompt, *, chunks: int) -> float:
    took, hit = await hit_s(engine, prompt, chunks=chunks)
    if hit != chunks:
        raise SystemExit(f"a hit came to {hit} of {chunks} chunks")
    return took


async def until_known(engine: RawEngine, prompt: Prompt, *, chunks: int) -> None:
    """Wait until the nodes are linked, and the other one is known to have all of it."""
    with anyio.fail_after(LINKED_WITHIN_S):
        while True:
            if (await hit_s(engine, prompt, chunks=chunks))[1] == chunks:
                return
            await anyio.sleep(0.1)


async def run(options: Options) -> Report:
    seen = Seen()
    small = Prompt(keys(1, prompt="small"), (os.urandom(SMALL_BYTES),))
    large = Prompt(keys(256, prompt="large"), tuple(os.urandom(MIB) for _ in range(256)))
    memory = memoryview(new_memory())
    async with AsyncExitStack() as stack:
        pairs, bare = {}, {}
        for kind in KINDS:
            pair = pairs[kind] = await stack.enter_async_context(two_nodes(kind))
            await put(pair.small[0], small)
            await put(pair.large[0], large)
            await until_known(pair.small[1], small, chunks=1)
            await until_known(pair.large[1], large, chunks=256)
            secret = secrets.token_bytes(SECRET_BYTES)
            end = stack.enter_context(far(kind, secret))
            bare[kind] = Bare(kind, None, memory, end, secret)  # type: ignore[arg-type]
            await bare[kind]._connect()
        echo = stack.enter_context(echo_process())
        channel = await stack.enter_async_context(aio.insecure_channel(echo.address))
        stream = channel.stream_stream("/bench.Echo/Stream")()
        with quiet():
            for _ in range(options.rounds):
                seen.add("echo_us_p50", await echo_us(stream))
                for kind in KINDS:
                    await one_round(seen, kind, pairs[kind], bare[kind], small, large)
        stream.cancel()
    return report_of(seen)


async def one_round(
    seen: Seen, kind: str, pair: Pair, bare: Bare, small: Prompt, large: Prompt
) -> None:
    near, other = pair.small
    took = [await whole_s(other, small, chunks=1) for _ in range(HITS)]
    seen.add(f"{kind}_hit_us_p50", statistics.median(took) * 1e6)
    took = [await whole_s(near, small, chunks=1) for _ in range(HITS)]
    seen.add(f"{kind}_own_hit_us_p50", statistics.median(took) * 1e6)
    for chunks in CHUNKS:
        begun_s = pair.cpu_s()
        gib = chunks * MIB / GIB
        took_s = await whole_s(pair.large[1], large, chunks=chunks)
        seen.add(f"{kind}_{chunks}mib_gib_s", gib / took_s)
        seen.add(f"{kind}_{chunks}mib_core_s_per_gib", (pair.cpu_s() - begun_s) / gib)
    seen.add(f"{kind}_bare_gib_s", await bare._stream(MIB))


async def echo_us(stream: aio.StreamStreamCall[bytes, bytes]) -> float:
    message, took = bytes(SMALL_BYTES), []
    for _ in range(HITS):
        begun = time.perf_counter()
        await stream.write(message)
        await stream.read()
        took.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(took)


def report_of(seen: Seen) -> Report:
    report = Report("peers")
    units = {"us_p50": "us", "mib_gib_s": "GiB/s", "bare_gib_s": "GiB/s", "per_gib": "core s/GiB"}
    for name in seen.values:
        unit = next(unit for end, unit in units.items() if name.endswith(end))
        report.add(name, seen.sample(name), unit=unit)
    for kind in KINDS:
        hits = ratio(seen.sample(f"{kind}_hit_us_p50"), seen.sample("echo_us_p50"))
        report.add(f"{kind}_hit_ratio_to_echo", hits, unit="")
        bare = seen.sample(f"{kind}_bare_gib_s")
        for chunks in CHUNKS:
            mine = seen.sample(f"{kind}_{chunks}mib_gib_s")
            report.add(f"{kind}_{chunks}mib_ratio_to_bare", ratio(mine, bare), unit="")
    return report


def main() -> None:
    options = parse_options(__doc__)
    anyio.run(run, options).finish(options)
    sys.stdout.flush()
    os._exit(0)  # bare channels at the other ends have nobody to say goodbye to


if __name__ == "__main__":
    main()
