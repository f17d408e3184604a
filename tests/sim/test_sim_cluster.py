"""A small cluster under the requests of a trace: what the benchmark of scaling counts is right."""

from __future__ import annotations

import random

from support.sim_cluster import KEY_BYTES, ClusterPlan, SimCluster, prompts_of
from support.traces import CONVERSATION, MADE

from penstock.actors.cli.traces import TraceFormat, read_trace
from penstock.runtime.sim_sources import seeded_sources

PLAN = ClusterPlan(nodes=8, requests=60, chunks_max=256)


def prompts(count: int) -> list[bytes]:
    path = CONVERSATION if CONVERSATION.exists() else MADE
    requests = read_trace(path, TraceFormat.AUTO)
    blocks = [(one.scope, one.blocks) for one, _ in zip(requests, range(count), strict=False)]
    return prompts_of(blocks, count, chunks_max=64)


def test_all_nodes_agree_after_a_third_of_them_has_restarted() -> None:
    """B9: within the time to notice and to link again; wrong promises are few, and mostly of those that restarted."""
    cluster = SimCluster(PLAN)
    tally = cluster.run(prompts(480))
    assert cluster.check() == 8 * 7
    assert tally.lookups == 480
    assert tally.resyncs == 0, "streams keep their order"
    assert 0 < tally.linked_again_s <= PLAN.noticed_s + PLAN.linked_s
    assert tally.remote_chunks > 0
    assert tally.wrong <= 0.02 * len(tally.asked)
    assert max(tally.asked) <= 7


def test_the_same_plan_counts_the_same() -> None:
    counted = []
    for _ in range(2):
        with seeded_sources(random.Random(7), lambda: 0.0):
            tally = SimCluster(PLAN).run(prompts(480))
        counted.append((tally.update_bytes, tally.updates, tally.remote_chunks, tally.wrong))
    assert counted[0] == counted[1]


def test_without_peers_nothing_is_told() -> None:
    tally = SimCluster(ClusterPlan(nodes=1, requests=20, chunks_max=256)).run(prompts(20))
    assert (tally.updates, tally.remote_chunks, tally.snapshots) == (0, 0, 0)
    assert tally.chunks == sum(len(one) // KEY_BYTES for one in prompts(20))
