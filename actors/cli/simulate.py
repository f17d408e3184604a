"""`penstock simulate`: which eviction policy would have hit how much of a recorded trace, at which capacity.

Offline: no node, no memory for blocks. The policies are the very code of L1, over a catalog of names;
a prompt's resident prefix is hit, the rest is put. `optimum` is what an all-knowing cache would hit,
which need not even keep prefixes: no policy reaches it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from penstock import _native
from penstock.actors.cli.choices import add_choice
from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.progress import progress
from penstock.actors.cli.simulate_trace import PackedTrace, load
from penstock.actors.cli.traces import FORMATS, TraceFormat
from penstock.actors.cli.written import check_writable
from penstock.actors.config_words import PolicyName
from penstock.runtime.errors import CallerError

BLOCK_BYTES = 4096
CAPACITIES_DEFAULT = 8  # each half of the next, the largest half of all blocks
CAPACITY_MAX = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one capacity over one trace."""

    trace: str
    capacity: int  # blocks
    policy: str
    hit_rate: (
        float  # blocks in the unbroken resident prefix of their prompt, of all blocks asked for
    )
    optimum: float
    references: int
    references_per_s: float


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="compare eviction policies on recorded traces",
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "traces",
        metavar="TRACE",
        nargs="+",
        type=Path,
        help="a file; of a folder, each of its files and all of them mixed",
    )
    add_choice(parser, "--format", TraceFormat, TraceFormat.AUTO, "how the traces are written")
    names = ",".join(member.value for member in PolicyName)
    parser.add_argument(
        "--policies", metavar="NAME,...", type=_policies, default=tuple(PolicyName), help=names
    )
    parser.add_argument(
        "--capacities",
        metavar="BLOCKS,...",
        type=_capacities,
        default=(),
        help="room for so many blocks (powers of two up to half of all blocks of the trace)",
    )
    parser.add_argument("--requests-max", metavar="N", type=_positive, help="of each trace")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers here")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw them as a PNG (matplotlib)")


def run(args: argparse.Namespace) -> int:
    """Raises TraceMalformed, CallerError."""
    check_writable(args.json, args.plot)
    draw = _plotter() if args.plot is not None else None
    traces = [one for path in args.traces for one in load(path, args.format, args.requests_max)]
    plan = [(trace, args.capacities or default_capacities(trace)) for trace in traces]
    rows: list[Row] = []
    with progress("simulate", steps=sum(len(capacities) for _, capacities in plan)) as shown:
        for trace, capacities in plan:
            for capacity in capacities:
                rows += simulate(trace, capacity, args.policies)
                shown.advance(f"{trace.name} at {capacity}")
    print("\n\n".join(table(trace.name, rows) for trace in traces))
    if args.json is not None:
        args.json.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    if draw is not None:
        draw(rows, args.plot)
    return 0


def simulate(trace: PackedTrace, capacity: int, policies: Sequence[PolicyName]) -> Iterator[Row]:
    """One row for each policy, of a cache that has room for `capacity` blocks and is empty at first."""
    most = max(1, trace.blocks)
    optimum = _native.optimum_hits(trace.numbers, capacity=capacity) / most
    for policy in policies:
        catalog = _native.Catalog(
            objects_max=min(capacity, max(1, trace.blocks_different)),
            capacity_bytes=capacity * BLOCK_BYTES,
            policy=_native.Policy[policy.name],
        )
        started = time.perf_counter()
        done = catalog.replay(trace.keys, trace.lengths, object_bytes=BLOCK_BYTES)
        wall_s = time.perf_counter() - started
        yield Row(
            trace=trace.name,
            capacity=capacity,
            policy=policy.value,
            hit_rate=done.hits / most,
            optimum=optimum,
            references=done.references,
            references_per_s=round(done.references / max(wall_s, 1e-9)),
        )


def default_capacities(trace: PackedTrace) -> tuple[int, ...]:
    largest = max(1, trace.blocks_different // 2)
    return tuple(sorted({max(1, largest >> halvings) for halvings in range(CAPACITIES_DEFAULT)}))


def table(trace: str, rows: Sequence[Row]) -> str:
    """Hit rates in percent, one line for each capacity."""
    own = [row for row in rows if row.trace == trace]
    policies = list(dict.fromkeys(row.policy for row in own))
    lines = [_line([f"{trace}, % hit", *policies, "optimum"])]
    for capacity in dict.fromkeys(row.capacity for row in own):
        at = [row for row in own if row.capacity == capacity]
        shown = [f"{100 * row.hit_rate:.2f}" for row in at]
        lines.append(_line([f"{capacity} blocks", *shown, f"{100 * at[0].optimum:.2f}"]))
    speeds = sorted(row.references_per_s for row in own)
    lines.append(f"{speeds[len(speeds) // 2] / 1e6:.1f} million references/s (median)")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    first, *others = cells
    return f"{first:<28}" + "".join(f"{cell:>10}" for cell in others)


def _plotter() -> Callable[[Sequence[Row], Path], None]:
    try:
        from penstock.actors.cli.simulate_plot import draw
    except ImportError as missing:
        raise CallerError(
            f"--plot needs matplotlib: pip install matplotlib ({missing})"
        ) from missing
    return draw


# Reading the command line.


def _policies(text: str) -> tuple[PolicyName, ...]:
    try:
        return tuple(dict.fromkeys(PolicyName(name) for name in text.split(",")))
    except ValueError as problem:
        known = ", ".join(member.value for member in PolicyName)
        raise argparse.ArgumentTypeError(f"{problem}; there are {known}") from problem


def _capacities(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_positive(one) for one in text.split(",")))


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= CAPACITY_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to {CAPACITY_MAX}")
    return value
