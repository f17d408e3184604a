"""Stores: saving and loading through the store actor, beside what the medium gives without us.

    python tests/bench/stores.py [--json FILE] [--rounds N]

Then a node with stores, over its socket: `node_`, `disk_`, `tmpfs_` and `l1_` of the report. Ratios are medians over
pairs that were run in turn. The page cache is dropped before loads, or neither side uses it. What this machine lacks is
left out, and said. TMPDIR names a folder of the disk to be measured; /var/tmp unless it is set.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Options, Report, Sample, parse_options, quiet, ratio
from store_cases import CASES, TMPFS, Absent, Case
from store_node import targets
from store_sides import OurSide, Shape, Side, Slots, Turn
from support.store_world import store_world

from penstock.actors.api.types import Epoch
from penstock.actors.node_stores import StoreOpener
from penstock.actors.stores.opening import AnyStoreConfig
from penstock.actors.stores.store import StoreContext
from penstock.runtime.config import Config, read_record
from penstock.runtime.errors import ConfigError

ONE_LOADS = 40
Row = dict[str, object]


class _Given(Config, frozen=True):
    store: AnyStoreConfig


async def measure(case: Case, shape: Shape, rounds: int) -> tuple[Row, dict[str, Sample]]:
    """One row, and its numbers with their spread."""
    values = {"store": {"name": "bench", **case.settings(shape, rounds)}}
    try:
        config = read_record(_Given, values, path="").store
    except ConfigError as refusal:
        raise Absent(str(refusal)) from None
    opener = StoreOpener(config, StoreContext(config.name, Epoch(os.urandom(16))))
    slots = Slots(shape)
    beside = case.beside(shape, slots)
    async with store_world(opener, config, inline_bytes_max=64 << 10) as world:
        await world.wait_recovered()
        ours = OurSide(world, slots, case.forget)
        mine, theirs = await _in_pairs(ours, beside, rounds)
        one_us = await ours.one_us(rounds - 1, min(ONE_LOADS, 4 * shape.objects))
    samples = {
        "save_gib_s": Sample(tuple(one.save_gib_s for one in mine)),
        "load_gib_s": Sample(tuple(one.load_gib_s for one in mine)),
        "core_s_per_gib": Sample(tuple(one.core_s_per_gib for one in mine)),
        "baseline_save_gib_s": Sample(tuple(one.save_gib_s for one in theirs)),
        "baseline_gib_s": Sample(tuple(one.load_gib_s for one in theirs)),
        "load_one_us_p50": Sample((one_us,)),
    }
    samples["save_ratio"] = ratio(samples["save_gib_s"], samples["baseline_save_gib_s"])
    samples["load_ratio"] = ratio(samples["load_gib_s"], samples["baseline_gib_s"])
    row: Row = {"store": case.name, "object_bytes": shape.object_bytes, "baseline": case.baseline}
    return row | {key: sample.median for key, sample in samples.items()}, samples


async def _in_pairs(ours: Side, beside: Side, rounds: int) -> tuple[list[Turn], list[Turn]]:
    mine, theirs = [], []
    with quiet():
        for number in range(rounds):
            pair = [(ours, mine), (beside, theirs)]
            for side, seen in pair if number % 2 == 0 else reversed(pair):
                seen.append(await side.turn(number))
    return mine, theirs


def measure_case(
    kind: type[Case], folder: Path, options: Options, report: Report, rows: list[Row]
) -> str:
    """Why it was left out; empty when it was not."""
    try:
        with ExitStack() as stack:
            case = kind(folder, stack)
            for shape in case.shapes:
                row, samples = asyncio.run(measure(case, shape, options.rounds))
                rows.append(row)
                for key, unit in UNITS.items():
                    report.add(f"{case.name}_{shape.words}_{key}", samples[key], unit=unit)
    except Absent as absent:
        return str(absent)
    return ""


UNITS = {
    "save_gib_s": "GiB/s",
    "load_gib_s": "GiB/s",
    "save_ratio": "x",
    "load_ratio": "x",
    "core_s_per_gib": "s/GiB",
    "load_one_us_p50": "us",
}


def unit_of(key: str) -> str:
    """By its last words."""
    units = {"us": "us", "gib_s": "GiB/s", "s_per_gib": "s/GiB", "us_p50": "us", "steps": ""}
    return next((unit for end, unit in units.items() if key.endswith(f"_{end}")), "x")


def main() -> None:
    options = parse_options(__doc__)
    report, rows = Report("stores"), list[Row]()
    parent = os.environ.get("TMPDIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=parent) as folder:
        run = partial(measure_case, folder=Path(folder), options=options, report=report, rows=rows)
        left_out = {kind.name: reason for kind in CASES if (reason := run(kind))}
        with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=TMPFS) as memory:
            for key, sample in targets(Path(folder), Path(memory), options.rounds).items():
                report.add(key, sample, unit=unit_of(key))
    report.note("rows", rows)
    report.note("left_out", left_out)
    report.finish(options)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")


if __name__ == "__main__":
    main()
