"""`penstock serve`: run a node until it is told to stop (SIGTERM drains first, a second signal does not wait)."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from penstock.actors.cli.main import Subparsers
from penstock.actors.config import NodeConfig
from penstock.actors.node import Node
from penstock.runtime.config import load_config, read_scalar
from penstock.runtime.errors import ConfigError
from penstock.runtime.log import JsonFormatter, Log, TextFormatter, write_logs
from penstock.runtime.slow_steps import SlowSteps
from penstock.runtime.watchdog import STEP_MS_MAX, Watchdog


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("serve", help="run a node")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML; see docs/OPERATIONS.md")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, as in --set l1.bytes=8GiB (may be repeated)",
    )
    parser.add_argument("--log-json", action="store_true", help="log one JSON object per line")
    parser.add_argument(
        "--ready-fd", type=int, metavar="FD", help="write the address there when ready"
    )


def run(args: argparse.Namespace) -> int:
    formatter = JsonFormatter() if args.log_json else TextFormatter()
    write_logs(sys.stderr, level=logging.INFO, formatter=formatter)
    _check_open(args.ready_fd)
    config = load_config(
        NodeConfig,
        args.config,
        env=os.environ,
        overrides=read_overrides(args.set),
        overridden_by="the command line",
    )
    _take_descriptors()
    anyio.run(_serve, config, args.ready_fd)
    return 0


def _check_open(ready_fd: int | None) -> None:
    """Raises ConfigError: there is nobody to tell that the node is ready."""
    if ready_fd is None:
        return
    try:
        os.fstat(ready_fd)
    except (OSError, OverflowError):
        problem = f"{ready_fd} is no open descriptor: pass on that of a pipe, or leave it out"
        raise ConfigError("--ready-fd", problem) from None


def _take_descriptors() -> None:
    """Every engine process costs some: take as many as this process may have."""
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


async def _serve(config: NodeConfig, ready_fd: int | None) -> None:
    async with Node.run(config) as node, anyio.create_task_group() as tasks:
        watchdog = _watchdog(node)
        gc.collect()
        gc.freeze()  # what a started node holds is not garbage: collections stay short
        if ready_fd is not None:
            _tell_ready(ready_fd, node.address)
        tasks.start_soon(_obey_signals, node)
        with watchdog.watching():
            await node.wait_stopping()
        tasks.cancel_scope.cancel()


def _watchdog(node: Node) -> Watchdog:
    counter = node.telemetry.counter(
        "loop_slow_steps", f"Steps of the event loop that took longer than {STEP_MS_MAX:g} ms."
    )
    told = SlowSteps(counter, Log("loop"), clock=time.monotonic)
    return Watchdog(clock=time.perf_counter, on_slow=told)


async def _obey_signals(node: Node) -> None:
    """SIGTERM and SIGINT: drain, then stop. The second one stops at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            async for _ in signals:
                if node.is_draining:
                    node.stop()
                    return
                tasks.start_soon(_drain, node)


async def _drain(node: Node) -> None:
    await node.drain(within=node.config.drain)


def _tell_ready(fd: int, address: str) -> None:
    with os.fdopen(fd, "w") as pipe:
        pipe.write(address + "\n")


def read_overrides(given: Sequence[str]) -> dict[str, object]:
    """Raises ConfigError for a key that is set twice: which of the two was meant, nobody can know."""
    overrides: dict[str, object] = {}
    for key, value in map(_override, given):
        if key in overrides:
            raise ConfigError(key, "--set gives it twice: keep one of them")
        overrides[key] = value
    return overrides


def _override(text: str) -> tuple[str, object]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(text, "write --set key=value, as in --set l1.bytes=8GiB")
    return key, read_scalar(f"--set {key}", value)
