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
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Options, Report, Sample, parse_options, quiet, ratio
from store_cases import CASES, TMPFS, Absent, Case
from store_node import targets
from store_sides import OurSide, Shape, Side, Slots, Turn
from support.store_world import store_world

from penstock.actors.api.types import Epoch
from penstock.actors.node_stores import StoreOpener
from penstock.actors.stores.digests import INLINE_BYTES_MAX
from penstock.actors.stores.opening import AnyStoreConfig
from penstock.actors.stores.store import StoreContext
from penstock.runtime.config import Config, read_record
from penstock.runtime.errors import ConfigError

ONE_LOADS = 40
UNITS = {
    "save_gib_s": "GiB/s",
    "load_gib_s": "GiB/s",
    "save_ratio": "x",
    "load_ratio": "x",
    "core_s_per_gib": "s/GiB",
    "load_one_us_p50": "us",
}
Row = dict[str, object]


class _Given(Config, frozen=True):
    store: AnyStoreConfig


def config_of(case: Case, shape: Shape, turns: int) -> AnyStoreConfig:
    """Raises Absent when there is no such type of store."""
    values = {"store": {"name": case.name, **case.settings(shape, turns)}}
    try:
        return read_record(_Given, values, path="").store
    except ConfigError as refusal:
        raise Absent(str(refusal)) from None


@asynccontextmanager
async def opened(case: Case, slots: Slots, turns: int) -> AsyncIterator[OurSide]:
    config = config_of(case, slots.shape, turns)
    opener = StoreOpener(config, StoreContext(config.name, Epoch(os.urandom(16))))
    async with store_world(opener, config, inline_bytes_max=INLINE_BYTES_MAX) as world:
        await world.wait_recovered()
        yield OurSide(world, slots, case.forget)


async def measure(
    cases: Sequence[Case], shape: Shape, rounds: int
) -> list[tuple[Case, dict[str, Sample]]]:
    """Stores of one baseline in turn, and the baseline in each round, too."""
    slots = Slots(shape)
    async with AsyncExitStack() as stack:
        ours = [await stack.enter_async_context(opened(one, slots, rounds)) for one in cases]
        *mine, theirs = await _in_turn([*ours, cases[0].beside(shape, slots)], rounds)
        loads = min(ONE_LOADS, 4 * shape.objects)
        ones = [await side.one_us(rounds - 1, loads) for side in ours]
    return [
        (case, _samples(turns, theirs, one_us))
        for case, turns, one_us in zip(cases, mine, ones, strict=True)
    ]


async def _in_turn(sides: Sequence[Side], rounds: int) -> list[list[Turn]]:
    seen: list[list[Turn]] = [[] for _ in sides]
    with quiet():
        for number in range(rounds):
            order = [*zip(sides, seen, strict=True)]
            for side, turns in order if number % 2 == 0 else reversed(order):
                turns.append(await side.turn(number))
    return seen


def _samples(mine: Sequence[Turn], theirs: Sequence[Turn], one_us: float) -> dict[str, Sample]:
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
    return samples


class Bench:
    """What has been measured so far."""

    def __init__(self, options: Options) -> None:
        self._rounds = options.rounds
        self.report = Report("stores")
        self.rows: list[Row] = []
        self.left_out: dict[str, str] = {}

    def measure(self, kinds: Sequence[type[Case]], folder: Path) -> None:
        """All that is there of these, which are measured against one thing."""
        with ExitStack() as stack:
            cases = [case for kind in kinds if (case := self._made(kind, folder, stack))]
            for shape in cases[0].shapes if cases else ():
                for case, samples in asyncio.run(measure(cases, shape, self._rounds)):
                    self._tell(case, shape, samples)

    def _made(self, kind: type[Case], folder: Path, stack: ExitStack) -> Case | None:
        try:
            case = kind(folder, stack)
            config_of(case, case.shapes[0], self._rounds)
        except Absent as absent:
            self.left_out[kind.name] = str(absent)
            return None
        return case

    def _tell(self, case: Case, shape: Shape, samples: dict[str, Sample]) -> None:
        numbers = {key: sample.median for key, sample in samples.items()}
        told = {"store": case.name, "object_bytes": shape.object_bytes, "baseline": case.baseline}
        self.rows.append({**told, **numbers})
        for key, unit in UNITS.items():
            self.report.add(f"{case.name}_{shape.words}_{key}", samples[key], unit=unit)


def unit_of(key: str) -> str:
    """By its last words."""
    units = {"us": "us", "gib_s": "GiB/s", "s_per_gib": "s/GiB", "us_p50": "us", "steps": ""}
    return next((unit for end, unit in units.items() if key.endswith(f"_{end}")), "x")


def main() -> None:
    options = parse_options(__doc__)
    bench = Bench(options)
    report = bench.report
    parent = os.environ.get("TMPDIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=parent) as folder:
        for kinds in CASES:
            bench.measure(kinds, Path(folder))
        with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=TMPFS) as memory:
            for key, sample in targets(Path(folder), Path(memory), options.rounds).items():
                report.add(key, sample, unit=unit_of(key))
    report.note("rows", bench.rows)
    report.note("left_out", bench.left_out)
    report.finish(options)
    for name, reason in bench.left_out.items():
        print(f"left out: {name}: {reason}")


if __name__ == "__main__":
    main()
