"""`penstock replay`: drive a node with a recorded request trace, and count what it would have hit.

A node is started for the replay and stopped after it. Without a capacity it has room for every
block of the trace, so that nothing is evicted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import anyio

from penstock.actors.cli.choices import add_choice
from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.progress import progress
from penstock.actors.cli.replay_drive import (
    CHUNK_TOKENS,
    Blocks,
    Counts,
    Speed,
    TraceSize,
    drive,
    measure,
)
from penstock.actors.cli.replay_node import serving
from penstock.actors.cli.traces import FORMATS, TraceFormat, TraceRequest, read_trace
from penstock.actors.cli.written import check_writable
from penstock.actors.config import L1Config
from penstock.actors.config_words import PolicyName
from penstock.actors.engine.client import Client, ClientConfig
from penstock.runtime.errors import CallerError
from penstock.runtime.units import ByteSize

REQUEST_WITHIN_S = 30.0
MEMORY_WITHIN_S = 1.0  # a node that lacks memory says so, and is not waited for
KEY_BYTES = 32
ENVELOPE_BYTES = 64 * 1024  # of a message, beside its keys
MESSAGE_BYTES_MIN = 4 * 1024 * 1024
TRANSPORT_BYTES_MIN = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What the command line says."""

    trace: Path
    trace_format: TraceFormat
    requests_max: int | None
    capacity_blocks: int | None  # None: as many as the trace has
    policy: PolicyName
    object_bytes: int
    speed: Speed

    def requests(self) -> Iterator[TraceRequest]:
        return islice(read_trace(self.trace, self.trace_format), self.requests_max)


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "replay",
        help="drive a node with a recorded request trace",
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", metavar="TRACE", type=Path, help="a file, or a folder of files")
    add_choice(parser, "--format", TraceFormat, TraceFormat.AUTO, "how the trace is written")
    capacity = parser.add_mutually_exclusive_group()
    capacity.add_argument(
        "--capacity-blocks", metavar="N", type=_positive, help="room for so many blocks"
    )
    capacity.add_argument("--capacity", metavar="BYTES", type=_size, help="so much host memory")
    add_choice(parser, "--policy", PolicyName, L1Config().policy, "which block goes first")
    parser.add_argument(
        "--object-bytes", metavar="BYTES", type=_size, default=_size("4KiB"), help="of a block"
    )
    add_choice(parser, "--speed", Speed, Speed.MAX, "when requests are sent")
    parser.add_argument("--requests-max", metavar="N", type=_positive, help="stop after so many")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers here")


def run(args: argparse.Namespace) -> int:
    """Raises TraceMalformed, NodeFailed, ReplayBroken, CallerError."""
    check_writable(args.json)
    options = _options(args)
    numbers = anyio.run(replay, options)
    print(_table(numbers))
    if args.json is not None:
        args.json.write_text(json.dumps(numbers, indent=2) + "\n")
    return 0


async def replay(options: ReplayOptions) -> dict[str, object]:
    """Run the replay; the numbers by name."""
    size = measure(options.requests())
    blocks = Blocks(options.object_bytes)
    settings = node_settings(options, size)
    async with serving(settings) as node:
        config = ClientConfig(
            address=node.address,
            attach_within_s=REQUEST_WITHIN_S,
            request_within_s=REQUEST_WITHIN_S,
            message_bytes_max=message_bytes(size),
            prefault_threads=0,  # the arena has exactly the room of the capacity, mostly untouched
        )
        async with Client.connect(config, blocks.spec()) as client:
            with progress("replay", steps=size.requests) as shown:
                started = time.perf_counter()
                counts = await drive(
                    client, node, options.requests(), blocks, speed=options.speed, shown=shown
                )
                wall_s = time.perf_counter() - started
            evicted = (await client.stat()).evicted_chunks
    return _numbers(counts, evicted=evicted, wall_s=wall_s) | {
        "capacity_blocks": _capacity_blocks(options, size),
        "object_bytes": options.object_bytes,
        "policy": options.policy.value,
    }


def node_settings(options: ReplayOptions, size: TraceSize) -> dict[str, object]:
    """A node with room for exactly the capacity, that evicts only when there is none left."""
    capacity_bytes = _capacity_blocks(options, size) * options.object_bytes
    blocks_max = max(1, size.blocks_of_one_max)
    message_bytes_max = message_bytes(size)
    return {
        "chunk_tokens": CHUNK_TOKENS,
        "l1": {
            "bytes": capacity_bytes,
            "object_bytes_min": options.object_bytes,
            "policy": options.policy.value,
            "high_water": 1.0,
            "low_water": 1.0,
            "prefault_threads": 0,
            "memory_within": MEMORY_WITHIN_S,
        },
        "gateway": {
            "chunks_max": blocks_max,
            "objects_max": blocks_max,  # one group: a block is one object
            "message_max": message_bytes_max,
            "transport_message_max": max(TRANSPORT_BYTES_MIN, message_bytes_max),
        },
    }


def message_bytes(size: TraceSize) -> int:
    """What the longest prompt takes in a request; its reply is no longer."""
    return max(MESSAGE_BYTES_MIN, size.blocks_of_one_max * KEY_BYTES + ENVELOPE_BYTES)


def _capacity_blocks(options: ReplayOptions, size: TraceSize) -> int:
    return options.capacity_blocks or max(1, size.blocks_different)


def _options(args: argparse.Namespace) -> ReplayOptions:
    capacity_blocks = args.capacity_blocks
    if args.capacity is not None:
        capacity_blocks = args.capacity // max(1, args.object_bytes)
        if capacity_blocks < 1:
            raise CallerError(f"--capacity: {args.capacity} is less than one --object-bytes")
    return ReplayOptions(
        trace=args.trace,
        trace_format=args.format,
        requests_max=args.requests_max,
        capacity_blocks=capacity_blocks,
        policy=args.policy,
        object_bytes=args.object_bytes,
        speed=args.speed,
    )


def _numbers(counts: Counts, *, evicted: int, wall_s: float) -> dict[str, object]:
    return {
        "requests": counts.requests,
        "blocks": counts.blocks,
        "hit_blocks": counts.hit_blocks,
        "hit_rate": counts.hit_rate,
        "lookup_us_p50": round(counts.lookup_us_at(50), 1),
        "lookup_us_p99": round(counts.lookup_us_at(99), 1),
        "evictions": evicted,
        "stored_blocks": counts.stored_blocks,
        "refused_blocks": counts.refused_blocks,
        "wall_s": round(wall_s, 3),
    }


def _table(numbers: dict[str, object]) -> str:
    width = max(map(len, numbers))
    shown = {**numbers, "hit_rate": f"{100 * float(str(numbers['hit_rate'])):.1f} %"}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


# Reading the command line.


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _size(text: str) -> int:
    try:
        return int(ByteSize.from_config(text))
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem
