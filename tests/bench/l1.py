"""The native L1: allocator, keys, and the table at 10 million and at 10 thousand keys.

    python tests/bench/l1.py [--json FILE] [--rounds N]

Fragmentation: a 40 GiB arena that is always full takes bursts of objects of two models, the oldest
going when there is no room. `*_used` is the part of the arena that is taken at the moment an
allocation first finds no room; `*_evictions_per_alloc` is 1 when each object needs one other's room.
"""

from __future__ import annotations

import random
import time
from array import array

from harness import Options, Report, Sample, interleaved, parse_options, quiet
from l1_allocator import allocator_program, run_allocator
from l1_table import FullTable

from penstock.actors.keys import chunk_keys

HASHED_TOKENS = 128 * 1024
CHUNK_TOKENS = 256
KEYS = 10_000_000
KEYS_FEW = 10_000
NEWS_MAX = 65_536  # the default of l1.news_max
CHANGES_MAX = 65_536  # the default of cluster.directory.changes_max
KEYS_OF_RUNS = 512_000  # of objects with 64 runs


def main() -> None:
    options = parse_options(__doc__)
    report = Report("l1")
    add_allocator_rows(report, options)
    add_hash_rows(report, options)
    add_table_rows(report, options)
    report.finish(options)


def add_allocator_rows(report: Report, options: Options) -> None:
    with allocator_program() as program, quiet():
        rounds = [run_allocator(program) for _ in range(options.rounds)]
    for key in rounds[0]:
        unit = "ns" if key.endswith("_ns") else ""
        report.add(key, Sample(tuple(rows[key] for rows in rounds)), unit=unit)


def add_hash_rows(report: Report, options: Options) -> None:
    """128 k tokens into chunk keys: packed, as the wire brings them, and as a list of ints."""
    draw = random.Random(1)
    tokens = [draw.randrange(150_000) for _ in range(HASHED_TOKENS)]
    packed = array("I", tokens).tobytes()
    samples = interleaved(
        {
            "hash_128k_tokens_ms": lambda: _hash_ms(packed),
            "hash_128k_tokens_list_ms": lambda: _hash_ms(tokens),
        },
        rounds=options.rounds,
    )
    for key, sample in samples.items():
        report.add(key, sample, unit="ms")


def add_table_rows(report: Report, options: Options) -> None:
    """Without a suffix: 10 million keys resident. `_10k`: ten thousand. `_news`: with stores below, told of commits.
    `_changes`: with peers, told of what comes and goes."""
    many, few = FullTable.of(KEYS), FullTable.of(KEYS_FEW)
    told = FullTable.of(KEYS_FEW, news_max=NEWS_MAX)
    watched = FullTable.of(KEYS_FEW, changes_max=CHANGES_MAX)
    cases = {
        "lookup_release_us_per_key": many.reading_us_per_key,
        "lookup_release_prompt_us_per_key": many.prompt_reading_us_per_key,
        "reserve_commit_us_per_key": many.writing_us_per_key,
        "lookup_release_us_per_key_10k": few.reading_us_per_key,
        "reserve_commit_us_per_key_10k": few.writing_us_per_key,
        "reserve_commit_news_us_per_key_10k": told.writing_us_per_key,
        "take_committed_us_per_key_10k": told.taking_us_per_key,
        "reserve_commit_changes_us_per_key_10k": watched.writing_us_per_key,
        "take_changes_us_per_key_10k": watched.taking_changes_us_per_key,
    }
    for key, sample in interleaved(cases, rounds=options.rounds).items():
        report.add(key, sample, unit="us")
    add_memory_rows(report, "", many)
    add_memory_rows(report, "_64_runs", FullTable.of(KEYS_OF_RUNS, runs=64))


def add_memory_rows(report: Report, suffix: str, full: FullTable) -> None:
    """By the table's own count, and by what the process grew by."""
    report.add(f"bytes_per_object{suffix}", full.bytes_per_object(), unit="bytes")
    report.add(f"rss_bytes_per_object{suffix}", full.rss_bytes_per_object, unit="bytes")


def _hash_ms(tokens: bytes | list[int]) -> float:
    root = bytes(32)
    started = time.perf_counter()
    keys = chunk_keys(root, tokens, CHUNK_TOKENS)
    took_s = time.perf_counter() - started
    assert len(keys) == 32 * HASHED_TOKENS // CHUNK_TOKENS
    return took_s * 1000


if __name__ == "__main__":
    main()
