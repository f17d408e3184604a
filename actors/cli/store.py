"""`penstock store check module:Class`: the checks that our own stores have to pass, over one of yours; and
`penstock store arena`, see `store_arena.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import anyio
import yaml

from penstock.actors.api.types import Epoch
from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.store_arena import add_arena_parser, run_arena
from penstock.actors.stores.checking import CHECKS, Check, Subject
from penstock.actors.stores.plugin import PluginConfig, find_plugin, open_plugin
from penstock.actors.stores.store import Store, StoreContext, StoreFault
from penstock.runtime.errors import ConfigError
from penstock.runtime.units import MIB

NAME = "checked"


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("store", help="check a store of your own, operate one")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_arena_parser(verbs)
    check = verbs.add_parser(
        "check",
        help="run the checks that every store has to pass",
        description="Opens the store again and again, over the same medium, which should be empty and used by"
        " nobody else: what is saved there is deleted.",
    )
    check.add_argument("plugin", metavar="MODULE:CLASS")
    check.add_argument("--options", type=Path, metavar="FILE", help="YAML, read by its Config")
    check.add_argument(
        "--volatile", action="store_true", help="what it holds need not survive being closed"
    )
    check.add_argument(
        "--object-max", type=int, default=32, metavar="MIB", help="of the largest object, in MiB"
    )
    check.add_argument(
        "--within", type=float, default=60.0, metavar="SECONDS", help="for each of the checks"
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 0: it passed every check; 1: it did not."""
    if args.verb == "arena":
        return run_arena(args)
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the class need not be installed
    find_plugin(args.plugin, key=args.plugin)
    options = _read_options(args.options)
    config = PluginConfig(name=NAME, plugin=args.plugin, options=options)

    async def open_it() -> Store:
        return await open_plugin(config, StoreContext(NAME, Epoch(os.urandom(16))))

    subject = Subject(open_it, not args.volatile, args.object_max * MIB)
    wrong = [check for check in CHECKS if not _passes(check, subject, args.within)]
    print(f"{len(CHECKS) - len(wrong)} of {len(CHECKS)} checks passed")
    return 1 if wrong else 0


def _passes(check: Check, subject: Subject, within_s: float) -> bool:
    async def bounded() -> None:
        with anyio.fail_after(within_s):
            await check(subject)

    name = check.__name__.replace("_", " ")
    try:
        anyio.run(bounded)
    except (AssertionError, StoreFault, TimeoutError, ExceptionGroup) as failure:
        print(f"FAILED  it {name}: {_said(failure)}")
        return False
    print(f"ok      it {name}")
    return True


def _said(failure: BaseException) -> str:
    if isinstance(failure, BaseExceptionGroup):
        return "; ".join(_said(one) for one in failure.exceptions)
    return str(failure) or type(failure).__name__


def _read_options(path: Path | None) -> dict[str, object]:
    """Raises ConfigError."""
    if path is None:
        return {}
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise ConfigError("--options", f"{path}: {problem}") from problem
    if not isinstance(options, dict):
        raise ConfigError("--options", f"{path} must hold keys and values")
    return options
