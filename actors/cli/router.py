"""`penstock router`: an OpenAI-compatible HTTP router in front of engines, for tests and small clusters."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import signal
import sys
from pathlib import Path

import anyio

from penstock.actors.cli.main import Subparsers
from penstock.actors.cli.serve import read_overrides
from penstock.actors.router.config import RouterConfig
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError
from penstock.runtime.log import JsonFormatter, TextFormatter, write_logs


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("router", help="send HTTP requests to the engine that fits best")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML; see docs/ROUTER.md")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, as in --set listen=127.0.0.1:8001 (may be repeated)",
    )
    parser.add_argument("--log-json", action="store_true", help="log one JSON object per line")


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigError("", "a router needs aiohttp: pip install 'penstock[router]'")
    formatter = JsonFormatter() if args.log_json else TextFormatter()
    write_logs(sys.stderr, level=logging.INFO, formatter=formatter)
    config = load_config(
        RouterConfig,
        args.config,
        overrides=read_overrides(args.set),
        overridden_by="the command line",
    )
    anyio.run(_route, config)
    return 0


async def _route(config: RouterConfig) -> None:
    from penstock.actors.router.server import routing

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with routing(config) as address:
            print(f"routing on {address.target()}", flush=True)
            async for _ in signals:
                return
