"""What every benchmark shares: quiet timing, interleaved rounds, one table, one JSON file.

A benchmark names its cases and hands them to `interleaved`: round one runs every case once, then
round two, and so on, so that a slow minute of the machine falls on all of them alike. Numbers are
medians over the rounds with their spread; a ratio is the median of per-round ratios, never the
ratio of two medians.

    options = parse_options(__doc__)
    samples = interleaved({"ours": run_ours, "memcpy": run_memcpy}, rounds=options.rounds)
    report = Report("copy")
    report.add("ours_gib_s", samples["ours"], unit="GiB/s")
    report.add("ratio_to_memcpy", ratio(samples["ours"], samples["memcpy"]), unit="")
    report.finish(options)
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROUNDS_MIN = 5  # a single pair of runs swings by a quarter


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of a benchmark."""

    json_path: Path | None
    rounds: int  # >= ROUNDS_MIN


@dataclass(frozen=True, slots=True)
class Sample:
    """One case over all rounds, in the unit the case reports."""

    values: tuple[float, ...]  # one per round, in round order

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


@dataclass(slots=True)
class Report:
    """Rows in the order they were added; printed as a table, written as JSON."""

    subject: str
    _rows: list[tuple[str, Sample, str]] = field(default_factory=list)
    _extra: dict[str, object] = field(default_factory=dict)

    def add(self, key: str, sample: Sample | float, *, unit: str) -> None:
        """Add a measured number under `key` (units last, as in `ask_us_p50`)."""
        if not isinstance(sample, Sample):
            sample = Sample((float(sample),))
        self._rows.append((key, sample, unit))

    def note(self, key: str, value: object) -> None:
        """Add something to the JSON that is not a number of the table, such as a list of rows."""
        self._extra[key] = value

    def finish(self, options: Options) -> None:
        """Print the table and, if asked for, write the JSON file."""
        print(self.table())
        if options.json_path is not None:
            options.json_path.write_text(json.dumps(self.as_json(), indent=2) + "\n")

    def table(self) -> str:
        head = ("key", "median", "low", "high", "unit")
        body = [
            (key, _short(s.median), _short(s.low), _short(s.high), unit)
            for key, s, unit in self._rows
        ]
        widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        return "\n".join(
            _line(row, widths) for row in [head, tuple("-" * w for w in widths), *body]
        )

    def as_json(self) -> dict[str, object]:
        """`{key: median}` at the top level, then the spread and the machine it was seen on."""
        values: dict[str, object] = {key: sample.median for key, sample, _ in self._rows}
        spread = {key: [sample.low, sample.high] for key, sample, _ in self._rows}
        return {**values, **self._extra, "spread": spread, "machine": machine()}


def parse_options(description: str | None, *, rounds: int = ROUNDS_MIN) -> Options:
    """Read `--json FILE` and `--rounds N` (at least `ROUNDS_MIN`)."""
    summary = (description or "").strip().split("\n", 1)[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers here")
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=rounds, help="interleaved rounds"
    )
    given = parser.parse_args()
    if given.rounds < ROUNDS_MIN:
        parser.error(f"--rounds must be at least {ROUNDS_MIN}: fewer say nothing about the spread")
    return Options(json_path=given.json, rounds=given.rounds)


def interleaved(
    cases: Mapping[str, Callable[[], float]], *, rounds: int = ROUNDS_MIN
) -> dict[str, Sample]:
    """Run every case once per round, in turn; each case returns its own number.

    The order is reversed in every other round, so that no case always runs in another's wake.
    """
    assert rounds >= ROUNDS_MIN, rounds
    values: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    with quiet():
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                values[name].append(cases[name]())
    return {name: Sample(tuple(seen)) for name, seen in values.items()}


def ratio(ours: Sample, baseline: Sample) -> Sample:
    """Per-round ratios of two cases that were run interleaved."""
    pairs = zip(ours.values, baseline.values, strict=True)
    return Sample(tuple(mine / theirs for mine, theirs in pairs))


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of `values` (not empty), 0 < percent <= 100."""
    assert values, "no values"
    assert 0 < percent <= 100, percent
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@contextmanager
def quiet() -> Iterator[None]:
    """Time without the cycle collector, as the node runs: what exists now is frozen out of it."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def machine() -> dict[str, object]:
    """What a reader must know to compare two reports."""
    return {
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "argv": Path(sys.argv[0]).name,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _short(value: float) -> str:
    """Four significant digits, with thousands separated."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    cells[0], cells[-1] = row[0].ljust(widths[0]), row[-1]
    return "  ".join(cells).rstrip()
