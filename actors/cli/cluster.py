"""`penstock cluster`: how all nodes are, which of them have a prompt, and its removal from them. One node is asked, and
asks the others over its links.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.operate import add_address, call, plain
from penstock.actors.cli.prompt_file import PromptKeys, read_prompt
from penstock.actors.cli.table import table
from penstock.protos import control_pb2, control_pb2_grpc, fleet_pb2
from penstock.runtime.errors import ConfigError
from penstock.runtime.units import ByteSize

_SERVING = "serving"
FOR_S_MAX = 1e9  # the node has a smaller bound of its own


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("cluster", help="how all nodes are, and who has a prompt")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    status = verbs.add_parser("status", help="the links of a node to all others")
    status.add_argument("--all", action="store_true", help="and what each node says of itself")
    where = verbs.add_parser("where", help="how much of a prompt each node has in memory")
    evict = verbs.add_parser("evict", help="remove a prompt from the memory of nodes")
    pin = verbs.add_parser("pin", help="have a node fetch a prompt and hold it in memory")
    pin.add_argument("--node", required=True, metavar="ID", help="that is to hold it")
    pin.add_argument(
        "--for",
        type=float,
        default=600.0,
        dest="for_s",
        metavar="SECONDS",
        help="(600; 0: no more)",
    )
    quota = verbs.add_parser("quota", help="bound what a tenant holds in memory, until nodes end")
    quota.add_argument("salt", help="of the tenant; '' for prompts without one")
    quota.add_argument("bytes", help="such as 64GiB; 0B for none")
    for one in (evict, quota):
        one.add_argument(
            "--node", action="append", default=[], metavar="ID", help="only there; may be repeated"
        )
    for one in (where, evict, pin):
        one.add_argument(
            "prompt",
            metavar="FILE",
            type=Path,
            help="a key record, as for `penstock doctor keys`; or keys in hexadecimal, one a line",
        )
        one.add_argument("--namespace", default="", metavar="HEX", help="its digest, with keys")
    for one in (status, where, evict, pin, quota):
        add_address(one)
        one.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Exit status 0: all that was asked for was told; 1: some node is away, is not well, or still has the prompt."""
    match args.verb:
        case "status":
            return _status(args)
        case "where":
            return _where(args, read_prompt(args.prompt, namespace=args.namespace))
        case "quota":
            return _quota(args)
        case "pin":
            return _pin(args, read_prompt(args.prompt, namespace=args.namespace))
        case _:
            return _evict(args, read_prompt(args.prompt, namespace=args.namespace))


def _status(args: argparse.Namespace) -> int:
    links = call(
        args, lambda c: control_pb2_grpc.ControlStub(c).Cluster, control_pb2.ClusterRequest()
    )
    nodes = control_pb2.NodesReply()
    if args.all:
        nodes = call(
            args, lambda c: control_pb2_grpc.ControlStub(c).Nodes, control_pb2.NodesRequest()
        )
    if args.json:
        told = {"links": plain(links), **({"nodes": plain(nodes)["nodes"]} if args.all else {})}
        print(json.dumps(told, indent=2))
    elif not links.node_id:
        print("the node stands alone: it has no `cluster`")
    else:
        print("\n".join(link_lines(links)))
        if args.all:
            print("\n" + "\n".join(node_lines(nodes.nodes)))
    return int(not is_well(links, nodes.nodes))


def is_well(links: control_pb2.ClusterReply, nodes: Sequence[control_pb2.NodeReport]) -> bool:
    """Everybody is linked, and serves as far as it was asked."""
    if links.degraded or not all(one.linked for one in links.peers):
        return False
    return all(one.description.health == _SERVING for one in nodes)


def link_lines(links: control_pb2.ClusterReply) -> list[str]:
    linked = sum([one.linked for one in links.peers])
    lines = [f"{links.node_id}: linked to {linked} of {len(links.peers)} peers"]
    if links.degraded:
        lines.append(f"degraded: membership: {links.degraded}")
    head = ("node", "address", "link", "for", "channel", "epoch", "chunks", "summary", "in", "out")
    return lines + table([head, *[_link_row(one) for one in links.peers]]) + _away(links.peers)


def _link_row(one: control_pb2.ClusterPeer) -> tuple[str, ...]:
    return (
        one.node_id,
        one.address,
        "up" if one.linked else "away",
        _span(one.linked_ms / 1000) if one.linked else "-",
        one.channel or "-",
        one.epoch.hex()[:8] or "-",
        f"{one.chunks:,d}" if one.known else "?",
        str(ByteSize(one.summary_bytes)),
        str(ByteSize(one.bytes_in)),
        str(ByteSize(one.bytes_out)),
    )


def _away(peers: Sequence[control_pb2.ClusterPeer]) -> list[str]:
    return [f"{one.node_id} is away: {one.detail}" for one in peers if not one.linked]


def node_lines(nodes: Sequence[control_pb2.NodeReport]) -> list[str]:
    head = ("node", "health", "version", "resident", "of", "chunks", "hit", "pushes out", "in")
    asked = [one for one in nodes if not one.problem]
    lines = table([head, *[_node_row(one.node_id, one.description) for one in asked]])
    lines += [f"{one.node_id}: {one.description.detail}" for one in asked if one.description.detail]
    return lines + _problems(nodes)


def _node_row(node_id: str, told: fleet_pb2.NodeDescription) -> tuple[str, ...]:
    rate = f"{100 * told.hit_chunks / told.lookup_chunks:.1f} %" if told.lookup_chunks else "-"
    return (
        node_id,
        told.health,
        told.version,
        str(ByteSize(told.resident_bytes)),
        str(ByteSize(told.arena_bytes)),
        f"{told.chunks:,d}",
        rate,
        str(told.pushes_out),
        str(told.pushes_in),
    )


def _where(args: argparse.Namespace, prompt: PromptKeys) -> int:
    request = control_pb2.WhereRequest(prompt=_chunks(prompt))
    reply = call(args, lambda c: control_pb2_grpc.ControlStub(c).Where, request)
    if args.json:
        print(json.dumps({"total_chunks": prompt.chunks, **plain(reply)}, indent=2))
    else:
        print("\n".join(where_lines(reply, prompt.chunks)))
    return int(any(one.problem for one in reply.nodes))


def where_lines(reply: control_pb2.WhereReply, total: int) -> list[str]:
    head = ("node", "in memory", "as the asked node was told")
    rows = [
        (one.node_id, _held(one.held), str(one.promised_chunks) if at else "-")
        for at, one in enumerate(reply.nodes)
        if not one.problem
    ]
    return [f"{total} chunks", *table([head, *rows]), *_problems(reply.nodes)]


def _held(held: fleet_pb2.ChunksHeld) -> str:
    return str(held.hit_chunks) if held.known else "0, the namespace is not known there"


def _evict(args: argparse.Namespace, prompt: PromptKeys) -> int:
    request = control_pb2.EvictRequest(prompt=_chunks(prompt), node_ids=args.node)
    reply = call(args, lambda c: control_pb2_grpc.ControlStub(c).Evict, request)
    if args.json:
        print(json.dumps(plain(reply), indent=2))
    else:
        print("\n".join(evict_lines(reply)))
    return int(any(one.problem or one.evicted.left_chunks for one in reply.nodes))


def evict_lines(reply: control_pb2.EvictReply) -> list[str]:
    head = ("node", "chunks evicted", "bytes", "chunks still held")
    rows = [
        (
            one.node_id,
            str(one.evicted.chunks),
            f"{one.evicted.bytes:,d}",
            str(one.evicted.left_chunks),
        )
        for one in reply.nodes
        if not one.problem
    ]
    return [*table([head, *rows]), *_problems(reply.nodes)]


def _pin(args: argparse.Namespace, prompt: PromptKeys) -> int:
    milliseconds = _for_ms(args.for_s)
    pinned = fleet_pb2.PinChunksRequest(
        prompt=_chunks(prompt), salt=prompt.salt, for_ms=milliseconds
    )
    request = control_pb2.PinRequest(prompt=pinned, node_id=args.node)
    told = call(args, lambda c: control_pb2_grpc.ControlStub(c).Pin, request).pinned
    if args.json:
        print(json.dumps({"total_chunks": prompt.chunks, **plain(told)}, indent=2))
    else:
        print(pin_line(told, prompt.chunks, milliseconds))
    return int(bool(milliseconds) and not (told.known and told.promised_chunks == prompt.chunks))


def pin_line(told: fleet_pb2.ChunksPinned, total: int, milliseconds: int) -> str:
    if not told.known:
        return "nothing: the namespace is not known there, as no engine has declared it"
    if not milliseconds:
        return "let go"
    left = told.promised_chunks - told.hit_chunks
    return f"{told.hit_chunks} of {total} chunks are held, {left} more are being looked for"


def _quota(args: argparse.Namespace) -> int:
    quota = fleet_pb2.TenantQuota(salt=args.salt.encode(), bytes=ByteSize.from_config(args.bytes))
    request = control_pb2.SetQuotaRequest(quota=quota, node_ids=args.node)
    reply = call(args, lambda c: control_pb2_grpc.ControlStub(c).SetQuota, request)
    if args.json:
        print(json.dumps(plain(reply), indent=2))
    else:
        print("\n".join(quota_lines(reply)))
    return int(any(one.problem for one in reply.nodes))


def quota_lines(reply: control_pb2.SetQuotaReply) -> list[str]:
    rows = [(one.node_id, f"{one.held.bytes:,d}") for one in reply.nodes if not one.problem]
    return [*table([("node", "bytes held now"), *rows]), *_problems(reply.nodes)]


def _for_ms(seconds: float) -> int:
    """Raises ConfigError."""
    if not 0 <= seconds <= FOR_S_MAX:
        raise ConfigError("--for", f"0 to {FOR_S_MAX:.0f} seconds")
    return int(seconds * 1000)


def _problems(
    nodes: Sequence[
        control_pb2.NodeReport
        | control_pb2.NodeHolding
        | control_pb2.NodeEvicted
        | control_pb2.NodeQuota
    ],
) -> list[str]:
    return [f"{one.node_id}: {one.problem}" for one in nodes if one.problem]


def _chunks(prompt: PromptKeys) -> fleet_pb2.ChunksRequest:
    return fleet_pb2.ChunksRequest(namespace_digest=prompt.namespace, chunk_keys=prompt.keys)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
