"""`penstock store arena list|add|drain|remove`: the parts of a dax store's medium, while the node works."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.operate import add_address, call
from penstock.protos import control_pb2, control_pb2_grpc
from penstock.runtime.units import ByteSize

Method = Callable[[control_pb2_grpc.ControlStub], Callable[..., control_pb2.ArenasReply]]

METHODS: dict[str, Method] = {
    "list": lambda stub: stub.Arenas,
    "add": lambda stub: stub.AddArena,
    "drain": lambda stub: stub.DrainArena,
    "remove": lambda stub: stub.RemoveArena,
}


def add_arena_parser(verbs: Subparsers) -> None:
    arena = verbs.add_parser("arena", help="the files or devices that a dax store of a node is on")
    steps = arena.add_subparsers(dest="step", required=True, metavar="STEP")
    for step, text in (
        ("list", "what there is"),
        ("add", "keep objects there, too, until the node ends"),
        ("drain", "move its objects to the others; what they have no room for is evicted"),
        ("remove", "let go of one that was drained; its file stays"),
    ):
        parser = steps.add_parser(step, help=text)
        parser.add_argument("store", help="its configured name")
        if step != "list":
            parser.add_argument("path", type=Path, help="of the file or device")
        if step == "add":
            parser.add_argument(
                "--bytes", default="0", help="of a file that is not there yet, such as 64GiB"
            )
        parser.add_argument("--within", type=float, default=600.0, metavar="SECONDS")
        add_address(parser)


def run_arena(args: argparse.Namespace) -> int:
    def method(channel: grpc.Channel) -> Callable[..., control_pb2.ArenasReply]:
        return METHODS[args.step](control_pb2_grpc.ControlStub(channel))

    for one in call(args, method, _request(args), within=args.within).arenas:
        state = "draining" if one.draining else "open"
        print(f"{one.path}  {one.taken} of {one.slots} slots taken, {state}")
    return 0


def _request(args: argparse.Namespace) -> Any:
    if args.step == "list":
        return control_pb2.ArenasRequest(store=args.store)
    path = str(args.path.absolute())
    if args.step != "add":
        return control_pb2.ArenaRequest(store=args.store, path=path)
    size = ByteSize.from_config(args.bytes)
    return control_pb2.AddArenaRequest(store=args.store, path=path, size_bytes=size)
