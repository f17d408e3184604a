"""`penstock certs`: an authority for nodes and one for engines, and certificates of both.

    penstock certs authority pki
    penstock certs node pki a --host 10.0.0.1
    penstock certs engine pki worker-1
    penstock certs node pki a --host 10.0.0.1 --renew

For tests and small clusters. Where there is an authority already, use that: docs/SECURITY.md says what it is to put
into a certificate.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.actors.cli.main import Subparsers
from penstock.runtime.errors import ConfigError
from penstock.runtime.membership_config import check_node_id

if TYPE_CHECKING:
    from penstock.actors.cli.certificate_files import Pair

AUTHORITY_DAYS = 3650
NODE_DAYS = 90
NODES, ENGINES = "nodes-ca", "engines-ca"
DAYS_MAX = 36500


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("certs", help="make certificates for nodes and engines")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    authority = kinds.add_parser(
        "authority", help="make an authority for nodes and one for engines"
    )
    authority.add_argument("directory", type=Path, metavar="DIR")
    _add_days(authority, AUTHORITY_DAYS)
    for kind, default, words in (
        ("node", "cluster.node_id", "of its authority for nodes"),
        ("engine", "a name of your own", "of its authority for engines"),
    ):
        one = kinds.add_parser(kind, help=f"make a certificate of one {kind}")
        one.add_argument("directory", type=Path, metavar="DIR", help=f"the place {words}")
        one.add_argument("name", metavar="NAME", help=default)
        if kind == "node":
            one.add_argument(
                "--host",
                action="append",
                default=[],
                metavar="HOST",
                help="a name or address by which engines reach it over TCP; may be repeated",
            )
        one.add_argument("--renew", action="store_true", help="replace the one that is there")
        _add_days(one, NODE_DAYS)


def _add_days(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--days", type=int, default=default, help=f"its life (default: {default})")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError."""
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("", "certs needs the package cryptography: pip install 'penstock[certs]'")
    if not 1 <= args.days <= DAYS_MAX:
        raise ConfigError("--days", f"must be 1 to {DAYS_MAX}, not {args.days}")
    if args.kind == "authority":
        return _authorities(args)
    return _one(args)


def _authorities(args: argparse.Namespace) -> int:
    from penstock.actors.cli.certificate_files import check_absent, make_authority, pair_in

    pairs = {pair_in(args.directory, NODES): "nodes", pair_in(args.directory, ENGINES): "engines"}
    for pair in pairs:
        check_absent(pair)
    for pair, whose in pairs.items():
        make_authority(pair, f"Penstock {whose}", args.days)
        print(f"{pair.certificate}  the authority of {whose}; keep {pair.key} away from all nodes")
    return 0


def _one(args: argparse.Namespace) -> int:
    from penstock.actors.cli.certificate_files import check_absent, issue, pair_in

    is_node = args.kind == "node"
    try:
        check_node_id("NAME", args.name)
    except ValueError as refusal:
        raise ConfigError("", str(refusal)) from None
    pair = pair_in(args.directory / ("nodes" if is_node else "engines"), args.name)
    if not args.renew:
        check_absent(pair)
    authority = pair_in(args.directory, NODES if is_node else ENGINES)
    names = [args.name, *(args.host if is_node else ())]
    made = issue(pair, authority, names=names, serves=is_node, days=args.days)
    print(
        f"{pair.certificate}  {', '.join(names)}; until {made.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    )
    if is_node:
        print(_settings(pair, authority))
    return 0


def _settings(pair: Pair, authority: Pair) -> str:
    return "\n".join(
        (
            "cluster:",
            f"  node_id: {pair.key.stem}",
            f"  tls_certificate: {pair.certificate.absolute()}",
            f"  tls_key: {pair.key.absolute()}",
            f"  tls_ca: {authority.certificate.absolute()}",
        )
    )
