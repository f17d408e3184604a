"""A cluster in virtual time on one core: what the directory costs, how many peers are asked, how soon all agree again.

    python tests/bench/scaling.py [--json FILE] [--nodes N] [--requests N] [--chunks N]

The real table and the real cores of the directory under the requests of a trace (tests/support/sim_cluster.py); the
published trace when it lies beside the repository, else that of tests/data. Half way through 30 % of the nodes restart
with nothing. Requests come to nodes by lot, which is the worst there is for their own L1 and the most that peers are
asked. Times of this machine are of both sides of an update together; everything else is virtual, and repeats itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from harness import Options, Report, percentile, quiet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.sim_cluster import ClusterPlan, SimCluster, Tally, prompts_of
from support.traces import CONVERSATION, MADE

from penstock.actors.cli.traces import TraceFormat, read_trace

PROMPT_CHUNKS_MAX = 256


def main() -> None:
    given = _arguments()
    trace = CONVERSATION if CONVERSATION.exists() else MADE
    blocks = [(one.scope, one.blocks) for one in read_trace(trace, TraceFormat.AUTO)]
    plan = ClusterPlan(nodes=given.nodes, requests=given.requests, chunks_max=given.chunks)
    count = plan.nodes * plan.requests
    prompts = prompts_of(blocks, count, chunks_max=PROMPT_CHUNKS_MAX)
    with quiet():
        began_s = time.process_time()
        cluster = SimCluster(plan)
        tally = cluster.run(prompts)
        ran_s = time.process_time() - began_s
    report = Report("scaling")
    report.add("nodes", plan.nodes, unit="")
    report.add("requests", tally.lookups, unit="")
    report.add("simulated_in_s", ran_s, unit="s")
    add_hit_rows(report, tally)
    add_lookup_rows(report, tally)
    add_traffic_rows(report, cluster)
    add_memory_rows(report, cluster)
    report.finish(Options(json_path=given.json, rounds=1))


def add_hit_rows(report: Report, tally: Tally) -> None:
    report.add("local_hit_percent", 100 * tally.local_chunks / tally.chunks, unit="%")
    report.add("peer_hit_percent", 100 * tally.remote_chunks / tally.chunks, unit="%")
    report.add("peer_hit_singly_percent", 100 * tally.single_chunks / tally.chunks, unit="%")


def add_lookup_rows(report: Report, tally: Tally) -> None:
    """`say_yes`: peers for each first missing chunk. `wrong`: the one that promised most had not even that."""
    asked = tally.asked
    report.add("say_yes_mean", sum(asked) / len(asked), unit="peers")
    report.add("say_yes_p99", percentile(asked, 99), unit="peers")
    report.add("wrong_percent", 100 * tally.wrong / len(asked), unit="%")
    report.add(
        "wrong_of_several_chunks_percent",
        100 * (tally.wrong - tally.wrong_single) / len(asked),
        unit="%",
    )
    report.add("wrong_of_gone", tally.wrong_of_gone, unit="lookups")


def add_traffic_rows(report: Report, cluster: SimCluster) -> None:
    tally, plan = cluster.tally, cluster.plan
    node_seconds = plan.nodes * plan.requests / plan.rate
    report.add("out_bytes_node_s", tally.update_bytes / node_seconds, unit="B/s")
    report.add("out_updates_node_s", tally.updates / node_seconds, unit="1/s")
    report.add("snapshots_percent", 100 * tally.snapshot_bytes / tally.update_bytes, unit="%")
    report.add("update_us", 1e6 * tally.hear_s / tally.updates, unit="us")
    report.add("resyncs", tally.resyncs, unit="")
    report.add("pairs_agree", cluster.check(), unit="pairs")
    report.add("agree_after_restart_s", tally.linked_again_s, unit="s")


def add_memory_rows(report: Report, cluster: SimCluster) -> None:
    nodes = cluster.nodes.values()
    keys = sum(node.own.keys for node in nodes)
    report.add("own_bytes_chunk", sum(one.own.summary_bytes for one in nodes) / keys, unit="B")
    report.add("peers_bytes_node", sum(one.peers.bytes for one in nodes) / len(nodes), unit="B")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers here")
    parser.add_argument("--nodes", metavar="N", type=int, default=100)
    parser.add_argument("--requests", metavar="N", type=int, default=1000, help="of each node")
    parser.add_argument("--chunks", metavar="N", type=int, default=4096, help="in each node's L1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
