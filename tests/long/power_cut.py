"""Cut the power of a raw block store at many moments of many lives; `python tests/long/power_cut.py --cuts 20000`.

Prints a line per seed, and ends with the first broken promise, whose seed and cut it names.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.raw_cuts import RawCuts

from penstock.actors.stores.file_config import DurabilityName

CUTS_PER_SEED = 2000


async def run(first_seed: int, cuts_min: int) -> None:
    done, seed = 0, first_seed
    while done < cuts_min:
        # Every fourth without promises: then nothing wrong is all that is asked for.
        durability = DurabilityName.NONE if seed % 4 == 3 else DurabilityName.FDATASYNC
        is_long = seed % 3 == 1  # lives in which the log goes round its ring
        cuts = RawCuts(seed, durability, moments_max=200 if is_long else 1 << 30)
        lives, began_s = 0, time.monotonic()
        while cuts.cuts < CUTS_PER_SEED:
            await cuts.play(turns=60 if is_long else 2 + seed % 8)
            lives += 1
        took_s = time.monotonic() - began_s
        done += cuts.cuts
        print(
            f"seed {seed}: {cuts.cuts} cuts of {lives} lives, {durability.value}, log at block"
            f" {cuts.log_head}, {took_s:.1f} s; {done} cuts so far, none broke a promise",
            flush=True,
        )
        seed += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1000, help="the first one")
    given = parser.parse_args()
    anyio.run(run, given.seed, given.cuts)
