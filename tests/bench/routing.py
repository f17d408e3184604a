"""Where to send prompts: cached prefix and load, against round-robin, random and a node for each family.

    python tests/bench/routing.py [--json FILE] [--rounds N]

Recorded traces on a simulated cluster: each node computes one prompt after the other at the same rate, keeps a
least-recently-used cache of blocks, and computes only what it does not hold. The rate is such that the cluster would be
busy for LOAD of the time if nothing were cached. Published traces are used when they lie beside the repository, else
those of tests/data. Of each way: the part of all blocks that was held where it was computed, the busiest node's work
over the mean, and how long prompts waited for their first token, in seconds of the trace's own time. Nothing here is
timed: rounds draw other seeds for what is random, and the spread is over them.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import Report, Sample, parse_options, percentile

from penstock.actors.cli.traces import TraceFormat, TraceRequest, read_trace
from penstock.actors.core.route_choice import Candidate, SentPrefixes, choose

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.traces import AGENTIC, CONVERSATION, MADE, MADE_AGENTIC

NODES = 8
LOADS = (0.7, 1.4)  # without any cache; the second only fits with one
PUBLISHED_BLOCKS = 5_000  # of each node's cache
MADE_BLOCKS = 50


@dataclass(frozen=True, slots=True)
class Prompt:
    at_s: float
    names: tuple[bytes, ...]  # of its blocks


@dataclass(slots=True)
class SimulatedNode:
    name: str
    cache: SentPrefixes  # its bounded cache is what a router remembers, exactly
    believed: SentPrefixes
    free_at_s: float = 0.0
    computed: int = 0  # blocks
    waiting: deque[tuple[float, int]] = field(default_factory=deque)  # until when, believed blocks
    queued: int = 0  # the sum of the latter

    def forget_finished(self, now_s: float) -> None:
        while self.waiting and self.waiting[0][0] <= now_s:
            self.queued -= self.waiting.popleft()[1]

    def take(self, prompt: Prompt, believed_missing: int, blocks_per_s: float) -> tuple[int, float]:
        """Blocks held, and seconds until the first token."""
        held = self.cache.held(prompt.names)
        missing = len(prompt.names) - held
        self.free_at_s = max(self.free_at_s, prompt.at_s) + missing / blocks_per_s
        self.computed += missing
        self.cache.sent(prompt.names)
        self.believed.sent(prompt.names)
        self.waiting.append((self.free_at_s, believed_missing))
        self.queued += believed_missing
        return held, self.free_at_s - prompt.at_s


Route = Callable[[Sequence[SimulatedNode], Prompt], Candidate]


def round_robin(_: random.Random) -> Route:
    turn = iter(range(sys.maxsize))

    def route(nodes: Sequence[SimulatedNode], prompt: Prompt) -> Candidate:
        return Candidate(nodes[next(turn) % len(nodes)].name, 0, len(prompt.names))

    return route


def at_random(draw: random.Random) -> Route:
    return lambda nodes, prompt: Candidate(draw.choice(nodes).name, 0, len(prompt.names))


def least_queued(_: random.Random) -> Route:
    def route(nodes: Sequence[SimulatedNode], prompt: Prompt) -> Candidate:
        return choose([Candidate(n.name, n.queued, len(prompt.names)) for n in nodes], b"")

    return route


def by_family(_: random.Random) -> Route:
    def route(nodes: Sequence[SimulatedNode], prompt: Prompt) -> Candidate:
        return choose([Candidate(n.name, 0, len(prompt.names)) for n in nodes], prompt.names[0])

    return route


def cached_and_load(_: random.Random) -> Route:
    def route(nodes: Sequence[SimulatedNode], prompt: Prompt) -> Candidate:
        blocks = len(prompt.names)
        candidates = [
            Candidate(n.name, n.queued, blocks - n.believed.held(prompt.names)) for n in nodes
        ]
        return choose(candidates, prompt.names[0])

    return route


WAYS: dict[str, Callable[[random.Random], Route]] = {
    "cached_and_load": cached_and_load,
    "by_family": by_family,
    "least_queued": least_queued,
    "round_robin": round_robin,
    "random": at_random,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    hit_rate: float
    load_spread: float
    first_token_s_p50: float
    first_token_s_p99: float


def run(prompts: Sequence[Prompt], route: Route, load: float, cache_blocks: int) -> Outcome:
    total = sum(len(prompt.names) for prompt in prompts)
    rate = total / (prompts[-1].at_s - prompts[0].at_s) / NODES / load
    nodes = [
        SimulatedNode(f"node-{number}", SentPrefixes(cache_blocks), SentPrefixes(cache_blocks))
        for number in range(NODES)
    ]
    by_name = {node.name: node for node in nodes}
    held, waits = 0, []
    for prompt in prompts:
        for node in nodes:
            node.forget_finished(prompt.at_s)
        chosen = route(nodes, prompt)
        hit, wait_s = by_name[chosen.node].take(prompt, chosen.missing, rate)
        held += hit
        waits.append(wait_s)
    work = [node.computed for node in nodes]
    return Outcome(
        held / total,
        max(work) / statistics.mean(work),
        statistics.median(waits),
        percentile(waits, 99),
    )


def prompts_of(path: Path) -> list[Prompt]:
    """In order of time; the files of a folder at once, each from its start."""

    def name(request: TraceRequest, block: int) -> bytes:
        return f"{request.scope}:{block}".encode()

    read = [
        Prompt(request.at_s, tuple(name(request, block) for block in request.blocks))
        for request in read_trace(path, TraceFormat.AUTO)
        if request.blocks
    ]
    return sorted(read, key=lambda prompt: prompt.at_s)


def main() -> None:
    options = parse_options(__doc__)
    report = Report("routing")
    published = CONVERSATION.exists() and AGENTIC.exists()
    traces = {
        "conversation": prompts_of(CONVERSATION if published else MADE),
        "agents": prompts_of(AGENTIC if published else MADE_AGENTIC),
    }
    rows = []
    for trace, prompts in traces.items():
        for load in LOADS:
            for way, make in WAYS.items():
                seen = [
                    run(
                        prompts,
                        make(random.Random(seed)),
                        load,
                        PUBLISHED_BLOCKS if published else MADE_BLOCKS,
                    )
                    for seed in range(options.rounds if way == "random" else 1)
                ]
                prefix = f"{trace}_{load:g}_{way}"
                for key, unit in (
                    ("hit_rate", ""),
                    ("load_spread", ""),
                    ("first_token_s_p50", "s"),
                    ("first_token_s_p99", "s"),
                ):
                    sample = Sample(tuple(getattr(one, key) for one in seen))
                    report.add(f"{prefix}_{key}", sample, unit=unit)
                rows.append(
                    {"trace": trace, "load": load, "way": way, "hit_rate": seen[0].hit_rate}
                )
    report.note("rows", rows)
    report.finish(options)


if __name__ == "__main__":
    main()
