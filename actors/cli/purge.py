"""`penstock purge`: remove every chunk that nobody reads or writes from a node's host memory."""

from __future__ import annotations

import argparse

from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.operate import add_address, call
from penstock.protos import control_pb2, control_pb2_grpc


def add_parser(subparsers: Subparsers) -> None:
    add_address(subparsers.add_parser("purge", help="empty a node's host memory"))


def run(args: argparse.Namespace) -> int:
    reply = call(
        args,
        lambda channel: control_pb2_grpc.ControlStub(channel).Purge,
        control_pb2.PurgeRequest(),
    )
    print(f"removed {reply.chunks} chunks, {reply.bytes} bytes")
    return 0
