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
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_folder import bench_folder
from harness import Options, Report, Sample, parse_options, quiet, ratio
from store_cases import (
    TMPFS,
    Absent,
    Case,
    Dax,
    FileBuffered,
    FileDirect,
    Memory,
    NixlPosix,
    RawBlock,
)
from store_node import targets
from store_servers import S3, Mooncake, Valkey
from store_sides import OurSide, Shape, Side, Slots, Turn, TurnFailed
from support.store_world import store_world

from penstock.actors.api.types import Epoch
from penstock.actors.node_stores import StoreOpener
from penstock.actors.stores.digests import INLINE_BYTES_MAX
from penstock.actors.stores.opening import AnyStoreConfig
from penstock.actors.stores.store import StoreContext
from penstock.runtime.config import Config, read_record
from penstock.runtime.errors import ConfigError

SHOWN = (
    "save_gib_s",
    "load_gib_s",
    "save_ratio",
    "load_ratio",
    "save_to_same_work_ratio",
    "load_to_same_work_ratio",
    "core_s_per_gib",
    "load_one_us_p50",
)
Row = dict[str, object]


CASES: tuple[tuple[type[Case], ...], ...] = (
    (FileDirect, RawBlock, NixlPosix),
    (FileBuffered,),
    (Memory, Dax),
    (Valkey,),
    (Mooncake,),
    (S3,),
)
"""Those of one baseline together: it is measured once for all of them in each round."""


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
    config = config_of(case, slots.shape, turns + 1)  # the first is to warm up
    opener = StoreOpener(config, StoreContext(config.name, Epoch(os.urandom(16))))
    async with store_world(opener, config, inline_bytes_max=INLINE_BYTES_MAX) as world:
        await world.wait_recovered()
        side = OurSide(world, slots, case)
        await side.warm_up()
        yield side


@dataclass(frozen=True, slots=True)
class Seen:
    """One store in all rounds, beside what it is measured against."""

    mine: Sequence[Turn]
    baseline: Sequence[Turn]
    same_work: Sequence[Turn] | None  # if there is such a second baseline
    one_us: Mapping[str, float]


async def measure(cases: Sequence[Case], shape: Shape, rounds: int) -> list[Seen]:
    """Stores of one baseline in turn, and the baselines in each round, too."""
    slots = Slots(shape, near_bytes=cases[0].near_bytes)
    async with AsyncExitStack() as stack:
        ours = [await stack.enter_async_context(opened(one, slots, rounds)) for one in cases]
        peers: dict[str, Side] = {}  # by what they are
        for case in cases:
            if case.same_work not in peers and (side := case.beside_same_work(slots, rounds)):
                peers[case.same_work] = side
        sides = [*ours, cases[0].beside(slots, rounds), *peers.values()]
        turns = await _in_turn(sides, rounds)
        ones = [await one.one_us() for one in ours]
    same_work = dict(zip(peers, turns[len(ours) + 1 :], strict=True))
    return [
        Seen(turns[at], turns[len(ours)], same_work.get(case.same_work), ones[at])
        for at, case in enumerate(cases)
    ]


async def _in_turn(sides: Sequence[Side], rounds: int) -> list[list[Turn]]:
    with quiet():
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                await side.turn(number)
    return [side.turns() for side in sides]


def samples_of(seen: Seen) -> dict[str, Sample]:
    save, load = _sample(seen.mine, "save_gib_s"), _sample(seen.mine, "load_gib_s")
    samples = {
        "save_gib_s": save,
        "load_gib_s": load,
        "core_s_per_gib": _sample(seen.mine, "core_s_per_gib"),
        **{key: Sample((us,)) for key, us in seen.one_us.items()},
    }
    for prefix, turns in (("baseline", seen.baseline), ("same_work", seen.same_work)):
        if turns is not None:
            samples[f"{prefix}_save_gib_s"] = saved = _sample(turns, "save_gib_s")
            samples[f"{prefix}_gib_s"] = loaded = _sample(turns, "load_gib_s")
            to = "" if prefix == "baseline" else f"_to_{prefix}"
            samples[f"save{to}_ratio"] = ratio(save, saved)
            samples[f"load{to}_ratio"] = ratio(load, loaded)
    return samples


def _sample(turns: Sequence[Turn], name: str) -> Sample:
    return Sample(tuple(getattr(one, name) for one in turns))


class Bench:
    """What has been measured so far."""

    def __init__(self, options: Options) -> None:
        self._rounds = options.rounds
        self.report = Report("stores")
        self.rows: list[Row] = []
        self.left_out: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.took_s: dict[str, float] = {}

    def measure(self, kinds: Sequence[type[Case]], folder: Path) -> None:
        """All that is there of these, which are measured against one thing."""
        with ExitStack() as stack:
            cases = [case for kind in kinds if (case := self._made(kind, folder, stack))]
            for shape in cases[0].shapes if cases else ():
                began_s = time.monotonic()
                try:
                    all_seen = asyncio.run(measure(cases, shape, self._rounds))
                except* TurnFailed as failed:
                    self.failed[f"{cases[0].name}_{shape.words}"] = str(failed.exceptions[0])
                else:
                    for case, seen in zip(cases, all_seen, strict=True):
                        self._tell(case, shape, samples_of(seen))
                self.took_s[f"{cases[0].name}_{shape.words}"] = time.monotonic() - began_s

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
        if "same_work_gib_s" in numbers:
            told["same_work"] = case.same_work
        self.rows.append({**told, **numbers})
        for key, sample in samples.items():
            if key in SHOWN:
                self.report.add(f"{case.name}_{shape.words}_{key}", sample, unit=unit_of(key))


def unit_of(key: str) -> str:
    """By its last words."""
    units = {"us": "us", "gib_s": "GiB/s", "s_per_gib": "s/GiB", "us_p50": "us", "steps": ""}
    return next((unit for end, unit in units.items() if key.endswith(f"_{end}")), "x")


def main() -> None:
    options = parse_options(__doc__)
    bench = Bench(options)
    report = bench.report
    with bench_folder() as folder:
        for kinds in CASES:
            bench.measure(kinds, folder)
        with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=TMPFS) as memory:
            for key, sample in targets(folder, Path(memory), options.rounds).items():
                report.add(key, sample, unit=unit_of(key))
    report.note("rows", bench.rows)
    report.note("left_out", bench.left_out)
    report.note("failed", bench.failed)
    report.note("took_s", bench.took_s)
    report.finish(options)
    for name, reason in bench.left_out.items():
        print(f"left out: {name}: {reason}")
    if bench.failed:
        raise SystemExit(f"stores: {bench.failed}")


if __name__ == "__main__":
    main()
