"""`penstock drain`: let a node's engines finish, then stop it."""

from __future__ import annotations

import argparse

from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.operate import add_address, call
from penstock.protos import control_pb2, control_pb2_grpc


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("drain", help="let a node's engines finish, then stop it")
    add_address(parser)
    parser.add_argument(
        "--within", type=float, default=30.0, metavar="SECONDS", help="(default 30)"
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 0: nobody was left; 1: somebody was cut off."""
    request = control_pb2.DrainRequest(within_ms=max(1, int(args.within * 1000)))
    reply = call(
        args,
        lambda channel: control_pb2_grpc.ControlStub(channel).Drain,
        request,
        within=args.within + 10,
    )
    print(f"stopped, {reply.sessions_left} sessions were left")
    return 0 if reply.sessions_left == 0 else 1
