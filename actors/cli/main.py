"""The `penstock` command. One file per subcommand; each is imported only when it is the one that runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from penstock import __version__
from penstock.runtime.errors import PenstockError

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    module: str  # has add_parser(subparsers) and run(args) -> int
    help_text: str


COMMANDS = (
    Command("serve", "penstock.actors.cli.serve", "run a node"),
    Command("status", "penstock.actors.cli.status", "health and numbers of a running node"),
    Command("drain", "penstock.actors.cli.drain", "let a node's engines finish, then stop it"),
    Command("purge", "penstock.actors.cli.purge", "empty a node's host memory"),
    Command("cluster", "penstock.actors.cli.cluster", "how all nodes are, and who has a prompt"),
    Command("demo", "penstock.actors.cli.demo", "serve real documents with and without the cache"),
    Command("replay", "penstock.actors.cli.replay", "drive a node with a recorded request trace"),
    Command("simulate", "penstock.actors.cli.simulate", "compare eviction policies on a trace"),
    Command("store", "penstock.actors.cli.store", "check a store of your own, operate one"),
    Command(
        "router", "penstock.actors.cli.router", "send HTTP requests to the engine that fits best"
    ),
    Command("certs", "penstock.actors.cli.certs", "make certificates for nodes and engines"),
    Command("doctor", "penstock.actors.cli.doctor", "say why there were no hits"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit status. A refusal is one sentence on standard error."""
    # gRPC writes a line to stderr for each handshake that fails: any port scan could fill a log. It reads this once,
    # when it is loaded. What fails is told by our own log, once, and counted.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="penstock", description="A KV-cache runtime for LLM serving."
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), None)
    for command in COMMANDS:
        if command.name == chosen:
            importlib.import_module(command.module).add_parser(subparsers)
        else:
            subparsers.add_parser(command.name, help=command.help_text)
    args = parser.parse_args(words)
    command = next(one for one in COMMANDS if one.name == args.command)
    try:
        return int(importlib.import_module(command.module).run(args))
    except PenstockError as refusal:
        print(f"penstock: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
