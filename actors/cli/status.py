"""`penstock status`: health and numbers of a running node."""

from __future__ import annotations

import argparse
import json

from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.operate import add_address, call, plain
from penstock.protos import control_pb2, control_pb2_grpc, engine_pb2, engine_pb2_grpc
from penstock.runtime.units import ByteSize

_SERVING = engine_pb2.HEALTH_STATE_SERVING


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("status", help="health and numbers of a running node")
    add_address(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--metrics", action="store_true", help="print the Prometheus metrics")


def run(args: argparse.Namespace) -> int:
    """Exit status 0: serving; 1: reachable but not serving as it should."""
    if args.metrics:
        metrics = call(
            args, lambda c: control_pb2_grpc.ControlStub(c).Metrics, control_pb2.MetricsRequest()
        )
        print(metrics.text, end="")
        return 0
    health = call(args, lambda c: engine_pb2_grpc.EngineStub(c).Health, engine_pb2.HealthRequest())
    stat = call(args, lambda c: engine_pb2_grpc.EngineStub(c).Stat, engine_pb2.StatRequest())
    cluster = call(
        args, lambda c: control_pb2_grpc.ControlStub(c).Cluster, control_pb2.ClusterRequest()
    )
    if args.json:
        told = {"health": health, "stat": stat, "cluster": cluster}
        print(json.dumps({name: plain(one) for name, one in told.items()}, indent=2))
    else:
        _print(health, stat)
        _print_cluster(cluster)
    return 0 if health.state == _SERVING else 1


def _print(health: engine_pb2.HealthReply, stat: engine_pb2.StatReply) -> None:
    print(f"node      {_word(health.state)}   epoch {stat.epoch.hex()}")
    for part in health.parts:
        restarts = f", {part.restarts} restarts" if part.restarts else ""
        print(f"  {part.name:<20} {_word(part.state)}{restarts} {part.detail}".rstrip())
    print(f"arena     {ByteSize(stat.arena_bytes)}")
    for state in ("free", "reserved", "loaded", "resident", "quarantined", "pinned"):
        taken = getattr(stat, f"{state}_bytes")
        print(f"  {state:<20} {taken:>16,d} bytes {100 * taken / stat.arena_bytes:5.1f} %")
    if stat.pd_bytes:
        print(f"pushed    {ByteSize(stat.pd_bytes)}")
        for state in ("free", "reserved", "loaded", "quarantined"):
            taken = getattr(stat, f"pd_{state}_bytes")
            print(f"  {state:<20} {taken:>16,d} bytes {100 * taken / stat.pd_bytes:5.1f} %")
    print(f"sessions  {stat.sessions}   leases {stat.leases} ({stat.overdue_leases} overdue)"
          f"   tickets {stat.tickets}")  # fmt: skip
    rate = 100 * stat.hit_chunks / stat.lookup_chunks if stat.lookup_chunks else 0.0
    print(
        f"lookups   {stat.lookups}: {stat.hit_chunks} of {stat.lookup_chunks} chunks hit ({rate:.1f} %)"
    )
    for store in stat.stores:
        _print_store(store)
    print(f"evicted   {stat.evicted_chunks} chunks   damaged {stat.damaged_objects} objects")


def _print_store(store: engine_pb2.StoreStat) -> None:
    state = engine_pb2.StoreState.Name(store.state).removeprefix("STORE_STATE_").lower()
    of = f" of {ByteSize(store.capacity_bytes)}" if store.capacity_bytes else ""
    waiting = f"{store.loads_waiting} loads and {store.saves_waiting} saves wait"
    print(
        f"store     {store.name:<20} {state:<10} {store.objects} objects,"
        f" {store.used_bytes:,d} bytes{of}; {waiting}"
    )
    if store.detail:
        print(f"  {store.detail}")


def _print_cluster(cluster: control_pb2.ClusterReply) -> None:
    """Nothing, for a node that stands alone."""
    if not cluster.node_id:
        return
    linked = sum(one.linked for one in cluster.peers)
    print(f"cluster   {cluster.node_id}: linked to {linked} of {len(cluster.peers)} peers")
    if cluster.degraded:
        print(f"  degraded: membership: {cluster.degraded}")
    for one in cluster.peers:
        state = f"linked by {one.channel}" if one.linked else "away"
        chunks = f"{one.chunks:,d} chunks" if one.known else "chunks not known yet"
        moved = f"{one.bytes_in:,d} bytes in, {one.bytes_out:,d} out"
        print(f"  {one.node_id:<20} {one.address:<22} {state:<15} {chunks}; {moved}")
        if one.detail:
            print(f"    {one.detail}")


def _word(state: engine_pb2.HealthState.ValueType) -> str:
    return engine_pb2.HealthState.Name(state).removeprefix("HEALTH_STATE_").lower()
