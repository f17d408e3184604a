"""Eviction policies on recorded traces: hit rates, the optimum, and how fast the simulation is.

    python tests/bench/simulate.py [--json FILE] [--rounds N]

Published traces are used when they lie beside the repository, else those of tests/data. The hit rates
of a trace are the same in every round; the speeds are medians over the rounds.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

from harness import Report, Sample, parse_options, quiet

from penstock.actors.cli.simulate import Row, simulate
from penstock.actors.cli.simulate_trace import PackedTrace, load
from penstock.actors.cli.traces import TraceFormat
from penstock.actors.config_words import PolicyName

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.traces import AGENTIC, CONVERSATION, MADE, MADE_AGENTIC

CAPACITIES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
AGENTIC_CAPACITIES = (500, 1_000, 2_000, 3_000, 5_000, 10_000)
MADE_CAPACITIES = (50, 100, 200, 400)


def traces() -> list[tuple[PackedTrace, tuple[int, ...]]]:
    published = CONVERSATION.exists() and AGENTIC.exists()
    found = [
        (trace, CAPACITIES if published else MADE_CAPACITIES)
        for trace in load(CONVERSATION if published else MADE, TraceFormat.AUTO, None)
    ]
    for trace in load(AGENTIC if published else MADE_AGENTIC, TraceFormat.AUTO, None):
        found.append((trace, AGENTIC_CAPACITIES if published else MADE_CAPACITIES))
    return found


def main() -> None:
    options = parse_options(__doc__)
    report = Report("simulate")
    rounds: list[list[Row]] = []
    plan = traces()
    with quiet():
        for _ in range(options.rounds):
            rounds.append(
                [
                    row
                    for trace, capacities in plan
                    for capacity in capacities
                    for row in simulate(trace, capacity, list(PolicyName))
                ]
            )
    rows: list[dict[str, object]] = []
    for same in zip(*rounds, strict=True):
        speed = Sample(tuple(row.references_per_s for row in same))
        rows.append(asdict(replace(same[0], references_per_s=speed.median)))
        prefix = f"{same[0].trace}_{same[0].capacity}_{same[0].policy}"
        report.add(f"{prefix}_hit_rate", same[0].hit_rate, unit="")
        if same[0].policy == PolicyName.PROSPECT.value:
            report.add(f"{same[0].trace}_{same[0].capacity}_optimum", same[0].optimum, unit="")
    for policy in PolicyName:
        speeds = [
            sum(row.references for row in own)
            / sum(row.references / row.references_per_s for row in own)
            for own in ([row for row in one if row.policy == policy.value] for one in rounds)
        ]
        report.add(f"{policy.value}_references_per_s", Sample(tuple(speeds)), unit="1/s")
    report.note("rows", rows)
    report.finish(options)


if __name__ == "__main__":
    main()
