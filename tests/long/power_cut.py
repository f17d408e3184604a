"""Cut the power of a raw block store at many moments of many lives; `python tests/long/power_cut.py --cuts 20000`.

Prints a line per seed, and ends with the first broken promise, whose seed and cut it names. Seeds take turns in what
they are of, unless `--durability none` or `--discard on` says it for all of them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.raw_cuts import RawCuts

from penstock.actors.stores.file_config import DurabilityName

CUTS_PER_SEED = 2000
DISCARDS = {"on": True, "off": False}


async def run(first_seed: int, cuts_min: int, durability: str | None, discard: str | None) -> None:
    durabilities = [DurabilityName(durability)] if durability else [*DurabilityName]
    discards = [DISCARDS[discard]] if discard else [*DISCARDS.values()]
    combinations = [*itertools.product(durabilities, discards)]
    done, seed = 0, first_seed
    while done < cuts_min:
        durable, is_discarded = combinations[seed % len(combinations)]
        is_long = seed % 3 == 1  # lives in which the log goes round its ring
        moments_max = 200 if is_long else 1 << 30
        cuts = RawCuts(seed, durable, discard=is_discarded, moments_max=moments_max)
        lives, began_s = 0, time.monotonic()
        while cuts.cuts < CUTS_PER_SEED:
            await cuts.play(turns=60 if is_long else 2 + seed % 8)
            lives += 1
        took_s = time.monotonic() - began_s
        done += cuts.cuts
        print(
            f"seed {seed}: {cuts.cuts} cuts of {lives} lives, {durable.value},"
            f" {'with' if is_discarded else 'without'} discards, log at block {cuts.log_head},"
            f" {took_s:.1f} s; {done} cuts so far, none broke a promise",
            flush=True,
        )
        seed += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1000, help="the first one")
    parser.add_argument("--durability", choices=[one.value for one in DurabilityName])
    parser.add_argument("--discard", choices=DISCARDS)
    given = parser.parse_args()
    anyio.run(run, given.seed, given.cuts, given.durability, given.discard)
